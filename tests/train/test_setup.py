"""What a run starts from: models, tokenizers, and options that do not fit them."""

import json

import jax
import numpy as np
import pytest
from tiny_runs import TINY_MODEL, RecordingCallback, tiny_run_options, write_labeled_texts

import flax_bigbird
from flax_bigbird.checkpoint import CheckpointWarning
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.tokenization import load_tokenizer
from flax_bigbird.train import train
from flax_bigbird.train.checkpoint_differences import summarize_differences


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labeled_texts(tmp_path_factory.mktemp("data") / "a.jsonl", 40)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, data):
    """The directory of a pretrained model."""
    folder = tmp_path_factory.mktemp("pretrained")
    train(tiny_run_options(folder, "masked-lm", train_files=[data], max_steps=2))
    return folder / "run"


def test_fine_tuning_starts_from_the_pretrained_model(tmp_path, data, pretrained):
    """Encoder and tokenizer are taken over; longer position embeddings are tiled."""
    recorded = RecordingCallback()
    options = tiny_run_options(
        tmp_path,
        train_files=[data],
        model=str(pretrained),
        config_overrides={"max_position_embeddings": 100},
        max_length=100,
        learning_rate=0.0,
        max_steps=1,
        eval_steps=1,
    )
    train(options, [recorded])
    before = flax_bigbird.FlaxBigBirdForMaskedLM.from_pretrained(pretrained).params["bert"]
    after = flax_bigbird.FlaxBigBirdForSequenceClassification.from_pretrained(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, before["encoder"], after.params["bert"]["encoder"])
    assert after.config.max_position_embeddings == 100
    assert any("tiled from 64 to 100" in text for text in recorded.messages)
    (about_head,) = [text for text in recorded.messages if "head" in text]
    assert about_head == "The head classifier is new; cls of the checkpoint is not used."
    vocabulary = (tmp_path / "run" / "spiece.model").read_bytes()
    assert vocabulary == (pretrained / "spiece.model").read_bytes()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_length": 32, "config_overrides": TINY_MODEL | {"max_position_embeddings": 96}}, 96),
        ({"max_length": 48}, 48),
    ],
)
def test_the_tokenizer_reads_as_many_tokens_as_the_model(tmp_path, data, changes, expected):
    """A run of shorter texts does not limit what users of the model read."""
    train(tiny_run_options(tmp_path, "masked-lm", train_files=[data], max_steps=1, **changes))
    first = load_tokenizer(tmp_path / "run")
    assert first.model_max_length == expected
    first.model_max_length = 20
    first.save_pretrained(tmp_path / "run")
    options = {"model": str(tmp_path / "run"), "config_overrides": {}, "max_length": 16}
    train(tiny_run_options(tmp_path / "next", train_files=[data], max_steps=1, **options))
    assert load_tokenizer(tmp_path / "next" / "run").model_max_length == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_column": "body"}, "must have a column 'body'; got text, label"),
        ({"label_column": "class"}, "must have a column 'class'; got text, label"),
        ({"problem_type": "regression"}, r"labels must be numbers .*regression; .*line \d+ has '"),
        ({"config_overrides": {"hidden": 3}}, "keys of BigBirdConfig; got 'hidden'"),
        (
            {"config_overrides": {"max_position_embeddings": 32}},
            "at most the length of the model's position embeddings, 32",
        ),
        (
            {"config_overrides": TINY_MODEL | {"id2label": {0: "a"}}},
            "config_overrides must not change what the task sets; got id2label",
        ),
        ({"model": "nowhere/at-all"}, "model must be a BigBird checkpoint; nowhere/at-all"),
    ],
)
def test_options_that_do_not_fit_model_or_data(tmp_path, data, changes, message):
    with pytest.raises((OptionError, DataError), match=message):
        train(tiny_run_options(tmp_path, train_files=[data], **changes))


def test_random_attention_without_effect_on_the_initial_model(tmp_path, data, pretrained):
    config = json.loads((pretrained / "config.json").read_text())
    model = tmp_path / "full"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config | {"attention_type": "original_full"}))
    options = tiny_run_options(
        tmp_path, train_files=[data], model=str(model), random_attention="google"
    )
    with pytest.raises(OptionError, match="got 'google' for 'original_full'"):
        train(options)
    assert not (tmp_path / "run").exists()


