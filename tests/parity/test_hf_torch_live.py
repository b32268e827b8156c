"""Parity with the installed PyTorch port, in both directions: weights, outputs, gradients.

A new PyTorch model is built for every call: a short batch switches an old one to full attention
for good (defect 1). Dropout rates are 0, so that `train=True` differs only in its random blocks.
"""

import functools

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from golden_format import cotangent, token_inputs
from parity_tools import close, close_gradients, gradients, named_outputs, random_params, run

import flax_bigbird

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

VOCAB = 70
DECODER = {"is_decoder": True, "attention_type": "original_full"}
TASKS = {
    "BigBirdModel": {},
    "BigBirdForPreTraining": {},
    "BigBirdForMaskedLM": {},
    "BigBirdForCausalLM": DECODER,
    "BigBirdForSequenceClassification": {"num_labels": 3},
    "BigBirdForMultipleChoice": {},
    "BigBirdForTokenClassification": {"num_labels": 5},
    "BigBirdForQuestionAnswering": {},
}


def config(**changes):
    base = {
        "vocab_size": VOCAB,
        "hidden_size": 24,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "intermediate_size": 37,
        "max_position_embeddings": 160,
        "block_size": 4,
        "num_random_blocks": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    out = transformers.BigBirdConfig(**(base | changes))
    out._attn_implementation = "eager"
    return out


def torch_model(cls, state=None, seed=0, **changes):
    """A PyTorch model in evaluation mode, with random weights or those of `state`."""
    model = getattr(transformers, cls)(config(**changes)).eval()
    if state is None:
        rng = np.random.RandomState(seed)
        with torch.no_grad():
            for name, leaf in sorted(model.named_parameters()):
                values = 0.2 * rng.standard_normal(tuple(leaf.shape))
                leaf.copy_(torch.tensor(values + name.endswith("LayerNorm.weight")))
    else:
        model.load_state_dict(state)
    return model


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """`pair(cls, **config)`: a maker of PyTorch models, and our (model, params) of its weights."""

    @functools.cache
    def saved(cls, sizes):
        folder = tmp_path_factory.mktemp(cls)
        model = torch_model(cls, **dict(sizes))
        model.save_pretrained(folder)
        return folder, model.state_dict()

    def make(cls, **changes):
        sizes = {k: v for k, v in changes.items() if k in ("num_labels", *DECODER)}
        sizes["max_position_embeddings"] = changes.get("max_position_embeddings", 160)
        folder, state = saved(cls, tuple(sorted(sizes.items())))
        own = getattr(flax_bigbird, f"Flax{cls}")
        ours = own.from_pretrained(folder, _do_init=False, **changes)
        return functools.partial(torch_model, cls, state, **changes), ours

    return make


def their_outputs(model, inputs, **kwargs):
    """Outputs by name, arrays of layers cropped to the caller's length (defect 12)."""
    with torch.no_grad():
        output = model(**{k: torch.tensor(v) for k, v in inputs.items()}, **kwargs)
    out, length = {}, inputs["input_ids"].shape[-1]
    for name, value in output.items():
        if isinstance(value, torch.Tensor):
            out[name] = value.numpy()
        elif name == "hidden_states":
            out |= {f"{name}/{i}": x.numpy()[:, :length] for i, x in enumerate(value)}
        elif name == "attentions":
            out |= {f"{name}/{i}": x.numpy() for i, x in enumerate(value)}
    return out


def same_outputs(ours, theirs, inputs, *, train=False, **kwargs):
    """Compares every output of two models; ours is a model and its parameters."""
    model, params = ours
    mine = named_outputs(run(model, params, inputs, train=train, **kwargs))
    other = their_outputs(theirs.train(train), inputs, **kwargs)
    assert set(mine) == set(other)
    for name, value in other.items():
        close(mine[name], value, name)


def task_inputs(cls, seed, length, **kwargs):
    choices = 3 if cls == "BigBirdForMultipleChoice" else 0
    return token_inputs(seed, 2, length, VOCAB, choices=choices, **kwargs)


@pytest.mark.parametrize("cls", TASKS)
@pytest.mark.parametrize("length", [19, 45])
def test_tasks(pair, cls, length):
    """Full attention with its probabilities; block-sparse, T no multiple of W, R = 2."""
    full = length == 19
    changes = {"attention_type": "original_full"} if full else {"num_random_blocks": 2}
    theirs, ours = pair(cls, **(changes | TASKS[cls]))
    inputs = task_inputs(cls, length, length)
    kwargs = {"output_attentions": True} if full else {}
    same_outputs(ours, theirs(), inputs, output_hidden_states=True, **kwargs)


SPARSE_DECODER = {"is_decoder": True, "attention_type": "block_sparse"}


@pytest.mark.parametrize("length", [1, 19, 28])
def test_short_sparse_decoder(pair, length):
    """HF-Torch attends in full up to (5 + 2R) W = 28 tokens, we do so with one key."""
    rule = {"short_decoder_attention": "original_full"}
    theirs, ours = pair("BigBirdForCausalLM", **SPARSE_DECODER, **rule)
    inputs = token_inputs(length, 2, length, VOCAB, mask="both")
    same_outputs(ours, theirs(), inputs, output_hidden_states=True)
    if length == 28:
        _, (model, params) = pair("BigBirdForCausalLM", **SPARSE_DECODER)
        logits = run(model, params, inputs).logits
        assert np.abs(logits - their_outputs(theirs(), inputs)["logits"]).max() > 0.1


# (5 + 2R) W is the last length of full attention.
LENGTHS = [(4, 1, 28), (4, 1, 29), (4, 1, 32), (4, 2, 50), (8, 3, 101), (16, 1, 130), (5, 2, 53)]


@pytest.mark.parametrize(("block_size", "num_random", "length"), [*LENGTHS, (1, 3, 14)])
def test_block_sizes_and_lengths(pair, block_size, num_random, length):
    sizes = {"block_size": block_size, "num_random_blocks": num_random}
    theirs, ours = pair("BigBirdModel", **sizes)
    for seed, mask in enumerate(("both", "holes", "pad")):
        inputs = token_inputs(seed, 2, length, VOCAB, mask=mask)
        same_outputs(ours, theirs(), inputs)


TRAINING = [(4, 1, 30), (4, 2, 50), (4, 3, 75), (64, 3, 960), (64, 3, 1020), (64, 3, 1024)]


@pytest.mark.parametrize(("block_size", "num_random", "length"), TRAINING)
def test_training_pattern(pair, block_size, num_random, length):
    """The random blocks HF-Torch trains with; 1,020 tokens are padded to a length of the paper."""
    theirs, ours = pair(
        "BigBirdModel",
        block_size=block_size,
        num_random_blocks=num_random,
        max_position_embeddings=1100 if length > 160 else 160,
    )
    same_outputs(ours, theirs(), token_inputs(length, 2, length, VOCAB), train=True)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_padding_invariant_is_each_document_alone(pair, train):
    """One batch of ours, padded; HF-Torch on each document by itself, unpadded."""
    lengths = (1, 17, 28, 29, 44, 75)
    theirs, (model, params) = pair("BigBirdModel", padding_invariant=True)
    rng = np.random.default_rng(3)
    ids = rng.integers(1, VOCAB, (len(lengths), 90))
    mask = (np.arange(90) < np.array(lengths)[:, None]).astype(int)
    batch = {"input_ids": ids, "attention_mask": mask}
    mine = named_outputs(run(model, params, batch, train=train))
    for row, length in enumerate(lengths):
        alone = {name: x[row : row + 1, :length] for name, x in batch.items()}
        other = their_outputs(theirs().train(train), alone)
        states = mine["last_hidden_state"][row : row + 1, :length]
        close(states, other["last_hidden_state"], f"{length} tokens")
        close(mine["pooler_output"][row : row + 1], other["pooler_output"], f"{length}, pooled")


CASES = [(cls, 30, False) for cls in TASKS]
CASES += [("BigBirdModel", 20, False), ("BigBirdModel", 50, True)]


@pytest.mark.parametrize(("cls", "length", "train"), CASES)
def test_gradients(pair, cls, length, train):
    """Of a loss of every output, by every parameter; below 29 tokens in full attention."""
    theirs, ours = pair(cls, **TASKS[cls])
    model = theirs().train(train)
    inputs = task_inputs(cls, 7, length)
    output = model(**{k: torch.tensor(v) for k, v in inputs.items()})
    own = [value for value in output.values() if isinstance(value, torch.Tensor)]
    losses = [(x * torch.tensor(cotangent(tuple(x.shape)))).sum() for x in own]
    sum(losses, start=torch.zeros(())).backward()
    grads = {k: p.grad.numpy() for k, p in model.named_parameters() if p.grad is not None}
    model, params = ours
    mine = gradients(model, params, inputs, train=train)
    close_gradients(mine, grads, pad=model.config.pad_token_id)


LOSSES = {
    "BigBirdForPreTraining": {},
    "BigBirdForMaskedLM": {},
    "BigBirdForCausalLM": DECODER,
}


@pytest.mark.parametrize("cls", LOSSES)
def test_losses(pair, cls):
    """`model.loss` is the loss that PyTorch returns for the same labels, with its gradient."""
    theirs, (model, params) = pair(cls, **LOSSES[cls])
    inputs = token_inputs(3, 2, 40, VOCAB)
    rng = np.random.default_rng(2)
    labels = np.where(rng.random((2, 40)) < 0.4, inputs["input_ids"], -100)
    targets = {"labels": labels}
    if cls == "BigBirdForPreTraining":
        targets["next_sentence_label"] = np.array([1, 0])
    module = theirs()
    tensors = {k: torch.tensor(v) for k, v in (inputs | targets).items()}
    loss = module(**tensors).loss
    loss.backward()
    grads = {k: p.grad.numpy() for k, p in module.named_parameters() if p.grad is not None}

    def ours(params):
        return model.loss(**inputs, **targets, params=params)

    value, tree = jax.jit(jax.value_and_grad(ours))(params)
    close(value, loss.detach().numpy(), "loss")
    mine = {"/".join(path): np.asarray(leaf) for path, leaf in flatten_dict(tree).items()}
    close_gradients(mine, grads, pad=model.config.pad_token_id)


NO_POOLER = ("BigBirdForMaskedLM", "BigBirdForCausalLM", "BigBirdForTokenClassification")
SAVED = [(cls, {}) for cls in TASKS] + [("BigBirdForMaskedLM", {"tie_word_embeddings": False})]


@pytest.mark.parametrize(("cls", "changes"), SAVED)
def test_pytorch_opens_what_we_save(cls, changes, tmp_path):
    """No unexpected keys, none missing but the unused pooler, the same outputs."""
    ours = getattr(flax_bigbird, f"Flax{cls}")(config(**(TASKS[cls] | changes)), _do_init=False)
    params = random_params(ours)
    ours.save_pretrained(tmp_path, params=params)
    theirs, info = getattr(transformers, cls).from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    pooler = {"bert.pooler.weight", "bert.pooler.bias"} if cls in NO_POOLER else set()
    assert set(info["missing_keys"]) <= pooler
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    inputs = task_inputs(cls, 5, 30)
    same_outputs((ours, params), theirs.eval(), inputs)
