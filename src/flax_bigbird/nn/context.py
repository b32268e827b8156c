"""What one call of the model asks of every layer."""

from typing import Any, NamedTuple


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


class Reading(NamedTuple):
    """What the documents of a call say about who reads whom, beside the key mask.

    Attributes:
      chosen: `[B, T]` booleans, tokens whose blocks are global too; or None.
      segments: `[B, T]` numbers of the documents that share a row, 0 for none, each beginning at
        a block; or None: a row is a document.
    """

    chosen: Any = None
    segments: Any = None


NOTHING_SAID = Reading()
