"""Tokenizers: folders without one, Unicode normalization, and the count of unknown tokens."""

import json
import os
import random
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from flax_bigbird.data.character_vocabulary import find_characters, save_character_vocabulary
from flax_bigbird.data.errors import OptionError
from flax_bigbird.data.normalization import normalize_as_trained, trained_form
from flax_bigbird.data.tokenization import (
    count_tokens,
    load_tokenizer,
    tokenize,
    tokenize_with_offsets,
    unknown_tokens_message,
)
from flax_bigbird.data.vocabulary import save_vocabulary, train_vocabulary

COMPOSED = "Le café naïve était fermé à Noël, où l'élève rêvait."
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)
PUBLISHED = Path(os.environ.get("BIGBIRD_VOCABULARY", "/work/shared/data/bigbird-vocab"))


def write_config(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "big_bird"}))


@pytest.fixture(scope="module")
def french(tmp_path_factory):
    """The folder of a tokenizer that was trained on French texts."""
    folder = tmp_path_factory.mktemp("french")
    save_vocabulary(train_vocabulary([COMPOSED * 10], 60, allow_fewer=True), folder, 512)
    write_config(folder)
    return folder


@pytest.mark.parametrize("name", ["/no/such/folder", "./folder", "~/folder/of/tokenizer"])
def test_a_path_that_does_not_exist_is_no_hub_id(name):
    with pytest.raises(OptionError, match=f"holds one; {name} does not exist: check") as error:
        load_tokenizer(name)
    assert error.value.__context__ is None


