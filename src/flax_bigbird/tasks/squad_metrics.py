"""Exact match and F1 of answers as SQuAD 1.1 and 2.0 count them."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(predicted: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the answers; no answers means that "" is right."""
    return max(float(normalized(predicted) == normalized(a)) for a in answers or [""])


def f1(predicted: str, answers: Sequence[str]) -> float:
    """The best overlap in words with one of the answers."""
    return max(
        _overlap(normalized(predicted).split(), normalized(a).split()) for a in answers or [""]
    )


def _overlap(predicted: list[str], answer: list[str]) -> float:
    if not predicted or not answer:
        return float(predicted == answer)
    common = sum((Counter(predicted) & Counter(answer)).values())
    return 2 * common / (len(predicted) + len(answer))


def squad_metrics(
    predicted: Sequence[str], no_answer: np.ndarray, answers: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Percentages, as SQuAD's own script gives them.

    Args:
      predicted: the best span of each question, never "".
      no_answer: [questions], how much more likely no answer is than that span (log odds).
      answers: of each question; none for questions that cannot be answered.

    Returns:
      `exact` and `f1` with "" predicted where `no_answer` is above 0. Where some questions have no
      answer also `has_answer_f1`, `no_answer_exact`, and the `best_f1` over all thresholds with
      its `best_f1_threshold`.
    """
    exacts = np.array([exact(p, a) for p, a in zip(predicted, answers, strict=True)])
    f1s = np.array([f1(p, a) for p, a in zip(predicted, answers, strict=True)])
    unanswerable = np.array([not a for a in answers])
    silent = no_answer > 0
    found = {
        "exact": 100 * float(np.where(silent, unanswerable, exacts).mean()),
        "f1": 100 * float(np.where(silent, unanswerable, f1s).mean()),
    }
    if not unanswerable.any():
        return found
    shown = np.where(silent, unanswerable, f1s)
    if not unanswerable.all():
        found["has_answer_f1"] = 100 * float(shown[~unanswerable].mean())
    found["no_answer_exact"] = 100 * float(silent[unanswerable].mean())
    # From answering nothing on, one question more is answered at a time.
    order = np.argsort(no_answer, kind="stable")
    gains = np.where(unanswerable[order], -1.0, f1s[order])
    totals = unanswerable.sum() + np.concatenate([[0.0], np.cumsum(gains)])
    best = int(totals.argmax())
    found["best_f1"] = 100 * float(totals[best] / len(order))
    found["best_f1_threshold"] = float(no_answer[order[best - 1]]) if best else float("-inf")
    return found
