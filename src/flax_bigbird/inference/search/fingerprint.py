"""A hash of everything in a model that its vectors depend on."""

import hashlib
import json
from typing import Any

import jax
import numpy as np

from flax_bigbird.inference.bulk_embedding import modules_fingerprint
from flax_bigbird.inference.embedder import Embedder


def model_fingerprint(embedder: Embedder) -> str:
    """Returns a hash of the parameters, the tokenizer, and the layers behind a model.

    It depends neither on the path of the model nor on the format of its files.
    """
    digest = hashlib.sha256()
    parameters = jax.tree_util.tree_leaves_with_path(embedder.predictor.model.params)
    for path, value in sorted(parameters, key=lambda pair: jax.tree_util.keystr(pair[0])):
        array = np.ascontiguousarray(np.atleast_1d(value))
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.view(np.uint8).data)
    digest.update(json.dumps(_tokenizer_rules(embedder.tokenizer), sort_keys=True).encode())
    digest.update(modules_fingerprint(embedder.task.modules).encode())
    return digest.hexdigest()


def _tokenizer_rules(tokenizer: Any) -> dict[str, Any]:
    """Returns the vocabulary and the rules by which a tokenizer splits texts.

    Padding and truncation are left out, because every call sets them.
    """
    rules: dict[str, Any] = {"vocabulary": tokenizer.get_vocab()}
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        names = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model")
        rules |= {name: state[name] for name in names}
    return rules
