"""`bigbird search`: prints the passages of an index that answer a question best."""

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flax_bigbird.cli.errors import CommandError
from flax_bigbird.cli.flags import (
    argument,
    command_from_parameters,
    field_flag,
    in_panel_order,
    parse_flags,
)
from flax_bigbird.cli.terminal import print_plainly
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.data.json_output import to_json
from flax_bigbird.inference.search.options import SearchArguments, check_packages
from flax_bigbird.tasks.options import option_fields

if TYPE_CHECKING:
    from flax_bigbird.inference import SearchResult

SNIPPET_LENGTH = 300  # characters


def search_command() -> Callable[..., None]:
    """Returns the function of `bigbird search`, with its flags."""
    fields = option_fields(SearchArguments)
    parameters = [
        argument("index", str, "The directory of the index."),
        argument("query", str, "The question."),
        *in_panel_order(field_flag(name, field) for name, field in fields.items()),
    ]
    return command_from_parameters(run_search, parameters)


def run_search(index: str, query: str, **flags: Any) -> None:
    """Prints the results of a search.

    Raises:
      CommandError: if an extra is missing, or if the index, its model or an option cannot be used.
    """
    try:
        arguments = SearchArguments(**parse_flags(flags, option_fields(SearchArguments)))
        check_packages()
        from flax_bigbird.cli.compilation import enable_compilation_cache
        from flax_bigbird.inference import open_index

        enable_compilation_cache()
        options = arguments.as_dict()
        format, model = options.pop("format"), options.pop("model")
        with open_index(index, model=model) as opened:
            results = opened.search(query, **options)
    except (OptionError, DataError) as error:
        raise CommandError(str(error)) from error
    if format == "json":
        print(to_json([result._asdict() for result in results], indent=1))
    else:
        _print_table(results)


def _print_table(results: Sequence["SearchResult"]) -> None:
    """Prints each result with its place and the start of its text."""
    from rich.console import Console

    console = Console()
    for number, result in enumerate(results, 1):
        row = "" if result.row is None else f", row {result.row}"
        place = f"{result.file}{row}, line {result.line}, characters {result.start}-{result.end}"
        print_plainly(console, f"{number}. {place}  ({result.score:.4f})", style="bold")
        snippet = textwrap.shorten(result.text, SNIPPET_LENGTH, placeholder=" ...")
        print_plainly(console, f"   {snippet}")
    if not results:
        print_plainly(console, "no results")
