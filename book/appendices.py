"""The appendices that are made of what the book holds already, so that nothing is typed twice.

``make book`` calls this after the chapters have run, and before the pages are built:

    python -m book.appendices

Into build/src/book it writes what the pages in book/ include: the mistakes that the chapters make on
purpose, with what these runs measured; the public functions with their docstrings; data/README.md and
CONTRIBUTING.md as pages; and what the ten recipes, run one after the other, print and draw.
"""

from __future__ import annotations

import base64
import contextlib
import inspect
import io
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import rasterio

import sartutorial as st
from book.execute import ROOT, SOURCE
from sartutorial import tutorial

MISTAKE = "## Wrong on purpose: "
SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes):$", re.MULTILINE)


def anchor(heading: str) -> str:
    """The name that the pages give a heading."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def exhibits(path: Path) -> list[tuple[str, str, list[Any]]]:
    """Of an executed chapter: each mistake's heading, first paragraph and code cells."""
    found: list[tuple[str, str, list[Any]]] = []
    inside = False
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            if inside:
                found[-1][2].append(cell)
            continue
        for part in re.split(r"^(?=## )", cell.source, flags=re.MULTILINE):
            if part.startswith("## "):
                inside = part.startswith(MISTAKE)
            if part.startswith(MISTAKE):
                heading, _, text = part.partition("\n")
                found.append((heading.removeprefix("## "), text.strip().split("\n\n")[0], []))
    return found


def exhibit(chapter: str, room: str, number: int, shown: tuple[str, str, list[Any]]) -> str:
    """A mistake as the museum shows it: what it is, what it cost in this run, its first picture."""
    heading, words, cells = shown
    name = heading.removeprefix(MISTAKE.removeprefix("## "))
    words = re.sub(r"\]\((\d\d_)", r"](../notebooks/\1", words)
    printed, picture = [], ""
    for cell in cells:
        for output in cell.outputs:
            data = output.get("data", {})
            if output.get("name") == "stdout":
                printed.append(f"```text\n{output.text.rstrip()}\n```")
            elif "text/html" in data and "<table" in data["text/html"]:
                html = f'<div class="cell_output">\n{data["text/html"]}\n</div>'
                printed.append(f"```{{raw}} html\n{html}\n```")
            elif "image/png" in data and not picture:
                file = SOURCE / "book" / "museum" / f"{chapter}_{number}.png"
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(base64.b64decode(data["image/png"]))
                about = cell.metadata["mystnb"]
                picture = (
                    f"```{{figure}} museum/{file.name}\n:alt: {about['image']['alt']}\n\n"
                    f"{about['figure']['caption']}\n```"
                )
    link = f'<a href="../notebooks/{chapter}.html#{anchor(heading)}">where it is made</a>'
    title = f"### {name[0].upper()}{name[1:]}"
    parts = (title, words, f"In [{room}](../notebooks/{chapter}): {link}.")
    return "\n\n".join([*parts, *printed, *([picture] if picture else [])])


def museum() -> str:
    """Every mistake that the chapters make on purpose, with what these runs measured."""
    rooms = []
    for path in sorted((SOURCE / "notebooks").glob("[0-9]*.ipynb")):
        first = next(iter(nbformat.read(path, as_version=4).cells)).source
        room = first.splitlines()[0].removeprefix("# ")
        shown = [exhibit(path.stem, room, i, each) for i, each in enumerate(exhibits(path), 1)]
        if shown:
            rooms.append("\n\n".join([f"## {room}", *shown]))
    return "\n\n".join(rooms)


def described(doc: str) -> str:
    """A docstring in Google's form as Markdown: its sections as lists, its examples as code."""
    text = doc.replace("``", "`")
    text = re.sub(r"(?m)^(>>> .*(?:\n(?!\n).*)*)", r"```python\n\1\n```", text)
    parts = SECTION.split(text)
    lines = [parts[0].rstrip()]
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        body, _, after = body.partition("\n\n")
        entries = re.sub(r"\n {5,}", " ", inspect.cleandoc(body).replace("\n    ", "\n     "))
        each = [re.sub(r"^(\w+): ", r"`\1`: ", entry) for entry in entries.splitlines()]
        if name in ("Returns", "Yields"):
            each = [" ".join(each)]
        lines.append(f"**{name}**\n\n" + "\n".join(f"- {entry.strip()}" for entry in each))
        if after.strip():
            lines.append(inspect.cleandoc(after))
    return "\n\n".join(lines)


