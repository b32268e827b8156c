"""What the language-model objectives share: windows of documents, lengths of pieces."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from flax_bigbird.tasks.errors import DataError
from flax_bigbird.train import tokens
from flax_bigbird.train.losses import IGNORED
from flax_bigbird.train.masking import WORD_START
from flax_bigbird.train.objectives.base import Arrays, Objective, Prepared
from flax_bigbird.train.reading import check_columns

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class LanguageModel(Objective):
    """Documents cut into windows of at most `max_length`.

    Beside the sums of losses, outputs hold how many characters the targets are: bits a character
    compare models of different vocabularies, bits a token do not.
    """

    best_metric = "loss"

    def tokenizer_is(self, tokenizer: "PreTrainedTokenizerBase", vocabulary: int) -> None:
        super().tokenizer_is(tokenizer, vocabulary)
        self.characters = characters(tokenizer, vocabulary)

    def read(self, rows: "Dataset") -> None:
        check_columns(rows, [self.options.text_column], "training data")

    def prepare(self, rows: "Dataset", what: str) -> Prepared:
        column = self.options.text_column
        check_columns(rows, [column], what)
        notes = tokens.check_texts(rows, [column], what)
        found, dropped = tokens.windows(rows, column, self.tokenizer, self.options.length)
        if not len(found):
            raise DataError(
                f"the {what} must hold a text of {tokens.SHORTEST} pieces or more; all are shorter"
            )
        if dropped:
            notes.append(
                f"{dropped:,} pieces of the {what} are left out: ends of documents shorter than "
                f"{tokens.SHORTEST} pieces"
            )
        return Prepared(found, notes)

    def collate(
        self, row: dict[str, Any], length: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        if "documents" in row:
            return self._together(row["documents"], length, generator)
        return self.collate_document(row, length, generator)

    @abstractmethod
    def collate_document(
        self, row: dict[str, Any], length: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """A document's arrays, padded to `length`."""

    def places_for_targets(self, length: int) -> int:
        """Of `labels` (and `positions`) in a packed row of `length` tokens."""
        return length

    def _together(
        self, documents: list[dict[str, Any]], length: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The arrays of a row in which every document begins at a block."""
        parts, start = [], 0
        for number, document in enumerate(documents, 1):
            room = -(-document["length"] // self.block_size) * self.block_size
            part = self.collate_document(document, room, generator)
            part.setdefault("position_ids", np.arange(room, dtype=np.int32))
            part["segment_ids"] = number * part["attention_mask"]
            if "positions" in part:
                part["positions"] = part["positions"] + np.int32(start)
            parts.append(part)
            start += room
        fillers = {"labels": IGNORED, "input_ids": self.tokenizer.pad_token_id}
        row = {}
        for name in parts[0]:
            of_targets = name in ("labels", "positions")
            size = self.places_for_targets(length) if of_targets else length
            row[name] = np.full(size, fillers.get(name, 0), np.int32)
            joined = np.concatenate([part[name] for part in parts])
            row[name][: len(joined)] = joined
        return row

    def with_positions(
        self, arrays: dict[str, np.ndarray], length: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The arrays, with `position_ids` that begin anywhere where `random_positions` says so."""
        if self.options.random_positions:
            first = generator.integers(0, self.positions - length + 1)
            arrays["position_ids"] = (first + np.arange(length)).astype(np.int32)
        return arrays


def inputs(batch: Arrays) -> dict[str, Any]:
    """What of a batch the model reads."""
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "segment_ids")
    return {name: batch[name] for name in names if name in batch}


def characters(tokenizer: "PreTrainedTokenizerBase", vocabulary: int) -> np.ndarray:
    """[V], the characters that each piece stands for, the space before a word included."""
    found = np.zeros(vocabulary, np.int32)
    special = set(tokenizer.all_special_ids)
    pieces = tokenizer.convert_ids_to_tokens(list(range(min(len(tokenizer), vocabulary))))
    for number, piece in enumerate(pieces):
        if number == tokenizer.unk_token_id:
            found[number] = 1
        elif number not in special:
            found[number] = len(piece.replace(WORD_START, " "))
    return found
