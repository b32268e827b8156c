"""The state of a run: the best evaluation, the end of a run, and checkpoints with older names."""

import json
import math

import pytest

from flax_bigbird.data.errors import DataError
from flax_bigbird.train import TrainerState
from flax_bigbird.train.errors import TrainingError


def test_the_best_evaluation_and_early_stopping():
    state = TrainerState(max_steps=100, eval_steps=1)
    losses, is_best = [3.0, 2.0, 2.5, 2.0], []
    for step, loss in enumerate(losses, 1):
        state.global_step = step
        is_best.append(state.record_evaluation({"loss": loss}, "loss", lower_is_better=True))
    assert is_best == [True, True, False, False]
    assert (state.best_metric, state.best_step) == (2.0, 2)
    assert state.evaluations[2] == {"step": 3, "loss": 2.5}
    assert not state.is_finished(None)
    assert not state.is_finished(3)
    assert state.is_finished(2)
    state.global_step = 100
    assert state.is_finished(None)


def test_a_metric_that_is_no_number_is_never_better():
    state = TrainerState(max_steps=100, eval_steps=1)
    nan = float("nan")
    values = [state.record_evaluation({"f1": v}, "f1", lower_is_better=False) for v in (nan, nan)]
    assert values == [True, False]
    values = [state.record_evaluation({"f1": v}, "f1", lower_is_better=False) for v in (0.1, nan)]
    assert values == [True, False]
    assert state.best_metric == 0.1


def test_outputs_of_nan_have_metrics_of_nan_but_for_the_first_evaluation():
    state = TrainerState(max_steps=100, eval_steps=1, global_step=7)
    with pytest.raises(TrainingError, match="some are NaN after step 7: lower learning_rate"):
        state.nan_metrics()
    state.record_evaluation({"f1": 0.5, "loss": 1.0}, "f1", lower_is_better=False)
    metrics = state.nan_metrics()
    assert metrics == pytest.approx({"f1": math.nan, "loss": math.nan}, nan_ok=True)
    assert not state.record_evaluation(metrics, "f1", lower_is_better=False)


def test_a_best_model_that_was_saved_after_the_checkpoint():
    """The file of the better model has replaced that of the checkpoint, which is lost."""
    state = TrainerState(max_steps=100, eval_steps=1, evaluations_since_best=1)
    state.best_metric, state.best_step, state.global_step = 0.5, 3, 4
    state.restore_best(3, 0.5)
    assert state.evaluations_since_best == 1
    state.restore_best(6, 0.7)
    is_best = []
    for step, value in ((5, 0.6), (6, 0.69), (7, 0.68)):
        state.global_step = step
        is_best.append(state.record_evaluation({"f1": value}, "f1", lower_is_better=False))
    assert is_best == [False, True, False]  # rounding may differ when step 6 is repeated
    assert (state.best_metric, state.best_step, state.evaluations_since_best) == (0.69, 6, 1)


def test_a_higher_metric_may_be_better():
    state = TrainerState(max_steps=100, eval_steps=1)
    values = [state.record_evaluation({"f1": f1}, "f1", lower_is_better=False) for f1 in (1.0, 2.0)]
    assert values == [True, True]


def test_a_state_survives_json():
    state = TrainerState(max_steps=10, eval_steps=5, global_step=3, losses=[(1, 2.5)])
    restored = TrainerState(max_steps=10, eval_steps=5)
    restored.restore(json.loads(json.dumps(state.to_dict())))
    assert (restored.global_step, restored.losses) == (3, [[1, 2.5]])


def test_a_checkpoint_with_the_previous_names():
    previous = {"step": 3, "data": {"a": 1}, "tokens": 7, "seconds": 1.5, "losses": []}
    previous |= {"evaluations": [], "best": 0.5, "best_step": 2, "worse": 1}
    state = TrainerState(max_steps=10, eval_steps=5)
    state.restore(previous)
    expected = TrainerState(10, 5, 3, {"a": 1}, 7, 1.5, [], [], 0.5, 2, 1)
    assert state == expected


def test_a_run_does_not_resume_with_other_data():
    saved = TrainerState(10, 5, global_step=3, data_fingerprint="a").to_dict()
    changed = TrainerState(10, 5, data_fingerprint="b")
    with pytest.raises(DataError, match="resumes with the data that it was started with; the cont"):
        changed.restore(saved)
    del saved["data_fingerprint"]  # of a run of an earlier version
    changed.restore(saved)
    assert (changed.global_step, changed.data_fingerprint) == (3, "b")
