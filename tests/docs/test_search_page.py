"""The commands of the page about search run, one after the other, on a folder of texts."""

import json
import re
import shlex

import pytest
from test_docs_examples import DOCS

from flax_bigbird.cli.main import main

TEXTS = {
    "railroads.txt": "The railroads need aid.\nThey bind the states of the Union together.",
    "peace.txt": "The war is over, and we have peace with all nations.",
    "trade/trade.md": "# Trade\n\nTrade with other nations grows from year to year.",
}


@pytest.mark.slow
def test_the_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts" / "trade").mkdir(parents=True)
    for name, text in TEXTS.items():
        (tmp_path / "texts" / name).write_text(text)
    page = (DOCS / "search.md").read_text("utf-8")
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.S)
    install, *commands = block.splitlines()
    assert install == 'pip install "flax-bigbird[search]"'
    assert [command.split()[1] for command in commands] == ["index", "search", "search", "index"]
    shown = []
    for command in commands:
        assert main(shlex.split(command, comments=True)[1:]) == 0, command
        shown.append(capsys.readouterr().out)
    assert "3 files added" in shown[0]
    assert re.search(r"^\d\. railroads.txt, line 1, characters 0-\d+ ", shown[1], re.M)
    results = json.loads(shown[2])
    assert results[0]["file"] == "railroads.txt"
    assert results[0]["text"] == TEXTS["railroads.txt"]
    assert "0 files added, 0 changed, 0 removed" in shown[3]
