"The built site in a real browser: search without a server of ours, dark, and on a phone"

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

SITE = Path(__file__).resolve().parent.parent.parent / "docs/_build/html"
PAGES = (
    "index.html",
    "guide/compare.html",
    "reference/cli.html",
    "reference/http.html",
    "models/census.html",
    "genindex.html",
)
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
    assert pictures.count() == 3  # the page, the loop and the benchmark
    assert "make serve" in page.locator(".hero pre").inner_text()
    for shown in (page.locator(".hero pre"), *pictures.all()):
        box = shown.bounding_box()
        assert 0 < box["y"] and box["y"] + box["height"] <= 800 and box["height"] > 20
    assert all(pictures.evaluate_all("drawn => drawn.map(picture => picture.naturalWidth > 0)"))
    at_night = pictures.evaluate_all("drawn => drawn.slice(0, 2).map(picture => picture.src.includes('_dark'))")
    assert at_night == [scheme == "dark"] * 2


# What sticks out of the window, or out of a place that cuts it, on a page; what can be scrolled to does not
CUT = """() => [...document.querySelectorAll('.bd-article *')].filter(e => {
    for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
        if (['auto', 'scroll'].includes(getComputedStyle(p).overflowX)) return false
    if (/^(H\\d|P|LI)$/.test(e.tagName) && e.scrollWidth > e.clientWidth + 1) return true
    return e.getBoundingClientRect().width > 0 && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
}).map(e => `${e.tagName} ${e.textContent.trim().slice(0, 40)}`)"""

# Text whose contrast with the ground below it is less than 4.5 to 1 (WCAG 2.2, 1.4.3)
FAINT = """() => {
    const parts = c => { const n = c.match(/[\\d.]+/g).map(Number)
        return c.startsWith('color') ? [...n.slice(0, 3).map(v => v * 255), n[3] ?? 1] : [...n.slice(0, 3), n[3] ?? 1] }
    const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1)
    const ground = e => { const all = []
        for (; e; e = e.parentElement) all.push(parts(getComputedStyle(e).backgroundColor))
        return all.reduceRight((below, c) => over(c, below), [255, 255, 255, 1]) }
    const light = c => [0.2126, 0.7152, 0.0722].reduce((sum, w, i) => { const v = c[i] / 255
        return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4) }, 0)
    const found = new Set(), walk = document.createTreeWalker(document.querySelector('.bd-article'), NodeFilter.SHOW_TEXT)
    while (walk.nextNode()) {
        const e = walk.currentNode.parentElement
        if (!walk.currentNode.textContent.trim() || !e.getBoundingClientRect().width || e.closest('style, script')) continue
        const below = ground(e), [a, b] = [light(over(parts(getComputedStyle(e).color), below)), light(below)]
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
        if (ratio < 4.5) found.add(e.className + ' ' + e.textContent.trim().slice(0, 40))
    }
    return [...found]
}"""


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_a_phone(page, site, path):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"{site}/{path}")
    assert page.locator("h1").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.evaluate(CUT) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", [*PAGES, "guide/examples/census.html", "_modules/mlserve/plots.html"])
def test_the_text_of_a_page_can_be_read(page, site, path, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{site}/{path}")
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    assert page.evaluate(FAINT) == []


def luminance(colour):
    "Relative luminance (WCAG 2.2)"
    shares = [v / 255 / 12.92 if v / 255 <= 0.04045 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour[:3]]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), shares, strict=True))


def contrast(one, other):
    "How well one colour stands out from another: from 1, not at all, to 21"
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_plot_stands_on_the_ground_of_its_page(page, site, scheme):
    "The model's line and the point on it are read as well at night as by day"
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{site}/models/census.html")
    plot = page.locator("img[alt*='ROC curve']").first
    plot.scroll_into_view_if_needed()
    with Image.open(BytesIO(plot.screenshot())) as drawn:
        found = sorted(drawn.convert("RGB").getcolors(1 << 20), reverse=True)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)")
    assert max(abs(a - b) for a, b in zip(found[0][1], ground, strict=True)) <= 8
    colours = [colour for count, colour in found if count > 60]
    blue = [c for c in colours if c[2] > c[0] + 60]
    orange = [c for c in colours if c[0] > c[2] + 60]
    assert blue and orange and all(max(contrast(c, found[0][1]) for c in kind) >= 3 for kind in (blue, orange))


def test_a_page_is_dark_at_night(page, site):
    page.emulate_media(color_scheme="dark")
    page.goto(f"{site}/index.html")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    red, green, blue = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert max(red, green, blue) < 80
