"""Tests that a server answers as the predictor and the embedder do, documents in windows too."""

import concurrent.futures
import json

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


@pytest.mark.parametrize("raw", [False, True])
def test_rerank(server, offline, raw):
    reranker, query, texts = offline("reranking"), TEXTS[1], TEXTS[:6]
    body = {"query": query, "texts": texts, "raw_scores": raw, "return_text": True}
    response = server.post("/rerank", body | {"truncate": True})
    options = {"activation_fn": lambda logits: logits} if raw else {}
    expected = reranker.rank(query, texts, return_documents=True, **options)
    assert [rank["index"] for rank in response.json()] == [r["corpus_id"] for r in expected]
    assert [rank["text"] for rank in response.json()] == [r["text"] for r in expected]
    close([rank["score"] for rank in response.json()], [r["score"] for r in expected])
    assert server.post("/rerank", {"query": query, "texts": [TEXTS[6]]}).status == 413


@pytest.mark.parametrize("text", [TEXTS[2], TEXTS[6]])
def test_tag(server, offline, text):
    expected = offline("token-classification", aggregation="simple")(text)["entities"]
    entities = server.post("/tag", {"inputs": text}).json()
    assert expected, "the model finds entities"
    for entity, other in zip(entities, expected, strict=True):
        close(entity.pop("score"), other.pop("score"))
        assert text[entity["start"] : entity["end"]] == entity["word"]
    words = offline("token-classification", aggregation="none")(text)
    body = {"inputs": [text], "parameters": {"aggregation_strategy": "none", "ignore_labels": []}}
    (tagged,) = server.post("/tag", body).json()
    assert [word["entity"] for word in tagged] == words["tags"]
    assert [[word["start"], word["end"]] for word in tagged] == words["offsets"]


@pytest.mark.parametrize("handled", [None, False, True])
def test_answer(server, offline, handled):
    predictor = offline("question-answering", handle_impossible_answer=handled)
    question, context = "the cow", TEXTS[6]
    expected = predictor({"question": question, "context": context})
    body = {"question": question, "context": context}
    parameters = {"top_k": 5, "handle_impossible_answer": handled}
    response = server.post("/answer", body | {"parameters": parameters}).json()
    assert response["num_windows"] > 5
    assert response["has_answer"] == bool(expected["answer"])
    close(response["no_answer_score"], expected["no_answer_score"])
    best, *others = response["answers"]
    assert len(others) == 4
    scores = [answer["score"] for answer in response["answers"]]
    assert scores == sorted(scores, reverse=True)
    close(best["score"], expected["score"])
    if expected["answer"]:
        assert {name: best[name] for name in ("answer", "start", "end")} == {
            name: expected[name] for name in ("answer", "start", "end")
        }
    for answer in response["answers"]:
        assert context[answer["start"] : answer["end"]] == answer["answer"]


@pytest.mark.parametrize("num_masks", [1, 3, 19])
def test_fill_mask(server, offline, num_masks):
    text = " ".join(["the [MASK] grazes"] * num_masks)
    expected = offline("masked-lm")(text)["masks"]
    filled = server.post("/fill-mask", {"inputs": text}).json()
    filled = [filled] if num_masks == 1 else filled
    assert len(filled) == num_masks
    for tokens, others in zip(filled, expected, strict=True):
        assert [token["token_str"] for token in tokens] == [other["token"] for other in others]
        close([token["score"] for token in tokens], [other["score"] for other in others])
    assert filled[-1][0]["sequence"].count("[MASK]") == num_masks - 1
    for text in ("no mask", ""):
        assert server.post("/fill-mask", {"inputs": text}).status == 422


@pytest.mark.parametrize("text", ["the cow grazes", TEXTS[6], ""])
def test_generate(server, offline, text):
    """Greedy decoding gives the same tokens, whether fewer of them are asked for, or streamed."""
    expected = offline("causal-lm", max_new_tokens=16)(text)["text"]
    body = {"inputs": text, "parameters": {"max_new_tokens": 16, "details": True}}
    answer = server.post("/generate", body).json()
    assert answer["generated_text"] == expected
    assert answer["details"]["finish_reason"] in ("length", "eos_token")
    few = {"inputs": text, "parameters": {"max_new_tokens": 3}}
    assert expected.startswith(server.post("/generate", few).json()["generated_text"])
    stream = server.post("/generate", body | {"stream": True})
    assert stream.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(e.removeprefix("data: ")) for e in stream.body.decode().split("\n\n")[:-1]]
    assert len(events) == answer["details"]["generated_tokens"]
    assert events[-1]["generated_text"] == expected
    assert all(event["generated_text"] is None for event in events[:-1])


def test_sampling_is_repeated_by_its_seed(server):
    def sample(**parameters) -> str:
        body = {"inputs": "the cow", "parameters": parameters}
        return server.post("/generate", body).json()["generated_text"]

    same = {sample(temperature=2.0, top_p=0.95, seed=7) for _ in range(2)}
    assert len(same) == 1
    assert len({sample(do_sample=True, temperature=5.0, seed=seed) for seed in range(5)}) > 1


def test_models_are_chosen_by_task_and_name(server):
    response = server.post("/embed", {"inputs": "a", "model": "no such model"})
    assert response.status == 404
    name = server.get("/info").json()["models"][0]["name"]
    assert server.post("/embed", {"inputs": "a", "model": name}).status == 200
    assert server.post("/predict", {"inputs": "a", "model": name}).status == 404
