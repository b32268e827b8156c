"""The embedder: a model that returns vectors of texts, with the calls of sentence-transformers."""

import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from flax_bigbird.checkpoint import CheckpointError, Source
from flax_bigbird.checkpoint.sentence_transformers import (
    Normalize,
    load_embedding_modules,
    save_embedding_modules,
)
from flax_bigbird.data.errors import DataError, OptionError, UnknownTokensWarning
from flax_bigbird.data.tokenization import load_tokenizer
from flax_bigbird.data.types import Row
from flax_bigbird.inference.options import embed_options
from flax_bigbird.inference.predictor import MAX_ROWS_PER_CHUNK, Predictor, check_max_length
from flax_bigbird.inference.progress import track_answers
from flax_bigbird.inference.resolve import resolve_name, resolve_options
from flax_bigbird.inference.rows import is_single_row, iterate_items
from flax_bigbird.pretrained import DEFAULT_MODEL
from flax_bigbird.tasks.embedding import Embedding
from flax_bigbird.tasks.loading import load_config, load_model


class ChunkEmbeddings(NamedTuple):
    """The vectors of the chunks of one text.

    Attributes:
      vectors: `[C, D]`, in float32.
      spans: For each chunk, its characters `[start, end)` in the text.
    """

    vectors: np.ndarray
    spans: list[tuple[int, int]]


