"""The hash of a model in the manifest of an index."""

import json
import shutil

import pytest
from tiny_checkpoints import sentence

from flax_bigbird.inference import load_embedder
from flax_bigbird.inference.search.fingerprint import model_fingerprint

MODEL = "FlaxBigBirdForMaskedLM"


@pytest.fixture(scope="module")
def model(make_checkpoint) -> str:
    return make_checkpoint(MODEL)


@pytest.fixture
def model_with_rules(model, tmp_path):
    """A copy whose tokenizer takes its rules from tokenizer.json; BigBird's class has its own."""
    folder = shutil.copytree(model, tmp_path / "rules")
    (folder / "spiece.model").unlink()  # loading compares it with tokenizer.json
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text("utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    file.write_text(json.dumps(config), "utf-8")
    return folder


def lowercase(state):
    state["normalizer"] = {"type": "Lowercase"}


def keep_spaces_together(state):
    state["pre_tokenizer"] = None


def favor_one_token(state):
    vocabulary = state["model"]["vocab"]
    vocabulary[-1] = [vocabulary[-1][0], vocabulary[-1][1] + 1.0]


@pytest.mark.parametrize("change", [lowercase, keep_spaces_together, favor_one_token])
def test_it_depends_on_how_texts_are_split(model_with_rules, tmp_path, change):
    changed = shutil.copytree(model_with_rules, tmp_path / "changed")
    file = changed / "tokenizer.json"
    state = json.loads(file.read_text("utf-8"))
    change(state)
    file.write_text(json.dumps(state), "utf-8")
    before, after = (load_embedder(str(path)) for path in (model_with_rules, changed))
    assert before.tokenizer.get_vocab() == after.tokenizer.get_vocab()
    assert model_fingerprint(before) != model_fingerprint(after)


def test_it_does_not_depend_on_the_folder_or_on_earlier_calls(model, tmp_path):
    first = load_embedder(model)
    expected = model_fingerprint(first)
    first.encode([sentence(0, 3), sentence(1, 9)])  # sets padding and truncation
    assert model_fingerprint(first) == expected
    first.tokenizer.save_pretrained(tmp_path / "copy")
    first.predictor.model.save_pretrained(tmp_path / "copy")
    assert model_fingerprint(load_embedder(str(tmp_path / "copy"))) == expected
