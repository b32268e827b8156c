"""Tests the viewer of attention of the page in Chromium, up to 16,384 tokens."""

import re

import pytest
from browser import NARROW, Tab, browser, needs_chromium, open_page
from server_process import FLAGS, ServerProcess
from tiny_checkpoints import Checkpoints, sentence

pytestmark = needs_chromium
__all__ = ["browser"]  # a fixture

LENGTH, W = 16_384, 64
EMOJI = "\N{COW FACE} "
TEXT = EMOJI * 2 + sentence(3, 54)  # one sparse window of the small model
PAIR = "FlaxBigBirdForQuestionAnswering"


@pytest.fixture(scope="module")
def long_server(tmp_path_factory):
    """A server for a model of 16,384 positions, and a small one of which a text has windows."""
    make = Checkpoints(tmp_path_factory.mktemp("checkpoints"))
    sizes = {"max_position_embeddings": LENGTH, "block_size": W, "num_hidden_layers": 2}
    tags = {"id2label": {0: "O", 1: "B-PLACE", 2: "I-PLACE"}}
    folder = make("FlaxBigBirdForTokenClassification", **sizes, **tags)
    flags = (*FLAGS, "--min-bucket-length", str(LENGTH), "--slice-tokens", str(LENGTH))
    process = ServerProcess(folder, *flags)
    try:
        process.wait_for("ready", 300)
        yield process
    finally:
        process.close()


def open_viewer(tab: Tab, server: ServerProcess, text: str, query: str | None = None) -> None:
    """Opens the page, and the attention of its model for questions or its only one."""
    open_page(tab, server)
    if query is not None:
        option = tab.page.locator("#model option", has_text=PAIR)
        tab.page.select_option("#model", index=option.evaluate("option => option.index"))
        tab.page.fill("#query", query)
    tab.page.fill("#text", text)
    tab.page.click("#show-attention")
    tab.page.locator(".readout", has_text="Select a word").wait_for(timeout=120_000)


def click_word(tab: Tab, start: int) -> None:
    """Clicks the middle of the word at an offset in UTF-16 units of the viewer's text."""
    box = tab.page.locator(".words").evaluate(
        """(words, start) => {
             const range = document.createRange();
             range.setStart(words.firstChild, start + 1); // after the space
             range.setEnd(words.firstChild, start + 3);
             range.startContainer.parentElement.scrollIntoView({ block: "center" });
             const box = range.getBoundingClientRect();
             return [box.left + box.width / 2, box.top + box.height / 2];
           }""",
        start,
    )
    tab.page.mouse.click(*box)


def lists(tab: Tab) -> list[list[str]]:
    return [own.locator("li").all_inner_texts() for own in tab.page.locator(".links ol").all()]


@pytest.fixture
def tab(browser):
    tab = Tab(browser)
    yield tab
    tab.close()


