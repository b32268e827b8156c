"""The types that the annotations of `data` and `tasks` share.

`datasets` is an optional dependency, and `transformers` is slow to import, so neither is imported
to annotate a function. Type checkers see the real classes; at run time the names are `Any`.
"""

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

Row = dict[str, Any]
"""One row of the input, from the names of columns to values."""

Batch = MutableMapping[str, list[Any]]
"""Several rows by column, as `datasets.Dataset.map` passes and returns them."""

Arrays = dict[str, Any]
"""The arrays of an example or a batch, by name: NumPy arrays, or JAX arrays on the device."""

ROW_MASK = "row_mask"
"""The name of an array `[B]` of a training batch: False at rows that count for nothing, which were
added so that the devices divide the batch. A batch without such rows does not have it."""

if TYPE_CHECKING:
    from datasets import Dataset as Dataset
    from datasets import Features as Features
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Dataset = Features = Tokenizer = Any
