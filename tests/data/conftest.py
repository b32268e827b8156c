"""A small vocabulary that the tests of data and windows share."""

import pytest
from tiny_vocabulary import TEXT, tiny_tokenizer


@pytest.fixture(scope="session")
def text():
    return TEXT


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("vocabulary"))
