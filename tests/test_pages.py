"""Every built page, opened from disk in a browser: alive, whole, and quiet without a network.

The pages are those that `make book` left in build/. The tests at the end show that the look fails
where it must.
"""

import base64
import html
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import sartutorial as st
from book import live as live_data
from sartutorial.learn import published

BOOK = Path(__file__).resolve().parents[1] / "build" / "book" / "_build" / "html"
PAGES = sorted(
    p.relative_to(BOOK).as_posix() for p in BOOK.rglob("*.html") if "_static" not in p.parts
)
CHROMIUM = shutil.which("chromium")
FLAGS = [
    *("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-gpu"),
]
SECONDS = 60
TILE = re.compile(r"https://([abc]\.)?tile\.openstreetmap\.org/")  # a map's optional base
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg=="
)

# What lies below the fold is loaded too; a promise that hangs must not hang the test.
SETTLE = """async seconds => {
  document.querySelectorAll('[loading=lazy]').forEach(e => e.loading = 'eager');
  const late = new Promise((_, no) => setTimeout(() => no('formulas or fonts are late'), seconds * 1000));
  await Promise.race([late, window.MathJax?.startup?.promise]);
  await Promise.race([late, document.fonts.ready]);
  await new Promise(done => requestIdleCallback(done, {timeout: 1000}));
}"""
WHOLE = "() => [...document.images].every(i => i.complete)"
# Of a frame, in words: what of its images, formulas and map is missing, and a widget without its kernel.
MISSING = r"""() => {
  const all = query => [...document.querySelectorAll(query)], found = [];
  const say = (bad, text) => { if (bad) found.push(text); };
  for (const i of document.images)
    say(!i.naturalWidth, `an image did not load: ${i.src.slice(0, 120)}`);
  say(all('script[type*="jupyter.widget"]').length, 'a widget is dead without its kernel');
  for (const m of all('.math'))
    say(!m.querySelector('mjx-container') || /\\[(\[]/.test(m.textContent),
        `a formula is not set: ${m.textContent.trim().slice(0, 60)}`);
  say(all('mjx-merror').length, 'a formula holds an error');
  if (!all('.folium-map').length) return found;

  const code = [...document.scripts].map(s => s.text).join();
  const made = code.split(/\bL\.imageOverlay\(/).length - 1;
  const shown = all('img.leaflet-image-layer').filter(i => i.naturalWidth).length;
  say(shown < made, `the map shows ${shown} of its ${made} image layers`);
  say(!all('.leaflet-overlay-pane *, .leaflet-marker-icon').length, 'the map shows nothing');
  const listed = all('.leaflet-control-layers-list label').map(l => l.textContent.trim());
  for (const name of Object.keys(window).filter(n => /^layer_control_\w+_layers$/.test(n))) {
    const {base_layers, overlays} = window[name] ?? {base_layers: {}, overlays: {}};
    for (const label of Object.keys({...base_layers, ...overlays}))
      say(!listed.includes(label.trim()), `the map's layer control does not list "${label}"`);
    for (const [label, layer] of Object.entries(overlays))
      say(!layer._map, `the map does not show its layer "${label}"`);
  }
  say(code.includes('L.control.layers(') && !listed.length, "the map's layer control is empty");
  return found;
}"""


def look(browser, path):
    """Open a page from disk. Says in a line each what is wrong with it."""
    from playwright.sync_api import Error

    found = []
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(SECONDS * 1000)
    page.on("console", lambda m: m.type == "error" and found.append(f"console: {m.text}"))
    page.on("pageerror", lambda e: found.append(f"error: {e}"))
    page.on("requestfailed", lambda r: found.append(f"request failed: {r.url[:200]}"))

    def outside(route):
        if TILE.match(route.request.url):
            route.fulfill(body=base64.b64decode(PIXEL), content_type="image/png")
        else:
            found.append(f"leaves the machine: {route.request.url[:200]}")
            route.abort()

    page.route(re.compile("^(https?|wss?):"), outside)
    try:
        page.goto(path.as_uri(), wait_until="load")
        if 'http-equiv="refresh"' in path.read_text(encoding="utf-8").lower():
            page.wait_for_url(lambda url: url != path.as_uri(), wait_until="load")
        for frame in page.frames:
            frame.evaluate(SETTLE, SECONDS)
        for frame in page.frames:
            frame.wait_for_load_state("load")
            frame.wait_for_function(WHOLE)
            frame.evaluate(SETTLE, SECONDS)
            found += frame.evaluate(MISSING)
    except Error as error:
        found.append(f"not ready in {SECONDS} s or broken: {error.message.splitlines()[0]}")
    finally:
        page.close()
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("PAGES NOT TESTED: no chromium on the path")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("PAGES NOT TESTED: playwright is not installed")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES or ["none"])
def test_page_is_whole_without_a_network(browser, page):
    if not PAGES:
        pytest.skip(f"PAGES NOT TESTED: no built book in {BOOK}; run `make book`")
    if not (BOOK / "_static" / "npm").is_dir():
        pytest.skip("PAGES NOT TESTED: they keep public links; run `make book` where npm is")
    found = look(browser, BOOK / page)
    assert not found, f"{page}:\n" + "\n".join(found)


