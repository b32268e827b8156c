"""Metrics as the field computes them, over whole validation sets."""

import math
import warnings
from typing import Any

import numpy as np


def language_model_metrics(
    losses: np.ndarray, targets: np.ndarray, characters: np.ndarray
) -> dict[str, float]:
    """Of summed losses (nats), numbers of targets and of their characters, one a row.

    Means over all targets, and over all their characters.
    """
    loss = float(np.sum(losses) / max(1, np.sum(targets)))
    return {
        "loss": loss,
        "bits_per_token": loss / math.log(2),
        "bits_per_character": float(np.sum(losses) / max(1, np.sum(characters))) / math.log(2),
        "perplexity": math.exp(min(loss, 700.0)),
    }


def single_label_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 and Matthews' correlation; AUROC where both labels of two occur.

    Args:
      logits: [n, classes].
      labels: [n], numbers of classes.
    """
    metrics = _sklearn()
    predicted = logits.argmax(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single label: the correlation is 0 then
        found = {
            "accuracy": float(metrics.accuracy_score(labels, predicted)),
            "macro_f1": float(
                metrics.f1_score(labels, predicted, average="macro", zero_division=0)
            ),
            "matthews": float(metrics.matthews_corrcoef(labels, predicted)),
        }
    if logits.shape[-1] == 2 and len(np.unique(labels)) == 2:
        found["auroc"] = float(metrics.roc_auc_score(labels, logits[:, 1] - logits[:, 0]))
    return found


def multi_label_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Micro and macro F1 at probability 0.5, exact matches, and macro AUROC.

    AUROC is the mean over the labels that some rows have and some have not.

    Args:
      logits, labels: [n, labels].
    """
    metrics = _sklearn()
    predicted = logits > 0
    found = {
        "micro_f1": float(metrics.f1_score(labels, predicted, average="micro", zero_division=0)),
        "macro_f1": float(metrics.f1_score(labels, predicted, average="macro", zero_division=0)),
        "exact_match": float((predicted == labels).all(-1).mean()),
    }
    mixed = [n for n in range(labels.shape[1]) if 0 < labels[:, n].mean() < 1]
    if mixed:
        areas = [metrics.roc_auc_score(labels[:, n], logits[:, n]) for n in mixed]
        found["auroc"] = float(np.mean(areas))
    return found


def regression_metrics(predicted: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Mean squared and absolute error, Pearson's r and Spearman's rho (0 where undefined).

    Args:
      predicted, wanted: [n].
    """
    return {
        "mse": float(((predicted - wanted) ** 2).mean()),
        "mae": float(np.abs(predicted - wanted).mean()),
        "pearson": _correlation(predicted, wanted),
        "spearman": _correlation(_ranks(predicted), _ranks(wanted)),
    }


def entity_metrics(predicted: list[list[str]], wanted: list[list[str]]) -> dict[str, float]:
    """Precision, recall and F1 of whole entities (micro, as CoNLL counts), accuracy of tags.

    Args:
      predicted, wanted: tags in the BIO scheme, a list a document; tags without a prefix are
        entities where they run.
    """
    import seqeval.metrics

    metrics: Any = seqeval.metrics
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tags without a prefix, of documents without entities
        return {
            "f1": float(metrics.f1_score(wanted, predicted, zero_division=0)),
            "precision": float(metrics.precision_score(wanted, predicted, zero_division=0)),
            "recall": float(metrics.recall_score(wanted, predicted, zero_division=0)),
            "accuracy": float(metrics.accuracy_score(wanted, predicted)),
        }


def _sklearn() -> Any:
    import sklearn.metrics

    return sklearn.metrics


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(values)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """[classes, classes]: rows that have label i and are predicted j."""
    return _sklearn().confusion_matrix(labels, predicted, labels=list(range(classes)))
