"""What each command of a recipe takes, beside what ``sartutorial run --dry-run`` expected.

    python -m experiments.recipe_costs RECIPE.yaml ...

Runs each recipe, a process a command, and adds its rows to book/results/recipe_costs.json: CPU seconds
of the command and its children, GB read and written, GB of memory at the peak. CPU seconds, since wall
clocks tell as much of what else a machine is doing. COSTS in sartutorial/cli.py are straight lines
through these rows; ``expected`` is what they say, and ``ratio`` the measured time over it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from sartutorial import cli, files

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "book" / "results" / "recipe_costs.json"
COMMAND = "import sartutorial; sartutorial._main()"


def gigabytes(path: Path) -> float:
    """GB of a file, or of a folder and what lies in it."""
    return sum(f.stat().st_size for f in (path, *path.rglob("*")) if f.is_file()) / 1e9


def expected(name: str, read: float, epochs: int) -> float:
    """CPU seconds that COSTS say, at the laptop's scale."""
    start, seconds, *_ = cli.COSTS[name]
    return start + read * seconds * epochs


def measured(recipe: Path) -> list[dict[str, Any]]:
    """A row for each command of a recipe, which is run."""
    content = yaml.safe_load(recipe.read_text())
    data, rows = Path(content.pop("data")), []
    for name in (name for name in cli.COMMANDS if name in content):
        given, before = content[name], gigabytes(data)
        source = given.get("scene") or given.get("patches")
        read = gigabytes(data / source) if source else 0.0
        with tempfile.TemporaryFile() as said:
            arguments = [sys.executable, "-c", COMMAND, name, "--config", str(recipe.resolve())]
            child = subprocess.Popen(arguments, stdout=said, stderr=said)
            _, status, used = os.wait4(child.pid, 0)
            said.seek(0)
            assert status == 0, said.read().decode()
        rows.append(row(name, read, gigabytes(data) - before, used, given.get("epochs", 1)))
        print(rows[-1], flush=True)
    return rows


def row(name: str, read: float, wrote: float, used: Any, epochs: int) -> dict[str, Any]:
    """What one command took."""
    seconds, said = used.ru_utime + used.ru_stime, expected(name, read, epochs)
    return {
        "command": name,
        "epochs": epochs,
        "read_gb": round(read, 4),
        "wrote_gb": round(wrote, 4),
        "memory_gb": round(used.ru_maxrss / 1e6, 2),
        "cpu_seconds": round(seconds, 1),
        "expected": round(said, 1),
        "ratio": round(seconds / said, 2),
    }


def main() -> None:
    """Measure the recipes that are named, and write their rows."""
    rows = [r for recipe in sys.argv[1:] for r in measured(Path(recipe))]
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": []}
    content = found | {
        "command": "python -m experiments.recipe_costs RECIPE.yaml ...",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "date": str(date.today()),
        "rows": found["rows"] + [r | {"fitted": False} for r in rows],
    }
    with files.atomic_write(RESULT) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
