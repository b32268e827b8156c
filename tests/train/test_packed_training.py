"""Packing: training on packed rows equals training on the documents alone."""

import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import (
    HARBOR,
    MEADOW,
    TINY_MODEL,
    RecordingCallback,
    random_words,
    tiny_run_options,
    write_jsonl,
)

from flax_bigbird.nn.losses import IGNORED_LABEL
from flax_bigbird.train import train
from flax_bigbird.train.data_setup import SplitData
from flax_bigbird.train.run_directory import open_run_directory
from flax_bigbird.train.setup import prepare_run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file of texts of 6 to 70 words."""
    generator = random.Random(0)
    lengths = [generator.choice([6, 12, 20, 70]) for _ in range(80)]
    rows = [
        {"text": random_words(generator.choice([MEADOW, HARBOR]), n, generator)} for n in lengths
    ]
    return write_jsonl(tmp_path_factory.mktemp("data") / "texts.jsonl", rows)


def prepare_packed_run(folder, task, data, **changes):
    """Returns the prepared run and its messages."""
    recorded = RecordingCallback()
    options = tiny_run_options(
        folder, task, train_files=[data], packing=True, max_length=96, **changes
    )
    return prepare_run(options, open_run_directory(options), recorded), recorded.messages


@pytest.mark.parametrize(
    ("task", "changes"), [("masked-lm", {"mlm_probability": 0.3}), ("causal-lm", {})]
)
def test_loss_and_gradient_equal_those_of_the_documents_alone(task, changes, data, tmp_path):
    run, messages = prepare_packed_run(tmp_path, task, data, **changes)
    assert any("are packed into" in text for text in messages)
    assert isinstance(run.train_data, SplitData)
    assert run.train_data.padding_fraction < 0.25
    examples: Any = run.train_data.encoded.examples
    rows = run.train_data.rows
    packed = next(b for b in run.train_data.buckets if b.indices[0] >= len(examples))
    others = [b for b in run.train_data.buckets if b is not packed]
    ids = [tuple(d["input_ids"]) for n in packed.indices for d in rows[int(n)]["documents"]]
    ids += [tuple(rows[int(n)]["input_ids"]) for b in others for n in b.indices]
    assert sorted(ids) == sorted(tuple(example["input_ids"]) for example in examples)

    together = collate_packed_rows(run, packed)
    alone = collate_documents_alone(run, packed, together)
    num_targets = [(batch["labels"] != IGNORED_LABEL).sum() for batch in (together, alone)]
    assert num_targets[0] == num_targets[1]
    step = jax.jit(
        jax.value_and_grad(lambda params, batch: run.task.loss(run.model, params, batch).mean)
    )
    loss, gradient = step(run.model.params, together)
    expected_loss, expected_gradient = step(run.model.params, alone)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected_gradient))
    leaves = zip(*map(jax.tree.leaves, (gradient, expected_gradient)), strict=True)
    for leaf, expected in leaves:
        np.testing.assert_allclose(leaf, expected, atol=1e-4 * scale)


def collate_packed_rows(run, packed):
    """Returns a batch of four packed rows."""
    rows = [
        run.task.collate(run.train_data.rows[int(n)], packed.length, np.random.default_rng([7, n]))
        for n in packed.indices[:4]
    ]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def collate_documents_alone(run, packed, together):
    """Returns a batch of the documents of these rows, each in a row of its own."""
    block_size = run.model.config.block_size
    rows = []
    for index, n in enumerate(packed.indices[:4]):
        assert together["segment_ids"][index].max() > 1
        generator = np.random.default_rng([7, n])
        for document in run.train_data.rows[int(n)]["documents"]:
            length = -(-document["length"] // block_size) * block_size
            assert length < packed.length
            arrays = run.task.collate_document(document, length, generator)
            rows.append(
                {
                    name: np.pad(
                        value,
                        (0, together[name].shape[1] - len(value)),
                        constant_values=IGNORED_LABEL if name == "labels" else 0,
                    )
                    for name, value in arrays.items()
                }
            )
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_a_packed_run_trains_on_every_document_with_less_padding(tmp_path, data):
    reports = {
        packing: train(
            tiny_run_options(
                tmp_path / str(packing),
                "masked-lm",
                train_files=[data],
                packing=packing,
                max_length=96,
                num_train_epochs=1,
                max_steps=None,
                save_steps=100,
                eval_steps=100,
            )
        )
        for packing in (False, True)
    }
    alone, packed = reports[False]["training"], reports[True]["training"]
    assert packed["padding"] < alone["padding"]
    assert packed["tokens"] == alone["tokens"]
    assert packed["rows"] < alone["rows"]
    assert np.isfinite(reports[True]["metrics"]["loss"])


def test_position_offsets_are_drawn_for_every_document(tmp_path, data):
    run, _ = prepare_packed_run(
        tmp_path,
        "masked-lm",
        data,
        random_position_offset=True,
        config_overrides={**TINY_MODEL, "max_position_embeddings": 1000},
    )
    document = {"input_ids": [5] * 11, "length": 11}
    example = {"documents": [document, document]}
    positions = run.task.collate(example, 40, np.random.default_rng(0))["position_ids"]
    assert (np.diff(positions[:16]) == 1).all()
    assert (np.diff(positions[16:32]) == 1).all()
    assert positions[0] != positions[16]
