"""A small vocabulary that the tests of data and windows share."""

import pytest

from flax_bigbird.data.vocabulary import save_vocabulary, train_vocabulary

TEXT = "The quick brown fox jumps over the lazy dog. It sleeps by the old mill at noon. " * 4


@pytest.fixture(scope="session")
def text():
    return TEXT


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    model = train_vocabulary([TEXT], 38)
    return save_vocabulary(model, tmp_path_factory.mktemp("vocabulary"), 512)