def test_a_folder_without_tokenizer_files_is_refused(tmp_path):
    """`transformers` would make a tokenizer of seven special tokens."""
    write_config(tmp_path)
    with pytest.raises(OptionError, match=r"a directory with the files of one .*has none of them"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_of_special_tokens_alone_is_refused(tmp_path):
    from transformers import BigBirdTokenizer

    BigBirdTokenizer().save_pretrained(tmp_path)
    with pytest.raises(OptionError, match="has only special tokens: name a tokenizer with"):
        load_tokenizer(tmp_path)


def test_decomposed_accents_have_the_ids_of_composed_ones(french):
    tokenizer = load_tokenizer(french)
    composed, decomposed = tokenize(tokenizer, [COMPOSED, DECOMPOSED])
    assert composed == decomposed
    assert tokenizer.unk_token_id not in decomposed


def test_offsets_are_characters_of_the_text_as_it_was_given(french):
    tokenizer = load_tokenizer(french)
    ids, offsets = tokenize_with_offsets(tokenizer, DECOMPOSED)
    assert ids == tokenize(tokenizer, [COMPOSED])[0]
    covered = {index for start, end in offsets for index in range(start, end)}
    missed = {DECOMPOSED[index] for index in range(len(DECOMPOSED)) if index not in covered}
    assert missed <= {" "}
    cafe = DECOMPOSED.index(unicodedata.normalize("NFD", "café"))
    assert cafe + 5 in {end for _, end in offsets}  # the mark belongs to the letter


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    """A tokenizer whose tokens are the characters of the French texts."""
    folder = tmp_path_factory.mktemp("characters")
    return save_character_vocabulary(find_characters([COMPOSED], 8000), folder, 512)


def messy_text(rng: random.Random) -> str:
    """Returns words between runs of white space of all kinds, at the ends too."""

    def gap(min_size: int) -> str:
        return "".join(rng.choices(" \n\t\r\u00a0\u2003\x1c", k=rng.randint(min_size, 4)))

    words = rng.choices([*COMPOSED.split(), *DECOMPOSED.split(), "x1?"], k=rng.randint(0, 8))
    return gap(0) + "".join(word + gap(1) for word in words) + rng.choice(["", "fermé"])


@pytest.mark.parametrize("kind", ["subwords", "characters"])
def test_white_space_changes_neither_the_ids_nor_the_characters_of_tokens(kind, french, request):
    tokenizer = load_tokenizer(french)
    if kind == "characters":
        tokenizer = request.getfixturevalue("characters")
    for seed in range(200):
        text = messy_text(random.Random(seed))
        ids, offsets = tokenize_with_offsets(tokenizer, text)
        assert [ids] == tokenize(tokenizer, [text]), repr(text)
        assert all(0 <= start < end <= len(text) for start, end in offsets), repr(text)
        tokens = tokenizer.convert_ids_to_tokens(ids)
        if tokens[:1] == ["▁"]:  # the library gives it the characters of the token after it
            tokens, offsets = tokens[1:], offsets[1:]
        flat = [position for offset in offsets for position in offset]
        assert flat == sorted(flat), repr(text)
        for token, (start, end) in zip(tokens, offsets, strict=True):
            covered = unicodedata.normalize("NFC", text[start:end])
            if token != tokenizer.unk_token:
                assert token.replace("▁", " ").split() == covered.split(), repr(text)


def test_a_saved_tokenizer_is_loaded_with_the_same_normalization(french, tmp_path):
    load_tokenizer(french).save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert tokenize(again, [DECOMPOSED]) == tokenize(load_tokenizer(french), [COMPOSED])


def test_a_vocabulary_is_trained_on_composed_letters():
    assert train_vocabulary([COMPOSED * 10], 60, allow_fewer=True) == train_vocabulary(
        [DECOMPOSED * 10], 60, allow_fewer=True
    )


@pytest.mark.parametrize(
    ("tokens", "form"),
    [
        (["▁a", "é", "e"], "NFC"),
        (["▁a", "e\u0301", "e"], "NFD"),
        (["▁a", "\u0301", "e"], "NFD"),
        (["▁a", "b"], None),  # NFC would make one unknown token of a known and an unknown one
        (["é", "e\u0301"], None),
        (["é", "a", "\u0301"], None),  # NFC would make "á", which is unknown
        (["é", "a", "\u0301", "á", "e"], "NFC"),
        (["é", "\u212b"], None),  # the Angstrom sign, which NFC changes
    ],
)
def test_the_form_that_a_vocabulary_was_trained_in(tokens, form):
    assert trained_form(tokens) == form


def test_the_normalization_of_a_sentencepiece_model_is_applied(tmp_path):
    """A model trained with NFKC reads ligatures and full-width letters as it does by itself."""
    trainer = sentencepiece.SentencePieceTrainer
    trainer.train(
        sentence_iterator=iter(["the five cafés are quite full of fine wine"] * 20),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=40,
        hard_vocab_limit=False,
        normalization_rule_name="nfkc",
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        minloglevel=2,
    )
    write_config(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    for text in (
        "\ufb01ne \uff57\uff49\uff4e\uff45",
        "the cafe\u0301s are \ufb01ve",
        "the five cafés",
    ):
        assert tokenize(tokenizer, [text]) == [model.encode(text)]
        assert tokenizer.unk_token_id not in tokenize(tokenizer, [text])[0]


def other_tokenizer(normalizer, pre_tokenizer, tokens) -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def test_normalizing_and_byte_level_tokenizers_stay_as_they_are():
    stripping = normalizers.BertNormalizer(strip_accents=True)
    tokenizer = other_tokenizer(stripping, pre_tokenizers.Whitespace(), ["[UNK]", "é"])
    normalize_as_trained(tokenizer)
    assert isinstance(tokenizer.backend_tokenizer.normalizer, normalizers.BertNormalizer)
    bytes_of_letters = other_tokenizer(None, pre_tokenizers.ByteLevel(), ["[UNK]", "Ã", "©"])
    normalize_as_trained(bytes_of_letters)
    assert bytes_of_letters.backend_tokenizer.normalizer is None


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    if not (PUBLISHED / "spiece.model").is_file():
        pytest.skip(f"the vocabulary of google/bigbird-roberta-base is not in {PUBLISHED}")
    folder = tmp_path_factory.mktemp("published")
    shutil.copy(PUBLISHED / "spiece.model", folder)
    write_config(folder)
    return folder


def test_the_published_vocabulary_gives_the_ids_of_its_sentencepiece_model(published):
    tokenizer = load_tokenizer(published)
    model = sentencepiece.SentencePieceProcessor(model_file=str(published / "spiece.model"))
    texts = [
        "The quick brown fox jumps over the lazy dog: 42 times, at 3.50 a time!",
        COMPOSED,
        'A \u201cquoted\u201d word \u2013 and a dash\u2026 in "plain" text, º ª ½ ÿ Ø.',
        "日本語 текст, and English",
    ]
    for text in texts:
        (ids,) = tokenize(tokenizer, [text])
        assert ids == model.encode(text)
    composed, decomposed = tokenize(tokenizer, [COMPOSED, DECOMPOSED])
    assert composed == decomposed


def test_tokens_are_counted_without_special_ones(french):
    tokenizer = load_tokenizer(french)
    ids = np.array(tokenizer("le Ж café")["input_ids"])
    num_unknown, num_tokens = count_tokens(ids, tokenizer)
    assert (num_unknown, num_tokens) == (1, len(ids) - 2)


def test_a_warning_starts_above_five_percent():
    assert unknown_tokens_message(0, 0, "data") is None
    assert unknown_tokens_message(5, 100, "data") is None
    message = unknown_tokens_message(6, 100, "data")
    assert str(message).startswith("6% of the tokens of the data are unknown")
