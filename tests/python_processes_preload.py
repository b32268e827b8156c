"""What the programs of `python_processes` import; none of it may start threads or use a device."""

import datasets  # noqa: F401
import flax.linen  # noqa: F401
import jax  # noqa: F401
import optax.contrib  # noqa: F401
import orbax.checkpoint  # noqa: F401
import pandas  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.metrics  # noqa: F401

import flax_bigbird
import flax_bigbird.inference
import flax_bigbird.tasks
import flax_bigbird.train
from flax_bigbird._transformers import quiet

with quiet():
    from transformers import AutoTokenizer, BigBirdConfig  # noqa: F401

for package in (flax_bigbird, flax_bigbird.inference, flax_bigbird.tasks, flax_bigbird.train):
    for name in dir(package):  # they are imported when they are first used
        getattr(package, name)
