"""Makes the reader of the goldens importable."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "goldens"))
pytest.register_assert_rewrite("parity_tools")
