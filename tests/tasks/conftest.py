"""A small vocabulary, and a function that makes the encoder of a task without a model."""

from typing import Any

import pytest
from tiny_vocabulary import TEXT, tiny_tokenizer

from flax_bigbird._transformers import bigbird_config_class
from flax_bigbird.tasks.registry import get_task


@pytest.fixture(scope="session")
def text():
    return TEXT


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture
def make_task(tokenizer):
    """A function from the name of a task, its options, and config keys to an instance of it."""

    def make(name, options=None, **config):
        task_class = get_task(name)
        small: Any = {"vocab_size": 40, "max_position_embeddings": 64, "block_size": 8}
        options = task_class.options_class(**(options or {}))
        return task_class(options, tokenizer, bigbird_config_class()(**small | config))

    return make
