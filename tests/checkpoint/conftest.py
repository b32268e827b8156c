"""Makes the modules beside the tests importable, with detailed assertion messages."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("checkpoint_trees")
