"""How far do the book's key numbers move between CPUs, threads and library versions?

    python -m experiments.receipt [VARIANT...] [--oldest build/oldest/bin/python]

Every variant runs the cells of notebooks/99_receipt.py, down to the first that reads the result, in a
process of its own. A world is made anew where NumPy or its CPU features differ. Kinds of CPU are those
that one machine can play: libraries are told to leave newer instructions alone. Oldest are the versions
of `make test-oldest`. Worlds are kept in --work, so new weights take a minute of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jupytext

from sartutorial.learn import checkpoints

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "notebooks" / "99_receipt.py"
RESULT = ROOT / "book" / "results" / "receipt.json"
OLD_CPU = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3",
}
# Name, environment, world (those of one world share it).
VARIANTS: tuple[tuple[str, dict[str, str], str], ...] = (
    ("one thread", {"OMP_NUM_THREADS": "1"}, "locked"),
    ("two threads", {"OMP_NUM_THREADS": "2"}, "locked"),
    ("no AVX", {"OMP_NUM_THREADS": "1", **OLD_CPU}, "no-avx"),
    ("oldest libraries", {"OMP_NUM_THREADS": "1"}, "oldest"),
)
SAY = """
import platform
from sartutorial.learn import checkpoints
about = checkpoints.provenance()
about["versions"] |= {"python": platform.python_version()}
about["cpu"] = torch.backends.cpu.get_cpu_capability()
about["threads"] = torch.get_num_threads()
print("RECEIPT", json.dumps({"exact": exact, "real": real, "provenance": about}))
"""


def code() -> str:
    """The page's own cells that compute the numbers."""
    cells = [c.source for c in jupytext.read(PAGE).cells if c.cell_type == "code"]
    last = next(i for i, source in enumerate(cells) if RESULT.name in source)
    return "\n\n".join([*cells[:last], SAY])


def numbers(python: Path | str, env: dict[str, str], data: Path) -> dict[str, Any]:
    """What the cells find under these settings."""
    done = subprocess.run(
        [str(python), "-"],
        input=code(),
        env=os.environ | env | {"SARTUTORIAL_DATA": str(data), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    (line,) = [s for s in done.stdout.splitlines() if s.startswith("RECEIPT ")]
    found: dict[str, Any] = json.loads(line.removeprefix("RECEIPT "))
    found["provenance"] |= {"command": "python -m experiments.receipt"}
    return found


def main() -> None:
    """Run the variants, or those that are named; the others keep what they found last."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="variants to run, all by default")
    parser.add_argument("--oldest", type=Path, default=ROOT / "build" / "oldest" / "bin" / "python")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "receipt")
    given = parser.parse_args()
    what = "key numbers of a small simulated world, seed 0, by notebooks/99_receipt.py"
    found = json.loads(RESULT.read_text())["variants"] if RESULT.exists() else {}
    for name, env, world in VARIANTS:
        python = given.oldest if world == "oldest" else Path(sys.executable)
        if name not in (given.names or [v[0] for v in VARIANTS]):
            continue
        if not python.exists():
            print(f"{name}: left as it was, there is no {python} (`make test-oldest` makes it)")
            continue
        print(f"{name} ...", flush=True)
        found[name] = {"environment": env} | numbers(python, env, given.work.resolve() / world)
        ordered = {v[0]: found[v[0]] for v in VARIANTS if v[0] in found}
        checkpoints.write_json({"what": what, "variants": ordered}, RESULT)


if __name__ == "__main__":
    main()
