"""The `bigbird` command: parses the command line and reports every failure in one line."""

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flax_bigbird.cli.errors import CommandError, InterruptedWork
from flax_bigbird.cli.lazy import lazy_command
from flax_bigbird.tasks.registry import task_names, task_summary

FAILED = 2  # The exit code of every error.
INTERRUPTED = 130  # The exit code after Ctrl-C, by shell convention.


class MainGroup(TyperGroup):
    """Shows its help if no command is given, with the commands in the order users need them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def list_commands(self, ctx: Any) -> list[str]:
        names = (
            "train",
            "evaluate",
            "predict",
            "embed",
            "index",
            "search",
            "serve",
            "attention",
            "demo",
            "info",
            "version",
        )
        return [*names, *(name for name in super().list_commands(ctx) if name not in names)]


class TrainGroup(TyperGroup):
    """Lists the tasks in an error message if none is given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args:
            raise CommandError(
                f"a task must be given; got none: choose one of {', '.join(task_names())}"
            )
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=MainGroup,
    help="BigBird, the transformer for long documents, for JAX and Flax.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(
    cls=TrainGroup,
    help="Train a model for a task on files or datasets: pretraining and fine-tuning. A run that "
    "was interrupted is resumed if the same command is given again.",
)
app.add_typer(train_app, name="train")


def _load_train(task: str) -> Callable[..., None]:
    from flax_bigbird.cli.train import train_command

    return train_command(task)


def _load_evaluate() -> Callable[..., None]:
    from flax_bigbird.cli.evaluate import evaluate_command

    return evaluate_command()


def _load_predict() -> Callable[..., None]:
    from flax_bigbird.cli.predict import predict_command

    return predict_command()


def _load_embed() -> Callable[..., None]:
    from flax_bigbird.cli.embed import embed_command

    return embed_command()


def _load_index() -> Callable[..., None]:
    from flax_bigbird.cli.index import index_command

    return index_command()


def _load_search() -> Callable[..., None]:
    from flax_bigbird.cli.search import search_command

    return search_command()


def _load_serve() -> Callable[..., None]:
    from flax_bigbird.cli.serve import serve_command

    return serve_command()


def _load_attention() -> Callable[..., None]:
    from flax_bigbird.cli.attention import attention_command

    return attention_command()


def _explain_unknown_flag(command: str, task: str | None, flag: str) -> str:
    from flax_bigbird.cli.flags import explain_unknown_flag

    return explain_unknown_flag(flag, command, task)  # type: ignore[arg-type]


def _explain_unknown_flag_of_index(flag: str) -> str:
    from flax_bigbird.cli.index import explain_unknown_flag

    return explain_unknown_flag(flag)


for _task in task_names():
    train_app.command(
        _task,
        cls=lazy_command(
            functools.partial(_load_train, _task),
            functools.partial(_explain_unknown_flag, "train", _task),
        ),
        help=task_summary(_task),
    )(lambda: None)


@app.command(
    cls=lazy_command(_load_evaluate, functools.partial(_explain_unknown_flag, "evaluate", None))
)
def evaluate() -> None:
    """Compute the metrics of a model on labeled data: accuracy, F1, perplexity, and so on.

    Columns, labels and lengths are those that the model was trained with, unless flags change them.
    """


@app.command(
    cls=lazy_command(_load_predict, functools.partial(_explain_unknown_flag, "predict", None))
)
def predict() -> None:
    """Write an answer for every row of files, in order, to a JSONL or Parquet file.

    A prediction that was interrupted is resumed if the same command is given again. Columns and
    lengths are those that the model was trained with, unless flags change them.
    """


@app.command(
    cls=lazy_command(_load_embed, functools.partial(_explain_unknown_flag, "embed", "embedding"))
)
def embed() -> None:
    """Write a vector for every document of files, or for each of its chunks, to Parquet or NumPy.

    An embedding that was interrupted is resumed if the same command is given again. With
    --chunk-tokens or --chunk-sentences, each document is read once, and every chunk gets the mean
    of its tokens as they were read in the whole document.
    """


@app.command(cls=lazy_command(_load_index, _explain_unknown_flag_of_index))
def index() -> None:
    """Index a folder of long texts for search, or update its index.

    Each document is read once, as a whole, and every chunk of it gets a vector. If the index
    exists, only files that are new or changed are read by the model. An interrupted command is
    resumed if it is given again; until it is complete, an index that exists stays as it is.
    """


@app.command(cls=lazy_command(_load_search))
def search() -> None:
    """Search an index: print the passages that answer a question best, and where they are."""


@app.command(cls=lazy_command(_load_serve))
def serve() -> None:
    """Answer requests over HTTP: embeddings, classes, answers, entities, and more.

    Clients of text-embeddings-inference, OpenAI and the Hugging Face Inference API can be used.
    The server listens on this machine only, unless --host says otherwise.
    """


@app.command(cls=lazy_command(_load_attention))
def attention() -> None:
    """Write what a model attends to in a document to an HTML file or a PNG.

    The HTML file is the viewer of the server's page, and opens without a server. It has the map of
    blocks of all layers and heads, and what each --token reads and what reads it.
    """


@app.command()
def demo(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The directory for the model and the report."),
    ] = Path("demo-out"),
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**32 - 1, help="The seed of new parameters and of the batches."),
    ] = 0,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Train all layers for this many steps. By default, only the head is fitted."
        ),
    ] = None,
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="Start from random parameters, for comparison."),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Train for two steps on short texts, to check the installation."
        ),
    ] = False,
) -> None:
    """Fit the shipped model to State of the Union addresses, in about two minutes."""
    from flax_bigbird.cli.demo import run_demo

    run_demo(output, seed=seed, steps=steps, from_scratch=from_scratch, quick=quick)


@app.command()
def info() -> None:
    """Print versions, devices, and which attention implementations are available."""
    from flax_bigbird.cli.info import lines

    typer.echo("\n".join(lines()))


@app.command()
def version() -> None:
    """Print the version."""
    from flax_bigbird._version import __version__

    typer.echo(__version__)


def run(arguments: Sequence[str] | None = None) -> None:
    """The entry point: exits with 0, 2 after an error, 130 after Ctrl-C, or 143 after SIGTERM."""
    sys.exit(main(arguments))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Args:
      arguments: The arguments; by default, those of the process.
    """
    try:
        result = app(args=arguments, prog_name="bigbird", standalone_mode=False)
    except CommandError as error:
        return _fail(str(error))
    except InterruptedWork as error:
        typer.echo(f"bigbird: {error}", err=True)
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted()
    except OSError as error:
        return _fail(f"the operating system reported an error: {error}")
    except Exception as error:
        # The parser's exceptions have no public name in all versions of typer.
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "bigbird"
        message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        return _fail(f"{message}: see {command} --help")
    if result == INTERRUPTED:
        return _interrupted()
    return result if isinstance(result, int) else 0


def _fail(message: str) -> int:
    typer.echo(f"bigbird: {' '.join(message.split())}", err=True)
    return FAILED


def _interrupted() -> int:
    typer.echo("bigbird: interrupted", err=True)
    return INTERRUPTED
