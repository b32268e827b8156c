"""Strict dtypes: an operation of ours that widens one fails its test."""

import jax
import optax
import pytest

from flax_bigbird.train import trainer


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
