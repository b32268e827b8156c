"""Random blocks: the frozen "fixed" patterns, the rows of every rule, and no global state."""

import hashlib
import random
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_bigbird.attention import random_blocks

# Trained models depend on these numbers: a change breaks every model saved with the rule.
GOLDEN = [
    (
        {"num_blocks": 12, "num_random": 2, "num_heads": 2, "layer": 0},
        [
            "-- 3,10 6,10 6,8 1,9 3,8 3,9 3,4 3,5 1,5 1,8 --",
            "-- 4,10 4,8 5,9 6,10 3,7 1,4 1,4 1,6 1,4 1,6 --",
        ],
    ),
    (
        {"num_blocks": 12, "num_random": 2, "num_heads": 2, "layer": 1},
        [
            "-- 5,10 6,8 5,10 2,10 1,8 1,8 1,9 3,5 1,6 1,7 --",
            "-- 3,8 5,8 5,7 1,8 3,7 1,8 3,9 2,4 2,4 1,7 --",
        ],
    ),
    (
        {"num_blocks": 12, "num_random": 2, "num_heads": 1, "layer": 0, "seed": 7},
        ["-- 3,9 4,7 6,10 6,8 3,7 3,9 2,5 3,4 3,6 1,5 --"],
    ),
    (
        {"num_blocks": 9, "num_random": 2, "num_heads": 1, "layer": 0, "causal": True},
        ["-- -- -- 1 1,2 1,2 2,4 2,3 3,5"],
    ),
    (  # fewer eligible blocks than asked for: all of them
        {"num_blocks": 7, "num_random": 3, "num_heads": 1, "layer": 0},
        ["-- 3,4,5 4,5 1,5 1,2 1,2,3 --"],
    ),
]
BASE_MODEL_DIGEST = "103e5063dfa6b9a722e6616a7095bad59673be427de2fa46afd5771346aa5fc3"


def as_text(head: np.ndarray) -> str:
    """`--` for a row without random blocks."""
    return " ".join(",".join(str(b) for b in row if b >= 0) or "--" for row in head)


@pytest.mark.parametrize(("arguments", "heads"), GOLDEN)
def test_fixed_is_frozen(arguments, heads):
    """Written down in another process, so it also shows that nothing of this one is read."""
    assert [as_text(head) for head in random_blocks.fixed(**arguments)] == heads


def test_fixed_is_frozen_at_the_size_of_the_base_model():
    """4,096 tokens, 12 layers, 12 heads, 3 random blocks."""
    digest = hashlib.sha256()
    for layer in range(12):
        digest.update(random_blocks.fixed(64, 3, 12, layer).astype("<i4").tobytes())
    assert digest.hexdigest() == BASE_MODEL_DIGEST


def eligible(row: int, num_blocks: int, causal: bool) -> set[int]:
    """Blocks outside the row's window and the globals."""
    if causal:
        return set(range(1, row - 1))
    if row in (0, num_blocks - 1):
        return set()
    return set(range(1, num_blocks - 1)) - {row - 1, row, row + 1}


def check_rows(blocks, num_random: int, causal: bool) -> None:
    """Distinct, eligible, R of them or all there are, unused entries last."""
    for head in np.asarray(blocks):
        for i, row in enumerate(head):
            allowed = eligible(i, len(head), causal)
            picks = [int(b) for b in row if b >= 0]
            assert set(picks) <= allowed
            assert len(picks) == len(set(picks)) == min(num_random, len(allowed))
            assert list(row[len(picks) :]) == [-1] * (num_random - len(picks))


sizes = {"num_blocks": st.integers(1, 20), "num_random": st.integers(0, 4)}


@given(**sizes, seed=st.integers(0, 2**32), layer=st.integers(0, 30), causal=st.booleans())
def test_fixed_rows(num_blocks, num_random, seed, layer, causal):
    blocks = random_blocks.fixed(num_blocks, num_random, 2, layer, seed, causal=causal)
    assert blocks.shape == (2, num_blocks, num_random)
    check_rows(blocks, num_random, causal)


def test_fixed_is_spread_over_the_sequence():
    """Each pick comes from a run of its own, so the picks of a row never crowd."""
    blocks = random_blocks.fixed(64, 3, 12, 0)
    for head in blocks:
        for i, row in enumerate(head[1:-1], 1):
            allowed = sorted(eligible(i, 64, False))
            for run, block in enumerate(row):
                run_of_blocks = slice(len(allowed) * run // 3, len(allowed) * (run + 1) // 3)
                assert block in allowed[run_of_blocks]
    used, times = np.unique(blocks[blocks >= 0], return_counts=True)
    assert set(used) == set(range(1, 63))
    assert times.max() < 3 * times.mean()


def test_fixed_differs_by_head_layer_and_seed():
    drawn = [random_blocks.fixed(64, 3, 12, layer, seed) for layer in (0, 1) for seed in (0, 1)]
    heads = {head.tobytes() for blocks in drawn for head in blocks}
    assert len(heads) == 4 * 12


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("num_blocks", "num_random"), [(1, 2), (4, 2), (7, 3), (16, 3), (9, 0)])
def test_redraw_rows(num_blocks, num_random, causal):
    draw = jax.jit(
        jax.vmap(lambda k: random_blocks.redraw(k, num_blocks, num_random, 2, causal=causal))
    )
    for blocks in draw(jax.random.split(jax.random.key(0), 20)):
        assert blocks.shape == (2, num_blocks, num_random)
        check_rows(blocks, num_random, causal)


