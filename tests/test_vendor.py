"""Vendoring: what is moved in a page, what is left alone, and what is said where it cannot be."""

import html
import json
import re

import pytest

from book import execute, vendor

VERSIONS = {
    "leaflet": "1.9.3",
    "mathjax": "3.2.2",
    "@a/b": "6.2.0",
    "leaflet.awesome-markers": "2.0.5",
}
LEAFLET = "https://cdn.jsdelivr.net/npm/leaflet@1.9.3/dist/leaflet"
HEAD = f'<script src="{LEAFLET}.js"></script>\n<link rel="stylesheet" href="{LEAFLET}.css"/>'
MOVED = HEAD.replace("https://cdn.jsdelivr.net/npm/", "npm/")


def move(address):
    """Stands in for the book's own: everything on one host moves."""
    host = "https://cdn.jsdelivr.net/"
    return address.removeprefix(host) if address.startswith(host) else None


def test_scripts_and_style_sheets_move():
    assert vendor.rewrite(HEAD, move) == MOVED
    assert vendor.rewrite(HEAD.replace("https:", ""), move) == MOVED


def test_embedded_pages_move_and_stay_escaped():
    frame = '<iframe srcdoc="{}"></iframe>'
    inner = f"{HEAD}<p title='a'>1 &lt; 2 &amp;amp;</p>"
    new = vendor.rewrite(frame.format(html.escape(inner)), move)
    found = re.fullmatch(frame.format('([^"]*)'), new)
    assert found and html.unescape(found[1]) == inner.replace(HEAD, MOVED)


def test_addresses_in_style_rules_move():
    host = "https://cdn.jsdelivr.net/"
    style = (
        f"<style>@import '{host}a.css'; p {{ background: url({host}b.png), url(c.png) }}</style>"
    )
    assert vendor.rewrite(style, move) == style.replace(host, "")


@pytest.mark.parametrize(
    "extra",
    [
        ' crossorigin="anonymous" integrity="sha256-Ae2/z=="',
        " integrity='sha256-Ae2/z==' crossorigin",
        " crossorigin=anonymous",
    ],
)
def test_attributes_that_a_file_refuses_go(extra):
    before = f'<script{extra} data-x="1" src="{LEAFLET}.js"{extra}></script>'
    after = '<script data-x="1" src="npm/leaflet@1.9.3/dist/leaflet.js"></script>'
    assert vendor.rewrite(before, move) == after


@pytest.mark.parametrize(
    "page",
    [
        f'<a href="{LEAFLET}.js">leaflet</a>',
        f"<!-- {HEAD} -->",
        f'<script>const tag = \'<link rel="stylesheet" href="{LEAFLET}.css">\';</script>',
        f'<link rel="canonical" href="{LEAFLET}.css">',
        f"<p>url({LEAFLET}.css)</p>",
        '<script crossorigin="anonymous" src="../_static/x.js"></script>',
        '<script crossorigin="anonymous" src="https://example.org/x.js"></script>',
        '<iframe srcdoc="&lt;p&gt;it\'s &quot;quoted&quot;&lt;/p&gt;"></iframe>',
    ],
)
def test_the_rest_is_left_alone(page):
    assert vendor.rewrite(page, move) == page


