"""Which tokens a masked language model has to guess, and what it sees in their places."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flax_bigbird.train.losses import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORD_START = "▁"  # SentencePiece's mark of a space before a piece
SHOWN_AS_MASK, SHOWN_AS_ANY = 0.8, 0.1  # the rest stay as they are (BERT's shares)


class Masked(NamedTuple):
    """`ids` [T] as the model sees them; `positions` [P] and `labels` [P] of the targets.

    Unused places hold position 0 and the label `IGNORED`.
    """

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


def places(length: int, rate: float) -> int:
    """P of documents of `length` tokens: targets that `Masking` chooses at most."""
    return max(1, round(rate * length))


@dataclass(frozen=True)
class Masking:
    """Chooses `rate` of a document's tokens, by words or by pieces.

    80% of the targets are shown as [MASK], 10% as any ordinary piece, 10% as they are.
    """

    rate: float
    whole_words: bool
    mask_id: int
    special: np.ndarray  # [V], True for pieces that are never targets
    starts: np.ndarray  # [V], True for pieces that begin a word
    ordinary: np.ndarray  # ids that may stand for a target

    @classmethod
    def of(
        cls, tokenizer: "PreTrainedTokenizerBase", rate: float, whole_words: bool, vocabulary: int
    ) -> "Masking":
        """For a tokenizer, with the model's vocabulary size."""
        mask_id: Any = tokenizer.mask_token_id
        pieces = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), vocabulary))))
        special = np.zeros(vocabulary, bool)
        special[[id for id in tokenizer.all_special_ids if id < vocabulary]] = True
        starts = np.zeros(vocabulary, bool)
        starts[: len(pieces)] = [piece.startswith(WORD_START) for piece in pieces]
        known = np.arange(vocabulary) < len(pieces)
        ordinary = np.flatnonzero(known & ~special)
        return cls(rate, whole_words, int(mask_id), special, starts, ordinary)

    def __call__(self, ids: np.ndarray, limit: int, generator: np.random.Generator) -> Masked:
        """One document's targets, at most `limit`; the same for the same generator.

        Args:
          ids: [T], with [CLS] and [SEP], without padding.
          limit: P.
        """
        eligible = np.flatnonzero(~self.special[ids])
        wanted = min(limit, max(1, round(self.rate * len(eligible))))
        chosen = np.sort(self._choose(ids, eligible, wanted, generator))
        kind = generator.random(len(chosen))
        anything = generator.choice(self.ordinary, len(chosen))
        shown = np.where(kind < SHOWN_AS_MASK, self.mask_id, ids[chosen])
        shown = np.where(kind >= 1 - SHOWN_AS_ANY, anything, shown)
        seen = ids.copy()
        seen[chosen] = shown
        positions = np.zeros(limit, np.int32)
        labels = np.full(limit, IGNORED, np.int32)
        positions[: len(chosen)] = chosen
        labels[: len(chosen)] = ids[chosen]
        return Masked(seen, positions, labels)

    def _choose(
        self, ids: np.ndarray, eligible: np.ndarray, wanted: int, generator: np.random.Generator
    ) -> np.ndarray:
        """Positions of `wanted` pieces; or of whole words, in random order, while they fit."""
        if not self.whole_words or not len(eligible):
            return generator.permutation(eligible)[:wanted]
        # A word begins at a piece that says so, and behind whatever is no target.
        gap = np.diff(eligible, prepend=-2) > 1
        word = np.cumsum(self.starts[ids[eligible]] | gap) - 1
        sizes = np.bincount(word)
        order = generator.permutation(len(sizes))
        fits = np.cumsum(sizes[order]) <= wanted
        picked = np.zeros(len(sizes), bool)
        picked[order[fits]] = True
        if not fits.any():  # the first word alone is too long: part of it
            return eligible[word == order[0]][:wanted]
        return eligible[picked[word]]
