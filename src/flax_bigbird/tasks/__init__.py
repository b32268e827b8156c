"""Text in, answer out: classify, tag, answer, fill masks, choose.

from flax_bigbird.tasks import load

classify = load("folder")
classify("The jury finds ...")  # {"label": ..., "score": ..., "scores": {...}}
"""

from typing import TYPE_CHECKING

from flax_bigbird import _lazy

if TYPE_CHECKING:
    from flax_bigbird.tasks.base import Task as Task
    from flax_bigbird.tasks.errors import DataError as DataError
    from flax_bigbird.tasks.errors import OptionError as OptionError
    from flax_bigbird.tasks.loading import load as load
    from flax_bigbird.tasks.options import AnswerOptions as AnswerOptions
    from flax_bigbird.tasks.predicting import predict as predict
else:
    __getattr__, __dir__ = _lazy.attach(__name__, __file__)
