"""The scripts of examples/pretraining: the split of the texts, and the waves of positions."""

import importlib
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def pretraining(monkeypatch):
    """Makes the scripts of `examples/pretraining` importable."""
    monkeypatch.syspath_prepend(EXAMPLES / "pretraining")


@pytest.mark.usefixtures("pretraining")
def test_pretraining_texts_have_the_split_of_the_demo():
    """The shipped model must not have seen the addresses that the demo evaluates on."""
    write_texts = importlib.import_module("write_texts")
    from flax_bigbird.examples.state_of_the_union.speeches import load_speeches, split_by_year

    speeches = load_speeches()
    _, held_out = split_by_year(speeches)
    years = write_texts.held_out_years(speech.year for speech in speeches)
    assert years == {speech.year for speech in held_out}


@pytest.mark.usefixtures("pretraining")
def test_a_new_model_has_sinusoidal_positions(tmp_path):
    """The product of two rows depends on their distance alone, at the scale of other embeddings."""
    from flax_bigbird import FlaxBigBirdForMaskedLM
    from flax_bigbird.pretrained import local_path

    script = importlib.import_module("new_model")
    script.new_model(local_path("bigbird-sotu-mini"), tmp_path / "new", 1, 64)
    model = FlaxBigBirdForMaskedLM.from_pretrained(tmp_path / "new")
    assert (model.config.vocab_size, model.config.initializer_range) == (6000, 0.125)
    embeddings = model.params["bert"]["embeddings"]
    table = np.asarray(embeddings["position_embeddings"]["embedding"], np.float64)
    assert table.shape == (4096, 64)
    for distance in (1, 7, 500):
        products = (table[:-distance] * table[distance:]).sum(1)
        np.testing.assert_allclose(products, products[0], atol=1e-3)
    words = np.asarray(embeddings["word_embeddings"]["embedding"], np.float64)
    np.testing.assert_allclose(table.std(), words.std(), rtol=0.2)
    np.testing.assert_allclose((table**2).mean(), 0.125**2, rtol=1e-3)


@pytest.mark.usefixtures("pretraining")
def test_the_heads_of_a_new_model_attend_to_neighbors(tmp_path):
    """At any position, most of all to the token before and to the one after."""
    from flax_bigbird import FlaxBigBirdForMaskedLM
    from flax_bigbird.pretrained import local_path

    script = importlib.import_module("new_model")
    script.new_model(local_path("bigbird-sotu-mini"), tmp_path / "new", 1, 128)
    model = FlaxBigBirdForMaskedLM.from_pretrained(tmp_path / "new")
    ids = np.random.default_rng(0).integers(7, 6000, (1, 64))
    positions = 1000 + np.arange(64)[None]
    outputs = model(ids, position_ids=positions, output_attentions=True)
    probabilities = np.asarray(outputs.attentions[0])[0]
    for head, offset in enumerate((-1, 1)):
        by_distance = {d: np.diagonal(probabilities[head], d).mean() for d in range(-20, 21)}
        largest = max(by_distance, key=by_distance.__getitem__)
        assert (largest, by_distance[offset] > 0.2) == (offset, True), by_distance


@pytest.mark.usefixtures("pretraining")
def test_slow_waves_separate_the_copies_of_a_tiled_table():
    waves = importlib.import_module("add_position_waves")
    rng = np.random.default_rng(0)
    words, table = rng.standard_normal((300, 32)), rng.standard_normal((256, 32))
    tiled = np.tile(table, (16, 1))
    added = waves.slow_waves(words, tiled)
    assert added.shape == tiled.shape
    assert np.abs(added[:256] - added[2048:2304]).max(axis=1).min() > 0.05
    np.testing.assert_allclose(np.linalg.matrix_rank(added), 2 * len(waves.PERIODS))
