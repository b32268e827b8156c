"""Pages of results: what is measured again replaces what was there, and all models are named."""

import json


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
