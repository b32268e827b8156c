"""The metric that chooses the best model: which names may be given, and when others are refused."""

import pytest
from tiny_runs import tiny_run_options, write_jsonl

from flax_bigbird.data.errors import OptionError
from flax_bigbird.tasks.registry import TASKS, get_task, task_names
from flax_bigbird.train import setup, train
from flax_bigbird.train.trainer import Trainer

TEXT = "the cow grazes in a green meadow and farmers cut grass by an old barn every day"
WORDS = TEXT.split()


def unread_options(folder, task, metric):
    """Returns options with a metric; their files do not exist."""
    options = {"stride": 8} if task == "question-answering" else {}
    given = {"train_files": ["a.jsonl"], "metric_for_best_model": metric}
    return tiny_run_options(folder, task, **given, **options)


def labeled(*labels):
    return [{"text": f"{TEXT} {i}", "label": label} for i, label in enumerate(labels)]


def tagged(*tags):
    return [{"tokens": WORDS[: len(tags)], "tags": [*tags]}] * 4


def answered(*with_answer):
    there = {"text": ["a green meadow"], "answer_start": [TEXT.index("a green")]}
    none = {"text": [], "answer_start": []}
    common = {"question": "where ?", "context": TEXT}
    return [common | {"answers": there if has else none} for has in with_answer]


def paired(count, **columns):
    return [{"query": f"q {i}", "document": f"{TEXT} {i}"} | columns for i in range(count)]


CANDIDATES = {"query": "a cow", "documents": [TEXT, "a ship"], "labels": [1.0, 0.0]}
GRADED = {"query": "a hen", "documents": [TEXT, "a ship", "sea"], "labels": [1.0, 0.5, 0.0]}
ALONE = {"query": "a cow", "documents": [TEXT, "a barn"], "labels": [1.0, 1.0]}
SCORED = [{"query": "q", "document": f"{TEXT} {i}", "score": i / 4} for i in range(4)]
SCALED = {"matryoshka_dims": [8, 32]}
CLASSES, SETS = labeled("a", "b", "a", "b"), labeled(["a"], ["a", "b"], ["b"], ["a"])
CHOICES = [{"text": TEXT, "choices": ["a barn", "a ship"], "label": 0}] * 4
LISTWISE = {"loss": "listwise_softmax"}
TEXTS = [{"text": f"{TEXT} {TEXT} {i}"} for i in range(4)]

# The task, its options, the training rows, and the validation rows.
CASES = [
    ("masked-lm", {}, TEXTS, TEXTS),
    ("causal-lm", {}, TEXTS, TEXTS),
    ("next-sentence", {"max_length": 16}, TEXTS, TEXTS),
    ("sequence-classification", {}, CLASSES, CLASSES),
    ("sequence-classification", {}, CLASSES, labeled("a", "a")),
    ("sequence-classification", {}, labeled("a", "b", "c"), CLASSES),
    ("sequence-classification", {}, SETS, SETS),
    ("sequence-classification", {}, SETS, labeled(["a"], ["a"])),
    ("sequence-classification", {}, labeled(0.5, 1.5, 2.0), labeled(0.5, 1.5)),
    ("token-classification", {}, tagged("B-X", "I-X", "O"), tagged("B-X", "O")),
    ("token-classification", {}, tagged("NN", "VB"), tagged("NN", "NN")),
    ("question-answering", {"stride": 8}, answered(True, False), answered(True, False)),
    ("question-answering", {"stride": 8}, answered(True, False), answered(True, True)),
    ("question-answering", {"stride": 8}, answered(True, False), answered(False, False)),
    ("multiple-choice", {}, CHOICES, CHOICES),
    ("embedding", SCALED, paired(4), paired(4)),
    ("embedding", {}, paired(4), paired(12)),
    ("embedding", SCALED, SCORED, SCORED),
    ("embedding", {}, TEXTS, TEXTS),
    ("reranking", {}, [CANDIDATES] * 4, [CANDIDATES] * 2),
    ("reranking", {}, [CANDIDATES] * 4, [ALONE] * 2),
    ("reranking", LISTWISE, [CANDIDATES] * 4, [CANDIDATES, GRADED]),
]


