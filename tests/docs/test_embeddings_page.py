"""The commands of the page about embeddings run, one after the other, on a folder of texts."""

import json
import re
import shlex

import numpy as np
import pyarrow.parquet
import pytest
from test_docs_examples import DOCS
from tiny_runs import write_jsonl

from flax_bigbird.cli.main import main

TEXTS = {
    "a": "The war is over. We have peace.",
    "b": "Trade with the nations of Europe grows in every year.",
    "c": "The tariff is too high. The revenue exceeds the wants of the government.",
}
PASSAGES = [*TEXTS.values(), "The navy needs ships.", "The mint coins silver.", "Peace be with us."]


@pytest.mark.slow
def test_the_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / "texts" / f"{name}.txt").write_text(text)
    pairs = [{"query": f"What about {n}?", "positive": text} for n, text in enumerate(PASSAGES)]
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    write_jsonl(tmp_path / "test.jsonl", pairs)
    labeled = [
        {"query": row["query"], "document": text, "label": int(text == row["positive"])}
        for n, row in enumerate(pairs)
        for text in (PASSAGES[n], PASSAGES[n - 1])
    ]
    write_jsonl(tmp_path / "labeled.jsonl", labeled)
    page = (DOCS / "embeddings.md").read_text("utf-8")
    commands = re.findall(
        r"^bigbird (.*)$", "\n".join(re.findall(r"```sh\n(.*?)```", page, re.S)), re.M
    )
    assert len(commands) == 10
    for command in commands:
        assert main(shlex.split(command)) == 0, command
    tables = {path.stem: pyarrow.parquet.read_table(path) for path in tmp_path.glob("*.parquet")}
    assert tables["vectors"]["file"].to_pylist() == ["a.txt", "b.txt", "c.txt"]
    assert tables["chunks"]["document"].to_pylist() == [0, 1, 2]
    assert tables["sentences"]["document"].to_pylist() == [0, 0, 1, 2, 2]
    np.testing.assert_allclose(np.linalg.norm(np.load("vectors.npy"), axis=1), 1, atol=1e-5)
    trained = np.load("trained.npy")
    np.testing.assert_allclose(np.linalg.norm(trained, axis=1), 1, atol=1e-5)
    assert np.abs(trained - np.load("vectors.npy")).max() > 1e-3
    scores = [
        json.loads(line)["score"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()
    ]
    assert len(scores) == len(labeled)
    for name in ("embedder", "from-texts"):
        assert "ndcg_at_10" in json.loads((tmp_path / name / "report.json").read_text())["metrics"]