@pytest.mark.slow
@pytest.mark.skipif(not PAGES, reason=f"PAGES NOT TESTED: no built book in {BOOK}; run `make book`")
def test_the_site_is_light_enough_to_carry():
    sizes = {
        p.relative_to(BOOK).as_posix(): p.stat().st_size for p in BOOK.rglob("*") if p.is_file()
    }
    assert sum(sizes.values()) < 60e6
    assert {n: s for n, s in sizes.items() if n.endswith(".html") and s > 6e6} == {}


@pytest.mark.slow
@pytest.mark.skipif(not PAGES, reason=f"PAGES NOT TESTED: no built book in {BOOK}; run `make book`")
def test_the_first_picture_is_swiped_by_keyboard_and_mouse(browser):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto((BOOK / "book" / "index.html").as_uri())
    swipe, shown = page.locator(".swipe input"), "e => getComputedStyle(e).clipPath"
    above = page.locator(".swipe img + img")
    seen = [above.evaluate(shown)]
    swipe.focus()
    page.keyboard.press("ArrowRight")
    seen.append(above.evaluate(shown))
    swipe.click(position={"x": 20, "y": 20})
    seen.append(above.evaluate(shown))
    page.close()
    assert "50%" in seen[0]
    assert "51%" in seen[1]
    assert len(set(seen)) == 3


@pytest.fixture
def live(browser):
    """The live page, once it has drawn."""
    path = BOOK / "book" / "live.html"
    if not path.exists():
        pytest.skip(f"THE LIVE PAGE IS NOT TESTED: no {path}; run `make book`")
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(path.as_uri())
    page.wait_for_function(DRAWN, arg=1, timeout=10 * SECONDS * 1000)
    yield page
    page.close()


DRAWN = "times => document.getElementById('live').dataset.drawn >= times"
COMPUTE = """async ([kind, pack, image, hidden]) => {
  const network = await networks[kind](pack);
  return [...network(Float32Array.from(image), hidden)];
}"""


@pytest.mark.slow
@pytest.mark.parametrize(("quantised", "filled", "named"), [(False, 1e-3, 1e-3), (True, 0.1, 0.1)])
def test_the_live_networks_compute_what_torch_does(live, quantised, filled, named):
    """Filled-in pixels to so many dB, logits to so much."""
    about = live_data.about("encoder")["normalization"]
    rng = np.random.default_rng(7)
    steps = np.kron(rng.normal(-12, 6, (8, 8)), np.ones((16, 16)))  # fields under speckle
    db = steps + 10 * np.log10(rng.gamma(4, 0.25, steps.shape))
    image = torch.from_numpy((db - about["mean"]) / about["std"]).float()
    hidden = torch.arange(64) % 3 == 0
    simmim, segmenter = published.load_pretraining("reference")[0], st.load_model("reference")[0]
    with torch.inference_mode():
        fill = simmim(image[None, None], hidden.float().view(1, 8, 8))[1].ravel() * about["std"]
        logits = segmenter(image[None, None])[0].permute(1, 2, 0).ravel()
    for kind, weights, right, scale, bound in (
        ("simmim", "encoder", fill, about["std"], filled),
        ("segmenter", "model", logits, 1, named),
    ):
        pack = live_data.packed(weights, quantised=quantised)
        found = live.evaluate(COMPUTE, [kind, pack, image.ravel().tolist(), hidden.int().tolist()])
        assert (torch.tensor(found) * scale - right).abs().max() < bound, kind


