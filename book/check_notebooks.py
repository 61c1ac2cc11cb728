"""Notebooks and their percent-format twins: one content, two files, no outputs.

    python -m book.check_notebooks           name every problem and the command that mends it
    python -m book.check_notebooks --write   bring both to what was saved last, without outputs

``make check`` calls the first, ``make format`` the second.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import jupytext
import nbformat
from jupytext.cli import jupytext as run_jupytext

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
KEPT = ("tags", "mystnb")  # cell metadata; pyproject.toml names the same two for jupytext
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebook(twin: Path) -> str:
    """The notebook that a twin stands for; cell ids follow from the cells, so diffs stay small."""
    made = nbformat.v4.new_notebook(metadata=METADATA)
    seen: dict[str, int] = {}
    for cell in jupytext.read(twin, fmt="py:percent").cells:
        source = cell.source.strip("\n")
        key = hashlib.sha256(f"{cell.cell_type}\n{source}".encode()).hexdigest()[:8]
        seen[key] = seen.get(key, 0) + 1
        new = getattr(nbformat.v4, f"new_{cell.cell_type}_cell")
        metadata = {k: cell.metadata[k] for k in KEPT if k in cell.metadata}
        made.cells.append(new(source, metadata=metadata, id=f"{key}-{seen[key]}"))
    return nbformat.writes(made) + "\n"


def problems(folder: Path = NOTEBOOKS) -> list[str]:
    """One line a problem: the file, what is wrong, and the command that mends it."""
    found = []
    for stem in sorted({p.stem for s in ("py", "ipynb") for p in folder.glob(f"*.{s}")}):
        path, twin = folder / f"{stem}.ipynb", folder / f"{stem}.py"
        name = f"{folder.name}/{path.name}"
        if not path.exists():
            found.append(f"{folder.name}/{twin.name}: has no notebook; make it: make format")
        elif not twin.exists():
            found.append(f"{name}: has no twin; make it: .venv/bin/jupytext --to py:percent {name}")
        elif path.read_text(encoding="utf-8") != notebook(twin):
            found.append(
                f"{name}: differs from {twin.name}, or holds outputs; keep the one saved last: "
                f"make format; keep the notebook: .venv/bin/jupytext --to py:percent {name}"
            )
    return found


def write(folder: Path = NOTEBOOKS) -> None:
    """Have jupytext give the twin what a notebook says that was saved later, then write it anew."""
    for path in sorted(folder.glob("*.ipynb")):
        twin = path.with_suffix(".py")
        if not twin.exists() or path.read_text(encoding="utf-8") != notebook(twin):
            run_jupytext(["--quiet", "--sync", str(path)])
    for twin in sorted(folder.glob("*.py")):
        text, path = notebook(twin), twin.with_suffix(".ipynb")
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"{path.name} written from {twin.name}")


def main() -> int:
    if sys.argv[1:] == ["--write"]:
        write()
        return 0
    found = problems()
    good = "notebooks: every one has its twin, agrees with it, and holds no outputs"
    print("\n".join(found) or good)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