@pytest.mark.parametrize(("task", "options", "rows", "validation_rows"), CASES)
def test_evaluations_compute_the_metrics_that_their_task_declares(
    tmp_path, monkeypatch, task, options, rows, validation_rows
):
    """The declaration is what `metric_for_best_model` is checked against before any work."""
    seen = {}

    def record(given, config, rows):
        task_class = get_task(given.task)
        seen["early"] = task_class.evaluation_metrics(given)
        seen["exact"] = task_class.evaluation_metrics(given, config, rows)
        return choose_best_metric(given, config, rows)

    choose_best_metric = setup.choose_best_metric
    monkeypatch.setattr(setup, "choose_best_metric", record)
    files = {
        "train_files": [write_jsonl(tmp_path / "train.jsonl", rows)],
        "validation_files": [write_jsonl(tmp_path / "validation.jsonl", validation_rows)],
    }
    given = {"max_steps": 1, "eval_steps": 1, "save_steps": 9, "max_length": 48, **options}
    report = train(tiny_run_options(tmp_path, task, **files, **given))
    assert set(report["metrics"]) == set(seen["exact"])
    assert set(seen["exact"]) <= set(seen["early"])
    assert report["best_metric"] in seen["exact"]


def test_every_task_is_among_the_cases():
    assert {task for task, *_ in CASES} == {*task_names("train")} & {*TASKS}


@pytest.mark.parametrize("task", sorted({task for task, *_ in CASES}))
def test_a_name_that_the_task_never_computes(tmp_path, task):
    """Hours into a run, at its first evaluation, would be too late."""
    with pytest.raises(OptionError, match=r"must be one of .*loss.* for .*; got 'f2'"):
        unread_options(tmp_path, task, "f2")


@pytest.mark.parametrize(
    ("task", "name", "message"),
    [
        ("sequence-classification", "eval_accuracy", "got 'eval_accuracy': did you mean accuracy?"),
        ("question-answering", "eval_f1", r"one of f1, .*; got 'eval_f1': did you mean f1\?"),
        ("question-answering", "best_f1_threshold", "one of f1, exact, .*best_f1, loss for"),
        ("embedding", "loss_dim_8", r"recall_at_100, spearman, pearson, loss for .*'loss_dim_8'"),
    ],
)
def test_names_with_a_prefix_or_without_a_direction(tmp_path, task, name, message):
    with pytest.raises(OptionError, match=message):
        unread_options(tmp_path, task, name)


@pytest.mark.parametrize(
    ("task", "options", "rows", "validation_rows", "message"),
    [
        (
            "sequence-classification",
            {"metric_for_best_model": "auroc"},
            CLASSES,
            labeled("a", "a"),
            "one of accuracy, macro_f1, matthews, loss; got 'auroc': choose one of them",
        ),
        (
            "sequence-classification",
            {"metric_for_best_model": "micro_f1"},
            CLASSES,
            CLASSES,
            "one of accuracy, .*; got 'micro_f1'",
        ),
        (
            "reranking",
            LISTWISE,
            [CANDIDATES] * 4,
            [ALONE],
            "one of average_precision, loss; got none, which stands for 'ndcg_at_10'",
        ),
    ],
)
def test_a_name_that_the_data_do_not_define(
    tmp_path, task, options, rows, validation_rows, message
):
    files = {
        "train_files": [write_jsonl(tmp_path / "train.jsonl", rows)],
        "validation_files": [write_jsonl(tmp_path / "validation.jsonl", validation_rows)],
    }
    with pytest.raises(OptionError, match=message):
        train(tiny_run_options(tmp_path, task, **files, **options))
    assert [path.name for path in (tmp_path / "run").glob("*") if path.name != ".lock"] == []


def test_the_loss_of_first_dimensions_is_better_if_it_is_lower(tmp_path, monkeypatch):
    """The highest one was taken for the best."""
    losses = iter([3.0, 2.0, 4.0])
    evaluate = Trainer.evaluate

    def replace_loss(self, params):
        metrics, outputs = evaluate(self, params)
        return metrics | {"loss_dim_8": next(losses)}, outputs

    monkeypatch.setattr(Trainer, "evaluate", replace_loss)
    monkeypatch.setattr(Trainer, "evaluate_model", evaluate_model_with(evaluate))
    data = write_jsonl(tmp_path / "rows.jsonl", paired(8))
    options = {"metric_for_best_model": "loss_dim_8", "matryoshka_dims": [8], "max_steps": 3}
    report = train(
        tiny_run_options(
            tmp_path,
            "embedding",
            train_files=[data],
            validation_files=[data],
            eval_steps=1,
            **options,
        )
    )
    assert report["best_step"] == 2


def evaluate_model_with(evaluate):
    return lambda self, model: evaluate(self, self._steps.place_params(model.params))
