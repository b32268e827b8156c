"""What a causal language model says next."""

import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from flax_bigbird.tasks.base import Arrays, Row, Task, Window
from flax_bigbird.tasks.errors import OptionError
from flax_bigbird.tasks.text import encode


class Continue(Task):
    """`{"text"}`: what follows, up to `new_tokens` pieces or the end that the model sets.

    Of a long text the end is read: what is cut stands at its beginning. With `temperature` 0 the
    likeliest piece is taken each time; else pieces are drawn, the same for the same seed and rows.
    """

    name = "causal-lm"
    model_class = "FlaxBigBirdForCausalLM"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        if self.options.new_tokens > self.options.length - 2:
            raise OptionError(
                f"new_tokens must leave room for a text in max_length={self.options.length}; got "
                f"{self.options.new_tokens}: lower it"
            )
        self._outputs = self.outputs  # `generate` compiles its own programs

    @classmethod
    def check_config(cls, config: Any) -> None:
        if not config.is_decoder:
            raise OptionError(
                "the model must be a decoder to continue texts; got is_decoder=False: train one "
                "with bigbird train causal-lm, or name another task"
            )

    def windows(self, row: Row) -> list[Window]:
        pieces = encode(self.tokenizer, [self.text(row, self.options.text_column)])[0]
        room = self.options.length - 1 - self.options.new_tokens
        cls: Any = self.tokenizer.cls_token_id
        return [Window([cls, *pieces[-room:]])]

    def outputs(self, params: Any, batch: Arrays) -> Arrays:
        ids, options = np.asarray(batch["input_ids"]), self.options
        room = options.length - options.new_tokens
        # The bucket may be longer than what leaves room for the new tokens; its padding is not.
        ids, mask = ids[:, :room], np.asarray(batch["attention_mask"])[:, :room]
        drawn = {"do_sample": True, "temperature": options.temperature, "top_k": 0}
        key = jax.random.fold_in(jax.random.PRNGKey(options.seed), zlib.crc32(ids.tobytes()))
        made = self.model.generate(
            ids,
            attention_mask=mask,
            params=params,
            prng_key=key,
            max_new_tokens=options.new_tokens,
            eos_token_id=self.tokenizer.sep_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            **(drawn if options.temperature else {"do_sample": False}),
        )
        return {"new": made.sequences[:, ids.shape[1] :]}

    def answer(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        (found,) = outputs
        text: Any = self.tokenizer.decode(found["new"].tolist(), skip_special_tokens=True)
        return {"text": text}
