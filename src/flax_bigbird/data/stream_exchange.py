"""Moves windows between the readers of a stream, which may be in different processes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax_bigbird.data.stream_reader import Reader
from flax_bigbird.data.stream_schedule import Move, Windows, divide_moves

ExchangeFn = Callable[[Callable[[], Any]], list[Any]]
"""Calls a function in every process, and returns what it returns in each of them."""

MAX_TOKENS_PER_ROUND = 2**23
"""How many tokens all processes together exchange at once: each of them receives all, 32 MB."""


def exchange_windows(
    readers: Mapping[int, Reader],
    num_readers: int,
    moves: Sequence[Move],
    lengths: Sequence[int],
    exchange: ExchangeFn,
) -> None:
    """Moves windows between readers. Every process calls it with the same moves.

    Args:
      readers: The readers of this process, by their index. Several processes may have a reader, if
        each of them needs its rows.
      num_readers: The number of readers of all processes.
      moves: The moves.
      lengths: `[buckets]`, the maximum number of tokens of a window.
      exchange: The function by which the processes exchange them.
    """
    for of_round in divide_moves(moves, lengths, MAX_TOKENS_PER_ROUND // num_readers):

        def give(of_round: list[Move] = of_round) -> dict[int, Windows]:
            return {
                number: readers[move.giver].give(move.bucket, move.num_windows)
                for number, move in enumerate(of_round)
                if move.giver in readers
            }

        given: dict[int, Windows] = {}
        for of_process in exchange(give):
            given |= of_process
        for number, move in enumerate(of_round):
            if move.receiver in readers:
                readers[move.receiver].receive(move.bucket, given[number])