def load_embedder(model: str | Path = DEFAULT_MODEL, **options: Any) -> "Embedder":
    """Loads a model with its tokenizer, ready to return vectors of texts.

        embedder = load_embedder("run", normalize_embeddings=True)
        embedder.encode(["The jury finds ...", "The bill passed ..."])  # float32, [2, D]

    Args:
      model: A directory, the name of a shipped model, or a Hub id: any BigBird checkpoint, or a
        folder of sentence-transformers with one.
      options: The options of `bigbird embed`, such as `max_length` or `pooling_mode`. Options that
        are left out are those of the folder of sentence-transformers, then those of the training
        run that the directory holds, if it holds one.

    Raises:
      OptionError: if the checkpoint or its tokenizer cannot be loaded, or if an option is unknown,
        invalid or belongs to another task.
    """
    name = resolve_name(model)
    try:
        modules = load_embedding_modules(Source(name))
    except CheckpointError as error:
        raise OptionError(f"model must be a BigBird checkpoint; {name}: {error}") from error
    if modules is not None and modules.transformer_path:
        name = str(Path(name) / modules.transformer_path)
        if not Path(name).is_dir():
            raise OptionError(
                f"a folder of sentence-transformers must have its checkpoint at the top; {model} "
                f"has it in {modules.transformer_path}: download it and name the folder"
            )
    config = load_config(name)
    tokenizer = load_tokenizer(name)
    resolved = embed_options(**resolve_options("embedding", "embed", name, options))
    if modules is not None and "max_length" not in options:
        limits = (modules.max_seq_length, tokenizer.model_max_length)
        length = min(config.max_position_embeddings, *filter(None, limits))
        resolved = resolved.replace(
            max_length=length, tokens_per_batch=max(resolved.tokens_per_batch, length)
        )
    check_max_length(resolved.max_length, config)
    loaded = load_model(name, Embedding.model_class, dtype=resolved.dtype, **Embedding.model_fields)
    task = Embedding(resolved, tokenizer, loaded.config, modules)
    return Embedder(Predictor(task, loaded, name).with_task(task, MAX_ROWS_PER_CHUNK))


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
            at once. The option `tokens_per_batch` limits it further.
          show_progress_bar: Whether to show a progress bar. None stands for False.
          output_value: Only "sentence_embedding".
          precision: Only "float32".
          convert_to_numpy: Whether to return one array; otherwise, a list of one vector per text.
          convert_to_tensor: Whether to return an array of JAX instead of NumPy.
          device: Only None: JAX chooses the device.
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
        fixed = {"output_value": output_value, "precision": precision, "device": device}
        for name, value in fixed.items():
            only = {"output_value": "sentence_embedding", "precision": "float32"}.get(name)
            if value != only:
                raise OptionError(f"{name} must be {only!r}; got {value!r}: leave it out")
        if options.get("chunk_tokens") is not None or options.get("chunk_sentences"):
            raise OptionError(
                "encode returns one vector per text; got an option of chunks: call encode_chunks"
            )
        given = {
            "prompt_name": prompt_name if prompt is None else None,
            "prompt": prompt,
            "normalize_embeddings": normalize_embeddings or None,
            "truncate_dim": truncate_dim,
            "chunk_tokens": None,
            "chunk_sentences": False,
            "chunk_overlap": 0,
        }
        texts, is_single = _as_texts(sentences)
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
        return self.encode(sentences, self._role(prompt_name, options, ("query",)), **options)

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
        names = ("document", "passage", "corpus")
        return self.encode(sentences, self._role(prompt_name, options, names), **options)

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
        if by not in ("tokens", "sentence"):
            raise OptionError(f"by must be 'tokens' or 'sentence'; got {by!r}: choose one of them")
        is_by_sentence = by == "sentence"
        if is_by_sentence and chunk_size is not None:
            raise OptionError(
                f"chunk_size belongs to by='tokens'; got {chunk_size} for sentences: leave it out"
            )
        given = {
            "prompt_name": prompt_name if prompt is None else None,
            "prompt": prompt,
            "normalize_embeddings": normalize_embeddings or None,
            "truncate_dim": truncate_dim,
            "chunk_tokens": None if is_by_sentence else 256 if chunk_size is None else chunk_size,
            "chunk_overlap": chunk_overlap,
            "chunk_sentences": is_by_sentence,
        }
        texts, is_single = _as_texts(sentences)
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
        rows = ({column: text} for text in _checked(texts))
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
        a, b = (np.atleast_2d(np.asarray(x, np.float32)) for x in (embeddings1, embeddings2))
        name = self.similarity_fn_name
        if name == "cosine":
            a, b = Normalize()(a), Normalize()(b)
        if name in ("cosine", "dot"):
            return a @ b.T
        order = {"euclidean": 2, "manhattan": 1}[name]
        rows = [-np.linalg.norm(row - b, ord=order, axis=-1) for row in a]
        return np.array(rows, np.float32).reshape(len(a), len(b))

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
        folder, options = Path(path).expanduser(), self.task.options
        modules = self.task.modules
        layers = modules.layers
        if options.normalize_embeddings and (not layers or not isinstance(layers[-1], Normalize)):
            if self.truncate_dim is not None:
                raise OptionError(
                    "a folder of sentence-transformers truncates vectors after their length is 1; "
                    f"got normalize_embeddings with truncate_dim={self.truncate_dim}: leave one "
                    "of them out, and give it to encode"
                )
            layers = (*layers, Normalize())
        modules = dataclasses.replace(
            modules,
            pooling_mode=self.task.pooling_mode,
            layers=layers,
            max_seq_length=self.max_seq_length,
            truncate_dim=self.truncate_dim,
            transformer_path="",
        )
        self.predictor.model.save_pretrained(folder)
        previous_length = self.tokenizer.model_max_length
        self.tokenizer.model_max_length = self.max_seq_length
        try:
            self.tokenizer.save_pretrained(folder)
        finally:
            self.tokenizer.model_max_length = previous_length
        save_embedding_modules(folder, modules, self.task.config.hidden_size)

    save = save_pretrained

    def _role(
        self, prompt_name: str | None, options: dict[str, Any], names: tuple[str, ...]
    ) -> str | None:
        """Returns the name of the prompt of queries or of documents."""
        if prompt_name is not None or options.get("prompt") is not None:
            return prompt_name
        return next((name for name in names if name in self.task.modules.prompts), None)

    def _predictor(self, batch_size: int | None, options: dict[str, Any]) -> Predictor:
        if batch_size is not None and (isinstance(batch_size, bool) or batch_size < 1):
            raise OptionError(f"batch_size must be at least 1; got {batch_size!r}: raise it")
        if options.keys() & {"dtype", "max_length"}:
            raise OptionError(
                "dtype and max_length belong to the loaded model; got "
                f"{', '.join(options.keys() & {'dtype', 'max_length'})}: give load_embedder them"
            )
        given = {name: value for name, value in options.items() if value is not None}
        for name in ("prompt", "prompt_name", "chunk_tokens"):  # one of them excludes others
            if name in options and getattr(self.task.options, name) is not None:
                given[name] = options[name]
        task = self.task.with_options(**given)
        return self.predictor.with_task(task, batch_size or MAX_ROWS_PER_CHUNK)

    def _answers(
        self, texts: Any, batch_size: int, show_progress_bar: bool | None, options: dict[str, Any]
    ) -> list[Row]:
        answers = self.iterate_answers(texts, batch_size, **options)
        if show_progress_bar:
            total = len(texts) if hasattr(texts, "__len__") else None
            answers = track_answers(answers, total, "texts")
        return list(answers)


def _as_texts(value: Any) -> tuple[Any, bool]:
    """Returns an iterable of texts, and whether the value is a single text.

    Raises:
      DataError: if it is neither.
    """
    if isinstance(value, str):
        return [value], True
    if value is None or is_single_row(value) or not hasattr(value, "__iter__"):
        raise DataError(
            f"sentences must be a text or several; got {value!r}, of type {type(value).__name__}: "
            "give texts"
        )
    return iterate_items(value), False


def _checked(texts: Iterable[Any]) -> Iterator[str]:
    """Yields texts.

    Raises:
      DataError: if an item is not a text. The message gives its index.
    """
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(
                f"sentences must be texts; that at index {index} is {str(text)[:60]!r}, of type "
                f"{type(text).__name__}: convert it to a text, or leave it out"
            )
        yield str(text)
