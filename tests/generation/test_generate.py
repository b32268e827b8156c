"""The results of `generate`: layout, padding, compiled programs, streaming and sampling."""

import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from tiny_models import B, V

KINDS = {
    "full": {"attention_type": "original_full"},
    "hf": {},
    "google": {"random_attention": "google", "num_attention_heads": 4},
    "fixed": {"random_attention": "fixed"},
}
NO_END = {"eos_token_id": None, "pad_token_id": 0}


def make(kind="hf", **changes):
    return tiny_models.model("ForCausalLM", **KINDS[kind], **changes)


def prompt(length=11, seed=0):
    return tiny_models.inputs(length=length, seed=seed)["input_ids"]


def step_by_step(model, ids, count):
    """Returns the greedy continuation, computed without a cache."""

    @jax.jit
    def scores(ids, at):
        return model(ids, params=model.params).logits[:, at]

    size = ids.shape[1]
    wide = np.pad(ids, ((0, 0), (0, count)))
    for at in range(size, size + count):
        wide[:, at] = np.asarray(scores(wide, at - 1).argmax(-1))
    return wide


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 8, 11])
def test_greedy_search_equals_calls_without_a_cache(kind, length):
    model, ids = make(kind), prompt(length)
    out = model.generate(ids, max_new_tokens=25, **NO_END)
    np.testing.assert_array_equal(out.sequences, step_by_step(model, ids, 25))
    assert list(out.keys()) == ["sequences"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_padding_on_either_side_changes_nothing(kind, options):
    """Each prompt is continued as it is alone, and is returned as it was passed."""
    model = make(kind)
    options = options | NO_END | {"max_new_tokens": 7}
    texts = [prompt(n, seed=n)[0] for n in (13, 5, 9, 1)]
    ids = np.zeros((4, 13), np.int32)
    mask = np.zeros_like(ids)
    for row, text, first in zip(
        range(4), texts, (0, 8, 0, 6), strict=True
    ):  # none, left, right, both
        ids[row, first : first + len(text)] = text
        mask[row, first : first + len(text)] = 1
    out = np.asarray(model.generate(ids, attention_mask=mask, **options).sequences)
    np.testing.assert_array_equal(out[:, :13], ids)
    for row, text in zip(out, texts, strict=True):
        alone = np.asarray(model.generate(text[None], **options).sequences)[0]
        np.testing.assert_array_equal(row[13:], alone[len(text) :])


def test_padding_follows_the_end():
    """All sequences have max_length tokens, as in HF-Flax."""
    model, ids = make(), prompt()
    free = np.asarray(model.generate(ids, max_new_tokens=6, **NO_END).sequences)
    end = int(free[0, 12])
    out = model.generate(ids, max_length=17, eos_token_id=[end, int(free[1, 11])], pad_token_id=3)
    assert out.sequences.shape == (B, 17)
    np.testing.assert_array_equal(np.asarray(out.sequences)[0, 11:], [*free[0, 11:13], 3, 3, 3, 3])
    np.testing.assert_array_equal(np.asarray(out.sequences)[1, 12:], [3] * 5)
    other = model.generate(ids, max_length=17, eos_token_id=end).sequences
    np.testing.assert_array_equal(np.asarray(other)[0, 13:], [0] * 4)


def counting(calls):
    def rule(tokens, scores, length):
        calls.append(tokens.shape)
        return scores

    return rule


class TestPrograms:
    """A program is compiled once for its options and its rounded shapes."""

    @pytest.fixture
    def traces(self, monkeypatch):
        """A list with one entry for every trace of a program."""
        from flax_bigbird.models import programs, text_generation

        count = []
        counted = self.counted(text_generation._decode, count)
        monkeypatch.setattr(text_generation, "_decode", counted)
        monkeypatch.setattr(programs, "_programs", {})
        return count

    @staticmethod
    def counted(function, count):
        def run(*args, **kwargs):
            count.append(1)
            return function(*args, **kwargs)

        return run

    def test_is_traced_once(self, traces):
        """Other prompts, lengths of as many blocks, values and parameters reuse the program."""
        model = make()
        options = NO_END | {"do_sample": True, "top_k": 0}
        model.generate(prompt(9), max_new_tokens=5, temperature=0.7, top_p=0.9, **options)
        assert len(traces) == 1
        model.generate(prompt(9, 1), max_new_tokens=8, temperature=1.7, top_p=0.5, **options)
        model.generate(prompt(11), max_new_tokens=6, temperature=0.2, top_p=0.1, **options)
        other = jax.tree.map(lambda x: x + 0.01, model.params)
        key = jax.random.PRNGKey(3)
        model.generate(
            prompt(10),
            None,
            key,
            params=other,
            max_new_tokens=7,
            temperature=2.0,
            top_p=0.3,
            **options,
        )
        assert len(traces) == 1
        model.generate(prompt(9), max_new_tokens=5, **options)
        assert len(traces) == 2

    def test_the_model_is_traced_twice(self):
        """The model is traced twice, for prefill and for a step, whatever the number of tokens."""
        calls = []
        make().generate(prompt(), max_new_tokens=25, logits_processor=counting(calls), **NO_END)
        assert calls == [(B, 11 + 25)] * 2

    def test_a_changed_configuration_is_seen(self):
        model = tiny_models.task_class("ForCausalLM")(
            tiny_models.config(is_decoder=True, attention_type="original_full"), _do_init=False
        )
        params = tiny_models.random_params(model)
        before = model.generate(prompt(), params=params, max_new_tokens=9, **NO_END).sequences
        model.config.hidden_act = "relu"
        after = model.generate(prompt(), params=params, max_new_tokens=9, **NO_END).sequences
        assert (np.asarray(before) != np.asarray(after)).any()

    def test_inside_jit(self):
        """Programs that distribute generation over devices call it so."""
        model, ids = make(), prompt()

        @jax.jit
        def run(params, ids, mask):
            options = {"attention_mask": mask, "max_new_tokens": 6, **NO_END}
            return model.generate(ids, params=params, **options).sequences

        want = model.generate(ids, max_new_tokens=6, **NO_END).sequences
        np.testing.assert_array_equal(run(model.params, ids, np.ones_like(ids)), want)

    def test_nothing_large_is_copied(self):
        """A step updates the cache in place, and does not transpose the word embeddings."""
        from flax_bigbird.generation.decoding_options import compile_options
        from flax_bigbird.generation.generation_config import merge_options
        from flax_bigbird.models import text_generation

        model = make(max_position_embeddings=512)
        values = merge_options(NO_END | {"max_new_tokens": 8})
        options, scalars = compile_options(
            values, prompt_length=256, max_new_tokens=8, max_slots=8, vocab_size=V
        )
        arguments = {
            "ids": np.zeros((1, 256), np.int32),
            "mask": None,
            "max_new_tokens": np.int32(8),
            "scalars": scalars,
            "key": jax.random.PRNGKey(0),
            "stream_id": np.int32(0),
        }
        run = functools.partial(text_generation._decode, model.module, options, (), streaming=False)
        text = jax.jit(run).lower(model.params, arguments).compile().as_text()
        assert text is not None
        heads = (tiny_models.HEADS, tiny_models.D // tiny_models.HEADS)
        cache = f"f32[1,{256 + 8},{heads[0]},{heads[1]}]"
        assert cache in text
        table = re.escape(f"f32[{V},{tiny_models.D}]"), re.escape(f"f32[{tiny_models.D},{V}]")
        large = rf"= ({re.escape(cache)}|{'|'.join(table)})\S* (copy|transpose)\("
        body = [x for x in text.splitlines() if "/while/body/" in x]
        assert body
        assert not [x for x in body if re.search(large, x)]


class TestStream:
    def test_function_sees_each_step(self):
        seen = []
        out = make().generate(prompt(), max_new_tokens=9, streamer=seen.append, **NO_END)
        np.testing.assert_array_equal(np.stack(seen, 1), np.asarray(out.sequences)[:, 11:])

    def test_object_gets_the_prompt_the_tokens_and_the_end(self):
        seen = []
        streamer = types.SimpleNamespace(put=seen.append, end=lambda: seen.append("end"))
        ids = prompt()[:1]
        out = make().generate(ids, max_new_tokens=3, streamer=streamer, **NO_END).sequences
        np.testing.assert_array_equal(seen[0], ids)
        np.testing.assert_array_equal(np.concatenate(seen[1:-1]), np.asarray(out)[0, 11:])
        assert seen[-1] == "end"

    def test_inside_jit_there_is_nothing_to_receive(self):
        run = jax.jit(lambda ids: make().generate(ids, streamer=print, **NO_END).sequences)
        with pytest.raises(ValueError, match="streamer has nothing to receive"):
            run(prompt())

    def test_an_error_stops_the_loop_and_comes_out(self):
        seen = []

        def fail(tokens):
            seen.append(tokens)
            if len(seen) == 3:
                raise RuntimeError("the receiver is gone")

        with pytest.raises(RuntimeError, match="the receiver is gone"):
            make().generate(prompt(), max_new_tokens=20, streamer=fail, **NO_END)
        assert len(seen) == 3
        again = make().generate(prompt(), max_new_tokens=20, streamer=lambda x: None, **NO_END)
        assert again.sequences.shape == (B, 31)


class TestSampling:
    def draw(self, model, seed, copies=600, **options):
        """Returns the first two tokens of many samples of one prompt."""
        options = {"max_new_tokens": 2, "num_return_sequences": copies, "top_k": 0} | options
        key = jax.random.PRNGKey(seed)
        out = model.generate(prompt()[:1], None, key, do_sample=True, **options, **NO_END)
        assert out.sequences.shape == (copies, 13)
        return np.asarray(out.sequences)[:, 11:]

    @staticmethod
    def probabilities(model, ids, temperature=1.0):
        return np.asarray(jax.nn.softmax(model(ids).logits[:, -1] / temperature, -1), np.float64)

    @staticmethod
    def fits(counts, probabilities):
        """Returns whether Pearson's chi-square lies below its 0.999 quantile.

        Tokens that are expected less than 5 times are counted as one.
        """
        expected = probabilities * counts.sum()
        often = expected >= 5
        counts, expected = (np.append(x[often], x[~often].sum()) for x in (counts, expected))
        statistic = ((counts - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
        freedom = len(counts) - 1
        quantile = freedom * (1 - 2 / (9 * freedom) + 3.09 * np.sqrt(2 / (9 * freedom))) ** 3
        return statistic < quantile

    @pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
    def test_follows_the_probabilities(self, temperature):
        model = make()
        options = {} if temperature == 1 else {"temperature": temperature}
        for seed in (0, 1):
            drawn = self.draw(model, seed, **options)
            wanted = self.probabilities(model, prompt()[:1], temperature)[0]
            first = np.bincount(drawn[:, 0], minlength=V)
            assert self.fits(first, wanted)
            other = self.probabilities(model, prompt()[:1], temperature / 2)[0]
            assert not self.fits(first, other)
            # The second token follows from each first one: compare its overall frequencies.
            texts = np.concatenate([np.repeat(prompt()[:1], V, 0), np.arange(V)[:, None]], 1)
            after = wanted @ self.probabilities(model, texts.astype(np.int32), temperature)
            assert self.fits(np.bincount(drawn[:, 1], minlength=V), after)

    @pytest.mark.parametrize(
        "options", [{"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.3}, {"top_k": 9, "top_p": 0.5}]
    )
    def test_draws_all_that_is_left_and_nothing_else(self, options):
        model = make()
        wanted = self.probabilities(model, prompt()[:1])[0]
        order = np.argsort(-wanted)
        kept = np.zeros(V, bool)
        kept[order[: options.get("top_k", V)]] = True
        share = np.where(kept, wanted, 0) / wanted[kept].sum()
        if "top_p" in options:
            before = np.cumsum(share[order]) - share[order]
            kept[order[before >= options["top_p"]]] = False
        if "min_p" in options:
            kept &= wanted >= options["min_p"] * wanted.max()
        assert 1 < kept.sum() < V
        drawn = self.draw(model, 0, **options)[:, 0]
        np.testing.assert_array_equal(np.unique(drawn), np.flatnonzero(kept))
        share = np.where(kept, wanted, 0) / wanted[kept].sum()
        assert self.fits(np.bincount(drawn, minlength=V), share)

    def test_key_decides(self):
        one, two, again = (self.draw(make(), seed, 50) for seed in (0, 1, 0))
        np.testing.assert_array_equal(one, again)
        assert (one != two).any()
        options = {"do_sample": True, "max_new_tokens": 6, "temperature": 3.0}
        default = make().generate(prompt(), **options, **NO_END).sequences
        zero = make().generate(prompt(), None, jax.random.PRNGKey(0), **options, **NO_END).sequences
        np.testing.assert_array_equal(default, zero)


def test_beam_scores():
    """They are sums of log probabilities over length ** penalty, best first, above greedy's."""
    model, ids = make(), prompt()
    options = {"max_new_tokens": 6, "num_beams": 4, "num_return_sequences": 3}
    out = model.generate(ids, length_penalty=0.7, **options, **NO_END)
    assert out.sequences.shape == (B * 3, 17)
    assert out.scores.shape == (B * 3,)

    def total(sequences):
        logits = jax.nn.log_softmax(model(sequences).logits, -1)[:, 10:-1]
        chosen = jnp.take_along_axis(logits, jnp.asarray(sequences)[:, 11:, None], -1)
        return np.asarray(chosen.sum((1, 2))) / 6**0.7

    np.testing.assert_allclose(out.scores, total(out.sequences), atol=1e-4)
    scores = np.asarray(out.scores).reshape(B, 3)
    assert (np.diff(scores, axis=1) <= 0).all()
    greedy = model.generate(ids, max_new_tokens=6, **NO_END).sequences
    assert (scores[:, 0] >= total(greedy) - 1e-5).all()


@pytest.mark.usefixtures("standard_dtype_promotion")
@pytest.mark.parametrize("kind", ["full", "fixed"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(kind, dtype):
    """Steps with a cache select the tokens of one call on the whole text, except for near ties."""
    model, ids = make(kind, dtype=dtype), prompt()
    out = np.asarray(model.generate(ids, max_new_tokens=12, **NO_END).sequences)
    scores = np.asarray(model(out).logits, np.float32)[:, 10:-1]
    chosen = np.take_along_axis(scores, out[:, 11:, None], -1)[..., 0]
    assert (chosen >= scores.max(-1) - 0.1).all()


def test_gradient_checkpointing_changes_nothing():
    model, ids = make(), prompt()
    other = tiny_models.task_class("ForCausalLM")(
        model.config, _do_init=False, gradient_checkpointing=True
    )
    got = other.generate(ids, params=model.params, max_new_tokens=5, **NO_END).sequences
    np.testing.assert_array_equal(got, model.generate(ids, max_new_tokens=5, **NO_END).sequences)


class BoostedModule(tiny_models.module_class("ForCausalLM")):
    """A user's module, which calls its base class by position as with HF-Flax."""

    def __call__(self, input_ids, attention_mask, position_ids, *args, **kwargs):
        kwargs["return_dict"] = False
        out = super().__call__(input_ids, attention_mask, position_ids, *args, **kwargs)
        return (out[0].at[..., 7].add(1e4), *out[1:])


def test_a_users_module_generates():
    cls = type("Model", (tiny_models.task_class("ForCausalLM"),), {"module_class": BoostedModule})
    model = cls(tiny_models.config(is_decoder=True), _do_init=False)
    params = make().params
    out = model.generate(prompt(), params=params, max_new_tokens=4, **NO_END).sequences
    assert (np.asarray(out)[:, 11:] == 7).all()


@pytest.mark.parametrize("kind", ["full", "fixed"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"do_sample": True, "top_p": 0.9}])
def test_with_integers_of_64_bits(kind, options):
    model, ids = make(kind), prompt()
    mask = np.ones_like(ids)
    mask[0, :3] = 0
    options = {"attention_mask": mask, "max_new_tokens": 4, **NO_END, **options}
    want = model.generate(ids, **options).sequences
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        got = model.generate(ids, **options).sequences
    if "do_sample" not in options:  # whose random bits differ
        np.testing.assert_array_equal(got, want)


def test_trace_false_gives_the_same():
    model, ids = make(), prompt()[:1]
    want = model.generate(ids, max_new_tokens=3, **NO_END).sequences
    got = model.generate(ids, max_new_tokens=3, trace=False, **NO_END).sequences
    np.testing.assert_array_equal(got, want)


def test_custom_logits_processor():
    """It receives tokens, scores and length, after the processors of the options."""

    def next_number(tokens, scores, length):
        last = jnp.take(tokens, length - 1, axis=1)
        return jnp.where(jnp.arange(V) == (last + 1)[:, None] % V, 0.0, -jnp.inf)

    out = make().generate(prompt(), max_new_tokens=5, logits_processor=[next_number], **NO_END)
    last = prompt()[:, -1:]
    np.testing.assert_array_equal(np.asarray(out.sequences)[:, 11:], (last + np.arange(1, 6)) % V)
