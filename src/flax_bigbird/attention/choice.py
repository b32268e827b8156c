"""Running the first implementation that takes a call."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array

logger = logging.getLogger(__name__)


def run_first(
    implementations: Mapping[str, Callable[..., Array]],
    wanted: str | None,
    *args: Any,
    **kwargs: Any,
) -> Array:
    """Runs the implementation `wanted`, or the first that does not decline.

    Raises:
      ValueError: there is none of that name.
      NotImplementedError: the one that was asked for declines, with its reason; or all do.
    """
    if wanted is not None:
        if wanted not in implementations:
            raise ValueError(
                f"implementation must be one of {sorted(implementations)} or None; got {wanted!r}"
            )
        return implementations[wanted](*args, **kwargs)
    for name, function in implementations.items():
        try:
            return function(*args, **kwargs)
        except NotImplementedError as reason:
            logger.debug("attention implementation %s declines: %s", name, reason)
    raise NotImplementedError("no attention implementation takes this call")
