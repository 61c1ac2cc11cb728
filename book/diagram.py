"""The module diagram in README.md, drawn from the package's own imports: ``make diagram``."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sartutorial"
OPEN, CLOSE = "<!-- modules -->", "<!-- /modules -->"

# The design's order, from a raw scene to a map: step, chapter, modules. A module may import those
# before it, never those after it; tests/test_house.py holds the package to this list.
STEPS = [
    ("scale", "", ["profiles"]),
    ("vocabulary", "01", ["radiometry", "lulc", "files", "rasters", "stamps", "scenes"]),
    ("a world to learn in", "01", ["landscape", "simulate"]),
    ("halve the scene", "02", ["downsample"]),
    ("label it", "03", ["labels"]),
    ("cut it", "04", ["patches", "exchange"]),
    ("choose and split", "05", ["splits", "sampling"]),
    ("feed a model", "06", ["datasets", "packing"]),
    ("pretrain", "06", ["encoders", "checkpoints", "training", "pretraining", "inpainting"]),
    (
        "fine-tune and score",
        "07, 08",
        ["segmentation", "losses", "evaluation", "finetuning", "table1", "published"],
    ),
    ("map a region", "09", ["inference", "maps"]),
    ("open any chapter first", "", ["workspace"]),
    ("all of Japan", "10", ["cli"]),
]
ORDER = [module for _, _, modules in STEPS for module in modules]


def imports(path: Path) -> set[str]:
    """The package's modules that a file imports, wherever in the file it does so."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(filter(None, ["sartutorial" if node.level else "", node.module]))
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    found = {name.split(".")[1] for name in names if name.startswith("sartutorial.")}
    return {name for name in found if (PACKAGE / f"{name}.py").exists()}


def mermaid() -> str:
    """One box a step; an arrow where a step uses another, unless a longer way already says so."""
    step_of = {module: i for i, (_, _, modules) in enumerate(STEPS) for module in modules}
    uses: dict[int, set[int]] = {i: set() for i in range(len(STEPS))}
    for module in ORDER:
        if (PACKAGE / f"{module}.py").exists():
            used = {step_of[name] for name in imports(PACKAGE / f"{module}.py") if name in step_of}
            uses[step_of[module]] |= used - {step_of[module]}
    reach: dict[int, set[int]] = {}
    for i in uses:
        reach[i] = uses[i].union(*(reach.get(j, set()) for j in uses[i]))
    lines = ["```mermaid", "flowchart TB"]
    for i, (step, chapter, modules) in enumerate(STEPS):
        where = f" · {chapter}" if chapter else ""
        lines.append(f'  s{i}["<b>{step}</b>{where}<br/>{", ".join(modules)}"]')
    for i in uses:
        direct = {j for j in uses[i] if not any(j in reach.get(k, set()) for k in uses[i])}
        lines += [f"  s{j} --> s{i}" for j in sorted(direct)]
    return "\n".join([*lines, "```"])


def readme(text: str) -> str:
    """The README with the diagram between its two markers."""
    before, rest = text.split(OPEN)
    return f"{before}{OPEN}\n{mermaid()}\n{CLOSE}{rest.split(CLOSE)[1]}"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "README.md"
    target.write_text(readme(target.read_text(encoding="utf-8")), encoding="utf-8")