@pytest.mark.slow
def test_the_live_page_answers_keys_and_pointer(live):
    def said():
        return live.inner_text("#live-said")

    def hidden():
        return live.evaluate("live.state.hidden.reduce((a, b) => a + b, 0)")

    def changed(act):
        """What the page says after an act, which draws it anew."""
        drawn = live.evaluate("Number(document.getElementById('live').dataset.drawn)")
        act()
        live.wait_for_function(DRAWN, arg=drawn + 1, timeout=10 * SECONDS * 1000)
        return said()

    before, number = said(), hidden()
    live.focus("#live-radar")
    live.keyboard.press("ArrowDown")
    assert changed(lambda: live.keyboard.press("Space")) != before
    assert abs(hidden() - number) == 1
    before, number = said(), hidden()
    assert changed(lambda: live.click("#live-radar", position={"x": 5, "y": 5})) != before
    assert abs(hidden() - number) == 1
    changed(lambda: live.click("#live-clear"))
    assert hidden() == 0
    before = live.evaluate("document.getElementById('live-classes').toDataURL()")
    changed(lambda: live.select_option("#live-patch", index=1))
    assert live.evaluate("document.getElementById('live-classes').toDataURL()") != before
    # An average over 3 x 3 pixels is nicer to look at, and worse for the network, as the page says.
    before = int(re.search(r"names (\d+) %", said())[1])
    changed(lambda: live.fill("#live-window", "3"))
    assert int(re.search(r"names (\d+) %", said())[1]) < before
    changed(lambda: live.fill("#live-window", "1"))
    live.focus("#live-offset")
    before = live.evaluate("document.getElementById('live-classes').toDataURL()")
    changed(lambda: live.keyboard.press("End"))
    assert live.evaluate("document.getElementById('live-classes').toDataURL()") != before
    live.hover("#live-classes")
    assert "called" in live.inner_text("#live-under")
    live.focus("#live-classes")
    before = live.evaluate("live.state.read")
    live.keyboard.press("ArrowUp")
    assert live.evaluate("live.state.read") < before


# For every reader: on a phone and on a screen, in light and dark, by keyboard and by ear.
AXE = Path(__file__).resolve().parents[1] / "build" / "npm" / "node_modules" / "axe-core"
LOOKED_AT = [
    *("book/index.html", "notebooks/01_sar_images.html", "notebooks/05_sampling.html"),
    *("notebooks/09_maps.html", "book/live.html", "book/glossary.html", "book/mistakes.html"),
    *("book/data.html", "notebooks/99_receipt.html"),
]
AT_NIGHT = [p for p in PAGES if p.startswith(("book/", "notebooks/")) and p not in LOOKED_AT]
# What the theme makes is not ours: its bars and its search.
AXE_RUN = """async () => {
  const {violations} = await axe.run(".bd-article", {resultTypes: ["violations"]});
  return violations.filter(v => ["serious", "critical"].includes(v.impact))
    .flatMap(v => v.nodes.map(n => `${v.id}: ${n.target.join(" ")}: ${n.html.slice(0, 160)}`));
}"""
THEMED = "theme => document.documentElement.dataset.theme === theme"
# In words, what a page withholds from somebody.
WITHHELD = r"""() => {
  const found = [], say = (bad, text) => { if (bad) found.push(text); };
  const all = query => [...document.querySelectorAll(`.bd-article ${query}`)];
  const seen = e => e.checkVisibility({visibilityProperty: true});
  const titles = [...document.querySelectorAll("h1")].filter(seen);
  say(titles.length !== 1, `${titles.length} titles`);
  for (const i of all("img").filter(seen)) {
    say(!i.alt.trim() || /^[\w.\/-]+\.(png|svg)$/.test(i.alt), `no alt text: ${i.src.slice(-60)}`);
    say(getComputedStyle(i).filter !== "none", `a filter changes data: ${i.src.slice(-60)}`);
  }
  for (const e of all("pre").filter(seen))
    say(e.scrollWidth > e.clientWidth + 1, `cut off: ${e.textContent.slice(0, 60)}`);
  for (const e of all("table, .cell_output, .output, .wide-picture").filter(seen)) {
    const cut = e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === "auto";
    say(cut && e.tabIndex < 0, `scrolls, and no key reaches it: ${e.textContent.slice(0, 60)}`);
  }
  say(document.documentElement.scrollWidth > innerWidth + 1, "the page scrolls sideways");
  return found;
}"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*LOOKED_AT, *(pytest.param(p, marks=pytest.mark.nightly) for p in AT_NIGHT)]
)
def test_a_page_withholds_nothing_and_axe_finds_nothing_serious(browser, name):
    """Loaded once, and looked at in the width of a phone and of a screen, in light and dark."""
    if not (BOOK / name).exists():
        pytest.skip(f"PAGES NOT TESTED: no {name} in {BOOK}; run `make book`")
    if not AXE.is_dir():
        pytest.skip("PAGES NOT TESTED by axe-core: run `make book` where npm is")
    page, found = browser.new_page(viewport={"width": 390, "height": 900}), []
    try:
        page.goto((BOOK / name).as_uri(), wait_until="load")
        page.add_script_tag(path=AXE / "axe.min.js")
        for width, theme in itertools.product((390, 1440), ("light", "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=theme)
            page.wait_for_function(THEMED, arg=theme, timeout=SECONDS * 1000)
            page.evaluate(SETTLE, SECONDS)
            for fault in page.evaluate(WITHHELD) + page.evaluate(AXE_RUN):
                found.append(f"{width} px, {theme}: {fault}")
    finally:
        page.close()
    assert not found, "\n".join(found)


# The look itself, on small pages: first whole ones, then ones with a single fault.
LAYER = f'<img class="leaflet-image-layer" src="data:image/png;base64,{PIXEL}">'
MAP = """<div class="folium-map"><div class="leaflet-overlay-pane">LAYER</div></div>
<div class="leaflet-control-layers-list"><label> rain</label></div>
<script>
  const L = { imageOverlay: () => ({ _map: true }) };
  var layer_control_1_layers = { base_layers: {}, overlays: { "rain": L.imageOverlay("") } };
