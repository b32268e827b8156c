"""The speeches of the demo: their classes, their texts without dates, and the split."""

import re

import pytest

from flax_bigbird.examples.state_of_the_union import speeches


@pytest.mark.parametrize(
    ("year", "label"),
    [
        (1790, "1775-1799"),
        (1799, "1775-1799"),
        (1800, "1800-1824"),
        (1974, "1950-1974"),
        (1975, "1975-1999"),
        (2000, "2000-today"),
        (2026, "2000-today"),
        (2031, "2000-today"),
    ],
)
def test_each_class_is_a_quarter_century_and_the_last_is_open(year, label):
    assert speeches.LABELS[speeches.quarter_century(year)] == label
    assert len(speeches.LABELS) == 10


def test_a_year_before_the_first_class_is_refused():
    with pytest.raises(ValueError, match="1775 or later; got 1774"):
        speeches.quarter_century(1774)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("In 1862, $3,500.25 was paid.", "In 0000, $0,000.00 was paid."),
        ("two\n\nparagraphs  here", "two paragraphs here"),
        ("Nineteen forty-five can see", "0000 can see"),
        ("of eighteen hundred and six we", "of 0000 we"),
        ("Two thousand fourteen was warm", "0000 was warm"),
        ("in nineteen hundred, to elect", "in 0000, to elect"),
        ("the Seventy-ninth Congress met", "the 00th Congress met"),
        ("the first Congress met", "the 00th Congress met"),
        ("the Sixtieth Congress, the sixtieth day", "the 00th Congress, the sixtieth day"),
        ("since [1815-03-03] it is so", "since it is so"),
        ("The President. Thank you. [Laughter] Sit.", "Thank you. Sit."),
        ("The end.\n\nRICHARD NIXON\nThe White House,\n\nFebruary 22, 1973.", "The end."),
        ("The end.\n\nJIMMY CARTER.\nTHE WHITE HOUSE,\nJanuary 25, 1979.", "The end."),
        ("The end.\n\nHARRY S. TRUMAN", "The end."),
        ("The end.\n\nThank you and good night.", "The end. Thank you and good night."),
        ("The end.\nGood night", "The end. Good night"),
        ("Twenty men and eighteen ships", "Twenty men and eighteen ships"),
        ("2½ cents…", "00\u20440 cents..."),
        ("٣ and 五", "0 and 五"),
    ],
)
def test_masking_leaves_no_stated_date(text, masked):
    assert speeches.mask_dates(text) == masked


def test_no_speech_has_a_digit_or_its_signature():
    for speech in speeches.load_speeches():
        assert not re.search(r"[1-9]", speech.text), speech.name
        surname = speech.name.split("-")[1].upper()
        assert not speech.text.rstrip(".").endswith(surname), speech.name
        assert len(speech.text) > 1000, speech.name


def test_the_split_is_stratified_by_whole_years_and_always_the_same():
    everything = speeches.load_speeches()
    training, held_out = speeches.split_by_year(everything)
    names = {s.name for s in training} | {s.name for s in held_out}
    assert names == {s.name for s in everything}
    assert not {s.year for s in training} & {s.year for s in held_out}
    for label in range(len(speeches.LABELS)):
        years = {s.year for s in everything if s.label == label}
        held_out_years = {s.year for s in held_out if s.label == label}
        assert len(held_out_years) == max(1, round(speeches.HELD_OUT_FRACTION * len(years)))
    assert speeches.split_by_year(reversed(everything))[1] == held_out[::-1]
    assert speeches.split_by_year(everything, seed=1)[1] != held_out


def test_the_only_year_of_a_class_is_held_out():
    years = (1790, 1810, 1811)
    training, held_out = speeches.split_by_year([speeches.Speech("", y, "") for y in years])
    assert len(held_out) == 2
    assert len(training) == 1
