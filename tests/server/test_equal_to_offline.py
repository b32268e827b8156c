"""Tests that a server answers as the predictor and the embedder do, documents in windows too."""

import concurrent.futures

import numpy as np
import pytest
from tiny_checkpoints import sentence

TEXTS = [sentence(seed, 1 + 9 * seed) for seed in range(6)] + [sentence(9, 300), ""]


def close(actual, expected) -> None:
    np.testing.assert_allclose(actual, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_embed(server, offline, truncate, normalize):
    body = {"inputs": TEXTS, "truncate": truncate, "normalize": normalize}
    response = server.post("/embed", body)
    expected = offline("embedding").encode(
        TEXTS, normalize_embeddings=normalize, whole_documents=not truncate
    )
    close(response.json(), expected)


def test_embed_a_single_text_and_token_ids(server, offline):
    expected = offline("embedding").encode([TEXTS[3]], normalize_embeddings=True)
    close(server.post("/embed", {"inputs": TEXTS[3]}).json(), expected)
    (tokens,) = server.post("/tokenize", {"inputs": TEXTS[3]}).json()
    ids = [token["id"] for token in tokens]
    for inputs in (ids, [ids], [ids[1:-1]]):
        close(server.post("/embed", {"inputs": inputs}).json(), expected)


def test_embed_with_fewer_dimensions(server, offline):
    expected = offline("embedding").encode(TEXTS, normalize_embeddings=True, truncate_dim=8)
    close(server.post("/embed", {"inputs": TEXTS, "dimensions": 8}).json(), expected)


def test_similarity(server, offline):
    embedder = offline("embedding")
    vectors = embedder.encode(TEXTS[:4])
    inputs = {"source_sentence": TEXTS[0], "sentences": TEXTS[1:4]}
    response = server.post("/similarity", {"inputs": inputs})
    close(response.json(), embedder.similarity(vectors[0], vectors[1:])[0])


@pytest.mark.parametrize("truncate", [False, True])
def test_predict(server, offline, truncate):
    predictor = offline("sequence-classification", whole_documents=not truncate)
    response = server.post("/predict", {"inputs": [[t] for t in TEXTS], "truncate": truncate})
    for labels, expected in zip(response.json(), predictor(TEXTS), strict=True):
        assert labels[0]["label"] == expected["label"]
        assert [x["score"] for x in labels] == sorted((x["score"] for x in labels), reverse=True)
        for entry in labels:
            close(entry["score"], expected["scores"][entry["label"]])


def test_predict_pairs(server, offline):
    predictor = offline("sequence-classification", text_pair_column="second")
    pair = [TEXTS[1], TEXTS[2]]
    expected = predictor({"text": pair[0], "second": pair[1]})
    for inputs, unwrap in ((pair, lambda x: x), ([pair], lambda x: x[0])):
        labels = unwrap(server.post("/predict", {"inputs": inputs}).json())
        close([x["score"] for x in labels], sorted(expected["scores"].values(), reverse=True))
    long = {"inputs": [[TEXTS[6], TEXTS[1]]]}
    assert server.post("/predict", long).status == 413
    assert server.post("/predict", long | {"truncate": True}).status == 200


def test_raw_scores_are_logits(server, offline):
    (labels,) = server.post("/predict", {"inputs": [[TEXTS[6]]], "raw_scores": True}).json()
    logits = np.array([entry["score"] for entry in labels])
    scores = np.exp(logits) / np.exp(logits).sum()
    expected = offline("sequence-classification", whole_documents=True)(TEXTS[6])["scores"]
    close(scores, [expected[entry["label"]] for entry in labels])


def test_tokenize_returns_the_characters_of_tokens(server, offline):
    text = "the  cow\ngrazes"
    (tokens,) = server.post("/tokenize", {"inputs": text}).json()
    assert [token["special"] for token in tokens[:1] + tokens[-1:]] == [True, True]
    for token in tokens[1:-1]:
        assert token["text"] == text[token["start"] : token["stop"]]
    (plain,) = server.post("/tokenize", {"inputs": text, "add_special_tokens": False}).json()
    assert plain == tokens[1:-1]


def test_many_requests_at_once_get_their_own_answers(server, offline):
    """Requests of all lengths that share batches are answered as they are alone."""
    embedder, texts = offline("embedding"), [sentence(seed, 1 + seed * 3) for seed in range(48)]
    expected = embedder.encode(texts, normalize_embeddings=True)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda t: server.post("/embed", {"inputs": t}).json(), texts))
    close(np.concatenate(answers), expected)
