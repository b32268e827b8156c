"""Learning rate schedules, and which parameters AdamW and Muon update, and how."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from tiny_models import config as tiny_config
from tiny_runs import RecordingCallback, model_bytes, tiny_run_options, write_labeled_texts

import flax_bigbird
from flax_bigbird.train import OptionError, TrainingInterrupted, train, train_options
from flax_bigbird.train.optimizer import (
    create_optimizer,
    learning_rate_schedule,
    optimizer_labels,
)

REQUIRED = {"output_dir": "out", "train_files": ["a.txt"]}


def options(**changes):
    return train_options("masked-lm", **REQUIRED, **changes)


@pytest.fixture
def optax_dtypes():
    """Allows optax to promote dtypes, which it does in every update."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lr_scheduler_type": "constant"}, [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ({"lr_scheduler_type": "linear"}, [0.5, 1, *np.linspace(1, 0, 9)[:8]]),
        ({"lr_scheduler_type": "warmup_stable_decay"}, [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 0.5]),
        (
            {"lr_scheduler_type": "warmup_stable_decay", "decay_ratio": 0.4},
            [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25],
        ),
        (
            {"lr_scheduler_type": "warmup_stable_decay", "decay_ratio": 0.8},
            [0.5, 1, *np.linspace(1, 0, 9)[:8]],
        ),
        ({"lr_scheduler_type": "warmup_stable_decay", "decay_ratio": 0.0}, [0.5, *[1.0] * 9]),
    ],
)
def test_schedules(changes, expected):
    """Ten steps, of which two are the warmup."""
    schedule: Any = learning_rate_schedule(
        options(warmup_ratio=0.2, learning_rate=1.0, **changes), 10
    )
    rates = [float(schedule(step)) for step in range(10)]
    np.testing.assert_allclose(rates, expected, atol=1e-6)


def test_a_schedule_without_decay_refuses_decay_ratio():
    with pytest.raises(OptionError, match=r"decay_ratio belongs to .*; got 0\.3 with linear"):
        options(decay_ratio=0.3)


def test_warmup_and_decay_fit_into_the_run():
    with pytest.raises(OptionError, match=r"must add up to at most 1; got 0\.1 and 0\.95"):
        options(lr_scheduler_type="warmup_stable_decay", decay_ratio=0.95)


HIDDEN = {
    *(f"attention/self/{name}/kernel" for name in ("query", "key", "value")),
    "attention/output/dense/kernel",
    "intermediate/dense/kernel",
    "output/dense/kernel",
}


@pytest.mark.parametrize(
    ("model_class", "changes", "hidden"),
    [
        ("FlaxBigBirdForPreTraining", {}, HIDDEN),
        ("FlaxBigBirdForMaskedLM", {"tie_word_embeddings": False}, HIDDEN),
        ("FlaxBigBirdForSequenceClassification", {}, HIDDEN),
        ("FlaxBigBirdForQuestionAnswering", {}, HIDDEN),
        (
            "FlaxBigBirdForCausalLM",
            {"is_decoder": True, "add_cross_attention": True},
            HIDDEN | {f"cross{name}" for name in HIDDEN if name.startswith("attention")},
        ),
    ],
)
def test_muon_updates_the_matrices_of_the_layers(model_class, changes, hidden):
    """Neither embeddings nor the pooler nor heads, which are matrices too."""
    model = getattr(flax_bigbird, model_class)(tiny_config(**changes), _do_init=False)
    labels: dict[Any, Any] = flatten_dict(optimizer_labels(model.params_shape_tree))
    muon = {"/".join(path) for path, label in labels.items() if label == "muon"}
    layers = range(model.config.num_hidden_layers)
    assert muon == {f"bert/encoder/layer/{i}/{name}" for i in layers for name in hidden}


SHAPES = {"square": (24, 24), "wide": (16, 64), "tall": (64, 16)}


def tree_of_matrices(seed) -> Any:
    """Parameters of one layer, and an embedding and a bias, which AdamW updates."""
    generator = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(generator.normal(size=shape), jnp.float32)

    layer = {name: {"kernel": normal(*shape)} for name, shape in SHAPES.items()}
    return {"encoder": layer | {"bias": normal(24)}, "embeddings": {"embedding": normal(40, 16)}}


