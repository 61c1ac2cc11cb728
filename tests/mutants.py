"""Single-line faults in the package's numeric code, drawn at random: do the tests notice?

``make mutants`` runs it, by hand; sixty take up to an hour on two cores. Cosmic Ray makes each
fault in a copy of the package; it is killed if the tests of its own module fail. What survives is
printed.

    make mutants ARGS="--count 60 --seed 0 --only sampling"
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from queue import Queue

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
COPIES = ROOT / "build" / "mutants"
TESTS = {
    "radiometry": ["radiometry", "rasters"],
    "lulc": ["lulc"],
    "files": ["files"],
    "rasters": ["rasters", "downsampling"],
    "downsampling": ["downsampling"],
    "nearest": ["labels"],
    "labels": ["labels"],
    "patches": ["patches", "exchange"],
    "splits": ["sampling"],
    "sampling": ["sampling"],
    "world/landscape": ["simulate"],
    "world/simulate": ["simulate"],
    "learn/datasets": ["learning"],
    "learn/encoders": ["golden", "learning"],
    "learn/checkpoints": ["golden", "published"],
    "learn/training": ["golden", "learning"],
    "learn/pretraining": ["golden", "learning"],
    "learn/segmentation": ["golden", "learning"],
    "learn/published": ["published"],
    "learn/evaluation": ["evaluation"],
    "learn/finetuning": ["learning"],
    "learn/inference": ["inference"],
    "learn/baselines": ["evaluation"],
    "maps": ["maps"],
}


def annotations(module: Path) -> set[int]:
    """Lines that hold annotations: no run evaluates them, so `|` in them is no code."""
    lines: set[int] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        for note in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if note is not None:
                lines |= set(range(note.lineno, note.end_lineno + 1))
    return lines


def faults(name: str) -> list[tuple[str, str, int, int]]:
    """Every fault of one line in a module: (module, operator, its occurrence, line)."""
    module = ROOT / "sartutorial" / f"{name}.py"
    nodes, noted, found = list(ast_nodes(get_ast_from_path(module))), annotations(module), []
    for kind in operator_names():
        operator = get_operator(kind)
        if operator.arguments():
            continue
        places = [p for node in nodes for p in operator().mutation_positions(node)]
        for occurrence, ((line, _), (last, _)) in enumerate(places):
            if line == last and not ("BitOr" in kind and line in noted):
                found.append((name, kind, occurrence, line))
    return found


def passes(copy: Path, tests: list[str]) -> bool:
    """Whether tests pass in a copy of the project; not if they hang, or cannot even be imported."""
    command = [ROOT / ".venv/bin/python", "-m", "pytest", "-xq", "-m", "not slow and not nightly"]
    command += [f"tests/test_{t}.py" for t in tests]
    environment = os.environ | {"CI": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=900)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def notice(fault: tuple[str, str, int, int], copies: "Queue[Path]") -> tuple[bool, str]:
    """Whether the tests of its module notice a fault, and what it changes."""
    name, kind, occurrence, line = fault
    copy = copies.get()
    with use_mutation(copy / f"sartutorial/{name}.py", get_operator(kind)(), occurrence) as code:
        noticed = not passes(copy, TESTS[name])
    copies.put(copy)
    old, new = (text.splitlines()[line - 1].strip() for text in code)
    return noticed, f"{name}.py:{line}\n  - {old}\n  + {new}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TESTS)
    arguments = parser.parse_args()
    # Lines first, then one fault of each: an operator with ten replacements weighs no more.
    lines: dict[tuple[str, int], list[tuple[str, str, int, int]]] = {}
    for fault in (f for n in TESTS if arguments.only in (None, n) for f in faults(n)):
        lines.setdefault((fault[0], fault[3]), []).append(fault)
    rng = random.Random(arguments.seed)
    drawn = rng.sample(sorted(lines), min(arguments.count, len(lines)))
    chosen = [rng.choice(lines[line]) for line in drawn]
    print(f"{len(chosen)} of {len(lines)} lines, a fault in each, seed {arguments.seed}")

    copies: Queue[Path] = Queue()
    for number in range(os.cpu_count() or 1):
        copy = COPIES / str(number)
        shutil.rmtree(copy, ignore_errors=True)
        for part in ("sartutorial", "tests", "book"):
            shutil.copytree(ROOT / part, copy / part)
        shutil.copy(ROOT / "pyproject.toml", copy)
        copies.put(copy)
    if not passes(copy, sorted(set(chain.from_iterable(TESTS.values())))):
        sys.exit("the tests fail without any fault: see `make test`")
    killed = 0
    with ThreadPoolExecutor(copies.qsize()) as pool:
        for noticed, change in pool.map(lambda f: notice(f, copies), chosen):
            killed += noticed
            print(("killed   " if noticed else "SURVIVED ") + change, flush=True)
    print(f"{killed} of {len(chosen)} killed: {killed / len(chosen):.0%}")


if __name__ == "__main__":
    main()
