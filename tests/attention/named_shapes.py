"""The shapes that attention is tested and timed at, by name."""

from typing import NamedTuple


class Shape(NamedTuple):
    """The letters of the package: batch, tokens, heads, head width, block size, random blocks."""

    B: int
    T: int
    N: int
    H: int
    W: int
    R: int

    @property
    def M(self) -> int:
        """The number of blocks; the last one may be part full."""
        return -(-self.T // self.W)


TESTED = {
    "one_token": Shape(B=2, T=1, N=2, H=4, W=4, R=1),
    "one_block": Shape(B=2, T=4, N=2, H=4, W=4, R=1),
    "two_blocks": Shape(B=2, T=8, N=2, H=4, W=4, R=1),
    "three_blocks": Shape(B=2, T=11, N=1, H=4, W=4, R=2),
    "four_blocks": Shape(B=1, T=16, N=2, H=4, W=4, R=2),
    "blocks_of_one": Shape(B=2, T=13, N=2, H=3, W=1, R=2),
    "odd_sizes": Shape(B=3, T=63, N=3, H=5, W=7, R=2),
    "ragged": Shape(B=2, T=45, N=2, H=8, W=4, R=3),
    "no_random": Shape(B=2, T=40, N=2, H=8, W=4, R=0),
    "bigbird": Shape(B=2, T=64, N=2, H=8, W=4, R=3),
}

# The width of the published base model.
TIMED = {
    "base_1024": Shape(B=1, T=1024, N=12, H=64, W=64, R=3),
    "base_4096": Shape(B=1, T=4096, N=12, H=64, W=64, R=3),
    "base_16384": Shape(B=1, T=16384, N=12, H=64, W=64, R=3),
}