@pytest.mark.usefixtures("optax_dtypes")
def test_muon_orthogonalizes_the_momentum():
    """The first update has singular values near 1, the gradient's directions, and an RMS of 0.2."""
    params, gradient = tree_of_matrices(0), tree_of_matrices(1)
    muon = create_optimizer(
        options(optim="muon", learning_rate=1.0, warmup_ratio=0.0, weight_decay=0.0), 10
    )
    updates: Any
    updates, _ = muon.update(gradient, muon.init(params), params)
    for name, shape in SHAPES.items():
        update = np.asarray(updates["encoder"][name]["kernel"], np.float64)
        left, _, right = np.linalg.svd(np.asarray(gradient["encoder"][name]["kernel"], np.float64))
        rank = min(shape)
        projected = left[:, :rank].T @ update @ right[:rank].T / (0.2 * max(shape) ** 0.5)
        values = -np.diag(projected)
        assert 0.5 < values.min() <= values.max() < 1.3, (name, values)
        np.testing.assert_allclose(projected, np.diag(-values), atol=1e-3)
        rms = np.sqrt((update**2).mean())
        assert 0.13 < rms < 0.23, (name, rms)


@pytest.mark.usefixtures("optax_dtypes")
def test_parameters_outside_the_layers_are_updated_by_adamw():
    """With the same learning rate, betas, weight decay and clipping as without Muon."""
    changes = {"learning_rate": 0.1, "adam_beta2": 0.95, "adam_epsilon": 1e-3, "weight_decay": 0.3}
    results: list[Any] = []
    for optim in ("adamw", "muon"):
        optimizer = create_optimizer(options(optim=optim, **changes), 10)
        params: Any = tree_of_matrices(0)
        state = optimizer.init(params)
        for seed in (1, 2, 3):
            updates, state = optimizer.update(tree_of_matrices(seed), state, params)
            params = optax.apply_updates(params, updates)
        results.append(params)
    adamw, muon = results
    for path in (("encoder", "bias"), ("embeddings", "embedding")):
        np.testing.assert_array_equal(adamw[path[0]][path[1]], muon[path[0]][path[1]])
    assert np.abs(adamw["encoder"]["wide"]["kernel"] - muon["encoder"]["wide"]["kernel"]).max() > 0


@pytest.mark.usefixtures("optax_dtypes")
def test_muon_decays_its_matrices():
    """Without a gradient, a step multiplies them by 1 - learning_rate * weight_decay."""
    params = tree_of_matrices(0)
    muon = create_optimizer(
        options(optim="muon", learning_rate=0.1, warmup_ratio=0.0, weight_decay=0.5), 10
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates: Any
    updates, _ = muon.update(zeros, muon.init(params), params)
    after: Any = optax.apply_updates(params, updates)
    kernel = params["encoder"]["wide"]["kernel"]
    np.testing.assert_allclose(after["encoder"]["wide"]["kernel"], kernel * 0.95, rtol=1e-6)
    np.testing.assert_array_equal(after["encoder"]["bias"], params["encoder"]["bias"])


def test_an_interrupted_run_with_muon_resumes_with_the_same_bits(tmp_path):
    data = write_labeled_texts(tmp_path / "a.jsonl", 40)
    changes = {
        "train_files": [data],
        "optim": "muon",
        "lr_scheduler_type": "warmup_stable_decay",
        "decay_ratio": 0.5,
        "validation_fraction": 0,
        "max_steps": 6,
    }
    train(tiny_run_options(tmp_path / "whole", "masked-lm", **changes))
    interrupted = tiny_run_options(tmp_path / "interrupted", "masked-lm", **changes)
    with pytest.raises(TrainingInterrupted):
        train(interrupted, [RecordingCallback(stop_after=3)])
    train(interrupted)
    whole, resumed = (tmp_path / name / "run" for name in ("whole", "interrupted"))
    assert model_bytes(whole) == model_bytes(resumed)
