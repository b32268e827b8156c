"""The embedder: a model that returns vectors of texts, with the calls of sentence-transformers."""

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird.data.errors import UnknownTokensWarning
from flax_bigbird.data.types import Row
from flax_bigbird.inference.embedder_files import save_embedder
from flax_bigbird.inference.encode_options import (
    ChunkEmbeddings,
    changed_options,
    check_encode_call,
    chunk_options,
    prompt_name_for,
    vector_options,
)
from flax_bigbird.inference.predictor import MAX_ROWS_PER_CHUNK, Predictor, check_max_length
from flax_bigbird.inference.progress import track_answers
from flax_bigbird.inference.similarity import similarities
from flax_bigbird.inference.text_inputs import as_texts, check_count, checked_texts
from flax_bigbird.tasks.embedding import Embedding


class Embedder:
    """A model that returns vectors of texts.

    Its methods have the signatures of `sentence_transformers.SentenceTransformer`. Texts that are
    longer than `max_seq_length` are read in windows instead of being truncated, unless the option
    `whole_documents` is False.

    Attributes:
      predictor: The predictor, which encodes texts, runs the model, and decodes the vectors.
    """

    def __init__(self, predictor: Predictor):
        if not isinstance(predictor.task, Embedding):
            raise TypeError(f"the task must be embedding; got {predictor.task.name!r}")
        self.predictor = predictor
        self._task: Embedding = predictor.task

    @property
    def task(self) -> Embedding:
        """The task with the options that the embedder was loaded with."""
        return self._task

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the model."""
        return self.task.tokenizer

    @property
    def prompts(self) -> dict[str, str]:
        """The texts that may be put before a text, by name."""
        return dict(self.task.modules.prompts)

    @property
    def default_prompt_name(self) -> str | None:
        """The name of the prompt that is used unless another is given."""
        return self.task.modules.default_prompt_name

    @property
    def similarity_fn_name(self) -> str:
        """How `similarity` compares vectors: cosine, dot, euclidean or manhattan."""
        return self.task.modules.similarity_fn_name

    @property
    def truncate_dim(self) -> int | None:
        """The number of dimensions of a vector that are kept; None keeps all."""
        return self.task.truncate_dim

    @property
    def max_seq_length(self) -> int:
        """The maximum number of tokens of a window, with `[CLS]` and `[SEP]`."""
        return self.task.options.length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        check_max_length(length, self.task.config)
        tokens = max(length, self.task.options.tokens_per_batch)
        self._task = self.task.with_options(max_length=length, tokens_per_batch=tokens)
        self.predictor = self.predictor.with_task(self._task, MAX_ROWS_PER_CHUNK)

    def get_max_seq_length(self) -> int:
        """Returns `max_seq_length`."""
        return self.max_seq_length

    def get_embedding_dimension(self) -> int:
        """Returns the number of dimensions of a vector."""
        return self.task.dimension

    def get_sentence_embedding_dimension(self) -> int:
        """Returns `get_embedding_dimension()`, under the name of sentence-transformers before 6."""
        return self.get_embedding_dimension()

    def encode(
        self,
        sentences: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        **options: Any,
    ) -> Any:
        """Returns the vectors of texts.

        Args:
          sentences: A text, or an iterable of texts.
          prompt_name: The name of the prompt to put before each text.
          prompt: The text to put before each text, which precedes `prompt_name`.
          batch_size: The maximum number of texts, or of windows of long texts, that the model reads
            at once on each device. The option `tokens_per_batch` limits it further.
          show_progress_bar: Whether to show a progress bar. None stands for False.
          output_value: Only "sentence_embedding".
          precision: Only "float32".
          convert_to_numpy: Whether to return one array; otherwise, a list of one vector per text.
          convert_to_tensor: Whether to return an array of JAX instead of NumPy.
          device: Only None: `load_embedder` takes `devices`.
          normalize_embeddings: Whether to scale the vectors to length 1.
          truncate_dim: The number of dimensions that are kept.
          options: Further options of `load_embedder` that shape texts and vectors, such as
            `pooling_mode`.

        Returns:
          An array `[N, D]` in float32; for a single text, `[D]`.

        Raises:
          DataError: if an item is not a text, or a vector is not finite.
          OptionError: if an option cannot be used.
        """
        check_encode_call(output_value, precision, device, options)
        given = vector_options(prompt_name, prompt, normalize_embeddings, truncate_dim)
        texts, is_single = as_texts(sentences)
        answers = self._answers(texts, batch_size, show_progress_bar, given | options)
        vectors = [answer["vector"] for answer in answers]
        if is_single:
            return jnp.asarray(vectors[0]) if convert_to_tensor else vectors[0]
        if convert_to_tensor or convert_to_numpy:
            dimension = truncate_dim or self.get_embedding_dimension()
            stacked = np.stack(vectors) if vectors else np.zeros((0, dimension), np.float32)
            return jnp.asarray(stacked) if convert_to_tensor else stacked
        return vectors

    def encode_query(self, sentences: Any, prompt_name: str | None = None, **options: Any) -> Any:
        """Returns the vectors of queries: `encode` with the prompt named "query", if there is one.

        Args:
          sentences: A text, or an iterable of texts.
          prompt_name: The name of another prompt.
          options: See `encode`.
        """
        role = "query" if "query" in self.prompts else None
        return self.encode(sentences, prompt_name_for(role, prompt_name, options), **options)

    def encode_document(
        self, sentences: Any, prompt_name: str | None = None, **options: Any
    ) -> Any:
        """Returns the vectors of documents: `encode` with the prompt of documents, if there is one.

        That is the prompt named "document", "passage" or "corpus".

        Args:
          sentences: A text, or an iterable of texts.
          prompt_name: The name of another prompt.
          options: See `encode`.
        """
        role = self.task.modules.document_prompt_name
        return self.encode(sentences, prompt_name_for(role, prompt_name, options), **options)

    def encode_chunks(
        self,
        sentences: Any,
        chunk_size: int | None = None,
        chunk_overlap: int = 0,
        by: str = "tokens",
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        **options: Any,
    ) -> Any:
        """Returns the vectors of all chunks of texts, each of which is read once, as a whole.

        The vector of a chunk is the mean of its tokens as they were read in the whole text (late
        chunking, arXiv 2409.04701).

        Args:
          sentences: A text, or an iterable of texts.
          chunk_size: The number of tokens of a chunk; by default, 256.
          chunk_overlap: The number of tokens that neighboring chunks have in common.
          by: "tokens" for chunks of `chunk_size` tokens, "sentence" for a chunk per sentence.
          prompt_name: See `encode`.
          prompt: See `encode`.
          batch_size: See `encode`.
          show_progress_bar: See `encode`.
          normalize_embeddings: See `encode`.
          truncate_dim: See `encode`.
          **options: See `encode`.

        Returns:
          The `ChunkEmbeddings` of the text, or a list with those of each text. A text without
          tokens has no chunks.

        Raises:
          DataError: if an item is not a text, or a vector is not finite.
          OptionError: if an option cannot be used.
        """
        given = vector_options(prompt_name, prompt, normalize_embeddings, truncate_dim)
        given |= chunk_options(by, chunk_size, chunk_overlap)
        texts, is_single = as_texts(sentences)
        answers = self._answers(texts, batch_size, show_progress_bar, given | options)
        chunks = [ChunkEmbeddings(answer["vectors"], answer["chunks"]) for answer in answers]
        return chunks[0] if is_single else chunks

    def iterate_answers(
        self, texts: Iterable[Any], batch_size: int | None = None, **options: Any
    ) -> Iterator[Row]:
        """Yields the prediction of each text, in order; not all texts are in memory at once.

        Args:
          texts: The texts.
          batch_size: See `encode`; by default, only `tokens_per_batch` limits a batch.
          options: The options that differ from those that the embedder was loaded with.

        Yields:
          `{"vector"}`; or `{"chunks", "vectors"}` if the options say that texts have chunks.
        """
        predictor = self._predictor(batch_size, options)
        column = predictor.options.text_column
        rows = ({column: text} for text in checked_texts(texts))
        for answers in predictor.iterate_answers(rows):
            yield from answers
        if message := predictor.unknown_tokens_message():
            warnings.warn(message, UnknownTokensWarning, stacklevel=2)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """Returns the similarity of every vector of the first to every one of the second.

        Args:
          embeddings1: `[N, D]` or `[D]`.
          embeddings2: `[M, D]` or `[D]`.

        Returns:
          `[N, M]`, in float32: the cosine by default. Distances are negated.
        """
        return similarities(embeddings1, embeddings2, self.similarity_fn_name)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> np.ndarray:
        """Returns the similarity of each vector to the one at the same index, `[N]`.

        Args:
          embeddings1: `[N, D]`.
          embeddings2: `[N, D]`.
        """
        pairs = zip(np.atleast_2d(embeddings1), np.atleast_2d(embeddings2), strict=True)
        return np.array([self.similarity(a, b)[0, 0] for a, b in pairs], np.float32)

    def save_pretrained(self, path: str | Path) -> None:
        """Saves a folder that `sentence_transformers.SentenceTransformer` and `load_embedder` open.

        Pooling, prompts, layers, normalization and truncation are saved with the model.

        Args:
          path: The folder, which is created if necessary.

        Raises:
          CheckpointError: if it is a file, or cannot be written.
        """
        save_embedder(Path(path).expanduser(), self.predictor.model, self.task)

    save = save_pretrained

    def _predictor(self, batch_size: int | None, options: dict[str, Any]) -> Predictor:
        if batch_size is not None:
            check_count("batch_size", batch_size)
        task = self.task.with_options(**changed_options(self.task.options, options))
        return self.predictor.with_task(task, batch_size or MAX_ROWS_PER_CHUNK)

    def _answers(
        self, texts: Any, batch_size: int, show_progress_bar: bool | None, options: dict[str, Any]
    ) -> list[Row]:
        answers = self.iterate_answers(texts, batch_size, **options)
        if show_progress_bar:
            total = len(texts) if hasattr(texts, "__len__") else None
            answers = track_answers(answers, total, "texts")
        return list(answers)
