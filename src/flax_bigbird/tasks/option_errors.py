"""Says in words what pydantic reports about the value of an option."""

import types
import typing

import pydantic
from pydantic.fields import FieldInfo

from flax_bigbird.data.errors import OptionError


def option_error(
    options_class: type[pydantic.BaseModel], error: pydantic.ValidationError
) -> OptionError:
    """Returns the first error that pydantic reports as an `OptionError`."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, OptionError):
        return cause
    name, value = str(first["loc"][0]), first["input"]
    if first["type"] == "missing":
        return OptionError("must be given; got none: add it", option=name)
    field = options_class.model_fields[name]
    if first["type"] in ("greater_than_equal", "less_than_equal", "finite_number"):
        rule = f"must be {_range(field)}; got {_number(value)}: change it"
        return OptionError(rule, option=name)
    where = " in it" if len(first["loc"]) > 1 else ""
    type_name = _type_name(field)
    rule = f"must be of type {type_name}; got {value!r}{where}: change it"
    return OptionError(rule, option=name)


def _range(field: FieldInfo) -> str:
    """Returns the values that a field allows, in words."""
    low = next((limit.ge for limit in field.metadata if hasattr(limit, "ge")), None)
    high = next((limit.le for limit in field.metadata if hasattr(limit, "le")), None)
    if low is not None and high is not None:
        return f"between {_number(low)} and {_number(high)}"
    if low is not None:
        return f"at least {_number(low)}"
    return f"at most {_number(high)}" if high is not None else "finite"


def _number(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _type_name(field: FieldInfo) -> str:
    """Returns the type of a field as users read it, without `None`."""
    hint = field.annotation
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join(
        kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
        for kind in kinds
        if kind is not types.NoneType
    )
