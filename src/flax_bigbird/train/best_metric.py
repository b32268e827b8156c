"""Checks `metric_for_best_model`, and chooses the metric that decides which model is the best."""

from typing import Any, NamedTuple

from flax_bigbird.data.errors import OptionError
from flax_bigbird.data.types import Dataset
from flax_bigbird.tasks.option_names import nearest
from flax_bigbird.tasks.registry import get_task

_OPTION = "metric_for_best_model"
_PREFIX = "eval_"  # of the names in `transformers`


class BestMetric(NamedTuple):
    """The metric that decides which model of a run is the best.

    Attributes:
      name: Its name.
      greater_is_better: Whether a greater value is better.
    """

    name: str
    greater_is_better: bool


def check_metric_for_best_model(name: str, task: str, options: Any) -> None:
    """Checks that the evaluations of a task can compute a metric, before any data are read.

    Args:
      name: The name of the metric.
      task: The name of the task.
      options: The options of the run.

    Raises:
      OptionError: if they cannot, whatever the data are, or if no value of it is better.
    """
    known = _names(get_task(task).evaluation_metrics(options))
    if name not in known:
        remedy = nearest(name.removeprefix(_PREFIX), known) or "choose one of them"
        raise OptionError(
            f"must be one of {', '.join(known)} for {task}; got {name!r}: {remedy}", option=_OPTION
        )


def choose_best_metric(options: Any, config: Any, rows: Dataset) -> BestMetric:
    """Returns the metric that decides which model is the best, before anything is written.

    Args:
      options: The options of the run, with the columns of the data.
      config: The configuration of the model, with the keys that follow from the training data.
      rows: The validation rows.

    Raises:
      OptionError: if the validation data do not define the metric.
      DataError: if a row cannot be used.
    """
    task = get_task(options.task)
    task.check_rows(options, rows, "validation")
    default = _names(task.evaluation_metrics(options, config))[0]
    metrics = task.evaluation_metrics(options, config, rows)
    name = options.metric_for_best_model or default
    if name not in _names(metrics):
        shown = f"{name!r}" if options.metric_for_best_model else f"none, which stands for {name!r}"
        raise OptionError(
            "must be a metric that the labels of the training and validation data define, one of "
            f"{', '.join(_names(metrics))}; got {shown}: choose one of them, or check the data",
            option=_OPTION,
        )
    return BestMetric(name, bool(metrics[name]))


def _names(metrics: Any) -> list[str]:
    """Returns the names of the metrics of which some values are better than others."""
    return [name for name, greater_is_better in metrics.items() if greater_is_better is not None]
