"""Opens an index and searches it: by meaning, by words, or both, and reranked if asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from flax_bigbird.data.errors import OptionError
from flax_bigbird.inference.embedder import Embedder
from flax_bigbird.inference.embedder_loading import load_embedder
from flax_bigbird.inference.reranker import load_reranker
from flax_bigbird.inference.search.fingerprint import model_fingerprint
from flax_bigbird.inference.search.lexical import WordIndex, fuse_ranks
from flax_bigbird.inference.search.manifest import data_directory, load_manifest
from flax_bigbird.inference.search.options import SearchArguments, check_packages
from flax_bigbird.inference.search.store import ChunkStore, read_file_table
from flax_bigbird.inference.search.vectors import open_vectors, search_vectors

_QUERY_OPTIONS = ("max_length", "dtype", "normalize_embeddings", "truncate_dim", "whole_documents")


class SearchResult(NamedTuple):
    """A chunk of a document that answers a query.

    Attributes:
      file: The path of the file in the folder that was indexed.
      row: The number of the document's row in the file, from 1; None for a file that is a document.
      line: The line of the chunk's first character in the document, from 1.
      start: The chunk's first character in the document.
      end: The character after its last one.
      score: How well the chunk answers the query: the similarity of the vectors, the sum of
        reciprocal ranks, or the score of the reranker.
      text: The text of the chunk.
      duplicates: Other files with the same content.
    """

    file: str
    row: int | None
    line: int
    start: int
    end: int
    score: float
    text: str
    duplicates: list[str]


def open_index(path: str | Path, *, model: str | Path | Embedder | None = None) -> "SearchIndex":
    """Opens an index that `build_index` or `bigbird index` wrote.

        index = open_index("index")
        for result in index.search("Who won the war?", top_k=5):
            print(result.file, result.line, result.score, result.text)

    The model is loaded when the first query is embedded. Vectors and texts stay on the disk.

    Args:
      path: The directory of the index.
      model: Where the model of the index is, or an embedder; by default, where it was when the
        index was built.

    Raises:
      OptionError: if there is no index, if it is unfinished, damaged, or of a later version, or if
        a package of the extra `search` is missing.
    """
    check_packages()
    return SearchIndex(Path(path).expanduser(), model)


class SearchIndex:
    """An index that can be searched.

    Attributes:
      path: The directory of the index.
      manifest: What the index was built with.
    """

    def __init__(self, path: Path, model: str | Path | Embedder | None = None):
        self.path, self._model = path, model
        self.manifest = load_manifest(path)
        try:
            self._open(data_directory(path, self.manifest))
        except (OptionError, OSError):
            manifest = load_manifest(path)
            if manifest == self.manifest:
                raise
            self.manifest = manifest  # the index has just been updated
            self._open(data_directory(path, manifest))
        self._embedder: Embedder | None = None

    def _open(self, directory: Path) -> None:
        self._chunks = ChunkStore(directory)
        self._vectors = open_vectors(directory, self.manifest.dimension, view=True)
        self._words = WordIndex(directory) if self.manifest.has_words else None
        self._paths: dict[int, list[str]] = {}
        for file in read_file_table(directory):
            self._paths.setdefault(file.content_id, []).append(file.path)

    def __len__(self) -> int:
        """Returns the number of chunks."""
        return self.manifest.num_chunks

    def __enter__(self) -> "SearchIndex":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Closes the files of the index."""
        self._chunks.close()

    @property
    def embedder(self) -> Embedder:
        """The embedder of queries, which is loaded when it is first used.

        Raises:
          OptionError: if the model cannot be loaded, or is not that of the index.
        """
        if self._embedder is None:
            self._embedder = self._load_embedder()
        return self._embedder

    def embed_query(self, query: str) -> np.ndarray:
        """Returns the vector of a query, `[D]`, with the prompt of queries.

        Args:
          query: The query.
        """
        _check_query(query)
        return self.embedder.encode_query(query, prompt=self.manifest.query_prompt)

    def search(
        self,
        query: str,
        top_k: int = 10,
        *,
        vector: np.ndarray | None = None,
        hybrid: bool = False,
        words: bool = False,
        exact: bool = False,
        rerank: Any = None,
        candidates: int = 100,
    ) -> list[SearchResult]:
        """Returns the chunks that answer a query best.

        Args:
          query: The query.
          top_k: The maximum number of results.
          vector: The vector of the query, `[D]`, if it is known; otherwise, it is computed.
          hybrid: Whether to fuse the ranking by vectors with that by words (BM25).
          words: Whether to rank by words alone, without the model.
          exact: Whether to compare the query with every vector.
          rerank: A reranker, or the path of one, which orders the candidates again.
          candidates: The number of results of each ranking that are fused or reranked.

        Raises:
          OptionError: if an option cannot be used.
        """
        arguments = SearchArguments(
            top_k=top_k, hybrid=hybrid, words=words, exact=exact, candidates=candidates
        )
        if words and vector is not None:
            raise OptionError(
                "a search by words compares no vectors; got words with vector: leave one of them "
                "out"
            )
        if (hybrid or words) and self._words is None:
            raise OptionError(
                f"a search by words needs an index with words; {self.path} was built without: "
                "update it with bigbird index --words"
            )
        if self._chunks.is_closed:
            raise OptionError(
                f"an index must be open to be searched; {self.path} was closed: open it again with "
                "open_index"
            )
        reranker = _load_reranker(rerank)
        depth = top_k
        if hybrid or reranker is not None:
            depth = max(top_k, arguments.candidates)
        if words:
            ranking = self._rank_by_words(query, depth)
        else:
            ranking = self._rank_by_vectors(query, vector, depth, exact)
        if hybrid:
            by_words = self._rank_by_words(query, depth)
            ranking = fuse_ranks([[key for key, _ in r] for r in (ranking, by_words)], depth)
        if reranker is None:
            return self._results(ranking[:top_k])
        return _reranked(reranker, query, self._results(ranking), top_k)

    def _rank_by_vectors(
        self, query: str, vector: np.ndarray | None, depth: int, exact: bool
    ) -> list[tuple[int, float]]:
        """Returns the keys of the most similar chunks, and the similarities."""
        if vector is None:
            vector = self.embed_query(query)
        else:
            vector = _checked_vector(vector, self.manifest.dimension)
        metric = self.manifest.metric
        found = search_vectors(self._vectors, vector, min(depth, len(self)), metric, exact=exact)
        keys, scores = (values.tolist() for values in found)
        return list(zip(keys, scores, strict=True))

    def _rank_by_words(self, query: str, depth: int) -> list[tuple[int, float]]:
        """Returns the keys of the chunks that share words with the query, and the scores."""
        assert self._words is not None
        _check_query(query)
        positions, scores = self._words.search(query, depth)
        return list(zip(self._chunks.keys[positions].tolist(), scores.tolist(), strict=True))

    def _results(self, ranking: Sequence[tuple[int, float]]) -> list[SearchResult]:
        """Returns the results for pairs of keys and scores."""
        results = []
        chunks = self._chunks.chunks([key for key, _ in ranking])
        for chunk, (_, score) in zip(chunks, ranking, strict=True):
            file, *duplicates = self._paths[chunk.content_id]
            place = (chunk.row or None, chunk.line, chunk.start, chunk.end)
            results.append(SearchResult(file, *place, float(score), chunk.text, duplicates))
        return results

    def _load_embedder(self) -> Embedder:
        manifest, model = self.manifest, self._model
        if not isinstance(model, Embedder):
            names = [name for name in _QUERY_OPTIONS if manifest.options[name] is not None]
            options = {name: manifest.options[name] for name in names}
            name = model or manifest.model
            try:
                # One text at a time has no work for several devices.
                device = jax.local_devices()[:1]
                model = load_embedder(name, devices=device, pooling_mode="mean", **options)
            except OptionError as error:
                raise OptionError(
                    f"an index needs the model that it was built with; {self.path} was built with "
                    f"{manifest.model}: {error}; if it has moved, name its place with model"
                ) from error
        if model_fingerprint(model) != manifest.fingerprint:
            raise OptionError(
                f"an index needs the model that it was built with; {self.path} was built with "
                f"{manifest.model} as it was then, and {model.predictor.name}, or its "
                "tokenizer, has other parameters: name the right one with model, or build the "
                "index again with overwrite"
            )
        return model


