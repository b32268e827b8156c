"""Tests that `/attention` lists what `bigbird_attention_map` computes."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_checkpoints import sentence

from flax_bigbird import bigbird_attention_map

TEXTS = {"short": sentence(1, 12), "beyond the table": sentence(2, 200)}
LENGTH, SIZE = 64, 8


@pytest.fixture(scope="module")
def name(server) -> str:
    return next(m["name"] for m in server.get("/info").json()["models"] if m["task"] == "embedding")


def expected_map(server, offline, text, rows):
    (tokens,) = server.post("/tokenize", {"inputs": text}).json()
    ids = [token["id"] for token in tokens]
    ids = ids if len(ids) <= LENGTH else [*ids[: LENGTH - 1], ids[-1]]
    padded = np.zeros((1, 32 if len(ids) <= 32 else LENGTH), np.int32)
    padded[0, : len(ids)] = ids
    mask = (np.arange(padded.shape[1]) < len(ids))[None].astype(np.int32)
    model = offline("embedding").predictor.model
    rows = range(padded.shape[1]) if rows else None
    weights = bigbird_attention_map(
        model, jnp.asarray(padded), jnp.asarray(mask), rows=rows
    ).weights
    return np.asarray(weights[:, 0]), len(ids), len(tokens)


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_what_a_token_reads_and_what_reads_it(server, offline, name, text):
    weights, num_tokens, num_all = expected_map(server, offline, text, rows=True)
    position = num_tokens - 3
    body = {"inputs": text, "model": name, "position": position, "include_tokens": True}
    response = server.post("/attention", body | {"top_k": 5}).json()
    assert response["num_tokens"] == len(response["tokens"]) == num_tokens
    assert response["num_unread_tokens"] == num_all - num_tokens
    (layer,) = response["layers"]
    for head in layer["heads"]:
        own = weights[0, head["head"]]
        for listed, row in ((head["reads"], own[position]), (head["read_by"], own[:, position])):
            order = np.argsort(-row, kind="stable")[:5]
            order = order[row[order] > 1e-6]
            np.testing.assert_allclose(listed["weights"], row[listed["positions"]], atol=2e-5)
            np.testing.assert_allclose(listed["weights"], row[order], atol=2e-5)
            assert len(listed["kinds"]) == len(order)
    start = response["tokens"][position]["start"]
    by_character = {"inputs": text, "model": name, "character": start, "heads": [1]}
    chosen = server.post("/attention", by_character).json()
    assert chosen["position"] == position
    assert [head["head"] for head in chosen["layers"][0]["heads"]] == [1]


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_what_the_blocks_of_a_layer_read(server, offline, name, text):
    weights, num_tokens, _ = expected_map(server, offline, text, rows=False)
    response = server.post("/attention", {"inputs": text, "model": name}).json()
    assert response["num_blocks"] == -(-num_tokens // SIZE)
    for head in response["layers"][0]["heads"]:
        assert len(head["rows"]) == response["num_blocks"]
        for query, row in enumerate(head["rows"]):
            expected = weights[0, head["head"], query]
            assert sum(row["weights"]) == pytest.approx(1, abs=1e-4)
            np.testing.assert_allclose(row["weights"], expected[row["blocks"]], atol=2e-5)
            kinds = dict(zip(row["blocks"], row["kinds"], strict=True))
            is_full = text == TEXTS["short"] or query in (0, response["num_blocks"] - 1)
            assert (set(kinds.values()) == {"f"}) == is_full
            if not is_full:
                assert kinds[0] == kinds[response["num_blocks"] - 1] == "g"
                assert kinds[query] == "w"
                assert sum(kind == "r" for kind in kinds.values()) <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"position": 1000},
        {"character": 10_000},
        {"position": 0, "character": 0},
        {"layers": [1]},
        {"layers": [0, 0]},
        {"heads": [2]},
        {"heads": []},
        {"top_k": 0},
        {"window": 1},
        {"heads": [0], "average_heads": True},
    ],
)
def test_wrong_requests(server, name, wrong):
    response = server.post("/attention", {"inputs": "the cow", "model": name} | wrong)
    assert response.status == 422


def test_decoders_show_no_attention(server):
    models = server.get("/info").json()["models"]
    decoder = next(m["name"] for m in models if m["task"] == "causal-lm")
    assert server.post("/attention", {"inputs": "a", "model": decoder}).status == 424


def map_of(offline, tokens) -> np.ndarray:
    """Returns the map of the only layer for tokens that the server has returned."""
    ids = [token["id"] for token in tokens]
    padded = np.zeros((1, 32 if len(ids) <= 32 else LENGTH), np.int32)
    padded[0, : len(ids)] = ids
    mask = (np.arange(padded.shape[1]) < len(ids))[None].astype(np.int32)
    model = offline("embedding").predictor.model
    return np.asarray(bigbird_attention_map(model, jnp.asarray(padded), mask).weights[0, 0])


def test_every_window_of_a_text_is_read_and_its_heads_are_averaged(server, offline, name):
    text = "\N{COW FACE} " + TEXTS["beyond the table"]
    body = {"inputs": text, "model": name, "include_tokens": True}
    starts = []
    count = server.post("/attention", body).json()["num_windows"]
    for window in range(count):
        got = server.post("/attention", body | {"window": window, "average_heads": True}).json()
        starts += [token["start"] for token in got["tokens"] if token["start"] is not None]
        expected = map_of(offline, got["tokens"]).mean(0)
        (head,) = got["layers"][0]["heads"]
        assert head["head"] is None
        for query, row in enumerate(head["rows"]):
            np.testing.assert_allclose(row["weights"], expected[query, row["blocks"]], atol=2e-5)
    (tokens,) = server.post("/tokenize", {"inputs": text, "add_special_tokens": False}).json()
    assert set(starts) == {token["start"] for token in tokens}
    assert count > 2


def test_a_question_is_put_before_the_text(server, offline, name):
    body = {"inputs": sentence(4, 58), "model": name, "query": "the cow", "include_tokens": True}
    got = server.post("/attention", body).json()
    assert [token["start"] for token in got["tokens"][:4]] == [None] * 4
    assert [token["text"].strip() for token in got["tokens"][:4]] == [
        "[CLS]",
        "the",
        "cow",
        "[SEP]",
    ]
    assert got["tokens"][4]["start"] == 0
    expected = map_of(offline, got["tokens"])
    for head in got["layers"][0]["heads"]:
        for query, row in enumerate(head["rows"]):
            weights = expected[head["head"], query, row["blocks"]]
            np.testing.assert_allclose(row["weights"], weights, atol=2e-5)
