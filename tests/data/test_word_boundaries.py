"""Where words start, for whole-word masking, and the characters of tokens, by kind of tokenizer."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flax_bigbird.data.errors import OptionError
from flax_bigbird.data.masking import Masking
from flax_bigbird.data.word_boundaries import starts_word, token_lengths, token_text, word_marks
from flax_bigbird.nn.losses import IGNORED_LABEL

SPECIAL = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
SPECIAL |= {"mask_token": "[MASK]", "pad_token": "[PAD]"}
TEXT = "unbelievable stories about an elephant named Zoë, remembering unusual elephants"


def trained(
    model, trainer_class, pre_tokenizer, decoder=None, **options
) -> PreTrainedTokenizerFast:
    """Returns a tokenizer with about 60 tokens, trained on the text."""
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        backend.decoder = decoder
    special = list(SPECIAL.values())
    trainer = trainer_class(special_tokens=special, show_progress=False, **options)
    backend.train_from_iterator([TEXT] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


@pytest.fixture(scope="module")
def wordpiece():
    model = models.WordPiece(unk_token="[UNK]")
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return trained(model, trainers.WordPieceTrainer, pre_tokenizer, vocab_size=60)


@pytest.fixture(scope="module")
def byte_level():
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(
        models.BPE(),
        trainers.BpeTrainer,
        pre_tokenizer,
        decoders.ByteLevel(),
        vocab_size=290,
        initial_alphabet=alphabet,
    )


@pytest.fixture(scope="module")
def word_level():
    model = models.WordLevel(unk_token="[UNK]")
    return trained(model, trainers.WordLevelTrainer, pre_tokenizers.WhitespaceSplit())


@pytest.fixture(scope="module")
def unmarked():
    """A BPE vocabulary without marks, as for genomes."""
    return trained(models.BPE(unk_token="[UNK]"), trainers.BpeTrainer, None, vocab_size=60)


@pytest.mark.parametrize("name", ["wordpiece", "byte_level", "word_level"])
def test_words_are_those_of_the_tokenizer(name, request):
    """The word of each token equals `word_ids()` of the tokenizer (white space for byte level)."""
    tokenizer = request.getfixturevalue(name)
    text = TEXT.replace(",", "") if name == "byte_level" else TEXT
    encoding = tokenizer(text, add_special_tokens=False)
    starts = starts_word(tokenizer, len(tokenizer) + 3)
    assert starts.shape == (len(tokenizer) + 3,)
    words = np.cumsum(starts[encoding["input_ids"]]) - 1
    expected = np.unique(encoding.word_ids(), return_inverse=True)[1]
    np.testing.assert_array_equal(words, expected)
    assert len(set(words)) >= 9


@pytest.mark.parametrize("name", ["wordpiece", "byte_level", "word_level"])
@pytest.mark.parametrize("seed", range(3))
def test_whole_words_are_masked_at_random(name, seed, request):
    """Every seed masks other words, all tokens of each, and not the start of the document alone."""
    tokenizer = request.getfixturevalue(name)
    mask = Masking.from_tokenizer(tokenizer, 0.15, True, len(tokenizer))
    body = tokenizer(" ".join([TEXT] * 5), add_special_tokens=False)["input_ids"]
    ids = np.array([tokenizer.cls_token_id, *body, tokenizer.sep_token_id], np.int32)
    masked = mask(ids, 200, np.random.default_rng(seed))
    positions = masked.positions[masked.labels != IGNORED_LABEL]
    starts = mask.starts_word[ids]
    starts[[1, -1]] = True
    word = np.cumsum(starts)
    chosen = set(word[positions])
    assert set(positions) == {p for p in range(1, len(ids) - 1) if word[p] in chosen}
    assert positions.max() > len(ids) / 2
    assert 0.1 * len(ids) < len(positions) <= 0.15 * len(ids) + 1


def test_the_targets_of_sentencepiece_vocabularies_are_those_of_the_mark_alone(tokenizer, text):
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    by_mark = np.zeros(64, bool)
    by_mark[: len(tokens)] = [token.startswith("▁") for token in tokens]
    np.testing.assert_array_equal(starts_word(tokenizer, 64), by_mark)
    mask = Masking.from_tokenizer(tokenizer, 0.15, True, 64)
    np.testing.assert_array_equal(mask.starts_word, by_mark)


def test_a_vocabulary_without_marks_is_refused_for_whole_words_alone(unmarked):
    assert word_marks(unmarked) is None
    with pytest.raises(OptionError, match=r"whole_word_mask needs a tokenizer .*: set whole_word"):
        Masking.from_tokenizer(unmarked, 0.15, True, 64)
    Masking.from_tokenizer(unmarked, 0.15, False, 64)


@pytest.mark.parametrize("name", ["wordpiece", "byte_level", "word_level"])
def test_the_tokens_of_a_text_have_its_characters(name, request):
    """The space before the text counts, as that before every word."""
    tokenizer = request.getfixturevalue(name)
    text = "elephant named Zoë"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if name == "word_level":
        text = text.replace("Zoë", "x")  # unknown without the comma after it
        assert token_lengths(tokenizer, 400)[ids].sum() == len(text)
    else:
        assert token_lengths(tokenizer, 400)[ids].sum() == len(text) + 1


def test_tokens_as_text():
    assert token_text("▁fox", "sentencepiece") == " fox"
    assert token_text("Ġfox", "byte-level") == " fox"
    assert token_text("Ã«", "byte-level") == "ë"
    assert token_text("[MASK]…", "byte-level") == "[MASK]…"
    assert token_text("##ing", "wordpiece") == "##ing"
