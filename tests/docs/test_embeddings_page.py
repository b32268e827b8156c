"""The commands of the page about embeddings run, one after the other, on a folder of texts."""

import re
import shlex

import numpy as np
import pyarrow.parquet
import pytest
from test_docs_examples import DOCS

from flax_bigbird.cli.main import main


@pytest.mark.slow
def test_the_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for name, text in {"a": "The war is over. We have peace.", "b": "Trade grows."}.items():
        (tmp_path / "texts" / f"{name}.txt").write_text(text)
    page = (DOCS / "embeddings.md").read_text("utf-8")
    commands = re.findall(
        r"^bigbird (.*)$", "\n".join(re.findall(r"```sh\n(.*?)```", page, re.S)), re.M
    )
    assert len(commands) == 4
    for command in commands:
        assert main(shlex.split(command)) == 0, command
    tables = {path.stem: pyarrow.parquet.read_table(path) for path in tmp_path.glob("*.parquet")}
    assert tables["vectors"]["file"].to_pylist() == ["a.txt", "b.txt"]
    assert tables["chunks"]["document"].to_pylist() == [0, 1]
    assert tables["sentences"]["document"].to_pylist() == [0, 0, 1]
    np.testing.assert_allclose(np.linalg.norm(np.load("vectors.npy"), axis=1), 1, atol=1e-5)
