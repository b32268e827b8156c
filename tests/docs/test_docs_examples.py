"""The documentation is true: its Python examples run, and its links and result pages exist."""

import re
import tomllib
from pathlib import Path

import pytest
from several_devices import run_with_devices

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"

# `<!-- setup ... -->` holds names that the examples use; `<!-- runnable -->` precedes an example.
EXAMPLE = re.compile(
    r"<!-- setup\n(?P<setup>.*?)\n-->|<!-- runnable -->\n```python\n(?P<example>.*?)\n```",
    re.DOTALL,
)
PAGES = sorted(path for path in DOCS.rglob("*.md") if EXAMPLE.search(path.read_text("utf-8")))


# Examples add a new head to a checkpoint, which warns that its parameters are new.
@pytest.mark.filterwarnings("ignore::flax_bigbird.checkpoint.CheckpointWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples(page)


def run_examples(page: Path, end: str | None = None) -> dict:
    """Runs the examples of a page, up to a heading if one is given, and returns their names."""
    text = page.read_text("utf-8")
    text = text[: None if end is None else text.index(end)]
    names: dict = {"__name__": "example"}
    for match in EXAMPLE.finditer(text):
        source = match["setup"] or match["example"]
        first_line = text[: match.end()].count("\n") - source.count("\n")
        code = compile("\n" * (first_line - 1) + source, str(page), "exec")  # true line numbers
        exec(code, names)
    return names


SEVERAL_DEVICES = """
import warnings
import jax, numpy as np
from test_docs_examples import DOCS, run_examples
warnings.simplefilter("ignore")
names = run_examples(DOCS / "custom-training.md", "## Language modeling")
params = jax.tree.map(lambda x: x.astype("float32"), names["params"])
batch, labels, key = (names[name] for name in ("batch", "labels", "key"))
sharded = names["sharded_step"](params, batch, labels, key)
gradient = jax.jit(jax.value_and_grad(names["loss_fn"]))
parts = [
    gradient(params, {k: v[i : i + 1] for k, v in batch.items()}, labels[i : i + 1], own_key)
    for i, own_key in enumerate(jax.random.fold_in(key, i) for i in range(2))
]
for got, one, other in zip(*map(jax.tree.leaves, (sharded, *parts))):
    np.testing.assert_allclose(got, (one + other) / 2, atol=1e-5)
print(jax.device_count())
"""


def test_the_example_of_several_devices(tmp_path):
    """Its gradients on two devices are the mean of those of the two halves of the batch."""
    program = tmp_path / "program.py"
    program.write_text(SEVERAL_DEVICES)
    assert run_with_devices([str(program)], count=2).split() == ["2"]


def test_every_marked_block_is_found():
    for page in DOCS.rglob("*.md"):
        text = page.read_text("utf-8")
        found = sum(bool(match["example"]) for match in EXAMPLE.finditer(text))
        assert text.count("<!-- runnable -->") == found, page
    assert len(PAGES) >= 6


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"]
)
def test_links_to_files_exist(name):
    page = ROOT / name
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8"))
    for target in targets:
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{name} links to {target}"


def test_every_page_of_results_is_in_the_site():
    navigation = (ROOT / "zensical.toml").read_text("utf-8")
    tomllib.loads(navigation)
    for results in (ROOT / "benchmarks/results").glob("*.md"):
        page = DOCS / "benchmarks/results" / results.name
        assert page.read_text("utf-8") == f'--8<-- "benchmarks/results/{results.name}"\n'
        assert f'"benchmarks/results/{results.name}"' in navigation


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "zensical.toml").read_text("utf-8")
    for page in DOCS.rglob("*.md"):
        assert f'"{page.relative_to(DOCS).as_posix()}"' in navigation, page
