"""Metrics of language models, classifiers, regressions, and taggers over whole splits."""

import math
import warnings
from typing import Any

import numpy as np


def language_model_metrics(
    losses: np.ndarray, targets: np.ndarray, characters: np.ndarray
) -> dict[str, float]:
    """Returns the mean loss per token, perplexity, and bits per token and per character.

    Args:
      losses: `[num_examples]`, the summed losses of each example in nats.
      targets: `[num_examples]`, the number of predicted tokens.
      characters: `[num_examples]`, the number of characters that these tokens stand for.
    """
    loss = float(np.sum(losses) / max(1, np.sum(targets)))
    return {
        "loss": loss,
        "bits_per_token": loss / math.log(2),
        "bits_per_character": float(np.sum(losses) / max(1, np.sum(characters))) / math.log(2),
        "perplexity": math.exp(min(loss, 700.0)),
    }


def single_label_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns accuracy, macro F1, and Matthews correlation.

    If there are two classes and both occur, AUROC is added.

    Args:
      logits: `[num_examples, num_classes]`.
      labels: `[num_examples]`, class indices.
    """
    sklearn = _sklearn_metrics()
    predicted = logits.argmax(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # if only one class occurs, the correlation is 0
        metrics = {
            "accuracy": float(sklearn.accuracy_score(labels, predicted)),
            "macro_f1": float(
                sklearn.f1_score(labels, predicted, average="macro", zero_division=0)
            ),
            "matthews": float(sklearn.matthews_corrcoef(labels, predicted)),
        }
    if logits.shape[-1] == 2 and len(np.unique(labels)) == 2:
        metrics["auroc"] = float(sklearn.roc_auc_score(labels, logits[:, 1] - logits[:, 0]))
    return metrics


def multi_label_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns micro and macro F1 at a probability of 0.5, exact matches, and macro AUROC.

    AUROC is the mean over the labels that some examples have and others do not.

    Args:
      logits: `[num_examples, num_labels]`.
      labels: `[num_examples, num_labels]`, 0 or 1.
    """
    sklearn = _sklearn_metrics()
    predicted = logits > 0
    metrics = {
        "micro_f1": float(sklearn.f1_score(labels, predicted, average="micro", zero_division=0)),
        "macro_f1": float(sklearn.f1_score(labels, predicted, average="macro", zero_division=0)),
        "exact_match": float((predicted == labels).all(-1).mean()),
    }
    mixed = [label for label in range(labels.shape[1]) if 0 < labels[:, label].mean() < 1]
    if mixed:
        areas = [sklearn.roc_auc_score(labels[:, label], logits[:, label]) for label in mixed]
        metrics["auroc"] = float(np.mean(areas))
    return metrics


def regression_metrics(predicted: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Returns mean squared and absolute error, Pearson's r, and Spearman's rho.

    The correlations are 0 where they are undefined.

    Args:
      predicted: `[num_examples]`.
      targets: `[num_examples]`.
    """
    import scipy.stats

    stats: Any = scipy.stats
    constant = len(targets) < 2 or np.ptp(predicted) == 0 or np.ptp(targets) == 0
    return {
        "mse": float(((predicted - targets) ** 2).mean()),
        "mae": float(np.abs(predicted - targets).mean()),
        "pearson": 0.0 if constant else float(stats.pearsonr(predicted, targets).statistic),
        "spearman": 0.0 if constant else float(stats.spearmanr(predicted, targets).statistic),
    }


def entity_metrics(
    predicted: list[list[str]], targets: list[list[str]], scheme: str = "IOB2"
) -> dict[str, float]:
    """Returns micro F1, precision, and recall of entities, and the accuracy of tags.

    An entity is right if its words and its type are. Tags that do not form an entity by the rules
    of the scheme count as no entity.

    Args:
      predicted: One list of tags per document.
      targets: The same for the true tags.
      scheme: The scheme of the tags: "IOB1", "IOB2", "IOBES", or "BILOU".
    """
    import seqeval.metrics
    import seqeval.metrics.v1  # its strict mode
    import seqeval.scheme

    strict_scores: Any = seqeval.metrics.v1.precision_recall_fscore_support
    arguments: Any = {"average": "micro", "zero_division": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the lack of entities
        precision, recall, f1, _ = strict_scores(
            targets, predicted, scheme=getattr(seqeval.scheme, scheme), **arguments
        )
    accuracy = float(seqeval.metrics.accuracy_score(targets, predicted))
    entities = {"f1": float(f1), "precision": float(precision), "recall": float(recall)}
    return entities | {"accuracy": accuracy}


def tag_metrics(predicted: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Returns the accuracy of tags without a scheme, and their macro F1.

    Args:
      predicted: `[num_words]`, indices of tags.
      targets: `[num_words]`, indices of tags.
    """
    if not len(targets):
        return {"accuracy": 0.0, "macro_f1": 0.0}
    macro_f1 = _sklearn_metrics().f1_score(targets, predicted, average="macro", zero_division=0)
    return {"accuracy": float((predicted == targets).mean()), "macro_f1": float(macro_f1)}


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns how many examples of each true class are predicted as each class.

    Args:
      labels: `[num_examples]`, class indices.
      predicted: `[num_examples]`, class indices.
      num_classes: The number of classes.

    Returns:
      `[num_classes, num_classes]`, with a row for each true class.
    """
    classes = list(range(num_classes))
    return _sklearn_metrics().confusion_matrix(labels, predicted, labels=classes)


def _sklearn_metrics() -> Any:
    import sklearn.metrics

    return sklearn.metrics
