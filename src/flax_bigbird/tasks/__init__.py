"""Text in, answer out: classify, tag, answer, fill masks, choose.

from flax_bigbird.tasks import load

classify = load("folder")
classify("The jury finds ...")  # {"label": ..., "score": ..., "scores": {...}}
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flax_bigbird.tasks.base import Task as Task
    from flax_bigbird.tasks.errors import DataError as DataError
    from flax_bigbird.tasks.errors import OptionError as OptionError
    from flax_bigbird.tasks.loading import load as load
    from flax_bigbird.tasks.options import AnswerOptions as AnswerOptions
    from flax_bigbird.tasks.predicting import predict as predict

# Loaded when first used: options are read without what a model needs.
_WHERE = {
    "AnswerOptions": "options",
    "DataError": "errors",
    "OptionError": "errors",
    "Task": "base",
    "load": "loading",
    "predict": "predicting",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
