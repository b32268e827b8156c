"""`bigbird-books-mini`, the model inside the package: how it is found, and what it has learned."""

import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import flax_bigbird
from flax_bigbird import FlaxBigBirdForMaskedLM
from flax_bigbird.data.tokenization import load_tokenizer, tokenize
from flax_bigbird.examples.state_of_the_union.speeches import load_speeches, split_by_year
from flax_bigbird.inference import load_predictor
from flax_bigbird.nn.losses import negative_log_likelihood
from flax_bigbird.pretrained import DEFAULT_MODEL, local_path
from flax_bigbird.tasks.registry import get_task
from flax_bigbird.train import train, train_options
from flax_bigbird.train.model_setup import resolve_initial_model

pytestmark = pytest.mark.usefixtures("standard_dtype_promotion")  # bfloat16 parameters


@functools.cache
def loaded():
    return FlaxBigBirdForMaskedLM.from_pretrained(DEFAULT_MODEL)


@functools.cache
def token_ids():
    """Returns the token ids of some training speeches, and of some held-out ones."""
    tokenizer = load_tokenizer(DEFAULT_MODEL)
    splits = split_by_year(load_speeches())
    return tuple(tokenize(tokenizer, [s.text for s in speeches[::5]]) for speeches in splits)


def test_its_size_and_configuration():
    folder = Path(local_path(DEFAULT_MODEL))
    assert flax_bigbird.shipped_models() == [DEFAULT_MODEL]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 15e6
    leaves = jax.tree.leaves(loaded().params)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("bfloat16")}
    assert loaded().config.max_position_embeddings == 4096
    assert loaded().config.padding_invariant
    assert 4000 <= loaded().config.vocab_size <= 8000
    assert load_tokenizer(DEFAULT_MODEL).model_max_length == 4096


def test_its_model_card_states_its_source():
    card = (Path(local_path(DEFAULT_MODEL)) / "README.md").read_text(encoding="utf-8")
    for word in ("public domain", "State of the Union", "tokens", "held-out", "unigram"):
        assert word in card


@pytest.mark.parametrize("length", [256, 2048])
def test_it_predicts_masked_tokens_far_better_than_their_frequencies(length):
    """The tokens are those of held-out speeches, which it was not trained on."""
    training, held_out = token_ids()
    tokenizer, model = load_tokenizer(DEFAULT_MODEL), loaded()
    params = model.to_fp32(model.params)
    counts = np.bincount(np.concatenate(training), minlength=model.config.vocab_size) + 1
    unigram = -np.log2(counts / counts.sum())
    generator = np.random.default_rng(0)
    rows = []
    for speech in held_out:
        if len(speech) >= length - 2:
            start = generator.integers(0, len(speech) - length + 3)
            body = speech[start : start + length - 2]
            rows.append([tokenizer.cls_token_id, *body, tokenizer.sep_token_id])
    ids = np.array(rows[: max(2, 8192 // length)], np.int32)
    count = round(0.15 * length)
    positions = np.stack([1 + generator.permutation(length - 2)[:count] for _ in ids])
    labels = np.take_along_axis(ids, positions, 1)
    np.put_along_axis(ids, positions, np.asarray(tokenizer.mask_token_id), 1)
    logits = model(ids, params=params, logits_positions=positions).logits
    bits = np.asarray(negative_log_likelihood(logits, jnp.asarray(labels))).mean() / math.log(2)
    assert bits < unigram[labels].mean() - 2.5


def test_its_position_embeddings_encode_the_position():
    """A linear probe separates the first half of 2,048 positions from the second."""
    table = loaded().params["bert"]["embeddings"]["position_embeddings"]["embedding"][:2048]
    table = np.asarray(table, np.float64)
    half = np.where(np.arange(2048) < 1024, -1.0, 1.0)
    known, unseen = np.split(np.random.default_rng(0).permutation(2048), [512])
    inner = table[known].T @ table[known] + 1e-3 * np.eye(table.shape[1])
    probe = np.linalg.solve(inner, table[known].T @ half[known])
    assert np.mean(np.sign(table[unseen] @ probe) == half[unseen]) > 0.9


def test_a_folder_of_that_name_takes_precedence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(local_path(DEFAULT_MODEL)).is_absolute()
    (tmp_path / DEFAULT_MODEL).mkdir()
    assert local_path(DEFAULT_MODEL) == DEFAULT_MODEL
    assert local_path(f"someone/{DEFAULT_MODEL}") == f"someone/{DEFAULT_MODEL}"


def test_the_default_predictor_fills_masks():
    found = load_predictor()("Fellow-Citizens of the Senate and House of [MASK]: In the past year")
    assert found["masks"][0][0]["token"] == " Representatives"
    assert found["masks"][0][0]["score"] > 0.5


def test_fine_tuning_starts_from_it(tmp_path):
    def start(task, **changes):
        given = {"output_dir": str(tmp_path), "train_files": ["x"]} | changes
        return resolve_initial_model(train_options(task, **given), get_task(task))

    assert start("sequence-classification") == DEFAULT_MODEL
    other = local_path(DEFAULT_MODEL)
    assert start("question-answering", model=other) == other
    assert start("masked-lm") is None
    assert start("token-classification", config_overrides={"hidden_size": 8}) is None
    assert start("token-classification", tokenizer=other) is None


def test_a_head_is_trained_in_float32_from_it(tmp_path):
    rows = [{"text": f"word {n} of some", "label": "ab"[n % 2]} for n in range(40)]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train(
        train_options(
            "sequence-classification",
            output_dir=str(tmp_path / "run"),
            train_files=[str(file)],
            max_length=128,
            tokens_per_batch=256,
            max_steps=2,
            learning_rate=1e-6,
            validation_fraction=0.0,  # or the linear probe is saved, if no step improves on it
        )
    )
    trained = flax_bigbird.FlaxBigBirdForSequenceClassification.from_pretrained(tmp_path / "run")
    leaves = jax.tree.leaves(trained.params)
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    old, new = (
        flatten_dict(tree)[("bert", "embeddings", "word_embeddings", "embedding")]
        for tree in (loaded().params, trained.params)
    )
    # A step of 1e-6 is less than bfloat16 can hold.
    assert 0 < np.abs(np.asarray(new) - np.asarray(old, np.float32)).max() < 1e-5
