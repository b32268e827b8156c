"""Causal and next-sentence pretraining, multiple choice: learned to a stated metric."""

import functools
import json
import operator
import random
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from training_tools import HARBOUR, MEADOW, WIDER, options, sentences, write_jsonl

import flax_bigbird
from flax_bigbird import tasks
from flax_bigbird.tasks.errors import DataError
from flax_bigbird.tasks.text import load_tokenizer
from flax_bigbird.train import evaluate, evaluate_options
from flax_bigbird.train.objectives.language import characters
from flax_bigbird.train.objectives.next_sentence import _elsewhere, _parts
from flax_bigbird.train.run import train


def test_characters_of_pieces(tmp_path):
    """The pieces of a text are as many characters as it has, with the space before it."""
    texts = [{"text": "a cow, in a meadow " * 4}] * 6
    data = write_jsonl(tmp_path / "a.jsonl", texts)
    train(options(tmp_path, "masked-lm", train_files=[data], max_steps=1, vocabulary_size=30))
    tokenizer = load_tokenizer(str(tmp_path / "run"))
    counts = characters(tokenizer, 64)
    for text in ("a cow, in a meadow", "meadow", "meadow?"):  # the last has an unknown piece
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert counts[ids].sum() == len(text) + 1
    assert counts[[tokenizer.mask_token_id, tokenizer.pad_token_id]].sum() == 0


def test_causal_lm_predicts_what_follows(tmp_path):
    """Of two words the first tells the second: half of the tokens are certain, half are not."""
    generator = random.Random(0)
    pairs = [("salt", "pepper"), ("day", "night"), ("king", "queen"), ("left", "right")]
    texts = [" ".join(" ".join(generator.choice(pairs)) for _ in range(12)) for _ in range(200)]
    found = train(
        options(
            tmp_path,
            "causal-lm",
            train_files=[write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])],
            model_config=WIDER,
            max_length=32,
            tokens_per_batch=1024,
            max_steps=120,
            evaluate_every=120,
            save_every=120,
            learning_rate=1e-2,
            log_every=60,
        )
    )
    # The first of a pair costs 2 bits, the second nothing, whatever the pieces: 24 words a text.
    metrics = found["metrics"]
    characters_a_text = np.mean([len(text) + 1 for text in texts])
    ideal = 12 * 2 / characters_a_text
    assert ideal * 0.9 < metrics["bits_per_character"] < ideal * 1.5, (metrics, ideal)
    model = flax_bigbird.FlaxBigBirdForCausalLM.from_pretrained(tmp_path / "run")
    assert model.config.is_decoder
    tokenizer = load_tokenizer(str(tmp_path / "run"))
    ids = tokenizer("day night king", add_special_tokens=False)["input_ids"]
    prompt = np.array([[tokenizer.cls_token_id, *ids]])
    # As many pieces as the word may have.
    made = model.generate(prompt, max_new_tokens=6, eos_token_id=None).sequences[0, prompt.size :]
    assert tokenizer.decode(np.asarray(made)).strip().startswith("queen")
    # It goes on as a masked LM, which reads what follows too.
    onward = {
        "model": str(tmp_path / "run"),
        "output_dir": str(tmp_path / "masked"),
        "max_length": 32,
    }
    data = str(tmp_path / "a.jsonl")
    onward |= {"model_config": {}, "max_steps": 1}
    train(options(tmp_path, "masked-lm", train_files=[data], **onward))
    masked = flax_bigbird.FlaxBigBirdForMaskedLM.from_pretrained(tmp_path / "masked")
    assert not masked.config.is_decoder
    changed = prompt.copy()
    changed[0, -1] = tokenizer.mask_token_id
    first = [np.asarray(masked(jnp.asarray(ids)).logits[0, 0]) for ids in (prompt, changed)]
    assert np.abs(first[0] - first[1]).max() > 0


def topics(path, count):
    generator = random.Random(1)
    rows = []
    for number in range(count):
        words = (MEADOW, HARBOUR)[number % 2]
        rows.append({"text": sentences(words, 90, generator)})
    return write_jsonl(path, rows)


