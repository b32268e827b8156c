"""The name under which attention saves what its backward pass needs.

`jax.checkpoint_policies.save_only_these_names(RESIDUALS)` keeps these arrays when a layer is
rematerialized, so that attention is not computed a second time.
"""

from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

RESIDUALS = "flax_bigbird_attention"


def name_residuals(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Marks arrays with the name `RESIDUALS`."""
    return tuple(checkpoint_name(x, RESIDUALS) for x in arrays)
