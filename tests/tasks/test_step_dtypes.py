"""Losses and outputs are float32 whatever the dtype of the model, under strict promotion."""

import types

import jax
import jax.numpy as jnp
import pytest

from flax_bigbird.tasks.registry import task_names

B, T, P, C, V = 2, 8, 3, 3, 40


class ConstantModel:
    """Returns logits of ones from every head."""

    def __init__(self, dtype):
        self.dtype = dtype

    def __call__(self, input_ids=None, attention_mask=None, logits_positions=None, **call):
        num_tokens = T if logits_positions is None else logits_positions.shape[1]
        tokens = jnp.ones((B, num_tokens, V), self.dtype)
        return types.SimpleNamespace(
            logits=self.head_logits(tokens),
            prediction_logits=tokens,
            seq_relationship_logits=jnp.ones((B, 2), self.dtype),
            start_logits=jnp.ones((B, T), self.dtype),
            end_logits=jnp.ones((B, T), self.dtype),
        )

    def head_logits(self, tokens):
        return tokens


class ConstantClassifier(ConstantModel):
    """The same with one row of logits per example."""

    def head_logits(self, tokens):
        return jnp.ones((B, C), self.dtype)


def ones(*shape, dtype=jnp.int32):
    return jnp.ones(shape, dtype)


TARGETS = {
    "masked-lm": {"labels": ones(B, P), "positions": ones(B, P)},
    "causal-lm": {"labels": ones(B, T)},
    "next-sentence": {
        "labels": ones(B, P),
        "positions": ones(B, P),
        "next_sentence_label": ones(B),
    },
    "token-classification": {"labels": ones(B, T)},
    "question-answering": {"start": ones(B), "end": ones(B)},
    "multiple-choice": {"labels": ones(B), "exists": ones(B, C, dtype=bool)},
    "sequence-classification": {"labels": ones(B)},
    "reranking": {"labels": ones(B, dtype=jnp.float32)},
}
PROBLEM_TYPES = {
    "multi_label_classification": {"labels": ones(B, C, dtype=jnp.float32)},
    "regression": {"labels": ones(B, dtype=jnp.float32)},
}
# Embedding has no logits; its steps are tested in test_embedding_training.py.
CASES = [(name, None, TARGETS[name]) for name in task_names() if name != "embedding"]
CASES += [("sequence-classification", kind, targets) for kind, targets in PROBLEM_TYPES.items()]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("name", "problem_type", "targets"), CASES, ids=[kind or name for name, kind, _ in CASES]
)
def test_losses_and_outputs_are_float32(make_task, name, problem_type, targets, dtype):
    task = make_task(name, num_labels=C, problem_type=problem_type, max_position_embeddings=1024)
    per_example = name in ("sequence-classification", "multiple-choice", "reranking")
    model = ConstantClassifier(dtype) if per_example else ConstantModel(dtype)
    batch = {"input_ids": ones(B, T), "attention_mask": ones(B, T), **targets}
    with jax.numpy_dtype_promotion("strict"):
        loss = jax.eval_shape(lambda batch: task.loss(model, {}, batch), batch)
        outputs = jax.eval_shape(lambda batch: task.eval_step(model, {}, batch), batch)
    assert (loss.mean.shape, loss.mean.dtype) == ((), jnp.float32)
    assert outputs["losses"].dtype == jnp.float32
    assert all(output.shape[0] == B for output in outputs.values())
    for output in outputs.values():
        assert output.dtype in (jnp.float32, jnp.int32, jnp.bool_)
