"""Parity with the PyTorch port, without PyTorch: its files, its numbers, its gradients."""

import json

import numpy as np
import pytest
from golden_format import read_calls
from parity_tools import (
    GOLDENS,
    call_id,
    close,
    close_gradients,
    golden_calls,
    gradients,
    named_outputs,
    open_call,
    run,
)

from flax_bigbird.attention import random_blocks

PORT = GOLDENS / "hf_torch"
CALLS = golden_calls("hf_torch")
GRADIENTS = [c for c in CALLS if read_calls(c[0])[c[1]]["grad"]]
DRAWS = json.loads((PORT / "random_blocks.json").read_text())


@pytest.mark.parametrize(("folder", "name"), CALLS, ids=call_id)
def test_outputs(folder, name):
    call = read_calls(folder)[name]
    kwargs = {k: v for k, v in call["kwargs"].items() if k != "use_cache"}
    model, params = open_call(folder, call)
    output = named_outputs(run(model, params, call["in"], **kwargs))
    theirs = dict(call["out"])
    if call["class"] == "BigBirdForQuestionAnswering":
        theirs["pooled_output"] = theirs.pop("pooler_output")  # the Flax name
    if call["class"] == "BigBirdForCausalLM":
        theirs.pop("pooler_output", None)
    assert set(output) == set(theirs)
    length = call["in"]["input_ids"].shape[-1]
    for key, value in theirs.items():
        if key.startswith("hidden_states/"):
            value = value[:, :length]  # HF-Torch leaves all but the last padded (defect 12)
        close(output[key], value, key)


@pytest.mark.parametrize(("folder", "name"), GRADIENTS, ids=call_id)
def test_gradients(folder, name):
    call = read_calls(folder)[name]
    model, params = open_call(folder, call)
    ours = gradients(model, params, call["in"], train=call["kwargs"]["train"])
    close_gradients(ours, call["grad"], pad=model.config.pad_token_id)


@pytest.mark.parametrize("name", DRAWS)
def test_random_blocks_of_training(name):
    """The arrays that HF-Torch draws in training mode, layer by layer."""
    case = DRAWS[name]
    num_blocks = -(-case["length"] // case["block_size"])
    with np.load(PORT / "random_blocks.npz") as drawn:
        for layer in range(3):
            ours = random_blocks.hf_training(
                num_blocks,
                case["block_size"],
                case["num_random_blocks"],
                case["num_attention_heads"],
                layer,
                case["max_position_embeddings"],
            )
            np.testing.assert_array_equal(ours[:, 1:-1], drawn[f"{layer}/{name}"])
            assert (ours[:, [0, -1]] == -1).all()  # rows 0 and M-1 read everything


def test_rows_with_too_few_blocks_to_draw_from():
    """HF-Torch raises in training at T = 4096, W = 256; here a row reads what there is."""
    ours = random_blocks.hf_training(16, 256, 1, 1, 0, 4096)
    eligible = [{j for j in range(1, 4) if abs(i - j) > 1 or i >= 13} for i in range(16)]
    for i in range(1, 15):
        assert set(ours[0, i]) <= (eligible[i] or {-1})
    assert ours[0, 2, 0] == -1