def written(signature: inspect.Signature) -> str:
    """A signature as the source has it: types without quotes, texts with, a legend by its name."""
    text = str(signature).replace(repr(st.HR_LULC), "HR_LULC")
    text = re.sub(r"""(: |-> )(["'])(.*?)\2(?=,| =|\)|$)""", r"\1\3", text)
    return text.replace("'", '"')


def reference() -> str:
    """The public names of the package by their modules, with signature and docstring."""
    parts = []
    for home, names in st._HOMES.items():
        parts.append(f"## {home}")
        for name in names:
            thing = getattr(st, name)
            if not callable(thing):
                parts.append(f"### st.{name}\n\nThe {type(thing).__name__.lower()} {thing.name}.")
                continue
            signature = written(inspect.signature(thing))
            call = f"st.{name}{signature}"
            if len(call) > 70:  # a parameter a line
                call = re.sub(r", (?=\w+:|\*)", ",\n    ", call).replace("(", "(\n    ", 1)
                call = re.sub(r"\)( -> [^)]*)?$", r",\n)\1", call)
            doc = described(inspect.getdoc(thing) or "")
            parts.append(f"### st.{name}\n\n```python\n{call}\n```\n\n{doc}")
    return "\n\n".join(parts)


def page(file: str) -> str:
    """A text of the repository without its title, its links into the repository as plain words."""
    text = (ROOT / file).read_text(encoding="utf-8").partition("\n")[2]
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", text)


RECIPES = sorted((ROOT / "book" / "gallery").glob("*.md"))


def recipe(page: Path) -> str:
    """The code of a recipe's page."""
    found = re.search(r"^```\{code-block\} python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    assert found, page
    return found[1]


def shown(page: Path) -> str:
    """What a recipe prints and draws, run in the working folder, whose scene is simulated."""
    said, parts = io.StringIO(), []
    with contextlib.redirect_stdout(said):
        exec(compile(recipe(page), page.name, "exec"), {})
    if said.getvalue():
        parts.append(f"```text\n{said.getvalue().rstrip()}\n```")
    if plt.get_fignums():
        file = SOURCE / "book" / "gallery" / f"{page.stem}.png"
        plt.gcf().savefig(file, dpi=100, bbox_inches="tight")
        plt.close("all")
        alt = re.search(r"^% picture: (.+)$", page.read_text("utf-8"), re.MULTILINE)
        assert alt, page
        parts.append(f"```{{figure}} {file.name}\n:alt: {alt[1]}\n\nA simulated scene.\n```")
    return "\n\n".join(parts)


def gallery() -> None:
    """Run the recipes one after the other on a simulated scene, for their pages to include."""
    scene, tile = (
        tutorial.scenes()[0],
        tutorial.tiles()[0],
    )  # found from here, not from a folder apart
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        shutil.copyfile(scene, "scene.tif")
        with rasterio.open("scene.tif", "r+") as source:  # a name that tells no product
            source.update_tags(QUANTITY="sigma0")
        Path("lulc").symlink_to(tile.parent)
        for page in RECIPES:
            made = SOURCE / "book" / "gallery" / f"{page.stem}_made.md"
            made.write_text(shown(page) + "\n", encoding="utf-8")


def main() -> None:
    """Write what the appendices include, of those that the book has."""
    for name, made, write in (
        ("mistakes", "museum_made", museum),
        ("api", "reference_made", reference),
        ("data", "data_made", lambda: page("data/README.md")),
        ("contributing", "contributing_made", lambda: page("CONTRIBUTING.md")),
    ):
        if (SOURCE / "book" / f"{name}.md").exists():
            (SOURCE / "book" / f"{made}.md").write_text(write().strip() + "\n", encoding="utf-8")
    if "book/gallery" in (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"):
        gallery()


if __name__ == "__main__":
    main()
