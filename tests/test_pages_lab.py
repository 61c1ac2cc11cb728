"""Chapters away from their house: in a running JupyterLab, and in any folder beside the package alone.

In JupyterLab, in a browser, a chapter's text is set and its widget moves by keyboard. The cells are
those of chapter 05 up to its widget, which need no simulated world; what cites comes first.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium")
SECONDS = 60
CHAPTER = "05_sampling.ipynb"
WIDGET = "ipywidgets.FloatSlider("


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a chapter in a JupyterLab of its own, with a token and no settings of a user."""
    pytest.importorskip("jupyterlab", reason="JUPYTERLAB NOT TESTED: it is not installed")
    folder = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "book/results"):
        (folder / name).mkdir(parents=True)
    chapter = json.loads((ROOT / "notebooks" / CHAPTER).read_text(encoding="utf-8"))
    last = next(i for i, c in enumerate(chapter["cells"]) if WIDGET in "".join(c["source"]))
    cites = [c for c in chapter["cells"][last + 1 :] if "{cite:" in "".join(c["source"])]
    chapter["cells"] = [*cites, *chapter["cells"][: last + 1]]
    (folder / "notebooks" / CHAPTER).write_text(json.dumps(chapter), encoding="utf-8")
    shutil.copy(ROOT / "book" / "results" / "japan_counts.json", folder / "book" / "results")
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0"]
    command += [f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={token}"]
    command += ["--ServerApp.allow_root=True", "--LabApp.news_url=None"]
    own = {f"JUPYTER_{k}_DIR": str(folder / k.lower()) for k in ("CONFIG", "DATA", "RUNTIME")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | own | {"PYTHONPATH": path}
        )
        try:
            yield f"{_address(server, folder)}lab/tree/notebooks/{CHAPTER}?token={token}"
        finally:
            server.terminate()
            server.wait(SECONDS)


def _address(server, folder):
    """Where the server listens, once it does."""
    for _ in range(SECONDS * 10):
        for said in (folder / "runtime").glob("jpserver-*.json"):
            return json.loads(said.read_text())["url"]
        assert server.poll() is None, (folder / "log.txt").read_text()
        time.sleep(0.1)
    raise AssertionError((folder / "log.txt").read_text())


@pytest.fixture(scope="module")
def page(lab):
    """The chapter in a browser, its cells run."""
    if not CHROMIUM:
        pytest.skip("JUPYTERLAB NOT TESTED: no chromium on the path")
    playwright_api = pytest.importorskip("playwright.sync_api")
    with playwright_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-quic", "--disable-gpu"]
        )
        page = chromium.new_page(viewport={"width": 1440, "height": 1200})
        page.set_default_timeout(SECONDS * 1000)
        page.goto(lab, wait_until="load")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # before, "Run" is lost
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.wait_for_selector(".widget-slider [role=slider]", timeout=3 * SECONDS * 1000)
        yield page
        chromium.close()


@pytest.mark.slow
def test_a_widget_moves_by_keyboard_in_a_running_lab(page):
    handle = page.locator(".widget-slider [role=slider]")
    picture = page.locator(".widget-html img")
    before, said = picture.get_attribute("src"), picture.get_attribute("alt")
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "before => document.querySelector('.widget-html img').src !== before", arg=before
    )
    assert "1.05" in page.inner_text(".widget-slider .widget-readout")
    assert picture.get_attribute("alt") != said


@pytest.mark.slow
def test_a_running_lab_sets_box_equations_and_citations(page):
    """Nothing of MyST is left as raw text (a citation is its key: the references are another page)."""
    page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
    page.locator("aside").get_by_text("This chapter").wait_for()
    page.get_by_role("link", name="(2)", exact=True).first.wait_for(state="attached")
    page.get_by_text("the test asks for memory, not for understanding roberts2017cross").wait_for()
    text = "\n".join(page.locator(".jp-MarkdownCell").all_inner_texts())  # what is seen
    assert not re.search(r"\{(admonition|cite:\w|eq|term|figure)\}", text)


@pytest.mark.slow
def test_what_pages_read_comes_with_the_package(wheel, tmp_path):
    """A wheel, unpacked far from the repository, holds the results that chapters read, and the weights."""
    chapters = [p.read_text(encoding="utf-8") for p in sorted((ROOT / "notebooks").glob("*.py"))]
    places = {p for text in chapters for p in re.findall(r"book_file\(\"([^\"]+)\"\)", text)}
    assert len(places) >= 8
    code = f"""
import sys; sys.path.insert(0, {str(wheel)!r})
from sartutorial import profiles
from sartutorial.learn import published
for place in {sorted(places)}: print(profiles.book_file(place))
print(published.load_model("reference").description["legend"]["names"])
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True)
    *found, names = done.stdout.decode().splitlines()
    assert len(found) == len(places), done.stderr.decode()
    assert all(Path(p).is_relative_to(wheel) for p in found)
    assert "forest" in names
