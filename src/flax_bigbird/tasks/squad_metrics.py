"""Exact match and F1 of answers as SQuAD 1.1 and 2.0 define them."""

import re
import string
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Returns a text in lower case, without punctuation, articles, and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(predicted: str, answers: Sequence[str]) -> float:
    """Returns 1 if the prediction is one of the answers; without answers, 1 if it is ""."""
    return max(float(normalize_answer(predicted) == answer) for answer in _normalized(answers))


def f1_score(predicted: str, answers: Sequence[str]) -> float:
    """Returns the F1 of the words of the prediction and those of the most similar answer."""
    words = normalize_answer(predicted).split()
    return max(_word_f1(words, answer.split()) for answer in _normalized(answers))


def _normalized(answers: Sequence[str]) -> list[str]:
    """Returns the answers of which words are left; [""] if there are none."""
    return [text for answer in answers if (text := normalize_answer(answer))] or [""]


def squad_metric_names(has_answer: Collection[bool]) -> dict[str, bool | None]:
    """Returns the metrics of `squad_metrics`, and whether a greater value is better.

    Args:
      has_answer: Whether each question has an answer, or a set of these values.
    """
    names: dict[str, bool | None] = {"f1": True, "exact": True}
    if all(has_answer):
        return names
    if any(has_answer):
        names["has_answer_f1"] = True
    return names | {"no_answer_exact": True, "best_f1": True, "best_f1_threshold": None}


def squad_metrics(
    predicted: Sequence[str], no_answer: np.ndarray, answers: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Returns the metrics in percent, as in SQuAD's own script.

    Args:
      predicted: The best span of each question.
      no_answer: `[num_questions]`, the log odds of no answer against that span.
      answers: The answers of each question, an empty list for unanswerable questions.

    Returns:
      `exact` and `f1`, where "" is predicted if `no_answer` is above 0. If some questions have no
      answer, also `has_answer_f1`, `no_answer_exact`, and the best F1 over all thresholds of
      `no_answer` as `best_f1` with its `best_f1_threshold`.
    """
    exact = np.array([exact_match(p, a) for p, a in zip(predicted, answers, strict=True)])
    f1 = np.array([f1_score(p, a) for p, a in zip(predicted, answers, strict=True)])
    unanswerable = np.array([not a for a in answers])
    abstained = no_answer > 0
    final_f1 = np.where(abstained, unanswerable, f1)
    metrics = {
        "exact": 100 * float(np.where(abstained, unanswerable, exact).mean()),
        "f1": 100 * float(final_f1.mean()),
    }
    if not unanswerable.any():
        return metrics
    if not unanswerable.all():
        metrics["has_answer_f1"] = 100 * float(final_f1[~unanswerable].mean())
    metrics["no_answer_exact"] = 100 * float(abstained[unanswerable].mean())
    # Starts with no question answered; each further threshold answers one more.
    order = np.argsort(no_answer, kind="stable")
    losses = np.array([-1.0 if text else 0.0 for text in predicted])
    gains = np.where(unanswerable[order], losses[order], f1[order])
    totals = unanswerable.sum() + np.concatenate([[0.0], np.cumsum(gains)])
    best = int(totals.argmax())
    metrics["best_f1"] = 100 * float(totals[best] / len(order))
    metrics["best_f1_threshold"] = float(no_answer[order[best - 1]]) if best else float("-inf")
    return metrics


def _word_f1(predicted: list[str], answer: list[str]) -> float:
    if not predicted or not answer:
        return float(predicted == answer)
    common = sum((Counter(predicted) & Counter(answer)).values())
    return 2 * common / (len(predicted) + len(answer))
