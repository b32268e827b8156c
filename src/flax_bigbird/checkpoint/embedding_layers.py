"""The layers that sentence-transformers applies to the vector of a text, after pooling."""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import special

IDENTITY = "torch.nn.modules.linear.Identity"

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "torch.nn.modules.activation.Tanh": np.tanh,
    IDENTITY: lambda x: x,
    "torch.nn.modules.activation.ReLU": lambda x: np.maximum(x, 0),
    "torch.nn.modules.activation.GELU": lambda x: x * special.ndtr(x),
    "torch.nn.modules.activation.Sigmoid": special.expit,
}
DEFAULT_ACTIVATION = "torch.nn.modules.activation.Tanh"


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """A layer after pooling: activation(x W^T + b), and plus x or x R^T with a residual.

    Attributes:
      weight: W, `[out, in]`.
      bias: b, `[out]`, or None.
      activation: The name of the activation's class in PyTorch.
      residual: R, `[out, in]`; or True for x itself, and False for none.
    """

    weight: np.ndarray
    bias: np.ndarray | None = None
    activation: str = DEFAULT_ACTIVATION
    residual: np.ndarray | bool = False

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Returns vectors `[N, out]` for vectors `[N, in]`."""
        linear = vectors @ self.weight.T
        out = ACTIVATIONS[self.activation](linear if self.bias is None else linear + self.bias)
        if isinstance(self.residual, np.ndarray):
            return out + vectors @ self.residual.T
        return out + vectors if self.residual else out


@dataclasses.dataclass(frozen=True)
class Normalize:
    """A layer after pooling that scales each vector to length 1."""

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Returns vectors `[N, D]` of length 1; zeros stay zeros."""
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
