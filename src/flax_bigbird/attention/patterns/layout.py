"""`Layout`: how many blocks are global, and how wide the window of each row is."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class Layout:
    """The blocks that every row of a pattern reads by its position. The default is BigBird's.

    Attributes:
      window_radius: The window blocks on either side of a row's own.
      num_leading: The global blocks at the start. Every row reads them, and their own rows read
        everything, except in a decoder, where no row does.
      num_trailing: The global blocks at the end. A decoder has none.
    """

    window_radius: int = 1
    num_leading: int = 1
    num_trailing: int = 1

    @property
    def row_width(self) -> int:
        """The number of distinct blocks that a row reads besides the random ones."""
        return self.num_leading + self.num_trailing + 2 * self.window_radius + 1

    def is_middle(self, row: Any, num_blocks: Any) -> Any:
        """Returns whether rows are neither global nor past the last block.

        Args:
          row: Row indices, NumPy or traced.
          num_blocks: M, an integer or an array that broadcasts to `row`.
        """
        return (row >= self.num_leading) & (row < num_blocks - self.num_trailing)

    def global_rows(self, num_blocks: int) -> Int[np.ndarray, " G"]:
        """Returns the rows of an encoder that read everything."""
        row = np.arange(num_blocks)
        return row[~self.is_middle(row, num_blocks)].astype(np.int32)

    def fixed_blocks(
        self, num_blocks: Any, max_blocks: int, *, causal: bool = False
    ) -> tuple[Any, Any]:
        """Returns the global and window blocks of rows `0..max_blocks-1`.

        Args:
          num_blocks: The number of blocks of each example, NumPy or traced, `[..., 1, 1]`.
          max_blocks: M, the number of rows.
          causal: Whether to leave out the blocks after a row's own and the trailing global ones.

        Returns:
          `(ids, valid)`, both `[..., M, K]`: block ids, and whether each counts. No block is listed
          twice in a row.
        """
        row = np.arange(max_blocks)[:, None]
        leading, trailing = np.arange(self.num_leading), np.arange(self.num_trailing)
        after = 0 if causal else self.window_radius
        window = row + np.arange(-self.window_radius, after + 1)
        if causal:
            first = np.broadcast_to(leading, (max_blocks, self.num_leading))
            ids = np.concatenate([first, window], -1)
            return ids, np.concatenate([first <= row, window >= self.num_leading], -1)
        xp: Any = jnp if isinstance(num_blocks, jax.Array) else np
        shape = (*np.shape(num_blocks)[:-2], max_blocks)
        last = xp.broadcast_to(num_blocks - 1 - trailing, (*shape, self.num_trailing))
        first = xp.broadcast_to(leading, (*shape, self.num_leading))
        window = xp.broadcast_to(window, (*shape, window.shape[-1]))
        inside = (window >= self.num_leading) & (window < num_blocks - self.num_trailing)
        ids = xp.concatenate([first, window, last], -1)
        valid = xp.concatenate([first < num_blocks, inside, last >= self.num_leading], -1)
        return ids, valid


BIGBIRD = Layout()