def test_a_word_shows_what_it_reads_and_what_reads_it(tab, server):
    open_viewer(tab, server, TEXT, "the cow")
    body = {"model": PAIR, "inputs": TEXT, "query": "the cow"}
    tokens = server.post("/attention", body | {"include_tokens": True}).json()["tokens"]
    starts = [-1 if token["start"] is None else token["start"] for token in tokens]
    position = next(i for i, t in enumerate(tokens) if starts[i] > 60 and len(t["text"]) > 3)
    word = tokens[position]["text"]
    first = next(start for start in starts if start >= 0)
    click_word(tab, len(TEXT[first : starts[position]].encode("utf-16-le")) // 2)
    tab.page.locator(".readout", has_text="most:").wait_for()
    assert readout_text(tab).startswith(f'"{word.strip()}" of block {position // 8}')
    more = {"position": position, "layers": [0], "average_heads": True, "top_k": 15}
    links = server.post("/attention", body | more).json()["layers"][0]["heads"][0]
    for own, name in zip(lists(tab), ("reads", "read_by"), strict=True):
        weights = links[name]["weights"]
        shown = re.findall(r"([\d.]+)% \(token", "\n".join(own))
        assert [float(weight) for weight in shown] == pytest.approx(
            [100 * weight for weight in weights], abs=0.06
        )
    colored = tab.page.evaluate("[...CSS.highlights.get('token-selected')].map(String)")
    assert colored == [word.strip()]
    assert tab.page.evaluate("[...CSS.highlights.get('token-4')].length") >= 1
    tab.screenshot("attention")
    tab.check(server.url)


def test_kinds_of_blocks_have_colors_and_can_be_hidden(tab, server):
    open_viewer(tab, server, TEXT, "the cow")
    labels = tab.page.locator(".kinds label").all_inner_texts()
    assert [label.split(":")[0].strip() for label in labels] == [
        "Window",
        "Global",
        "Random",
        "Full",
    ]
    canvas = tab.page.locator(".block-map")
    pictures = [canvas.evaluate("canvas => canvas.toDataURL()")]
    for box in tab.page.locator(".kinds input").all():
        box.uncheck()
        pictures.append(canvas.evaluate("canvas => canvas.toDataURL()"))
    assert len(set(pictures)) == 5
    tab.check(server.url)


def test_layers_and_heads_and_the_keyboard(tab, server):
    open_viewer(tab, server, TEXT, "the cow")
    assert tab.page.locator("#attention-layer option").count() == 1
    assert tab.page.locator("#attention-head option").count() == 3
    tab.page.focus(".words")
    tab.page.keyboard.press("ArrowRight")
    readout = tab.page.locator(".readout", has_text="most:")
    readout.wait_for()
    first = lists(tab)
    tab.page.select_option("#attention-head", label="Head 1")
    tab.page.wait_for_timeout(50)
    readout.wait_for()
    assert lists(tab) != first
    tab.page.focus(".block-map")
    tab.page.keyboard.press("ArrowDown")
    tab.page.locator(".readout", has_text="Block 1 ").wait_for()
    assert re.search(r"gives [\d.]+% of its attention to block 0 .*: global\.", readout_text(tab))
    tab.page.locator(".token", has_text="[CLS]").first.click()
    readout.wait_for()
    tab.check(server.url)


def readout_text(tab: Tab) -> str:
    return tab.page.inner_text(".readout")


def test_a_document_of_several_windows(tab, server):
    text = sentence(4, 200)
    open_viewer(tab, server, text, "the cow")
    assert "This is window 1 of the" in tab.page.inner_text("#attention-view")
    last = tab.page.locator("#attention-window option").count() - 1
    tab.page.select_option("#attention-window", index=last)
    tab.page.locator(".readout", has_text="Select a word").wait_for()
    assert text.endswith(tab.page.locator(".words").evaluate("words => words.textContent"))
    tab.check(server.url)


def test_errors_are_shown(tab, server):
    open_viewer(tab, server, TEXT, "the cow")
    tab.context.set_offline(True)
    tab.page.focus(".words")
    tab.page.keyboard.press("ArrowRight")
    error = tab.page.locator("#error", has_text="The server does not answer")
    error.wait_for()
    tab.context.set_offline(False)


@pytest.mark.parametrize("viewport", [None, NARROW], ids=["wide", "narrow"])
def test_16384_tokens(browser, long_server, viewport):
    """The page draws 256 x 256 blocks, and nothing of 16,384 x 16,384."""
    tab = Tab(browser, **({"viewport": viewport} if viewport else {}))
    try:
        text = sentence(1, LENGTH - 2)
        open_viewer(tab, long_server, text)
        assert "16,384 tokens in 256 blocks of 64" in tab.page.inner_text("#attention-view")
        tab.page.locator(".block-map").click(position={"x": 100, "y": 200})
        assert re.search(r"Block \d+ \(.* block \d+ \(", readout_text(tab))
        tab.page.locator(".words").evaluate(
            "words => { words.scrollTop = words.scrollHeight / 2; }"
        )
        tab.page.focus(".words")
        tab.page.keyboard.press("ArrowRight")
        tab.page.locator(".readout", has_text="most:").wait_for(timeout=60_000)
        assert len(lists(tab)[0]) == 15
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tab.screenshot(f"attention-16384-{'narrow' if viewport else 'wide'}")
        tab.check(long_server.url)
    finally:
        tab.close()
