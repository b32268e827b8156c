"""Several projections of the same hidden states, whose heads a mesh splits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_bigbird.attention import current_mesh_axes


def project_together(
    layers: tuple[nn.Dense, ...], x: Float[Array, "B T D"]
) -> tuple[Float[Array, "B T D"], ...]:
    """Returns what each of the layers computes of `x`.

    Where a mesh splits heads, each of the layers has a gradient of `x` that is a sum over devices.
    Here, the gradients are added up before they are summed over the devices.

    Args:
      layers: Dense layers with as many features each.
      x: The hidden states.
    """
    axes = current_mesh_axes()
    if axes is None or axes.heads is None or layers[0].is_initializing():
        return tuple(layer(x) for layer in layers)
    params = [layer.variables["params"] for layer in layers]
    x = jnp.asarray(x, layers[0].dtype)
    products = _products(x, tuple(jnp.asarray(p["kernel"], x.dtype) for p in params))
    return tuple(
        out + jnp.asarray(p["bias"], x.dtype) if "bias" in p else out
        for out, p in zip(products, params, strict=True)
    )


@jax.custom_vjp
def _products(
    x: Float[Array, "B T D"], kernels: tuple[Float[Array, "D F"], ...]
) -> tuple[Float[Array, "B T F"], ...]:
    return tuple(jnp.einsum("btd,df->btf", x, kernel) for kernel in kernels)


def _forward(x: Array, kernels: tuple[Array, ...]):
    return _products(x, kernels), (x, kernels)


def _backward(saved: tuple[Array, tuple[Array, ...]], d_out: tuple[Array, ...]):
    x, kernels = saved
    d_x = jnp.einsum("btsf,dsf->btd", jnp.stack(d_out, 2), jnp.stack(kernels, 1))
    return d_x, tuple(jnp.einsum("btd,btf->df", x, d) for d in d_out)


_products.defvjp(_forward, _backward)
