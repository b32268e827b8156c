"""The tasks that models are trained, evaluated, and used for.

Each task is one module with a subclass of `flax_bigbird.tasks.base.Task`; `registry` lists them.
Importing this package imports none of them.
"""

from flax_bigbird.data.errors import DataError as DataError
from flax_bigbird.data.errors import OptionError as OptionError
from flax_bigbird.tasks.registry import get_options_class as get_options_class
from flax_bigbird.tasks.registry import get_task as get_task
from flax_bigbird.tasks.registry import register_task as register_task
from flax_bigbird.tasks.registry import task_names as task_names