def chi_square(observed: np.ndarray) -> float:
    """Standard deviations above what equal chances give."""
    expected = observed.sum() / observed.size
    freedom = observed.size - 1
    return float((((observed - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


def test_redraw_is_uniform_and_independent():
    """Every pair of blocks is as likely, whatever the other rows and heads drew."""
    num_blocks, draws = 8, 8000
    keys = jax.random.split(jax.random.key(3), draws)
    drawn = np.asarray(jax.jit(jax.vmap(lambda k: random_blocks.redraw(k, num_blocks, 2, 2)))(keys))

    def pair(head: int, row: int) -> np.ndarray:
        """The number of the pair drawn, among all pairs that were."""
        return np.unique(np.sort(drawn[:, head, row], -1), axis=0, return_inverse=True)[1].ravel()

    assert [len(eligible(row, num_blocks, False)) for row in (1, 3, 4)] == [4, 3, 3]
    six = np.bincount(pair(0, 1))
    assert len(six) == 6
    assert chi_square(six) < 5
    for a, b in [((0, 3), (0, 4)), ((0, 3), (1, 3)), ((0, 3), (1, 4))]:
        assert chi_square(np.bincount(pair(*a) * 3 + pair(*b), minlength=9)) < 5


@given(num_random=st.integers(1, 4), layer=st.integers(0, 5))
def test_google_rows_do_not_depend_on_the_length(num_random, layer):
    """Past M = 2R+5, and away from the paper's lengths, blocks come from the first 2R+5."""
    span = 2 * num_random + 5
    short = random_blocks.google(span + 2, 16, num_random, 2, layer)
    long = random_blocks.google(span + 9, 16, num_random, 2, layer)
    np.testing.assert_array_equal(short[:, :-1], long[:, : span + 1])
    assert long.max() < span


def test_google_at_the_paper_lengths():
    """All draw from the first 1,024 tokens, and are cut from one pattern, head by head."""
    drawn = {m: random_blocks.google(m, 64, 3, 2, 4) for m in (16, 32, 48, 64)}
    for num_blocks, blocks in drawn.items():
        assert blocks[0, 1:-1].max() <= 15
        np.testing.assert_array_equal(blocks[:, 1:-1], drawn[64][:, 1 : num_blocks - 1])
    every = np.concatenate([random_blocks.google(16, 64, 3, 12, layer) for layer in range(12)])
    assert (every == 15).any(), "overlaps with the trailing global block are kept"


def test_google_and_training_in_torch_differ_at_2048_and_by_the_table():
    google, torch = random_blocks.google, random_blocks.hf_training
    np.testing.assert_array_equal(google(16, 64, 3, 2, 1), torch(16, 64, 3, 2, 1, 4096))
    assert (google(32, 64, 3, 2, 1) != torch(32, 64, 3, 2, 1, 4096)).any()
    assert (google(16, 64, 3, 2, 1) != torch(16, 64, 3, 2, 1, 1024)).any()


def global_states() -> tuple[Any, Any]:
    """Returns the states of the global generators of NumPy and of Python."""
    return np.random.get_state(), random.getstate()  # noqa: NPY002 - that is the point


@pytest.mark.usefixtures("unchecked_annotations")  # beartype draws from `random`
def test_no_global_generator_is_touched():
    """Patterns are drawn afresh (no cache), and both global states stay as they were."""
    before = global_states()
    random_blocks.clear_cache()
    random_blocks.google(16, 64, 3, 2, 0)
    random_blocks.hf_training(17, 64, 3, 2, 0, 4096)
    random_blocks.fixed(16, 3, 2, 0)
    after = global_states()
    np.testing.assert_array_equal(before[0][1], after[0][1])
    assert before[0][2:] == after[0][2:]
    assert before[1] == after[1]


def test_static_rules_hand_out_read_only_arrays():
    """They are cached: a caller that wrote into one would change it for all."""
    arrays = [
        random_blocks.google(16, 64, 3, 2, 0),
        random_blocks.hf_training(16, 64, 3, 2, 0, 4096),
        random_blocks.fixed(16, 3, 2, 0),
    ]
    for blocks in arrays:
        with pytest.raises(ValueError, match="read-only"):
            blocks[0, 0, 0] = 1
