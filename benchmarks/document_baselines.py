"""The baselines of `documents.py`: TF-IDF, BM25, and a tagger that sees a few words."""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from document_sets import Rows

from flax_bigbird.data.sentences import sentence_spans

STRENGTHS = (1.0, 10.0, 100.0)  # inverse, of the regularization
K1, B = 1.5, 0.75  # the usual constants of BM25
MIN_SENTENCE_WORDS = 4  # shorter ones are headings and parts of references


def predict_by_tfidf(train: list[str], labels: np.ndarray, test: list[str]) -> np.ndarray:
    """Returns the predicted classes of logistic regression on TF-IDF of words and pairs of words.

    The strength of the regularization is chosen by cross-validation on the training texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    words = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2))
    features = words.fit_transform(train)
    search = GridSearchCV(LogisticRegression(solver="liblinear"), {"C": STRENGTHS}, cv=3)
    return search.fit(features, labels).predict(words.transform(test))


def best_sentence(question: str, context: str) -> str:
    """Returns the sentence of a context with the highest BM25 score for a question."""
    spans = sentence_spans(context)
    sentences = [context[start:end].strip() for start, end in spans]
    words = [_words(sentence) for sentence in sentences]
    long = [index for index, w in enumerate(words) if len(w) >= MIN_SENTENCE_WORDS]
    if not long:
        return context.strip()
    frequency = Counter(word for index in long for word in set(words[index]))
    mean_length = sum(len(words[index]) for index in long) / len(long)
    wanted = set(_words(question))

    def score(index: int) -> float:
        counts = Counter(words[index])
        norm = K1 * (1 - B + B * len(words[index]) / mean_length)
        return sum(
            math.log(1 + (len(long) - frequency[word] + 0.5) / (frequency[word] + 0.5))
            * (counts[word] * (K1 + 1) / (counts[word] + norm))
            for word in wanted & counts.keys()
        )

    return sentences[max(long, key=score)]


def predict_tags_by_words(train: Rows, test: Rows, seed: int) -> list[list[str]]:
    """Returns the tags of logistic regression on a word, its neighbors, and their forms."""
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import SGDClassifier

    vectorizer = DictVectorizer()
    features = _matrix(vectorizer.fit_transform, train)
    tags = [tag for row in train for tag in row["tags"]]
    create: Any = SGDClassifier
    model = create(loss="log_loss", alpha=2e-6, max_iter=10, tol=None, random_state=seed)
    model.fit(features, tags)
    return [model.predict(_matrix(vectorizer.transform, [row])).tolist() for row in test]


def _matrix(vectorize: Callable[[list[dict[str, bool]]], Any], rows: Rows) -> Any:
    matrix = vectorize([features for row in rows for features in word_features(row["tokens"])])
    matrix.indices, matrix.indptr = (x.astype(np.int32) for x in (matrix.indices, matrix.indptr))
    return matrix  # scikit-learn refuses indices of 64 bits


def word_features(tokens: list[str]) -> list[dict[str, bool]]:
    """Returns the features of each word: the words around it, its ending and its shape."""
    lower = ["", "", *(token.lower() for token in tokens), "", ""]
    result = []
    for index, token in enumerate(tokens):
        names = [f"{offset}:{lower[index + 2 + offset]}" for offset in range(-2, 3)]
        names += [f"end:{token[-3:].lower()}", f"shape:{_shape(token)}"]
        names.append(f"pair:{lower[index + 1]} {lower[index + 2]}")
        result.append(dict.fromkeys(names, True))
    return result


def _shape(token: str) -> str:
    return re.sub(r"(.)\1+", r"\1", re.sub(r"\d", "0", re.sub("[A-Z]", "A", token))[:4])


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
