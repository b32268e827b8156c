"""Rows that `ROW_MASK` leaves out change neither the loss of a task nor its gradient."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_bigbird.data.types import ROW_MASK
from flax_bigbird.nn.losses import IGNORED_LABEL
from flax_bigbird.tasks.embedding_losses import batch_loss
from flax_bigbird.tasks.masked_lm import MaskedLM
from flax_bigbird.tasks.registry import get_task, task_names
from flax_bigbird.tasks.row_masks import loss_masks_rows

B, T, P, C, V = 3, 8, 3, 4, 40
SEED = 0


class TableModel:
    """Returns rows of a table, its parameters, as the logits of every head."""

    def __init__(self, per_example):
        self.per_example = per_example

    def __call__(self, input_ids, attention_mask=None, *, params, logits_positions=None, **call):
        del attention_mask, call
        tokens = params[input_ids]
        if logits_positions is not None:
            tokens = jnp.take_along_axis(tokens, logits_positions[..., None], 1)
        if input_ids.ndim == 3:  # choices
            return types.SimpleNamespace(logits=tokens.mean(2)[..., 0])
        pooled = tokens.mean(1)
        return types.SimpleNamespace(
            logits=pooled[:, :C] if self.per_example else tokens,
            prediction_logits=tokens,
            seq_relationship_logits=pooled[:, :2],
            start_logits=tokens[..., 0],
            end_logits=tokens[..., 1],
        )


def targets_of(name, problem_type, rng):
    positions = {"positions": rng.integers(0, T, (B, P))}
    if name in ("masked-lm", "next-sentence"):
        labels = rng.integers(0, V, (B, P))
        labels[0, 1:] = IGNORED_LABEL
        return positions | {"labels": labels, "next_sentence_label": rng.integers(0, 2, B)}
    if name in ("causal-lm", "token-classification"):
        return {"labels": rng.integers(0, C, (B, T))}
    if name == "question-answering":
        return {"start": rng.integers(0, T, B), "end": rng.integers(0, T, B)}
    if name == "reranking":
        return {"labels": rng.integers(0, 2, B).astype(np.float32)}
    if problem_type == "multi_label_classification":
        return {"labels": rng.integers(0, 2, (B, C)).astype(np.float32)}
    if problem_type == "regression":
        return {"labels": rng.normal(size=B).astype(np.float32)}
    weights = {"weights": np.array([0.5, 2, 1], np.float32)} if problem_type == "weighted" else {}
    return {"labels": rng.integers(0, C, B), **weights}


def pad_rows(batch):
    """Returns a batch with two more rows, which are copies, and the mask of the others."""
    padded = {name: np.concatenate([value, value[:2]]) for name, value in batch.items()}
    return padded | {ROW_MASK: np.arange(B + 2) < B}


KINDS = ("weighted", "multi_label_classification", "regression")
CASES = [(name, None) for name in task_names() if name != "embedding"]
CASES += [("sequence-classification", kind) for kind in KINDS]


@pytest.mark.parametrize(("name", "kind"), CASES, ids=[kind or name for name, kind in CASES])
def test_losses(make_task, name, kind):
    problem_type = None if kind == "weighted" else kind
    task = make_task(name, num_labels=C, problem_type=problem_type, max_position_embeddings=1024)
    assert loss_masks_rows(type(task))
    rng = np.random.default_rng(SEED)
    batch = {"input_ids": rng.integers(0, V, (B, T)), "attention_mask": np.ones((B, T), np.int32)}
    batch |= targets_of(name, kind, rng)
    if name == "multiple-choice":
        shape = (B, C, T)
        batch["input_ids"] = rng.integers(0, V, shape)
        batch |= {"attention_mask": np.ones(shape, np.int32), "exists": np.ones((B, C), bool)}
    batch = {
        key: value.astype(np.int32) if value.dtype.kind == "i" else value
        for key, value in batch.items()
    }
    model = TableModel(name in ("sequence-classification", "multiple-choice", "reranking"))
    table = jnp.asarray(rng.normal(size=(V, V)), jnp.float32)

    def summed_loss(table, batch):
        arrays = {key: jnp.asarray(value) for key, value in batch.items()}
        loss = task.loss(model, table, arrays)
        return loss.mean * jnp.asarray(loss.num_targets, jnp.float32), loss.num_targets

    step = jax.value_and_grad(summed_loss, has_aux=True)
    (want, want_count), want_gradient = step(table, batch)
    (got, got_count), gradient = step(table, pad_rows(batch))
    assert float(want) > 0.1
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(np.float32(got_count), np.float32(want_count), rtol=1e-6)
    np.testing.assert_allclose(gradient, want_gradient, atol=1e-5)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("loss", ["multiple_negatives_ranking", "cosent", "cosine_similarity"])
def test_losses_of_embedding(loss, symmetric):
    assert loss_masks_rows(get_task("embedding"))
    options = types.SimpleNamespace(temperature=0.2, symmetric=symmetric)
    rng = np.random.default_rng(SEED)
    batch = {
        "query_id": np.arange(B),
        "document_ids": np.arange(3 * B).reshape(B, 3),
        "exists": np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], bool),
        "score": rng.normal(size=B).astype(np.float32),
    }
    vectors = {
        "queries": rng.normal(size=(B, 6)).astype(np.float32),
        "documents": rng.normal(size=(B, 3, 6)).astype(np.float32),
    }

    def compute(vectors, batch):
        batch = {name: jnp.asarray(value) for name, value in batch.items()}
        return batch_loss(vectors["queries"], vectors["documents"], batch, loss, options)

    want, want_gradient = jax.value_and_grad(compute)(jax.tree.map(jnp.asarray, vectors), batch)
    more = {name: jnp.concatenate([v, v[:2]]) for name, v in vectors.items()}
    got, gradient = jax.value_and_grad(compute)(more, pad_rows(batch))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for name, value in gradient.items():
        np.testing.assert_allclose(value[:B], want_gradient[name], atol=1e-6)
        np.testing.assert_allclose(value[B:], 0, atol=1e-7)


def test_another_loss_must_say_so_again():
    class OtherLoss(MaskedLM):
        def loss(self, model, params, batch, **call):
            return super().loss(model, params, batch, **call)

    class Renamed(MaskedLM):
        name = "renamed"

    assert not loss_masks_rows(OtherLoss)
    assert loss_masks_rows(Renamed)