@pytest.mark.parametrize(
    ("address", "found"),
    [
        (f"{LEAFLET}.js", ("leaflet", "dist/leaflet.js")),
        ("https://unpkg.com/leaflet@1.9.3/dist/leaflet.js", ("leaflet", "dist/leaflet.js")),
        ("https://cdn.jsdelivr.net/npm/mathjax@3/es5/a.js?v=1", ("mathjax", "es5/a.js")),
        ("https://cdn.jsdelivr.net/npm/mathjax/es5/a.js", ("mathjax", "es5/a.js")),
        ("https://cdn.jsdelivr.net/npm/@a/b@6.2.0/css/a.css", ("@a/b", "css/a.css")),
        (
            f"{vendor.CDNJS}/Leaflet.awesome-markers/2.0.2/leaflet.awesome-markers.css",
            ("leaflet.awesome-markers", "dist/leaflet.awesome-markers.css"),
        ),
        ("https://cdn.jsdelivr.net/npm/leaflet@1.9.4/dist/leaflet.js", None),
        (
            "https://cdn.jsdelivr.net/npm/leaflet@1.9/dist/leaflet.js",
            ("leaflet", "dist/leaflet.js"),
        ),
        ("https://cdn.jsdelivr.net/npm/mathjax@32/es5/a.js", None),
        ("https://cdn.jsdelivr.net/npm/unheard@1.0.0/a.js", None),
        (f"{vendor.CDNJS}/Leaflet.awesome-markers/2.0.9/leaflet.awesome-markers.css", None),
    ],
)
def test_an_address_must_fit_the_lock(address, found):
    assert vendor.locate(address, VERSIONS) == found


def lock():
    return json.loads((vendor.LOCK / "package-lock.json").read_text())["packages"]


def test_lock_names_no_host():
    asked = [name for name, entry in lock().items() if "resolved" in entry]
    assert asked == [], "these name a registry: run `make lock-pages`"
    assert "registry" not in (vendor.LOCK / "package-lock.json").read_text()


def test_lock_holds_exactly_what_package_json_names():
    wanted = json.loads((vendor.LOCK / "package.json").read_text())["dependencies"]
    assert lock()[""]["dependencies"] == wanted
    assert wanted == {name: lock()[f"node_modules/{name}"]["version"] for name in wanted}


def test_every_other_address_has_its_locked_package():
    versions = {name.removeprefix("node_modules/"): e.get("version") for name, e in lock().items()}
    assert [a for a in vendor.ELSEWHERE if not vendor.locate(a, versions)] == []


def test_pages_have_no_files_of_third_parties_in_git():
    assert sorted(p.name for p in vendor.LOCK.iterdir()) == ["package-lock.json", "package.json"]


NPM = """#!/bin/sh
[ "$1" = ci ] || exit 2
echo ran >> "$(dirname "$0")/calls"
mkdir -p node_modules/leaflet/dist/images node_modules/leaflet/font
echo 'a { src: url("../font/a.woff#x") url(data:x) }' > node_modules/leaflet/dist/leaflet.css
touch node_modules/leaflet/dist/leaflet.js node_modules/leaflet/dist/images/pin.png
touch node_modules/leaflet/font/a.woff node_modules/leaflet/font/unused.woff
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A built book of one page, a lock of one package, and an npm that needs no network."""
    for name, folder in (("LOCK", "lock"), ("PACKAGES", "npm"), ("BOOK", "html")):
        monkeypatch.setattr(vendor, name, tmp_path / folder)
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / "package.json").write_text("{}")
    packages = {"": {}, "node_modules/leaflet": {"version": "1.9.3"}}
    (tmp_path / "lock" / "package-lock.json").write_text(json.dumps({"packages": packages}))
    (tmp_path / "html" / "chapters").mkdir(parents=True)
    (tmp_path / "html" / "chapters" / "maps.html").write_text(HEAD)
    use_npm(tmp_path, monkeypatch, NPM)
    return tmp_path / "html" / "chapters" / "maps.html"


def use_npm(folder, monkeypatch, script):
    (folder / "npm.sh").write_text(script)
    (folder / "npm.sh").chmod(0o755)
    monkeypatch.setenv("NPM", str(folder / "npm.sh"))


def test_a_page_loads_what_lies_beside_it(book):
    assert vendor.main() == 0
    links = re.findall(r'(?:src|href)="([^"]*)"', book.read_text())
    assert [link.split("/dist/")[1] for link in links] == ["leaflet.js", "leaflet.css"]
    assert all((book.parent / link).is_file() for link in links)
    root = vendor.BOOK / vendor.VENDOR / "leaflet@1.9.3"
    files = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    assert files == {"dist/leaflet.js", "dist/leaflet.css", "dist/images/pin.png", "font/a.woff"}
    assert list(book.parent.iterdir()) == [book]