def test_next_sentences_are_told_from_others(tmp_path):
    """A part of another document is of the same topic half of the time: 0.75 is the best."""
    data = topics(tmp_path / "a.jsonl", 60)
    found = train(
        options(
            tmp_path,
            "next-sentence",
            train_files=[data],
            model_config=WIDER | {"num_hidden_layers": 2},
            vocabulary_size=80,
            tokens_per_batch=1024,
            max_steps=300,
            evaluate_every=100,
            save_every=300,
            learning_rate=3e-3,
            log_every=100,
        )
    )
    metrics = found["metrics"]
    assert metrics["next_sentence_accuracy"] > 0.65, metrics
    total = metrics["masked_lm_loss"] + metrics["next_sentence_loss"]
    assert metrics["loss"] == pytest.approx(total)
    # Its masked-language head fills masks; both heads are in the file.
    fill = tasks.load(tmp_path / "run", task="masked-lm")
    assert len(fill("the cow [MASK] in a green meadow")["masks"]) == 1
    model = flax_bigbird.FlaxBigBirdForPreTraining.from_pretrained(tmp_path / "run")
    assert "seq_relationship" in model.params["cls"]


def test_parts_of_documents():
    assert list(_parts(list(range(15)), 20)) == []
    assert list(_parts(list(range(16)), 20)) == [list(range(8)), list(range(8, 16))]
    cut = list(_parts(list(range(70)), 20))
    assert functools.reduce(operator.iadd, cut, []) == list(range(70))
    assert [len(part) for part in cut] == [20, 20, 20, 10]
    documents = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    for number in range(8):
        chosen = _elsewhere(number, documents)
        assert documents[chosen] != documents[number]
        assert chosen == _elsewhere(number, documents)


def test_next_sentence_needs_other_documents(tmp_path):
    data = write_jsonl(tmp_path / "a.jsonl", [{"text": MEADOW * 20}, {"text": "short"}])
    with pytest.raises(DataError, match=r"must hold two documents or more .* it holds 1"):
        train(options(tmp_path, "next-sentence", train_files=[data], validation_share=0.0))


def choices(path, count, seed):
    """Which of two or three texts is of the document's kind."""
    generator = random.Random(seed)
    rows = []
    for number in range(count):
        kinds = (MEADOW, HARBOUR) if number % 2 else (HARBOUR, MEADOW)
        right = sentences(kinds[0], 6, generator)
        others = [sentences(kinds[1], 6, generator) for _ in range(1 + number % 3 // 2)]
        place = generator.randint(0, len(others))
        rows.append(
            {
                "article": sentences(kinds[0], generator.randint(5, 40), generator),
                "options": [*others[:place], right, *others[place:]],
                "answer": right,
            }
        )
    return write_jsonl(path, rows)


def test_the_right_choice_is_learned(tmp_path):
    columns = {"text_column": "article", "choices_column": "options", "label_column": "answer"}
    found = train(
        options(
            tmp_path,
            "multiple-choice",
            train_files=[choices(tmp_path / "a.jsonl", 200, 0)],
            model_config=WIDER | {"num_hidden_layers": 2},
            vocabulary_size=80,
            tokens_per_batch=1024,
            max_steps=240,
            evaluate_every=60,
            save_every=240,
            learning_rate=3e-3,
            log_every=60,
            **columns,
        )
    )
    assert found["metrics"]["accuracy"] > 0.85, found["metrics"]
    test = choices(tmp_path / "test.jsonl", 60, 9)
    measured = evaluate(evaluate_options(str(tmp_path / "run"), files=[test]))
    assert measured["metrics"]["accuracy"] > 0.85
    rows = [json.loads(line) for line in Path(test).read_text().splitlines()]
    chosen = tasks.load(tmp_path / "run")(rows)
    right = [a["choice"] == row["answer"] for a, row in zip(chosen, rows, strict=True)]
    assert np.mean(right) == pytest.approx(measured["metrics"]["accuracy"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["a"], "label": 0}, "row 2 .*must hold lists of two texts or more; got"),
        ({"choices": ["a", "b"], "label": 2}, "row 2 .*number of a choice, 0 to 1, .*; got 2"),
    ],
)
def test_bad_choices(tmp_path, row, message):
    good = {"text": MEADOW, "choices": ["a", "b"], "label": 1}
    data = write_jsonl(tmp_path / "a.jsonl", [good, good | row, good])
    with pytest.raises(DataError, match=message):
        train(options(tmp_path, "multiple-choice", train_files=[data]))
