"""Writes report.json, the figures and the model card of a finished run."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird._messages import pluralize
from flax_bigbird.checkpoint import atomic_write_text
from flax_bigbird.data.json_output import to_json
from flax_bigbird.train.run_directory import RunDirectory
from flax_bigbird.train.setup import PreparedRun

_MAX_CLASSES = 40  # a larger confusion matrix is not legible


def write_report(directory: RunDirectory, run: PreparedRun, report: dict[str, Any]) -> None:
    """Writes the figures, if matplotlib is installed, the model card and report.json.

    report.json is written last, because it marks the run as finished.

    Args:
      directory: The run directory.
      run: The run.
      report: The content of report.json.
    """
    has_figures = _has_matplotlib()
    if has_figures:
        plot_losses(directory.root / "loss.png", report)
    matrix = report.get("confusion_matrix")
    if has_figures and matrix is not None and len(matrix["labels"]) <= _MAX_CLASSES:
        path = directory.root / "confusion_matrix.png"
        plot_confusion_matrix(path, np.array(matrix["rows"]), matrix["labels"])
    atomic_write_text(directory.root / "README.md", model_card(run, report, has_figures))
    atomic_write_text(directory.report, to_json(report, indent=2) + "\n")


def plot_losses(path: Path, report: dict[str, Any]) -> None:
    """Draws the training loss by step, and the validation loss if there is one."""
    figure, axes = _new_figure()
    steps, losses = zip(*report["losses"], strict=True) if report["losses"] else ((), ())
    axes.plot(steps, losses, label="training", linewidth=1)
    points = [(e["step"], e["loss"]) for e in report["evaluations"] if "loss" in e]
    if points:
        axes.plot(*zip(*points, strict=True), "o-", label="validation", markersize=3)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def plot_confusion_matrix(path: Path, counts: np.ndarray, labels: list[str]) -> None:
    """Draws a confusion matrix.

    Args:
      path: The PNG file.
      counts: `[classes, classes]`; rows are the true classes, columns the predicted ones.
      labels: The names of the classes.
    """
    figure, axes = _new_figure()
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for (row, column), number in np.ndenumerate(counts):
        if number:
            color = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, str(number), ha="center", va="center", color=color, fontsize=7)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def model_card(run: PreparedRun, report: dict[str, Any], has_figures: bool) -> str:
    """Returns the model card, in the format of the Hugging Face Hub.

    Args:
      run: The run.
      report: The content of report.json.
      has_figures: Whether there is a figure of the losses.
    """
    name = Path(run.options.output_dir).expanduser().resolve().name
    start = run.initial_model
    lines = [
        "---",
        "library_name: flax-bigbird",
        f"pipeline_tag: {run.task.pipeline_tag}",
        "tags:",
        "- bigbird",
        "- long-documents",
        *([f"base_model: {start}"] if start else []),
        "---",
        "",
        f"# {name}",
        "",
        f"{run.task.title}: a BigBird with {report['parameters']:,} parameters for documents of up "
        f"to {run.options.length:,} tokens. "
        + (f"It was fine-tuned from {start}." if start else "It was trained from scratch."),
        "",
        "## Data",
        "",
        _data_sentence(run, report),
        "",
        "## Results",
        "",
        *_result_lines(report),
        "## Training",
        "",
        f"{pluralize(report['steps'], 'step')}, {pluralize(report['tokens'], 'token')}, "
        f"{report['seconds']:,.0f} s. The options are in `options.yaml`, the "
        "metrics in `metrics.jsonl`.",
        "",
        *(["![loss](loss.png)", ""] if has_figures else []),
    ]
    return "\n".join(lines)


def _data_sentence(run: PreparedRun, report: dict[str, Any]) -> str:
    training, validation = report["training"], report["validation"]
    files = ", ".join(Path(path).name for path in run.options.train_files)
    name = run.options.dataset or files
    sentence = f"{name}: a stream for training"
    if "rows" in training:
        rows, tokens = pluralize(training["rows"], "row"), pluralize(training["tokens"], "token")
        sentence = f"{name}: {rows} with {tokens} for training"
    return sentence + (f", {validation['rows']:,} for validation." if validation else ".")


def _result_lines(report: dict[str, Any]) -> list[str]:
    if not report["metrics"]:
        return ["The run had no validation data.", ""]
    return [
        f"On the validation data, after step {report['best_step']:,} (the best by "
        f"{report['best_metric']}):",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {key} | {value:.4f} |" for key, value in report["metrics"].items()),
        "",
    ]


def _has_matplotlib() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _new_figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # pyplot would need a display and keep global state

    figure = Figure(figsize=(6, 4))
    return figure, figure.add_subplot()
