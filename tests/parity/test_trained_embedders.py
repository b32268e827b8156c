"""Losses of sentence-transformers on the same vectors, and trained folders that it opens."""

import shutil
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_checkpoints import Checkpoints, sentence

from flax_bigbird._transformers import bigbird_config_class
from flax_bigbird.data.tokenization import load_tokenizer
from flax_bigbird.inference import load_embedder
from flax_bigbird.nn.contrastive_losses import (
    cosent_loss,
    multiple_negatives_ranking_loss,
    normalize,
)
from flax_bigbird.tasks.embedding import Embedding
from flax_bigbird.tasks.options import command_options

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

B, C, D = 6, 3, 8
TEXTS = [sentence(n, length) for n, length in enumerate((1, 3, 9, 12, 100))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))("FlaxBigBirdModel", block_size=16)


@pytest.fixture(scope="module")
def theirs(folder):
    return sentence_transformers.SentenceTransformer(folder, device="cpu")


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("symmetric", [False, True])
def test_multiple_negatives_ranking(theirs, symmetric):
    queries, documents = draw(0, B, D), draw(1, B, C, D)
    both: dict[str, Any] = {
        "directions": ("query_to_doc", "doc_to_query"),
        "partition_mode": "per_direction",
    }
    loss = losses.MultipleNegativesRankingLoss(theirs, scale=10.0, **(both if symmetric else {}))
    tensors = [torch.tensor(queries), *torch.tensor(documents).unbind(1)]
    expected = loss.compute_loss_from_embeddings(tensors, torch.zeros(B))
    found = multiple_negatives_ranking_loss(
        jnp.asarray(queries),
        jnp.asarray(documents),
        jnp.zeros((B, B, C), bool),
        temperature=0.1,
        symmetric=symmetric,
    )
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_cosent(theirs):
    first, second, scores = draw(0, B, D), draw(1, B, D), draw(2, B)
    tensors = [torch.tensor(first), torch.tensor(second)]
    loss = losses.CoSENTLoss(theirs, scale=20.0)
    expected = loss.compute_loss_from_embeddings(tensors, torch.tensor(scores))
    cosines = (normalize(jnp.asarray(first)) * normalize(jnp.asarray(second))).sum(-1)
    found = cosent_loss(cosines, jnp.asarray(scores), temperature=0.05)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_sentence_transformers_opens_what_training_saves(folder, tmp_path, mode):
    """With the length, the pooling and the prompts of the run, and normalized vectors."""
    path = tmp_path / "run"
    shutil.copytree(folder, path)
    options = command_options("embedding", "train")(
        max_length=48, pooling_mode=mode, query_prompt="the ship ", document_prompt="a cow "
    )
    config = bigbird_config_class().from_pretrained(folder)
    Embedding.for_model(options, load_tokenizer(folder), config, folder).save_files(path)
    theirs = sentence_transformers.SentenceTransformer(str(path), device="cpu")
    ours = load_embedder(path, whole_documents=False)
    assert theirs.max_seq_length == ours.max_seq_length == 48
    assert theirs.prompts["query"] == ours.prompts["query"] == "the ship "
    for name in ("encode", "encode_query", "encode_document"):
        expected = getattr(theirs, name)(TEXTS)
        np.testing.assert_allclose(getattr(ours, name)(TEXTS), expected, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(expected, axis=-1), 1, atol=1e-5)
