"""Everything a run of the demo depends on, but for the texts."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Stage:
    """`steps` of training on random windows of `length` tokens, `batch` speeches at a time."""

    length: int
    batch: int
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Settings:
    """The model's size and its training: short windows first, since long ones alone learn slowly.

    At the start attention averages over all it reads; the share of a telling word in that average
    falls with the length, and the gradient with it.
    """

    seed: int = 0
    pieces: int = 8000
    hidden_size: int = 128
    layers: int = 2
    heads: int = 4
    mlp_size: int = 256
    block_size: int = 16
    random_blocks: int = 3
    masked_share: float = 0.1  # of the input tokens, replaced by [MASK] in training
    blur_years: float = 3.0  # the classes' borders are arbitrary: targets are blurred across them
    short: Stage = Stage(length=512, batch=4, steps=1000, learning_rate=6e-4)
    long: Stage = Stage(length=4096, batch=4, steps=90, learning_rate=3e-4)

    @property
    def stages(self) -> tuple[Stage, Stage]:
        return self.short, self.long

    def with_steps(self, short: int | None, long: int | None) -> "Settings":
        """These settings with other numbers of steps; None keeps one."""
        return replace(
            self,
            short=replace(self.short, steps=self.short.steps if short is None else short),
            long=replace(self.long, steps=self.long.steps if long is None else long),
        )


def quick_settings(seed: int) -> Settings:
    """A run of seconds that goes through every step and learns nothing."""
    return Settings(
        seed=seed,
        pieces=1000,
        hidden_size=16,
        layers=1,
        heads=2,
        mlp_size=32,
        block_size=8,
        random_blocks=1,
        short=Stage(length=64, batch=2, steps=2, learning_rate=1e-3),
        long=Stage(length=128, batch=2, steps=2, learning_rate=1e-3),
    )