def test_differences_are_summarized_by_module():
    def warning(**paths):
        return CheckpointWarning(
            "long", **{name: [tuple(path.split("/")) for path in p] for name, p in paths.items()}
        )

    def summarize(*caught):
        return summarize_differences(list(caught), "bert")

    assert summarize() == []
    assert summarize(CheckpointWarning("another task")) == ["another task"]
    layer = [f"bert/encoder/layer/11/{name}" for name in ("output/kernel", "output/bias")]
    assert summarize(
        warning(new_parameters=[*layer, "bert/pooler/kernel"]), warning(unread_parameters=["a/b"])
    ) == [
        "Parts of the encoder start from random parameters: encoder/layer/11, pooler; a of the "
        "checkpoint is not used."
    ]
    heads = ["qa_classifier/kernel", "classifier/kernel", "classifier/bias"]
    assert summarize(warning(new_parameters=heads)) == [
        "The heads classifier and qa_classifier are new."
    ]


def test_a_larger_tokenizer_needs_resize_vocabulary(tmp_path, data, pretrained):
    """The model grows to a multiple of 8 tokens, and the tokens of before keep their parameters."""
    tokenizer = load_tokenizer(str(pretrained))
    before = flax_bigbird.FlaxBigBirdForMaskedLM.from_pretrained(pretrained)
    vocab_size = before.config.vocab_size
    tokenizer.add_tokens([f"new{n}" for n in range(vocab_size + 1 - len(tokenizer))])
    tokenizer.save_pretrained(tmp_path / "larger")
    options = {
        "train_files": [data],
        "model": str(pretrained),
        "tokenizer": str(tmp_path / "larger"),
        "learning_rate": 0.0,
        "max_steps": 1,
        "eval_steps": 1,
        "config_overrides": {},
    }
    with pytest.raises(OptionError, match=f"at most the {vocab_size} tokens .*resize_vocabulary"):
        train(tiny_run_options(tmp_path / "refused", "masked-lm", **options))
    recorded = RecordingCallback()
    options["resize_vocabulary"] = True
    train(tiny_run_options(tmp_path, "masked-lm", **options), [recorded])
    assert any(f"from {vocab_size} to {vocab_size + 8} tokens" in m for m in recorded.messages)
    after = flax_bigbird.FlaxBigBirdForMaskedLM.from_pretrained(tmp_path / "run")
    assert after.config.vocab_size == vocab_size + 8
    tables = [
        model.params["bert"]["embeddings"]["word_embeddings"]["embedding"]
        for model in (before, after)
    ]
    np.testing.assert_array_equal(tables[0], tables[1][:vocab_size])


def test_resize_vocabulary_without_effect_on_a_new_model(tmp_path, data):
    options = tiny_run_options(tmp_path, "masked-lm", train_files=[data], resize_vocabulary=True)
    with pytest.raises(OptionError, match="resize_vocabulary changes a model that training starts"):
        train(options)


def test_vocab_size_without_effect_on_the_default_model(tmp_path, data):
    """Fine-tuning without a model starts from the shipped one, whose tokenizer is used."""
    options = tiny_run_options(tmp_path, train_files=[data], config_overrides={})
    with pytest.raises(OptionError, match="vocab_size is the size of a new tokenizer; got 60"):
        train(options)


@pytest.mark.parametrize(
    ("task", "row", "column", "remedy"),
    [
        ("token-classification", {"words": ["a"], "tags": ["O"]}, "tokens", "words_column"),
        ("token-classification", {"tokens": ["a"], "ner": ["O"]}, "tags", "tags_column"),
        ("question-answering", {"question": "a", "text": "b"}, "context", "context_column"),
        ("sequence-classification", {"body": "a", "label": "b"}, "text", "text_column"),
    ],
)
def test_a_missing_column_names_the_option_of_its_task(tmp_path, task, row, column, remedy):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    files = [str(tmp_path / "rows.jsonl")]
    options = tiny_run_options(tmp_path, task, train_files=files)
    with pytest.raises(
        DataError, match=f"column '{column}'; .*: name the right one with {remedy}$"
    ):
        train(options)


def test_a_misspelled_key_of_the_configuration_has_a_suggestion(tmp_path, data):
    options = tiny_run_options(
        tmp_path, train_files=[data], config_overrides={**TINY_MODEL, "hidden_sise": 8}
    )
    with pytest.raises(OptionError, match="got 'hidden_sise': did you mean hidden_size"):
        train(options)
