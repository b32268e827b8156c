"""Prediction of embedding: a vector for each document, or one for each of its chunks."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird.checkpoint.embedding_layers import Normalize
from flax_bigbird.checkpoint.sentence_transformers import EmbeddingModules
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.sentences import trim_span
from flax_bigbird.data.tokenization import tokenize, tokenize_with_offsets
from flax_bigbird.data.types import Arrays, Row, Tokenizer
from flax_bigbird.data.windows import (
    NUM_SPECIAL_TOKENS,
    CountedWindow,
    counted_windows,
    with_special_tokens,
)
from flax_bigbird.tasks.base import PredictionTask, Window, get_text
from flax_bigbird.tasks.embedding_windows import (
    Offsets,
    Part,
    WindowParts,
    chunk_pieces,
    chunk_sentences,
    span_sums,
)
from flax_bigbird.tasks.retrieval_options import POOLING_MODES, EmbeddingOptions, find_prompt

MIN_SPANS = 16  # The number of sentences of a window is padded to this, or to its doubles.


class EmbeddingPrediction(PredictionTask):
    """Represents each document by a vector, or by one for each of its chunks.

    The vector of a document is the mean of its tokens, `[CLS]` and `[SEP]` included, as in
    sentence-transformers. With `pooling_mode="weightedmean"`, a token at position p has the weight
    p + 1; with `cls` and `lasttoken`, the first or the last token is the vector.

    Documents longer than `max_length` are read in windows, see `counted_windows`. The sums over
    their tokens are added up, so that each token of the document counts once, as do the `[CLS]` of
    the first window and the `[SEP]` of the last. With `cls` and `lasttoken`, the vector is the mean
    over the windows.

    The vector of a chunk is the mean of its tokens without `[CLS]` and `[SEP]`. The tokens are
    those of the whole document, which is read once (late chunking, arXiv 2409.04701).

    A prediction is `{"vector"}`, `[D]`; or `{"chunks", "vectors"}`, the characters `[start, end)`
    of each chunk and `[C, D]`.
    """

    name = "embedding"
    title = "Document embedding"
    pipeline_tag = "sentence-similarity"
    model_class = "FlaxBigBirdModel"
    model_fields = {"add_pooling_layer": False}  # noqa: RUF012
    options_class = EmbeddingOptions

    def __init__(
        self,
        options: Any,
        tokenizer: Tokenizer,
        config: Any,
        modules: EmbeddingModules | None = None,
    ):
        """Prepares the task for one model.

        Args:
          options: The options.
          tokenizer: The model's tokenizer.
          config: The model's `BigBirdConfig`.
          modules: What the model's folder says about pooling, layers and prompts.

        Raises:
          OptionError: if the options cannot be used with the model or its modules.
        """
        super().__init__(options, tokenizer, config)
        self.modules = modules or EmbeddingModules()
        self._resolve_options()

    def with_options(self, **changes: Any) -> Any:
        task = super().with_options(**changes)
        task._resolve_options()
        return task

    def _resolve_options(self) -> None:
        """Sets the attributes that follow from the options and the modules."""
        options, modules = self.options, self.modules
        self.pooling_mode: str = options.pooling_mode or modules.pooling_mode
        if self.pooling_mode not in POOLING_MODES:
            raise OptionError(
                f"must be one of {', '.join(POOLING_MODES)}; the model's folder has "
                f"{self.pooling_mode!r}: give one of them",
                option="pooling_mode",
            )
        if options.is_chunked and self.pooling_mode != "mean":
            raise OptionError(
                f"the vectors of chunks are means; the model's folder has pooling_mode="
                f"{self.pooling_mode!r}: give pooling_mode=mean, or leave the chunks out"
            )
        if not modules.include_prompt and self.pooling_mode not in ("mean", "weightedmean"):
            raise OptionError(
                "a model that excludes prompts must have the pooling_mode mean or weightedmean; "
                f"got {self.pooling_mode!r}: give one of these"
            )
        self.prompt: str = options.prompt or ""
        name = options.prompt_name or modules.default_prompt_name
        if options.prompt is None and name is not None:
            self.prompt = find_prompt(modules.prompts, name)
        size = modules.dimension(self.config.hidden_size)
        self.truncate_dim = options.truncate_dim or modules.truncate_dim
        if self.truncate_dim is not None and self.truncate_dim > size:
            raise OptionError(
                f"must be at most the {size:,} dimensions of the vectors; got "
                f"{self.truncate_dim:,}: lower it",
                option="truncate_dim",
            )
        self.dimension: int = self.truncate_dim or size
        self._num_excluded_tokens = self._count_excluded_tokens()

    def encode(self, row: Row) -> list[Window]:
        text = get_text(row, self.options.text_column)
        offsets: Offsets | None = None
        if self.options.is_chunked:
            ids, offsets = tokenize_with_offsets(self.tokenizer, self.prompt + text.rstrip())
        else:
            (ids,) = tokenize(self.tokenizer, [self.prompt + text])
        return self._encode_tokens(ids, text, offsets)

    def encode_ids(self, ids: list[int]) -> list[Window]:
        """Encodes token ids of a text, with or without `[CLS]` and `[SEP]` at its ends.

        A prompt is not put before them.

        Raises:
          DataError: if an id is not one of the tokenizer.
        """
        unknown = next((id for id in ids if not 0 <= id < len(self.tokenizer)), None)
        if unknown is not None:
            raise DataError(
                f"token ids must lie in 0..{len(self.tokenizer) - 1}; got {unknown}: take them "
                "from the tokenizer of the model"
            )
        start = int(ids[:1] == [self.tokenizer.cls_token_id])
        stop = len(ids) - int(ids[start:][-1:] == [self.tokenizer.sep_token_id])
        return self._encode_tokens(ids[start:stop], "", None)

    def _encode_tokens(self, ids: list[int], text: str, offsets: Offsets | None) -> list[Window]:
        """Returns the windows of the tokens of a text; see `encode`."""
        length = self.options.length
        if not self.options.whole_documents:
            ids = ids[: length - NUM_SPECIAL_TOKENS]
        ranges, chunks = self._ranges(text, len(ids), offsets)
        if not ranges:
            return []
        windows = counted_windows(len(ids), length)
        parts = [self._parts(window, ranges, len(ids)) for window in windows]
        return [
            Window(
                with_special_tokens(ids[window.start : window.stop], self.tokenizer),
                WindowParts(window.start, own, self._num_spans(len(own), window), chunks),
            )
            for window, own in zip(windows, parts, strict=True)
        ]

    def collate_window(self, window: Window, length: int) -> Arrays:
        info: WindowParts = window.info
        spans = np.zeros((info.num_spans, 2), np.int32)
        spans[: len(info.parts)] = [part[1:] for part in info.parts]
        arrays = self.pad(window.input_ids, length) | {"spans": spans}
        if self.pooling_mode == "weightedmean":
            arrays["first_weight"] = np.asarray(info.start + 1, np.float32)
        return arrays

    def predict_step(self, model: Any, params: Any, batch: Arrays) -> Arrays:
        """Returns the weighted sums of the spans' tokens, `sums` `[B, S, D]`, in float32.

        It depends on the arrays alone, so that tasks with other options share its programs.
        """
        output = model(batch["input_ids"], batch["attention_mask"], params=params)
        states = output.last_hidden_state.astype(jnp.float32)
        # Padding may hold anything that is not finite, which a weight of 0 would not remove.
        states = jnp.where(batch["attention_mask"][..., None] > 0, states, 0.0)
        return {"sums": span_sums(states, batch["spans"], batch.get("first_weight"))}

    def decode(self, row: Row, windows: Sequence[Window], outputs: Sequence[Arrays]) -> Row:
        if not windows:
            return {"chunks": [], "vectors": np.zeros((0, self.dimension), np.float32)}
        chunks = windows[0].info.chunks
        count = 1 if chunks is None else len(chunks)
        sums = np.zeros((count, self.config.hidden_size))
        weights = np.zeros((count, 1))
        for window, output in zip(windows, outputs, strict=True):
            info: WindowParts = window.info
            index = [part.vector for part in info.parts]
            np.add.at(sums, index, output["sums"][: len(index)])
            np.add.at(weights, index, [[self._weight(part, info.start)] for part in info.parts])
        vectors = self._finish((sums / np.maximum(weights, 1e-9)).astype(np.float32))
        return {"vector": vectors[0]} if chunks is None else {"chunks": chunks, "vectors": vectors}

    def _ranges(
        self, text: str, num_tokens: int, offsets: Offsets | None
    ) -> tuple[list[tuple[int, int]], Offsets | None]:
        """Returns the positions `[start, stop)` of each vector's tokens, and the chunks.

        Positions are those of the document `[CLS] tokens [SEP]`.
        """
        if offsets is None:
            return [(self._num_excluded_tokens, num_tokens + NUM_SPECIAL_TOKENS)], None
        # The offsets of the text's own tokens, without those of the prompt and of a truncated end.
        shift = len(self.prompt)
        ends = offsets[:num_tokens]
        first = next((n for n, (_, end) in enumerate(ends) if end > shift), num_tokens)
        ends = ends[first:]
        if shift:
            ends = [(max(0, start - shift), end - shift) for start, end in ends]
        ranges = self._chunk_ranges(text, ends)
        chunks = [trim_span(text, ends[start][0], ends[stop - 1][1]) for start, stop in ranges]
        return [(first + start + 1, first + stop + 1) for start, stop in ranges], chunks

    def _chunk_ranges(self, text: str, offsets: Offsets) -> list[tuple[int, int]]:
        """Returns the tokens `[start, stop)` of each chunk."""
        options = self.options
        if options.chunk_sentences:
            return chunk_sentences(text, offsets)
        return chunk_pieces(offsets, options.chunk_tokens, options.chunk_overlap)

    def _count_excluded_tokens(self) -> int:
        """Returns the number of tokens at the start that the vector of a document leaves out.

        They are counted as sentence-transformers counts them: in the prompt alone, where a space at
        its end is a token, although it is one with the first word in a prompt and text.
        """
        if self.modules.include_prompt or not self.prompt:
            return 0
        ids: Any = self.tokenizer(self.prompt, verbose=False)["input_ids"]
        return len(ids) - (ids[-1] in self.tokenizer.all_special_ids)

    def _parts(
        self, window: CountedWindow, ranges: list[tuple[int, int]], num_tokens: int
    ) -> list[Part]:
        """Returns the parts of a window that belong to each of the vectors."""
        last = window.stop - window.start + NUM_SPECIAL_TOKENS
        if self.pooling_mode == "cls":
            return [Part(0, 0, 1)]
        if self.pooling_mode == "lasttoken":
            return [Part(0, last - 1, last)]
        low = window.first + 1 if window.first else 0
        high = window.last + 1 + (window.last == num_tokens)
        parts = []
        for vector, (start, stop) in enumerate(ranges):
            start, stop = max(start, low), min(stop, high)
            if start < stop:
                parts.append(Part(vector, start - window.start, stop - window.start))
        return parts

    def _num_spans(self, num_parts: int, window: CountedWindow) -> int:
        """Returns the number of spans that a window is padded to, so that programs are few."""
        if not self.options.is_chunked:
            return 1
        if self.options.chunk_sentences:
            return max(MIN_SPANS, 1 << (num_parts - 1).bit_length())
        step = self.options.chunk_tokens - self.options.chunk_overlap
        length = self.options.bucket_length(window.stop - window.start + NUM_SPECIAL_TOKENS)
        # A chunk may begin before the window, and there is none at most in each step of it.
        return -(-(length + self.options.chunk_overlap) // step) + 1

    def _weight(self, part: Part, start: int) -> float:
        """Returns the sum of the weights of a part's tokens."""
        count = float(part.stop - part.start)
        if self.pooling_mode != "weightedmean":
            return count
        return count * (start + (part.start + part.stop + 1) / 2)

    def _finish(self, vectors: np.ndarray) -> np.ndarray:
        """Applies the layers after pooling, truncation and normalization to vectors `[C, D]`."""
        for layer in self.modules.layers:
            vectors = layer(vectors)
        vectors = vectors[:, : self.dimension]
        if self.options.normalize_embeddings:
            vectors = Normalize()(vectors)
        return np.ascontiguousarray(vectors, np.float32)
