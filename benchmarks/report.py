"""What benchmarks have in common: the machine, the memory of a process, and files of results."""

import argparse
import json
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any


def processor() -> str:
    """Returns the name of the processor, according to Linux."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def machine() -> dict[str, Any]:
    """Returns the processor, the number of cores, and the version of Python."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def memory_kib(field: str = "VmHWM", process: int | str = "self") -> int:
    """Returns the memory of a process in KiB, according to Linux.

    Args:
      field: `VmHWM`, the peak of the resident memory, or `VmRSS`, what is resident now. The peak
        of `getrusage` is no substitute: a process inherits it from the one that started it.
      process: The id of the process; by default, this one.
    """
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    return next(int(row.split()[1]) for row in status.splitlines() if row.startswith(f"{field}:"))


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    """Returns the mean and, if there are several values, their standard deviation."""
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def changed_options(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, *names: str
) -> str:
    """Returns those of some options that do not have their default, as on the command line."""
    words = []
    for name in names:
        value = getattr(arguments, name)
        if value != parser.get_default(name):
            values = value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return "".join(f" {word}" for word in words)


def write_results(path: Path, result: Any, page: str) -> None:
    """Writes the figures as JSON, and their page beside it as Markdown.

    Args:
      path: The path of either file, or both without their suffixes.
      result: The figures. Someone who looks at them may add "remarks" to the JSON, in Markdown.
      page: The Markdown.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(with_remarks(page, result), encoding="utf-8")


def with_remarks(page: str, result: Any) -> str:
    """Returns a page with the remarks at its end that the figures have, if any."""
    remarks = result.get("remarks") if isinstance(result, dict) else None
    return f"{page}\n{remarks}\n" if remarks else page


def write_section(path: Path, name: str, result: Any, section: str) -> None:
    """Replaces one section of a page that several scripts write, and writes its figures as JSON.

    Args:
      path: The page. The JSON is in a file beside it, `name.json`.
      name: The name of the section, which a comment above it holds.
      result: The figures.
      section: The Markdown, from its heading on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = path.with_name(f"{name}.json")
    figures.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    page = path.read_text(encoding="utf-8") if path.exists() else "# Scale\n"
    head, *sections = re.split(r"^<!-- (\w+) -->\n", page, flags=re.MULTILINE)
    texts = dict(zip(sections[::2], sections[1::2], strict=True)) | {name: f"{section.strip()}\n\n"}
    body = "".join(f"<!-- {key} -->\n{text}" for key, text in texts.items())
    path.write_text(f"{head.strip()}\n\n{body.rstrip()}\n", encoding="utf-8")
