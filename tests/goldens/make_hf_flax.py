"""Makes `hf_flax/`: checkpoints written by the removed Flax BigBird, and what it computes.

Its last release needs an environment of its own (Python 3.11):

    python3.11 -m venv hfflax
    hfflax/bin/pip install "transformers==4.48.3" "jax==0.4.30" "jaxlib==0.4.30" \
        "flax==0.8.5" "numpy<2" "scipy<1.13"
    hfflax/bin/python tests/goldens/make_hf_flax.py

Weights are drawn by NumPy, biases and LayerNorms included, so that no term of the model is
trivially zero or one. The output depends on nothing but this file and the versions above.
"""

import os
import pathlib
import shutil

os.environ["USE_TORCH"] = "0"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from flax.traverse_util import flatten_dict, unflatten_dict
from golden_format import HERE, Recorder, token_inputs
from jax._src import array as jax_array
from jax._src import core as jax_core
from transformers import BigBirdConfig

OUT = HERE / "hf_flax"
VOCAB = 70
FULL = {"attention_type": "original_full"}
STATES = {"output_hidden_states": True}
PROBS = {"output_hidden_states": True, "output_attentions": True}


def patch_split():
    """`x.split(n, axis=-1)` as `jnp.split`: the QA module calls it, and jax dropped it."""

    def split(self, sections, axis=0):
        return jnp.split(self, sections, axis=axis)

    jax_array.ArrayImpl.split = split  # pyright: ignore[reportAttributeAccessIssue]
    jax_core.ShapedArray.split = jax_core.aval_method(split)  # pyright: ignore[reportAttributeAccessIssue]


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
    }
    return BigBirdConfig(**(base | changes))


def random_params(model, seed: int):
    """Kernels and tables as drawn by NumPy; biases around 0, LayerNorm scales around 1."""
    rng = np.random.RandomState(seed)
    leaves = {}
    for path, leaf in sorted(flatten_dict(model.params).items()):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        leaves[path] = 1 + 0.2 * noise if path[-1] == "scale" else 0.2 * noise
    return unflatten_dict(leaves)


class Maker:
    """One folder: a model, its saved checkpoint and its calls."""

    def __init__(self, folder, cls, seed, model_kwargs=None, save=None, **changes):
        self.cls, self.seed, self.model_kwargs = cls, seed, model_kwargs or {}
        self.changes = changes
        model = self.build({})
        self.params = random_params(model, seed)
        model.params = self.params
        self.recorder = Recorder(OUT / folder)
        model.save_pretrained(OUT / folder, **(save or {}))

    def build(self, overrides):
        cls = getattr(transformers, f"Flax{self.cls}")
        return cls(config(**(self.changes | overrides)), **self.model_kwargs)

    def call(self, name, inputs, overrides=None, **kwargs):
        model = self.build(overrides or {})
        output = model(**inputs, params=self.params, **kwargs)
        fields = {key: value for key, value in output.items() if value is not None}
        if fields.get("attentions", (None,))[0] is None:
            fields.pop("attentions", None)
        self.recorder.add(
            name,
            cls=self.cls,
            overrides=overrides or {},
            model_kwargs=self.model_kwargs,
            kwargs=kwargs,
            inputs=inputs,
            outputs=fields,
        )
        return self

    def done(self):
        self.recorder.write()


def ids(seed, length, **kwargs):
    batch = kwargs.pop("batch", 2)
    return token_inputs(seed, batch, length, VOCAB, **kwargs)


