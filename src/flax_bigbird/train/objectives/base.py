"""What a task has to say for a model to be trained for it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flax_bigbird.train.options import LabelledOptions

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Arrays = dict[str, Any]


class Prepared(NamedTuple):
    """Rows with `input_ids` and `length`, and what was left out on the way, as sentences.

    `source` are the rows they were made from, where metrics need them.
    """

    rows: "Dataset"
    notes: list[str]
    source: "Dataset | None" = None


class Loss(NamedTuple):
    """The mean over a batch, and over how many targets: batches are added up by them."""

    mean: Any
    targets: Any


class Objective(ABC):
    """One task: its model, its rows, its loss, its metrics.

    `read` looks at the training rows once; then `prepare` serves training and validation rows.
    """

    model_class: str  # its name in `flax_bigbird`
    best_metric: str
    lower_is_better: frozenset[str] = frozenset(
        {"loss", "perplexity", "bits_per_token", "bits_per_character"}
    )
    logits_share: float = 0.0  # of the tokens, those whose logits over the vocabulary are taken
    inputs_per_row: int = 1  # texts of the row's length that the model reads for a row

    def __init__(self, options: LabelledOptions):
        self.options = options

    def read(self, rows: "Dataset") -> None:
        """Learns from the training rows what the model must know, such as the labels."""
        del rows

    def know(self, config: Any) -> None:
        """Takes from a trained model's configuration what `read` would have learned."""
        del config

    def config_keys(self) -> dict[str, Any]:
        """Keys of the model's configuration that follow from the training rows."""
        return {}

    def texts(self, rows: "Dataset") -> Iterator[str]:
        """All that a vocabulary can be learned from."""
        for batch in rows.iter(64):
            for column in filter(None, (self.options.text_column, self.options.text_pair_column)):
                yield from filter(None, batch[column])  # type: ignore[index]

    @abstractmethod
    def prepare(self, rows: "Dataset", what: str) -> Prepared:
        """The rows as pieces; `what` they are for, in words, for messages."""

    def tokenizer_is(self, tokenizer: "PreTrainedTokenizerBase", vocabulary: int) -> None:
        """Hands over the tokenizer, and the number of rows of the model's word table."""
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary

    def model_is(self, config: Any) -> None:
        """Hands over the configuration of the model that is trained."""
        self.positions, self.block_size = config.max_position_embeddings, config.block_size

    @abstractmethod
    def collate(
        self, row: dict[str, Any], length: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """A row's arrays, padded to `length`."""

    @abstractmethod
    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        """Of a batch; `call` goes to the model (`train`, `dropout_rng`). Traced."""

    @abstractmethod
    def outputs(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        """What the metrics need of a batch, [B, ...] each. Traced."""

    def by_document(self, outputs: Arrays, prepared: Prepared) -> Arrays:
        """Outputs of documents from those of rows, where several rows are one document."""
        del prepared
        return outputs

    @abstractmethod
    def score(self, outputs: Arrays, prepared: Prepared) -> dict[str, float]:
        """Metrics of the outputs of all prepared rows; `loss` is one of them."""

    def padded(self, ids: Any, length: int) -> dict[str, np.ndarray]:
        """`input_ids` and `attention_mask`, [length]."""
        row = np.full(length, self.tokenizer.pad_token_id, np.int32)
        row[: len(ids)] = ids
        mask = np.zeros(length, np.int32)
        mask[: len(ids)] = 1
        return {"input_ids": row, "attention_mask": mask}
