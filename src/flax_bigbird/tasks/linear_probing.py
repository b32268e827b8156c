"""Starts a new head from a linear classifier of the frozen model's features.

Fine-tuning from a random head first distorts the features of the pretrained encoder; a head that
already fits them does not (linear probing, then fine-tuning; https://arxiv.org/abs/2202.10054).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from flax_bigbird.data.batching import Bucket, CollateFn, Examples, evaluation_batches
from flax_bigbird.data.types import Arrays
from flax_bigbird.tasks.linear_classifiers import LinearFit, fit_linear
from flax_bigbird.tasks.sequence_labels import REGRESSION

MAX_DOCUMENTS = 4096
"""The maximum number of documents that a linear classifier is fitted to.

More would take time and change little: the head is only where training starts.
"""

OUTPUT_LAYER = ("classifier", "out_proj")


@dataclass(frozen=True)
class ProbeData:
    """The documents that a linear classifier is fitted to.

    Attributes:
      examples: The windows.
      buckets: The buckets of the windows, whose indices refer to `examples`.
      document: `[windows]`, the index of the document of each window.
      collate: The function that returns the arrays of a window.
    """

    examples: Examples
    buckets: list[Bucket]
    document: np.ndarray
    collate: CollateFn

    @property
    def num_documents(self) -> int:
        return int(self.document.max()) + 1

    def sample(self, seed: int) -> "ProbeData":
        """Returns the windows of at most `MAX_DOCUMENTS` documents, chosen by the seed."""
        count = self.num_documents
        if count <= MAX_DOCUMENTS:
            return self
        chosen = np.sort(np.random.default_rng(seed).permutation(count)[:MAX_DOCUMENTS])
        position = np.zeros(count, int)  # of the other documents, which no bucket holds
        position[chosen] = np.arange(len(chosen))
        kept = np.isin(self.document, chosen)
        buckets = [Bucket(b.length, b.indices[kept[b.indices]], b.batch_size) for b in self.buckets]
        buckets = [bucket for bucket in buckets if len(bucket.indices)]
        return ProbeData(self.examples, buckets, position[self.document], self.collate)


def fit_head(
    model: Any,
    data: ProbeData,
    problem_type: str,
    *,
    seed: int,
    weigh_by_tokens: bool,
    class_weight: str | None,
    log: Callable[[str], None],
) -> Any:
    """Returns the parameters of a model with a fitted output layer.

    Args:
      model: A sequence classifier.
      data: The documents to fit it to.
      problem_type: The kind of labels.
      seed: The seed of the folds of cross-validation.
      weigh_by_tokens: Whether the windows of a document count by their number of tokens.
      class_weight: "balanced" weighs classes inversely to their frequencies.
      log: Called with sentences about the work.
    """
    log(f"Reading {data.num_documents:,} documents for a linear probe of the model.")
    features, labels = document_features(model, data, weigh_by_tokens=weigh_by_tokens)
    num_labels = model.config.num_labels
    fit = fit_linear(
        features, labels, problem_type, num_labels, seed=seed, class_weight=class_weight
    )
    name = "alpha" if problem_type == REGRESSION else "C"
    log(
        f"Training starts from a linear probe of {len(features):,} documents "
        f"({name} = {fit.strength:g})."
    )
    return with_output_layer(model.params, fit)


def feature_function(model: Any) -> Callable[[Any, Arrays], Arrays]:
    """Returns a compiled function to what the output layer of the head reads, `[B, D]` in float32.

    It runs the model with the identity as its output layer, whatever the layers before it are.

    Args:
      model: A sequence classifier.

    Returns:
      A function of the model's parameters and a batch.
    """
    config = copy.deepcopy(model.config)
    width = config.num_labels = config.hidden_size
    identity = type(model)(config, dtype=model.dtype, _do_init=False)

    @jax.jit
    def compute(params: Any, batch: Arrays) -> Arrays:
        leaves: dict[Any, Any] = flatten_dict(params)
        leaves[(*OUTPUT_LAYER, "kernel")] = jnp.eye(width, dtype=jnp.float32)
        leaves[(*OUTPUT_LAYER, "bias")] = jnp.zeros(width, jnp.float32)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with jax.default_matmul_precision("highest"):
            output = identity(ids, mask, params=unflatten_dict(leaves))
        return {"features": output.logits.astype(jnp.float32), "num_tokens": mask.sum(-1)}

    return compute


def document_features(
    model: Any, data: ProbeData, *, weigh_by_tokens: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the features of documents, and the labels of their first windows.

    Only sums over the windows of each document are kept, so memory grows with the number of
    documents alone.

    Args:
      model: A sequence classifier.
      data: The windows of the documents.
      weigh_by_tokens: Whether the windows of a document count by their number of tokens.

    Returns:
      `[documents, D]`, the mean over the windows, and the labels, `[documents, ...]`.
    """
    count, compute = data.num_documents, feature_function(model)
    sums = np.zeros((count, model.config.hidden_size))
    weights = np.zeros(count)
    labels: Any = None
    for indices, batch in evaluation_batches(data.examples, data.buckets, data.collate, seed=0):
        batch_labels = batch.pop("labels")
        labels = np.zeros((count, *batch_labels.shape[1:])) if labels is None else labels
        output = jax.device_get(compute(model.params, batch))
        rows, own = data.document[indices], slice(len(indices))
        weight = output["num_tokens"][own].astype(float) if weigh_by_tokens else np.ones(len(rows))
        np.add.at(sums, rows, output["features"][own] * weight[:, None])
        np.add.at(weights, rows, weight)
        labels[rows] = batch_labels[own]
    return sums / weights[:, None], labels


def with_output_layer(params: Any, fit: LinearFit) -> Any:
    """Returns the parameters with the output layer of a linear fit, in the dtype of its own."""
    leaves: dict[Any, Any] = flatten_dict(params)
    for name, value in (("kernel", fit.kernel), ("bias", fit.bias)):
        path = (*OUTPUT_LAYER, name)
        leaves[path] = jnp.asarray(value, leaves[path].dtype)
    return unflatten_dict(leaves)
