"""Loads the data sets of `documents.py` from Parquet files, and divides them into folds.

None of them is part of this project. --data names a folder with these files:

    hyperpartisan/articles.parquet                      id, text, label
    movie_reviews/{train,validation,test}.parquet       id, text, label
    covid_qa/{train,validation,test}.parquet            id, article, question, context, answers
    litbank_entities/{train,validation,test}.parquet    id, tokens, tags
"""

import dataclasses
import html
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird.data.files import expand_paths, iterate_rows

NUM_FOLDS = 5
SPLITS = ("train", "validation", "test")
HYPERPARTISAN_LABELS = {"true": "hyperpartisan", "false": "mainstream"}  # of the original files
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class LabeledTexts:
    """Documents of two classes.

    Attributes:
      texts: The documents.
      labels: `[documents]`, whether a document is of the class whose F1 is measured.
      folds: `[documents]`, the fold in which a document is tested.
    """

    texts: list[str]
    labels: np.ndarray
    folds: np.ndarray


def read(folder: Path, *names: str) -> Rows:
    """Returns the rows of Parquet files."""
    kind, files = expand_paths([folder / f"{name}.parquet" for name in names])
    return list(iterate_rows(files, kind))


def load_hyperpartisan(folder: Path) -> LabeledTexts:
    """Loads the articles of SemEval-2019 task 4, labeled by article.

    Some texts have HTML entities that were escaped twice, and two articles are the same text, which
    must not be in two folds. Labels are names, or the "true" and "false" of the original files.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    rows = read(folder, "articles")
    texts = [html.unescape(row["text"]) for row in rows]
    names = [str(row["label"]).lower() for row in rows]
    names = [HYPERPARTISAN_LABELS.get(name, name) for name in names]
    unknown = set(names) - set(HYPERPARTISAN_LABELS.values())
    if unknown:
        allowed = [*HYPERPARTISAN_LABELS, *HYPERPARTISAN_LABELS.values()]
        raise SystemExit(f"labels must be among {allowed}; got {sorted(unknown)}: correct them")
    labels = np.array([name == "hyperpartisan" for name in names])
    keys = {text: index for index, text in enumerate(texts)}
    groups = [keys[text] for text in texts]
    folds = np.empty(len(texts), int)
    splitter = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=0)
    for fold, (_, test) in enumerate(splitter.split(texts, labels, groups)):
        folds[test] = fold
    return LabeledTexts(texts, labels, folds)


def load_movie_reviews(folder: Path) -> LabeledTexts:
    """Loads the reviews of the polarity data set 2.0.

    The ids, from cv000 to cv999 in each class, are the order of the ten published folds. Two of
    them are one fold here.
    """
    rows = read(folder, *SPLITS)
    for row in rows:
        if not re.fullmatch(r"cv\d{3}", row["id"][:5]):
            raise SystemExit(f"ids must begin with cv and three digits; got {row['id']!r}")
    folds = np.array([int(row["id"][2:5]) * NUM_FOLDS // 1000 for row in rows])
    labels = np.array([row["label"] in ("pos", "positive", 1) for row in rows])
    return LabeledTexts([row["text"] for row in rows], labels, folds)


def load_covid_qa(folder: Path) -> tuple[Rows, np.ndarray]:
    """Loads the questions of COVID-QA and their folds, `[questions]`.

    All questions about a paper are in one fold. The folds have about as many questions each. Some
    answers begin with a space, or their offset is wrong by up to three characters; the library
    moves such answers to where their text is.
    """
    rows = read(folder, *SPLITS)
    counts = Counter(str(row["article"]) for row in rows)
    sizes, fold_of = np.zeros(NUM_FOLDS, int), {}
    for article, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        fold_of[article] = int(sizes.argmin())
        sizes[fold_of[article]] += count
    return rows, np.array([fold_of[str(row["article"])] for row in rows])


def sample_questions(rows: Rows, per_paper: int, seed: int) -> Rows:
    """Returns random questions, at most `per_paper` about each paper."""
    order = np.random.default_rng(seed).permutation(len(rows))
    taken: Counter[str] = Counter()
    chosen = []
    for index in order.tolist():
        article = str(rows[index]["article"])
        if taken[article] < per_paper:
            chosen.append(index)
        taken[article] += 1
    return [rows[index] for index in sorted(chosen)]


def load_litbank(folder: Path) -> tuple[Rows, Rows]:
    """Loads the training books, with those for validation, and the test books of LitBank.

    Raises:
      SystemExit: if a book does not have a tag for every token, or tags are not of the scheme
        IOB2, in which `B-` begins every entity.
    """
    splits = [read(folder, name) for name in SPLITS]
    for row in (row for split in splits for row in split):
        tokens, tags = row["tokens"], row["tags"]
        if len(tokens) != len(tags):
            raise SystemExit(f"{row['id']} has {len(tokens)} tokens and {len(tags)} tags")
        for before, tag in zip(["O", *tags], tags, strict=False):
            if tag.startswith("I-") and before[2:] != tag[2:]:
                raise SystemExit(f"an entity must begin with B-; {row['id']} has {before}, {tag}")
    return splits[0] + splits[1], splits[2]
