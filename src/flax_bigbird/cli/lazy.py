"""Commands whose options are built only when the command is used.

The options of `bigbird train masked-lm` come from pydantic classes, whose import takes longer than
`bigbird --help` should. A lazy command shows its name and its summary without them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand

from flax_bigbird.cli.errors import CommandError


def lazy_command(
    load: Callable[[], Callable[..., None]],
    explain_unknown_flag: Callable[[str], str] = lambda flag: "",
) -> type[TyperCommand]:
    """Returns a command class for `Typer.command(cls=...)`.

    The function that is registered with the class is never called; its docstring is the help.

    Args:
      load: Returns the function of the command, whose signature declares the options.
      explain_unknown_flag: Returns why the command has no flag of the given name, or "".
    """

    class LazyCommand(TyperCommand):
        def make_context(
            self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
        ) -> Any:
            app = typer.Typer(
                add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
            )
            app.command(self.name, help=self.help)(load())
            command = typer.main.get_command(app)
            given = list(args)
            try:
                return command.make_context(info_name, args, parent=parent, **extra)
            except Exception as error:
                # The parser's exceptions have no public name in all versions of typer.
                flag = getattr(error, "option_name", None)
                if flag and (reason := explain_unknown_flag(flag)):
                    raise CommandError(reason) from error
                if "unexpected extra argument" in str(error) and (
                    reason := _explain_extra_value(given, command.params)
                ):
                    raise CommandError(reason) from error
                raise

    return LazyCommand


def _explain_extra_value(arguments: Sequence[str], parameters: Sequence[Any]) -> str:
    """Explains a second value after a flag that takes one value and may be repeated.

    Args:
      arguments: The arguments of the command, as the user wrote them.
      parameters: The parameters of the parser's command.

    Returns:
      The explanation; "" if no such flag has a second value.
    """
    repeatable = {name for p in parameters if getattr(p, "multiple", False) for name in p.opts}
    for index, argument in enumerate(arguments):
        flag, separator, first = argument.partition("=")
        values = arguments[index + 1 :]
        if not separator:
            first, values = (values[0] if values else ""), values[1:]
        if flag in repeatable and values and not values[0].startswith("-"):
            return (
                f"{flag} takes one value; got {first!r} and {values[0]!r}: repeat the flag, as in "
                f"{flag} {first} {flag} {values[0]}"
            )
    return ""
