"""Tokenization prints no progress bars of its own."""

from flax_bigbird.data.encoded_rows import map_cached
from flax_bigbird.data.loading import load_files


def test_no_progress_bar_is_printed(tmp_path, capfd):
    import datasets

    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a cow"}\n' * 70, encoding="utf-8")
    datasets.enable_progress_bars()
    rows = load_files([str(path)])
    map_cached(rows, lambda batch: {"length": [len(t) for t in batch["text"]]}, str(tmp_path))
    assert capfd.readouterr().err == ""
