"""A linter of the book: what every chapter and page promises a reader.

    python -m book.lint    name every fault: the page, what is wrong, and where

``make check`` calls it. It reads the sources and builds nothing; each rule has a name and says in one
line what it wants, and ``tests/test_lint.py`` plants a fault for each.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jupytext
import yaml

ROOT = Path(__file__).resolve().parents[1]
CELL_LINES = 25
OPENING = ("**You will**", "**You need**", "**In the paper**", "](../book/costs)")
MISTAKE = "Wrong on purpose: "
ENDING = ("Exercises", "Key points", "References")
FOLDED = ("hide-cell", "hide-input", "remove-cell", "remove-input")
# Decimals that are names, not results: product levels, the scenes' spacing, versions of maps.
NAMES = {"1.1", "1.5", "2.1", "2.2", "2.5", "3.1", "23.12", "25.04", "3.11"}
QUOTED = ("**Paper", "**paper", "**Code", "**code", "**JAXA")  # the words of others
DECIMAL = re.compile(r"(?<![\d.§])(?<!arXiv )\d+\.\d+(?![\d.])")
UNREAD = re.compile(  # what is code, a formula, an address or a raw page, not prose
    r"```\{(?:raw|code-block)\}.*?```|```(?!\{).*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\]\([^)\n]*\)|<[^>\n]*>",
    re.DOTALL,
)
TERM = re.compile(r"\{term\}`(?:[^`<]*<([^>`]+)>|([^`]+))`")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
LABEL = re.compile(r"^\(([\w-]+)\)=$|^\$\$ \(([\w-]+)\)$|^:name: ([\w-]+)$", re.MULTILINE)
# Pages that need not keep a rule, by rule.
EXCEPT: dict[str, tuple[str, ...]] = {
    "numbers": ("book/authors",),  # asks the authors about numbers of their code
    # An appendix that runs, and no chapter.
    "contract": ("notebooks/99_receipt",),
    "exercises": ("notebooks/99_receipt",),
}


class Cell(NamedTuple):
    """A cell of a chapter; a page in Markdown is a single one."""

    kind: str  # code, markdown
    source: str
    tags: tuple[str, ...] = ()
    figure: tuple[str, str, str] = ("", "", "")  # caption, text for those who cannot see it, name


class Page(NamedTuple):
    """A page of the book, by its place in it, without the ending."""

    name: str
    cells: list[Cell]

    @property
    def prose(self) -> str:
        return "\n\n".join(c.source for c in self.cells if c.kind == "markdown")

    @property
    def is_chapter(self) -> bool:
        return self.name.startswith("notebooks/")


Faults = Iterator[str]


def read(path: Path, root: Path) -> Page:
    """A page from its source."""
    name = path.relative_to(root).with_suffix("").as_posix()
    if path.suffix == ".md":
        return Page(name, [Cell("markdown", path.read_text(encoding="utf-8"))])
    cells = []
    for cell in jupytext.read(path, fmt="py:percent").cells:
        about = cell.metadata.get("mystnb", {})
        figure = about.get("figure", {}), about.get("image", {})
        words = (figure[0].get("caption", ""), figure[1].get("alt", ""), figure[0].get("name", ""))
        tags = tuple(cell.metadata.get("tags", ()))
        cells.append(Cell(cell.cell_type, cell.source.strip("\n"), tags, words))
    return Page(name, cells)


def pages(root: Path = ROOT) -> list[Page]:
    """Every page that the table of contents names."""
    toc = yaml.safe_load((root / "book" / "_toc.yml").read_text(encoding="utf-8"))
    listed = [c for part in toc["parts"] for one in part["chapters"]
              for c in (one, *one.get("sections", ()))]  # fmt: skip
    names = [toc["root"], *(c["file"] for c in listed)]
    ends = {"notebooks": ".py"}
    return [read(root / f"{n}{ends.get(n.split('/')[0], '.md')}", root) for n in names]


def headings(page: Page) -> list[tuple[int, str]]:
    """Depth and words of the headings, those in code left out."""
    prose = re.sub(r"^(```+|:::+).*?^\1", "", page.prose, flags=re.DOTALL | re.MULTILINE)
    return [(len(m[1]), m[2]) for m in re.finditer(r"^(#+) (.+)$", prose, re.MULTILINE)]


def contract(page: Page) -> Faults:
    """A chapter opens with its box, makes a mistake on purpose, ends with exercises and the rest."""
    if not page.is_chapter:
        return
    for part in OPENING:
        if part not in page.cells[0].source:
            yield f"its opening box does not say {part}"
    second = [words for depth, words in headings(page) if depth == 2]
    if not any(words.startswith(MISTAKE) for words in second):
        yield f"no section '{MISTAKE}...' measures what a usual mistake costs"
    if tuple(second[-3:]) != ENDING:
        yield f"its last sections are not {', '.join(ENDING)}, but {', '.join(second[-3:])}"


def exercises(page: Page) -> Faults:
    """At least three exercises, each with a folded solution, and answers that are checked."""
    if not page.is_chapter:
        return
    solved: list[bool] = []
    inside = False
    for cell in page.cells:
        if cell.kind == "markdown":
            inside = "## Exercises" in cell.source or (inside and "\n## " not in f"\n{cell.source}")
            solved += [False] * len(re.findall(r"^\*\*\d+\.\*\*", cell.source, re.MULTILINE))
        elif inside and solved and "hide-cell" in cell.tags:
            solved[-1] = True
    if len(solved) < 3:
        yield f"{len(solved)} exercises; a chapter has three or more"
    for number, done in enumerate(solved, 1):
        if not done:
            yield f"exercise {number} has no folded solution"
    code = "\n".join(c.source for c in page.cells if c.kind == "code")
    checks = set(re.findall(r"^def (check_\w+)", code, re.MULTILINE))
    if not checks:
        yield "no answer is checked: define check_...(answer), which knows the usual mistakes"
    for check in sorted(checks):
        if len(re.findall(rf"\b{check}\(", code)) < 2:
            yield f"{check} is never called in a solution"


def cell_length(page: Page) -> Faults:
    """No cell of more than 25 lines, unless it is folded."""
    for cell in page.cells:
        lines = cell.source.splitlines()
        if cell.kind == "code" and len(lines) > CELL_LINES and not set(cell.tags) & set(FOLDED):
            yield f"a cell of {len(lines)} lines is shown: {lines[0]!r}; fold or part it"


def numbers(page: Page) -> Faults:
    """A decimal number in prose is quoted from somebody, or printed by the run."""
    if page.name.startswith("book/weights/"):
        return  # model cards, written by experiments/reference_weights.py from what it measured
    for cell in page.cells:
        if cell.kind == "code":
            continue
        quoted = any(word in cell.source for word in QUOTED)
        for line in UNREAD.sub("", cell.source).splitlines():
            if any(word in line for word in QUOTED) or (quoted and line.startswith("|")):
                continue
            for number in DECIMAL.findall(line):
                if number not in NAMES:
                    yield f"{number} is typed into prose: {line.strip()[:60]!r}"


def figures(page: Page) -> Faults:
    """Every figure has a caption, and words for those who cannot see it."""
    for cell in page.cells:
        if cell.kind == "code" and re.search(r"^plt\.show\(\)", cell.source, re.MULTILINE):
            for word, said in zip(("caption", "alt text", "name"), cell.figure, strict=True):
                if not said.strip():
                    yield f"a figure has no {word}: {cell.source.splitlines()[0]!r}"
    for directive in re.findall(r"```\{figure\}.*?```", page.prose, re.DOTALL):
        if not re.search(r"^:alt: \S", directive, re.MULTILINE):
            yield f"a figure has no alt text: {directive.splitlines()[0]!r}"
    for image in re.findall(r"!\[\s*\]\([^)]*\)", page.prose):
        yield f"an image has no alt text: {image}"


def one_title(page: Page) -> Faults:
    """One heading of the first level, and no level left out."""
    found = headings(page)
    titles = [words for depth, words in found if depth == 1]
    if len(titles) != 1:
        yield f"{len(titles)} titles; a page has one"
    for (before, _), (depth, words) in pairwise(found):
        if depth > before + 1:
            yield f"'{words}' leaves out a level of heading"


def own_code(page: Page) -> Faults:
    """Code that is shown in prose is the package's own, word for word."""
    package = [p.read_text(encoding="utf-8") for p in (ROOT / "sartutorial").rglob("*.py")]
    for block in re.findall(r"^```python\n(.*?)^```", page.prose, re.DOTALL | re.MULTILINE):
        if not any(block.strip() in text for text in package):
            yield f"prose shows code that is not the package's: {block.splitlines()[0]!r}"


