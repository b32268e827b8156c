"""Vocabularies trained on texts: BigBird's special tokens, and the ids that users load."""

import pytest
import sentencepiece

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.tokenization import tokenize
from flax_bigbird.data.vocabulary import save_vocabulary, train_vocabulary
from flax_bigbird.examples.state_of_the_union.speeches import load_speeches


@pytest.fixture(scope="module")
def texts():
    return [speech.text[:20_000].strip() for speech in load_speeches()[::20]]


@pytest.fixture(scope="module")
def model(texts):
    return train_vocabulary(texts, size=500)


def test_the_special_tokens_have_the_ids_of_bigbird(model, tmp_path):
    tokenizer = save_vocabulary(model, tmp_path, 256)
    assert len(tokenizer) == 500
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", 0)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("</s>", 1)
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<s>", 2)
    assert (tokenizer.unk_token, tokenizer.unk_token_id) == ("<unk>", 3)
    assert (tokenizer.cls_token, tokenizer.cls_token_id) == ("[CLS]", 4)
    assert (tokenizer.sep_token, tokenizer.sep_token_id) == ("[SEP]", 5)
    assert (tokenizer.mask_token, tokenizer.mask_token_id) == ("[MASK]", 6)
    assert tokenizer.model_max_length == 256


def test_users_load_the_ids_that_training_used(model, texts, tmp_path):
    tokenizer = save_vocabulary(model, tmp_path, 256)
    from transformers import AutoTokenizer, BigBirdTokenizer

    sentencepiece_model = sentencepiece.SentencePieceProcessor(model_proto=model)
    for tokenizer_class in (AutoTokenizer, BigBirdTokenizer):
        loaded = tokenizer_class.from_pretrained(tmp_path, local_files_only=True)
        for text in texts:
            (ids,) = tokenize(tokenizer, [text])
            assert loaded(text, verbose=False)["input_ids"] == [4, *ids, 5]
            assert ids == sentencepiece_model.encode(text)


def test_the_same_texts_give_the_same_vocabulary(model, texts):
    assert train_vocabulary(texts, size=500) == model


def test_too_few_words_are_refused():
    with pytest.raises(ValueError, match="must support a vocabulary of 5000 tokens; they do not"):
        train_vocabulary(["a few words only"], size=5000)


@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_empty_texts_are_refused(texts):
    with pytest.raises(DataError, match=r"must hold words; all are empty: name the column"):
        train_vocabulary(texts, size=60)


def test_errors_of_the_texts_are_not_changed():
    def texts():
        yield "a few words"
        raise DataError("the second text is damaged")

    with pytest.raises(DataError, match=r"^the second text is damaged$"):
        train_vocabulary(texts(), size=60)
