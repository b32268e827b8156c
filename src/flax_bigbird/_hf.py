"""Quiet, late access to what `transformers` is used for: configurations and tokenizers.

Importing `transformers` without PyTorch logs advice about installing it, and takes a second; both
are kept out of `import flax_bigbird`.
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
    """Holds back log records below ERROR while `transformers` is imported."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@functools.cache
def bigbird_config_class() -> type["BigBirdConfig"]:
    """`transformers.BigBirdConfig`."""
    with quiet():
        from transformers import BigBirdConfig
    return BigBirdConfig


@functools.cache
def generation_config_class() -> type["GenerationConfig"]:
    """`transformers.GenerationConfig`."""
    with quiet():
        from transformers import GenerationConfig
    return GenerationConfig
