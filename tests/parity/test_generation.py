"""Token for token what PyTorch's `generate` writes with full attention: greedy and beam search."""

import functools
from typing import Any

import numpy as np
import pytest
import tiny_models

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

SEEDS = range(4)
PAD, EOS = 0, 2
PROMPT, NEW = 9, 12

GREEDY = {
    "plain": {},
    "no_end": {"eos_token_id": None},
    "ends": {"eos_token_id": [2, 7, 11, 30]},
    "min_new_tokens": {"eos_token_id": list(range(20, 40)), "min_new_tokens": 5},
    "min_length": {"eos_token_id": list(range(20, 40)), "min_length": PROMPT + 3},
    "max_length": {"max_new_tokens": None, "max_length": PROMPT + 4},
    "repetition": {"repetition_penalty": 1.7},
    "reward": {"repetition_penalty": 0.6},
    # PyTorch counts the padding before a prompt as its text, and would bar the pad token.
    "no_repeat_1": {"no_repeat_ngram_size": 1, "eos_token_id": None, "suppress_tokens": [PAD]},
    "no_repeat_2": {"no_repeat_ngram_size": 2, "eos_token_id": None},
    "no_repeat_3": {"no_repeat_ngram_size": 3, "eos_token_id": None},
    "suppress": {"suppress_tokens": list(range(3, 22))},
    "begin_suppress": {"begin_suppress_tokens": list(range(20, 40))},
    "forced_end": {"forced_eos_token_id": 5, "eos_token_id": None},
    "bad_words": {"bad_words_ids": [[28], [29, 30], *([x, 31] for x in range(10, 40))]},
    "everything": {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "min_new_tokens": 4,
        "suppress_tokens": [9, 10, 11],
        "forced_eos_token_id": EOS,
        "eos_token_id": [EOS, 25],
    },
}
MANY_ENDS = [2, 6, 12, 22, 28, 32]
BEAMS = {
    "plain": {},
    "ends": {"eos_token_id": MANY_ENDS},
    "short": {"length_penalty": -1.5, "eos_token_id": MANY_ENDS},
    "no_penalty": {"length_penalty": 0.0, "eos_token_id": MANY_ENDS},
    "long": {"length_penalty": 2.5, "eos_token_id": MANY_ENDS},
    "early": {"early_stopping": True, "eos_token_id": MANY_ENDS},
    "never": {"early_stopping": "never", "eos_token_id": MANY_ENDS},
    "never_short": {"early_stopping": "never", "length_penalty": -1.0, "eos_token_id": MANY_ENDS},
    "several": {"num_return_sequences": 3, "eos_token_id": [2, 7, 30]},
    "five": {"num_beams": 5, "num_return_sequences": 2, "eos_token_id": MANY_ENDS},
    "no_repeat": {"no_repeat_ngram_size": 2, "num_return_sequences": 2},
    "rules": {
        "repetition_penalty": 1.4,
        "min_new_tokens": 4,
        "suppress_tokens": [9, 10],
        "forced_eos_token_id": EOS,
        "eos_token_id": MANY_ENDS,
    },
}


def our_model(**changes):
    return tiny_models.model(
        "ForCausalLM", attention_type="original_full", **tiny_models.TWO_LAYERS, **changes
    )


@functools.cache
def params(seed: int):
    """Weights whose scores lie far apart, so that rounding decides nothing."""
    drawn = tiny_models.random_params(our_model(), seed)
    drawn["cls"]["predictions"]["transform"]["LayerNorm"]["scale"] *= 4
    return drawn


@pytest.fixture(scope="module")
def torch_model(tmp_path_factory):
    """`torch_model(seed)` with the weights of `params(seed)`."""

    @functools.cache
    def load(seed: int):
        folder = tmp_path_factory.mktemp("model")
        our_model().save_pretrained(folder, params=params(seed))
        level = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()
        model = transformers.BigBirdForCausalLM.from_pretrained(folder).eval()
        transformers.logging.set_verbosity(level)
        return model

    return load


