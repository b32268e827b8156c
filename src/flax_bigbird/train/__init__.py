"""From files to a trained model: options, data, losses, the loop, and what a run leaves.

from flax_bigbird.train import TrainOptions, train

train(TrainOptions(task="masked-lm", train_files=["texts"], output_dir="run"))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flax_bigbird.train.evaluating import evaluate as evaluate
    from flax_bigbird.train.evaluating import evaluate_options as evaluate_options
    from flax_bigbird.train.loop import Interrupted as Interrupted
    from flax_bigbird.train.loop import TrainingError as TrainingError
    from flax_bigbird.train.options import EvaluateOptions as EvaluateOptions
    from flax_bigbird.train.options import OptionError as OptionError
    from flax_bigbird.train.options import TrainOptions as TrainOptions
    from flax_bigbird.train.reading import DataError as DataError
    from flax_bigbird.train.run import train as train

# Loaded when first used: the losses need none of what the loop is made of.
_WHERE = {
    "DataError": "reading",
    "EvaluateOptions": "options",
    "Interrupted": "loop",
    "OptionError": "options",
    "TrainOptions": "options",
    "TrainingError": "loop",
    "evaluate": "evaluating",
    "evaluate_options": "evaluating",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
