"""A hash of everything in a model that its vectors depend on."""

import hashlib
import json

import jax
import numpy as np

from flax_bigbird.inference.bulk_embedding import modules_fingerprint
from flax_bigbird.inference.embedder import Embedder


def model_fingerprint(embedder: Embedder) -> str:
    """Returns a hash of the parameters, the vocabulary, and the layers behind a model.

    It depends neither on the path of the model nor on the format of its files.
    """
    digest = hashlib.sha256()
    parameters = jax.tree_util.tree_leaves_with_path(embedder.predictor.model.params)
    for path, value in sorted(parameters, key=lambda pair: jax.tree_util.keystr(pair[0])):
        array = np.ascontiguousarray(np.atleast_1d(value))
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8).data)
    vocabulary = sorted(embedder.tokenizer.get_vocab().items())
    digest.update(json.dumps(vocabulary).encode())
    digest.update(modules_fingerprint(embedder.task.modules).encode())
    return digest.hexdigest()
