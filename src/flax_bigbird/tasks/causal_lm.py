"""Causal language modeling: a decoder predicts each token from those before it.

Prediction continues a text.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_bigbird.attention import num_token_shards
from flax_bigbird.data.errors import OptionError
from flax_bigbird.data.tokenization import tokenize
from flax_bigbird.data.types import Arrays, Dataset, Row, Tokenizer
from flax_bigbird.nn.losses import IGNORED_LABEL, cross_entropy
from flax_bigbird.tasks.base import Loss, Window, get_text
from flax_bigbird.tasks.language_modeling import LanguageModeling, model_inputs
from flax_bigbird.tasks.row_masks import labels_of_rows
from flax_bigbird.tasks.task_options import CausalLMOptions


class CausalLM(LanguageModeling):
    """Predicts the next token.

    A window starts with `[CLS]`; every later token is a target, as is the `[SEP]` at its end.

    A prediction is `{"text"}`: the continuation of a text, up to `max_new_tokens` tokens or the
    `[SEP]` that the model generates. Of a text that is too long, only the end is read. With
    `temperature` 0, the most likely token is chosen each time; otherwise tokens are sampled, with
    the same result for the same seed and rows.
    """

    name = "causal-lm"
    title = "Causal language model"
    pipeline_tag = "text-generation"
    model_class = "FlaxBigBirdForCausalLM"
    options_class = CausalLMOptions
    masks_rows = True
    compiles_predict_step = True  # `generate` compiles its own programs

    def __init__(self, options: Any, tokenizer: Tokenizer, config: Any):
        super().__init__(options, tokenizer, config)
        if self.options.command == "predict" and (
            self.options.max_new_tokens > self.options.length - 2
        ):
            raise OptionError(
                f"must leave room for a text in max_length={self.options.length}; "
                f"got {self.options.max_new_tokens}: lower it",
                option="max_new_tokens",
            )

    @classmethod
    def infer_config(cls, options: Any, rows: Dataset) -> dict[str, Any]:
        return super().infer_config(options, rows) | {"is_decoder": True}

    @classmethod
    def check_config(cls, config: Any) -> None:
        if not config.is_decoder:
            raise OptionError(
                "the model must be a decoder to continue texts; got is_decoder=False: train one "
                "with bigbird train causal-lm, or name another task"
            )

    @property
    def logits_per_token(self) -> float:
        return 1.0

    def collate_document(
        self, document: Row, length: int, generator: np.random.Generator
    ) -> Arrays:
        ids = np.asarray(document["input_ids"], np.int32)
        labels = np.full(length, IGNORED_LABEL, np.int32)
        labels[: len(ids) - 1] = ids[1:]
        arrays = self.pad(ids, length) | {"labels": labels}
        return self.add_random_offset(arrays, length, generator)

    def loss(self, model: Any, params: Any, batch: Arrays, **call: Any) -> Loss:
        labels = labels_of_rows(batch)
        num_targets = (labels != IGNORED_LABEL).sum()
        if num_token_shards() > 1:  # the logits of long texts would not fit
            own = jnp.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=IGNORED_LABEL)
            mean = model.loss(**model_inputs(batch), labels=own, params=params, **call)
            return Loss(mean, num_targets)
        logits = model(**model_inputs(batch), params=params, **call).logits
        return Loss(cross_entropy(logits, labels), num_targets)

    def eval_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        logits = model(**model_inputs(batch), params=params).logits
        return self.loss_sums(logits, batch["labels"])

    def encode(self, row: Row) -> list[Window]:
        """Encodes the end of a text as a prompt, which has `[CLS]` but no `[SEP]`."""
        (ids,) = tokenize(self.tokenizer, [get_text(row, self.options.text_column)])
        max_prompt = self.options.length - 1 - self.options.max_new_tokens
        prompt: list[Any] = [self.tokenizer.cls_token_id, *ids[-max_prompt:]]
        return [Window(prompt)]

    def predict_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        options = self.options
        # The bucket may be longer than the prompts are allowed to be; the rest is padding.
        max_prompt = options.length - options.max_new_tokens
        ids = np.asarray(batch["input_ids"])[:, :max_prompt]
        mask = np.asarray(batch["attention_mask"])[:, :max_prompt]
        sampling: dict[str, Any] = {"do_sample": False}
        if options.temperature:
            sampling = {"do_sample": True, "temperature": options.temperature, "top_k": 0}
        key = jax.random.fold_in(jax.random.PRNGKey(options.seed), zlib.crc32(ids.tobytes()))
        sequences = model.generate(
            ids,
            attention_mask=mask,
            params=params,
            prng_key=key,
            max_new_tokens=options.max_new_tokens,
            eos_token_id=self.tokenizer.sep_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            **sampling,
        ).sequences
        return {"new_ids": sequences[:, ids.shape[1] :]}

    def decode(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        (output,) = outputs
        ids = output["new_ids"].tolist()
        text: Any = self.tokenizer.decode(ids, skip_special_tokens=True)
        return {"text": text}
