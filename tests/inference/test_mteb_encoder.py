"""`MtebEncoder` gives `mteb` an embedder's vectors, with the prompts of queries and documents."""

import enum
import json

import numpy as np
import pytest
from tiny_checkpoints import sentence

from flax_bigbird.inference import MtebEncoder, OptionError, load_embedder

TEXTS = [sentence(n, length) for n, length in enumerate((5, 30, 2, 11, 8))]
BATCHES = [{"text": TEXTS[:3], "title": ["", "", ""]}, {"text": TEXTS[3:]}]


class PromptType(enum.Enum):
    """Has the values of `mteb.types.PromptType`."""

    query = "query"
    document = "document"


@pytest.fixture(scope="module")
def encoder(make_checkpoint, tmp_path_factory):
    embedder = load_embedder(make_checkpoint("FlaxBigBirdForMaskedLM"))
    folder = tmp_path_factory.mktemp("embedder")
    embedder.save_pretrained(folder)
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    settings["prompts"] = {"query": "the cow ", "document": "a ship "}
    path.write_text(json.dumps(settings))
    return MtebEncoder(folder, device="cpu")


@pytest.mark.parametrize(
    ("prompt_type", "name"),
    [(PromptType.query, "query"), (PromptType.document, "document"), (None, None)],
)
def test_vectors_of_batches_are_those_of_texts_with_their_prompts(encoder, prompt_type, name):
    task = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}
    vectors = encoder.encode(iter(BATCHES), prompt_type=prompt_type, batch_size=2, **task)
    expected = encoder.embedder.encode(TEXTS, prompt=encoder.embedder.prompts.get(name, ""))
    np.testing.assert_allclose(vectors, expected, atol=2e-5)
    other = "document" if name == "query" else "query"
    different = encoder.embedder.encode(TEXTS, prompt=encoder.embedder.prompts[other])
    assert np.abs(vectors - different).max() > 1e-3


def test_tasks_without_texts_are_refused(encoder):
    with pytest.raises(OptionError, match="must have texts; its rows have image, label"):
        encoder.encode([{"image": [None], "label": [0]}])


def test_a_revision_is_refused(encoder):
    with pytest.raises(OptionError, match="revision must be None; got 'main'"):
        MtebEncoder(encoder.embedder, "main")


@pytest.mark.parity
def test_it_has_the_interface_of_mteb(encoder):
    """It has run a retrieval task of mteb 2.26, too, which is not installed in CI."""
    protocols = pytest.importorskip("mteb.models.models_protocols")
    assert isinstance(encoder, protocols.EncoderProtocol)
    vectors = encoder.encode(BATCHES)
    similarity = encoder.similarity(vectors[:2], vectors)
    assert tuple(similarity.shape) == (2, 5)
    np.testing.assert_allclose(similarity.diagonal(), 1, atol=1e-5)
    assert encoder.mteb_model_meta.embed_dim == vectors.shape[1]
