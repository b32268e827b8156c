"""Pages of results: each is what its benchmark writes of its figures, and names all models."""

import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
# Sections of scale.md: those that a function `report` writes, and others.
SECTIONS = ("scale_mesh", "scale_plan", "scale_tpu")
OTHER_SECTIONS = ("scale_ray", "scale_sequence", "scale_streaming")
PAGES = sorted({path.stem for path in RESULTS.glob("*.json")} - {*SECTIONS, *OTHER_SECTIONS})
MODULES = {"accelerator_gpu": "accelerator"}


def module_of(page: str) -> str:
    """Returns the name of the benchmark that writes a page."""
    if page.endswith(("_forward_cpu", "_train_cpu")):
        return "model"
    if page.startswith("embedding_bigbird"):
        return "embedding"
    return MODULES.get(page, page.removesuffix("_cpu"))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_its_benchmark_writes(benchmark, name):
    """Otherwise, the next measurement would lose what someone wrote into the page."""
    figures = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    page = benchmark(module_of(name)).table(figures)
    committed = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    assert committed == benchmark("report").with_remarks(page, figures)


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_is_what_its_benchmark_writes(benchmark, name):
    figures = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    section = benchmark(name).report(figures).strip()
    assert f"\n{section}\n" in (RESULTS / "scale.md").read_text(encoding="utf-8")


def test_a_length_that_is_measured_again_occurs_once(benchmark, tmp_path, monkeypatch):
    masked_words = benchmark("masked_words")
    monkeypatch.setattr(masked_words, "held_out_texts", lambda path: {"books": ["a text"]})
    output = tmp_path / "masked_words.json"
    command = ["", "model", "--held-out-books", "books.parquet", "--output", str(output)]
    monkeypatch.setattr("sys.argv", command)
    for value in (2.5, 1.5):
        result = {length: {"bits_per_character": value, "error": 0.1} for length in (512, 4096)}
        monkeypatch.setattr(masked_words, "evaluate", lambda *_, result=result: result)
        masked_words.main()
    page = output.with_suffix(".md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `model`")]
    assert rows == [f"| `model` | books | {n} | 1.500 ± 0.100 |" for n in ("512", "4,096")]
    assert list(json.loads(output.read_text(encoding="utf-8"))["model"]["books"]) == ["512", "4096"]


def test_the_page_of_search_names_all_of_its_models(benchmark):
    search = benchmark("search")
    values = dict.fromkeys(search.METRICS, 0.5)
    runs = [
        {"model": model, "task": task, "title": task, "systems": {"bm25": values}}
        for model in ("first", "second")
        for task in ("books", "speeches")
    ]
    page = search.table({"machine": "a machine", "runs": runs})
    assert "search.py --data DATA --model first --model second`" in page
