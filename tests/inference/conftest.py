"""Checkpoints and predictors that the tests of inference share; each is made once."""

import functools

import pytest
from tiny_checkpoints import Checkpoints, sentence, write_jsonl

from flax_bigbird.inference import Predictor, load_predictor

CLASSIFIER = "FlaxBigBirdForSequenceClassification"


@pytest.fixture(scope="package")
def make_checkpoint(tmp_path_factory) -> Checkpoints:
    """Returns a function from the name of a model class to the folder of a checkpoint."""
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def predictor(make_checkpoint):
    """Returns a function from the name of a model class and options to a predictor."""

    @functools.cache
    def load(model_class: str, **options) -> Predictor:
        changes = {"is_decoder": True} if "CausalLM" in model_class else {}
        return load_predictor(make_checkpoint(model_class, **changes), **options)

    return load


@pytest.fixture
def classifier(make_checkpoint) -> str:
    """The folder of a classifier."""
    return make_checkpoint(CLASSIFIER)


@pytest.fixture
def classify(predictor) -> Predictor:
    """The predictor of the classifier."""
    return predictor(CLASSIFIER)


@pytest.fixture
def rows(tmp_path) -> str:
    """A file with ten texts of very different lengths."""
    texts = [{"id": f"n{n}", "text": sentence(n, 1 + 7 * (n % 5))} for n in range(10)]
    return write_jsonl(tmp_path / "in.jsonl", texts)


@pytest.fixture
def small_chunks(monkeypatch) -> None:
    """Makes every chunk of a prediction three rows long."""
    monkeypatch.setattr("flax_bigbird.inference.predictor.MAX_ROWS_PER_CHUNK", 3)
