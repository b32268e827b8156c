"""Tests `bigbird attention`: the HTML file in Chromium, the PNG, and errors."""

import json
import re

import numpy as np
import pytest
from browser import CHROMIUM, Tab, browser
from tiny_checkpoints import Checkpoints, sentence

from flax_bigbird import bigbird_attention_map
from flax_bigbird.cli.main import main
from flax_bigbird.inference import load_embedder
from flax_bigbird.inference.attention_figure import attention_png, block_table
from flax_bigbird.inference.attention_options import AttentionArguments
from flax_bigbird.inference.document_attention import document_attention
from flax_bigbird.server.standalone_page import attention_page

__all__ = ["browser"]  # a fixture
TEXT = "\N{COW FACE} </script> " + sentence(2, 44)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    make = Checkpoints(tmp_path_factory.mktemp("checkpoints"))
    return make("FlaxBigBirdForMaskedLM", num_hidden_layers=2)


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "document.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def attention(model):
    arguments = AttentionArguments(layer=0, head=1, token=["harbour", "3"], query="the cow")
    return document_attention(model, TEXT, arguments)


def test_the_map_is_that_of_the_model(model, attention):
    """The window is padded to a bucket, as for prediction."""
    predictor = load_embedder(model).predictor
    tokenizer = predictor.tokenizer
    ids = [tokenizer.cls_token_id]
    for text in ("the cow", TEXT):
        ids += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.sep_token_id]
    assert attention.map["num_tokens"] == len(ids)
    length = predictor.options.bucket_length(len(ids))
    arrays = {name: x[None] for name, x in predictor.task.pad(ids, length).items()}
    want = np.asarray(bigbird_attention_map(predictor.model, **arrays, layers=[0]).weights[0, 0, 1])
    size = attention.map["num_blocks"]
    weights, kinds = block_table(attention)
    np.testing.assert_allclose(np.nan_to_num(weights), want[:size, :size], atol=2e-5)
    assert set(kinds[~np.isnan(weights)]) == set("fgwr")
    word = attention.positions[0]
    rows = np.asarray(
        bigbird_attention_map(predictor.model, **arrays, layers=[0], rows=[word]).weights[
            0, 0, 1, 0
        ]
    )
    links = next(
        x for x in attention.links if (x["position"], x["layer"], x["head"]) == (word, 0, 1)
    )
    np.testing.assert_allclose(
        rows[links["reads"]["positions"]], links["reads"]["weights"], atol=2e-5
    )
    token = attention.map["tokens"][word]
    assert token["start"] <= TEXT.index("harbour") < token["stop"]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_html_file_opens_without_a_server(browser, attention, tmp_path):
    path = tmp_path / "map.html"
    path.write_text(attention_page(attention, "<b>title</b>"), encoding="utf-8")
    tab = Tab(browser)
    try:
        tab.page.goto(path.as_uri())
        tab.page.locator(".readout", has_text="most:").wait_for()
        assert tab.page.inner_text("h1") == "<b>title</b>"
        assert "</script>" in tab.page.locator(".words").evaluate("words => words.textContent")
        assert tab.page.locator("#attention-head").evaluate("head => head.selectedIndex") == 2
        assert tab.page.locator(".links li").count() > 4
        tab.page.select_option("#attention-layer", index=1)
        tab.page.locator(".readout", has_text="most:").wait_for()
        tab.page.locator(".token", has_text="[CLS]").first.click()
        tab.page.locator(".readout", has_text="if it was made with --token 0").wait_for()
        tab.screenshot("attention-file")
        tab.check(path.as_uri())
    finally:
        tab.close()


def test_the_html_file_can_run_its_own_script_only(attention):
    page = attention_page(attention, "title")
    assert len(re.findall(r"<script", page)) == 2
    assert "import {" not in page
    assert "export " not in page
    assert "default-src 'none'; script-src 'sha256-" in page
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["text"] == TEXT


def test_both_files_are_written(model, document, tmp_path, capsys):
    (tmp_path / "map.html").write_text("an older file")
    for name, flags in (("map.html", ["--overwrite"]), ("map.png", ["--token", "harbour"])):
        target = tmp_path / name
        arguments = ["attention", model, str(document), "-o", str(target), *flags]
        assert main(arguments) == 0
        assert re.search(rf"\d+ tokens: .*{name}", capsys.readouterr().out)
        assert target.read_bytes().startswith({"l": b"<!doctype", "g": b"\x89PNG"}[name[-1]])
    assert main(arguments) == 2
    assert "output must be new" in capsys.readouterr().err


def test_a_figure_of_many_tokens_and_blocks(attention):
    assert attention_png(attention).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "output must be given"),
        (["-o", "map.pdf"], "output must end in .html or .png; got map.pdf"),
        (["-o", "no/map.png"], "output must be in a directory that exists"),
        (["-o", "map.html", "--layer", "2"], r"layer must lie in 0\.\.1; got 2"),
        (["-o", "map.html", "--head", "x"], "head must be"),
        (["-o", "map.html", "--window", "9"], r"window must lie in 0\.\.\d; got 9"),
        (["-o", "map.html", "--token", "999"], r"token must lie in 0\.\.\d+; got 999"),
        (["-o", "map.html", "--token", "volcano"], "'volcano' does not occur in its characters"),
        (["-o", "map.html", "--token", "a"] * 17, "token may be given at most 16 times; got 17"),
        (["-o", "map.html", "--max-length", "65"], "max_length must be at most"),
    ],
)
def test_errors_name_the_remedy(model, document, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert main(["attention", model, str(document), *flags]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["document.txt"]


def test_documents_are_checked(model, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name, message in (
        ("missing.txt", "must be a text file that exists"),
        ("empty.txt", "must have text"),
        ("latin.txt", "must be UTF-8"),
    ):
        target = tmp_path / "map.html"
        assert main(["attention", model, str(tmp_path / name), "-o", str(target)]) == 2
        assert message in capsys.readouterr().err
        assert not target.exists()


def test_decoders_are_refused(tmp_path, document, capsys):
    folder = Checkpoints(tmp_path)("FlaxBigBirdForCausalLM", is_decoder=True)
    target = tmp_path / "map.html"
    assert main(["attention", folder, str(document), "-o", str(target)]) == 2
    assert "must be an encoder" in capsys.readouterr().err
