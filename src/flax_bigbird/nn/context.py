"""Per-call values that every layer receives: static options, and the attention inputs."""

import dataclasses
from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Int


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class CallOptions:
    """Static options of one call.

    The class is a pytree without leaves, so that `jax.checkpoint` and other transformations treat
    it as static, in any argument position.

    Attributes:
      deterministic: Whether to disable dropout and to use the evaluation pattern.
      output_attentions: Whether to return the attention probabilities.
      output_hidden_states: Whether to return the hidden states of every layer.
      init_cache: Whether to create the key-value cache, with the length of the input.
      prefill: Whether the key-value cache of the call is known to be empty. The input then attends
        only to itself.
    """

    deterministic: bool = True
    output_attentions: bool = False
    output_hidden_states: bool = False
    init_cache: bool = False
    prefill: bool = False


class AttentionInputs(NamedTuple):
    """Arrays that change which tokens attend to which, besides the key mask.

    Attributes:
      user_global: Booleans that are True at the tokens which the user makes global, or None. The
        blocks that hold such tokens become global.
      segment_ids: The example that each token of a packed row belongs to, and 0 at padding. Each
        segment starts at a multiple of the block size. None if every row is one example.
    """

    user_global: Bool[Array, "B T"] | None = None
    segment_ids: Int[Array, "B T"] | None = None
