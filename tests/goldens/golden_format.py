"""How goldens are written and read: one folder a model, one `calls.npz` and `calls.json` in it.

`calls.json` maps a call's name to `class` (without the `Flax`), `overrides` (of the folder's
config.json), `model_kwargs` (of the constructor) and `kwargs` (of the call). `calls.npz` holds
`CALL/in/NAME` and `CALL/out/NAME`; a tuple of arrays is `NAME/0`, `NAME/1`, ... Gradients are
`CALL/grad/PARAMETER`. NumPy only: the makers run in environments of their own.
"""

import json
import pathlib
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).parent


class Recorder:
    """Collects calls of one folder and writes them."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.calls: dict[str, Any] = {}
        self.arrays: dict[str, np.ndarray] = {}

    def add(self, name, *, cls, overrides, kwargs, inputs, outputs, model_kwargs=None, grads=None):
        """One call: `inputs` and `outputs` map names to arrays, or to tuples of arrays."""
        assert name not in self.calls, name
        self.calls[name] = {
            "class": cls,
            "overrides": overrides,
            "model_kwargs": model_kwargs or {},
            "kwargs": kwargs,
        }
        for kind, fields in (("in", inputs), ("out", outputs), ("grad", grads or {})):
            for field, value in fields.items():
                parts = value if isinstance(value, tuple | list) else None
                named = (
                    {field: value}
                    if parts is None
                    else {f"{field}/{i}": part for i, part in enumerate(parts)}
                )
                for key, array in named.items():
                    array = np.asarray(array)
                    if np.issubdtype(array.dtype, np.floating):
                        assert np.isfinite(array).all(), (name, key)
                        array = array.astype(np.float32)
                    elif np.issubdtype(array.dtype, np.integer):
                        array = array.astype(np.int32)
                    self.arrays[f"{name}/{kind}/{key}"] = array

    def write(self):
        """Writes `calls.json` and `calls.npz` (the same bytes for the same arrays)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.calls, indent=1, sort_keys=True) + "\n"
        (self.folder / "calls.json").write_text(text)
        arrays: dict[str, Any] = self.arrays
        np.savez_compressed(self.folder / "calls.npz", **arrays)


def read_calls(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """`{call: {class, overrides, model_kwargs, kwargs, in, out, grad}}` of a folder."""
    calls = json.loads((folder / "calls.json").read_text())
    for call in calls.values():
        call.update({"in": {}, "out": {}, "grad": {}})
    with np.load(folder / "calls.npz") as arrays:
        for path in arrays.files:
            name, kind, key = path.split("/", 2)
            calls[name][kind][key] = arrays[path]
    return calls


def token_inputs(
    seed: int,
    batch: int,
    length: int,
    vocab: int,
    *,
    mask: str = "both",
    types: bool = True,
    choices: int = 0,
) -> dict[str, np.ndarray]:
    """Random ids with a mask that is "none", "pad" (right padding), "holes" or "both".

    The first document of "pad" is full, the second ends at 0.7 of the length. The first token is
    never masked.
    """
    rng = np.random.RandomState(seed)
    shape = (batch, choices, length) if choices else (batch, length)
    ids = rng.randint(1, vocab, shape)
    real = np.ones(shape, np.int32)
    if mask in ("holes", "both"):
        real[rng.random_sample(shape) < 0.15] = 0
    if mask in ("pad", "both"):
        real[1::2, ..., int(0.7 * length) :] = 0
    real[..., 0] = 1
    out: dict[str, np.ndarray] = {"input_ids": ids}
    if mask != "none":
        out["attention_mask"] = real
    if types:
        out["token_type_ids"] = rng.randint(0, 2, shape)
    return out


def cotangent(shape: tuple[int, ...]) -> np.ndarray:
    """The fixed weights that turn an output into the scalar whose gradient is recorded."""
    size = int(np.prod(shape))
    return np.cos(0.7 * np.arange(size)).reshape(shape).astype(np.float32)
