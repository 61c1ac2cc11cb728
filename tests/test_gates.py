"""Faults planted in a book of two pages: the same make rules go red, and name the file.

The house is copied and its chapters replaced by two small ones; each test plants one fault.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from book import check_notebooks

ROOT = Path(__file__).resolve().parents[1]
COPIED = ["Makefile", "pyproject.toml", "requirements.lock", ".pre-commit-config.yaml", "book"]
COPIED += ["sartutorial", ".mypy_cache"]  # the cache saves half a minute a look
ONE = "# %% [markdown]\n# # One\n#\n# See [two](02_two), and $x^2$.\n\n# %%\nprint(1 + 1)\n"
TWO = "# %% [markdown]\n# # Two\n\n# %%\nimport time\n\ntime.sleep(0.1)\n"
SPARED = (
    'EXCEPT |= dict.fromkeys(("contract", "exercises"), ("notebooks/01_one", "notebooks/02_two"))'
)
# What the two chapters share: nothing that takes time.
TUTORIAL = '''"""Stands in for the tutorial."""


def sampled() -> None:
    """Make nothing."""


def encoder() -> None:
    """Make nothing."""


def model(method: str | None = "") -> None:
    """Make nothing."""
'''

pytestmark = pytest.mark.slow


@pytest.fixture
def house(tmp_path):
    """A book of two pages in the repository's own house, without a fault."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name)
        elif source.exists():
            shutil.copy(source, tmp_path / name)
    (tmp_path / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():  # this environment, with a stamp of its own
        if part.name != ".installed":
            (tmp_path / ".venv" / part.name).symlink_to(part)
    (tmp_path / ".venv" / ".installed").touch()
    (tmp_path / "sartutorial" / "tutorial.py").write_text(TUTORIAL)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_one.py").write_text(ONE)
    (tmp_path / "notebooks" / "02_two.py").write_text(TWO)
    for page in (tmp_path / "book").glob("*.md"):
        page.unlink()
    (tmp_path / "book" / "index.md").write_text("# A book\n\nOf two pages.\n")
    chapters = "".join(f"      - file: notebooks/{n}\n" for n in ("01_one", "02_two"))
    (tmp_path / "book" / "_toc.yml").write_text(
        f"format: jb-book\nroot: book/index\nparts:\n  - chapters:\n{chapters}"
    )
    check_notebooks.write(tmp_path / "notebooks")
    linter = tmp_path / "book" / "lint.py"  # the two are no chapters to learn from
    linter.write_text(linter.read_text().replace("\n\nif __name__", f"\n\n{SPARED}\n\nif __name__"))
    return tmp_path


def make(house, *words):
    """Run a make rule in the house: exit code, and all that it said."""
    env = os.environ | {"PYTHONPATH": str(house)}  # before the package that the environment has
    command = ["make", *words, "NPM=absent"]
    done = subprocess.run(command, cwd=house, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def plant(house, twin, old, new, *, write=True):
    """Replace words in a chapter's twin, and bring its notebook in line."""
    path = house / "notebooks" / twin
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    if write:
        check_notebooks.write(house / "notebooks")


def test_a_sound_book_passes_both_gates(house):
    code, said = make(house, "check")
    assert code == 0, said
    code, said = make(house, "book")
    assert code == 0, said
    assert "the pages keep their public links" in said
    assert (house / "build/book/_build/html/notebooks/02_two.html").exists()


@pytest.mark.parametrize(
    ("old", "new", "limit", "says"),
    [
        ("time.sleep(0.1)", "time.slep(0.1)", 60, ["FAILED: notebooks/02_two.ipynb", "slep"]),
        ("time.sleep(0.1)", "time.sleep(60)", 2, ["FAILED: notebooks/02_two.ipynb", "imeout"]),
    ],
    ids=["failing cell", "slow cell"],
)
def test_a_cell_makes_the_book_go_red(house, old, new, limit, says):
    plant(house, "02_two.py", old, new)
    code, said = make(house, "book", f"CELL_SECONDS={limit}")
    assert code != 0
    for words in says:
        assert words in said, said
    assert "The book is at" not in said


def test_what_a_page_lacks_makes_the_book_go_red(house):
    """One build names every fault: a reference, a link, a figure, a citation."""
    lacks = "{ref}`nowhere`", "[that](none.md)", "![A line](gone.png)", "{cite:p}`nobody`"
    plant(house, "02_two.py", "# # Two", "\n#\n# ".join(["# # Two", *lacks]))
    code, said = make(house, "book")
    assert code != 0
    assert "The book is at" not in said
    for words in ("nowhere", "none.md", "gone.png", "nobody"):
        assert any("02_two" in line and words in line for line in said.splitlines()), said


def test_make_check_goes_red(house):
    notebook, twin = (house / "notebooks" / f"02_two{s}" for s in (".ipynb", ".py"))
    rooms = {name: house / "sartutorial" / f"{name}.py" for name in ("lulc", "files", "maps")}
    sound = {p: p.read_text() for p in (notebook, twin, *rooms.values())}

    def red(*says):
        code, said = make(house, "check")
        assert code != 0
        for words in says:
            assert words in said, said
        for path, text in sound.items():
            path.write_text(text)

    def add(room, code):
        rooms[room].write_text(f"{sound[rooms[room]]}\n\n{code}\n")

    twin.unlink()
    red("notebooks/02_two.ipynb: has no twin", "jupytext --to py:percent")
    notebook.unlink()
    red("notebooks/02_two.py: has no notebook", "make format")
    plant(house, "02_two.py", "0.1", "0.2", write=False)
    red("notebooks/02_two.ipynb: differs from 02_two.py", "make format")
    output = '"outputs": [{"output_type": "stream", "name": "stdout", "text": "2"}]'
    notebook.write_text(sound[notebook].replace('"outputs": []', output))
    red("notebooks/02_two.ipynb: differs from 02_two.py, or holds outputs", "make format")
    twin.write_text(sound[twin] + "import os\n")
    red("notebooks/02_two.py", "F401")
    plant(house, "02_two.py", "# # Two", "# # Two\n#\n# # Three")
    red("notebooks/02_two: 2 titles", "[one_title]")
    add("lulc", 'x: int = "no"')
    red("sartutorial/lulc.py", "Incompatible types")
    add("lulc", "def f() -> None:\n    pass")
    red("sartutorial/lulc.py", "Missing docstring")
    add(
        "lulc",
        'def f() -> None:\n    """See."""\n    from sartutorial import cli\n\n    cli.main()',
    )
    red("sartutorial.lulc is not allowed to import sartutorial.cli")
    add("files", 'def f() -> None:\n    """See."""\n    import torch\n\n    torch.zeros(1)')
    red("sartutorial.files is not allowed to import torch")
    add("maps", 'def f() -> None:\n    """See."""\n    import pytest\n\n    pytest.skip()')
    red("sartutorial/maps.py", "'pytest' imported but")


def test_a_commit_with_a_fault_is_refused(house, tmp_path_factory):
    who = {f"GIT_{r}_{k}": "nobody@example.org" for r in ("AUTHOR", "COMMITTER")
           for k in ("NAME", "EMAIL")}  # fmt: skip
    env = os.environ | who | {"PRE_COMMIT_HOME": str(tmp_path_factory.mktemp("hooks"))}

    def git(*words):
        done = subprocess.run(["git", *words], cwd=house, env=env, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    shutil.copy(ROOT / ".gitignore", house)
    git("init", "-q")
    subprocess.run([".venv/bin/pre-commit", "install"], cwd=house, env=env, check=True)
    git("add", "-A")
    code, said = git("commit", "-m", "sound")
    assert code == 0, said
    plant(house, "02_two.py", "0.1", "0.2", write=False)
    git("add", "-A")
    code, said = git("commit", "-m", "a twin that strays")
    assert code != 0
    assert "notebooks/02_two.ipynb: differs from 02_two.py" in said
