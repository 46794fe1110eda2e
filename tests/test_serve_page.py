"""The page in a real browser, Debian's Chromium, which asks for nothing beyond this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from granite_gguf.demo import DEMO_SAMPLES

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, for the browser")
pytest.importorskip("fastapi")

from granite_gguf.serve.settings import Settings  # noqa: E402
from tests.serving import serving  # noqa: E402

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: apt install chromium"),
]
SAMPLE = DEMO_SAMPLES[1]
TEXT = SAMPLE.with_suffix(".txt").read_text().strip()
SHOTS = os.environ.get("GRANITE_SCREENSHOTS")
MILLISECONDS = 30_000


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(Settings(max_megabytes=3), names=("demo", "second")) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Its microphone hears the sample, once."""
    heard = tmp_path_factory.mktemp("microphone") / "heard.wav"
    samples, rate = soundfile.read(SAMPLE)
    soundfile.write(heard, samples, rate, subtype="PCM_16")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=BROWSER,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-background-networking",
                "--disable-component-update",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={heard}%noloop",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page; no script failed in it, and nothing was asked elsewhere."""
    context = browser.new_context(accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    page = context.new_page()
    page.set_default_timeout(MILLISECONDS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)
    page.on(
        "request",
        lambda asked: (
            None if asked.url.startswith((address, "blob:", "data:")) else wrong.append(asked.url)
        ),
    )
    page.goto(address)
    page.wait_for_selector("#model option", state="attached")
    yield page
    context.close()
    assert not [line for line in wrong if not re.search("status of 4[01][013]", line)]


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def done(page: Any, count: int = 1) -> None:
    page.wait_for_function(
        "n => [...document.querySelectorAll('.state')].filter(s => /^done|^failed/.test("
        "s.textContent)).length >= n",
        arg=count,
    )


def test_files(page: Any, tmp_path: Path) -> None:
    shot(page, "empty")
    assert page.locator("#model option").all_inner_texts() == ["demo", "second"]
    page.set_input_files("#files", [str(path) for path in DEMO_SAMPLES])
    done(page, 3)
    texts = {
        a.locator("h3").inner_text(): a.locator(".text") for a in page.locator("article").all()
    }
    for path in DEMO_SAMPLES:
        said = path.with_suffix(".txt").read_text().split()
        assert texts[path.name].inner_text().split() == said
    article = page.locator("article", has=page.get_by_role("heading", name=SAMPLE.name))
    assert article.locator(".state").inner_text() == f"done, {len(TEXT.split())} words"

    found = {}
    for kind in ("Text", "SRT", "VTT", "JSON"):
        with page.expect_download() as download:
            article.get_by_role("link", name=f"Download as {kind}").click()
        assert download.value.suggested_filename == f"{SAMPLE.stem}.{kind.lower()}".replace(
            ".text", ".txt"
        )
        download.value.save_as(tmp_path / kind)
        found[kind] = (tmp_path / kind).read_text()
    assert found["Text"] == TEXT + "\n"
    assert found["SRT"].startswith("1\n00:00:00,") and found["VTT"].startswith("WEBVTT\n")
    assert [word["word"] for word in json.loads(found["JSON"])["words"]] == TEXT.split()
    article.get_by_role("button", name="Copy").click()
    article.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == TEXT
    article.get_by_role("button", name="Remove").click()
    assert page.locator("article").count() == 2


def test_words_light_up(page: Any) -> None:
    page.set_input_files("#files", str(SAMPLE))
    done(page)
    times = json.loads(page.evaluate("JSON.stringify([...document.querySelectorAll('.word')]"
                                     ".map(w => parseFloat(w.title)))"))  # fmt: skip
    page.locator(".word", has_text="midnight").click()
    at = TEXT.split().index("midnight")
    page.wait_for_function("() => document.querySelector('.now')?.textContent === 'midnight'")
    assert page.evaluate("document.querySelector('audio').currentTime") >= times[at] - 0.06
    page.wait_for_function("() => document.querySelector('.now')?.textContent === 'thirty'")
    shot(page, "playing")


def test_keyboard(page: Any) -> None:
    """All without a mouse: a file is chosen, a word reached and played."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(str(SAMPLE))
    done(page)
    page.locator(".word").first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "End", "Home", "ArrowRight"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.textContent") == TEXT.split()[1]
    assert page.locator(".word[tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    page.wait_for_function("() => !document.querySelector('audio').paused")


def test_dropped(page: Any) -> None:
    data = page.evaluate_handle(
        """bytes => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "dropped.flac"));
          return data;
        }""",
        list(SAMPLE.read_bytes()),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    done(page)
    assert page.locator(".text").inner_text().split() == TEXT.split()


def test_microphone(page: Any) -> None:
    page.get_by_role("button", name="Record").click()
    seconds = soundfile.info(SAMPLE).duration
    page.wait_for_function(
        "s => parseInt(document.querySelector('#recorded').textContent) > s", arg=seconds
    )
    shot(page, "recording")
    page.get_by_role("button", name="Stop").click()
    done(page)
    # The browser resamples what the microphone hears, and begins somewhere.
    said = page.locator(".text").inner_text().split()
    assert len(set(said) & set(TEXT.split())) >= 0.7 * len(set(TEXT.split()))


def test_what_goes_wrong_is_said(page: Any, tmp_path: Path) -> None:
    broken, huge = tmp_path / "notes.txt", tmp_path / "huge.wav"
    broken.write_text("no recording")
    huge.write_bytes(bytes(4_000_000))
    page.set_input_files("#files", [str(broken), str(huge)])
    done(page, 2)
    page.get_by_text("cannot be read as audio").wait_for()
    page.get_by_text("the most allowed").wait_for()
    assert page.get_by_role("alert").count() == 2
    shot(page, "errors")


def test_key(browser: Any) -> None:
    with serving(Settings(key="sesame")) as address:
        page = browser.new_page()
        page.goto(address)
        page.get_by_text("an API key is needed").wait_for()
        page.get_by_label("API key").fill("sesame")
        page.get_by_label("API key").press("Enter")
        page.wait_for_selector("#model option", state="attached")
        page.set_input_files("#files", str(SAMPLE))
        done(page)
        assert page.locator(".text").inner_text().split() == TEXT.split()
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_looks(browser: Any, address: str, scheme: str, width: int) -> None:
    """No scrolling sideways, and all text is as clear as WCAG's AA asks."""
    page = browser.new_page(
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        reduced_motion="reduce",  # colours that change slowly are none that could be measured
    )
    page.goto(address)
    page.wait_for_selector("#model option", state="attached")
    page.set_input_files("#files", str(SAMPLE))
    done(page)
    page.evaluate("""() => {
      const words = document.querySelectorAll('.word');
      words[0].classList.add('now'); words[1].className = 'word unsure';
      words[2].className = 'word doubtful';
    }""")
    shot(page, f"{scheme}-{width}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not page.evaluate(UNCLEAR)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_documentation(page: Any, address: str, scheme: str) -> None:
    """Without anything from elsewhere, on a phone, too."""
    page.set_viewport_size({"width": 360, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{address}/docs")
    (field,) = page.get_by_role("term").filter(has_text="granularities[]").all_inner_texts()
    assert field == "timestamp_granularities[] word, segment; may be repeated"
    shot(page, f"docs-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert not page.evaluate(UNCLEAR)


UNCLEAR = """() => {
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => {
    const [r, g, b] = numbers(c).map(v => v / 255)
      .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const back = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (numbers(c)[3] !== 0) return c;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  const texts = 'h1, h2, h3, p, a, dt, dd, label, button, .button, .word, .key';
  for (const e of document.querySelectorAll(texts)) {
    if (!e.offsetParent || e.classList.contains('unseen')) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(back(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.push([e.className || e.tagName, ratio]);
  }
  return found;
}"""
"""Elements whose text stands out less than 4.5 to 1."""
