"""Masked tokens in a fixed number of shapes: a text with many masks is read several times."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flax_bigbird.data.types import Arrays, Row
from flax_bigbird.tasks.base import Window

MASKS_PER_WINDOW = 8
"""The number of masks for which `MaskedLM.collate_window` has room without doubling it."""


class ServedMaskedLM:
    """A masked language model whose windows have at most `MASKS_PER_WINDOW` masks.

    Args:
      task: The task of the model.
    """

    def __init__(self, task: Any):
        self._task = task

    def encode(self, row: Row) -> list[Window]:
        """Returns copies of the text's window, each with some of its masks."""
        (window,) = self._task.encode(row)
        return [
            Window(window.input_ids, window.info[start : start + MASKS_PER_WINDOW])
            for start in range(0, len(window.info), MASKS_PER_WINDOW)
        ]

    def decode(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        """Returns the tokens for each mask, with their ids, in the order of the masks."""
        masks: list[Any] = []
        for window, output in zip(windows, outputs, strict=True):
            filled = self._task.decode(row, [window], [output])["masks"]
            for tokens, ids in zip(filled, np.asarray(output["ids"]).tolist(), strict=False):
                masks.append([t | {"id": id} for t, id in zip(tokens, ids, strict=True)])
        return {"masks": masks}
