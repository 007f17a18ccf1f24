# SPDX-License-Identifier: Apache-2.0
"""The page as its visitors have it: a process of its own, and a headless Chromium."""

import http.client
import io
import re
import sys
import time
from urllib.parse import urlsplit

import pytest
from PIL import Image
from space_folder import SPACE

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
pytest.importorskip("gradio", reason="needs gradio (extra demo)")
expect = playwright.expect

SCRIPTS = SPACE.parents[1] / "scripts"
# Only while it is read: scripts/evaluate.py must not stand before the package of that name.
sys.path.insert(0, str(SCRIPTS))
import screenshots  # noqa: E402

sys.path.remove(str(SCRIPTS))
CHROMIUM = screenshots.find_chromium()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]
SECONDS = 120


@pytest.fixture(scope="module")
def address(model_folder, tmp_path_factory):
    """Serve a tiny model; nothing that a visitor brings may come to lie in a temporary folder."""
    home = tmp_path_factory.mktemp("home")
    (home / "tmp").mkdir()
    own = {"HOME": str(home), "HF_HOME": str(home), "TMPDIR": str(home / "tmp")}
    with screenshots.serve(model_folder, home / "log.txt", own) as address:
        yield address
        written = [path.name for path in (home / "tmp").rglob("*") if path.is_file()]
    assert [name for name in written if "red" in name or "mine" in name or "png" in name] == []


@pytest.fixture(scope="module")
def browser():
    expect.set_options(timeout=SECONDS * 1000)
    with playwright.sync_playwright() as driver:
        arguments = screenshots.chromium_arguments()
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def desk(browser):
    """One profile for all visits at a desk: the page's files are fetched once."""
    return browser.new_context(viewport={"width": 1280, "height": 900})


@pytest.fixture
def visit(browser, desk, address):
    """Open the page for a visitor; every request goes to this machine, and no script fails."""
    opened, requests, errors = [], [], []

    def open_page(**options):
        context = browser.new_context(**options) if options else desk
        page = context.new_page()
        opened.append(context if options else page)
        page.set_default_timeout(SECONDS * 1000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: said.type == "error" and errors.append(said.text))
        page.goto(address)
        # The first example and what COMET makes of it.
        expect(page.locator("#dialogue details")).not_to_have_count(0)
        return page

    yield open_page
    for each in opened:
        each.close()
    hosts = {urlsplit(url).hostname for url in requests if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert errors == []


def texts(page):
    return [text.strip() for text in page.locator("#dialogue .bubble").all_inner_texts()]


def ranked(page):
    # Folded rows are there, too.
    return page.locator("#ranking .ranked .name").all_text_contents()


def say(page, text):
    page.get_by_label("What they say").fill(text)
    page.get_by_label("What they say").press("Enter")
    expect(page.locator("#dialogue .bubble").last).to_have_text(text)


def settled(page, turns):
    """Wait until the answer for so many turns is there: each has its weight."""
    expect(page.locator("#dialogue .meta b")).to_have_count(turns)
    expect(page.locator("#dialogue .bubble")).to_have_count(turns)


def cleared(page):
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_text("Nothing is said yet")).to_be_visible()
    expect(page.get_by_text("The ranking comes with the first turn.")).to_be_visible()


