"""Sets up every test: offline, with full float32 precision and with checked annotations."""

import atexit
import collections
import importlib.metadata
import os
import shutil
import signal
import tempfile

# A shell starts background processes with SIGINT ignored; the tests of Ctrl-C need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests compile much and compute little. With less optimized machine code, which is generated in one
# part, and with the older code generator for fused loops, they take a quarter of the time. XLA's
# passes over the program itself are the same as for users.
_fast_flags = [
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # XLA aborts on unknown flags
    _fast_flags.append("--xla_cpu_use_fusion_emitters=false")
_user_flags = os.environ.get("XLA_FLAGS", "")
_added_flags = [flag for flag in _fast_flags if flag.split("=")[0] not in _user_flags]
os.environ["XLA_FLAGS"] = " ".join([_user_flags, *_added_flags]).strip()

# No program is compiled twice in a run of the tests: the processes of pytest and those that the
# tests start share a directory of compiled programs, which the first of them makes and removes.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.mkdtemp(prefix="flax-bigbird-tests-")
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# Every call of a function in these packages is checked against its annotations, shapes included.
TYPECHECKED: tuple[str, ...] = (
    "flax_bigbird._lazy",
    "flax_bigbird._signals",
    "flax_bigbird._transformers",
    "flax_bigbird.attention",
    "flax_bigbird.checkpoint",
    "flax_bigbird.config",
    "flax_bigbird.generation",
    "flax_bigbird.models",
    "flax_bigbird.nn",
    "flax_bigbird._mesh_axes",
    "flax_bigbird.parallel",
    "flax_bigbird.pretrained",
    "flax_bigbird.data",
    "flax_bigbird.tasks",
    "flax_bigbird.train",
    "flax_bigbird.inference",
    "flax_bigbird.server",
    "flax_bigbird.cli",
)
# Directories whose tests train models, in which optax promotes dtypes. What a task computes in a
# step is tested strictly in tests/tasks/test_step_dtypes.py.
TRAINING_TESTS = ("cli", "docs", "examples", "inference")
jaxtyping.install_import_hook(TYPECHECKED, "beartype.beartype")

pytest.register_assert_rewrite("attention_suite", "tiny_models")

# By default, accelerators multiply float32 in lower precision; the tolerances are for float32.
jax.config.update("jax_default_matmul_precision", "highest")

hypothesis.settings.register_profile(
    "shared",
    deadline=None,  # the first example of a shape compiles
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("shared")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Puts the files with the most slow tests first, so that no process is left with them alone."""
    num_slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -num_slow[item.path])


@pytest.fixture
def unchecked_annotations():
    """Turns off the checks of annotations, for tests that pass arguments of a wrong type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def limited_time():
    """Raises after five minutes: some files made `transformers` run for ever."""

    def end(number, frame):
        raise TimeoutError("a file is not refused in time")

    previous = signal.signal(signal.SIGALRM, end)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture
def standard_dtype_promotion():
    """Turns strict promotion off where other libraries promote: Flax in half precision, optax."""


@pytest.fixture(autouse=True)
def _strict_dtype_promotion(request):
    """Makes every operation that would change a dtype implicitly an error."""
    is_strict = not (
        "standard_dtype_promotion" in request.fixturenames
        or request.path.parent.name in TRAINING_TESTS
    )
    with jax.numpy_dtype_promotion("strict" if is_strict else "standard"):
        yield


@pytest.fixture(autouse=True, scope="module")
def _clear_compiled_programs():
    """Frees the memory maps of compiled programs; XLA crashes past Linux' limit of 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _reset_warnings(monkeypatch):
    """Makes warnings that are given once per process appear once per test."""
    from flax_bigbird.models import language_modeling

    monkeypatch.setattr(language_modeling, "_given_warnings", set())
