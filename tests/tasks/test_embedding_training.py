"""The loss, the gradient and the examples of embedding."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import random_params

import flax_bigbird
from flax_bigbird.data.batching import stack
from flax_bigbird.tasks.embedding_data import encode_example, encode_text, get_example
from flax_bigbird.tasks.embedding_losses import batch_loss, embed_rows
from flax_bigbird.tasks.options import OptionError
from flax_bigbird.tasks.registry import get_task

COLUMNS = {"query_column": "q", "document_column": "d", "negative_column": "n"}
ROWS = [
    {"q": "the cow", "d": "a green meadow", "n": ["grass", "an old barn"]},
    {"q": "a ship", "d": "the grey harbor and the wet quay", "n": []},
    {"q": "farmers", "d": "farmers cut grass", "n": ["a ship leaves"]},
    {"q": "the cow", "d": "grazes in a green meadow", "n": ["sailors mend nets", "wet"]},
    {"q": "sailors", "d": "sailors mend nets", "n": []},
]


def batch_of(task, rows, length=64):
    """Returns the batch of rows of pairs."""
    encoded = [
        encode_example(get_example(row, task.options), task.tokenizer, task.options) for row in rows
    ]
    count = max(row["num_documents"] for row in encoded)
    extra = {"query_length": 16, "num_documents": count}
    generator = np.random.default_rng(0)
    return stack([task.collate(row | extra, length, generator) for row in encoded])


@pytest.fixture
def make_model():
    def make(task, dropout=0.0):
        config = task.config
        for name, value in {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
            "initializer_range": 0.3,
        }.items():
            setattr(config, name, value)
        model = flax_bigbird.FlaxBigBirdModel(config, _do_init=False, add_pooling_layer=False)
        return model, random_params(model)

    return make


def gradient_of(task, model, params, batch, **call):
    return jax.jit(jax.grad(lambda p: task.loss(model, p, batch, **call).mean))(params)


def assert_close(tree, expected, tolerance=1e-6):
    """Asserts that gradients are equal but for rounding errors."""
    largest = max(1.0, *(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected)))
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * largest, rtol=0)


@pytest.mark.parametrize(
    ("pooling_mode", "sizes"), [("mean", [2, 8]), ("weightedmean", [3]), ("lasttoken", [3])]
)
def test_the_cached_gradient_is_that_of_the_whole_batch(make_task, make_model, pooling_mode, sizes):
    # A low temperature would multiply the rounding errors of the cosines.
    options = COLUMNS | {"pooling_mode": pooling_mode, "matryoshka_dims": [4], "temperature": 0.5}
    task = make_task("embedding", options)
    model, params = make_model(task)
    batch = batch_of(task, ROWS)
    expected = gradient_of(task, model, params, batch, train=True, dropout_rng=jax.random.key(0))
    for size in sizes:
        cached = make_task("embedding", options | {"mini_batch_size": size})
        found = gradient_of(cached, model, params, batch, train=True, dropout_rng=jax.random.key(0))
        assert_close(found, expected)


def test_the_cached_gradient_with_dropout_is_that_of_two_passes(make_task, make_model):
    """GradCache as its paper has it: vectors without gradients, then their gradients, then all."""
    task = make_task("embedding", COLUMNS | {"mini_batch_size": 2, "temperature": 0.5})
    model, params = make_model(task, dropout=0.2)
    batch = {name: jnp.asarray(values) for name, values in batch_of(task, ROWS[:4]).items()}
    key = jax.random.key(5)
    parts = [
        ({name: values[index::2] for name, values in batch.items()}, jax.random.fold_in(key, index))
        for index in range(2)
    ]

    @jax.jit
    def embed(params, part):
        rows, key = part
        return embed_rows(model, params, rows, key, "mean", train=True)

    @jax.jit
    def backward(params, part, cotangent):
        return jax.vjp(lambda p: embed(p, part), params)[1](cotangent)[0]

    results = [embed(params, part) for part in parts]

    def joined(first, second):
        return jnp.stack([first, second], 1).reshape(4, *first.shape[1:])

    def loss(results):
        queries, documents = map(joined, *results)
        return batch_loss(queries, documents, batch, task.loss_name, task.options)

    cotangents = jax.jit(jax.grad(loss))(results)
    gradients = [backward(params, *pair) for pair in zip(parts, cotangents, strict=True)]
    total = jax.tree.map(jnp.add, *gradients)
    found = gradient_of(task, model, params, batch, train=True, dropout_rng=key)
    assert_close(found, total)
    other = gradient_of(task, model, params, batch, train=True, dropout_rng=jax.random.key(6))
    differences = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), found, other)
    assert max(jax.tree.leaves(differences)) > 1e-3


def test_what_is_relevant_is_no_negative(make_task, make_model):
    """Equal documents, and the documents of equal queries, do not change the loss of a query."""
    task = make_task("embedding", COLUMNS | {"negative_column": None})
    model, params = make_model(task)
    loss = jax.jit(lambda batch: task.loss(model, params, batch).mean)
    pair = {"q": "the fox", "d": "a lazy dog"}
    same_query = {"q": "the fox", "d": "the old mill"}
    other = {"q": "noon", "d": "it sleeps"}
    assert float(loss(batch_of(task, [pair, pair]))) == 0
    assert float(loss(batch_of(task, [pair, same_query]))) == 0
    assert float(loss(batch_of(task, [pair, other | {"d": "a lazy dog"}]))) == 0
    assert float(loss(batch_of(task, [pair, other]))) > 1e-3


@pytest.mark.parametrize("pooling_mode", ["mean", "weightedmean", "cls", "lasttoken"])
def test_vectors_do_not_depend_on_padding(make_task, make_model, pooling_mode):
    """Those of training and evaluation, which are not computed as those of `bigbird embed`."""
    task = make_task("embedding", COLUMNS | {"pooling_mode": pooling_mode})
    model, params = make_model(task)
    step = jax.jit(lambda batch: task.eval_step(model, params, batch))
    short, long = (step(batch_of(task, ROWS, length)) for length in (40, 64))
    for name in ("queries", "documents"):
        np.testing.assert_allclose(long[name], short[name], atol=1e-5)


def test_padding_that_is_not_finite_does_not_count(make_task):
    def model(ids, mask, params):
        states = jnp.where(mask[..., None] > 0, 1.0, jnp.nan) * jnp.ones(4)
        return SimpleNamespace(last_hidden_state=states)

    task = make_task("embedding", COLUMNS)
    for vectors in task.eval_step(model, None, batch_of(task, ROWS)).values():
        np.testing.assert_allclose(vectors, 1, rtol=1e-6)
    (window,) = task.encode({"text": "the cow"})
    batch = jax.tree.map(jnp.asarray, stack([task.collate_window(window, 16)]))
    sums = task.predict_step(model, None, batch)["sums"]
    np.testing.assert_allclose(sums, len(window.input_ids), rtol=1e-6)


@pytest.mark.usefixtures("standard_dtype_promotion")  # Flax promotes in half precision
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_losses_and_vectors_are_float32(make_task, make_model, dtype):
    task = make_task("embedding", COLUMNS)
    _, params = make_model(task)
    model = flax_bigbird.FlaxBigBirdModel(
        task.config, _do_init=False, add_pooling_layer=False, dtype=dtype
    )
    batch = batch_of(task, ROWS)
    loss = jax.eval_shape(lambda p: task.loss(model, p, batch), params)
    outputs = jax.eval_shape(lambda p: task.eval_step(model, p, batch), params)
    assert (loss.mean.shape, loss.mean.dtype) == ((), jnp.float32)
    assert {name: x.shape for name, x in outputs.items()} == {
        "queries": (5, 16),
        "documents": (5, 3, 16),
    }
    assert all(x.dtype == jnp.float32 for x in outputs.values())


def test_crops_are_random_parts_of_one_text(make_task):
    task = make_task("embedding", {"max_length": 16, "crop_min_ratio": 0.3, "crop_max_ratio": 0.6})
    text = "the quick brown fox jumps over the lazy dog"
    (row,) = encode_text(text, task.tokenizer, task.options)
    (ids,) = row["documents"]
    example = row | {"query_length": 0, "num_documents": 1}
    seen = set()
    for seed in range(20):
        batch = task.collate(example, 16, np.random.default_rng(seed))
        for name in ("query_", ""):
            mask = batch[f"{name}attention_mask"].reshape(-1)
            part = batch[f"{name}input_ids"].reshape(-1)[mask > 0].tolist()
            assert part[0] == task.tokenizer.cls_token_id
            assert part[-1] == task.tokenizer.sep_token_id
            assert round(0.3 * len(ids)) <= len(part) - 2 <= min(14, round(0.6 * len(ids)))
            starts = [n for n in range(len(ids)) if ids[n : n + len(part) - 2] == part[1:-1]]
            assert starts
            seen.add((starts[0], len(part)))
    assert len(seen) > 10
    same = [task.collate(example, 16, np.random.default_rng(3)) for _ in range(2)]
    assert all((same[0][name] == same[1][name]).all() for name in same[0])
    assert list(encode_text("a cow", task.tokenizer, task.options)) == []


RESOLVED = [
    (["anchor", "positive"], ("anchor", "positive", None, None)),
    (["query", "positive", "negative"], ("query", "positive", "negative", None)),
    (
        ["query", "answer", "negative_2", "negative_1", "negative_10"],
        ("query", "answer", "negative_1,negative_2,negative_10", None),
    ),
    (["sentence1", "sentence2", "score", "id"], ("sentence1", "sentence2", None, "score")),
    (["question", "text"], ("question", "text", None, None)),
    (["text", "label"], (None, None, None, None)),
]


@pytest.mark.parametrize(("names", "expected"), RESOLVED)
def test_usual_names_of_columns_are_recognized(names, expected):
    task = get_task("embedding")
    options = task.resolve_columns(task.options_class(), names)
    roles = ("query_column", "document_column", "negative_column", "score_column")
    assert tuple(getattr(options, role) for role in roles) == expected
    assert set(task.columns(options)) <= set(names)


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (["anchor", "query", "positive"], {}, "query_column must be given if several .* query and"),
        (["query", "positive", "answer"], {}, "document_column must be given if several columns"),
        (["query", "positive", "score", "label"], {}, "score_column must be given if several"),
        (["query", "d", "negative", "negatives"], {"document_column": "d"}, "negative_column must"),
        (["query", "positive", "negative", "score"], {}, "pairs must have scores or negatives"),
        (["query", "positive"], {"crop_max_ratio": 0.4}, "crop_max_ratio belongs to texts alone"),
        (["text"], {"query_prompt": "q: "}, "query_prompt belongs to pairs"),
        (["text"], {"loss": "cosent"}, "loss=cosent needs pairs with scores"),
        (["query", "positive", "score"], {"symmetric": True}, "symmetric belongs to loss=multiple"),
    ],
)
def test_columns_and_options_that_contradict_each_other(names, changes, message):
    task = get_task("embedding")
    with pytest.raises(OptionError, match=message):
        task.resolve_columns(task.options_class(**changes), names)
