"""What every test runs under: offline, full float32 products, no example deadlines."""

import importlib.metadata
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests compile much and compute little: less care for machine code, and the older way of making it
# for fused loops, take a third of the time. What XLA does to the program itself is as for users.
_faster = ["--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # a flag that is unknown ends XLA
    _faster.append("--xla_cpu_use_fusion_emitters=false")
_given = os.environ.get("XLA_FLAGS", "")
_added = [flag for flag in _faster if flag.split("=")[0] not in _given]
os.environ["XLA_FLAGS"] = " ".join([_given, *_added]).strip()

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# Shapes and types of every call into these packages are checked against their annotations.
TYPECHECKED: tuple[str, ...] = (
    "flax_bigbird.data",
    "flax_bigbird.tasks",
    "flax_bigbird.train",
    "flax_bigbird.inference",
    "flax_bigbird.cli",
)
jaxtyping.install_import_hook(TYPECHECKED, "beartype.beartype")

pytest.register_assert_rewrite("attention_suite", "tiny_models")

# Accelerators multiply float32 in fewer bits by default; the tolerances here are those of float32.
jax.config.update("jax_default_matmul_precision", "highest")

hypothesis.settings.register_profile(
    "shared",
    deadline=None,  # the first example of a shape compiles
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("shared")


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """Each compiled program holds some of the process' memory maps, of which Linux grants 65,530;
    past them XLA crashes.
    """
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _warn_again(monkeypatch):
    """A warning that is given once a process is given once a test."""
    from flax_bigbird.models import base

    monkeypatch.setattr(base, "_warned", set())
