"""A small vocabulary, and a function that makes the encoder of a task without a model."""

import pytest

from flax_bigbird._transformers import bigbird_config_class
from flax_bigbird.data.vocabulary import save_vocabulary, train_vocabulary
from flax_bigbird.tasks.registry import get_task

TEXT = "The quick brown fox jumps over the lazy dog. It sleeps by the old mill at noon. " * 4


@pytest.fixture(scope="session")
def text():
    return TEXT


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    model = train_vocabulary([TEXT], 38)
    return save_vocabulary(model, tmp_path_factory.mktemp("vocabulary"), 512)


@pytest.fixture
def make_task(tokenizer):
    """A function from the name of a task, its options, and config keys to an instance of it."""

    def make(name, options=None, **config):
        task_class = get_task(name)
        config = {"vocab_size": 40, "max_position_embeddings": 64, "block_size": 8} | config
        options = task_class.options_class(**(options or {}))
        return task_class(options, tokenizer, bigbird_config_class()(**config))

    return make
