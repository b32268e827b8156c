"""Adds layers to a trained model, whose outputs stay nearly the same.

python add_layers.py final deeper texts.parquet --layers 8

The new layers are spread evenly between those of the model. Their two output matrices are zero, and
their layer normalizations have the mean and the standard deviation, over the hidden size, of what
they read in the given texts, so that they start close to the identity. Training a model that has
been made deeper costs less than training a deep one from the start.
"""

import argparse
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from checks import read_texts
from transformers import AutoTokenizer

from flax_bigbird import FlaxBigBirdForMaskedLM

LENGTH, TEXTS = 512, 16  # what the means and standard deviations are measured on


def sources(layers: int, new_layers: int) -> list[int]:
    """Returns the index of the old layer that each layer is, or comes after."""
    return [index * layers // new_layers for index in range(new_layers)]


def hidden_statistics(model: Any, tokenizer: Any, texts: list[str]) -> list[tuple[float, float]]:
    """Returns the means and standard deviations of the outputs of every layer of a model."""
    batch = tokenizer(
        texts, truncation=True, max_length=LENGTH, padding="max_length", return_tensors="np"
    )
    inputs = batch["input_ids"], batch["attention_mask"]
    states = model(*inputs, output_hidden_states=True).hidden_states[1:]
    rows = [np.asarray(state, np.float32)[batch["attention_mask"] == 1] for state in states]
    return [(float(row.mean()), float(row.std(axis=1).mean())) for row in rows]


def start_as_identity(layer: dict[str, Any], mean: float, deviation: float) -> None:
    """Changes a layer that reads rows of this mean and standard deviation into the identity."""
    for part in (layer["attention"]["output"], layer["output"]):
        part["dense"] = {name: jnp.zeros_like(value) for name, value in part["dense"].items()}
        shape = part["LayerNorm"]["bias"].shape
        part["LayerNorm"] = {"scale": jnp.full(shape, deviation), "bias": jnp.full(shape, mean)}


def add_layers(model: Any, tokenizer: Any, texts: list[str], layers: int) -> Any:
    """Returns a deeper model, with parameters in float32.

    Args:
      model: A masked language model.
      tokenizer: Its tokenizer.
      texts: Texts of at least `LENGTH` tokens that the model was trained on.
      layers: The number of layers, more than the model has.
    """
    old_layers = model.config.num_hidden_layers
    if layers <= old_layers:
        raise ValueError(f"layers must be more than the model's {old_layers}; got {layers}")
    statistics = hidden_statistics(model, tokenizer, texts)
    config = type(model.config)(**{**model.config.to_dict(), "num_hidden_layers": layers})
    deeper = FlaxBigBirdForMaskedLM(config, seed=1)
    params = model.to_fp32(model.params)
    old = params["bert"]["encoder"]["layer"]
    new = deeper.params["bert"]["encoder"]["layer"]
    order = sources(old_layers, layers)
    for index, source in enumerate(order):
        if index == 0 or order[index - 1] != source:
            new[str(index)] = old[str(source)]
        else:
            start_as_identity(new[str(index)], *statistics[source])
    deeper.params = {**params, "bert": {**params["bert"], "encoder": {"layer": new}}}
    return deeper


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model", help="a folder")
    parser.add_argument("target", type=Path, help="the folder to write to")
    parser.add_argument("texts", help='a Parquet file with a column "text"')
    parser.add_argument("--layers", type=int, default=8)
    arguments = parser.parse_args()
    texts = read_texts(arguments.texts, TEXTS)
    model = FlaxBigBirdForMaskedLM.from_pretrained(arguments.model)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    add_layers(model, tokenizer, texts, arguments.layers).save_pretrained(arguments.target)
    tokenizer.save_pretrained(arguments.target)


if __name__ == "__main__":
    main()
