"""The loaders of the data sets of `benchmarks/documents.py`, on what is odd in the real files."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from flax_bigbird.inference.rows import rows_as_dataset
from flax_bigbird.tasks.registry import get_task
from flax_bigbird.tasks.tag_schemes import detect_tag_scheme


def articles(label_names: tuple[object, object]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {"id": f"{n:07}", "text": f"Article {n} of the day", "label": label_names[n % 2]}
        for n in range(20)
    ]
    rows[2]["text"] = "Fox &amp; Friends\nEmbed &lt;iframe&gt; &gt;&gt; Read \u201cmore\u201d"
    rows[9]["text"] = rows[3]["text"]
    return rows


@pytest.mark.parametrize("names", [("mainstream", "hyperpartisan"), ("false", "true")])
def test_hyperpartisan_articles_have_plain_texts_and_labels(benchmark, write_parquet, names):
    folder = write_parquet("hyperpartisan/articles", articles(names))
    data = benchmark("document_sets").load_hyperpartisan(folder)
    assert data.texts[2] == "Fox & Friends\nEmbed <iframe> >> Read \u201cmore\u201d"
    np.testing.assert_array_equal(data.labels, np.arange(20) % 2 == 1)
    assert data.folds[3] == data.folds[9]  # the same text
    assert sorted(Counter(data.folds.tolist()).values()) == [4, 4, 4, 4, 4]
    assert {tuple(sorted(data.labels[data.folds == fold])) for fold in range(5)} == {
        (False, False, True, True)
    }


def test_unknown_labels_are_refused(benchmark, write_parquet):
    folder = write_parquet("hyperpartisan/articles", articles(("no", "true")))
    with pytest.raises(SystemExit, match=r"labels must be among .*; got \['no'\]"):
        benchmark("document_sets").load_hyperpartisan(folder)


def test_movie_reviews_keep_the_published_folds(benchmark, write_parquet):
    """Two reviews have the same id, one of each class."""
    numbers = {"train": (0, 199, 200, 799), "validation": (800,), "test": (900, 999)}
    folder = Path()
    for split, own in numbers.items():
        rows = [
            {"id": f"cv{n:03}", "text": f"{label} {n}", "label": label}
            for label in ("neg", "pos")
            for n in own
        ]
        folder = write_parquet(f"movie_reviews/{split}", rows)
    data = benchmark("document_sets").load_movie_reviews(folder)
    by_text = dict(zip(data.texts, zip(data.labels, data.folds, strict=True), strict=True))
    assert len(by_text) == 14
    expected = {0: 0, 199: 0, 200: 1, 799: 3, 800: 4, 900: 4, 999: 4}
    for number, fold in expected.items():
        assert by_text[f"neg {number}"] == (False, fold)
        assert by_text[f"pos {number}"] == (True, fold)


def questions() -> list[dict[str, object]]:
    """Returns questions about seven papers, of which the first has most of them."""
    rows: list[dict[str, object]] = []
    for paper, count in enumerate((6, 3, 3, 2, 2, 1, 1)):
        context = (
            f"Title {paper}\n\nhttps://example.org\n\nThe virus has {paper} genes. It is round."
        )
        for number in range(count):
            text, start = "It is round", context.index("It is round")
            if number == 1:  # the published answers begin with a space, and their offset is its end
                text = f" {text}"
            if number == 2:  # an offset that is too low
                start -= 3
            answers = {"text": [text], "answer_start": [start]}
            rows.append(
                {
                    "id": f"{paper}{number}",
                    "article": str(paper),
                    "question": "What shape?",
                    "context": context,
                    "answers": answers,
                }
            )
    return rows


def write_questions(write_parquet):
    rows = questions()
    folder = Path()
    for split, part in (("train", rows[:9]), ("validation", rows[9:12]), ("test", rows[12:])):
        folder = write_parquet(f"covid_qa/{split}", part)
    return folder


def test_covid_qa_is_divided_by_paper(benchmark, write_parquet):
    sets = benchmark("document_sets")
    rows, folds = sets.load_covid_qa(write_questions(write_parquet))
    assert len(rows) == 18
    papers = defaultdict(set)
    for row, fold in zip(rows, folds.tolist(), strict=True):
        papers[row["article"]].add(fold)
    assert all(len(of_paper) == 1 for of_paper in papers.values())
    assert sorted(Counter(folds.tolist()).values()) == [3, 3, 3, 3, 6]
    sample = sets.sample_questions(rows, 2, seed=0)
    assert Counter(row["article"] for row in sample) == {
        **dict.fromkeys("01234", 2),
        **dict.fromkeys("56", 1),
    }
    assert sample == sets.sample_questions(rows, 2, seed=0) != sets.sample_questions(rows, 2, 1)


def test_offsets_of_covid_qa_are_corrected(benchmark, write_parquet):
    """The library reads the rows as they are published, and moves answers to their texts."""
    rows, _ = benchmark("document_sets").load_covid_qa(write_questions(write_parquet))
    task = get_task("question-answering")
    options = task.options_class(max_length=64, stride=8)
    dataset = rows_as_dataset(rows, "text", task.columns(options))
    (message,) = task.check_rows(options, dataset, "train")
    shifted = sum(count > 1 for count in (6, 3, 3, 2, 2)) + sum(c > 2 for c in (6, 3, 3))
    assert message.startswith(f"{shifted} answers of the training data are not where answer_start")
    assert message.endswith("by up to 3 characters")


def books() -> list[dict[str, object]]:
    book = {
        "id": "bleak_house",
        "tokens": ["CHAPTER", "I", "Sir", "Leicester", "Dedlock", "'s", "house", "\u2014"],
        "tags": ["O", "O", "B-PER", "I-PER", "I-PER", "O", "B-FAC", "O"],
    }
    return [book, book | {"id": "emma", "tags": ["B-PER", "B-PER", *["O"] * 6]}]


def test_litbank_has_a_tag_of_iob2_for_every_token(benchmark, write_parquet):
    folder = Path()
    for split, part in (("train", books()), ("validation", books()[:1]), ("test", books()[1:])):
        folder = write_parquet(f"litbank_entities/{split}", part)
    train, test = benchmark("document_sets").load_litbank(folder)
    assert [len(train), len(test)] == [3, 1]
    assert train[0]["tags"][2:5] == ["B-PER", "I-PER", "I-PER"]
    assert detect_tag_scheme([row["tags"] for row in train]) == "IOB2"


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["O"] * 7, "bleak_house has 8 tokens and 7 tags"),
        (["I-PER", *["O"] * 7], "bleak_house has O, I-PER"),
        (["B-PER", "I-FAC", *["O"] * 6], "bleak_house has B-PER, I-FAC"),
    ],
)
def test_other_tags_are_refused(benchmark, write_parquet, tags, message):
    folder = Path()
    for split in ("train", "validation", "test"):
        folder = write_parquet(f"litbank_entities/{split}", [books()[0] | {"tags": tags}])
    with pytest.raises(SystemExit, match=message):
        benchmark("document_sets").load_litbank(folder)
