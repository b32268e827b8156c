"""The activation functions that `config.hidden_act` can name."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

_gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)
_gelu_exact = functools.partial(jax.nn.gelu, approximate=False)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _gelu_exact,
    "gelu_10": lambda x: jnp.clip(_gelu_exact(x), -10.0, 10.0),
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_python": _gelu_exact,
    "leaky_relu": jax.nn.leaky_relu,
    "linear": lambda x: x,
    "mish": jax.nn.mish,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def activation(name: str) -> Callable[[Array], Array]:
    """Returns the activation function of that name.

    Raises:
      ValueError: If the name is unknown; the message lists the known names.
    """
    if name not in ACTIVATIONS:
        raise ValueError(
            f"config.hidden_act must be one of {', '.join(sorted(ACTIVATIONS))}; got {name!r}"
        )
    return ACTIVATIONS[name]
