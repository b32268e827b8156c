"""The characters of tokens, random position offsets, and windows of language models."""

import sys

import numpy as np
import pytest
import tiny_models

datasets = pytest.importorskip("datasets")

from flax_bigbird.data.errors import DataError  # noqa: E402
from flax_bigbird.data.tokenization import tokenize  # noqa: E402
from flax_bigbird.data.types import ROW_MASK  # noqa: E402
from flax_bigbird.data.word_boundaries import token_lengths  # noqa: E402
from flax_bigbird.nn.losses import IGNORED_LABEL  # noqa: E402


def test_the_tokens_of_a_text_have_its_number_of_characters(tokenizer):
    """The space before the text counts, and an unknown token counts as one character."""
    lengths = token_lengths(tokenizer, 64)
    for text in ("the quick brown fox", "mill", "mill?"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert lengths[ids].sum() == len(text) + 1
    assert lengths[[tokenizer.mask_token_id, tokenizer.pad_token_id]].sum() == 0


@pytest.mark.parametrize("name", ["masked-lm", "causal-lm"])
def test_every_packed_document_has_its_own_random_offset(make_task, name):
    task = make_task(name, {"random_position_offset": True}, max_position_embeddings=1000)
    document = {"input_ids": [4, *range(8, 17), 5], "length": 11}
    row = {"documents": [document, document]}
    arrays = task.collate(row, 40, np.random.default_rng(0))
    positions = arrays["position_ids"]
    assert (np.diff(positions[:16]) == 1).all()
    assert (np.diff(positions[16:32]) == 1).all()
    assert positions[0] != positions[16]
    assert arrays["segment_ids"].tolist() == [1] * 11 + [0] * 5 + [2] * 11 + [0] * 13


def test_a_causal_lm_predicts_every_token_but_the_first(make_task):
    task = make_task("causal-lm")
    arrays = task.collate({"input_ids": [4, 9, 8, 5], "length": 4}, 6, np.random.default_rng(0))
    assert arrays["labels"].tolist() == [9, 8, 5, *[IGNORED_LABEL] * 3]


@pytest.mark.parametrize("name", ["masked-lm", "causal-lm"])
def test_devices_that_split_tokens_compute_the_same_loss(make_task, name, monkeypatch):
    """Their loss has no logits of all targets; rows are packed, and one does not count."""
    task = make_task(name)
    documents = [{"input_ids": [4, *range(8, 8 + n), 5], "length": n + 2} for n in (9, 4, 12)]
    rows = [{"documents": documents[:2]}, {"documents": documents[1:]}, {"documents": documents}]
    collated = [task.collate(row, 40, np.random.default_rng(0)) for row in rows]
    batch = {key: np.stack([row[key] for row in collated]) for key in collated[0]}
    batch[ROW_MASK] = np.array([True, True, False])
    model = tiny_models.model("ForMaskedLM" if name == "masked-lm" else "ForCausalLM")
    want = task.loss(model, model.params, batch)
    monkeypatch.setattr(sys.modules[type(task).__module__], "num_token_shards", lambda: 2)
    got = task.loss(model, model.params, batch)
    assert float(got.mean) == pytest.approx(float(want.mean), abs=1e-5)
    assert int(got.num_targets) == int(want.num_targets)


def test_empty_texts_alone_are_refused(make_task):
    task = make_task("masked-lm")
    rows = datasets.Dataset.from_dict({"text": ["", " "]})
    with pytest.raises(DataError, match="training data must hold a text that is not empty"):
        task.encode_dataset(rows, "train")


@pytest.mark.parametrize("name", ["masked-lm", "causal-lm"])
def test_short_texts_are_examples(make_task, name):
    """However short they are; an empty text is none."""
    task = make_task(name)
    rows = datasets.Dataset.from_dict({"text": ["dog", "", "the lazy dog", "t"]})
    encoded = task.encode_dataset(rows, "train")
    (empty,) = encoded.messages
    assert "1 text in column 'text' of the training data is empty, row " in empty
    assert encoded.examples["input_ids"][0] == task.tokenizer("dog")["input_ids"]
    assert len(encoded.examples) == 3
    for example in encoded.examples:
        arrays = task.collate(example, 32, np.random.default_rng(0))
        assert (arrays["labels"] != IGNORED_LABEL).any()


def test_short_texts_are_packed(make_task):
    task = make_task("masked-lm", {"packing": True})
    rows = datasets.Dataset.from_dict({"text": ["dog", "the fox", "a mill at noon"]})
    examples = task.encode_dataset(rows, "train").examples
    documents = [examples[index] for index in range(3)]
    arrays = task.collate({"documents": documents}, 64, np.random.default_rng(0))
    assert set(arrays["segment_ids"].tolist()) == {0, 1, 2, 3}
    segments_of_targets = arrays["segment_ids"][arrays["positions"][arrays["labels"] >= 0]]
    assert set(segments_of_targets.tolist()) == {1, 2, 3}


def test_short_ends_of_long_documents_are_reported(make_task, text):
    task = make_task("masked-lm")
    characters = len(text)
    while not 0 < (end := len(tokenize(task.tokenizer, [text[:characters]])[0]) % 62) < 8:
        characters -= 1
    rows = datasets.Dataset.from_dict({"text": ["dog", text[:characters]]})
    encoded = task.encode_dataset(rows, "validation")
    (message,) = encoded.messages
    assert f"{end} tokens of the validation data are left out: ends shorter than 8" in message
    assert min(encoded.examples["length"][1:]) >= 8 + 2


@pytest.mark.parametrize(
    "text", ["the Ж [MASK] old", "Ж [MASK] old", "the Ж[MASK] old", "the Ж  \n[MASK] old"]
)
def test_an_unknown_word_before_a_mask_stays(make_task, text):
    task = make_task("masked-lm")
    (window,) = task.encode({"text": text})
    unknown, mask = task.tokenizer.unk_token_id, task.tokenizer.mask_token_id
    position = window.input_ids.index(mask)
    assert window.input_ids[position - 1] == unknown
    assert window.info == [position]


def test_the_space_before_a_mask_is_no_token(make_task):
    """Even if the vocabulary lacks it, so that it would be an unknown token."""
    task = make_task("masked-lm")
    tokenizer = task.tokenizer
    for text in ("the [MASK] [MASK] by", "the[MASK][MASK] by", "the   [MASK] [MASK] by"):
        (window,) = task.encode({"text": text})
        the = tokenizer("the", add_special_tokens=False)["input_ids"]
        masks = [tokenizer.mask_token_id] * 2
        start = [tokenizer.cls_token_id, *the, *masks]
        assert window.input_ids[: len(start)] == start
