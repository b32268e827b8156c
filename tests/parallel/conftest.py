"""Compiled programs on disk: many runs here compile the same small programs."""

import pytest
from compiled_programs import kept_on_disk


@pytest.fixture(autouse=True, scope="package")
def _compiled_programs(tmp_path_factory):
    with kept_on_disk(tmp_path_factory.getbasetemp()):
        yield
