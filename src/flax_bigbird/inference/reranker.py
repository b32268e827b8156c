"""The reranker: a cross-encoder that scores documents for a query, as in sentence-transformers."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from flax_bigbird.checkpoint.cross_encoders import save_cross_encoder_settings
from flax_bigbird.checkpoint.embedding_layers import ACTIVATIONS, IDENTITY
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.inference.predictor import MAX_ROWS_PER_CHUNK, Predictor, load_predictor
from flax_bigbird.inference.progress import track_answers
from flax_bigbird.inference.rows import iterate_items
from flax_bigbird.inference.text_inputs import check_count
from flax_bigbird.pretrained import DEFAULT_MODEL
from flax_bigbird.tasks.reranking import Reranking
from flax_bigbird.tasks.retrieval_options import find_prompt


def load_reranker(
    model: str | Path = DEFAULT_MODEL,
    *,
    devices: Sequence[Any] | None = None,
    **options: Any,
) -> "Reranker":
    """Loads a cross-encoder with its tokenizer, ready to score pairs of a query and a document.

        reranker = load_reranker("run")
        reranker.predict([("Who won?", "The jury finds ...")])  # float32, [1]
        reranker.rank("Who won?", documents, top_k=10, return_documents=True)

    Args:
      model: A directory or Hub id: a run of `bigbird train reranking`, or a `CrossEncoder` of
        sentence-transformers with a BigBird.
      devices: Devices of JAX, which share the work as the option `mesh` says. By default, they
        are all devices of this process.
      options: The options of `bigbird predict`, such as `max_length`, `tokens_per_batch` or
        `dtype`.

    Raises:
      OptionError: if the checkpoint or its tokenizer cannot be loaded, if it has more than one
        logit, if an option is unknown, invalid or belongs to another task, or if the mesh does not
        fit the devices or the model.
    """
    return Reranker(load_predictor(model, task="reranking", devices=devices, **options))


class Reranker:
    """A cross-encoder that scores how relevant documents are to a query.

    Its methods have the signatures of `sentence_transformers.CrossEncoder`.

    Attributes:
      predictor: The predictor, which encodes pairs and runs the model.
    """

    def __init__(self, predictor: Predictor):
        if not isinstance(predictor.task, Reranking):
            raise TypeError(f"the task must be reranking; got {predictor.task.name!r}")
        self.predictor = predictor
        self._task: Reranking = predictor.task

    @property
    def task(self) -> Reranking:
        """The task with the options that the reranker was loaded with."""
        return self._task

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the model."""
        return self.task.tokenizer

    @property
    def prompts(self) -> dict[str, str]:
        """The texts that may be put before a query, by name."""
        return dict(self.task.settings.prompts)

    @property
    def max_seq_length(self) -> int:
        """The maximum number of tokens of a pair; the longer text is truncated."""
        return self.task.options.length

    def predict(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[np.ndarray], np.ndarray] | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
    ) -> Any:
        """Returns the scores of pairs.

        Args:
          inputs: A pair of a query and a document, or an iterable of pairs.
          prompt_name: The name of the prompt to put before each query.
          prompt: The text to put before each query, which precedes `prompt_name`.
          batch_size: The maximum number of pairs that the model reads at once on each device. The
            option `tokens_per_batch` limits it further.
          show_progress_bar: Whether to show a progress bar. None stands for False.
          activation_fn: A function from the logits `[N]` to the scores `[N]`. By default, it is
            that of the model's folder, or the sigmoid.
          apply_softmax: Only False: the model has one logit.
          convert_to_numpy: Whether to return one array; otherwise, a list of floats.
          convert_to_tensor: Whether to return an array of JAX instead of NumPy.

        Returns:
          An array `[N]` in float32; for a single pair, one number.

        Raises:
          DataError: if an item is not a pair of texts, or a score is not finite.
          OptionError: if an option cannot be used.
        """
        check_count("batch_size", batch_size)
        if apply_softmax:
            raise OptionError("apply_softmax belongs to models with several logits: leave it out")
        is_single = _is_pair(inputs)
        pairs = [inputs] if is_single else iterate_items(inputs)
        task = self._with_prompt(prompt_name, prompt)
        predictor = self.predictor.with_task(task, min(batch_size, MAX_ROWS_PER_CHUNK))
        total = len(inputs) if hasattr(inputs, "__len__") and not is_single else None
        answers = (row for chunk in predictor.iterate_answers(_rows(pairs)) for row in chunk)
        if show_progress_bar:
            answers = track_answers(answers, total, "pairs")
        logits = np.array([answer["score"] for answer in answers], np.float32)
        activation = activation_fn or ACTIVATIONS[self.task.settings.activation]
        scores = np.asarray(activation(logits), np.float32)
        if is_single:
            return jnp.asarray(scores[0]) if convert_to_tensor else scores[0]
        if convert_to_tensor:
            return jnp.asarray(scores)
        return scores if convert_to_numpy else scores.tolist()

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> list[dict[str, Any]]:
        """Returns the documents with the highest scores for a query, in descending order.

        Args:
          query: The query.
          documents: The documents.
          top_k: The maximum number of documents to return. By default, all are returned.
          return_documents: Whether to return the documents.
          prompt_name: See `predict`.
          prompt: See `predict`.
          batch_size: See `predict`.
          show_progress_bar: See `predict`.
          activation_fn: See `predict`.

        Returns:
          A dictionary for each document: `corpus_id`, its index in `documents`; `score`; and with
          `return_documents`, `text`.

        Raises:
          DataError: if the query or a document is not a text, or a score is not finite.
          OptionError: if an option cannot be used.
        """
        if top_k is not None:
            check_count("top_k", top_k)
        if isinstance(documents, str):
            raise DataError(
                f"documents must be several texts; got one, {documents[:60]!r}: give a list"
            )
        texts = list(documents)
        scores = self.predict(
            [(query, text) for text in texts],
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            activation_fn=activation_fn,
        ).tolist()
        order = sorted(range(len(texts)), key=lambda index: -scores[index])[:top_k]
        answers: list[dict[str, Any]] = [{"corpus_id": i, "score": scores[i]} for i in order]
        if return_documents:
            for answer in answers:
                answer["text"] = texts[answer["corpus_id"]]
        return answers

    def save_pretrained(self, path: str | Path) -> None:
        """Saves a folder that `sentence_transformers.CrossEncoder` and `load_reranker` open.

        Args:
          path: The folder, which is created if necessary.

        Raises:
          CheckpointError: if it is a file, or cannot be written.
        """
        folder = Path(path).expanduser()
        self.predictor.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        save_cross_encoder_settings(folder, self.task.saved_settings())

    save = save_pretrained

    def _with_prompt(self, prompt_name: str | None, prompt: str | None) -> Reranking:
        """Returns the task with the columns of `_rows`, a prompt, and logits as scores."""
        task = self.task.with_options(query_column="query", document_column="document")
        changes: dict[str, Any] = {"activation": IDENTITY}
        if prompt is None and prompt_name is not None:
            prompt = find_prompt(task.settings.prompts, prompt_name)
        if prompt is not None:
            changes |= {"prompts": {"given": prompt}, "default_prompt_name": "given"}
        task.settings = dataclasses.replace(task.settings, **changes)
        return task


def _is_pair(value: Any) -> bool:
    """Returns whether a value is one pair of texts; others are taken for several pairs."""
    is_sequence = isinstance(value, tuple | list) or (
        isinstance(value, np.ndarray) and value.ndim == 1
    )
    return is_sequence and len(value) > 0 and isinstance(value[0], str)


def _rows(pairs: Any) -> Iterator[dict[str, str]]:
    """Yields a row for each pair.

    Raises:
      DataError: if an item is not a pair of texts. The message gives its index.
    """
    for index, pair in enumerate(pairs):
        items = list(pair) if isinstance(pair, tuple | list | np.ndarray) else []
        if len(items) != 2 or not all(isinstance(item, str) for item in items):
            raise DataError(
                f"inputs must be pairs of texts; that at index {index} is {repr(pair)[:60]}: give "
                "(query, document)"
            )
        yield {"query": str(items[0]), "document": str(items[1])}
