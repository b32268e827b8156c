"""Texts of files are printed as they are, whatever rich or a terminal would make of them."""

import io

from rich.console import Console

from flax_bigbird.cli.terminal import print_plainly


def test_markup_emoji_codes_and_control_characters_are_printed():
    output = io.StringIO()
    print_plainly(Console(file=output), "a:cow:b [bold] 12 \x1b[2J\x07")
    assert output.getvalue() == "a:cow:b [bold] 12 \\x1b[2J\\x07\n"
