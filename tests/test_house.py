"""The house agrees with itself: chapters, notebooks, sizes, public names, the diagram."""

import ast
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import sartutorial
from book import check_notebooks, diagram, execute

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sartutorial"
MODULES = {p: p.read_text(encoding="utf-8") for p in sorted(PACKAGE.rglob("*.py"))}
NAMES = [name for name in sartutorial.__all__ if name != "InputError"]
# A house should be read in an evening, in 4,500 lines; this one is larger, and its size is to fall.
LIMITS = {"lines": 7547, "modules": 30, "names at the top": 18, "`# fmt: skip`": 9}
FUNCTION_LINES = 60


def test_the_package_stays_small():
    found = {
        "lines": sum(len(text.splitlines()) for text in MODULES.values()),
        "modules": len(
            [text for text in MODULES.values() if text.count("\n") > 1]
        ),  # not a room's sign
        "names at the top": len([p for p in PACKAGE.iterdir() if p.name != "__pycache__"]),
        "`# fmt: skip`": sum(text.count("# fmt: skip") for text in MODULES.values()),
    }
    said = ", ".join(f"{found[k]} {k} (at most {LIMITS[k]})" for k in LIMITS)
    assert all(found[k] <= LIMITS[k] for k in LIMITS), said


def test_no_function_is_long():
    long = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path, text in MODULES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= FUNCTION_LINES
    }
    assert not long, f"more than {FUNCTION_LINES} lines: {long}"


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_says_all_that_a_caller_needs(name):
    """What it does, and of a function each of several parameters once, and what is raised."""
    thing = getattr(sartutorial, name)
    doc = inspect.getdoc(thing)
    assert doc and doc[0].isupper(), "no docstring"
    assert dir(sartutorial).count(name) == 1
    if not inspect.isfunction(thing):
        return
    described = doc.partition("Args:\n")[2].partition("\n\n")[0]
    parameters = list(inspect.signature(thing).parameters)
    for parameter in parameters if len(parameters) > 1 else ():
        lines = [line for line in described.splitlines() if line.startswith(f"    {parameter}: ")]
        assert len(lines) == 1, f"{parameter} is described {len(lines)} times"
    assert "Raises:" in doc or "raise InputError" not in inspect.getsource(thing)


def test_names_come_without_torch_until_one_needs_it():
    code = """
import sys, sartutorial as st
slow = ("torch", "timm", "lightning", "rasterio", "pandas", "geopandas", "matplotlib", "folium")
print([m for m in slow if m in sys.modules])
for name in st.__all__:
    if not st._HOME.get(name, "").startswith(("learn.", "maps")):
        getattr(st, name)
print([m for m in slow if m in sys.modules and m not in ("rasterio", "pandas")])
st.Segmenter
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["[]", "[]", "True"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="downsampel"):
        _ = sartutorial.downsampel


def test_toc_names_every_notebook():
    on_disk = sorted(f"notebooks/{p.stem}" for p in (ROOT / "notebooks").glob("*.ipynb"))
    assert execute.chapters(ROOT / "book" / "_toc.yml") == on_disk


def test_landing_page_links_every_chapter():
    page = (ROOT / "book" / "index.md").read_text()
    missing = [c for c in execute.chapters(ROOT / "book" / "_toc.yml") if f"../{c})" not in page]
    assert not missing


def test_jobs_run_after_what_they_need_and_stop_at_a_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    monkeypatch.setattr(execute, "BUILD", tmp_path)
    monkeypatch.setattr(execute, "SOURCE", tmp_path)
    (tmp_path / "logs").mkdir()

    def job(name, code, needs=""):
        return execute.Job(name, [sys.executable, "-c", code], needs)

    slow = "import time; time.sleep(0.3); open('made', 'w')"
    jobs = [job("needy", "open('made')", "maker"), job("other", ""), job("maker", slow)]
    costs = execute.run_all(jobs)
    assert {name: cost.status for name, cost in costs.items()} == {
        "other": 0,
        "maker": 0,
        "needy": 0,
    }
    assert costs["maker"].seconds > 0.3
    # A child counts what it was forked from, before it became a program of its own.
    own = psutil.Process().memory_info().rss / 1e9
    assert 0.001 < costs["maker"].peak_gb < 1 + own
    jobs = [job("bad", "1 / 0"), job("good", "", "bad")]
    assert list(execute.run_all(jobs)) == ["bad"]
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "FAILED: 1 / 0 (its output is in logs/bad.txt)" in said


def test_notebooks_agree_with_their_twins():
    assert check_notebooks.problems() == []


@pytest.fixture
def pair(tmp_path):
    """A notebook and its twin that agree."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
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
    ("old", "new"),
    [
        ("print(1)", "print(2)"),
        ("a line", "two lines"),
        ('"outputs": []', '"outputs": [{"output_type": "stream", "name": "x", "text": ""}]'),
        ('"execution_count": null', '"execution_count": 3'),
        ('"name": "python3"', '"name": "mine"'),
    ],
)
def test_notebook_that_strays_is_named(pair, old, new):
    _, notebook = pair
    text = notebook.read_text()
    assert old in text
    notebook.write_text(text.replace(old, new))
    (problem,) = check_notebooks.problems(notebook.parent)
    assert f"{notebook.name}: differs from 01_x.py, or holds outputs" in problem
    assert "make format" in problem


def test_the_file_saved_last_is_kept(pair):
    twin, notebook = pair
    before, changed = twin.read_text(), notebook.read_text().replace("print(1)", "print(2)")
    notebook.write_text(changed)
    os.utime(notebook, (1, 1))
    check_notebooks.write(twin.parent)
    assert twin.read_text() == before
    assert check_notebooks.problems(twin.parent) == []
    notebook.write_text(changed)
    os.utime(twin, (0, 0))
    check_notebooks.write(twin.parent)
    assert twin.read_text() == before.replace("print(1)", "print(2)")
    assert check_notebooks.problems(twin.parent) == []


def test_the_diagram_shows_every_module_and_runs_one_way():
    modules = {str(p.relative_to(PACKAGE).with_suffix("")).replace("/", ".") for p in MODULES}
    shown = {m for m in modules if not m.endswith("__init__")}
    assert set(diagram.STEP_OF) == shown, "STEPS in book/diagram.py is the list to change"
    back = {i: used for i, used in diagram.uses().items() if any(j > i for j in used)}
    assert not back, "a step uses a later one: change the order of STEPS, or the import"


def test_readme_shows_the_present_diagram():
    text = (ROOT / "README.md").read_text()
    assert diagram.readme(text) == text, "the package's imports changed: run `make diagram`"


def test_no_large_file():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout: which files are tracked is not known")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [ROOT / name for name in listed.split("\0") if name]
    weights = ROOT / "book" / "weights"
    large = [
        str(p)
        for p in files
        if p.is_file() and p.stat().st_size > (10_000_000 if p.parent == weights else 1_000_000)
    ]
    assert files
    assert not large
