"""Everything a run of the demo depends on, but for the texts."""

from dataclasses import dataclass, field, replace
from typing import Any

from flax_bigbird.pretrained import DEFAULT_MODEL


@dataclass(frozen=True)
class Settings:
    """What is fine-tuned, on how much.

    Attributes:
      model: to start from; its tokenizer, and its size, are those of a model from scratch too.
      from_scratch: with random parameters.
      window: tokens of the windows to train on; short ones are more examples in the same time.
      steps: of `batch` windows each.
      length: tokens read at once afterwards, beside `window`.
      every: of the years, whose speeches are read; 1: all.
      characters: of a speech, that are read; None: all.
    """

    seed: int = 0
    model: str = DEFAULT_MODEL
    from_scratch: bool = False
    window: int = 512
    batch: int = 16
    steps: int = 100
    learning_rate: float = 5e-4
    length: int = 4096
    every: int = 1
    characters: int | None = None
    more: dict[str, Any] = field(default_factory=dict)  # further options of the training run

    def with_changes(self, **changes: Any) -> "Settings":
        """These settings with some others."""
        return replace(self, **changes)


def quick_settings(seed: int) -> Settings:
    """A run of seconds that goes through every step and learns nothing."""
    return Settings(seed=seed, window=128, batch=2, steps=2, length=256, every=4, characters=2000)
