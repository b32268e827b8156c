"""Tests the page in Chromium, against a real server process."""

import re

import pytest
from browser import NARROW, Tab, browser, needs_chromium, open_page
from tiny_checkpoints import sentence

pytestmark = needs_chromium
__all__ = ["browser"]  # a fixture

EMOJI = "\N{COW FACE} "
LONG = sentence(3, 400)  # of several windows


@pytest.fixture
def tab(browser, server):
    tab = Tab(browser)
    try:
        open_page(tab, server)
        yield tab
    finally:
        tab.close()


def choose(tab: Tab, title: str) -> None:
    option = tab.page.locator("#model option", has_text=title).first
    tab.page.select_option("#model", index=option.evaluate("option => option.index"))


def run(tab: Tab, title: str, text: str, query: str | None = None) -> None:
    """Runs a task, and waits for its result."""
    choose(tab, title)
    tab.page.fill("#text", text)
    if query is not None:
        tab.page.fill("#query", query)
    tab.page.click("#run")
    tab.page.locator("#status", has_text=re.compile("^Done")).wait_for()


def marks(tab: Tab) -> list[str]:
    """Returns the texts of the marks, without their labels."""
    return tab.page.locator("#document-view mark").evaluate_all(
        "marks => marks.map(mark => mark.firstChild.data)"
    )


def test_answers_are_marked_where_the_server_found_them(tab, server):
    """Characters beyond the Basic Multilingual Plane count once in Python, and twice in pages."""
    text = EMOJI * 3 + LONG
    body = {"question": "the cow", "context": text, "parameters": {"top_k": 5}}
    expected = server.post("/answer", {"model": model(server, "question"), **body}).json()
    run(tab, "Answer a question", text, "the cow")
    assert sorted(marks(tab)) == sorted(
        text[answer["start"] : answer["end"]] for answer in expected["answers"]
    )
    assert f"in {expected['num_windows']} windows" in tab.page.inner_text("#reading")
    best = tab.page.locator(".jump").first
    best.click()
    current = tab.page.locator("mark[aria-current]")
    assert current.evaluate("mark => mark.firstChild.data") == expected["answers"][0]["answer"]
    assert current.evaluate("mark => mark === document.activeElement")
    tab.page.get_by_role("button", name="Next").click()
    assert tab.page.locator("mark[aria-current]").count() == 1
    tab.screenshot("answer")
    tab.check(server.url)


def model(server, task: str) -> str:
    models = server.get("/info").json()["models"]
    return next(m["name"] for m in models if m["task"].startswith(task))


def test_entities_are_marked_with_their_classes(tab, server):
    text = EMOJI + LONG
    expected = server.post("/tag", {"inputs": text}).json()
    assert expected
    run(tab, "Find entities", text)
    assert marks(tab) == [text[e["start"] : e["end"]] for e in expected]
    assert "PLACE" in tab.page.locator("mark .tag").first.inner_text()
    tab.check(server.url)


def test_classes_are_bars(tab, server):
    expected = server.post("/predict", {"inputs": LONG}).json()
    run(tab, "Classify", LONG)
    rows = tab.page.locator(".bars tr")
    shown = [
        (row.locator("th").inner_text(), row.locator(".number").inner_text()) for row in rows.all()
    ]
    assert shown == [(e["label"], f"{100 * e['score']:.1f}%") for e in expected]
    assert "windows" in tab.page.inner_text("#reading")
    tab.check(server.url)


@pytest.mark.parametrize("title", ["Rank passages", "Find similar passages"])
def test_passages_are_ranked(tab, server, title):
    paragraphs = [EMOJI + sentence(seed, 12) for seed in range(80)]  # more than a request may have
    run(tab, title, "\n\n".join(paragraphs), "the cow")
    found = marks(tab)
    assert len(found) == 40
    assert found[0] == "\n\n".join(paragraphs[:2])
    tab.check(server.url)


def test_masks_are_filled_and_texts_are_continued(tab, server):
    run(tab, "Fill [MASK]", "the cow [MASK] in a [MASK] meadow")
    assert tab.page.locator(".bars").count() == 2
    run(tab, "Continue the text", "the cow")
    expected = server.post("/generate", {"inputs": "the cow"}).json()["generated_text"]
    assert tab.page.locator("#document-view").evaluate("view => view.textContent") == expected
    tab.check(server.url)


def test_texts_of_users_are_never_html(tab, server):
    text = "<img src=x onerror=alert(1)> <b>the cow</b> " + sentence(1, 30)
    run(tab, "Find entities", text)
    view = tab.page.locator("#document-view")
    assert view.locator("img, b").count() == 0
    assert "<b>" in view.inner_text()
    tab.check(server.url)


