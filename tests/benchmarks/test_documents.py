"""`benchmarks/documents.py` on tiny data sets: every cell once, and the commands of its page."""

import json
import re
import shlex

import numpy as np
import pytest
from tiny_checkpoints import Checkpoints, sentence

import flax_bigbird
from flax_bigbird.cli.main import main
from flax_bigbird.data.windows import covering_windows
from flax_bigbird.train import TrainingArguments

POSITIONS = 128


def write_data(write_parquet) -> None:
    generator = np.random.default_rng(0)
    texts = [sentence(seed, int(generator.integers(30, 150))) for seed in range(20)]
    for n in range(0, 20, 2):
        texts[n] += " meadow meadow meadow"
    labels = ["hyperpartisan" if n % 2 else "mainstream" for n in range(20)]
    pairs = zip(texts, labels, strict=True)
    rows = [{"id": str(n), "text": t, "label": x} for n, (t, x) in enumerate(pairs)]
    write_parquet("hyperpartisan/articles", rows)
    for split, (first, last) in {"train": (0, 5), "validation": (5, 6), "test": (6, 8)}.items():
        books, questions = [], []
        for n in range(first, last):
            tokens = texts[n].split()
            tags = ["B-FAC" if token == "meadow" else "O" for token in tokens]
            books.append({"id": str(n), "tokens": tokens, "tags": tags})
            context = f"{texts[n]}. The barn is red. {texts[n + 1].capitalize()}"
            answers = {"text": [" red"], "answer_start": [context.index("red")]}
            questions += [
                {"id": f"{n}{i}", "article": str(n), "question": "the barn", "context": context}
                | {"answers": answers}
                for i in range(2)
            ]
        write_parquet(f"litbank_entities/{split}", books)
        write_parquet(f"covid_qa/{split}", questions)


@pytest.fixture
def documents(benchmark, monkeypatch):
    """The benchmark, with shorter inputs."""
    module, models = benchmark("documents"), benchmark("document_models")
    for name, value in {
        "WHOLE": POSITIONS,
        "WINDOW": 64,
        "STRIDES": {POSITIONS: 16, 64: 8},
    }.items():
        monkeypatch.setattr(models, name, value)
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(models, "BUCKET_LENGTHS", (64, POSITIONS))
    return module


@pytest.mark.usefixtures("standard_dtype_promotion")  # optax
@pytest.mark.slow
def test_every_cell_is_measured_once(documents, write_parquet, tmp_path, capsys, monkeypatch):
    write_data(write_parquet)
    model = Checkpoints(tmp_path / "models")(
        "FlaxBigBirdForMaskedLM", max_position_embeddings=POSITIONS
    )
    monkeypatch.setattr(documents, "NUM_FOLDS", 1)  # of five, which takes less time
    data, folder = str(tmp_path / "data"), str(tmp_path / "work")
    words = ["--data", data, "--model", model, "--folder", folder, "--quick"]
    documents.main(words)
    assert "movie_reviews is left out" in capsys.readouterr().out
    output = tmp_path / "work/quick/documents.json"
    cells = json.loads(output.read_text())["cells"]
    readings = [f"model, {reading}" for reading in ("whole", "windows", "cut")]
    expected = {
        f"{name}/{method}/{fold}"
        for name, baseline in (
            ("hyperpartisan", "tfidf"),
            ("litbank", "words"),
            ("covid_qa", "bm25"),
        )
        for method in [baseline, *readings]
        for fold in range(1)
    }
    assert set(cells) == expected
    assert all(0 <= cell["f1"] <= 100 for cell in cells.values())
    assert cells["litbank/words/0"]["f1"] == 100  # a word is an entity wherever it is
    assert cells["covid_qa/bm25/0"]["f1"] == pytest.approx(100 * 2 / 4, abs=0.1)
    documents.main(words)
    assert capsys.readouterr().out.count("\n") == 1  # nothing but what is left out
    page = output.with_suffix(".md").read_text()
    assert "## Hyperpartisan news" in page
    assert "Not run with this model: Movie reviews." in page
    assert "(1 of 5)" in page

    # Another model replaces the rows of models, and those of baselines stay.
    results = json.loads(output.read_text())
    results["settings"]["weights"] = "those of another model"
    output.write_text(json.dumps(results))
    documents.main([*words, "--only", "hyperpartisan"])
    printed = capsys.readouterr().out
    assert printed.count("hyperpartisan/model") == 3
    assert "tfidf" not in printed


