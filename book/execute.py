"""Run every chapter once, on a copy of the book, and say what each one cost.

``make book`` calls this, then builds the book from the executed copy in build/src:

    python -m book.execute            copy notebooks/ and book/, run the chapters in the toc's order
    python -m book.execute --report   print the table of the last run
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
SOURCE = BUILD / "src"
RESULTS = BUILD / "chapters.json"
# A cell that runs longer fails; on a busy machine training takes its time.
CELL_SECONDS = int(os.environ.get("CELL_SECONDS", "1800"))


def chapters(toc: Path) -> list[str]:
    """The notebooks of the table of contents, in order: ``notebooks/01_sar_images`` and so on."""
    entries = yaml.safe_load(toc.read_text(encoding="utf-8"))["chapters"]
    return [e["file"] for e in entries if e["file"].startswith("notebooks/")]


def copy_sources() -> None:
    """Lay notebooks/ and book/ side by side in build/src, as they lie in the repository."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    unwanted = shutil.ignore_patterns("*.py", "__pycache__", ".ipynb_checkpoints", "_build")
    for name in ("notebooks", "book"):
        shutil.copytree(ROOT / name, SOURCE / name, ignore=unwanted)


def run(notebook: Path, log: Path) -> tuple[int, float, float]:
    """Execute one notebook in place: exit status, seconds, peak memory in GB.

    The memory is that of the largest process, which is the notebook's kernel: ``wait4`` counts
    the descendants that were waited for (Linux counts in kB, macOS in bytes).
    """
    env = dict(os.environ)
    profile = env.setdefault("SARTUTORIAL_PROFILE", "laptop")
    env.setdefault("SARTUTORIAL_DATA", str(ROOT / "data" / "work" / profile))
    command = [sys.executable, "-m", "pytest", "--nbmake", "--overwrite", "-p", "no:cacheprovider"]
    command += [f"--nbmake-timeout={CELL_SECONDS}", "-c", os.devnull, "--rootdir", str(SOURCE)]
    start = time.monotonic()
    with log.open("wb") as out:
        child = subprocess.Popen(
            [*command, str(notebook)], cwd=SOURCE, env=env, stdout=out, stderr=out
        )
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return child.returncode, time.monotonic() - start, usage.ru_maxrss * unit / 1e9


def report() -> str:
    """The table of the last run."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = [f"{'chapter':<24}{'seconds':>9}{'peak GB':>9}"]
    lines += [f"{r['chapter']:<24}{r['seconds']:>9.1f}{r['peak_gb']:>9.2f}" for r in rows]
    total, peak = sum(r["seconds"] for r in rows), max(r["peak_gb"] for r in rows)
    return "\n".join([*lines, f"{'all':<24}{total:>9.1f}{peak:>9.2f}"])


def write_costs(rows: list[dict[str, Any]]) -> None:
    """The same as a page of the book, which book/costs.md includes."""
    lines = ["| chapter | seconds | peak memory [GB] |", "|---|---|---|"]
    row = "| [{chapter}](../notebooks/{chapter}) | {seconds:.0f} | {peak_gb:.2f} |"
    lines += [row.format(**r) for r in rows]
    profile = os.environ.get("SARTUTORIAL_PROFILE", "laptop")
    python = platform.python_version()
    lines += ["", f"Profile {profile}, {os.cpu_count()} CPU cores, Python {python}."]
    (SOURCE / "book" / "measured.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    if sys.argv[1:] == ["--report"]:
        print(report())
        return 0
    copy_sources()
    (BUILD / "logs").mkdir(exist_ok=True)
    names = chapters(ROOT / "book" / "_toc.yml")
    results = []
    for number, name in enumerate(names, 1):
        notebook, chapter = SOURCE / f"{name}.ipynb", Path(name).name
        if not notebook.exists():
            print(f"{name}.ipynb is in book/_toc.yml and not on disk", file=sys.stderr)
            return 1
        print(f"[{number:>2}/{len(names)}] {chapter} ... ", end="", flush=True)
        log = BUILD / "logs" / f"{chapter}.txt"
        status, seconds, peak = run(notebook, log)
        print(f"{seconds:.1f} s, {peak:.2f} GB{'' if status == 0 else ', FAILED'}", flush=True)
        if status:
            print(log.read_text(encoding="utf-8", errors="replace"), file=sys.stderr)
            print(
                f"FAILED: {name}.ipynb (this output is in {log.relative_to(ROOT)})", file=sys.stderr
            )
            return 1
        results.append(
            {"chapter": chapter, "seconds": round(seconds, 1), "peak_gb": round(peak, 3)}
        )
    write_costs(results)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
