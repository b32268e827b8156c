"""Commands whose options are built only when the command is used.

The options of `bigbird train masked-lm` come from pydantic classes, whose import takes longer than
`bigbird --help` should. A lazy command shows its name and its summary without them.
"""

from collections.abc import Callable
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
            try:
                return command.make_context(info_name, args, parent=parent, **extra)
            except Exception as error:
                # The parser's exceptions have no public name in all versions of typer.
                flag = getattr(error, "option_name", None)
                if flag and (reason := explain_unknown_flag(flag)):
                    raise CommandError(reason) from error
                raise

    return LazyCommand
