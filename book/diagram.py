"""The module diagram in README.md, drawn from the package's own imports: ``make diagram``."""

from __future__ import annotations

import sys
from pathlib import Path

import grimp

import sartutorial
from sartutorial import cli

ROOT = Path(__file__).resolve().parents[1]
OPEN, CLOSE = "<!-- modules -->", "<!-- /modules -->"
# From a raw scene to a map: step, chapter, modules. That imports run one way is held by import-linter
# (pyproject.toml); here it shows, since every arrow leads to a later step.
STEPS = [
    ("vocabulary", "01", ["profiles", "radiometry", "lulc", "files", "rasters"]),
    ("halve the scene", "02", ["downsampling"]),
    ("label it", "03", ["nearest", "labels"]),
    ("cut it", "04", ["patches"]),
    ("choose and split", "05", ["splits", "sampling"]),
    ("a world to learn in", "01", ["world.landscape", "world.simulate"]),
    ("feed a model", "06", ["learn.datasets"]),
    (
        "pretrain",
        "06",
        ["learn.encoders", "learn.checkpoints", "learn.training", "learn.pretraining"],
    ),
    (
        "fine-tune and score",
        "07, 08",
        [
            *("learn.segmentation", "learn.published", "learn.evaluation", "learn.finetuning"),
            "learn.baselines",
        ],
    ),
    ("map a region", "09", ["learn.inference", "learn.reports", "maps"]),
    ("open any chapter first", "", ["tutorial"]),
    ("all of Japan", "10", ["cli"]),
]
STEP_OF = {module: i for i, (_, _, modules) in enumerate(STEPS) for module in modules}


def uses() -> dict[int, set[int]]:
    """The steps that each step's modules import, wherever in a module they do so."""
    graph = grimp.build_graph("sartutorial", cache_dir=None)
    found: dict[int, set[int]] = {i: set() for i in range(len(STEPS))}
    for module, step in STEP_OF.items():
        imported = graph.find_modules_directly_imported_by(f"sartutorial.{module}")
        names = {name.removeprefix("sartutorial.") for name in imported}
        if module == "cli":  # its commands are public functions, imported when they are run
            names |= {sartutorial._HOME[function] for function in cli.COMMANDS.values()}
        found[step] |= {STEP_OF[name] for name in names if name in STEP_OF} - {step}
    return found


def mermaid() -> str:
    """One box a step; an arrow where a step uses another, unless a longer way already says so."""
    used, reach = uses(), dict[int, set[int]]()
    lines = ["```mermaid", "flowchart TB"]
    for i, (step, chapter, modules) in enumerate(STEPS):
        where = f" · {chapter}" if chapter else ""
        lines.append(f'  s{i}["<b>{step}</b>{where}<br/>{", ".join(modules)}"]')
    for i, direct in used.items():
        reach[i] = direct.union(*(reach.get(j, set()) for j in direct))
        lines += [
            f"  s{j} --> s{i}"
            for j in sorted(direct)
            if not any(j in reach.get(k, set()) for k in direct)
        ]
    return "\n".join([*lines, "```"])


def readme(text: str) -> str:
    """The README with the diagram between its two markers."""
    before, rest = text.split(OPEN)
    return f"{before}{OPEN}\n{mermaid()}\n{CLOSE}{rest.split(CLOSE)[1]}"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "README.md"
    target.write_text(readme(target.read_text(encoding="utf-8")), encoding="utf-8")