</script>""".replace("LAYER", LAYER)
TILES = '<img src="https://tile.openstreetmap.org/0/0/0.png">'
FORMULA = r'<span class="math">\(x\)</span>'


def framed(page):
    return f'<iframe srcdoc="{html.escape(page)}"></iframe>'


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        LAYER + FORMULA.replace(r"\(x\)", "<mjx-container>x</mjx-container>"),
        framed(MAP + TILES),
        "<script>console.warn('a warning is no error')</script>",
        '<a href="https://example.org">a link loads nothing</a>',
    ],
)
def test_a_whole_page_is_quiet(browser, tmp_path, body):
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html>{body}")
    assert look(browser, tmp_path / "page.html") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('<img src="none.png">', "an image did not load: file:"),
        ('<p style="height:9000px"></p><img loading="lazy" src="none.png">', "did not load"),
        ('<img src="none.png">', "request failed: file:"),
        ('<link rel="stylesheet" href="none.css">', "request failed: file:"),
        ('<script src="https://example.org/a.js"></script>', "leaves the machine: https://example"),
        ("<script>fetch('https://example.org/a.json')</script>", "leaves the machine: https://ex"),
        ("<script>undefined.x</script>", "error: Cannot read properties"),
        ("<script>console.error('oh')</script>", "console: oh"),
        (framed("<script>undefined.x</script>"), "error: Cannot read properties"),
        (FORMULA, r"a formula is not set: \(x\)"),
        ("<mjx-container><mjx-merror>x</mjx-merror></mjx-container>", "a formula holds an error"),
        (framed(MAP.replace(LAYER, "")), "the map shows 0 of its 1 image layers"),
        (framed(MAP.replace("image/png;base64,", "image/png;base64,A")), "shows 0 of its 1 image"),
        (framed(MAP.replace("_map: true", "_map: null")), 'does not show its layer "rain"'),
        (framed(MAP.replace(" rain", " wind")), 'layer control does not list "rain"'),
        (framed('<div class="folium-map"></div>'), "the map shows nothing"),
    ],
)
def test_a_fault_is_named(browser, tmp_path, body, said):
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html>{body}")
    assert said in "\n".join(look(browser, tmp_path / "page.html"))
