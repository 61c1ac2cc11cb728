"""Notebooks and their percent-format twins: one content, two files, no outputs.

    python -m book.check_notebooks           name every problem and the command that mends it
    python -m book.check_notebooks --pull    twins of notebooks that were saved last
    python -m book.check_notebooks --write   notebooks from their twins, without outputs

``make check`` calls the first, ``make format`` the other two.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
KEPT = ("tags", "mystnb")  # cell metadata; pyproject.toml names the same two for jupytext
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def cells(path: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """What the two files must agree on: type, source and kept metadata of every cell."""
    notebook = jupytext.read(path, fmt="py:percent" if path.suffix == ".py" else "ipynb")
    return [
        (c.cell_type, c.source.strip("\n"), {k: c.metadata[k] for k in KEPT if k in c.metadata})
        for c in notebook.cells
    ]


def difference(notebook: Path, twin: Path) -> int | None:
    """Number of the first cell in which the two differ, counted from 1; None where they agree."""
    a, b = cells(notebook), cells(twin)
    if a == b:
        return None
    return next(
        (n for n, (x, y) in enumerate(zip(a, b, strict=False), 1) if x != y),
        min(len(a), len(b)) + 1,
    )


def problems(folder: Path = NOTEBOOKS) -> list[str]:
    """One line a problem: the file, what is wrong, and the command that mends it."""
    found = []
    for twin in sorted(folder.glob("*.py")):
        if not twin.with_suffix(".ipynb").exists():
            found.append(f"{folder.name}/{twin.name}: has no notebook; make it: make format")
    for path in sorted(folder.glob("*.ipynb")):
        name, twin = f"{folder.name}/{path.name}", path.with_suffix(".py")
        notebook = nbformat.read(path, as_version=4)
        dirty = [
            n
            for n, c in enumerate(notebook.cells, 1)
            if c.get("outputs") or c.get("execution_count")
        ]
        if dirty:
            found.append(f"{name}: cell {dirty[0]} holds outputs; strip them: make format")
        if dict(notebook.metadata) != METADATA:
            found.append(
                f"{name}: its metadata holds more than the plain kernel; strip it: make format"
            )
        if not twin.exists():
            found.append(f"{name}: has no twin; make it: .venv/bin/jupytext --to py:percent {name}")
        elif (number := difference(path, twin)) is not None:
            found.append(
                f"{name}: differs from {twin.name} in cell {number}; keep the one saved last: "
                f"make format; keep the notebook: .venv/bin/jupytext --to py:percent {name}"
            )
    return found


def pull(folder: Path = NOTEBOOKS) -> None:
    """Write the twin of every notebook that says something else and was saved later."""
    for path in sorted(folder.glob("*.ipynb")):
        twin = path.with_suffix(".py")
        if not twin.exists() or (
            path.stat().st_mtime > twin.stat().st_mtime and difference(path, twin) is not None
        ):
            config = {
                "notebook_metadata_filter": "-all",
                "cell_metadata_filter": ",".join([*KEPT, "-all"]),
            }
            notebook = nbformat.read(path, as_version=4)
            notebook.metadata["jupytext"] = config
            twin.write_text(jupytext.writes(notebook, fmt="py:percent"), encoding="utf-8")
            print(f"{twin.name} written from {path.name}")


def write(folder: Path = NOTEBOOKS) -> None:
    """Write every notebook from its twin; cell ids follow from the cells, so diffs stay small."""
    for twin in sorted(folder.glob("*.py")):
        notebook = nbformat.v4.new_notebook(metadata=METADATA)
        seen: dict[str, int] = {}
        for kind, source, metadata in cells(twin):
            key = hashlib.sha256(f"{kind}\n{source}".encode()).hexdigest()[:8]
            seen[key] = seen.get(key, 0) + 1
            new = getattr(nbformat.v4, f"new_{kind}_cell")
            notebook.cells.append(new(source, metadata=metadata, id=f"{key}-{seen[key]}"))
        text, path = nbformat.writes(notebook) + "\n", twin.with_suffix(".ipynb")
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"{path.name} written from {twin.name}")


def main() -> int:
    if sys.argv[1:] == ["--pull"]:
        pull()
        return 0
    if sys.argv[1:] == ["--write"]:
        write()
        return 0
    found = problems()
    print(
        "\n".join(found)
        if found
        else "notebooks: every one has its twin, agrees with it, and holds no outputs"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
