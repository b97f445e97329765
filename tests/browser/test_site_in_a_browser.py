"The built site in a real browser: search without a server of ours, dark, and on a phone"

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SITE = Path(__file__).resolve().parent.parent.parent / "docs/_build/html"
PAGES = ("index.html", "guide/compare.html", "reference/cli.html", "reference/http.html", "models/census.html")
pytestmark = [pytest.mark.browser, pytest.mark.site]


class Silent(SimpleHTTPRequestHandler):
    "Files, without a log; the site has no sign of its own that a browser could ask for"

    def do_GET(self):
        if self.path != "/favicon.ico":
            return super().do_GET()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site():
    "Address of the built site, on this machine"
    if not (SITE / "index.html").exists():
        pytest.skip("the site is not built; make docs builds it")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(SITE))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


@pytest.fixture(autouse=True)
def first_visit(heard):
    "The theme says so when nobody has chosen light or dark yet"
    heard.expected = ("Got invalid theme mode",)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("raise_level", "guide/compare"),
        ("MLSERVE_JOURNAL_KEEP_DAYS", "reference/settings"),
        ("rollback", "reference/cli"),
    ],
)
def test_the_search_finds(page, site, words, wanted):
    page.goto(f"{site}/search.html?q={words}")
    found = page.locator("#search-results li a")
    found.first.wait_for()
    assert any(f"/{wanted}.html" in link for link in found.evaluate_all("links => links.map(link => link.href)"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_front_page_fits_one_screen(page, site, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(f"{site}/index.html")
    page.wait_for_load_state("networkidle")
    pictures = page.locator(".hero img:visible, .beside img:visible")
    assert pictures.count() in (2, 3)  # the page, the loop, and the benchmark where one was run
    assert "make serve" in page.locator(".hero pre").inner_text()
    for shown in (page.locator(".hero pre"), *pictures.all()):
        box = shown.bounding_box()
        assert 0 < box["y"] and box["y"] + box["height"] <= 800 and box["height"] > 20
    assert all(pictures.evaluate_all("drawn => drawn.map(picture => picture.naturalWidth > 0)"))
    at_night = pictures.evaluate_all("drawn => drawn.slice(0, 2).map(picture => picture.src.includes('_dark'))")
    assert at_night == [scheme == "dark"] * 2


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_a_phone(page, site, path):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{site}/{path}")
    assert page.locator("h1").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_a_page_is_dark_at_night(page, site):
    page.emulate_media(color_scheme="dark")
    page.goto(f"{site}/index.html")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    red, green, blue = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert max(red, green, blue) < 80
