"""Makes `hf_torch/`: checkpoints written by the PyTorch BigBird, what it computes, gradients.

    pip install "flax-bigbird[parity]"
    python tests/goldens/make_hf_torch.py

A gradient is that of `sum(output * golden_format.cotangent(output.shape))`, summed over the task's
own outputs. `random_blocks.npz` holds the blocks drawn in training mode, `LAYER/NAME` of
`[N, M-2, R]`, for the lengths, block sizes and tables that `random_blocks.json` names. The output
depends on nothing but this file and the versions it prints.
"""

import json
import pathlib
import shutil

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers
from golden_format import HERE, Recorder, cotangent, token_inputs
from transformers import BigBirdConfig
from transformers.models.big_bird import modeling_big_bird

OUT = HERE / "hf_torch"
VOCAB = 70
FULL = {"attention_type": "original_full"}
STATES = {"output_hidden_states": True}
PROBS = {"output_hidden_states": True, "output_attentions": True}


def config(**changes) -> BigBirdConfig:
    base = {
        "vocab_size": VOCAB,
        "hidden_size": 24,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "intermediate_size": 37,
        "max_position_embeddings": 40,
        "block_size": 4,
        "num_random_blocks": 1,
        "initializer_range": 0.2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    out = BigBirdConfig(**(base | changes))
    out._attn_implementation = "eager"
    return out


def randomise(model, seed: int):
    """Kernels, tables and biases around 0, LayerNorm scales around 1, drawn by NumPy."""
    rng = np.random.RandomState(seed)
    with torch.no_grad():
        for name, leaf in sorted(model.named_parameters()):
            noise = 0.2 * rng.standard_normal(tuple(leaf.shape))
            scale = name.endswith("LayerNorm.weight")
            leaf.copy_(torch.tensor(noise + scale, dtype=torch.float32))


class Maker:
    """One folder: a model, its saved checkpoint and its calls."""

    def __init__(self, folder, cls, seed, model_kwargs=None, **changes):
        self.cls, self.changes, self.model_kwargs = cls, changes, model_kwargs or {}
        model = self.build({})
        randomise(model, seed)
        self.state = model.state_dict()
        self.recorder = Recorder(OUT / folder)
        model.save_pretrained(OUT / folder)

    def build(self, overrides):
        # A new model for every call: a short batch would switch an old one to full attention
        # (and its probabilities are then not recorded: those calls ask for full attention).
        cls = getattr(transformers, self.cls)
        model = cls(config(**(self.changes | overrides)), **self.model_kwargs)
        if hasattr(self, "state"):
            model.load_state_dict(self.state)
        return model.eval()

    def call(self, name, inputs, overrides=None, *, train=False, gradient=False, **kwargs):
        model = self.build(overrides or {}).train(train)
        tensors = {key: torch.tensor(value) for key, value in inputs.items()}
        output = model(**tensors, **kwargs)
        fields = {
            key: tuple(part.detach().numpy() for part in value)
            if isinstance(value, tuple)
            else value.detach().numpy()
            for key, value in output.items()
            if isinstance(value, torch.Tensor | tuple) and len(value)
        }
        grads = {}
        if gradient:
            own = [value for value in output.values() if isinstance(value, torch.Tensor)]
            losses = [(x * torch.tensor(cotangent(tuple(x.shape)))).sum() for x in own]
            sum(losses, start=torch.zeros(())).backward()
            grads = {k: p.grad.numpy() for k, p in model.named_parameters() if p.grad is not None}
        self.recorder.add(
            name,
            cls=self.cls,
            overrides=overrides or {},
            model_kwargs=self.model_kwargs,
            kwargs=kwargs | {"train": train},
            inputs=inputs,
            outputs=fields,
            grads=grads,
        )
        return self

    def done(self):
        self.recorder.write()


def ids(seed, length, **kwargs):
    return token_inputs(seed, kwargs.pop("batch", 2), length, VOCAB, **kwargs)


def make_model():
    m = Maker("model", "BigBirdModel", 1, max_position_embeddings=192)
    m.call("sparse_w4_r1", ids(111, 30), gradient=True, **STATES)  # padded inside, to 32
    m.call("sparse_w4_r2", ids(112, 40), {"num_random_blocks": 2})
    m.call("sparse_w4_r3", ids(113, 47), {"num_random_blocks": 3})
    m.call("sparse_w7_r1", ids(114, 51), {"block_size": 7})
    m.call("sparse_w16_r3", ids(115, 180), {"block_size": 16, "num_random_blocks": 3})
    m.call("sparse_no_mask", ids(116, 33, mask="none", types=False))
    m.call("short", ids(117, 28), **STATES)  # (5 + 2R) W tokens: full attention
    m.call("full", ids(118, 23), FULL, gradient=True, **PROBS)
    m.call("rescale", ids(119, 12), FULL | {"rescale_embeddings": True})
    m.call("train_w4_r1", ids(120, 30), train=True, gradient=True)
    m.call("train_w4_r2", ids(121, 48), {"num_random_blocks": 2}, train=True)
    m.call("train_w4_r3", ids(122, 64), {"num_random_blocks": 3}, train=True)
    m.call("train_short", ids(123, 20), train=True)
    m.done()
    m = Maker("no_bias", "BigBirdModel", 2, use_bias=False)
    m.call("sparse", ids(124, 32)).call("full", ids(125, 11), FULL).done()


def make_language():
    m = Maker("pretraining", "BigBirdForPreTraining", 3)
    m.call("sparse", ids(131, 30), **STATES).call("full", ids(132, 18), FULL, **PROBS).done()
    m = Maker("masked_lm", "BigBirdForMaskedLM", 4)
    m.call("sparse", ids(133, 30), gradient=True).call("full", ids(134, 18), FULL, **PROBS).done()
    m = Maker("masked_lm_untied", "BigBirdForMaskedLM", 5, tie_word_embeddings=False)
    m.call("sparse", ids(135, 30), gradient=True).done()
    m = Maker("causal_lm", "BigBirdForCausalLM", 6, **FULL, is_decoder=True)
    m.call("causal", ids(136, 17), use_cache=False, gradient=True, **PROBS)
    m.call("bidirectional", ids(137, 30), {"is_decoder": False, "attention_type": "block_sparse"})
    m.done()


def make_heads():
    m = Maker("sequence", "BigBirdForSequenceClassification", 7, num_labels=3)
    m.call("sparse", ids(141, 30), **STATES).call("full", ids(142, 18), gradient=True).done()
    m = Maker("choice", "BigBirdForMultipleChoice", 8)
    m.call("sparse", ids(143, 30, choices=3)).call("full", ids(144, 12, choices=3), FULL, **PROBS)
    m.done()
    m = Maker("token", "BigBirdForTokenClassification", 9, num_labels=5)
    m.call("sparse", ids(145, 30), **STATES).call("full", ids(146, 18), gradient=True).done()
    m = Maker("question", "BigBirdForQuestionAnswering", 10, {"add_pooling_layer": True})
    inputs = ids(147, 30, types=False)
    inputs["input_ids"][inputs["input_ids"] == 66] = 1
    inputs["input_ids"][0, [6, 20]] = 66  # a separator, and none in the second document
    lengths = {"question_lengths": np.array([[5], [11]])}
    m.call("default_lengths", inputs, gradient=True, **STATES)
    m.call("given_lengths", ids(148, 30, types=False) | lengths)
    m.call("full", ids(149, 18) | lengths, FULL, **PROBS).done()


# T, W, R, heads, max_position_embeddings
DRAWS = [
    (1024, 64, 3, 2, 1024),
    (1024, 64, 3, 2, 4096),
    (1020, 64, 3, 1, 2000),
    (1024, 64, 5, 1, 1024),
    (1024, 32, 2, 2, 1024),
    (1024, 16, 1, 3, 1100),
    (1024, 128, 1, 1, 1024),
    (2048, 64, 3, 2, 2048),
    (2048, 64, 3, 2, 4096),
    (3072, 64, 3, 2, 3072),
    (3072, 64, 3, 1, 4096),
    (3072, 128, 2, 2, 3072),
    (4096, 64, 3, 2, 4096),
    (4096, 16, 1, 1, 4096),
    (960, 64, 3, 2, 4096),
    (1088, 64, 3, 2, 1088),
    (192, 16, 3, 12, 192),
    (32, 4, 1, 2, 32),
    (40, 4, 2, 3, 64),
    (48, 4, 3, 2, 100),
    (8, 1, 1, 2, 8),
]


def make_random_blocks():
    """Runs a model in training mode and keeps the index arrays its layers drew."""
    attention = modeling_big_bird.BigBirdBlockSparseAttention
    original, drawn = attention._create_rand_mask_from_inputs, []

    def spy(from_mask, to_mask, rand_attn, *rest):
        drawn.append(rand_attn[0].numpy().astype(np.int16))
        return original(from_mask, to_mask, rand_attn, *rest)

    attention._create_rand_mask_from_inputs = staticmethod(spy)  # pyright: ignore[reportAttributeAccessIssue]
    arrays, cases = {}, {}
    for length, block, num_random, heads, table in DRAWS:
        name = f"T{length}_W{block}_R{num_random}_N{heads}_P{table}"
        cases[name] = {
            "length": length,
            "block_size": block,
            "num_random_blocks": num_random,
            "num_attention_heads": heads,
            "max_position_embeddings": table,
        }
        sizes = {k: v for k, v in cases[name].items() if k != "length"}
        model = transformers.BigBirdModel(
            config(hidden_size=heads, intermediate_size=1, num_hidden_layers=3, **sizes)
        )
        drawn.clear()
        with torch.no_grad():
            model.train()(torch.ones((1, length), dtype=torch.long))
        assert len(drawn) == 3, name
        arrays |= {f"{layer}/{name}": blocks for layer, blocks in enumerate(drawn)}
    attention._create_rand_mask_from_inputs = staticmethod(original)
    np.savez_compressed(OUT / "random_blocks.npz", **arrays)
    (OUT / "random_blocks.json").write_text(json.dumps(cases, indent=1) + "\n")


def main():
    print("transformers", transformers.__version__, "torch", torch.__version__)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    shutil.rmtree(OUT, ignore_errors=True)
    make_model()
    make_language()
    make_heads()
    make_random_blocks()
    size = sum(p.stat().st_size for p in pathlib.Path(OUT).rglob("*") if p.is_file())
    print(f"{size / 1e6:.2f} MB under {OUT.name}/")


if __name__ == "__main__":
    main()
