"""The commands of the page about genomes run in their order, on a tiny FASTA file."""

import gzip
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import TINY_MODEL, write_jsonl
from transformers import AutoTokenizer

from flax_bigbird.cli.main import main

PAGE = Path(__file__).parent.parent.parent / "docs" / "genomes.md"
SMALL = TINY_MODEL | {"max_position_embeddings": 128}


def commands() -> list[list[str]]:
    """Returns the commands of the page as lists of words."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for line in "".join(blocks).replace("\\\n", " ").splitlines()]


def shrink(command: list[str]) -> list[str]:
    """Returns a command of the page for a tiny model and a few steps. The last value counts."""
    if command[1] != "train":
        return command
    lengths = {"512": "64", "4096": "128"}
    command = [lengths.get(word, word) for word in command]
    command += ["--max-steps", "2", "--tokens-per-batch", "256", "--min-bucket-length", "64"]
    if "--model" not in command:
        for key, value in SMALL.items():
            command += ["--config-overrides", f"{key}={value}"]
    return command


def write_fasta(path: Path, lengths: list[int], generator: np.random.Generator) -> None:
    letters = np.frombuffer(b"ACGTacgt", np.uint8)
    records = [
        b">contig%d tiny\n%s\n" % (index, generator.choice(letters, length).tobytes())
        for index, length in enumerate(lengths)
    ]
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wb") as stream:
        stream.write(b"".join(records))


@pytest.mark.filterwarnings("ignore::flax_bigbird.checkpoint.CheckpointWarning")
@pytest.mark.slow
def test_the_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    write_fasta(Path("genome.fa.gz"), [300, 200, 400], generator)
    write_fasta(Path("held-out.fa.gz"), [300], generator)
    write_fasta(Path("candidates.fa"), [50, 0, 200], generator)
    for name in ("promoters.jsonl", "promoters-test.jsonl"):
        rows = [
            {
                "text": "".join(generator.choice([*"ACGT"], 60)),
                "label": ("promoter", "other")[n % 2],
            }
            for n in range(20)
        ]
        write_jsonl(Path(name), rows)
    listed = commands()
    assert [command[1] for command in listed] == [
        *("train", "train", "train", "evaluate", "train", "evaluate", "predict")
    ]
    for command in listed:
        assert command[0] == "bigbird"
        assert main(shrink(command)[1:]) == 0, command
    tokenizer = AutoTokenizer.from_pretrained("promoter-classifier", local_files_only=True)
    assert tokenizer.convert_ids_to_tokens(tokenizer("acgT")["input_ids"]) == [
        *("[CLS]", "A", "C", "G", "T", "[SEP]")
    ]
    answers = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == ["contig0", "contig1", "contig2"]
    assert [answer["start"] for answer in answers] == [0, 0, 0]
    assert {answer["label"] for answer in answers} <= {"promoter", "other"}
