"""From files to a trained model: options, data, losses, the loop, and what a run leaves.

from flax_bigbird.train import TrainOptions, train

train(TrainOptions(task="masked-lm", train_files=["texts"], output_dir="run"))
"""

from typing import TYPE_CHECKING

from flax_bigbird import _lazy

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
else:
    __getattr__, __dir__ = _lazy.attach(__name__, __file__)
