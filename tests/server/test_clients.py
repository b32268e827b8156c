"""Tests that clients of other servers work unchanged: `openai` and `huggingface_hub`."""

import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient, constants
from tiny_checkpoints import sentence

TEXTS = [sentence(seed, 5 + 40 * seed) for seed in range(3)]


def close(actual, expected) -> None:
    np.testing.assert_allclose(actual, expected, atol=2e-5, rtol=2e-5)


@pytest.fixture(scope="module")
def openai_client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def model(openai_client) -> str:
    """The name of the embedding model."""
    return next(m.id for m in openai_client.models.list() if "Model" in m.id)


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"dimensions": 8}])
def test_openai_embeddings(openai_client, model, offline, options):
    """Without an encoding, the client asks for base64."""
    answer = openai_client.embeddings.create(model=model, input=TEXTS, **options)
    expected = offline("embedding").encode(
        TEXTS, normalize_embeddings=True, truncate_dim=options.get("dimensions")
    )
    close([item.embedding for item in answer.data], expected)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.model == model
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 100


def test_openai_token_ids(openai_client, model, server, offline):
    tokens = server.post("/tokenize", {"inputs": TEXTS, "add_special_tokens": False}).json()
    ids = [[token["id"] for token in text] for text in tokens]
    answer = openai_client.embeddings.create(model=model, input=ids)
    expected = offline("embedding").encode(TEXTS, normalize_embeddings=True)
    close([item.embedding for item in answer.data], expected)
    single = openai_client.embeddings.create(model=model, input=ids[0])
    close(single.data[0].embedding, expected[0])


def test_openai_errors_have_their_types(openai_client, model):
    with pytest.raises(openai.NotFoundError, match="model must be one of"):
        openai_client.embeddings.create(model="no such model", input="a")
    with pytest.raises(openai.UnprocessableEntityError, match="token ids must lie in"):
        openai_client.embeddings.create(model=model, input=[10**6])
    with pytest.raises(openai.APIStatusError, match="at most 64 texts"):
        openai_client.embeddings.create(model=model, input=["a"] * 65)


@pytest.fixture
def inference_client(server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # it calls this machine only

    def at(path: str) -> InferenceClient:
        return InferenceClient(model=server.url + path, provider="hf-inference", token="unused")

    return at


def test_feature_extraction(inference_client, offline):
    vectors = inference_client("/embed").feature_extraction(TEXTS, normalize=False, truncate=True)
    close(vectors, offline("embedding").encode(TEXTS, whole_documents=False))
    close(inference_client("").feature_extraction(TEXTS, normalize=False, truncate=True), vectors)


def test_sentence_similarity(inference_client, offline):
    values = inference_client("/similarity").sentence_similarity(TEXTS[0], TEXTS[1:])
    vectors = offline("embedding").encode(TEXTS)
    close(values, offline("embedding").similarity(vectors[:1], vectors[1:])[0])


def test_text_classification(inference_client, offline):
    labels = inference_client("/predict").text_classification(TEXTS[1], top_k=2)
    expected = offline("sequence-classification", whole_documents=True)(TEXTS[1])
    assert labels[0].label == expected["label"]
    close(labels[0].score, expected["score"])
    assert len(labels) == 2


def test_token_classification(inference_client, offline):
    entities = inference_client("/tag").token_classification(
        TEXTS[1], aggregation_strategy="simple"
    )
    expected = offline("token-classification", aggregation="simple")(TEXTS[1])["entities"]
    assert [(e.entity_group, e.start, e.end, e.word) for e in entities] == [
        (e["entity_group"], e["start"], e["end"], e["word"]) for e in expected
    ]


def test_question_answering(inference_client, offline):
    client = inference_client("/answer")
    answer = client.question_answering(question="the cow", context=TEXTS[2])
    expected = offline("question-answering")({"question": "the cow", "context": TEXTS[2]})
    assert answer.answer == expected["answer"]
    answers = client.question_answering(question="the cow", context=TEXTS[2], top_k=3)
    assert len(answers) == 3


def test_fill_mask(inference_client, offline):
    text = "the cow [MASK] in a meadow"
    filled = inference_client("/fill-mask").fill_mask(text, top_k=3)
    expected = offline("masked-lm")(text)["masks"][0][:3]
    assert [token.token_str for token in filled] == [token["token"] for token in expected]


def test_text_generation(inference_client, offline):
    client = inference_client("/generate")
    expected = offline("causal-lm", max_new_tokens=16)(TEXTS[0])["text"]
    assert client.text_generation(TEXTS[0], max_new_tokens=16) == expected
    pieces = list(client.text_generation(TEXTS[0], max_new_tokens=16, stream=True))
    assert "".join(pieces) == expected
    details = client.text_generation(TEXTS[0], max_new_tokens=4, details=True)
    assert details.details.generated_tokens <= 4
