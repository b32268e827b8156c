"""Prints the lowest versions that pyproject.toml allows, as a pip constraints file.

python .ci/lower_bounds.py train test > constraints.txt
pip install -c constraints.txt -e ".[test]"

Each requirement of the base install and of the extras on the command line becomes `name==bound`.
A requirement without a lower bound is an error, except for extras of this package itself.
"""

import argparse
import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def constraint(requirement: str) -> str | None:
    """Returns `name==bound` for `name>=bound,...`; None for one of this package's own extras."""
    name = re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0]
    if name == "flax-bigbird":
        return None
    bound = re.search(r"[>=]=\s*([0-9][0-9A-Za-z.]*)", requirement)
    if bound is None:
        raise SystemExit(
            f"every requirement in pyproject.toml needs a lower bound; got {requirement!r}: "
            "write the lowest version that the tests pass with"
        )
    return f"{name}=={bound[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*", help="extras whose requirements are included")
    extras = parser.parse_args().extras
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    requirements = list(project["dependencies"])
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    constraints = {constraint(requirement) for requirement in requirements}
    print("\n".join(sorted(constraints - {None})))


if __name__ == "__main__":
    main()
