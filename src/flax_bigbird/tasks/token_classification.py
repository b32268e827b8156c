"""A label for every word: named entities, parts of speech, sections of a document."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.tasks import labels
from flax_bigbird.tasks.errors import DataError
from flax_bigbird.tasks.text import FRAME, encode, word_windows
from flax_bigbird.train import metrics, tokens
from flax_bigbird.train.losses import IGNORED
from flax_bigbird.train.objectives.base import Arrays, Loss, Objective, Prepared
from flax_bigbird.train.reading import check_columns

if TYPE_CHECKING:
    from datasets import Dataset


class TokenClassification(Objective):
    """A row is a list of words and one of tags; a word's first piece carries its tag.

    Documents longer than `max_length` are cut between words into windows, each word in one of
    them. Entities are counted by window, in the BIO scheme.
    """

    model_class = "FlaxBigBirdForTokenClassification"
    best_metric = "f1"

    def read(self, rows: "Dataset") -> None:
        check_columns(rows, self._columns, "training data")
        self._check(rows, "training data")
        inner = rows.features[self.options.tags_column].feature
        class_names = getattr(inner, "names", None)
        if class_names:
            self.keys = list(range(len(class_names)))
        else:
            self.keys = sorted({tag for tags in rows[self.options.tags_column] for tag in tags})
        if not self.keys:
            raise DataError("the training data must hold tagged words; they hold none: check them")
        self.names = [str(name) for name in class_names or self.keys]
        self.number = {key: number for number, key in enumerate(self.keys)}

    def know(self, config: Any) -> None:
        self.names, self.number = labels.names(config), labels.numbers(config)

    def texts(self, rows: "Dataset") -> Iterator[str]:
        return (" ".join(words) for words in rows[self.options.words_column])

    def config_keys(self) -> dict[str, Any]:
        return {
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: number for number, name in enumerate(self.names)},
        }

    def prepare(self, rows: "Dataset", what: str) -> Prepared:
        check_columns(rows, self._columns, what)
        self._check(rows, what)
        words_column, tags_column = self._columns
        for row, tags in enumerate(rows[tags_column]):
            for tag in tags:
                if tag not in self.number:
                    raise DataError(
                        f"tags must be among those of the training data ({', '.join(self.names)}); "
                        f"row {row + 1} of the {what} has {tag!r}: add examples of it, or remove "
                        "the row"
                    )
        tokenizer, length = self.tokenizer, self.options.length

        def cut(batch: tokens.Batch) -> tokens.Batch:
            found: tokens.Batch = {"input_ids": [], "labels": [], "length": [], "split": []}
            for words, tags in zip(batch[words_column], batch[tags_column], strict=True):
                numbered = [self.number[tag] for tag in tags]
                pieces = encode(tokenizer, words) if words else []
                windows = word_windows(pieces, length - FRAME)
                for window in windows:
                    ids, marks = [tokenizer.cls_token_id], [IGNORED]
                    for number, word in window:
                        ids += word
                        marks += [numbered[number], *[IGNORED] * (len(word) - 1)] if word else []
                    found["input_ids"].append([*ids, tokenizer.sep_token_id])
                    found["labels"].append([*marks, IGNORED])
                    found["length"].append(len(ids) + 1)
                    found["split"].append(len(windows) > 1)
            return found

        key = ("tags", words_column, tags_column, length, tokens.digest(tokenizer), self.names)
        made = tokens.mapped(rows, cut, *key)
        split = int(tokens.numbers(made, "split").sum())
        notes = []
        if split:
            notes.append(
                f"Documents of the {what} longer than {length:,} tokens are read in windows, "
                f"{split:,} in all"
            )
        return Prepared(made.remove_columns("split"), notes)

    def collate(
        self, row: dict[str, Any], length: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        marks = np.full(length, IGNORED, np.int32)
        marks[: len(row["labels"])] = row["labels"]
        return self.padded(row["input_ids"], length) | {"labels": marks}

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        losses, used, _ = self._losses(model, params, batch, **call)
        targets = used.sum()
        return Loss(losses.sum() / jnp.maximum(targets, 1), targets)

    def outputs(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        losses, _, logits = self._losses(model, params, batch)
        return {
            "losses": losses.sum(-1),
            "predicted": logits.argmax(-1).astype(jnp.int32),
            "labels": batch["labels"],
        }

    def score(self, outputs: Arrays, prepared: Prepared) -> dict[str, float]:
        used = outputs["labels"] != IGNORED

        def tags(key: str) -> list[list[str]]:
            rows = zip(outputs[key], used, strict=True)
            return [[self.names[number] for number in row[where]] for row, where in rows]

        predicted, wanted = tags("predicted"), tags("labels")
        loss = float(outputs["losses"].sum() / max(1, used.sum()))
        return {"loss": loss} | metrics.entity_metrics(predicted, wanted)

    @property
    def _columns(self) -> tuple[str, str]:
        return self.options.words_column, self.options.tags_column

    def _losses(self, model: Any, params: Any, batch: Arrays, **call: Any) -> tuple[Any, Any, Any]:
        """(losses [B, T], 0 where there is no tag; where there is one; logits [B, T, labels])."""
        logits = model(batch["input_ids"], batch["attention_mask"], params=params, **call).logits
        logits = logits.astype(jnp.float32)
        used = batch["labels"] != IGNORED
        chosen = jnp.where(used, batch["labels"], 0)[..., None]
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, -1)[..., 0]
        return jnp.where(used, losses, 0), used, logits

    def _check(self, rows: "Dataset", what: str) -> None:
        words_column, tags_column = self._columns
        pairs = zip(rows[words_column], rows[tags_column], strict=True)
        for number, (words, tags) in enumerate(pairs, 1):
            if not isinstance(words, list) or not isinstance(tags, list):
                raise DataError(
                    f"{words_column} and {tags_column} must be lists, of words and of their tags; "
                    f"row {number} of the {what} has {str(words)[:40]!r} and {str(tags)[:40]!r}"
                )
            if len(words) != len(tags):
                raise DataError(
                    f"every word must have one tag; row {number} of the {what} has {len(words)} "
                    f"words and {len(tags)} tags: mend it"
                )
