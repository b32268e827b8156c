"""Short documents share rows: which, how they are laid out, and that training does not notice."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_tools import HARBOUR, MEADOW, options, sentences, write_jsonl

from flax_bigbird.tasks.errors import OptionError
from flax_bigbird.train import packing, pipeline, run
from flax_bigbird.train.losses import IGNORED
from flax_bigbird.train.objectives import OBJECTIVES


@pytest.mark.parametrize("seed", range(5))
def test_rows_hold_every_document_once_and_are_nearly_full(seed):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 12, 500)
    rows = packing.fill_rows(sizes, 16)
    assert sorted(np.concatenate(rows)) == list(range(500))
    filled = [sizes[row].sum() for row in rows]
    assert max(filled) <= 16
    assert len(rows) <= 1.02 * np.ceil(sizes.sum() / 16)


def test_documents_as_large_as_a_row_have_one_each():
    assert sorted(map(tuple, packing.fill_rows(np.array([4, 1, 4, 3]), 4))) == [(0,), (2,), (3, 1)]


class Seen:
    """A screen that keeps what was noted, and what `run` was about to train on."""

    def __init__(self, monkeypatch):
        self.notes, self.made = [], {}

        def train(options, objective, model, training, *rest):
            self.made |= {"objective": objective, "model": model, "training": training}
            raise StopIteration

        monkeypatch.setattr(run, "_train", train)

    def note(self, text):
        self.notes.append(text)


def texts(folder, seed=0):
    generator = random.Random(seed)
    lengths = [generator.choice([6, 12, 20, 70]) for _ in range(80)]
    rows = [{"text": sentences(generator.choice([MEADOW, HARBOUR]), n, generator)} for n in lengths]
    return write_jsonl(folder / f"texts{seed}.jsonl", rows)


@pytest.mark.parametrize("task", ["masked-lm", "causal-lm"])
def test_loss_and_gradient_are_those_of_the_documents_alone(task, tmp_path, monkeypatch):
    seen = Seen(monkeypatch)
    settings = options(
        tmp_path, task, train_files=[texts(tmp_path)], packing=True, max_length=96, mask_rate=0.3
    )
    with pytest.raises(StopIteration):
        run.train(settings, seen)  # type: ignore[arg-type]
    assert any("share" in note for note in seen.notes)
    objective, model, training = (seen.made[name] for name in ("objective", "model", "training"))
    assert training.padding < 0.25
    packed = next(b for b in training.buckets if b.rows[0] >= len(training.prepared.rows))
    rest = [b for b in training.buckets if b is not packed]
    numbers = [training.rows[int(n)]["documents"] for n in packed.rows]
    ids = [tuple(d["input_ids"]) for row in numbers for d in row]
    ids += [tuple(training.rows[int(n)]["input_ids"]) for b in rest for n in b.rows]
    assert sorted(ids) == sorted(tuple(row["input_ids"]) for row in training.prepared.rows)

    rows = [
        objective.collate(training.rows[int(n)], packed.length, np.random.default_rng([7, n]))
        for n in packed.rows[:4]
    ]
    together = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    size = model.config.block_size
    alone = []
    for number, n in enumerate(packed.rows[:4]):
        generator = np.random.default_rng([7, n])
        for document in training.rows[int(n)]["documents"]:
            room = -(-document["length"] // size) * size
            part = objective.collate_document(document, room, generator)
            pad = packed.length - room
            part = {
                name: np.pad(
                    value,
                    (0, together[name].shape[1] - len(value)),
                    constant_values=IGNORED if name == "labels" else 0,
                )
                for name, value in part.items()
            }
            assert pad > 0
            assert together["segment_ids"][number].max() > 1
            alone.append(part)
    apart = {name: np.stack([part[name] for part in alone]) for name in alone[0]}
    assert (together["labels"] != IGNORED).sum() == (apart["labels"] != IGNORED).sum()

    def loss(params, batch):
        return objective.loss(model, params, batch).mean

    step = jax.jit(jax.value_and_grad(loss))
    got, got_gradient = step(model.params, together)
    want, want_gradient = step(model.params, apart)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want_gradient))
    for one, other in zip(*map(jax.tree.leaves, (got_gradient, want_gradient)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * scale)


def test_a_packed_run_trains_every_document_and_reports_its_padding(tmp_path):
    data = texts(tmp_path)
    found = {
        packed: run.train(
            options(
                tmp_path / str(packed),
                "masked-lm",
                train_files=[data],
                packing=packed,
                max_length=96,
                epochs=1,
                max_steps=None,
                save_every=100,
                evaluate_every=100,
            )
        )
        for packed in (False, True)
    }
    assert found[True]["training"]["padding"] < found[False]["training"]["padding"]
    assert found[True]["training"]["tokens"] == found[False]["training"]["tokens"]
    assert found[True]["training"]["rows"] < found[False]["training"]["rows"]
    assert np.isfinite(found[True]["metrics"]["loss"])


def test_random_positions_are_drawn_for_every_document(tmp_path):
    settings = options(tmp_path, "masked-lm", train_files=["x"], random_positions=True)
    objective = OBJECTIVES["masked-lm"](settings)

    class Config:
        max_position_embeddings, block_size = 1000, 8

    class Tokenizer:
        pad_token_id = 0

    objective.model_is(Config)
    objective.tokenizer = Tokenizer()  # type: ignore[assignment]
    objective.masking = lambda ids, limit, generator: (  # type: ignore[assignment]
        ids,
        np.zeros(limit, np.int32),
        np.full(limit, IGNORED, np.int32),
    )
    document = {"input_ids": [5] * 11, "length": 11}
    row = {"documents": [document, document]}
    positions = objective.collate(row, 40, np.random.default_rng(0))["position_ids"]
    assert (np.diff(positions[:16]) == 1).all()
    assert (np.diff(positions[16:32]) == 1).all()
    assert positions[0] != positions[16]


def test_nothing_is_packed_where_nothing_is_short():
    lengths = np.array([64, 60, 57])
    buckets = pipeline.into_buckets(lengths, [32, 64], 64)

    class Config:
        block_size, is_decoder, attention_type = 8, False, "original_full"

    found = packing.pack([None] * 3, lengths, buckets, 64, 1, Config)  # type: ignore[arg-type]
    assert found.packs == []
    assert found.buckets == buckets


def test_other_tasks_are_refused(tmp_path):
    with pytest.raises(OptionError, match="packing is for causal-lm and masked-lm; got it for"):
        options(tmp_path, "next-sentence", train_files=["x"], packing=True)