def encoder_states(seed, batch, length):
    rng = np.random.RandomState(seed)
    mask = np.ones((batch, length), np.int32)
    mask[1, length // 2 :] = 0
    mask[0, 1] = 0
    return {
        "encoder_hidden_states": rng.standard_normal((batch, length, 24)).astype(np.float32),
        "encoder_attention_mask": mask,
    }


def make_model():
    m = Maker("model", "BigBirdModel", 1, max_position_embeddings=192)
    # (block size, random blocks, length): more than (5 + 2R) W tokens, so sparse in every port.
    m.call("sparse_w4_r1", ids(11, 32), **STATES)
    m.call("sparse_w4_r2", ids(12, 40), {"num_random_blocks": 2})
    m.call("sparse_w4_r3", ids(13, 48), {"num_random_blocks": 3})
    m.call("sparse_w8_r2", ids(14, 80), {"block_size": 8, "num_random_blocks": 2})
    m.call("sparse_w5_r1", ids(15, 40), {"block_size": 5})
    m.call("sparse_w1_r1", ids(16, 12), {"block_size": 1})
    m.call("sparse_w16_r3", ids(17, 192), {"block_size": 16, "num_random_blocks": 3})
    m.call("sparse_no_mask", ids(18, 32, mask="none", types=False))
    m.call("sparse_pad", ids(19, 40, mask="pad"))
    m.call("sparse_rescale", ids(20, 32), {"rescale_embeddings": True})
    m.call("full", ids(21, 23), FULL, **PROBS)
    m.call("full_no_mask", ids(22, 9, mask="none", types=False), FULL)
    m.call("full_rescale", ids(23, 12), FULL | {"rescale_embeddings": True})
    positions = np.random.RandomState(24).randint(0, 192, (2, 14))
    m.call("full_positions", ids(24, 14) | {"position_ids": positions}, FULL)
    heads = np.array([[1, 0, 1], [0, 1, 1]])
    m.call("full_head_mask", ids(25, 14) | {"head_mask": heads}, FULL)
    for act in ("gelu", "relu", "silu"):
        m.call(f"full_{act}", ids(26, 8), FULL | {"hidden_act": act})
    # What HF-Flax does where we run full attention: T <= (5 + 2R) W.
    m.call("short_sparse", ids(27, 24))
    m.done()


def make_variants():
    m = Maker("no_bias", "BigBirdModel", 2, use_bias=False)
    m.call("sparse", ids(31, 32), **STATES).done()
    decoder = FULL | {"is_decoder": True}
    m = Maker("decoder", "BigBirdModel", 3, **decoder)
    m.call("causal", ids(32, 17), **PROBS).done()
    m = Maker("decoder_cross", "BigBirdModel", 4, add_cross_attention=True, **decoder)
    m.call("cross", ids(33, 9) | encoder_states(33, 2, 13), **PROBS)
    m.call("cross_shorter", ids(34, 9) | encoder_states(34, 2, 4)).done()


def make_language():
    m = Maker("pretraining", "BigBirdForPreTraining", 5)
    m.call("sparse", ids(41, 32), **STATES).call("full", ids(42, 18), FULL, **PROBS).done()
    m = Maker("masked_lm", "BigBirdForMaskedLM", 6)
    m.call("sparse", ids(43, 32), **STATES).call("full", ids(44, 18), FULL, **PROBS).done()
    m = Maker("masked_lm_untied", "BigBirdForMaskedLM", 7, tie_word_embeddings=False)
    m.call("sparse", ids(45, 32)).done()
    # The weights of `masked_lm` again, in its two other files.
    Maker("masked_lm_sharded", "BigBirdForMaskedLM", 6, save={"max_shard_size": "20KB"})
    Maker("masked_lm_safetensors", "BigBirdForMaskedLM", 6, save={"safe_serialization": True})
    decoder = FULL | {"is_decoder": True}
    m = Maker("causal_lm", "BigBirdForCausalLM", 8, **decoder)
    m.call("causal", ids(46, 17), **PROBS)
    m.call("bidirectional", ids(47, 32), {"is_decoder": False, "attention_type": "block_sparse"})
    m.done()
    m = Maker("causal_lm_cross", "BigBirdForCausalLM", 9, add_cross_attention=True, **decoder)
    m.call("cross", ids(48, 9) | encoder_states(48, 2, 13), **PROBS).done()


def make_classification():
    m = Maker("sequence", "BigBirdForSequenceClassification", 10, num_labels=3)
    m.call("sparse", ids(51, 32), **STATES).call("full", ids(52, 18), FULL, **PROBS).done()
    m = Maker("choice", "BigBirdForMultipleChoice", 11)
    m.call("sparse", ids(53, 32, choices=3)).call("full", ids(54, 12, choices=3), FULL, **PROBS)
    m.done()
    m = Maker("token", "BigBirdForTokenClassification", 12, num_labels=5)
    m.call("sparse", ids(55, 32), **STATES).call("full", ids(56, 18), FULL, **PROBS).done()


def make_question_answering():
    sep = 66
    m = Maker("question", "BigBirdForQuestionAnswering", 13)
    inputs = ids(61, 32, types=False)
    inputs["input_ids"][inputs["input_ids"] == sep] = 1
    inputs["input_ids"][0, [6, 20]] = sep  # and none in the second document
    m.call("default_lengths", inputs, **STATES)
    lengths = {"question_lengths": np.array([[5], [11]])}
    m.call("given_lengths", ids(62, 32, types=False) | lengths)
    m.call("given_types", ids(63, 32) | lengths)
    m.call("full", ids(64, 18, types=False) | lengths, FULL, **PROBS).done()
    pooled = {"add_pooling_layer": True}
    m = Maker("question_pooled", "BigBirdForQuestionAnswering", 14, model_kwargs=pooled)
    m.call("sparse", ids(65, 32, types=False) | lengths).done()


def main():
    assert transformers.__version__ == "4.48.3", transformers.__version__
    jax.config.update("jax_default_matmul_precision", "highest")
    transformers.logging.set_verbosity_error()
    patch_split()
    shutil.rmtree(OUT, ignore_errors=True)
    make_model()
    make_variants()
    make_language()
    make_classification()
    make_question_answering()
    size = sum(p.stat().st_size for p in pathlib.Path(OUT).rglob("*") if p.is_file())
    print(f"{size / 1e6:.2f} MB under {OUT.name}/")


if __name__ == "__main__":
    main()
