"""Texts, files and small untrained checkpoints that the tests of inference share."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tiny_models import random_params

import flax_bigbird
from flax_bigbird._transformers import bigbird_config_class
from flax_bigbird.data.vocabulary import save_vocabulary, train_vocabulary

TEXT = "the cow grazes in a green meadow while a ship leaves the grey harbour at noon"
LABELS = {0: "meadow", 1: "harbour", 2: "neither"}
POSITIONS = 64


def sentence(seed: int, num_words: int) -> str:
    """Returns random words; the same seed gives the same words."""
    return " ".join(np.random.default_rng(seed).choice(TEXT.split(), num_words))


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


class Checkpoints:
    """Writes untrained models with a tokenizer, each once."""

    def __init__(self, folder: Path):
        self._folder = folder
        texts = [sentence(seed, 40) for seed in range(50)]
        self._vocabulary = train_vocabulary(texts, 60, allow_fewer=True)

    def __call__(self, model_class: str, **changes: Any) -> str:
        """Returns the folder of a checkpoint with the given head and changes of its config."""
        target = self._folder / (model_class + "-".join(map(str, changes.values())))
        if not target.exists():
            config = {
                "vocab_size": 64,
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 64,
                "block_size": 8,
                "num_random_blocks": 1,
                "max_position_embeddings": POSITIONS,
                "initializer_range": 0.3,
                "random_attention": "fixed",
                "id2label": LABELS,
                **changes,
            }
            bigbird_config = bigbird_config_class()(**config)
            # Parameters from NumPy: to compile the initializers takes longer than most tests.
            model = getattr(flax_bigbird, model_class)(bigbird_config, _do_init=False)
            model.save_pretrained(target, params=random_params(model, seed=1))
            save_vocabulary(self._vocabulary, target, POSITIONS)
        return str(target)
