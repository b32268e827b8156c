"""Validation rows are held out at random, or stratified by labels."""

import datasets
import numpy as np
import pytest
from tiny_runs import write_jsonl

from flax_bigbird.data.errors import DataError
from flax_bigbird.data.loading import load_files
from flax_bigbird.data.splitting import (
    stratified_choice,
    train_validation_split,
    train_validation_split_of_groups,
)


def test_validation_rows_follow_from_the_seed(tmp_path):
    rows = load_files([write_jsonl(tmp_path / "a.jsonl", [{"text": str(n)} for n in range(20)])])
    splits = [train_validation_split(rows, 0.2, seed) for seed in (0, 0, 1)]
    train, validation = splits[0]
    assert validation is not None
    assert len(validation) == 4
    assert set(train["text"]) | set(validation["text"]) == {str(n) for n in range(20)}
    held_out = [list(split[1]["text"]) for split in splits if split[1] is not None]
    assert held_out[0] == held_out[1]
    assert held_out[0] != held_out[2]


def test_a_validation_fraction_of_0(tmp_path):
    rows = load_files([write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])])
    train, validation = train_validation_split(rows, 0.0, seed=0)
    assert (len(train), validation) == (1, None)
    with pytest.raises(DataError, match="two or more; got 1"):
        train_validation_split(rows, 0.1, seed=0)


def test_one_row_is_left_for_training(tmp_path):
    rows = load_files([write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}])])
    train, validation = train_validation_split(rows, 0.9, seed=0)
    assert validation is not None
    assert (len(train), len(validation)) == (1, 1)


def choose(labels, count, seed=0):
    return stratified_choice(labels, count, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 10, 30, 50, 90])
def test_classes_are_held_out_in_proportion(seed, count):
    """Of 60, 30, 9 and 1 rows; the class of one row stays in training."""
    labels = [["a"]] * 60 + [["b"]] * 30 + [["c"]] * 9 + [["d"]]
    chosen = choose(labels, count, seed)
    by_class = {name: chosen[[row == [name] for row in labels]].sum() for name in "abcd"}
    assert abs(chosen.sum() - count) <= 1
    for name, size in (("a", 60), ("b", 30), ("c", 9)):
        assert abs(by_class[name] - size * count / 100) <= 1, by_class
        assert by_class[name] < size
    assert by_class["d"] == 0
    assert (choose(labels, count, seed) == chosen).all()


@pytest.mark.parametrize("seed", range(5))
def test_every_label_of_sets_stays_in_training(seed):
    generator = np.random.default_rng(seed)
    names = [f"tag{n}" for n in range(30)]
    rows = [set(generator.choice(names, generator.integers(0, 5))) for _ in range(100)]
    rows[3].add("once")
    chosen = choose(rows, 20, seed)
    in_training = set().union(*(rows[row] for row in np.flatnonzero(~chosen)))
    assert set().union(*rows) == in_training
    assert 15 <= chosen.sum() <= 25
    assert not chosen[3]


def test_rows_are_held_out_wherever_that_is_possible():
    assert choose([["a"], ["a"], ["b"]], 1).tolist()[2] is False
    assert choose([["a"], ["a"], ["b"]], 1).sum() == 1
    assert choose([["a"], ["b"]], 1).sum() == 0
    assert choose([[], []], 1).sum() == 1


def test_a_split_by_labels_keeps_the_order_of_the_rows(tmp_path):
    rows = load_files([write_jsonl(tmp_path / "a.jsonl", [{"text": str(n)} for n in range(20)])])
    train, validation = train_validation_split(rows, 0.2, 0, [["a"], ["b"]] * 10)
    assert validation is not None
    assert len(validation) == 4
    assert list(train["text"]) == sorted(train["text"], key=int)
    assert sum(int(text) % 2 for text in validation["text"]) == 2
    with pytest.raises(DataError, match="20 rows, each with a label that no other row has"):
        train_validation_split(rows, 0.2, 0, [[n] for n in range(20)])


def test_rows_of_a_group_are_held_out_together():
    groups = [f"q{n // 3}" for n in range(30)]
    rows = datasets.Dataset.from_dict({"query": groups, "index": list(range(30))})
    train, validation = train_validation_split_of_groups(rows, 0.2, 0, groups)
    assert (len(train), len(validation)) == (24, 6)
    assert not set(train["query"]) & set(validation["query"])
    assert sorted([*train["index"], *validation["index"]]) == list(range(30))
    again = train_validation_split_of_groups(rows, 0.2, 0, groups)
    assert again[1]["index"] == validation["index"]
    _, many = train_validation_split_of_groups(rows, 0.9, 1, groups)
    assert len(many) == 27
    with pytest.raises(DataError, match=r"two groups or more, .* got 1: give validation_files"):
        train_validation_split_of_groups(rows, 0.5, 0, ["q"] * 30)
