"""What the demo trains on, and what it shows at the end."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from flax_bigbird.cli import demo as demo_command
from flax_bigbird.examples.state_of_the_union import demo
from flax_bigbird.examples.state_of_the_union.speeches import LABELS, Speech


def speech(text):
    return Speech("1790-A-1", 1790, text)


def test_excerpts_are_spread_over_a_speech():
    text = "".join(chr(ord("a") + n // 100) for n in range(1000))  # 100 of each letter
    settings = demo.Settings(num_excerpts=3, excerpt_characters=100)
    (cut,) = demo.with_excerpts([speech(text)], settings)
    first, middle, last = cut.text.split(" ")
    assert (first, last) == ("a" * 100, "j" * 100)
    assert middle == text[450:550]
    assert (cut.name, cut.year) == ("1790-A-1", 1790)


@pytest.mark.parametrize("settings", [{"num_excerpts": None}, {"num_excerpts": 10}])
def test_a_short_speech_is_whole(settings):
    whole = speech("word " * 200)
    settings = demo.Settings(excerpt_characters=100, **settings)
    assert demo.with_excerpts([whole], settings) == [whole]


def test_it_ends_with_what_to_type_next(tmp_path):
    report = {
        "rows": [{"name": "guess", "right": 1, "total": 2, "accuracy": 0.5}],
        "prediction": {
            "speech": "1790-A-1",
            "predicted": LABELS[0],
            "probabilities": dict.fromkeys(LABELS, 0.1),
        },
        "seconds": {"total": 61.2},
    }
    shown = io.StringIO()
    demo_command._show(report, Path("demo-out"), Console(file=shown, width=200))
    lines = [line.strip() for line in shown.getvalue().splitlines()]
    assert "bigbird predict demo-out speeches.jsonl --output answers.jsonl" in lines
    (command,) = [line for line in lines if line.startswith("bigbird train sequence")]
    assert command.split()[:3] == ["bigbird", "train", "sequence-classification"]
    assert 'dates texts of yours, one {"text": "..."} per line' in lines
