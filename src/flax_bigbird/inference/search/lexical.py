"""Search by words: BM25 over the chunks of an index, and the fusion of two rankings.

The scores are those of `bm25s` (arXiv 2407.03618). Its files are mapped to memory; only the
vocabulary is loaded.
"""

import array
import contextlib
import functools
import itertools
import logging
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

BM25_DIRECTORY = "bm25"
# The constant of reciprocal rank fusion in the paper (Cormack, Clarke and Buettcher, SIGIR 2009).
RANK_CONSTANT = 60

_ASCII_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Returns the words of a text: runs of letters, digits and their marks, in lower case and NFC.

    Marks are the vowels of Hindi and Arabic, for example, and the accents of texts in NFD.
    """
    text = unicodedata.normalize("NFC", text.casefold())
    return (_ASCII_WORD if text.isascii() else _word()).findall(text)


@functools.cache
def _word() -> re.Pattern[str]:
    """Returns the pattern of words, whose marks no class of `re` has.

    It lists ranges, because `re` compares characters beyond U+FFFF one by one.
    """
    codes = range(sys.maxunicode + 1)
    marks = [code for code in codes if unicodedata.category(chr(code)).startswith("M")]
    ranges = ""
    for _, run in itertools.groupby(enumerate(marks), lambda item: item[1] - item[0]):
        characters = [chr(code) for _, code in run]
        ranges += f"{characters[0]}-{characters[-1]}"
    return re.compile(rf"[\w{ranges}]+")


@contextlib.contextmanager
def _without_debug_messages() -> Iterator[None]:
    """Hides the messages of bm25s below the level of warnings.

    Importing bm25s sets its logger to DEBUG, whatever the application has chosen.
    """
    logger = logging.getLogger("bm25s")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


class WordIndex:
    """Ranks chunks by the words that they share with a query."""

    def __init__(self, directory: Path):
        """Opens the files that `write` wrote.

        Args:
          directory: The directory with the data of the index.
        """
        import bm25s

        path = directory / BM25_DIRECTORY
        self._bm25 = bm25s.BM25.load(path, mmap=True) if path.exists() else None

    @staticmethod
    def write(directory: Path, texts: Iterable[str]) -> None:
        """Counts the words of texts, and writes the scores of each word in each text.

        The words are in memory as integers, 4 bytes each; the texts are not. Nothing is written if
        there are no words at all.

        Args:
          directory: The directory with the data of the index.
          texts: The texts of the chunks, in their order.
        """
        import bm25s

        vocabulary: dict[str, int] = {"": 0}
        ids = [
            array.array("i", [vocabulary.setdefault(w, len(vocabulary)) for w in words(text)])
            for text in texts
        ]
        if len(vocabulary) == 1:
            return
        bm25 = bm25s.BM25()
        with _without_debug_messages():
            bm25.index((ids, vocabulary), show_progress=False)
        bm25.save(directory / BM25_DIRECTORY)

    def search(self, query: str, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the chunks that share words with a query, best first.

        Args:
          query: The query.
          top_k: The maximum number of chunks.

        Returns:
          The positions of the chunks in the index, and their scores.
        """
        known = [] if self._bm25 is None else self._bm25.get_tokens_ids(words(query))
        if not known or self._bm25 is None:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        scores = self._bm25.get_scores_from_ids(known)
        positions = np.flatnonzero(scores > 0)
        if len(positions) > top_k:
            positions = positions[np.argpartition(-scores[positions], top_k - 1)[:top_k]]
        positions = positions[np.argsort(-scores[positions], kind="stable")]
        return positions, scores[positions]


def fuse_ranks(rankings: Sequence[Sequence[int]], top_k: int) -> list[tuple[int, float]]:
    """Fuses rankings by the sum of 1 / (60 + rank) (reciprocal rank fusion).

    Args:
      rankings: Each ranking, best first.
      top_k: The maximum number of items that are returned.

    Returns:
      The items of all rankings with their scores, best first.
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + 1 / (RANK_CONSTANT + rank)
    return sorted(scores.items(), key=lambda pair: -pair[1])[:top_k]
