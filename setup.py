"""The native CPU kernel, an extension that may fail to build; everything else is in pyproject.toml.

It needs a C++17 compiler (GCC or Clang) and the XLA FFI headers, which ship in jaxlib. Without
either the install succeeds and attention runs as plain JAX (`bigbird info` says so).
"""

import importlib.util
import sys
from pathlib import Path

from setuptools import Extension, setup


def extensions() -> list[Extension]:
    """The kernel, or nothing where the headers are missing."""
    spec = importlib.util.find_spec("jaxlib")
    folders = spec.submodule_search_locations if spec else None
    headers = [Path(folder) / "include" for folder in folders or ()]
    if not any((folder / "xla/ffi/api/ffi.h").exists() for folder in headers):
        print("flax-bigbird: no XLA FFI headers, the CPU kernel is not built", file=sys.stderr)
        return []
    sources = Path("csrc")
    return [
        Extension(
            "flax_bigbird.attention.backends._cpu",
            sources=sorted(str(path) for path in sources.glob("*.cc")),
            depends=sorted(str(path) for path in (*sources.glob("*.h"), *sources.glob("*.inc"))),
            include_dirs=[str(folder) for folder in headers],
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-g0",
                "-ffp-contract=fast",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-fvisibility=hidden",
                "-Wno-psabi",
            ],
            py_limited_api=True,  # it does not call Python at all
            optional=True,
        )
    ]


setup(ext_modules=extensions(), options={"bdist_wheel": {"py_limited_api": "cp311"}})
