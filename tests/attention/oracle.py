"""Block-sparse attention by its definition: float64 NumPy, row by row, keys listed one by one.

It shares no line with the package: the keys of a row are listed as often as they count, and the
softmax and its gradient are those of a textbook.
"""

from typing import NamedTuple

import numpy as np


class Result(NamedTuple):
    """The output and the gradients of sum(out * d_out)."""

    out: np.ndarray
    d_q: np.ndarray
    d_k: np.ndarray
    d_v: np.ndarray


def listed_blocks(pattern, example: int, head: int, row: int) -> list[int]:
    """Returns the key blocks of a row, a block that counts c times c times."""
    globals_, blocks = np.asarray(pattern.global_rows), np.asarray(pattern.blocks)
    counts = np.asarray(pattern.counts)
    if row in globals_[example % globals_.shape[0]]:
        return list(range(blocks.shape[2]))
    at = example % blocks.shape[0], head % blocks.shape[1], row
    return [int(b) for b, c in zip(blocks[at], counts[at], strict=True) for _ in range(c)]


def attend(q, k, v, pattern, *, mask, scale, d_out) -> Result:
    """Computes attention and its gradients of arrays `[B, T, N, H]` of any dtype.

    `mask` is `[B, T]` booleans. T may end inside the last block.
    """
    q, k, v, d_out = (np.asarray(x, np.float64) for x in (q, k, v, d_out))
    batch, length, heads, _ = q.shape
    size = pattern.block_size
    out, d_q, d_k, d_v = (np.zeros(q.shape) for _ in range(4))
    for b in range(batch):
        for n in range(heads):
            for row in range(-(-length // size)):
                listed = listed_blocks(pattern, b, n, row)
                keys = [s for block in listed for s in range(block * size, (block + 1) * size)]
                keys = np.array([s for s in keys if s < length and mask[b, s]], int)
                for t in range(row * size, min((row + 1) * size, length)):
                    read = keys[keys <= t] if pattern.causal else keys
                    if not mask[b, t] or not len(read):
                        continue
                    scores = k[b, read, n] @ q[b, t, n] * scale
                    p = np.exp(scores - scores.max())
                    p /= p.sum()
                    out[b, t, n] = p @ v[b, read, n]
                    d_p = v[b, read, n] @ d_out[b, t, n]
                    d_s = p * (d_p - p @ d_p) * scale
                    d_q[b, t, n] = d_s @ k[b, read, n]
                    np.add.at(d_k[b, :, n], read, d_s[:, None] * q[b, t, n])
                    np.add.at(d_v[b, :, n], read, p[:, None] * d_out[b, t, n])
    return Result(out, d_q, d_k, d_v)


def table(pattern, example: int, head: int) -> np.ndarray:
    """Returns how often each row reads each block, `[M, M]`."""
    num_blocks = pattern.num_blocks
    out = np.zeros((num_blocks, num_blocks), int)
    for row in range(num_blocks):
        np.add.at(out[row], listed_blocks(pattern, example, head, row), 1)
    return out
