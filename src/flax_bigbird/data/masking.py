"""Chooses the tokens that a masked language model predicts, and what it sees at their positions."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from flax_bigbird.data.character_vocabulary import is_character_level
from flax_bigbird.data.types import Tokenizer
from flax_bigbird.data.word_boundaries import starts_word
from flax_bigbird.nn.losses import IGNORED_LABEL

MASK_PROBABILITY, RANDOM_PROBABILITY = 0.8, 0.1  # as in BERT; the other targets stay visible


class MaskedExample(NamedTuple):
    """An example with targets. Unused entries have position 0 and the label `IGNORED_LABEL`.

    Attributes:
      input_ids: `[T]`, the token ids as the model sees them.
      positions: `[P]`, the positions of the targets.
      labels: `[P]`, the token ids of the targets.
    """

    input_ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


def max_targets(length: int, probability: float) -> int:
    """Returns P, the maximum number of targets of an example of `length` tokens."""
    return max(1, round(probability * length))


@dataclass(frozen=True)
class Masking:
    """Masks a fraction of the tokens of an example, by whole words or by tokens.

    The model sees `[MASK]` in the position of 80% of the targets, a random token for 10%, and the
    target itself for 10% (Devlin et al., 2019, section 3.1).

    Attributes:
      probability: The fraction of the tokens that are targets.
      whole_word: Whether all tokens of a word are masked together.
      mask_id: The id of `[MASK]`.
      is_special: `[V]`, whether a token is special and never a target.
      starts_word: `[V]`, whether a token starts a word, see `flax_bigbird.data.word_boundaries`.
      ordinary_ids: The ids of the tokens that a random token is drawn from.
    """

    probability: float
    whole_word: bool
    mask_id: int
    is_special: np.ndarray
    starts_word: np.ndarray
    ordinary_ids: np.ndarray

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Tokenizer, probability: float, whole_word: bool | None, vocab_size: int
    ) -> "Masking":
        """Returns the masking for the vocabulary of a tokenizer.

        Args:
          tokenizer: The tokenizer.
          probability: The fraction of the tokens that are targets.
          whole_word: Whether all tokens of a word are masked together. None means that they are,
            unless every token is a single character.
          vocab_size: V, the vocabulary size of the model, which may exceed that of the tokenizer.

        Raises:
          OptionError: if `whole_word` is set and the tokens do not show where words start.
        """
        if whole_word is None:
            whole_word = not is_character_level(tokenizer)
        mask_id: Any = tokenizer.mask_token_id
        count = min(len(tokenizer), vocab_size)
        is_special = np.zeros(vocab_size, bool)
        is_special[[id for id in tokenizer.all_special_ids if id < vocab_size]] = True
        starts = starts_word(tokenizer, vocab_size) if whole_word else np.ones(vocab_size, bool)
        ordinary_ids = np.flatnonzero((np.arange(vocab_size) < count) & ~is_special)
        return cls(probability, whole_word, int(mask_id), is_special, starts, ordinary_ids)

    def __call__(
        self, input_ids: np.ndarray, max_targets: int, generator: np.random.Generator
    ) -> MaskedExample:
        """Masks one example. The result is the same for the same generator.

        Args:
          input_ids: `[T]`, the token ids with `[CLS]` and `[SEP]`, without padding.
          max_targets: P, the maximum number of targets.
          generator: The source of randomness.
        """
        eligible = np.flatnonzero(~self.is_special[input_ids])
        count = min(max_targets, max(1, round(self.probability * len(eligible))))
        targets = np.sort(self._choose(input_ids, eligible, count, generator))
        draw = generator.random(len(targets))
        random_ids = generator.choice(self.ordinary_ids, len(targets))
        shown = np.where(draw < MASK_PROBABILITY, self.mask_id, input_ids[targets])
        shown = np.where(draw >= 1 - RANDOM_PROBABILITY, random_ids, shown)
        masked_ids = input_ids.copy()
        masked_ids[targets] = shown
        positions = np.zeros(max_targets, np.int32)
        labels = np.full(max_targets, IGNORED_LABEL, np.int32)
        positions[: len(targets)] = targets
        labels[: len(targets)] = input_ids[targets]
        return MaskedExample(masked_ids, positions, labels)

    def _choose(
        self,
        input_ids: np.ndarray,
        eligible: np.ndarray,
        count: int,
        generator: np.random.Generator,
    ) -> np.ndarray:
        """Chooses `count` positions, or those of random whole words as long as they fit."""
        if not self.whole_word or not len(eligible):
            return generator.permutation(eligible)[:count]
        # A word starts at a token that starts a word, and after whatever is not eligible.
        follows_gap = np.diff(eligible, prepend=-2) > 1
        word = np.cumsum(self.starts_word[input_ids[eligible]] | follows_gap) - 1
        sizes = np.bincount(word)
        order = generator.permutation(len(sizes))
        fits = np.cumsum(sizes[order]) <= count
        chosen = np.zeros(len(sizes), bool)
        chosen[order[fits]] = True
        if not fits.any():  # the first word alone is too long, so part of it is masked
            return eligible[word == order[0]][:count]
        return eligible[chosen[word]]
