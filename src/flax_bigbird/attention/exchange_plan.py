"""Which key blocks travel between the devices that share an example: planned with NumPy.

Device d of n holds the rows and the key blocks `d*L .. (d+1)*L - 1` of a static pattern. The plan
sorts the blocks that other devices read into three groups, each with its own collective:

    shared      read by (nearly) all devices in all heads, such as global blocks    sum over devices
    edges       read by the neighbor in (nearly) all heads, as windows are          two shifts
    scattered   the rest: random blocks, which differ between heads                 all-to-all

A device then reads from its own buffer of blocks, and the plan has the pattern with the indices of
that buffer:

    buffer      shared | edge of device d-1 | edge of device d+1 | scattered, by device | own blocks
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

_NEARLY_ALL = 0.9  # blocks that fewer than this fraction of the readers need are sent one by one


class ExchangePlan(NamedTuple):
    """The plan of a static pattern of `n*L` rows; X counts its examples and heads together.

    Attributes:
      shared: `[G]`, the ids of the blocks that are sent to all devices.
      num_before: How many blocks each device gets from the end of the device before.
      num_after: How many blocks each device gets from the start of the device after.
      send: `[n, X, n, E]`: the blocks, among its own, that a device sends to each other for each x.
        Unused entries are 0.
      blocks: `[X, n*L, K]`, the ids of the pattern in the buffer of the device that has the row.
      counts: `[X, n*L, K]`, the counts of the pattern; 0 in global rows.
    """

    shared: Int[np.ndarray, " G"]
    num_before: int
    num_after: int
    send: Int[np.ndarray, "n X n E"]
    blocks: Int[np.ndarray, "X M K"]
    counts: Int[np.ndarray, "X M K"]

    @property
    def num_remote(self) -> int:
        """The number of blocks in the buffer before the device's own."""
        scattered = self.send.shape[0] * self.send.shape[-1]
        return len(self.shared) + self.num_before + self.num_after + scattered


def plan_exchange(
    blocks: Int[np.ndarray, "X M K"],
    counts: Int[np.ndarray, "X M K"],
    num_devices: int,
) -> ExchangePlan:
    """Plans the exchange of a static pattern.

    Args:
      blocks: Block ids, for a number of rows that `num_devices` divides.
      counts: How often each counts; 0 in the lists of global rows, which are computed otherwise.
      num_devices: n.
    """
    own = blocks.shape[1] // num_devices
    need = _needed_blocks(blocks, counts, num_devices)
    reads_anything: Any = need.any(-1)
    shared = _shared_blocks(need, reads_anything, own)
    need[:, :, shared] = False
    before, after = (_edge(need, reads_anything, own, side) for side in (-1, 1))
    index = _edge_slots(need, own, before, after, len(shared))
    index[:, :, shared] = np.arange(len(shared), dtype=np.int32)
    send, scattered = _scattered(need & (index < 0), own)
    first = len(shared) + before + after
    index = np.where(scattered >= 0, first + scattered, index)
    first += num_devices * send.shape[-1]
    for device in range(num_devices):
        ids = slice(device * own, (device + 1) * own)
        index[:, device, ids] = first + np.arange(own, dtype=np.int32)
    example, row = np.ogrid[: len(blocks), : blocks.shape[1]]
    local = index[example[..., None], row[..., None] // own, blocks]
    used = counts > 0
    return ExchangePlan(
        shared,
        before,
        after,
        send,
        np.where(used, local, 0).astype(np.int32),
        np.where(used, counts, 0).astype(np.int32),
    )


def _needed_blocks(blocks: np.ndarray, counts: np.ndarray, n: int) -> Bool[np.ndarray, "X n M"]:
    """Returns which blocks each device reads that are not its own."""
    examples, rows, _ = blocks.shape
    own = rows // n
    where: Any = np.nonzero(counts)
    example, row, entry = where
    need = np.zeros((examples, n, rows), bool)
    need[example, row // own, blocks[example, row, entry]] = True
    for device in range(n):
        need[:, device, device * own : (device + 1) * own] = False
    return need


def _shared_blocks(need: np.ndarray, reads_anything: np.ndarray, own: int) -> np.ndarray:
    """Returns the blocks that nearly all others read, among those who read anything."""
    owner = np.arange(need.shape[-1]) // own
    is_reader = reads_anything[..., None] & (np.arange(need.shape[1])[:, None] != owner)
    readers = is_reader.sum((0, 1))
    # With two devices every edge would be shared: a shift is cheaper.
    several = is_reader.any(0).sum(0) > 1
    share = need.sum((0, 1)) / np.maximum(readers, 1)
    return np.flatnonzero(several & (share > _NEARLY_ALL)).astype(np.int32)


def _edge(need: np.ndarray, reads_anything: np.ndarray, own: int, side: int) -> int:
    """Returns how many blocks next to their own nearly all devices read on one side."""
    n = need.shape[1]
    devices = np.arange(1, n) if side < 0 else np.arange(n - 1)
    size = 0
    while size < own:
        ids = devices * own - size - 1 if side < 0 else (devices + 1) * own + size
        readers = reads_anything[:, devices]
        if need[:, devices, ids].sum() <= _NEARLY_ALL * max(1, readers.sum()):
            break
        size += 1
    return size


def _edge_slots(
    need: np.ndarray, own: int, before: int, after: int, first: int
) -> Int[np.ndarray, "X n M"]:
    """Returns the slots of the blocks at the edges in each device's buffer; -1 for other blocks.

    Args:
      need: The shape of the result.
      own: The number of blocks of a device.
      before, after: How many blocks come from either side.
      first: The slot of the first of them.
    """
    index = np.full(need.shape, -1, np.int32)
    num_devices, total = need.shape[1:]
    for device in range(num_devices):
        start, end = device * own, (device + 1) * own
        ids = np.concatenate([np.arange(start - before, start), np.arange(end, end + after)])
        exists = (ids >= 0) & (ids < total)
        index[:, device, ids[exists]] = first + np.flatnonzero(exists)
    return index


def _scattered(need: np.ndarray, own: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `send` of the plan, and the slot of each block among the scattered ones (or -1)."""
    examples, n, _ = need.shape
    pairs = need.reshape(examples, n, n, own)  # [X, destination, source, L]
    rank = np.cumsum(pairs, -1, dtype=np.int32) - 1
    size = int(pairs.sum(-1).max(initial=0))
    x, destination, source, block = np.nonzero(pairs)
    send = np.zeros((n, examples, n, size), np.int32)
    at = rank[x, destination, source, block]
    send[source, x, destination, at] = block
    slots = np.full(pairs.shape, -1, np.int32)
    slots[x, destination, source, block] = source * size + at
    return send, slots.reshape(need.shape)
