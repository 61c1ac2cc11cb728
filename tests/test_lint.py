"""The linter of the book: this book keeps its rules, and each rule names a planted fault."""

import pytest

from book import lint

FIGURE = ("A caption.", "What it shows.", "fig-a")
BOX = "# Title\n\n```{admonition} This chapter\n" + " ".join(lint.OPENING) + "\n```"
SOLUTION = lint.Cell("code", "check_a(1)\ncheck_a(2)", ("hide-cell",))


def exercise(number):
    return lint.Cell("markdown", f"**{number}.** Do it.")


def chapter(*changed):
    """A small chapter that keeps every rule, with cells put in before its exercises."""
    cells = [
        lint.Cell("markdown", BOX),
        lint.Cell("markdown", "## Wrong on purpose: all of it\n\nIt costs what is printed."),
        lint.Cell("code", "fig = plt.figure()\nplt.show()", (), FIGURE),
        *changed,
        lint.Cell("markdown", "## Exercises\n\n**1.** Do it."),
        lint.Cell("code", "def check_a(answer):\n    pass", ("hide-cell",)),
        exercise(2),
        SOLUTION,
        exercise(3),
        SOLUTION,
        lint.Cell("markdown", "## Key points\n\n- One.\n\n## References\n\nNone."),
    ]
    return lint.Page("notebooks/01_a", cells)


def without(page, number, *instead):
    return lint.Page(page.name, [*page.cells[:number], *instead, *page.cells[number + 1 :]])


def test_this_book_keeps_what_it_promises():
    assert lint.problems() == []
    assert len(lint.pages()) >= 20


@pytest.mark.parametrize("rule", lint.RULES, ids=lambda r: r.__name__)
def test_a_good_chapter_has_no_fault(rule):
    assert list(rule(chapter())) == []


def text(source):
    return lint.Cell("markdown", source)


@pytest.mark.parametrize(
    ("rule", "page", "said"),
    [
        (lint.contract, without(chapter(), 0, text(BOX.replace("You need", ""))), "**You need**"),
        (lint.contract, without(chapter(), 1), "no section 'Wrong on purpose: ...'"),
        (lint.contract, without(chapter(), 9, text("## Key points")), "Exercises, Key points"),
        (lint.exercises, without(without(chapter(), 7), 6), "2 exercises"),
        (lint.exercises, without(chapter(), 8), "exercise 3 has no folded solution"),
        (lint.exercises, without(chapter(), 4, SOLUTION), "no answer is checked"),
        (
            lint.exercises,
            without(chapter(), 4, lint.Cell("code", "def check_b(answer): ...", ("hide-cell",))),
            "check_b is never called",
        ),
        (lint.cell_length, chapter(lint.Cell("code", "x = 1\n" * 26)), "a cell of 26 lines"),
        (lint.numbers, chapter(text("The error is 3.28 dB.")), "3.28 is typed into prose"),
        (lint.numbers, chapter(text("| IoU | 0.7 |")), "0.7 is typed into prose"),
        (lint.figures, without(chapter(), 2, lint.Cell("code", "plt.show()")), "no alt text"),
        (
            lint.figures,
            chapter(lint.Cell("code", "plt.show()", (), ("", "Words.", "fig-b"))),
            "a figure has no caption",
        ),
        (lint.figures, chapter(text("```{figure} a.png\n:name: a\n\nA.\n```")), "no alt text"),
        (lint.figures, chapter(text("![](a.png)")), "an image has no alt text"),
        (lint.one_title, chapter(text("# Another title")), "2 titles"),
        (lint.one_title, chapter(text("#### Deep")), "'Deep' leaves out a level"),
        (
            lint.own_code,
            chapter(text("```python\ndef downsample(scene):\n    return scene\n```")),
            "code that is not the package's",
        ),
    ],
)
def test_a_planted_fault_is_named(rule, page, said):
    assert said in "\n".join(rule(page))


@pytest.mark.parametrize(
    "source",
    [
        "**Paper:** weights of 0.32 and 0.57.",
        "At level 2.1 the spacing is 2.5 m.",
        "`x = 0.3` and $p = 0.3$",
        "```text\n0.3\n```",
    ],
)
def test_what_is_quoted_or_code_may_hold_decimals(source):
    assert list(lint.numbers(chapter(text(source)))) == []


def test_folded_cells_may_be_long():
    page = chapter(lint.Cell("code", "x = 1\n" * 40, ("hide-input",)))
    assert list(lint.cell_length(page)) == []


GLOSSARY = lint.Page("book/glossary", [text("# G\n\n```{glossary}\nlook\n  A look.\n```")])


def test_figures_of_one_name_are_named():
    twice = [chapter(lint.Cell("code", "plt.show()", (), FIGURE)), GLOSSARY]
    assert "2 figures of the book are called fig-a" in list(lint.links(twice))


def test_glossary_and_links_agree():
    page = chapter(text("A {term}`look`, or {term}`two looks <look>`."))
    assert list(lint.glossary([page, GLOSSARY])) == []
    page = chapter(text("A {term}`token`."))
    assert list(lint.glossary([page, GLOSSARY])) == [
        "notebooks/01_a: 'token' is not in the glossary",
        "book/glossary: no chapter links 'look'",
    ]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("[a](02_b)", "nothing is at 02_b"),
        ("[a](../book/nowhere)", "nothing is at ../book/nowhere"),
        ("[a](exercise-nine)", "nothing is at exercise-nine"),
        ("{eq}`eq-nine`", "no equation is called eq-nine"),
    ],
)
def test_a_dead_link_is_named(tmp_path, source, said):
    assert said in "\n".join(lint.links([chapter(text(source)), GLOSSARY], tmp_path))


@pytest.mark.parametrize(
    "source",
    [
        "[a](../book/glossary)",
        "[a](https://example.org)",
        "[a](fig-a)",
        "(here)=\n**1.** [a](here)",
        "$$\nx\n$$ (eq-x)\n\n{eq}`eq-x`",
    ],
)
def test_a_living_link_is_no_fault(tmp_path, source):
    assert list(lint.links([chapter(text(source)), GLOSSARY], tmp_path)) == []
