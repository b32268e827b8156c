"""The platform that programs run on, which decides what computes attention."""

import jax


def current_platform() -> str:
    """Returns "cpu", "gpu" or "tpu": that of `jax.default_device`, or else of JAX's backend.

    A program on a machine with a GPU may run on its CPU, as one that is called under
    `jax.default_device(jax.devices("cpu")[0])` does. `jax.default_backend` does not say so.
    """
    device = jax.config.values["jax_default_device"]
    if device is None:
        return jax.default_backend()
    platform = device if isinstance(device, str) else device.platform
    return "gpu" if platform in ("cuda", "rocm") else platform
