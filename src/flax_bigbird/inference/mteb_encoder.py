"""An embedder with the interface that `mteb` 2 (Massive Text Embedding Benchmark) calls."""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird.data.errors import OptionError
from flax_bigbird.inference.embedder import Embedder
from flax_bigbird.inference.embedder_loading import load_embedder


class MtebEncoder:
    """Passes the calls of `mteb` 2 on to an embedder.

        import mteb
        from flax_bigbird.inference import MtebEncoder

        tasks = mteb.get_tasks(tasks=["LEMBQMSumRetrieval"])
        results = mteb.evaluate(MtebEncoder("embedder"), tasks)

    `mteb` calls encoders with batches of rows and the metadata of a task, and no longer with texts,
    as sentence-transformers does. Queries have the prompt of queries, and documents that of
    documents.

    Args:
      model: A folder, the name of a shipped model or of a Hub repository, or an embedder.
      revision: The revision on the Hub; only None, because the model is loaded by its name.
      device: Ignored: JAX chooses the device.
      options: The options of `load_embedder`.

    Raises:
      OptionError: if the model cannot be loaded, or a revision is given.
    """

    def __init__(
        self,
        model: str | Path | Embedder,
        revision: str | None = None,
        *,
        device: str | None = None,
        **options: Any,
    ):
        if revision is not None:
            raise OptionError(
                f"must be None; got {revision!r}: download that revision, and name the "
                "folder as the model",
                option="revision",
            )
        self.embedder = model if isinstance(model, Embedder) else load_embedder(model, **options)

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        prompt_type: Any = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        **_: Any,
    ) -> np.ndarray:
        """Returns the vectors of texts, `[N, D]` in float32.

        Args:
          inputs: Batches of rows, whose texts are under the key "text".
          prompt_type: "query", "document", or None for texts that are neither.
          batch_size: The maximum number of texts per batch.
          show_progress_bar: Whether to show the progress.
          _: What `mteb` says about the task; ignored.
        """
        texts = [text for batch in inputs for text in _texts(batch)]
        kind = getattr(prompt_type, "value", prompt_type)
        functions = {"query": self.embedder.encode_query, "document": self.embedder.encode_document}
        encode = functions.get(str(kind), self.embedder.encode)
        return encode(texts, batch_size=batch_size, show_progress_bar=show_progress_bar)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Returns the similarity of every vector of the first to every one of the second, `[N, M]`.

        Args:
          embeddings1: `[N, D]`.
          embeddings2: `[M, D]`.

        Returns:
          A tensor of PyTorch, which `mteb` needs.
        """
        return _tensor(self.embedder.similarity(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Returns the similarity of each vector to the one at the same index, a tensor `[N]`.

        Args:
          embeddings1: `[N, D]`.
          embeddings2: `[N, D]`.
        """
        return _tensor(self.embedder.similarity_pairwise(embeddings1, embeddings2))

    @property
    def mteb_model_meta(self) -> Any:
        """What `mteb` records about the model, a `mteb.models.ModelMeta`."""
        model_meta = importlib.import_module("mteb.models").ModelMeta
        embedder = self.embedder
        meta = {
            "name": f"flax-bigbird/{Path(embedder.predictor.name).name}",
            "revision": "no_revision_available",
            "embed_dim": embedder.get_sentence_embedding_dimension(),
            "max_tokens": embedder.max_seq_length,
        }
        return model_meta.create_empty(overwrites=meta)


def _tensor(values: np.ndarray) -> Any:
    return importlib.import_module("torch").from_numpy(values)


def _texts(batch: Mapping[str, Any]) -> list[str]:
    if "text" not in batch:
        raise OptionError(
            f"a task of mteb must have texts; its rows have {', '.join(map(str, batch))}: choose "
            "tasks with the modality text"
        )
    return list(batch["text"])
