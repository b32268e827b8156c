"""BERT's pretraining: masked language modeling and next-sentence prediction.

A checkpoint of this task predicts as a masked language model does: it fills `[MASK]` tokens.
"""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird.data.encoded_rows import column_array, map_cached, tokenizer_fingerprint
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.loading import SPLIT_NAMES
from flax_bigbird.data.tokenization import tokenize
from flax_bigbird.data.types import Arrays, Batch, Dataset, Row
from flax_bigbird.nn.losses import IGNORED_LABEL, classification_losses, cross_entropy
from flax_bigbird.tasks.base import EncodedDataset, Loss, Metrics, Split
from flax_bigbird.tasks.language_modeling import MIN_TOKENS
from flax_bigbird.tasks.masked_lm import MaskedLM
from flax_bigbird.tasks.row_masks import labels_of_rows, mean_over_rows
from flax_bigbird.tasks.task_options import NextSentenceOptions

NUM_SPECIAL_TOKENS = 3  # [CLS] first [SEP] second [SEP]
IS_NEXT, IS_RANDOM = 0, 1  # labels, as in BERT
RANDOM_PAIRS_SEED = 1_810_04805


class NextSentence(MaskedLM):
    """Predicts masked tokens, and whether the second of two texts follows the first.

    An example is `[CLS] first [SEP] second [SEP]` with neighboring parts of a document, in both of
    which tokens are masked. In every epoch, a random half of the examples has a part of another
    document as the second text.
    """

    name = "next-sentence"
    title = "Masked language model with next-sentence prediction"
    model_class = "FlaxBigBirdForPreTraining"
    options_class = NextSentenceOptions
    masks_rows = True
    token_columns = ("first", "second")

    @property
    def packing(self) -> bool:
        return False

    def encode_dataset(self, rows: Dataset, split: Split) -> EncodedDataset:
        messages = self.check_rows(self.options, rows, split)
        parts = self._split_documents(rows)
        documents = column_array(parts, "document") if len(parts) else np.zeros(0, int)
        count = len(np.unique(documents))
        if count < 2:
            raise DataError(
                f"the {SPLIT_NAMES[split]} must hold two documents or more that have two parts "
                f"each; it holds {count}: give one document per file or row"
            )

        def pair_batch(batch: Batch) -> Batch:
            pairs: Batch = {"first": [], "second": [], "other": [], "length": []}
            for index in batch["number"]:
                first, second = parts[index]["part"], parts[index + 1]["part"]
                other = parts[choose_other_document(index, documents)]["part"]
                longest = len(first) + max(len(second), len(other)) + NUM_SPECIAL_TOKENS
                values = {"first": first, "second": second, "other": other, "length": longest}
                for name, value in values.items():
                    pairs[name].append(value)
            return pairs

        import datasets

        followed = np.flatnonzero(documents[:-1] == documents[1:])
        indices = datasets.Dataset.from_dict({"number": followed.tolist()})
        examples = map_cached(indices, pair_batch, "pairs", parts._fingerprint)
        return EncodedDataset(examples, messages)

    def collate(self, example: Row, length: int, generator: np.random.Generator) -> Arrays:
        label = IS_RANDOM if generator.random() < 0.5 else IS_NEXT
        second = example["second" if label == IS_NEXT else "other"]
        cls, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        ids = np.array([cls, *example["first"], sep, *second, sep], np.int32)
        arrays = self.mask(ids, length, generator)
        token_type_ids = np.zeros(length, np.int32)
        token_type_ids[len(example["first"]) + 2 : len(ids)] = 1
        arrays["token_type_ids"] = token_type_ids
        arrays["next_sentence_label"] = np.array(label, np.int32)
        return self.add_random_offset(arrays, length, generator)

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        """Returns the sum of both mean losses, as in BERT."""
        outputs = self.apply(model, params, batch, **call)
        labels = labels_of_rows(batch)
        masked_lm_loss = cross_entropy(self.masked_lm_logits(outputs), labels)
        next_sentence = mean_over_rows(self._next_sentence_losses(outputs, batch), batch)
        return Loss(masked_lm_loss + next_sentence.mean, (labels != IGNORED_LABEL).sum())

    def eval_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        outputs = self.apply(model, params, batch)
        predicted = outputs.seq_relationship_logits.argmax(-1)
        logits = self.masked_lm_logits(outputs)
        return self.masked_lm_outputs(logits, batch["labels"]) | {
            "next_sentence_losses": self._next_sentence_losses(outputs, batch),
            "next_sentence_correct": predicted == batch["next_sentence_label"],
        }

    def masked_lm_logits(self, outputs: Any) -> Any:
        return outputs.prediction_logits

    @classmethod
    def evaluation_metrics(
        cls, options: Any, config: Any = None, rows: Dataset | None = None
    ) -> Metrics:
        return {
            **super().evaluation_metrics(options, config, rows),
            "masked_lm_loss": False,
            "next_sentence_loss": False,
            "next_sentence_accuracy": True,
        }

    def compute_metrics(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, float]:
        metrics = super().compute_metrics(outputs, encoded)
        metrics["masked_lm_loss"] = metrics["loss"]
        metrics["next_sentence_loss"] = float(outputs["next_sentence_losses"].mean())
        metrics["next_sentence_accuracy"] = float(outputs["next_sentence_correct"].mean())
        metrics["loss"] = metrics["masked_lm_loss"] + metrics["next_sentence_loss"]
        return metrics

    def _split_documents(self, rows: Dataset) -> Dataset:
        """Returns the parts of all documents, with columns `part` and `document`."""
        column, tokenizer = self.options.text_column, self.tokenizer
        size = (self.options.length - NUM_SPECIAL_TOKENS) // 2

        def split_batch(batch: Batch, indices: list[int]) -> Batch:
            parts: Batch = {"part": [], "document": []}
            texts = tokenize(tokenizer, batch[column])
            for ids, document in zip(texts, indices, strict=True):
                for part in split_in_parts(ids, size):
                    parts["part"].append(part)
                    parts["document"].append(document)
            return parts

        key = ("parts", column, size, tokenizer_fingerprint(tokenizer))
        return map_cached(rows, split_batch, *key, with_indices=True)

    def _next_sentence_losses(self, outputs: Any, batch: Arrays) -> Any:
        logits = outputs.seq_relationship_logits.astype(jnp.float32)
        return classification_losses(logits, batch["next_sentence_label"])


def split_in_parts(ids: list[int], size: int) -> Iterator[list[int]]:
    """Splits a document into two or more parts of at most `size` tokens.

    A document that is too short has no parts, and no part is too short.
    """
    if len(ids) < 2 * MIN_TOKENS:
        return
    size = min(size, -(-len(ids) // 2))
    for start in range(0, len(ids), size):
        part = ids[start : start + size]
        if len(part) >= min(MIN_TOKENS, size):
            yield part


def choose_other_document(index: int, documents: np.ndarray) -> int:
    """Returns a part of another document, which is the same for the same index.

    Args:
      index: The index of a part.
      documents: `[num_parts]`, the document of each part. The parts of a document are neighbors.
    """
    generator = np.random.default_rng([RANDOM_PAIRS_SEED, index])
    own = np.flatnonzero(documents == documents[index])
    # All other parts are one range, wrapped around.
    num_others = len(documents) - len(own)
    return int((own[-1] + 1 + generator.integers(num_others)) % len(documents))
