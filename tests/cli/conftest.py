"""Compiled programs are kept in a temporary directory instead of the user's home."""

import pytest
from compiled_programs import kept_on_disk


@pytest.fixture(autouse=True, scope="package")
def _compilation_cache(tmp_path_factory):
    with kept_on_disk(tmp_path_factory.getbasetemp()):
        yield
