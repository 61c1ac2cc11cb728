"""The house agrees with itself: chapters, notebooks, module order, file sizes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from book import check_notebooks, diagram, execute

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(p.stem for p in (ROOT / "sartutorial").glob("[!_]*.py"))


def test_toc_names_every_notebook():
    on_disk = sorted(f"notebooks/{p.stem}" for p in (ROOT / "notebooks").glob("*.ipynb"))
    assert execute.chapters(ROOT / "book" / "_toc.yml") == on_disk


def test_landing_page_links_every_chapter():
    page = (ROOT / "book" / "index.md").read_text()
    missing = [c for c in execute.chapters(ROOT / "book" / "_toc.yml") if f"../{c})" not in page]
    assert not missing


def test_notebooks_agree_with_their_twins():
    assert check_notebooks.problems() == []


@pytest.fixture
def pair(tmp_path):
    """A notebook and its twin that agree."""
    twin = tmp_path / "01_x.py"
    text = '# %% [markdown]\n# # Title\n\n# %% mystnb={"image": {"alt": "a line"}}\nprint(1)\n'
    twin.write_text(text)
    check_notebooks.write(tmp_path)
    assert check_notebooks.problems(tmp_path) == []
    return twin, twin.with_suffix(".ipynb")


def test_missing_twin_is_named(pair):
    twin, notebook = pair
    twin.unlink()
    (problem,) = check_notebooks.problems(twin.parent)
    assert notebook.name in problem
    assert "jupytext --to py:percent" in problem


def test_missing_notebook_is_named(pair):
    twin, notebook = pair
    notebook.unlink()
    (problem,) = check_notebooks.problems(twin.parent)
    assert twin.name in problem
    assert "make format" in problem


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("print(1)", "print(2)", "differs from 01_x.py in cell 2"),
        ("a line", "two lines", "differs from 01_x.py in cell 2"),
        (
            '"outputs": []',
            '"outputs": [{"output_type": "stream", "name": "x", "text": ""}]',
            "outp",
        ),
        ('"execution_count": null', '"execution_count": 3', "outputs"),
        ('"name": "python3"', '"name": "mine"', "kernel"),
    ],
)
def test_notebook_that_strays_is_named(pair, old, new, expected):
    _, notebook = pair
    text = notebook.read_text()
    assert old in text
    notebook.write_text(text.replace(old, new))
    (problem,) = check_notebooks.problems(notebook.parent)
    assert notebook.name in problem
    assert expected in problem
    assert "make format" in problem


def test_the_file_saved_last_is_kept(pair):
    twin, notebook = pair
    before = twin.read_text()
    notebook.write_text(notebook.read_text().replace("print(1)", "print(2)"))
    os.utime(notebook, (1, 1))
    check_notebooks.pull(twin.parent)
    assert twin.read_text() == before
    os.utime(twin, (0, 0))
    check_notebooks.pull(twin.parent)
    assert twin.read_text() == before.replace("print(1)", "print(2)")


def test_order_lists_every_module():
    assert sorted(diagram.ORDER) == MODULES, "STEPS in book/diagram.py is the list to change"


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_those_above_it(module):
    assert module in diagram.ORDER, "STEPS in book/diagram.py is the list to change"
    above = diagram.ORDER[: diagram.ORDER.index(module)]
    below = diagram.imports(diagram.PACKAGE / f"{module}.py") - {*above, module}
    assert not below, f"sartutorial/{module}.py imports {sorted(below)}, which stand below it"


def test_imports_are_found_in_every_form(tmp_path):
    source = tmp_path / "x.py"
    source.write_text(
        "import sartutorial.lulc\nfrom sartutorial import InputError, rasters as r\n"
        "from .profiles import current\ndef f():\n    from sartutorial.radiometry import to_db\n"
    )
    assert diagram.imports(source) == {"lulc", "rasters", "profiles", "radiometry"}


def test_readme_shows_the_present_diagram():
    text = (ROOT / "README.md").read_text()
    assert diagram.readme(text) == text, "the package's imports changed: run `make diagram`"


def test_no_large_file():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout: which files are tracked is not known")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    large = [str(p) for p in files if p.is_file() and p.stat().st_size > 1_000_000]
    assert files
    assert not large
