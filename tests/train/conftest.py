"""Strict dtypes, and compiled programs on disk: many runs here compile the same small programs."""

import jax
import optax
import pytest
from compiled_programs import kept_on_disk

from flax_bigbird.train import trainer


@pytest.fixture(autouse=True, scope="package")
def _compiled_programs(tmp_path_factory):
    with kept_on_disk(tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture(autouse=True, scope="package")
def _strict_dtype_promotion():
    """No operation of ours may widen a dtype implicitly; optax's own update does."""
    create_optimizer = trainer.create_optimizer

    def create_lenient_optimizer(*args):
        optimizer = create_optimizer(*args)

        def update(*args, **kwargs):
            with jax.numpy_dtype_promotion("standard"):
                return optimizer.update(*args, **kwargs)

        return optax.GradientTransformation(optimizer.init, update)

    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("strict"):
        patch.setattr(trainer, "create_optimizer", create_lenient_optimizer)
        yield
