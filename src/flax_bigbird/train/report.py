"""What a finished run leaves to read: report.json, a loss curve, a model card."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from flax_bigbird.tasks.files import write_whole
from flax_bigbird.train import metrics
from flax_bigbird.train.objectives import Objective
from flax_bigbird.train.options import TrainOptions
from flax_bigbird.train.outputs import RunFolder, as_json

MOST_CLASSES = 40  # a larger confusion matrix cannot be read
TITLES = {
    "causal-lm": "Causal language model",
    "masked-lm": "Masked language model",
    "multiple-choice": "Multiple choice",
    "next-sentence": "Masked language model with next-sentence prediction",
    "question-answering": "Question answering",
    "sequence-classification": "Document classifier",
    "token-classification": "Word tagger",
}
TAGS = {
    "causal-lm": "text-generation",
    "masked-lm": "fill-mask",
    "multiple-choice": "multiple-choice",
    "next-sentence": "fill-mask",
    "question-answering": "question-answering",
    "sequence-classification": "text-classification",
    "token-classification": "token-classification",
}


def read(folder: RunFolder) -> dict[str, Any]:
    return json.loads(folder.report.read_text(encoding="utf-8"))


def write(
    folder: RunFolder,
    options: TrainOptions,
    objective: Objective,
    found: dict[str, Any],
    outputs: dict[str, np.ndarray] | None,
) -> None:
    """Pictures and card first: a folder with report.json is complete."""
    loss_curve(folder.root / "loss.png", found)
    names = getattr(objective, "names", [])
    if outputs is not None and getattr(objective, "mode", "") == "single-label":
        predicted = outputs["logits"].argmax(-1)
        table = metrics.confusion(outputs["labels"], predicted, len(names))
        found["confusion_matrix"] = {"labels": names, "rows": table.tolist()}
        if len(names) <= MOST_CLASSES:
            confusion_picture(folder.root / "confusion_matrix.png", table, names)
    write_whole(folder.root / "README.md", card(options, found))
    write_whole(folder.report, as_json(found))


def loss_curve(path: Path, found: dict[str, Any]) -> None:
    """Training loss, and validation loss where there is one, by step."""
    figure, axes = _figure()
    steps, losses = zip(*found["losses"], strict=True) if found["losses"] else ((), ())
    axes.plot(steps, losses, label="training", linewidth=1)
    points = [(e["step"], e["loss"]) for e in found["evaluations"] if "loss" in e]
    if points:
        axes.plot(*zip(*points, strict=True), "o-", label="validation", markersize=3)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def confusion_picture(path: Path, table: np.ndarray, names: list[str]) -> None:
    """Rows are true classes, columns predicted ones."""
    figure, axes = _figure()
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    for (row, column), count in np.ndenumerate(table):
        if count:
            shade = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=shade, fontsize=7)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot there is no display and no global state

    figure = Figure(figsize=(6, 4))
    return figure, figure.add_subplot()


def card(options: TrainOptions, found: dict[str, Any]) -> str:
    """The model card, in the form that model hubs read."""
    training, validation = found["training"], found["validation"]
    source = options.dataset or ", ".join(Path(path).name for path in options.train_files)
    name = Path(options.output_dir).expanduser().resolve().name
    lines = [
        "---",
        "library_name: flax-bigbird",
        f"pipeline_tag: {TAGS[options.task]}",
        "tags:",
        "- bigbird",
        "- long-documents",
        *([f"base_model: {options.start}"] if options.start else []),
        "---",
        "",
        f"# {name}",
        "",
        f"{TITLES[options.task]}: BigBird, {found['parameters']:,} parameters, documents of up to "
        f"{options.length:,} tokens. "
        + (f"Started from {options.start}." if options.start else "Trained from nothing."),
        "",
        "## Data",
        "",
        f"{source}: {training['rows']:,} rows of {training['tokens']:,} tokens to train on"
        + (f"; {validation['rows']:,} held out to validate on." if validation else "."),
        "",
        "## Results",
        "",
    ]
    if found["metrics"]:
        lines += [
            f"On the validation rows, after step {found['best_step']:,} (the best by "
            f"{found['best_metric']}):",
            "",
            "| metric | value |",
            "|---|---|",
            *(f"| {key} | {value:.4f} |" for key, value in found["metrics"].items()),
            "",
        ]
    else:
        lines += ["Nothing was held out: there are no results.", ""]
    lines += [
        "## Training",
        "",
        f"{found['steps']:,} steps, {found['tokens']:,} tokens, {found['seconds']:,.0f} s; "
        "options in `options.yaml`, metrics in `metrics.jsonl`.",
        "",
        "![loss](loss.png)",
        "",
    ]
    return "\n".join(lines)
