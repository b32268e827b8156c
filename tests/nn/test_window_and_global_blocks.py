"""Windows and global blocks of any size, against a definition block by block."""

import jax
import numpy as np
import pytest
import tiny_models

from flax_bigbird.attention import Layout, bigbird_pattern, random_blocks
from flax_bigbird.config import SparsityConfig
from flax_bigbird.nn.patterns import call_pattern, layer_pattern

LAYOUTS = [(3, 1, 1), (1, 1, 1), (5, 1, 1), (3, 2, 3), (7, 0, 2), (3, 2, 0), (1, 0, 0)]
NAMES = ("num_window_blocks", "num_leading_global_blocks", "num_trailing_global_blocks")


def expected(num_blocks: int, window: int, leading: int, trailing: int, causal: bool) -> np.ndarray:
    """Returns which row reads which block, `[M, M]`, as the documentation defines it."""
    out = np.zeros((num_blocks, num_blocks), int)
    reach = window // 2
    for i in range(num_blocks):
        for j in range(num_blocks):
            near = abs(i - j) <= reach
            first, last = j < leading, j >= num_blocks - trailing
            if causal:
                out[i, j] = j <= i and (near or first)
            else:
                reads_all = i < leading or i >= num_blocks - trailing
                out[i, j] = near or first or last or reads_all
    return out


def table(pattern) -> np.ndarray:
    """Returns how often each row of the first example reads each block, `[N, M, M]`."""
    blocks, counts = np.asarray(pattern.blocks)[0], np.asarray(pattern.counts)[0]
    out = ((blocks[..., None] == np.arange(pattern.num_blocks)) * counts[..., None]).sum(-2)
    out[:, np.asarray(pattern.global_rows)[0]] = 1
    return out


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("num_blocks", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("sizes", LAYOUTS)
def test_definition(sizes, num_blocks, causal):
    window, leading, trailing = sizes
    layout = Layout(window // 2, leading, trailing)
    pattern = bigbird_pattern(num_blocks, 4, causal=causal, layout=layout)
    want = expected(num_blocks, window, leading, trailing, causal)
    np.testing.assert_array_equal(table(pattern)[0], want)
    assert pattern.row_width <= layout.row_width
    assert isinstance(pattern.blocks, np.ndarray)


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("sizes", LAYOUTS)
def test_random_blocks_lie_outside(sizes, causal):
    """They are distinct, outside window and globals, and R of them or all there are."""
    window, leading, trailing = sizes
    layout = Layout(window // 2, leading, trailing)
    free = expected(14, window, leading, trailing, causal) == 0
    if causal:
        free &= np.tri(14, dtype=bool)
    drawn = {
        "fixed": random_blocks.fixed(14, 2, 2, 0, causal=causal, layout=layout),
        "redraw": random_blocks.redraw(jax.random.key(0), 14, 2, 2, causal=causal, layout=layout),
    }
    for name, blocks in drawn.items():
        for head in np.asarray(blocks):
            for i, row in enumerate(head):
                picks = [b for b in row if b >= 0]
                assert len(set(picks)) == len(picks) == min(2, free[i].sum()), (name, i)
                assert free[i, picks].all(), (name, i)


def make_sparsity(**changes) -> SparsityConfig:
    return SparsityConfig.from_hf(tiny_models.config(**changes))


def test_defaults_are_those_of_bigbird():
    assert make_sparsity().layout == Layout()
    assert Layout() == Layout(window_radius=1, num_leading=1, num_trailing=1)
    assert make_sparsity(num_random_blocks=3).max_full_attention_blocks == 5 + 2 * 3
    wide = make_sparsity(**dict(zip(NAMES, (5, 2, 0), strict=True)), num_random_blocks=1)
    assert wide.max_full_attention_blocks == 5 + 2 + 2
    assert layer_pattern(wide, 0, 80, train=False).row_width == 5 + 2 + 0  # block 0 twice


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_window_blocks": 4}, "must be odd.*got 4: use 5"),
        ({"num_window_blocks": -1}, "num_window_blocks must be an integer, 0 or more; got -1"),
        ({"num_leading_global_blocks": 1.5}, "must be an integer, 0 or more; got 1.5"),
        ({"num_window_blocks": 5, "random_attention": "google"}, "use 'fixed'"),
        (
            {"max_user_global_blocks": 0},
            "max_user_global_blocks must be an integer, 1 or more; got 0",
        ),
        ({"max_chosen_global_blocks": 0}, "max_chosen_global_blocks must be an .* or more; got 0"),
    ],
)
def test_bad_configurations(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_models.model(**changes)


def test_hf_training_is_not_defined_for_other_windows():
    model = tiny_models.model(num_window_blocks=5, max_position_embeddings=80)
    arrays = tiny_models.inputs(length=48)
    tiny_models.run(model, arrays)
    with pytest.raises(ValueError, match="use 'fixed', pass indices_rng, or set num_random"):
        model(**arrays, train=True)
    model(**arrays, train=True, indices_rng=jax.random.key(0))


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("sizes", LAYOUTS[2:5])
def test_patterns_per_example_equal_those_of_the_length(sizes, train):
    """With `padding_invariant` and any window, an example has the rows of its own length."""
    sparsity = make_sparsity(
        **dict(zip(NAMES, sizes, strict=True)), random_attention="fixed", padding_invariant=True
    )
    full = sparsity.max_full_attention_blocks
    lengths = [1, 9, full, full + 1, 20]
    mask = np.arange(20 * 4) < np.array(lengths)[:, None] * 4
    pattern, _ = call_pattern(sparsity, 0, 80, mask=jax.numpy.asarray(mask), train=train)
    for example, own in enumerate(lengths):
        one = jax.tree.map(lambda x, b=example: np.asarray(x)[[b]], pattern)
        got = np.broadcast_to(table(one), (2, 20, 20))[:, :own, :own]
        want = np.ones((2, own, own))
        if own > full:
            want = table(layer_pattern(sparsity, 0, own * 4, train=train))
        np.testing.assert_array_equal(got, want, err_msg=f"{own} blocks")


@pytest.mark.parametrize("sizes", LAYOUTS[2:])
def test_model(sizes):
    """A model with a wider pattern attends as its table says, for any length."""
    model = tiny_models.model(
        **dict(zip(NAMES, sizes, strict=True)),
        random_attention="fixed",
        max_position_embeddings=80,
    )
    length = 67
    arrays = tiny_models.inputs(length=length)
    arrays["attention_mask"][:] = 1
    out = tiny_models.run(model, arrays, output_attentions=True)
    reads = np.asarray(out.attentions[0]) > 0
    want = table(layer_pattern(SparsityConfig.from_hf(model.config), 0, length, train=False))
    want = np.broadcast_to(want, (2, 17, 17)).repeat(4, 1).repeat(4, 2)[:, :length, :length]
    np.testing.assert_array_equal(reads, np.broadcast_to(want > 0, reads.shape))
    plain = tiny_models.run(model, arrays).last_hidden_state
    tiny_models.close(plain, out.last_hidden_state)
