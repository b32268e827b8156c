import pytest
import sentencepiece

from flax_bigbird.cli.demo import data
from flax_bigbird.train import vocabulary


@pytest.fixture(scope="module")
def texts():
    return [speech.text[:20_000].strip() for speech in data.load_speeches()[::20]]


@pytest.fixture(scope="module")
def model(texts):
    return vocabulary.train_vocabulary(texts, size=500)


def test_the_special_pieces_have_bigbirds_ids(model, tmp_path):
    tokenizer = vocabulary.save_vocabulary(model, tmp_path, 256)
    assert len(tokenizer) == 500
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<pad>", 0)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("</s>", 1)
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<s>", 2)
    assert (tokenizer.unk_token, tokenizer.unk_token_id) == ("<unk>", 3)
    assert (tokenizer.cls_token, tokenizer.cls_token_id) == ("[CLS]", 4)
    assert (tokenizer.sep_token, tokenizer.sep_token_id) == ("[SEP]", 5)
    assert (tokenizer.mask_token, tokenizer.mask_token_id) == ("[MASK]", 6)
    assert tokenizer.model_max_length == 256


def test_users_load_the_ids_that_training_saw(model, texts, tmp_path):
    trained_with = vocabulary.save_vocabulary(model, tmp_path, 256)
    from transformers import AutoTokenizer, BigBirdTokenizer

    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    for cls in (AutoTokenizer, BigBirdTokenizer):
        loaded = cls.from_pretrained(tmp_path, local_files_only=True)
        for text in texts:
            ids = vocabulary.encode(trained_with, text)
            assert loaded(text, verbose=False)["input_ids"] == [4, *ids, 5]
            assert ids == pieces.encode(text)


def test_the_same_texts_make_the_same_vocabulary(model, texts):
    assert vocabulary.train_vocabulary(texts, size=500) == model


def test_too_few_words_are_refused():
    with pytest.raises(ValueError, match="do not support a vocabulary of 5000 pieces"):
        vocabulary.train_vocabulary(["a few words only"], size=5000)
