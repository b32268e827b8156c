"""Masked language modeling: an encoder predicts masked tokens from both sides.

Training and evaluation mask random tokens; prediction fills the `[MASK]` tokens of a text.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.attention import num_token_shards
from flax_bigbird.data.character_vocabulary import is_character_level
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.masking import Masking, max_targets
from flax_bigbird.data.tokenization import tokenize, tokenize_with_offsets
from flax_bigbird.data.types import Arrays, Dataset, Row
from flax_bigbird.data.windows import split_windows
from flax_bigbird.data.word_boundaries import WORD_START, token_text, word_marks
from flax_bigbird.nn.losses import IGNORED_LABEL, cross_entropy
from flax_bigbird.tasks.base import EncodedDataset, Loss, Metrics, Window, get_text
from flax_bigbird.tasks.language_modeling import LanguageModeling, model_inputs
from flax_bigbird.tasks.row_masks import labels_of_rows
from flax_bigbird.tasks.task_options import MaskedLMOptions

NUM_CANDIDATES = 5  # tokens predicted for each [MASK]


class MaskedLM(LanguageModeling):
    """Predicts masked tokens.

    A prediction is `{"masks": [[{"token", "score"}, ...], ...]}`: the most likely tokens for every
    `[MASK]` of the text, with their probabilities.
    """

    name = "masked-lm"
    title = "Masked language model"
    pipeline_tag = "fill-mask"
    model_class = "FlaxBigBirdForMaskedLM"
    options_class = MaskedLMOptions
    masks_rows = True

    @functools.cached_property
    def masking(self) -> Masking:
        """The choice of the masked tokens."""
        options = self.options
        return Masking.from_tokenizer(
            self.tokenizer,
            options.mlm_probability,
            options.whole_word_mask,
            self.config.vocab_size,
        )

    @functools.cached_property
    def _has_characters(self) -> bool:
        """Whether every token is a single character."""
        return is_character_level(self.tokenizer)

    @property
    def logits_per_token(self) -> float:
        return self.options.mlm_probability

    def collate_document(
        self, document: Row, length: int, generator: np.random.Generator
    ) -> Arrays:
        ids = np.asarray(document["input_ids"], np.int32)
        return self.add_random_offset(self.mask(ids, length, generator), length, generator)

    def max_packed_targets(self, length: int) -> int:
        # Each document may round up its number of targets, so the sum is bounded by blocks.
        block_size = self.config.block_size
        targets_per_block = max(1, math.ceil(self.options.mlm_probability * block_size))
        return length // block_size * targets_per_block

    def mask(self, input_ids: np.ndarray, length: int, generator: np.random.Generator) -> Arrays:
        """Returns the arrays of a masked example with its targets.

        Args:
          input_ids: `[T]`, the token ids.
          length: The number of tokens to pad to.
          generator: The source of randomness.

        Returns:
          `input_ids` and `attention_mask`, `[length]`; `positions` and `labels`, `[P]`.
        """
        limit = max_targets(length, self.options.mlm_probability)
        masked = self.masking(input_ids, limit, generator)
        targets = {"positions": masked.positions, "labels": masked.labels}
        return self.pad(masked.input_ids, length) | targets

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        labels = labels_of_rows(batch)
        num_targets = (labels != IGNORED_LABEL).sum()
        if num_token_shards() > 1:
            # Targets may lie on any of the devices: all would compute the logits of all targets.
            labels = _labels_of_tokens(labels, batch)
            mean = model.loss(**model_inputs(batch), labels=labels, params=params, **call)
            return Loss(mean, num_targets)
        logits = self.masked_lm_logits(self.apply(model, params, batch, **call))
        return Loss(cross_entropy(logits, labels), num_targets)

    def eval_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        logits = self.masked_lm_logits(self.apply(model, params, batch))
        return self.masked_lm_outputs(logits, batch["labels"])

    def apply(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Any:
        """Calls the model, which computes the logits of the targets only."""
        inputs = model_inputs(batch)
        return model(**inputs, params=params, logits_positions=batch["positions"], **call)

    def masked_lm_logits(self, outputs: Any) -> Any:
        """Returns the logits of masked tokens, `[B, P, V]`, among the outputs of the model."""
        return outputs.logits

    def masked_lm_outputs(self, logits: Any, labels: Any) -> Arrays:
        """Returns `loss_sums`, and the number of correct predictions as `correct`, `[B]`."""
        correct = (labels != IGNORED_LABEL) & (logits.argmax(-1) == labels)
        return self.loss_sums(logits, labels) | {"correct": correct.sum(-1)}

    @classmethod
    def evaluation_metrics(
        cls, options: Any, config: Any = None, rows: Dataset | None = None
    ) -> Metrics:
        return {**super().evaluation_metrics(options, config, rows), "accuracy": True}

    def compute_metrics(self, outputs: Arrays, encoded: EncodedDataset) -> dict[str, float]:
        accuracy = float(outputs["correct"].sum() / max(1, outputs["targets"].sum()))
        return super().compute_metrics(outputs, encoded) | {"accuracy": accuracy}

    def encode(self, row: Row) -> list[Window]:
        """Encodes the start of a text. The info of the window is the positions of `[MASK]`."""
        text = get_text(row, self.options.text_column)
        ids = self._tokenize_with_masks(text)
        length = self.options.length
        window, _ = next(split_windows(ids, self.tokenizer, length, min_tokens=0))
        positions = [i for i, id in enumerate(window) if id == self.tokenizer.mask_token_id]
        if not positions:
            raise DataError(
                f"a text must hold {self.tokenizer.mask_token} within its first {length} tokens; "
                f"got {text[:60]!r}: put it where a token is to be predicted"
            )
        return [Window(window, positions)]

    def collate_window(self, window: Window, length: int) -> Arrays:
        size = 8  # doubled as needed, which limits the number of compiled shapes
        while size < len(window.info):
            size *= 2
        positions = np.zeros(size, np.int32)
        positions[: len(window.info)] = window.info
        return super().collate_window(window, length) | {"positions": positions}

    def predict_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        logits = self.masked_lm_logits(self.apply(model, params, batch))
        # The model's vocabulary may be padded beyond that of the tokenizer.
        logits = logits[..., : len(self.tokenizer)].astype(jnp.float32)
        count = min(NUM_CANDIDATES, logits.shape[-1])
        scores, ids = jax.lax.top_k(jax.nn.softmax(logits), count)
        return {"scores": scores, "ids": ids}

    def decode(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        (window,), (output,) = windows, outputs
        masks, marks = [], word_marks(self.tokenizer)
        for scores, ids in zip(output["scores"], output["ids"], strict=True):
            tokens = self.tokenizer.convert_ids_to_tokens(ids.tolist())
            pairs = zip(tokens, scores.tolist(), strict=True)
            masks.append([{"token": token_text(t, marks), "score": s} for t, s in pairs])
        return {"masks": masks[: len(window.info)]}

    def _tokenize_with_masks(self, text: str) -> list[int]:
        """Returns the token ids of a text without tokens that are only the space before `[MASK]`.

        `transformers` 5 emits a separate token for that space, although `[MASK]` includes it. The
        vocabulary may lack it, so it is recognized by its characters, not by its id.
        """
        mask_id = self.tokenizer.mask_token_id
        if self._has_characters:  # a space is a token of its own
            (ids,) = tokenize(self.tokenizer, [text])
            return ids
        if not getattr(self.tokenizer, "is_fast", False):
            (ids,) = tokenize(self.tokenizer, [text])
            space = self.tokenizer.convert_tokens_to_ids(WORD_START)
            is_space = [id == space and id != self.tokenizer.unk_token_id for id in ids]
        else:
            spaced = " ".join(text.split())
            ids, offsets = tokenize_with_offsets(self.tokenizer, spaced)
            is_space = [not spaced[start:end].strip() for start, end in offsets]
        precedes_mask = [*(id == mask_id for id in ids[1:]), False][: len(ids)]
        triples = zip(ids, is_space, precedes_mask, strict=True)
        return [id for id, space, precedes in triples if not (space and precedes)]


def _labels_of_tokens(labels: Any, batch: Arrays) -> Any:
    """Returns the labels of all tokens, `[B, T]`, from those of the targets, `[B, P]`."""
    none = jnp.full(batch["input_ids"].shape, IGNORED_LABEL, labels.dtype)
    # Unused targets have position 0, which may be that of another target.
    return jax.vmap(lambda x, at, labels: x.at[at].max(labels))(none, batch["positions"], labels)