RULES = (contract, exercises, cell_length, numbers, figures, one_title, own_code)


def glossary(book: list[Page]) -> Faults:
    """Every term that is linked is in the glossary, and every entry is linked from a chapter."""
    (entries,) = [p for p in book if p.name == "book/glossary"] or [None]
    text = entries.prose if entries else ""
    lists = "".join(re.findall(r"```\{glossary\}\n(.*?)```", text, re.DOTALL))
    known = {line.lower() for line in re.findall(r"^([^\s:].*)$", lists, re.MULTILINE)}
    linked: set[str] = set()
    for page in book:
        for match in TERM.finditer(page.prose):
            term = (match[1] or match[2]).lower()
            linked |= {term} if page.is_chapter else set()
            if term not in known:
                yield f"{page.name}: '{term}' is not in the glossary"
    for term in sorted(known - linked):
        yield f"book/glossary: no chapter links '{term}'"


def links(book: list[Page], root: Path = ROOT) -> Faults:
    """Links between pages lead to a page, a file or a label of the book."""
    labels = {"".join(m) for page in book for m in LABEL.findall(page.prose)}
    labels |= {cell.figure[2] for page in book for cell in page.cells} - {""}
    names = {page.name for page in book}
    figures = [cell.figure[2] for page in book for cell in page.cells if cell.figure[2]]
    for name in sorted({name for name in figures if figures.count(name) > 1}):
        yield f"{figures.count(name)} figures of the book are called {name}"
    for page in book:
        prose = re.sub(r"`[^`\n]*`", lambda m: m[0] if m[0].startswith("`eq-") else "", page.prose)
        for target in LINK.findall(prose):
            place = target.split("#")[0]
            if re.match(r"[a-z]+:", target) or target in labels or not place:
                continue
            path = ((root / page.name).parent / place).resolve()
            inside = path.is_relative_to(root.resolve())
            name = path.relative_to(root.resolve()).as_posix() if inside else ""
            if name.removesuffix(".md") not in names and not path.is_file():
                yield f"{page.name}: nothing is at {target}"
        for role in re.findall(r"\{eq\}`([^`]+)`", page.prose):
            if role not in labels:
                yield f"{page.name}: no equation is called {role}"


def problems(root: Path = ROOT) -> list[str]:
    """One line a fault: the page, the rule and what is wrong."""
    book = pages(root)
    found = [
        f"{page.name}: {fault} [{rule.__name__}]"
        for page in book
        for rule in RULES
        if page.name not in EXCEPT.get(rule.__name__, ())
        for fault in rule(page)
    ]
    found += [f"{fault} [glossary]" for fault in glossary(book)]
    return found + [f"{fault} [links]" for fault in links(book, root)]


def main() -> int:
    found = problems()
    print("\n".join(found) or "book: every page keeps what it promises")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
