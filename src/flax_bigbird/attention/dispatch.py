"""Runs the first implementation that accepts a call, and reports why the others declined.

An implementation declines a call by raising `NotImplementedError` with its reason.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array

logger = logging.getLogger(__name__)


def unavailability(
    implementations: Mapping[str, Callable[..., Array]],
    unavailable: Mapping[str, Callable[[], str]],
) -> dict[str, str]:
    """Returns why each implementation cannot run on this machine, `""` for those that can.

    Args:
      implementations: The functions by name.
      unavailable: For the implementations that do not run everywhere, a function that returns the
        reason.
    """
    return {name: unavailable[name]() if name in unavailable else "" for name in implementations}


@functools.cache
def _log_once(name: str, reason: str) -> None:
    """Logs each reason once, because a model makes the same call in every layer."""
    logger.debug("attention implementation %s declines: %s", name, reason)


def run_first(
    implementations: Mapping[str, Callable[..., Array]],
    implementation: str | None,
    *args: Any,
    **kwargs: Any,
) -> Array:
    """Runs the implementation that is asked for, or else the first that does not decline.

    Args:
      implementations: The functions by name, in order of preference.
      implementation: A name, or None for the first that accepts the call.
      *args, **kwargs: The call.

    Raises:
      ValueError: If there is no implementation of that name.
      NotImplementedError: If the implementation that was asked for declines, or if all do. In the
        second case the message lists every reason, and the cause is an `ExceptionGroup` of them.
    """
    if implementation is not None:
        if implementation not in implementations:
            raise ValueError(
                f"implementation must be one of {sorted(implementations)} or None; got "
                f"{implementation!r}"
            )
        return implementations[implementation](*args, **kwargs)
    reasons: dict[str, NotImplementedError] = {}
    for name, function in implementations.items():
        try:
            return function(*args, **kwargs)
        except NotImplementedError as reason:
            _log_once(name, str(reason))
            reasons[name] = reason
    listed = "".join(f"\n  {name}: {reason}" for name, reason in reasons.items())
    raise NotImplementedError(
        f"no attention implementation accepts this call:{listed}"
    ) from ExceptionGroup("every attention implementation declines", list(reasons.values()))
