"""The cache of encoded rows."""

from typing import Any

import datasets

from flax_bigbird.data import encoded_rows


def test_rows_that_an_earlier_version_encoded_are_encoded_again(tmp_path, monkeypatch):
    """Their key has no trace of the code that encodes them."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(tmp_path / "rows")
    rows: Any = datasets.load_from_disk(str(tmp_path / "rows"))

    def encode(value):
        encoded = encoded_rows.map_cached(rows, lambda batch: {"id": [value] * 2}, "key")
        return encoded["id"][:]

    assert encode(1) == [1, 1]
    assert encode(2) == [1, 1]  # from the cache
    monkeypatch.setattr(encoded_rows, "FORMAT_VERSION", encoded_rows.FORMAT_VERSION + 1)
    assert encode(2) == [2, 2]
