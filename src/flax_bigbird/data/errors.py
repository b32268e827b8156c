"""The exceptions for options and data that cannot be used."""


class OptionError(ValueError):
    """An option has a value that is not allowed.

    The message states the rule, the received value, and the remedy.
    """


class DataError(ValueError):
    """The data cannot be used.

    The message states the rule, the row or line that breaks it, and the remedy.
    """


class TokenizerWarning(UserWarning):
    """Warns that the files of a tokenizer do not agree with each other."""


class UnknownTokensWarning(UserWarning):
    """Warns that much of a text is unknown to the tokenizer."""