def test_a_second_run_changes_nothing(book, capsys):
    assert vendor.main() == 0
    once, stat = book.read_text(), book.stat()
    assert vendor.main() == 0
    assert book.read_text() == once and book.stat().st_mtime_ns == stat.st_mtime_ns
    assert "nothing from outside" in capsys.readouterr().out


def test_packages_are_installed_once_for_a_lock(book):
    calls = vendor.LOCK.parent / "calls"
    for _ in range(2):
        book.write_text(HEAD)
        assert vendor.main() == 0
    assert calls.read_text() == "ran\n"
    (vendor.LOCK / "package.json").write_text('{"changed": 1}')
    book.write_text(HEAD)
    assert vendor.main() == 0
    assert calls.read_text() == "ran\nran\n"


def test_an_unknown_address_is_named_and_nothing_changes(book, capsys):
    page = f'{HEAD}<script src="https://example.org/odd.js"></script>'
    book.write_text(page)
    assert vendor.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("chapters/maps.html: ") and "https://example.org/odd.js" in line
    assert "book/npm/package.json" in line and "make lock-pages" in line
    assert book.read_text() == page and not (vendor.BOOK / vendor.VENDOR).exists()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "there is no npm"),
        ("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2; exit 1", "npm finds no network"),
    ],
)
def test_without_npm_or_network_the_pages_stay(book, monkeypatch, capsys, script, reason):
    if script:
        use_npm(vendor.LOCK.parent, monkeypatch, script)
    else:
        monkeypatch.setenv("NPM", "there-is-no-such-npm")
    assert vendor.main() == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line and "public links" in line
    assert book.read_text() == HEAD and not (vendor.BOOK / vendor.VENDOR).exists()


def test_another_failure_of_npm_is_a_failure(book, monkeypatch, capsys):
    use_npm(vendor.LOCK.parent, monkeypatch, "#!/bin/sh\necho 'npm error code EUSAGE' >&2; exit 1")
    assert vendor.main() == 1
    assert "EUSAGE" in capsys.readouterr().err
    assert book.read_text() == HEAD


def test_a_file_that_its_package_lacks_is_named(book, capsys):
    page = HEAD.replace("leaflet.js", "gone.js")
    book.write_text(page)
    assert vendor.main() == 1
    assert "leaflet/dist/gone.js" in capsys.readouterr().err
    assert book.read_text() == page


def test_notebooks_to_download_hold_no_outputs(tmp_path, monkeypatch):
    code = {"cell_type": "code", "source": "1", "execution_count": 3, "outputs": [{"text": "1"}]}
    notebook = {"cells": [{"cell_type": "markdown", "source": "# A"}, code], "nbformat": 4}
    file = tmp_path / "_sources" / "notebooks" / "a.ipynb"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(notebook))
    monkeypatch.setattr(vendor, "BOOK", tmp_path)
    vendor.strip_downloads()
    found = json.loads(file.read_text())
    assert found["cells"] == [notebook["cells"][0], code | {"outputs": [], "execution_count": None}]


def test_a_page_leaves_out_what_is_dead_without_its_kernel(tmp_path):
    text = {"output_type": "stream", "name": "stdout", "text": "3"}
    data = {"text/plain": "VBox()", execute.WIDGET: {"model_id": "a"}}
    widget = {"output_type": "display_data", "data": data, "metadata": {}}
    cells = [{"cell_type": "markdown", "source": "# A"}, {"cell_type": "code", "source": "1"}]
    held = {"metadata": {"widgets": {"state": {}}, "language": "python"}, "nbformat": 4}
    file = tmp_path / "a.ipynb"
    file.write_text(
        json.dumps(held | {"cells": [cells[0], cells[1] | {"outputs": [text, widget]}]})
    )
    execute.without_widgets(file)
    found = json.loads(file.read_text())
    assert found["metadata"] == {"language": "python"}
    assert found["cells"] == [cells[0], cells[1] | {"outputs": [text]}]
