"""Pretraining runs: masked, causal and with next-sentence prediction, each up to a known score."""

import random

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import (
    HARBOR,
    MEADOW,
    WIDER_MODEL,
    random_words,
    tiny_run_options,
    write_jsonl,
)

import flax_bigbird
from flax_bigbird.data.errors import DataError
from flax_bigbird.data.tokenization import load_tokenizer
from flax_bigbird.inference import load_predictor
from flax_bigbird.train import train

PAIRS = [("salt", "pepper"), ("day", "night"), ("king", "queen"), ("left", "right")]


def write_pairs(path, num_pairs):
    """Writes 200 texts of word pairs, and returns the path and the texts."""
    generator = random.Random(0)
    texts = [
        " ".join(" ".join(generator.choice(PAIRS)) for _ in range(num_pairs)) for _ in range(200)
    ]
    return write_jsonl(path, [{"text": text} for text in texts]), texts


def test_masked_lm_learns_more_than_token_frequencies(tmp_path):
    """Each word of a pair implies the other."""
    data, texts = write_pairs(tmp_path / "a.jsonl", 30)
    report = train(
        tiny_run_options(
            tmp_path,
            "masked-lm",
            train_files=[data],
            config_overrides=WIDER_MODEL | {"num_hidden_layers": 2},
            max_length=32,
            tokens_per_batch=2048,
            max_steps=250,
            eval_steps=250,
            save_steps=250,
            learning_rate=1e-2,
            logging_steps=50,
        )
    )
    tokenizer = load_tokenizer(str(tmp_path / "run"))
    counts = np.bincount(np.concatenate(tokenizer(texts, add_special_tokens=False)["input_ids"]))
    frequencies = counts[counts > 0] / counts.sum()
    entropy = -(frequencies * np.log2(frequencies)).sum()
    assert report["metrics"]["bits_per_token"] < 0.5 * entropy, (report["metrics"], entropy)
    assert report["metrics"]["accuracy"] > 0.6


@pytest.fixture(scope="module")
def causal_run(tmp_path_factory):
    """A causal language model of word pairs: (folder, report, texts)."""
    folder = tmp_path_factory.mktemp("causal")
    data, texts = write_pairs(folder / "a.jsonl", 12)
    report = train(
        tiny_run_options(
            folder,
            "causal-lm",
            train_files=[data],
            config_overrides=WIDER_MODEL,
            max_length=32,
            tokens_per_batch=1024,
            max_steps=120,
            eval_steps=120,
            save_steps=120,
            learning_rate=1e-2,
            logging_steps=60,
        )
    )
    return folder, report, texts


def encode_prompt(folder):
    tokenizer = load_tokenizer(str(folder / "run"))
    ids = tokenizer("day night king", add_special_tokens=False)["input_ids"]
    return tokenizer, np.array([[tokenizer.cls_token_id, *ids]])


def test_causal_lm_reaches_the_entropy_of_its_texts(causal_run):
    """The first word of a pair costs 2 bits, the second none, however they are tokenized."""
    _, report, texts = causal_run
    characters_per_text = np.mean([len(text) + 1 for text in texts])
    entropy = 12 * 2 / characters_per_text
    bits = report["metrics"]["bits_per_character"]
    assert entropy * 0.9 < bits < entropy * 1.5, (report["metrics"], entropy)


def test_causal_lm_generates_the_second_word_of_a_pair(causal_run):
    folder, _, _ = causal_run
    model = flax_bigbird.FlaxBigBirdForCausalLM.from_pretrained(folder / "run")
    assert model.config.is_decoder
    tokenizer, prompt = encode_prompt(folder)
    # A word has at most 6 tokens.
    sequences = model.generate(prompt, max_new_tokens=6, eos_token_id=None).sequences
    new_text = tokenizer.decode(np.asarray(sequences[0, prompt.size :]))
    assert str(new_text).strip().startswith("queen")


def test_causal_lm_continues_as_a_masked_lm(causal_run, tmp_path):
    """The new model is an encoder: a token changes the logits of positions before it."""
    folder, _, _ = causal_run
    train(
        tiny_run_options(
            tmp_path,
            "masked-lm",
            train_files=[str(folder / "a.jsonl")],
            model=str(folder / "run"),
            config_overrides={},
            max_length=32,
            max_steps=1,
        )
    )
    model = flax_bigbird.FlaxBigBirdForMaskedLM.from_pretrained(tmp_path / "run")
    assert not model.config.is_decoder
    tokenizer, prompt = encode_prompt(folder)
    changed = prompt.copy()
    changed[0, -1] = tokenizer.mask_token_id
    first = [np.asarray(model(jnp.asarray(ids)).logits[0, 0]) for ids in (prompt, changed)]
    assert np.abs(first[0] - first[1]).max() > 0


def write_two_topics(path, count):
    generator = random.Random(1)
    topics = [(MEADOW, HARBOR)[index % 2] for index in range(count)]
    return write_jsonl(path, [{"text": random_words(t, 90, generator)} for t in topics])


def test_next_sentences_are_recognized(tmp_path):
    """Half of the random second texts have the same topic, so the best accuracy is 0.75."""
    data = write_two_topics(tmp_path / "a.jsonl", 60)
    report = train(
        tiny_run_options(
            tmp_path,
            "next-sentence",
            train_files=[data],
            config_overrides=WIDER_MODEL | {"num_hidden_layers": 2},
            vocab_size=80,
            tokens_per_batch=1024,
            max_steps=300,
            eval_steps=100,
            save_steps=300,
            learning_rate=3e-3,
            logging_steps=100,
        )
    )
    metrics = report["metrics"]
    assert metrics["next_sentence_accuracy"] > 0.65, metrics
    total = metrics["masked_lm_loss"] + metrics["next_sentence_loss"]
    assert metrics["loss"] == pytest.approx(total)
    # The masked-LM head fills masks; both heads are in the file.
    fill_masks = load_predictor(tmp_path / "run", task="masked-lm")
    assert len(fill_masks("the cow [MASK] in a green meadow")["masks"]) == 1
    model = flax_bigbird.FlaxBigBirdForPreTraining.from_pretrained(tmp_path / "run")
    assert "seq_relationship" in model.params["cls"]


def test_next_sentence_needs_other_documents(tmp_path):
    data = write_jsonl(tmp_path / "a.jsonl", [{"text": MEADOW * 20}, {"text": "short"}])
    options = tiny_run_options(tmp_path, "next-sentence", train_files=[data], validation_fraction=0)
    with pytest.raises(DataError, match=r"must hold two documents or more .* it holds 1"):
        train(options)
