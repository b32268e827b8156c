"""`bigbird embed` from the command line to the files that it writes."""

import numpy as np
import pyarrow.parquet
import pytest
from tiny_checkpoints import Checkpoints, sentence, write_jsonl

from flax_bigbird.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return Checkpoints(tmp_path_factory.mktemp("models"))("FlaxBigBirdForMaskedLM")


@pytest.fixture
def rows(tmp_path) -> str:
    texts = [{"id": f"n{n}", "text": sentence(n, 1 + 7 * (n % 5))} for n in range(10)]
    return write_jsonl(tmp_path / "in.jsonl", texts)


def test_vectors_and_chunks_are_written(model, rows, tmp_path, capsys):
    target = tmp_path / "out.npy"
    options = ["--normalize-embeddings", "--truncate-dim", "8", "--pooling-mode", "cls"]
    assert main(["embed", model, rows, "-o", str(target), *options]) == 0
    assert "10 rows" in capsys.readouterr().out
    vectors = np.load(target)
    assert vectors.shape == (10, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    chunks = tmp_path / "chunks.parquet"
    options = ["--chunk-tokens", "8", "--chunk-overlap", "2", "--keep", "id"]
    assert main(["embed", model, rows, "-o", str(chunks), *options]) == 0
    names = pyarrow.parquet.read_schema(chunks).names
    assert names == ["document", "chunk", "start", "end", "id", "vector"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "add --output FILE.parquet"),
        (["-o", "out.txt"], "output must end in .parquet or .npy; got 'out.txt'"),
        (["-o", "out.npy", "--chunk-tokens", "8"], "need a .parquet file"),
        (["-o", "a.parquet", "--chunk-tokens", "8", "--chunk-sentences"], "sentences or tokens"),
        (["-o", "out.npy", "--truncate-dim", "33"], "at most the 32 dimensions"),
        (["-o", "out.npy", "--stride", "8"], "stride is an option of question-answering; got it"),
        (["-o", "out.npy", "--pooling-mode", "means"], "pooling_mode must be one of mean, cls"),
    ],
)
def test_errors_are_one_line(model, rows, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["embed", model, rows, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_options_of_embed_are_refused_by_predict(model, rows, capsys):
    assert main(["predict", model, rows, "-o", "out.jsonl", "--truncate-dim", "8"]) == 2
    assert (
        "truncate_dim is an option of bigbird embed; got it for bigbird predict"
        in capsys.readouterr().err
    )
