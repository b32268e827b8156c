"""Makes `torch_bin/`: files written by `torch.save`, and what is in them.

    pip install "flax-bigbird[parity]"
    python tests/goldens/make_torch_bin.py

`zip.bin` and `stream.bin` hold the same tensors in PyTorch's two formats, `values.npz` their values
(bfloat16 as float32) and `dtypes.json` their types. `old_masked_lm/` is a tiny masked language
model as files of 2021 were: gamma and beta, buffers, copies of tied weights, a pooler.
"""

import json
import re

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from golden_format import HERE
from transformers import BigBirdConfig, BigBirdForMaskedLM

OUT = HERE / "torch_bin"


def odd_tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 7
    state = {
        "plain": base.clone(),
        "transposed": base.T,
        "part": base[1:3, ::2],
        "again": base,
        "row": base[2],
        "expanded": torch.tensor([[1.5], [2.5]]).expand(2, 3),
        "scalar": torch.tensor(3.25),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base[:2] + 1),
        "bool": torch.tensor([True, False, True]),
    }
    for name in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"):
        state[name] = (torch.arange(5) * 3).to(getattr(torch, name))
    return state


def old_masked_lm() -> None:
    config = BigBirdConfig(
        vocab_size=12,
        hidden_size=4,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=6,
        max_position_embeddings=16,
        block_size=2,
        num_random_blocks=1,
        sep_token_id=3,
    )
    model = BigBirdForMaskedLM(config)
    rng = np.random.RandomState(0)
    for _, leaf in sorted(model.named_parameters()):
        leaf.data.copy_(torch.tensor(rng.standard_normal(tuple(leaf.shape)), dtype=leaf.dtype))
    state = {}
    for name, leaf in model.state_dict().items():
        name = re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", name)
        state[re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name)] = leaf
    state["bert.embeddings.position_ids"] = torch.arange(16)[None]
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    state["bert.pooler.weight"] = torch.ones(4, 4)
    state["bert.pooler.bias"] = torch.ones(4)
    folder = OUT / "old_masked_lm"
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    torch.save(state, folder / "pytorch_model.bin")


def main() -> None:
    OUT.mkdir(exist_ok=True)
    state = odd_tensors()
    torch.save(state, OUT / "zip.bin")
    torch.save(state, OUT / "stream.bin", _use_new_zipfile_serialization=False)
    values = {
        name: (x.float() if x.dtype == torch.bfloat16 else x).detach().numpy()
        for name, x in state.items()
    }
    np.savez_compressed(OUT / "values.npz", **values)
    dtypes = {name: str(x.dtype).removeprefix("torch.") for name, x in state.items()}
    (OUT / "dtypes.json").write_text(json.dumps(dtypes, indent=1) + "\n")
    old_masked_lm()
    print("torch", torch.__version__)


if __name__ == "__main__":
    main()
