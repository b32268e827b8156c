"""Training: from text files to a model directory.

    from flax_bigbird.train import train, train_options

    report = train(train_options("masked-lm", train_files=["speeches"], output_dir="pretrained"))

`run.py` reads top to bottom: options (`arguments.py`), task, model and data (`setup.py`), the loop
(`trainer.py`), the report (`report.py`).
"""

from typing import TYPE_CHECKING

from flax_bigbird import _lazy

if TYPE_CHECKING:
    from flax_bigbird.data.errors import DataError as DataError
    from flax_bigbird.data.errors import OptionError as OptionError
    from flax_bigbird.parallel.lost_processes import LostProcessError as LostProcessError
    from flax_bigbird.train.arguments import TrainingArguments as TrainingArguments
    from flax_bigbird.train.arguments import train_options as train_options
    from flax_bigbird.train.arguments import train_options_class as train_options_class
    from flax_bigbird.train.callbacks import StopOnSignal as StopOnSignal
    from flax_bigbird.train.callbacks import TrainerCallback as TrainerCallback
    from flax_bigbird.train.errors import TrainingError as TrainingError
    from flax_bigbird.train.errors import TrainingInterrupted as TrainingInterrupted
    from flax_bigbird.train.option_files import read_yaml as read_yaml
    from flax_bigbird.train.option_files import to_yaml as to_yaml
    from flax_bigbird.train.run import train as train
    from flax_bigbird.train.state import TrainerState as TrainerState
else:
    __getattr__, __dir__ = _lazy.attach(__name__, __file__)
