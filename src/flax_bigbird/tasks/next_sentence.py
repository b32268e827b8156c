"""BERT's pretraining: masked pieces, and whether a second text follows the first."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.tasks.errors import DataError
from flax_bigbird.tasks.text import encode
from flax_bigbird.train import tokens
from flax_bigbird.train.losses import IGNORED, cross_entropy
from flax_bigbird.train.objectives.base import Arrays, Loss, Prepared
from flax_bigbird.train.objectives.masked_lm import MaskedLM
from flax_bigbird.train.reading import check_columns

if TYPE_CHECKING:
    from datasets import Dataset

FRAME = 3  # [CLS] first [SEP] second [SEP]
FOLLOWS, RANDOM = 0, 1  # as BERT numbers them
PAIRS_SEED = 1_810_04805  # of the texts that do not follow


class NextSentence(MaskedLM):
    """`[CLS] first [SEP] second [SEP]` of neighbouring parts of a document, both maskable.

    In every pass half of the rows, drawn anew, have a part of another document as their second.
    """

    model_class = "FlaxBigBirdForPreTraining"

    def prepare(self, rows: "Dataset", what: str) -> Prepared:
        column = self.options.text_column
        check_columns(rows, [column], what)
        notes = tokens.check_texts(rows, [column], what)
        tokenizer, room = self.tokenizer, (self.options.length - FRAME) // 2

        def cut(batch: tokens.Batch, numbers: list[int]) -> tokens.Batch:
            found: tokens.Batch = {"part": [], "document": []}
            for pieces, number in zip(encode(tokenizer, batch[column]), numbers, strict=True):
                for part in _parts(pieces, room):
                    found["part"].append(part)
                    found["document"].append(number)
            return found

        key = ("parts", column, room, tokens.digest(tokenizer))
        parts = tokens.mapped(rows, cut, *key, with_indices=True)
        documents = tokens.numbers(parts, "document") if len(parts) else np.zeros(0, int)
        if len(np.unique(documents)) < 2:
            raise DataError(
                f"the {what} must hold two documents or more that have two parts each; it holds "
                f"{len(np.unique(documents))}: give a file, or a row, a document"
            )
        followed = np.flatnonzero(documents[:-1] == documents[1:])

        def pair(batch: tokens.Batch) -> tokens.Batch:
            found: tokens.Batch = {"first": [], "second": [], "other": [], "length": []}
            for number in batch["number"]:
                first, second = parts[number]["part"], parts[number + 1]["part"]
                other = parts[_elsewhere(number, documents)]["part"]
                found["first"].append(first)
                found["second"].append(second)
                found["other"].append(other)
                found["length"].append(len(first) + max(len(second), len(other)) + FRAME)
            return found

        import datasets

        numbers = datasets.Dataset.from_dict({"number": followed.tolist()})
        return Prepared(tokens.mapped(numbers, pair, "pairs", parts._fingerprint), notes)

    def collate(
        self, row: dict[str, Any], length: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        kind = RANDOM if generator.random() < 0.5 else FOLLOWS
        second = row["second" if kind == FOLLOWS else "other"]
        first, last = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        ids = np.array([first, *row["first"], last, *second, last], np.int32)
        arrays = self.masked(ids, length, generator)
        types = np.zeros(length, np.int32)
        types[len(row["first"]) + 2 : len(ids)] = 1
        arrays |= {"token_type_ids": types, "kind": np.array(kind, np.int32)}
        return self.with_positions(arrays, length, generator)

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        """The sum of both means, as BERT's."""
        out = self.call(model, params, batch, **call)
        masked = cross_entropy(out.prediction_logits, batch["labels"])
        targets = (batch["labels"] != IGNORED).sum()
        return Loss(masked + self._kinds(out, batch).mean(), targets)

    def outputs(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        out = self.call(model, params, batch)
        found = self.counted(out.prediction_logits, batch["labels"])
        told = out.seq_relationship_logits.argmax(-1) == batch["kind"]
        return found | {"kind_losses": self._kinds(out, batch), "told": told}

    def score(self, outputs: Arrays, prepared: Prepared) -> dict[str, float]:
        found = super().score(outputs, prepared)
        found["masked_lm_loss"] = found["loss"]
        found["next_sentence_loss"] = float(outputs["kind_losses"].mean())
        found["next_sentence_accuracy"] = float(outputs["told"].mean())
        return found | {"loss": found["masked_lm_loss"] + found["next_sentence_loss"]}

    def _kinds(self, out: Any, batch: Arrays) -> Any:
        """[B], the losses of telling whether the second follows."""
        logits = out.seq_relationship_logits.astype(jnp.float32)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["kind"][:, None], 1)[:, 0]


def _parts(pieces: list[int], room: int) -> Iterator[list[int]]:
    """Neighbouring parts of at most `room` pieces, two at least; none of a text too short."""
    if len(pieces) < 2 * tokens.SHORTEST:
        return
    size = min(room, -(-len(pieces) // 2))
    for start in range(0, len(pieces), size):
        part = pieces[start : start + size]
        if len(part) >= min(tokens.SHORTEST, size):
            yield part


def _elsewhere(number: int, documents: np.ndarray) -> int:
    """A part of another document, the same for the same number."""
    generator = np.random.default_rng([PAIRS_SEED, number])
    own = np.flatnonzero(documents == documents[number])
    # The parts of a document are neighbours: what lies outside is one range, wrapped around.
    outside = len(documents) - len(own)
    return int((own[-1] + 1 + generator.integers(outside)) % len(documents))
