"""Metrics of language models, classifiers, regressions, and taggers over whole splits."""

import math
import warnings
from typing import Any

import numpy as np

# The metrics that the functions of this module return, and whether a greater value is better. Some
# data do not define `auroc`, which is then left out.
LANGUAGE_MODEL_METRICS: dict[str, bool] = dict.fromkeys(
    ("loss", "bits_per_token", "bits_per_character", "perplexity"), False
)
SINGLE_LABEL_METRICS = dict.fromkeys(("accuracy", "macro_f1", "matthews", "auroc"), True)
MULTI_LABEL_METRICS = dict.fromkeys(("micro_f1", "macro_f1", "exact_match", "auroc"), True)
CORRELATIONS = dict.fromkeys(("pearson", "spearman"), True)
REGRESSION_METRICS = CORRELATIONS | dict.fromkeys(("mse", "mae"), False)
ENTITY_METRICS = dict.fromkeys(("f1", "precision", "recall", "accuracy"), True)
TAG_METRICS = dict.fromkeys(("accuracy", "macro_f1"), True)


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


def multi_label_metrics(
    logits: np.ndarray, labels: np.ndarray, predicted: np.ndarray | None = None
) -> dict[str, float]:
    """Returns micro and macro F1, exact matches, and macro AUROC.

    AUROC is the mean over the labels that some examples have and others do not.

    Args:
      logits: `[num_examples, num_labels]`.
      labels: `[num_examples, num_labels]`, 0 or 1.
      predicted: `[num_examples, num_labels]`, the labels that are predicted; by default, those with
        a probability of 0.5 or more.
    """
    sklearn = _sklearn_metrics()
    predicted = logits >= 0 if predicted is None else predicted
    report = classification_report(labels, predicted, list(map(str, range(labels.shape[1]))))
    all_labels = sklearn.f1_score(labels.ravel(), predicted.ravel(), zero_division=0)
    metrics = {
        "micro_f1": float(all_labels),
        "macro_f1": float(np.mean([scores["f1-score"] for scores in report.values()])),
        "exact_match": float((predicted == labels).all(-1).mean()),
    }
    mixed = [label for label in range(labels.shape[1]) if 0 < labels[:, label].mean() < 1]
    if mixed:
        areas = [sklearn.roc_auc_score(labels[:, label], logits[:, label]) for label in mixed]
        metrics["auroc"] = float(np.mean(areas))
    return metrics


def regression_metrics(predicted: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Returns mean squared and absolute error, and the correlations.

    Args:
      predicted: `[num_examples]`.
      targets: `[num_examples]`.
    """
    return {
        "mse": float(((predicted - targets) ** 2).mean()),
        "mae": float(np.abs(predicted - targets).mean()),
    } | correlations(predicted, targets)


def correlations(predicted: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Returns Pearson's r and Spearman's rho.

    They are 0 where they are undefined: where all values of one side are equal.

    Args:
      predicted: `[num_examples]`.
      targets: `[num_examples]`.
    """
    from scipy import stats

    functions: dict[str, Any] = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}
    if len(targets) < 2 or np.ptp(predicted) == 0 or np.ptp(targets) == 0:
        return dict.fromkeys(functions, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values that are almost equal
        return {name: float(f(predicted, targets).statistic) for name, f in functions.items()}


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
    accuracy = float(seqeval.metrics.accuracy_score(targets, predicted)) if any(targets) else 0.0
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


def classification_report(
    labels: np.ndarray, predicted: np.ndarray, names: list[str]
) -> dict[str, dict[str, float]]:
    """Returns precision, recall, F1 and support of each class, named as in scikit-learn.

    Args:
      labels: `[num_examples]`, class indices; or `[num_examples, num_classes]`, 0 or 1.
      predicted: The predictions, in the same form.
      names: The names of the classes.
    """
    classes = list(range(len(names)))
    if labels.ndim == 2 and len(names) == 1:  # scikit-learn takes it for the classes 0 and 1
        labels, predicted, classes = labels[:, 0], predicted[:, 0], [1]
    columns = _sklearn_metrics().precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0
    )
    keys = ("precision", "recall", "f1-score", "support")
    return {
        name: dict(zip(keys, map(float, values), strict=True))
        for name, *values in zip(names, *columns, strict=True)
    }


def best_thresholds(
    probabilities: np.ndarray, labels: np.ndarray, min_examples: int
) -> list[float]:
    """Returns, for each label of a set, the threshold of the probability with the highest F1.

    It lies halfway between two neighboring probabilities. Of several, it is the one nearest to 0.5,
    which is also the threshold of a label that too few examples have, or lack.

    Args:
      probabilities: `[num_examples, num_labels]`.
      labels: `[num_examples, num_labels]`, 0 or 1.
      min_examples: The minimum number of examples with a label, and of examples without it.
    """
    return [
        _best_threshold(scores, truth)
        if min_examples <= truth.sum() <= len(truth) - min_examples
        else 0.5
        for scores, truth in zip(probabilities.T, labels.T, strict=True)
    ]


def _best_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + hits[-1])
    thresholds = (scores + np.append(scores[1:], 0.0)) / 2
    f1[scores == np.append(scores[1:], -1.0)] = -1.0  # equal scores cannot be told apart
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    is_half_best = f1[max(0, int((scores >= 0.5).sum()) - 1)] >= f1.max() - 1e-12
    if is_half_best and (scores >= 0.5).any():
        return 0.5
    return float(min(thresholds[best], key=lambda threshold: abs(threshold - 0.5)))


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