def prompts(seed: int, length: int = PROMPT):
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, tiny_models.V, (3, length)).astype(np.int32)
    mask = np.ones_like(ids)
    mask[0, : length // 2] = 0
    mask[1, : length - 1] = 0
    return np.where(mask, ids, PAD), mask


def theirs(model, ids, mask, **options) -> tuple[np.ndarray, Any]:
    """PyTorch's output, as its sequences and scores (None for greedy search)."""
    wanted = {"output_scores": True, "return_dict_in_generate": True}
    with torch.no_grad():
        out = model.generate(
            torch.tensor(ids).long(),
            attention_mask=torch.tensor(mask).long(),
            do_sample=False,
            **options,
            **wanted,
        )
    return out.sequences.numpy(), getattr(out, "sequences_scores", None)


def same_tokens(ours, wanted, options):
    """Equal up to each row's first end; behind it ours has padding (theirs may repeat an end)."""
    ends = options.get("eos_token_id")
    ends = [ends] if isinstance(ends, int) else ends or []
    assert len(ours) == len(wanted)
    for mine, row in zip(np.asarray(ours)[:, PROMPT:], wanted[:, PROMPT:], strict=True):
        stops = [i for i, token in enumerate(row) if token in ends]
        end = stops[0] + 1 if stops else len(row)
        np.testing.assert_array_equal(mine[:end], row[:end])
        assert (mine[end:] == PAD).all()


@pytest.mark.parametrize("name", GREEDY)
def test_greedy(torch_model, name):
    options = {"max_new_tokens": NEW, "eos_token_id": EOS, "pad_token_id": PAD} | GREEDY[name]
    written = []
    for seed in SEEDS:
        ids, mask = prompts(seed)
        wanted, _ = theirs(torch_model(seed), ids, mask, **options)
        ours = our_model().generate(ids, attention_mask=mask, params=params(seed), **options)
        same_tokens(ours.sequences, wanted, options)
        written.append(np.asarray(ours.sequences)[:, PROMPT:])
    assert len({row.tobytes() for rows in written for row in rows}) > 3, "the texts differ"


@pytest.mark.parametrize("name", BEAMS)
def test_beam_search(torch_model, name):
    options = {"max_new_tokens": NEW, "eos_token_id": EOS, "pad_token_id": PAD, "num_beams": 3}
    options |= BEAMS[name]
    for seed in SEEDS:
        ids, mask = prompts(seed)
        wanted, scores = theirs(torch_model(seed), ids, mask, **options)
        ours = our_model().generate(ids, attention_mask=mask, params=params(seed), **options)
        same_tokens(ours.sequences, wanted, options)
        np.testing.assert_allclose(ours.scores, scores, atol=1e-4, rtol=1e-4)


def test_forced_start(torch_model):
    """Of a prompt of one token: the second is given, and the third the first that may be barred."""
    options = {"max_new_tokens": 6, "eos_token_id": EOS, "pad_token_id": PAD}
    options |= {"forced_bos_token_id": 17, "begin_suppress_tokens": list(range(20, 40))}
    for seed in SEEDS:
        ids = np.array([[5], [9], [33]], np.int32)
        mask = np.ones_like(ids)
        wanted, _ = theirs(torch_model(seed), ids, mask, **options)
        ours = our_model().generate(ids, params=params(seed), **options).sequences
        assert (np.asarray(ours)[:, 1] == 17).all()
        np.testing.assert_array_equal(np.asarray(ours)[:, : wanted.shape[1]], wanted)


def test_configuration_of_the_checkpoint(tmp_path):
    """`generation_config.json` written by either side steers the other."""
    import flax_bigbird

    model = our_model()
    model.save_pretrained(tmp_path, params=params(0))
    stored = transformers.GenerationConfig(
        max_new_tokens=5, num_beams=2, eos_token_id=[EOS, 28], pad_token_id=PAD, length_penalty=0.3
    )
    stored.save_pretrained(tmp_path)
    ours = flax_bigbird.FlaxBigBirdForCausalLM.from_pretrained(tmp_path)
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    other = transformers.BigBirdForCausalLM.from_pretrained(tmp_path).eval()
    ours.save_pretrained(tmp_path / "again")
    again = transformers.BigBirdForCausalLM.from_pretrained(tmp_path / "again").eval()
    transformers.logging.set_verbosity(level)
    ids, mask = prompts(0)
    got = ours.generate(ids, attention_mask=mask)
    assert got.sequences.shape == (3, PROMPT + 5)
    for model in (other, again):
        wanted, scores = theirs(model, ids, mask)
        same_tokens(got.sequences, wanted, {"eos_token_id": [EOS, 28]})
        np.testing.assert_allclose(got.scores, scores, atol=1e-4)
