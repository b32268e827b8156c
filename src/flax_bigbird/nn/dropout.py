"""Dropout whose mask is a hash of the element's place: computed where it is used, never stored."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


class Dropout(nn.Module):
    """Zeroes elements with probability `rate` and divides the others by 1 - `rate`.

    Draws from the "dropout" stream, as `flax.linen.Dropout`. There, JAX's generator takes about as
    long as a matmul of the layer on a CPU, and its bits are written out and read again; a hash of
    two words of the key and the element's place is fused into what is multiplied by the mask,
    forward and backward, and needs no communication between devices.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, deterministic: bool) -> Array:
        if deterministic or self.rate == 0:
            return x
        if self.rate == 1:
            return jnp.zeros_like(x)
        keep = keep_mask(self.make_rng("dropout"), x.shape, self.rate)
        return jnp.where(keep, x / jnp.asarray(1 - self.rate, x.dtype), jnp.zeros((), x.dtype))


def keep_mask(key: Array, shape: tuple[int, ...], rate: float) -> Bool[Array, "..."]:
    """True with probability 1 - `rate` (to 2^-32), independently for each element and key."""
    words = jax.random.bits(key, (2,), jnp.uint32)
    place = jnp.zeros(shape[:-1] or (1,), jnp.uint32)
    for axis, size in enumerate(shape[:-1]):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, place.shape, axis)
    row = _mix(place + words[0])[..., None]
    column = jax.lax.broadcasted_iota(jnp.uint32, shape or (1,), max(len(shape) - 1, 0))
    drawn = _mix(row ^ (column * jnp.uint32(0x9E3779B9) + words[1]))
    return (drawn >= jnp.uint32(round(rate * 2**32))).reshape(shape)


def _mix(x: Array) -> Array:
    """A bijection of 32-bit words in which every bit depends on every other.

    Constants by C. Wellons, "Prospecting for hash functions" (2018), the lowest bias found.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
