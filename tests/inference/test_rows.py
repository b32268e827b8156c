"""Calls from Python: rows, records, texts and tables are read, and all else is refused by name."""

import collections
import dataclasses

import numpy as np
import pytest
from tiny_checkpoints import sentence, write_jsonl

from flax_bigbird.inference import DataError, OptionError, evaluate
from flax_bigbird.inference.rows import iterate_rows, rows_as_dataset

TEXTS = ["the cow grazes", "a ship leaves"]
Record = collections.namedtuple("Record", ["text", "id"])


@dataclasses.dataclass
class Item:
    text: str


def pandas_frame():
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"id": [1, 2], "text": TEXTS}, index=["a", "b"])


def pyarrow_table():
    return pytest.importorskip("pyarrow").table({"id": [1, 2], "text": TEXTS})


FORMS = {
    "texts": lambda: TEXTS,
    "rows": lambda: [{"text": text} for text in TEXTS],
    "generator": lambda: (text for text in TEXTS),
    "named tuples": lambda: [Record(text, 1) for text in TEXTS],
    "dataclasses": lambda: [Item(text) for text in TEXTS],
    "numpy": lambda: np.array(TEXTS),
    "frame": pandas_frame,
    "column of a frame": lambda: pandas_frame()["text"],
    "rows of a frame": lambda: [row for _, row in pandas_frame().iterrows()],
    "table": pyarrow_table,
    "column of a table": lambda: pyarrow_table()["text"],
    "batch of a table": lambda: pyarrow_table().to_batches()[0],
    "dataset": lambda: pytest.importorskip("datasets").Dataset.from_dict({"text": TEXTS}),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_rows(form):
    rows = list(iterate_rows(FORMS[form](), "text"))
    assert [row["text"] for row in rows] == TEXTS
    assert all(type(row["text"]) is str for row in rows)


def test_the_answers_do_not_depend_on_the_form(classify):
    expected = [answer["label"] for answer in classify(TEXTS)]
    assert [answer["label"] for answer in classify(pandas_frame())] == expected
    assert [answer["label"] for answer in classify(pyarrow_table())] == expected
    for one in (Record(TEXTS[0], 1), Item(TEXTS[0]), pandas_frame().iloc[0], np.str_(TEXTS[0])):
        assert classify(one)["label"] == expected[0]


def test_arrays_and_tuples_are_lists():
    values = {"tokens": np.array(["a", "b"]), "pair": ("a", np.int64(1)), "nested": {"x": (1,)}}
    (row,) = iterate_rows([values], "text")
    assert row == {"tokens": ["a", "b"], "pair": ["a", 1], "nested": {"x": [1]}}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "b")], r"row 1 is \('a', 'b'\), of type tuple: write it as {'text': ...}"),
        (["a", 3], "row 2 is 3, of type int"),
        ([["a"]], "row 1 is .*, of type list"),
        ([None], "row 1 is None, of type NoneType"),
        (3, "rows must be dictionaries, texts, or .*; got 3, of type int: give one of them"),
        (None, "got None, of type NoneType"),
        (b"a", "got b.a., of type bytes"),
        (np.zeros((2, 2)), r"row 1 is array\(.*, of type ndarray"),
    ],
)
def test_all_else_is_refused_by_name(classify, classifier, rows, message):
    with pytest.raises(DataError, match=message):
        classify(rows)
    with pytest.raises(DataError, match=message):
        evaluate(classifier, rows)


def test_a_frame_without_the_column_is_refused(classify):
    frame = pandas_frame().rename(columns={"text": "body"})
    with pytest.raises(DataError, match="row 1: column 'text' must hold a text; got None; there"):
        classify(frame)


def test_rows_are_evaluated_as_a_file_of_them_is(classifier, tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = [{"text": sentence(n, 9), "label": "neither"} for n in range(4)]
    rows[3]["note"] = "a column that other rows lack"
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    expected = evaluate(classifier, [path])
    for data in (path, tmp_path / "a.jsonl", rows, pandas.DataFrame(rows)):
        assert evaluate(classifier, data) == expected
    assert evaluate(classifier, rows[0])["rows"] == 1


def test_rows_that_cannot_be_evaluated(classifier):
    with pytest.raises(DataError, match="column 'label' must hold values of one type"):
        evaluate(classifier, [{"text": "a", "label": 1}, {"text": "a", "label": "b"}])
    with pytest.raises(OptionError, match="dataset"):
        evaluate(classifier, [{"text": "a", "label": 1}], dataset="other")
    with pytest.raises(OptionError, match="got neither"):
        evaluate(classifier, [])
    with pytest.raises(DataError, match="there must be rows; got none"):
        rows_as_dataset([], "text")


def test_a_dataset_has_the_names_of_its_classes(classifier):
    """Its rows have codes, whose order may not be that of the model."""
    datasets = pytest.importorskip("datasets")
    names = ["neither", "both"]
    rows = datasets.Dataset.from_dict(
        {"text": TEXTS, "label": [0, 1], "tags": [[1, 0], []], "id": [1, 0]}
    )
    rows = rows.cast_column("label", datasets.ClassLabel(names=names))
    rows = rows.cast_column("tags", datasets.List(datasets.ClassLabel(names=names)))
    assert list(iterate_rows(rows, "text")) == [
        {"text": TEXTS[0], "label": "neither", "tags": ["both", "neither"], "id": 1},
        {"text": TEXTS[1], "label": "both", "tags": [], "id": 0},
    ]
    with pytest.raises(DataError, match=r"row 2 .* 'both'"):
        evaluate(classifier, rows)


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
def test_columns_of_one_name_are_refused(library):
    module = pytest.importorskip(library)
    if library == "pandas":
        table = module.DataFrame([["a", "b"]], columns=["text", "text"])
    else:
        table = module.table([["a"], ["b"]], names=["text", "text"])
    with pytest.raises(DataError, match="'text' is the name of 2: rename or drop"):
        list(iterate_rows(table, "text"))