def _checked_vector(vector: Any, dimension: int) -> np.ndarray:
    """Returns the given vector of a query in float32.

    Raises:
      OptionError: if it has another shape, or is not finite.
    """
    if np.shape(vector) != (dimension,):
        raise OptionError(
            f"must have the {dimension} dimensions of the index; got the shape "
            f"{np.shape(vector)}: embed the query with the model of the index",
            option="vector",
        )
    values = np.asarray(vector)
    if values.dtype.kind not in "fiu" or not np.isfinite(values.astype(np.float32)).all():
        raise OptionError(
            f"must hold finite numbers; got {str(vector)[:60]}, of type {values.dtype}: "
            "embed the query with the model of the index",
            option="vector",
        )
    return values.astype(np.float32)


def _check_query(query: Any) -> None:
    if not isinstance(query, str):
        raise OptionError(
            f"a query must be a text; got {str(query)[:60]!r}, of type {type(query).__name__}: "
            "search for each text by itself"
        )
    if not query.strip():
        raise OptionError(f"a query must have words; got {query!r}: write a question")


def _load_reranker(rerank: Any) -> Any:
    """Returns the reranker at a path; None and rerankers are returned unchanged."""
    if isinstance(rerank, str | Path):
        return load_reranker(rerank)
    if rerank is not None and not hasattr(rerank, "rank"):
        raise OptionError(
            f"must be the path of a reranker, or one that is loaded; got {rerank!r}: give "
            "one of them, or leave it out",
            option="rerank",
        )
    return rerank


def _reranked(
    reranker: Any, query: str, results: Sequence[SearchResult], top_k: int
) -> list[SearchResult]:
    """Returns the best results by the score of a reranker."""
    ranked = reranker.rank(query, [result.text for result in results], top_k=top_k)
    return [results[entry["corpus_id"]]._replace(score=float(entry["score"])) for entry in ranked]
