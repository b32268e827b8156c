"""Dropout whose mask is a hash of the element's index, so that no mask is ever stored."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


class Dropout(nn.Module):
    """Zeroes elements with probability `rate` and divides the others by 1 - `rate`.

    The module draws from the "dropout" stream, as `flax.linen.Dropout` does. There, JAX's generator
    takes about as long as one of the layer's matmuls on a CPU, and its bits are written to memory
    and read again. A hash of two words of the key and of the element's index is instead fused into
    the multiplication by the mask, in the forward and the backward pass, and needs no communication
    between devices.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        """Returns `x` with dropout, or `x` itself if `deterministic` is True."""
        if deterministic or self.rate == 0:
            return x
        if self.rate == 1:
            return jnp.zeros_like(x)
        keep = keep_mask(self.make_rng("dropout"), x.shape, self.rate)
        return jnp.where(keep, x / jnp.asarray(1 - self.rate, x.dtype), jnp.zeros((), x.dtype))


def keep_mask(key: Array, shape: tuple[int, ...], rate: float) -> Bool[Array, "..."]:
    """Returns a mask that is True with probability 1 - `rate` (to within 2^-32).

    The elements are independent of each other, and masks of different keys are independent too.
    """
    words = jax.random.bits(key, (2,), jnp.uint32)
    index = jnp.zeros(shape[:-1] or (1,), jnp.uint32)
    for axis, size in enumerate(shape[:-1]):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, index.shape, axis)
    row = _mix(index + words[0])[..., None]
    column = jax.lax.broadcasted_iota(jnp.uint32, shape or (1,), max(len(shape) - 1, 0))
    drawn = _mix(row ^ (column * jnp.uint32(0x9E3779B9) + words[1]))
    return (drawn >= jnp.uint32(round(rate * 2**32))).reshape(shape)


def _mix(x: Array) -> Array:
    """Applies a bijection of 32-bit words in which every output bit depends on every input bit.

    The constants are those of C. Wellons, "Prospecting for hash functions" (2018), with the lowest
    bias that was found there.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
