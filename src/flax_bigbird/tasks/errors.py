"""What tasks refuse."""


class OptionError(ValueError):
    """An option whose value is not allowed: the rule, the value, the remedy."""


class DataError(ValueError):
    """Data that cannot be used: the rule, the place, the remedy."""
