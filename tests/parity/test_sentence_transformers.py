"""Folders of sentence-transformers, in both directions: the same vectors, live."""

import warnings
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import Checkpoints, sentence

from flax_bigbird.inference import load_embedder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    models = pytest.importorskip("sentence_transformers.sentence_transformer.modules")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 1e-5
# Texts that the tiny model reads with full attention, and one that is truncated.
TEXTS = [sentence(n, length) for n, length in enumerate((1, 3, 9, 12, 100))]
MODES = ("mean", "cls", "weightedmean", "lasttoken")


@pytest.fixture(scope="module")
def make_checkpoint(tmp_path_factory):
    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module", params=["original_full", "block_sparse"])
def folder(request, make_checkpoint) -> str:
    return make_checkpoint("FlaxBigBirdModel", attention_type=request.param, block_size=16)


def theirs(model, texts, **options):
    return model.encode(texts, convert_to_numpy=True, show_progress_bar=False, **options)


@pytest.mark.parametrize("mode", MODES)
def test_sentence_transformers_opens_what_we_save(folder, tmp_path, mode):
    ours = load_embedder(folder, pooling_mode=mode, normalize_embeddings=mode == "mean")
    ours.save_pretrained(tmp_path / "model")
    model = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert model.max_seq_length == ours.max_seq_length == 64
    expected = theirs(model, TEXTS)
    vectors = ours.encode(TEXTS, whole_documents=False)
    np.testing.assert_allclose(vectors, expected, atol=TOLERANCE)
    again = load_embedder(tmp_path / "model", whole_documents=False).encode(TEXTS)
    np.testing.assert_allclose(again, expected, atol=TOLERANCE)


@pytest.mark.parametrize("residual", [False, True])
def test_we_open_what_sentence_transformers_saves(folder, tmp_path, residual):
    transformer = models.Transformer(folder)
    torch.manual_seed(0)
    modules = [
        transformer,
        models.Pooling(32, "weightedmean" if residual else "mean", include_prompt=residual),
        models.Dense(32, 24, activation_function=torch.nn.GELU(), use_residual=residual),
        models.Dense(24, 24, bias=False),
        models.Normalize(),
    ]
    model = sentence_transformers.SentenceTransformer(
        modules=modules,
        prompts={"query": "the ship ", "document": "a cow "},
        default_prompt_name="document",
        similarity_fn_name="euclidean",
        device="cpu",
    )
    model.save(str(tmp_path / "model"))
    ours = load_embedder(tmp_path / "model", whole_documents=False)
    assert ours.get_sentence_embedding_dimension() == 24
    short = TEXTS[:-1]  # where the prompt ends does not depend on the words after it
    calls: list[dict[str, Any]] = [{"prompt_name": "query"}, {"prompt": ""}, {"truncate_dim": 8}]
    for options in [{}, *calls]:
        expected = theirs(model, short, **options)
        np.testing.assert_allclose(ours.encode(short, **options), expected, atol=TOLERANCE)
    np.testing.assert_allclose(ours.encode_query(short), model.encode_query(short), atol=TOLERANCE)
    vectors = ours.encode(short)
    similarity = model.similarity(vectors, vectors).numpy()
    np.testing.assert_allclose(ours.similarity(vectors, vectors), similarity, atol=1e-3)
    ours.save_pretrained(tmp_path / "again")
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "again"), device="cpu")
    np.testing.assert_allclose(theirs(again, short), theirs(model, short), atol=TOLERANCE)