@pytest.mark.filterwarnings("ignore::flax_bigbird.checkpoint.CheckpointWarning")
def test_features_are_means_over_the_tokens_that_are_read(documents, benchmark, tmp_path):
    models = benchmark("document_models")
    path = Checkpoints(tmp_path / "models")(
        "FlaxBigBirdForMaskedLM", max_position_embeddings=POSITIONS, padding_invariant=True
    )
    texts = [sentence(0, 20), sentence(1, 100), sentence(2, 200)]
    features = models.read_features(path, texts, tmp_path / "features")
    model = flax_bigbird.FlaxBigBirdModel.from_pretrained(path, add_pooling_layer=False)
    tokenizer = models.load_tokenizer(path)

    def mean(windows: list[list[int]]) -> np.ndarray:
        states = [model(np.array([ids])).last_hidden_state[0] for ids in windows]
        return np.concatenate(states).mean(0)

    token_ids = models.tokenize(tokenizer, texts)
    assert len(covering_windows(token_ids[-1], tokenizer, POSITIONS)) > 1
    for index, ids in enumerate(token_ids):
        expected = {
            "whole": mean(covering_windows(ids, tokenizer, POSITIONS)),
            "windows": mean(covering_windows(ids, tokenizer, 64)),
            "cut": mean(covering_windows(ids, tokenizer, 64)[:1]),
        }
        for reading, value in expected.items():
            np.testing.assert_allclose(features[reading][index], value, atol=2e-5)
    repeated = models.read_features("is not opened", texts, tmp_path / "features")
    np.testing.assert_array_equal(repeated["whole"], features["whole"])


def test_a_cut_document_is_the_beginning(documents, benchmark, tmp_path):
    """The context that is read with a question fits into one window, and nearly fills it."""
    models = benchmark("document_models")
    model = Checkpoints(tmp_path)("FlaxBigBirdForMaskedLM", max_position_embeddings=POSITIONS)
    tokenizer = models.load_tokenizer(model)
    context = sentence(0, 100)
    row = {"question": "the cow", "context": context}
    beginning = models._beginning(tokenizer, row)
    assert context.startswith(beginning)
    counts = [len(ids) for ids in models.tokenize(tokenizer, ["the cow", beginning])]
    assert 60 <= sum(counts) + 3 <= 64
    short = {"question": "the cow", "context": "grazes"}
    assert models._beginning(tokenizer, short) == "grazes"


def test_classification_metrics(documents):
    predicted, expected = np.array([1, 1, 0, 0]), np.array([True, False, True, False])
    assert documents.classification_metrics(predicted, expected) == {"f1": 50, "accuracy": 50}
    nothing = documents.classification_metrics(np.zeros(2), np.zeros(2, bool))
    assert nothing == {"f1": 0, "accuracy": 100}


def test_the_commands_for_the_published_model_parse(benchmark, monkeypatch):
    """The command line checks names and values; files and the model are not opened."""
    commands = [
        shlex.split(line)
        for block in benchmark("document_report").COMMANDS.values()
        for line in re.sub(r"\\\n", "", block).splitlines()
    ]
    trained: list[TrainingArguments] = []
    monkeypatch.setattr("flax_bigbird.cli.train.run_training", trained.append)
    for program, action, *words in commands:
        assert program == "bigbird"
        if action == "train":
            assert main([action, *words]) == 0
        else:
            assert action == "evaluate"
            assert words[0] == trained[-1].output_dir
            assert len(words) == 2
    assert [options.task for options in trained] == [
        "sequence-classification",
        "sequence-classification",
        "token-classification",
        "question-answering",
    ]
    assert {options.model for options in trained} == {"google/bigbird-roberta-base"}
    assert {options.max_length for options in trained} == {4096}
