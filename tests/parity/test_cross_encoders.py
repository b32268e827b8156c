"""Cross-encoders of sentence-transformers, in both directions: the same scores, live."""

import warnings
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import Checkpoints, sentence

from flax_bigbird.inference import load_reranker

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")
    sentence_transformers = pytest.importorskip("sentence_transformers")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 1e-5
QUERY = sentence(0, 4)
# Documents that the tiny model reads with full attention, and some that are truncated.
DOCUMENTS = [sentence(n, length) for n, length in enumerate((1, 3, 9, 12, 60, 61, 100), 1)]
# Both texts are truncated, with an even and an odd number of tokens too many.
LONG = [(sentence(8, n), sentence(9, m)) for n, m in ((90, 80), (80, 90), (91, 80), (90, 90))]
PAIRS = [(QUERY, document) for document in DOCUMENTS] + LONG


@pytest.fixture(scope="module", params=["original_full", "block_sparse"])
def folder(request, tmp_path_factory) -> str:
    make_checkpoint = Checkpoints(tmp_path_factory.mktemp("checkpoints"))
    return make_checkpoint(
        "FlaxBigBirdForSequenceClassification",
        attention_type=request.param,
        block_size=16,
        id2label={0: "LABEL_0"},
    )


def test_sentence_transformers_opens_what_we_save(folder, tmp_path):
    ours = load_reranker(folder)
    ours.save_pretrained(tmp_path / "model")
    theirs = sentence_transformers.CrossEncoder(str(tmp_path / "model"), device="cpu")
    assert theirs.max_seq_length == ours.max_seq_length == 64
    expected = theirs.predict(PAIRS)
    np.testing.assert_allclose(ours.predict(PAIRS), expected, atol=TOLERANCE)
    again = load_reranker(tmp_path / "model")
    np.testing.assert_allclose(again.predict(PAIRS), expected, atol=TOLERANCE)


def test_we_open_what_sentence_transformers_saves(folder, tmp_path):
    theirs = sentence_transformers.CrossEncoder(
        folder,
        device="cpu",
        prompts={"question": "the cow "},
        activation_fn=torch.nn.Identity(),
    )
    theirs.save_pretrained(str(tmp_path / "model"))
    ours = load_reranker(tmp_path / "model")
    calls: list[dict[str, Any]] = [{}, {"prompt_name": "question"}, {"prompt": "a ship "}]
    for options in calls:
        np.testing.assert_allclose(
            ours.predict(PAIRS, **options), theirs.predict(PAIRS, **options), atol=TOLERANCE
        )
    assert ours.predict(PAIRS).max() > 1  # logits
    expected = theirs.rank(QUERY, DOCUMENTS, top_k=3, return_documents=True)
    ranking = ours.rank(QUERY, DOCUMENTS, top_k=3, return_documents=True)
    for a, b in zip(ranking, expected, strict=True):
        assert (a["corpus_id"], a["text"]) == (b["corpus_id"], b["text"])
        assert a["score"] == pytest.approx(b["score"], abs=TOLERANCE)
