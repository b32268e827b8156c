"""The exceptions for options and data that cannot be used."""


class OptionError(ValueError):
    """An option has a value that is not allowed.

    The message states the rule, the received value, and the remedy.

    Attributes:
      option: The name of the option with which the message begins; None if that is not known.
      rule: The message without that name, for a user who knows the option by another one.
    """

    def __init__(self, message: str = "", *, option: str | None = None):
        super().__init__(message if option is None else f"{option} {message}")
        self.option, self.rule = option, message


class DataError(ValueError):
    """The data cannot be used.

    The message states the rule, the row or line that breaks it, and the remedy.
    """


class MissingColumnError(DataError):
    """The data do not have a column that is needed.

    Attributes:
      column: The name of the column.
      rule: The message without the remedy, for a caller who knows the option that names the column.
    """

    column = rule = ""


class TokenizerWarning(UserWarning):
    """Warns that the files of a tokenizer do not agree with each other."""


class UnknownTokensWarning(UserWarning):
    """Warns that much of a text is unknown to the tokenizer."""
