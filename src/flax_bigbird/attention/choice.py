"""Running the first implementation that takes a call."""

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

logger = logging.getLogger(__name__)

KEPT = "flax_bigbird_attention"  # the name of what attention saves for its backward pass


def kept(results: tuple[Array, ...]) -> tuple[Array, ...]:
    """Under the name `KEPT`, by which a rematerialisation policy can save them."""
    return tuple(checkpoint_name(x, KEPT) for x in results)


def reasons(
    implementations: Mapping[str, Callable[..., Array]],
    unavailable: Mapping[str, Callable[[], str]],
) -> dict[str, str]:
    """Why each implementation cannot run on this machine at all; `""` if it can."""
    return {name: unavailable[name]() if name in unavailable else "" for name in implementations}


@functools.cache
def _report(name: str, reason: str) -> None:
    """Once for each reason: a model makes the same call in every layer."""
    logger.debug("attention implementation %s declines: %s", name, reason)


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
            _report(name, str(reason))
    raise NotImplementedError("no attention implementation takes this call")
