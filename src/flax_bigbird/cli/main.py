"""The `bigbird` command: parses the line, calls the work, turns failures into one line each."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from flax_bigbird.cli import evaluate, predict, train
from flax_bigbird.cli.errors import CommandError, InterruptedWork

FAILED = 2  # exit code of every error
INTERRUPTED = 130  # of Ctrl-C, as shells have it

app = typer.Typer(
    help="BigBird, the long-document transformer, for JAX and Flax.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def version() -> None:
    """Print the version."""
    from flax_bigbird._version import __version__

    typer.echo(__version__)


@app.command()
def info() -> None:
    """Print versions, devices, and which attention implementations run here."""
    from flax_bigbird.cli.info import lines

    typer.echo("\n".join(lines()))


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the model and the report.")
    ] = Path("demo-out"),
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of the weights and the batches.")
    ] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Begin with random parameters, to compare.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two steps on short texts: a check, no result.")
    ] = False,
) -> None:
    """Fine-tune the shipped model on whole State of the Union addresses; about four minutes."""
    from flax_bigbird.cli.demo.command import run_demo

    run_demo(output, seed=seed, steps=steps, from_scratch=from_scratch, quick=quick)


app.command("train")(train.signature())
app.command("evaluate")(evaluate.signature())
app.command("predict")(predict.signature())


def run(arguments: Sequence[str] | None = None) -> None:
    """The console entry. Exits with 0, 2 after an error, 130 after Ctrl-C."""
    sys.exit(main(arguments))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line (default: the process's own) and returns its exit code."""
    try:
        result = app(args=arguments, prog_name="bigbird", standalone_mode=False)
    except CommandError as error:
        return _fail(str(error))
    except InterruptedWork as stop:
        typer.echo(f"bigbird: {stop}", err=True)
        return INTERRUPTED
    except KeyboardInterrupt:
        return _interrupted()
    except OSError as error:
        return _fail(f"the system refused: {error}")
    except Exception as error:
        # The parser's own errors: typer brings its own copy of click, or imports click, by version.
        if not hasattr(error, "format_message"):
            raise
        return _fail(f"{error.format_message()} (see: bigbird --help)")  # type: ignore[attr-defined]
    if result == INTERRUPTED:
        return _interrupted()
    return result if isinstance(result, int) else 0


def _fail(message: str) -> int:
    typer.echo(f"bigbird: {' '.join(message.split())}", err=True)
    return FAILED


def _interrupted() -> int:
    typer.echo("bigbird: interrupted; nothing was changed", err=True)
    return INTERRUPTED
