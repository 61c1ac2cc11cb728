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


@pytest.mark.nightly
def test_a_sound_book_is_built(house):
    """That `make check` passes it, its first commit shows below; the gate builds the whole book."""
    code, said = make(house, "book")
    assert code == 0, said
    assert "the pages keep their public links" in said
    assert (house / "build/book/_build/html/notebooks/02_two.html").exists()


@pytest.mark.slow
def test_a_cell_makes_the_book_go_red(house):
    """One that fails and, in the chapter beside it, one that takes too long."""
    plant(house, "01_one.py", "print(1 + 1)", "print(one)")
    plant(house, "02_two.py", "time.sleep(0.1)", "time.sleep(60)")
    code, said = make(house, "book", "CELL_SECONDS=2")
    assert code != 0
    failed = said.split("FAILED: ")
    assert "NameError" in said
    assert "imeout" in said
    assert {part.split()[0] for part in failed[1:]} == {
        "notebooks/01_one.ipynb",
        "notebooks/02_two.ipynb",
    }, said
    assert "The book is at" not in said


@pytest.mark.nightly
def test_what_a_page_lacks_makes_the_book_go_red(house):
    """One build names every fault: a reference, a link, a figure, a citation."""
    lacks = "{ref}`nowhere`", "[that](none.md)", "![A line](gone.png)", "{cite:p}`nobody`"
    plant(house, "02_two.py", "# # Two", "\n#\n# ".join(["# # Two", *lacks]))
    code, said = make(house, "book")
    assert code != 0
    assert "The book is at" not in said
    for words in ("nowhere", "none.md", "gone.png", "nobody"):
        assert any("02_two" in line and words in line for line in said.splitlines()), said


@pytest.mark.nightly
def test_make_check_goes_red(house):
    """Each of its tools finds its faults, and each stops it: make is told to go on all the same."""

    def add(room, code):
        path = house / "sartutorial" / f"{room}.py"
        path.write_text(f"{path.read_text()}\n\n{code}\n")

    plant(house, "01_one.py", "# # One", "# # One\n#\n# # Three")
    plant(house, "02_two.py", "import time\n", "import os\nimport time\n", write=False)
    add("lulc", 'x: int = "no"\n\n\ndef f() -> None:\n    pass')
    add(
        "lulc",
        'def g() -> None:\n    """See."""\n    from sartutorial import cli\n\n    cli.main()',
    )
    add("files", 'def f() -> None:\n    """See."""\n    import torch\n\n    torch.zeros(1)')
    add("maps", 'def f() -> None:\n    """See."""\n    import pytest\n\n    pytest.skip()')
    _, said = make(house, "check", "--ignore-errors")
    for place, fault in {
        "notebooks/02_two.py": "F401",
        "sartutorial/lulc.py:": "Missing docstring",
        "sartutorial/lulc.py": "Incompatible types",
        "sartutorial.lulc is not allowed to import": "sartutorial.cli",
        "sartutorial.files is not allowed to import": "torch",
        "sartutorial/maps.py": "'pytest' imported but",
        "notebooks/02_two.ipynb: differs from 02_two.py": "make format",
        "notebooks/01_one: 2 titles": "[one_title]",
    }.items():
        assert place in said, said
        assert fault in said, said
    tools = "ruff check", "mypy", "lint-imports", "deptry", "check_notebooks", "lint"
    assert said.count("(ignored)") == len(tools), said


@pytest.mark.nightly
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
