"""Malformed files of a tokenizer: one `OptionError` that names the file, or a warning."""

import collections
import json
import random
import shutil
import warnings
from typing import Any

import pytest
from mutations import attempt, mutate_bytes, mutate_json
from tiny_checkpoints import sentence
from tokenizers import normalizers

from flax_bigbird.data.errors import OptionError, TokenizerWarning
from flax_bigbird.data.tokenization import load_tokenizer
from flax_bigbird.data.tokenizer_checks import find_disagreement
from flax_bigbird.data.vocabulary import save_vocabulary, train_vocabulary

pytestmark = pytest.mark.usefixtures("unchecked_annotations", "limited_time")

TEXTS = [sentence(seed, 20) for seed in range(8)]


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """The folder of a tokenizer: tokenizer.json, tokenizer_config.json and spiece.model."""
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [sentence(seed, 40) for seed in range(50)]
    save_vocabulary(train_vocabulary(texts, 60, allow_fewer=True), folder, 64)
    return folder


@pytest.fixture
def folder(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "tokenizer")


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_an_intact_tokenizer_gives_no_warning(folder):
    assert load_tokenizer(folder)(TEXTS[0])["input_ids"]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "[]", "{", "3", "[" * 100_000])
def test_files_that_hold_no_object(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(OptionError, match=rf"{name} (is not JSON|must hold|cannot be read)"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("mask_token", 3, "a token"),
        ("cls_token", ["x"], "a token"),
        ("extra_special_tokens", 5, "tokens"),
        ("extra_special_tokens", [[1]], "tokens"),
        ("tokenizer_class", {"a": 1}, "a text"),
    ],
)
def test_a_wrong_value_names_the_file_and_the_key(folder, key, value, what):
    edit(folder / "tokenizer_config.json", lambda content: content.update({key: value}))
    with pytest.raises(OptionError, match=rf"tokenizer_config\.json: {key} must be {what}"):
        load_tokenizer(folder)


def test_a_truncated_sentencepiece_model(folder):
    path = folder / "spiece.model"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(OptionError, match=r"spiece\.model is not"):
        load_tokenizer(folder)


def test_mask_and_padding_must_differ(folder):
    edit(folder / "tokenizer_config.json", lambda content: content.update(mask_token="<pad>"))
    with pytest.raises(OptionError, match="the pad token and the mask token have the id 0"):
        load_tokenizer(folder)


def load_and_encode(folder):
    tokenizer = load_tokenizer(folder)
    return [tokenizer(text)["input_ids"] for text in TEXTS]


def replace_token(content):
    content["model"]["vocab"][20][0] += "x"


def replace_score(content):
    content["model"]["vocab"][20][1] -= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace_token, "token 20 is "),
        (replace_score, "the score of "),
    ],
)
def test_a_tokenizer_that_differs_from_its_sentencepiece_model(folder, change, message):
    edit(folder / "tokenizer.json", change)
    with pytest.warns(TokenizerWarning, match=rf"differs from the spiece\.model .*{message}"):
        load_tokenizer(folder)


def test_a_tokenizer_that_changes_the_words_that_it_knows(folder):
    tokenizer: Any = load_tokenizer(folder)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("e", "a")
    difference = find_disagreement(tokenizer, folder / "spiece.model")
    assert "which it knows, is encoded as" in (difference or "")


@pytest.mark.parametrize(
    "count", [pytest.param(1, id="few"), pytest.param(10, id="many", marks=pytest.mark.slow)]
)
def test_mutated_tokenizers(intact, tmp_path, count):
    """They are refused, give a warning, or encode texts as before."""
    expected = load_and_encode(intact)
    names = ("tokenizer.json", "tokenizer.json", "tokenizer_config.json", "spiece.model")
    outcomes = collections.Counter()
    for seed in range(40 * count):
        generator = random.Random(seed)
        folder = tmp_path / "tokenizer"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(intact, folder)
        path = folder / generator.choice(names)
        if path.suffix == ".model" or generator.random() < 0.2:
            content, change = mutate_bytes(path.read_bytes(), generator)
            path.write_bytes(content)
        else:
            text, change = mutate_json(json.loads(path.read_text()), generator)
            path.write_text(text, encoding="utf-8", errors="surrogatepass")
        where = f"seed {seed}: {path.name}: {change}"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            encoded, error = attempt(load_and_encode, folder)
        if error is not None:
            if not isinstance(error, OptionError) or str(folder) not in str(error):
                raise AssertionError(where) from error
            outcomes["refused"] += 1
            continue
        warned = any(issubclass(w.category, TokenizerWarning) for w in caught)
        outcomes["warned" if warned else "loaded"] += 1
        assert warned or encoded == expected, where
    assert outcomes["refused"] > 10, outcomes
