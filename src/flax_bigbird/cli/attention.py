"""`bigbird attention`: writes what a model attends to in a document, as HTML or as a PNG."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flax_bigbird._messages import pluralize
from flax_bigbird.checkpoint import atomic_write_bytes
from flax_bigbird.cli.bulk import MODEL_HELP, output_flags
from flax_bigbird.cli.errors import CommandError, require
from flax_bigbird.cli.flags import (
    argument,
    command_from_parameters,
    field_flag,
    in_panel_order,
    parse_flags,
)
from flax_bigbird.data.errors import DataError, OptionError
from flax_bigbird.inference.attention_options import AttentionArguments
from flax_bigbird.tasks.options import option_fields

SUFFIXES = (".html", ".png")


def attention_command() -> Callable[..., None]:
    """Returns the function of `bigbird attention`, with its flags."""
    fields = option_fields(AttentionArguments)
    flags = [field_flag(name, field) for name, field in fields.items()]
    files = output_flags("The file to write, which ends in .html or .png.", "FILE")
    parameters = [
        argument("model", str, MODEL_HELP),
        argument("file", str, "The document, a text file."),
        *in_panel_order([*files, *flags]),
    ]
    return command_from_parameters(run_attention, parameters)


def run_attention(
    model: str, file: str, output: str | None, overwrite: bool | None, **flags: Any
) -> None:
    """Writes the attention over a document.

    Raises:
      CommandError: if an extra is missing, or if the model, the document or an option cannot be
        used.
    """
    target = _check_output(output, bool(overwrite))
    if target.suffix.lower() == ".png":
        require("matplotlib", "train")
    try:
        arguments = AttentionArguments(**parse_flags(flags, option_fields(AttentionArguments)))
        from flax_bigbird.cli.compilation import enable_compilation_cache
        from flax_bigbird.inference.document_attention import document_attention, read_document

        text = read_document(file)
        enable_compilation_cache()
        attention = document_attention(model, text, arguments)
    except (OptionError, DataError) as error:
        raise CommandError(str(error)) from error
    if target.suffix.lower() == ".png":
        from flax_bigbird.inference.attention_figure import attention_png

        content = attention_png(attention)
    else:
        from flax_bigbird.server.standalone_page import attention_page

        title = f"Attention of {Path(model).name} over {Path(file).name}"
        content = attention_page(attention, title).encode("utf-8")
    atomic_write_bytes(target, content)
    shown = attention.map
    read = pluralize(shown["num_tokens"], "token")
    if shown["num_windows"] > 1:
        read += f", window {shown['window']} of {shown['num_windows']}"
    print(f"{read}: {target}")


def _check_output(output: str | None, overwrite: bool) -> Path:
    """Returns the path of the output.

    Raises:
      CommandError: if it is missing, has another suffix, exists, or has no directory.
    """
    from flax_bigbird.data.files import check_output_directory

    if output is None:
        raise CommandError("output must be given; got none: add --output map.html")
    target = Path(output).expanduser()
    if target.suffix.lower() not in SUFFIXES:
        raise CommandError(f"output must end in .html or .png; got {output}: choose another name")
    if target.is_dir() or (target.exists() and not overwrite):
        raise CommandError(
            f"output must be new; {target} exists: choose another name, or add --overwrite"
        )
    try:
        check_output_directory(target)
    except OptionError as error:
        raise CommandError(str(error)) from error
    return target
