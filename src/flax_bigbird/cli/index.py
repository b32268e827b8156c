"""`bigbird index`: indexes a folder of long texts, or updates its index."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flax_bigbird._messages import pluralize
from flax_bigbird.cli.bulk import output_flags, run_on_files
from flax_bigbird.cli.errors import CommandError
from flax_bigbird.cli.flags import (
    argument,
    command_from_parameters,
    field_flag,
    in_panel_order,
    parse_flags,
)
from flax_bigbird.data.errors import OptionError
from flax_bigbird.inference.search.options import (
    FILE_OPTIONS,
    IndexArguments,
    check_options,
    check_packages,
)
from flax_bigbird.tasks.options import command_options, option_fields

if TYPE_CHECKING:
    from flax_bigbird.inference import IndexSummary

FOLDER_HELP = (
    "The folder with text files, Markdown files, and tables (JSON, CSV, Parquet) that have a "
    "column of texts. Folders in it are read, too."
)
MAX_LISTED = 10  # files that could not be read, or that are alike


def index_command() -> Callable[..., None]:
    """Returns the function of `bigbird index`, with its flags."""
    flags = [field_flag(name, field) for name, field in _fields().items()]
    parameters = [
        argument("folder", str, FOLDER_HELP),
        *in_panel_order([*output_flags("The directory of the index.", "INDEX"), *flags]),
    ]
    return command_from_parameters(run_index, parameters)


def _fields() -> dict[str, Any]:
    fields = option_fields(command_options("embedding", "embed", IndexArguments))
    return {name: field for name, field in fields.items() if name not in FILE_OPTIONS}


def explain_unknown_flag(flag: str) -> str:
    """Explains a flag of embedding that an index cannot have; returns "" for others."""
    try:
        check_options([flag.lstrip("-").replace("-", "_")])
    except OptionError as error:
        return str(error)
    return ""


def run_index(folder: str, output: str | None, overwrite: bool | None, **flags: Any) -> None:
    """Builds or updates the index `output`, with a progress bar.

    Raises:
      CommandError: if an extra is missing, or if options, model or data cannot be used.
      InterruptedWork: if Ctrl-C, SIGTERM or SIGUSR1 stopped it; what was embedded is saved.
    """
    try:
        check_packages()
    except OptionError as error:
        raise CommandError(str(error)) from error

    def work(target: str, on_message: Callable[[str], None], **events: Any) -> int:
        from flax_bigbird.inference import build_index

        options = parse_flags(flags, _fields())
        summary = build_index(
            folder,
            target,
            overwrite=bool(overwrite),
            on_message=on_message,
            **options,
            **events,
        )
        for line in _report(summary):
            on_message(line)
        return summary.num_files

    run_on_files(work, [folder], output, "INDEX", "the index", "file")


def _report(summary: "IndexSummary") -> Iterator[str]:
    """Yields what was done, and what was not."""
    for path, reason in summary.skipped[:MAX_LISTED]:
        yield f"skipped {path}: {reason.rstrip('.')}"
    if len(summary.skipped) > MAX_LISTED:
        more = len(summary.skipped) - MAX_LISTED
        yield pluralize(more, "more file was skipped", "more files were skipped")
    for path, other in summary.duplicates[:MAX_LISTED]:
        yield f"{path} is the same as {other}, and is indexed once"
    if len(summary.duplicates) > MAX_LISTED:
        more = len(summary.duplicates) - MAX_LISTED
        yield pluralize(
            more, "more file is the same as another", "more files are the same as others"
        )
    if summary.empty:
        first = summary.empty[0]
        yield pluralize(
            len(summary.empty), f"file is empty, {first}", f"files are empty, {first} first"
        )
    if summary.num_others:
        yield pluralize(
            summary.num_others,
            "file of another format is not indexed",
            "files of other formats are not indexed",
        )
    yield (
        f"{pluralize(summary.num_added, 'file')} added, {summary.num_changed:,} changed, "
        f"{summary.num_removed:,} removed; {pluralize(summary.num_chunks, 'chunk')}"
    )
