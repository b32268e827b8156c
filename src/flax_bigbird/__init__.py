"""BigBird, the long-document transformer, for JAX and Flax.

The public names stand in `_public.py`. They are loaded when one of them is first used, so that what
needs none of them (the command's help, its errors) does not wait a second for JAX and Flax.
"""

import importlib.util
from typing import TYPE_CHECKING, Any

from flax_bigbird._version import __version__ as __version__

if TYPE_CHECKING:
    from flax_bigbird._public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        if importlib.util.find_spec(f"{__name__}.{name}"):
            return importlib.import_module(f"{__name__}.{name}")
        from flax_bigbird import _public

        if hasattr(_public, name):
            return getattr(_public, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    from flax_bigbird import _public

    return sorted({*globals(), *(name for name in vars(_public) if not name.startswith("_"))})
