"""Vocabularies of characters: ids, case, files that `AutoTokenizer` opens, and fast encoding."""

import random

import numpy as np
import pytest

from flax_bigbird.data import character_vocabulary
from flax_bigbird.data.character_vocabulary import (
    encode_characters,
    find_characters,
    is_character_level,
    save_character_vocabulary,
)
from flax_bigbird.data.masking import Masking
from flax_bigbird.data.tokenization import load_tokenizer, num_token_ids, tokenize
from flax_bigbird.data.word_boundaries import token_lengths


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return save_character_vocabulary(find_characters(["ACGTN", "GATTACA"], 8000), folder, 512)


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("letters")
    texts = ["The café, at noon.", "Ünter  den\nLinden"]
    return save_character_vocabulary(find_characters(texts, 8000), folder, 512)


def test_the_ids_are_those_of_bigbird_then_the_characters(bases, tmp_path):
    assert bases.get_vocab() == {
        **{"<pad>": 0, "</s>": 1, "<s>": 2, "<unk>": 3, "[CLS]": 4, "[SEP]": 5, "[MASK]": 6},
        **{"A": 7, "C": 8, "G": 9, "N": 10, "T": 11},
    }
    assert bases("ACGT")["input_ids"] == [4, 7, 8, 9, 11, 5]
    assert bases("A", "CG")["input_ids"] == [4, 7, 5, 8, 9, 5]
    assert bases.decode(bases("ACGT")["input_ids"], skip_special_tokens=True) == "ACGT"
    assert bases.model_max_length == 512
    assert num_token_ids(bases) == 12


def test_auto_tokenizer_gives_the_ids_that_we_use(letters, tmp_path):
    from transformers import AutoTokenizer

    letters.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    ours = load_tokenizer(tmp_path)
    for text in ("The café", "The cafe\u0301", "Linden [MASK] Ünter", "x\U0001f600y", ""):
        assert loaded(text, add_special_tokens=False)["input_ids"] == tokenize(ours, [text])[0]
    assert tokenize(ours, ["cafe\u0301"]) == tokenize(ours, ["café"])
    assert ours.unk_token_id not in tokenize(ours, ["Ünter den Linden, at noon."])[0]


@pytest.mark.parametrize(
    ("texts", "text", "expected"),
    [
        (["ACGT"], "acGT", "ACGT"),
        (["acgt"], "acGT", "acgt"),
        (["ACgt"], "aCGt", "?C?t"),
        (["ACGT"], "acgu", "ACG?"),
        (["ÉA"], "éa", "ÉA"),
    ],
)
def test_letters_are_read_in_the_only_case_of_the_vocabulary(tmp_path, texts, text, expected):
    tokenizer = save_character_vocabulary(find_characters(texts, 100), tmp_path, 64)
    tokens = tokenizer.convert_ids_to_tokens(tokenize(tokenizer, [text])[0])
    assert "".join("?" if token == "<unk>" else token for token in tokens) == expected
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == tokenize(tokenizer, [text])[0]


def test_the_most_frequent_characters_are_chosen():
    assert find_characters(["bbbaaac cdd"], 7 + 3) == ["a", "b", "c"]
    assert find_characters(["a\n\n b"], 100) == [" ", "a", "b"]
    with pytest.raises(
        ValueError, match="must have characters for a vocabulary; all are empty: name the column"
    ):
        find_characters(["", " \n"], 100)


@pytest.mark.parametrize("seed", range(3))
def test_fast_encoding_gives_the_ids_of_the_tokenizer(bases, letters, seed):
    generator = random.Random(seed)
    characters = "".join(map(chr, range(128)))
    for tokenizer in (bases, letters):
        text = " ".join("".join(generator.choices(characters, k=300)).split())
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert encode_characters(tokenizer, [text, ""]) == [ids, []]


def test_other_texts_are_left_to_the_tokenizer(bases, letters, tokenizer):
    assert encode_characters(bases, ["AC[MASK]GT"]) is None
    assert encode_characters(letters, ["café"]) is None
    assert encode_characters(tokenizer, ["fox"]) is None
    assert tokenize(bases, ["AC[MASK]GT"]) == [[7, 8, 6, 9, 11]]


def test_added_tokens_are_not_overlooked(tmp_path):
    tokenizer = save_character_vocabulary(find_characters(["ACGT"], 100), tmp_path, 64)
    assert tokenize(tokenizer, ["ACGT"]) == [[7, 8, 9, 10]]
    tokenizer.add_tokens(["CG"])
    assert encode_characters(tokenizer, ["ACGT"]) is None
    assert tokenize(tokenizer, ["ACGT"]) == [[7, 11, 10]]


def test_the_table_is_built_once(bases, monkeypatch):
    tokenize(bases, ["ACGT"])
    monkeypatch.setattr(character_vocabulary, "_build_table", None)
    assert tokenize(bases, ["ACGT"]) == [[7, 8, 9, 11]]


def test_characters_are_masked_one_by_one_by_default(bases, letters, tokenizer):
    assert is_character_level(bases)
    assert is_character_level(letters)
    assert not is_character_level(tokenizer)
    assert not Masking.from_tokenizer(bases, 0.15, None, 16).whole_word
    assert Masking.from_tokenizer(tokenizer, 0.15, None, 40).whole_word


def test_a_token_is_a_character_in_metrics(bases):
    np.testing.assert_array_equal(
        token_lengths(bases, 16), [0, 0, 0, 1, 0, 0, 0, *[1] * 5, *[0] * 4]
    )
