"""The defects of the two Hugging Face ports that `docs/parity.md` numbers, with a test for each.

Some tests set the kernel and the bias of the queries to 0. All scores are then 0, and the
probability of a key is how often the query reads it, divided by the sum over the row.
"""

import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import program_costs
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from golden_format import token_inputs
from parity_tools import compiled, random_params, run
from transformers import BigBirdConfig

import flax_bigbird
from flax_bigbird.attention import random_blocks

W, R, VOCAB, TABLE = 4, 1, 70, 64  # block size, random blocks, vocabulary, positions
RULES = ("hf", "google", "fixed")


def config(**changes):
    base = {
        "vocab_size": VOCAB,
        "hidden_size": 12,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 16,
        "max_position_embeddings": TABLE,
        "block_size": W,
        "num_random_blocks": R,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return BigBirdConfig(**(base | changes))


def model(cls="BigBirdModel", **changes):
    """Returns a model without parameters: `random_params` draws them."""
    return getattr(flax_bigbird, f"Flax{cls}")(config(**changes), _do_init=False)


@pytest.fixture(scope="module")
def encoder():
    return model()


def change(params, leaf, function):
    """Applies `function` to every leaf whose path contains `leaf`."""
    flat = flatten_dict(params)
    out = {p: function(x) if leaf in "/".join(p) else x for p, x in flat.items()}
    return unflatten_dict(out)


def read_frequencies(encoder, length, **kwargs):
    """Returns the probabilities [N, T, S] of one example whose queries are 0."""
    params = change(random_params(encoder), "self/query", jnp.zeros_like)
    ids = {"input_ids": np.arange(length)[None] % VOCAB}
    return run(encoder, params, ids, output_attentions=True, **kwargs).attentions[0][0]


def states(model, arrays, params=None, **kwargs):
    """Returns the last hidden states."""
    params = random_params(model) if params is None else params
    return run(model, params, arrays, **kwargs).last_hidden_state


def inputs(length, **kwargs):
    return token_inputs(length, 2, length, VOCAB, **kwargs)


def test_defect_01_short_batch_does_not_switch_model_for_good(encoder):
    """HF-Torch uses full attention forever after one batch of at most (5 + 2R) W tokens."""
    long, short = inputs(32), inputs(8)
    before = states(encoder, long)
    states(encoder, short)
    np.testing.assert_array_equal(states(encoder, long), before)
    assert encoder.config.attention_type == "block_sparse"
    full = flax_bigbird.FlaxBigBirdModel(config(attention_type="original_full"), _do_init=False)
    other = states(full, long, random_params(encoder))
    assert jnp.abs(other - before).max() > 1e-3


def test_defect_02_training_sees_random_blocks_at_any_length(encoder):
    """HF-Flax draws per head at 1,024, 3,072 and 4,096 tokens only, elsewhere for all heads."""
    length = 48
    blocks = random_blocks.hf_training(length // W, W, R, 2, 0, TABLE)
    assert (blocks[0] != blocks[1]).any()
    probabilities = np.asarray(read_frequencies(encoder, length, train=True))
    evaluated = np.asarray(read_frequencies(encoder, length))
    assert (probabilities > 0).sum() > (evaluated > 0).sum()
    assert ((probabilities[0] > 0) != (probabilities[1] > 0)).any()
    for head in range(2):
        for row in range(1, length // W - 1):
            weight = probabilities[head, row * W].reshape(-1, W)[:, 0]
            listed = {0, row - 1, row, row + 1, length // W - 1} | set(blocks[head, row].tolist())
            assert set(np.flatnonzero(weight)) == listed


@pytest.mark.parametrize("length", [1, 3, 4, 7, 8, 12, 29, 31, 33, 63])
def test_defect_03_any_length_works(encoder, length):
    """HF-Flax raises for T not a multiple of W and crashes on 1 to 3 blocks."""
    output = states(encoder, inputs(length))
    assert output.shape == (2, length, 12)
    assert np.isfinite(output).all()


@pytest.mark.parametrize("length", [1, 5, 9, 13, 30])
def test_defect_03_any_length_works_for_a_decoder(length):
    output = states(model(is_decoder=True), inputs(length))
    assert output.shape == (2, length, 12)
    assert np.isfinite(output).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_ids": VOCAB}, f"input_ids.*vocab_size={VOCAB}.*got {VOCAB}"),
        ({"input_ids": -1}, f"input_ids.*vocab_size={VOCAB}.*got -1"),
        ({"token_type_ids": 2}, "token_type_ids.*type_vocab_size=2.*got 2"),
        ({"position_ids": TABLE}, f"position_ids.*max_position_embeddings={TABLE}.*got {TABLE}"),
    ],
)
def test_defect_03_out_of_range_is_an_error_and_not_nan(encoder, changes, words):
    """HF-Flax returns NaN past a table, silently, and wraps id -1."""
    arrays = {"input_ids": np.ones((1, 6), int)}
    for name, bad in changes.items():
        arrays[name] = np.array([[1, 0, 1, bad, 1, 0]])
    with pytest.raises(ValueError, match=words):
        encoder(**arrays, params=random_params(encoder))


def test_defect_03_longer_than_the_position_table_is_an_error(encoder):
    with pytest.raises(ValueError, match=f"{TABLE}.*max_position_embeddings.*got {TABLE + 1}"):
        encoder(np.ones((1, TABLE + 1), int), params=random_params(encoder))


@pytest.mark.parametrize("rule", RULES)
def test_defect_04_sparse_decoder_does_not_see_the_future(rule):
    """Both ports' sparse `ForCausalLM` without cross-attention is bidirectional."""
    decoder = model(
        "BigBirdForCausalLM", is_decoder=True, num_hidden_layers=2, random_attention=rule
    )
    ids = inputs(40, mask="none", types=False)["input_ids"]
    params = random_params(decoder)
    logits = compiled(lambda ids: decoder(ids, params=params).logits)
    before = logits(ids)
    for position in (3, 17, 39):
        changed = ids.copy()
        changed[:, position:] = (changed[:, position:] + 1) % VOCAB
        after = logits(changed)
        np.testing.assert_allclose(after[:, :position], before[:, :position], atol=1e-6)
        assert jnp.abs(after[:, position] - before[:, position]).max() > 1e-3


def test_defect_04_sparse_decoder_uses_its_cache():
    """HF-Torch's decoder never does. Here, single steps return what one call returns."""
    decoder = model("BigBirdForCausalLM", is_decoder=True, num_hidden_layers=2)
    length = 26
    ids = inputs(length, mask="none", types=False)["input_ids"]
    params = random_params(decoder)
    whole = run(decoder, params, {"input_ids": ids}).logits

    @compiled
    def step(token, cache):
        output = decoder(token, params=params, past_key_values=cache)
        return output.logits[:, 0], output.past_key_values

    cache = decoder.init_cache(2, length)
    for i in range(length):
        logits, cache = step(jnp.asarray(ids[:, i : i + 1]), cache)
        np.testing.assert_allclose(logits, whole[:, i], atol=1e-5, err_msg=f"step {i}")


def test_defect_05_sparse_attention_probabilities_sum_to_one(encoder):
    """HF-Flax returns None; HF-Torch's rows do not sum to 1."""
    arrays = inputs(33)
    (probabilities,) = run(
        encoder, random_params(encoder), arrays, output_attentions=True
    ).attentions
    assert probabilities.shape == (2, 2, 33, 33)
    sums = np.asarray(probabilities.sum(-1))
    real = np.broadcast_to(arrays["attention_mask"][:, None], sums.shape)
    np.testing.assert_allclose(sums, real, atol=1e-5)
    assert not (np.asarray(probabilities) * (1 - arrays["attention_mask"][:, None, None])).any()


@pytest.mark.parametrize("num_random", [0, 1, 3])
def test_defect_05_repeated_blocks_are_summed(num_random):
    """In evaluation, every middle row reads block 0 1 + R times."""
    m = model(num_random_blocks=num_random)
    length = 48
    probabilities = np.asarray(read_frequencies(m, length))
    np.testing.assert_allclose(probabilities[:, [0, -1]], 1 / length, atol=1e-6)
    for row, window in {1: (1, 2), 5: (4, 5, 6), 10: (9, 10)}.items():
        counts = np.zeros(length // W)
        counts[[*window, length // W - 1]] = 1
        counts[0] = 1 + num_random
        expected = np.repeat(counts, W) / (W * counts.sum())
        np.testing.assert_allclose(probabilities[:, row * W + 2], [expected] * 2, atol=1e-6)


@pytest.mark.parametrize("length", [10, 40])
def test_defect_06_head_mask_silences_a_head(encoder, length):
    """HF-Flax ignores it in sparse mode, HF-Torch 5 always."""
    arrays = inputs(length)
    masked = states(encoder, arrays | {"head_mask": np.array([1, 0])})

    def without_second_head(leaf):
        return leaf.at[..., 6:].set(0)

    params = change(random_params(encoder), "self/value", without_second_head)
    expected = states(encoder, arrays, params)
    np.testing.assert_allclose(masked, expected, atol=1e-6)
    assert jnp.abs(masked - states(encoder, arrays)).max() > 1e-3


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_defect_07_no_random_blocks(rule, train):
    """`num_random_blocks=0` crashes both ports."""
    m = model(num_random_blocks=0, random_attention=rule)
    output = states(m, inputs(33), train=train)
    assert np.isfinite(output).all()


def global_states() -> tuple[Any, Any]:
    """Returns the states of the global generators of NumPy and of Python."""
    return np.random.get_state(), random.getstate()  # noqa: NPY002


@pytest.mark.usefixtures("unchecked_annotations")  # beartype draws from the global generator
@pytest.mark.parametrize("rule", RULES)
def test_defect_08_global_generator_is_left_alone(encoder, rule):
    """HF-Torch reseeds the caller's NumPy generator at every layer of a training step."""
    m = model(random_attention=rule)
    random_blocks.clear_cache()
    before, python_before = global_states()
    states(m, inputs(48), train=True)
    after, python_after = global_states()
    assert python_after == python_before
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]


def test_defect_09_mask_as_an_argument_costs_no_more(encoder):
    """HF-Flax does seven times the work when the mask is not a constant of the program."""
    ids = jnp.ones((1, 64), jnp.int32)
    mask = jnp.ones((1, 64), jnp.int32)

    def forward(params, mask):
        return encoder(ids, mask, params=params).last_hidden_state

    def cost(function, *args):
        program = jax.jit(function).lower(*args).compile()
        return program_costs.flops(program), program_costs.temporary_bytes(program)

    flops, memory = cost(forward, random_params(encoder), mask)
    folded_flops, folded_memory = cost(lambda params: forward(params, mask), random_params(encoder))
    assert flops <= 1.3 * folded_flops
    assert memory <= 1.3 * folded_memory + 10_000


def test_defect_10_question_answering_can_be_built():
    """HF-Flax's calls `.split` on an array, which jax has dropped."""
    own = config(num_labels=7)
    m = flax_bigbird.FlaxBigBirdForQuestionAnswering(own, _do_init=False)
    output = run(m, random_params(m), {"input_ids": inputs(9)["input_ids"]})
    assert output.start_logits.shape == output.end_logits.shape == (2, 9)
    assert m.config.num_labels == 2
    assert own.num_labels == 7  # both ports write 2 on the caller's object


def test_defect_11_padding_changes_an_example_unless_the_model_is_padding_invariant(encoder):
    """The last block is global; with more padding it is padding, in both ports and by default."""
    assert not hasattr(encoder.config, "padding_invariant")
    short = inputs(32, mask="none")
    long = {name: np.pad(x, ((0, 0), (0, 16))) for name, x in short.items()}
    short["attention_mask"] = np.ones((2, 32), int)
    long["attention_mask"] = np.pad(short["attention_mask"], ((0, 0), (0, 16)))
    alone, padded = states(encoder, short), states(encoder, long)[:, :32]
    assert jnp.abs(alone - padded).max() > 1e-3
    ours = model(padding_invariant=True)
    np.testing.assert_allclose(states(ours, short), states(ours, long)[:, :32], atol=1e-5)


@pytest.mark.parametrize("length", [33, TABLE])
def test_defect_12_hidden_states_have_the_callers_length(length):
    """HF-Torch leaves all but the last at the padded length."""
    m = model(num_hidden_layers=2)
    output = run(m, random_params(m), inputs(length), output_hidden_states=True)
    assert [x.shape for x in output.hidden_states] == [(2, length, 12)] * 3


def test_defect_12_position_table_may_be_shorter_than_the_padded_length():
    """HF-Torch raises where the padded length passes the position table."""
    m = model(max_position_embeddings=33)
    assert np.isfinite(states(m, inputs(33))).all()