def test_what_is_wrong_is_said(tab, server):
    error = tab.page.locator("#error")
    choose(tab, "Answer a question")
    tab.page.fill("#text", "the cow")
    tab.page.click("#run")
    assert error.inner_text() == "Enter a question."
    assert tab.page.evaluate("document.activeElement.id") == "query"
    tab.page.fill("#text", "cow " * 100_001)
    tab.page.fill("#query", "the cow")
    tab.page.click("#run")
    assert "at most 100,000 words; this one has 100,001" in error.inner_text()
    tab.check(server.url)


def test_errors_of_the_server_are_shown(tab, server):
    choose(tab, "Fill [MASK]")
    tab.page.fill("#text", "the cow has no mask")
    tab.page.click("#run")
    error = tab.page.locator("#error")
    error.wait_for()
    assert "A text must hold [MASK]" in error.inner_text()
    assert error.get_attribute("role") == "alert"
    tab.screenshot("error")
    assert ["422" in message for message in tab.messages] == [True]  # Chromium logs the status


def test_a_file_is_opened_and_another_one_refused(tab, server, tmp_path):
    (tmp_path / "cow.txt").write_text(EMOJI + "the cow", encoding="utf-8")
    (tmp_path / "picture.txt").write_bytes(b"\xff\xfe\x00cow")
    tab.page.set_input_files("#file", tmp_path / "cow.txt")
    tab.page.locator("#word-count", has_text="3 words").wait_for()
    assert tab.page.input_value("#text") == EMOJI + "the cow"
    tab.page.set_input_files("#file", tmp_path / "picture.txt")
    tab.page.locator("#error").wait_for()
    assert "must be a text in UTF-8; picture.txt is not" in tab.page.inner_text("#error")
    tab.check(server.url)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screens_need_no_sideways_scrolling(browser, server, scheme):
    tab = Tab(browser, viewport=NARROW, color_scheme=scheme)
    try:
        open_page(tab, server)
        run(tab, "Find entities", LONG)
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        colors = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (colors == "rgb(255, 255, 255)") == (scheme == "light")
        tab.screenshot(f"narrow-{scheme}")
        tab.check(server.url)
    finally:
        tab.close()


def test_the_page_can_be_used_with_the_keyboard_and_has_names(tab, server):
    tab.page.fill("#text", LONG)
    choose(tab, "Classify")
    tab.page.focus("#run")
    tab.page.keyboard.press("Enter")
    tab.page.locator("#result-title:focus").wait_for()
    unnamed = tab.page.evaluate(
        """[...document.querySelectorAll("input, select, textarea")]
             .filter((field) => !field.labels.length).map((field) => field.id)"""
    )
    assert unnamed == []
    assert tab.page.locator("[role=status][aria-live=polite]").count() == 1
    tab.check(server.url)


def test_a_dropped_file_is_opened(tab, server):
    tab.page.evaluate(
        """() => {
             const dataTransfer = new DataTransfer();
             dataTransfer.items.add(new File(["the cow"], "cow.txt"));
             const options = { dataTransfer, bubbles: true, cancelable: true };
             document.getElementById("text").dispatchEvent(new DragEvent("drop", options));
           }"""
    )
    tab.page.locator("#word-count", has_text="2 words").wait_for()
    assert tab.page.input_value("#text") == "the cow"
    tab.check(server.url)


def test_a_server_with_keys_is_sent_the_key(browser, server):
    tab = Tab(browser)

    def answer(route):
        if route.request.headers.get("authorization") == "Bearer the secret key":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": "the request must have a valid key"})

    try:
        tab.page.route("**/info", answer)
        tab.page.goto(server.url)
        tab.page.locator("#error", has_text="The request must have a valid key.").wait_for()
        tab.page.fill("#key", "the secret key")
        tab.page.click("#use-key")
        tab.page.wait_for_selector("#run:enabled")
        assert tab.page.locator("#error").is_hidden()
    finally:
        tab.close()


def test_an_overloaded_server_says_when_to_try_again(tab):
    headers = {"retry-after": "3"}
    body = {"error": "the model is overloaded"}
    tab.page.route("**/tag", lambda route: route.fulfill(status=429, headers=headers, json=body))
    choose(tab, "Find entities")
    tab.page.fill("#text", "the cow")
    tab.page.click("#run")
    error = tab.page.locator("#error", has_text="The model is overloaded. Try again in 3 s.")
    error.wait_for()
    assert tab.page.is_enabled("#run")
