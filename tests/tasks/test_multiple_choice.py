"""Choices in one column or several, the columns of RACE and SWAG, and the forms of labels."""

import datasets
import pytest

from flax_bigbird.data.errors import DataError
from flax_bigbird.tasks.registry import get_task
from flax_bigbird.tasks.task_options import MultipleChoiceOptions

TASK = get_task("multiple-choice")
RACE = {
    "example_id": "high1.txt",
    "article": "the quick brown fox",
    "question": "what jumps",
    "options": ["fox", "dog", "hill"],
    "answer": "C",
}
SWAG = {
    "sent1": "the quick brown fox",
    "sent2": "jumps",
    "ending0": "over the dog",
    "ending1": "away",
    "label": 1,
}
START_PHRASE = {"startphrase": "the fox jumps", "ending0": "over", "ending1": "away", "label": "B"}
PLAIN = {"text": "the fox", "choices": ["a", "b"], "label": 0}


def resolve(names, **options):
    resolved = TASK.resolve_columns(MultipleChoiceOptions(**options), names)
    return (
        resolved.text_column,
        resolved.text_pair_column,
        resolved.choices_column,
        resolved.label_column,
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (RACE, ("article", "question", "options", "answer")),
        (["article", "question", "options"], ("article", "question", "options", "label")),
        (SWAG, ("sent1", "sent2", "ending0,ending1", "label")),
        ([*SWAG, "startphrase", "ending3"], ("sent1", "sent2", "ending0,ending1", "label")),
        (START_PHRASE, ("startphrase", None, "ending0,ending1", "label")),
        (PLAIN, ("text", None, "choices", "label")),
        ([*RACE, *PLAIN], ("text", None, "choices", "label")),
        (["text"], ("text", None, "choices", "label")),
    ],
)
def test_the_columns_of_known_data_sets(names, expected):
    assert resolve(names) == expected


def test_columns_that_are_given_stay():
    given = ("article", None, "choices", "label")
    assert resolve(RACE, text_column="article") == given


@pytest.mark.parametrize(
    ("row", "second", "choices", "right"),
    [
        (RACE, "what jumps", RACE["options"], 2),
        (SWAG, "jumps", ["over the dog", "away"], 1),
        (START_PHRASE, "", ["over", "away"], 1),
    ],
    ids=["RACE", "SWAG", "startphrase"],
)
def test_rows_are_encoded_alike_in_training_and_prediction(make_task, row, second, choices, right):
    names = ("text_column", "text_pair_column", "choices_column", "label_column")
    options = dict(zip(names, resolve(row), strict=True))
    trained = make_task("multiple-choice", options)
    (example,) = trained.encode_dataset(datasets.Dataset.from_list([row]), "train").examples
    assert example["right"] == right
    assert example["num_choices"] == len(choices)
    predict = make_task("multiple-choice")
    windows = predict.encode(row)
    assert [window.input_ids for window in windows] == example["choices"]
    text = next(iter(row[name] for name in ("article", "sent1", "startphrase") if name in row))
    plain = {"text": text, "second": second, "choices": choices}
    with_pair = make_task("multiple-choice", {"text_pair_column": "second"})
    assert [window.input_ids for window in with_pair.encode(plain)] == example["choices"]
    outputs = [{"score": float(index == right)} for index in range(len(choices))]
    assert predict.decode(row, windows, outputs)["choice"] == choices[right]


def test_choices_in_columns_of_a_csv_file_may_be_fewer(make_task):
    task = make_task("multiple-choice", {"choices_column": "A, B, C, D", "label_column": "key"})
    rows = [
        {"text": "x", "A": "fox", "B": "dog", "C": "hill", "D": None, "key": "C"},
        {"text": "x", "A": "fox", "B": "dog", "C": None, "D": "", "key": "dog"},
    ]
    examples = task.encode_dataset(datasets.Dataset.from_list(rows), "train").examples
    assert [len(choices) for choices in examples["choices"]] == [3, 2]
    assert list(examples["right"]) == [2, 1]
    with pytest.raises(DataError, match=r"row 1 of the training data: column 'A, B, C, D' must"):
        TASK.check_rows(task.options, datasets.Dataset.from_list([rows[0] | {"B": None}]), "train")


@pytest.mark.parametrize(
    ("choices", "label", "expected"),
    [
        (["fox", "dog"], "A", 0),
        (["fox", "dog"], "B", 1),
        (["B", "A"], "B", 0),
        (["fox", "dog"], "dog", 1),
        (["fox", "dog"], 1, 1),
    ],
)
def test_labels_are_indices_letters_or_texts(make_task, choices, label, expected):
    rows = datasets.Dataset.from_list([{"text": "x", "choices": choices, "label": label}])
    examples = make_task("multiple-choice").encode_dataset(rows, "train").examples
    assert examples[0]["right"] == expected


@pytest.mark.parametrize("label", ["C", "a", "1", "", "AB", 2, -1, 0.0, True, None])
def test_labels_that_name_no_choice(label):
    rows = datasets.Dataset.from_list([{"text": "x", "choices": ["fox", "dog"], "label": label}])
    with pytest.raises(DataError, match=r"row 1 .*: the label must be .* its letter, A to B; got"):
        TASK.check_rows(MultipleChoiceOptions(), rows, "train")
