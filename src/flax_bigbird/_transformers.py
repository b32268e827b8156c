"""Imports from `transformers`, late and without its log messages.

We use `transformers` for configurations and tokenizers only. Importing it takes about a second and,
without PyTorch, logs advice to install PyTorch; `import flax_bigbird` does neither.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import BigBirdConfig, GenerationConfig


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses log records below `ERROR` inside the `with` block."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)


@functools.cache
def bigbird_config_class() -> type["BigBirdConfig"]:
    """Returns `transformers.BigBirdConfig`."""
    with quiet():
        from transformers import BigBirdConfig
    return BigBirdConfig


@functools.cache
def generation_config_class() -> type["GenerationConfig"]:
    """Returns `transformers.GenerationConfig`."""
    with quiet():
        from transformers import GenerationConfig
    return GenerationConfig