def picture(name, colour, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(buffer, kind)
    return {"name": name, "mimeType": "application/octet-stream", "buffer": buffer.getvalue()}


def test_an_example_is_ranked_shaded_and_explained(visit):
    page = visit()
    page.get_by_role("button", name="Told by the other").click()
    expect(page.locator("#dialogue .bubble").first).to_have_text("Where are you now?")
    settled(page, 4)
    assert len(ranked(page)) == 24 and len(set(ranked(page))) == 24
    assert page.locator("#ranking .ranked li:visible").count() == 6
    page.get_by_text("All 24").click()
    expect(page.locator("#ranking .ranked li:visible")).to_have_count(24)
    # The weight is told by number and by shade, the heaviest in full.
    shades = page.locator("#dialogue .glow").evaluate_all(
        "all => all.map(one => getComputedStyle(one).getPropertyValue('--share').trim())"
    )
    assert len(shades) == 4 and "1.00" in shades
    emotions = page.get_by_label("Predicted emotion").locator("dt").all_text_contents()
    assert sorted(emotions) == ["anger", "joy", "sadness", "surprise"]
    # The sticker that the example carries is in the dialogue.
    expect(page.locator("#dialogue .turn > img")).to_have_attribute("alt", "aside: neutral")
    inferred = page.locator("#dialogue details").first
    expect(inferred.locator("dl")).to_be_hidden()
    inferred.get_by_text("What COMET infers").click()
    expect(inferred.locator("dt").first).to_have_text("feels")
    assert inferred.locator("dd").count() == 6


def test_both_speakers_write_and_what_they_write_is_text(visit):
    page = visit()
    cleared(page)
    evil = (
        "<script>window.hacked = 1</script><img src=x onerror='window.hacked=2'> ${hacked=3} {{7}}"
    )
    say(page, evil)
    settled(page, 1)
    expect(page.get_by_label("Speaker 2")).to_be_checked()
    say(page, "oh no , that is sad")
    settled(page, 2)
    page.get_by_label("Speaker 2").check()
    say(page, "and again speaker two")
    settled(page, 3)
    assert texts(page) == [evil, "oh no , that is sad", "and again speaker two"]
    assert page.locator("#dialogue .who").all_text_contents()[:3] == [
        "Speaker 1", "Speaker 2", "Speaker 2"
    ]  # fmt: skip
    assert page.locator("#dialogue img[src=x], #dialogue script").count() == 0
    assert page.evaluate("typeof window.hacked") == "undefined"
    page.get_by_label("What they say").fill("   ")
    page.get_by_label("What they say").press("Enter")
    expect(page.get_by_role("alert").get_by_text("Write something first.")).to_be_visible()
    page.get_by_role("button", name="Undo last").click()
    settled(page, 2)
    assert page.get_by_text("Write something first.").count() == 0


def test_a_sticker_is_sent_and_taken_back(visit):
    page = visit()
    cleared(page)
    say(page, "i am so happy")
    settled(page, 1)
    best = ranked(page)[0]
    page.locator("#dialogue").get_by_role("button", name=f"Send {best}").click()
    expect(page.locator("#dialogue .turn > img")).to_have_count(1)
    expect(page.locator("#ranking .sent")).to_have_count(1)
    say(page, "what a surprise")
    settled(page, 2)
    expect(page.locator("#dialogue .turn > img")).to_have_count(1)
    page.get_by_role("button", name="Undo last").click()
    settled(page, 1)
    page.get_by_role("button", name="Undo last").click()
    expect(page.locator("#dialogue .turn > img")).to_have_count(0)
    assert texts(page) == ["i am so happy"]


def test_own_pictures_are_ranked_and_bad_files_are_named(visit):
    page = visit()
    chosen = page.locator("#pack input[type=file]")
    bad = {"name": "virus.png", "mimeType": "image/png", "buffer": b"MZ not a picture"}
    huge = {"name": "huge.png", "mimeType": "image/png", "buffer": b"\0" * (2 * 2**20 + 1)}
    chosen.set_input_files([bad])
    expect(page.get_by_text("virus.png: not a PNG, JPEG, GIF or WebP picture.")).to_be_visible()
    assert len(ranked(page)) == 24
    red, blue = picture("red.txt", "red"), picture("blue.gif", "blue", "GIF")
    chosen.set_input_files([red, bad, blue, huge])
    expect(page.get_by_text("2 pictures")).to_be_visible()
    expect(page.get_by_text("huge.png: more than 2 MiB.")).to_be_visible()
    expect(page.locator("#ranking .name")).to_have_count(2)
    assert sorted(ranked(page)) == ["blue.gif", "red.txt"]
    chosen.set_input_files([picture(f"{number}.png", "red") for number in range(41)])
    expect(page.get_by_text("These are 41 files; a pack takes 40 at most.")).to_be_visible()
    assert sorted(ranked(page)) == ["blue.gif", "red.txt"]
    # Dropped rather than chosen.
    page.evaluate(
        """async () => {
          const canvas = document.createElement('canvas');
          const blob = await new Promise((done) => canvas.toBlob(done));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([blob], 'dropped.png'));
          const drop = new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer });
          document.querySelector('#pack .drop').dispatchEvent(drop);
        }"""
    )
    expect(page.locator("#ranking .name")).to_have_text(["dropped.png"])
    page.get_by_role("button", name="Back to the drawn faces").click()
    expect(page.locator("#ranking .name")).to_have_count(24)
    expect(page.get_by_role("button", name="Back to the drawn faces")).to_have_count(0)


def test_a_word_is_undone_and_swapped(visit):
    page = visit()
    page.get_by_role("button", name="A funny film, a sad day").click()
    expect(page.get_by_label("Word", exact=True)).to_have_value("funny")
    before = ranked(page)[:6]
    page.locator("#dialogue").get_by_role("button", name="funny").click()
    compared = page.locator("#comparison")
    expect(compared.locator("del")).to_have_text("funny")
    expect(compared.get_by_text("Without “funny”")).to_be_visible()
    sides = compared.locator("section")
    assert sides.nth(0).locator(".name").all_text_contents() == before
    assert sides.nth(1).locator(".name").count() == 6
    assert len(sides.nth(1).locator("li").filter(has_text=re.compile("stays|from")).all()) == 6
    page.get_by_label("In its place").fill("gloomy")
    page.get_by_role("button", name="Undo the word").click()
    expect(compared.locator("ins")).to_have_text("gloomy")
    page.get_by_label("In its place").fill("")
    page.get_by_label("Word", exact=True).fill("unsaid")
    page.get_by_label("Word", exact=True).press("Enter")
    page.get_by_role("button", name="Undo the word").click()
    expect(compared.get_by_text("Nobody says “unsaid” in this dialogue.")).to_be_visible()


def test_two_visitors_do_not_see_each_other(visit):
    first, second = visit(), visit(locale="en-GB")
    cleared(first)
    say(first, "only i am so happy")
    settled(first, 1)
    first.locator("#pack input[type=file]").set_input_files([picture("mine.png", "green")])
    expect(first.locator("#ranking .name")).to_have_text(["mine.png"])
    second.get_by_role("button", name="In the soup").click()
    settled(second, 2)
    assert "mine.png" not in ranked(second) and len(ranked(second)) == 24
    say(second, "oh no , that is sad")
    settled(second, 3)
    say(first, "thank you")
    settled(first, 2)
    assert texts(first) == ["only i am so happy", "thank you"]
    assert "only i am so happy" not in texts(second) and len(texts(second)) == 3


def test_a_phone_shows_all_without_scrolling_sideways(visit):
    page = visit(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme="dark"
    )
    page.get_by_role("button", name="A funny film, a sad day").tap()
    expect(page.locator("#dialogue .bubble").nth(1)).to_have_text(
        "Well, my old dog died last night."
    )
    settled(page, 4)
    page.locator("#dialogue").get_by_role("button", name="funny").tap()
    expect(page.locator("#comparison section")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("Undo last", "Clear", "Undo the word", "Switch between light and dark"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 30
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.get_by_role("button", name="Switch between light and dark").tap()
    assert page.evaluate(background) != dark


def test_the_keyboard_does_everything_and_everything_has_a_name(visit):
    page = visit()

    def tab_to(locator, most=40):
        for _ in range(most):
            page.keyboard.press("Tab")
            if locator.evaluate("one => one === document.activeElement"):
                return
        raise AssertionError(f"Tab never comes to {locator}")

    tab_to(page.get_by_role("button", name="In the soup"))
    page.keyboard.press("Enter")
    expect(page.locator("#dialogue .bubble")).to_have_count(2)
    settled(page, 2)
    tab_to(page.locator("#dialogue [data-word]").first)
    tab_to(page.locator("#dialogue summary").last)
    page.keyboard.press("Enter")
    expect(page.locator("#dialogue dl:visible")).to_have_count(1)
    tab_to(page.locator("#dialogue .choice").first)
    tab_to(page.locator("#speaker input:checked"))
    page.keyboard.press("ArrowRight")
    tab_to(page.get_by_label("What they say"))
    page.keyboard.type("oh no")
    page.keyboard.press("Enter")
    settled(page, 3)
    tab_to(page.locator("#pack input[type=file]"))
    tab_to(page.locator("#ranking [data-send]").first)
    page.keyboard.press("Enter")
    expect(page.locator("#ranking .sent")).to_have_count(1)
    tab_to(page.get_by_label("Word", exact=True))
    tab_to(page.get_by_role("button", name="Undo the word"))
    page.keyboard.press("Enter")
    expect(page.locator("#comparison section")).to_have_count(2)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, summary, img')]
          .filter((one) => one.checkVisibility())
          .filter((one) => !(one.getAttribute('aria-label') || one.alt || one.innerText?.trim()
            || [...(one.labels || [])].some((label) => label.innerText.trim())))
          .map((one) => one.outerHTML.slice(0, 200))"""
    )
    assert nameless == []


def test_no_file_of_the_server_can_be_read_or_written(address):
    host, port = urlsplit(address).hostname, urlsplit(address).port

    def ask(method, path, body=None, **headers):
        connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found

    assert ask("GET", "/")[0] == 200
    for path in (
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=../../../../../../etc/passwd",
        "/gradio_api/file=%2Fetc%2Fpasswd", "/gradio_api/file/etc/passwd", "/file=/etc/passwd",
        "/gradio_api/file=http://127.0.0.1/", "/gradio_api/proxy=http://127.0.0.1/",
        f"/gradio_api/file={SPACE}/app.py", f"/gradio_api/file={SPACE}/pack/wink-flat.png",
        "/static/../../../../../../etc/passwd", "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd", "/../../../../etc/passwd",
    ):  # fmt: skip
        status, body = ask("GET", path)
        assert status in (400, 403, 404), path
        assert b"root:" not in body and b"SPDX" not in body
    form = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nhi\r\n--x--'
    )
    sent = {"Content-Type": "multipart/form-data; boundary=x"}
    assert ask("POST", "/gradio_api/upload", form, **sent)[0] == 403
    status, _ = ask("POST", "/gradio_api/queue/join", b"x" * 100, **{"Content-Length": str(2**30)})
    assert status == 413
    started = time.monotonic()
    assert ask("GET", "/monitoring")[0] in (403, 404) and time.monotonic() - started < SECONDS
