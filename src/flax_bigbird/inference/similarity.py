"""How vectors are compared: cosines, products and distances."""

from typing import Any

import numpy as np

from flax_bigbird.checkpoint.embedding_layers import Normalize
from flax_bigbird.data.errors import OptionError


def similarities(embeddings1: Any, embeddings2: Any, name: str) -> np.ndarray:
    """Returns the similarity of every vector of the first to every one of the second, `[N, M]`.

    Args:
      embeddings1: `[N, D]` or `[D]`.
      embeddings2: `[M, D]` or `[D]`.
      name: cosine, dot, euclidean or manhattan. Distances are negated.

    Raises:
      OptionError: if they have different numbers of dimensions.
    """
    a, b = (np.atleast_2d(np.asarray(x, np.float32)) for x in (embeddings1, embeddings2))
    if a.shape[-1] != b.shape[-1]:
        raise OptionError(
            "vectors must have the same number of dimensions to be compared; got "
            f"{a.shape[-1]:,} and {b.shape[-1]:,}: embed both with one model and truncate_dim"
        )
    if name == "cosine":
        a, b = Normalize()(a), Normalize()(b)
    if name in ("cosine", "dot"):
        return a @ b.T
    order = {"euclidean": 2, "manhattan": 1}[name]
    rows = [-np.linalg.norm(row - b, ord=order, axis=-1) for row in a]
    return np.array(rows, np.float32).reshape(len(a), len(b))
