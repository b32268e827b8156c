"""The plan of the exchange, on random patterns: every row finds its blocks in the buffer."""

from typing import Any

import numpy as np
import pytest

from flax_bigbird.attention import bigbird_pattern, random_blocks
from flax_bigbird.attention.exchange_plan import plan_exchange


def buffer_ids(plan, device: int, x: int, num_devices: int) -> list[int]:
    """The ids of the blocks in the buffer of a device, by what the collectives do."""
    own = plan.blocks.shape[1] // num_devices
    ids = list(plan.shared)
    before = device * own - plan.num_before + np.arange(plan.num_before)
    after = (device + 1) * own + np.arange(plan.num_after)
    ids += [*(before if device else before * 0 - 1)]
    ids += [*(after if device + 1 < num_devices else after * 0 - 1)]
    for source in range(num_devices):
        ids += [*(source * own + plan.send[source, x, device])]
    return [*ids, *(device * own + np.arange(own))]


@pytest.mark.parametrize("kind", ["any", "bigbird", "shared"])
@pytest.mark.parametrize("devices", [2, 3, 8])
def test_rows_find_their_blocks(kind, devices, rng):
    for _ in range(10):
        own, heads = int(rng.integers(1, 6)), int(rng.integers(1, 4))
        rows = own * devices
        if kind == "any":
            blocks = rng.integers(0, rows, (heads, rows, 5)).astype(np.int32)
            counts = rng.integers(0, 3, blocks.shape).astype(np.int32)
        else:
            seed = int(rng.integers(100))
            random = random_blocks.fixed(rows, 2, heads, 0, seed) if kind == "bigbird" else None
            pattern: Any = bigbird_pattern(rows, 4, random=random, extra_first=1)
            blocks, counts = pattern.blocks[0], pattern.counts[0]
        plan = plan_exchange(blocks, counts, devices)
        np.testing.assert_array_equal(plan.counts, counts)
        for x in range(len(blocks)):
            for device in range(devices):
                ids = np.array(buffer_ids(plan, device, x, devices))
                assert len(ids) == plan.num_remote + own
                lines = slice(device * own, (device + 1) * own)
                used = counts[x, lines] > 0
                got = ids[plan.blocks[x, lines]]
                np.testing.assert_array_equal(got[used], blocks[x, lines][used])


def test_what_every_pattern_sends():
    """Global blocks go to all devices, windows to neighbors, and only random blocks one by one."""
    rows, devices, heads = 64, 4, 3
    plain: Any = bigbird_pattern(rows, 4, extra_first=3)
    plan = plan_exchange(plain.blocks[0], plain.counts[0], devices)
    assert plan.shared.tolist() == [0, rows - 1]
    assert (plan.num_before, plan.num_after, plan.send.shape[-1]) == (1, 1, 0)
    random = random_blocks.fixed(rows, 1, heads, 0)
    drawn: Any = bigbird_pattern(rows, 4, random=random)
    plan = plan_exchange(drawn.blocks[0], drawn.counts[0], devices)
    assert plan.shared.tolist() == [0, rows - 1]
    assert (plan.num_before, plan.num_after) == (1, 1)
    # 16 rows of a device draw 16 blocks, about 4 of each device.
    assert 4 <= plan.send.shape[-1] <= 12
