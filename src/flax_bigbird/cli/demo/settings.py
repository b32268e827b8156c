"""Everything a run of the demo depends on, but for the texts."""

from dataclasses import dataclass, field, replace
from typing import Any

from flax_bigbird._shipped import DEFAULT_MODEL


@dataclass(frozen=True)
class Settings:
    """What is fine-tuned, on how much.

    Attributes:
      model: to start from; its tokenizer, and its size, are those of a model from scratch too.
      from_scratch: with random parameters.
      steps: of `batch` windows of `length` tokens each.
      short: tokens of the short reading that the long one is compared with.
      every: of the years, whose speeches are read; 1: all.
      characters: of a speech, that are read; None: all.
    """

    seed: int = 0
    model: str = DEFAULT_MODEL
    from_scratch: bool = False
    length: int = 4096
    batch: int = 2
    steps: int = 75
    learning_rate: float = 5e-4
    short: int = 512
    every: int = 1
    characters: int | None = None
    more: dict[str, Any] = field(default_factory=dict)  # further options of the training run

    def with_changes(self, **changes: Any) -> "Settings":
        """These settings with some others."""
        return replace(self, **changes)


def quick_settings(seed: int) -> Settings:
    """A run of seconds that goes through every step and learns nothing."""
    return Settings(seed=seed, length=256, batch=2, steps=2, short=128, every=4, characters=2000)
