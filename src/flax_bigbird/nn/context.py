"""What one call of the model asks of every layer."""

from typing import NamedTuple


class Call(NamedTuple):
    """Static choices of a call; hashable, so that a rematerialised layer takes it as one argument.

    Attributes:
      deterministic: no dropout, and the evaluation pattern.
      output_attentions: return probabilities.
      init_cache: create the key-value cache, of the length of the input.
      prefill: the cache that is given is empty, so that the input attends to itself alone.
    """

    deterministic: bool = True
    output_attentions: bool = False
    init_cache: bool = False
    prefill: bool = False
