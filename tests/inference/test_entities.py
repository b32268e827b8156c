"""Entities of texts and of lists of words, with their characters."""

import numpy as np
import pytest
from tiny_checkpoints import sentence

from flax_bigbird.data.errors import OptionError
from flax_bigbird.tasks.tag_schemes import group_words

TAGGER = "FlaxBigBirdForTokenClassification"
TAGS = {0: "O", 1: "B-PER", 2: "I-PER"}
TEXT = "the cow, " + sentence(3, 20) + " (the ship)"

# The vocabulary of the checkpoint has no punctuation.
pytestmark = pytest.mark.filterwarnings("ignore::flax_bigbird.data.errors.UnknownTokensWarning")


@pytest.fixture(scope="module")
def tagger(make_checkpoint):
    from flax_bigbird.inference import load_predictor

    def load(**options):
        return load_predictor(make_checkpoint(TAGGER, id2label=TAGS), **options)

    return load


def test_words_of_a_text_have_offsets(tagger):
    answer = tagger()(TEXT)
    assert answer["words"][:4] == ["the", "cow", ",", sentence(3, 1)]
    assert [TEXT[start:end] for start, end in answer["offsets"]] == answer["words"]
    assert len(answer["tags"]) == len(answer["words"])
    # A row of the same words has the same tags, and neither words nor offsets.
    assert tagger()({"tokens": answer["words"]}) == {
        name: answer[name] for name in ("tags", "scores")
    }


def test_entities_are_grouped(tagger):
    answer = tagger()(TEXT)
    groups = group_words(answer["tags"], "IOB2")
    assert groups
    result = tagger(aggregation="simple")(TEXT)
    assert list(result) == ["entities"]
    for entity, (entity_type, first, last) in zip(result["entities"], groups, strict=True):
        assert list(entity) == ["entity_group", "score", "word", "start", "end"]
        assert entity["entity_group"] == entity_type
        assert entity["score"] == pytest.approx(np.mean(answer["scores"][first:last]))
        assert entity["start"] == answer["offsets"][first][0]
        assert entity["end"] == answer["offsets"][last - 1][1]
        assert entity["word"] == TEXT[entity["start"] : entity["end"]]


def test_entities_of_words_have_the_characters_of_the_joined_words(tagger):
    words = sentence(3, 20).split()
    (tags,) = (tagger()({"tokens": words})["tags"],)
    entities = tagger(aggregation="simple")({"tokens": words})["entities"]
    groups = group_words(tags, "IOB2")
    assert [entity["word"] for entity in entities] == [" ".join(words[a:b]) for _, a, b in groups]
    text = " ".join(words)
    assert all(text[e["start"] : e["end"]] == e["word"] for e in entities)
    assert tagger(aggregation="simple")({"tokens": []}) == {"entities": []}


def test_an_unknown_aggregation(tagger):
    with pytest.raises(OptionError, match="aggregation must be one of none, simple; got 'first'"):
        tagger(aggregation="first")
