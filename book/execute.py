"""Run every chapter once, on a copy of the book, and say what each one cost.

``make book`` calls this, then builds the book from the executed copy in build/src:

    python -m book.execute            copy notebooks/ and book/, run the chapters, two at a time
    python -m book.execute --report   print the table of the last run

What chapters share (simulated data, an encoder, models) is made first, so that no two of them make
it at once. Each process has one thread: two of them use two cores better than one with two threads.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
SOURCE = BUILD / "src"
# What others wait for begins first, then what takes long: or a core waits for the last of them.
FIRST = ("data", "models", "encoder", "07_finetuning", "09_maps", "10_japan")
WIDGET = "application/vnd.jupyter.widget-view+json"
RESULTS = BUILD / "chapters.json"
# A cell that runs longer fails; on a busy machine training takes its time.
CELL_SECONDS = int(os.environ.get("CELL_SECONDS", "1800"))
NBMAKE = [
    *(sys.executable, "-m", "pytest", "--nbmake", "--overwrite", "-p", "no:cacheprovider"),
    *(f"--nbmake-timeout={CELL_SECONDS}", "-c", os.devnull, "--rootdir", str(SOURCE)),
]
# What chapters share: name, what makes it, and what of it must be there before.
CHAIN = [
    ("data", "tutorial.sampled()", ""),
    ("encoder", "tutorial.encoder()", "data"),
    ("models", "tutorial.model(); tutorial.model(None)", "data"),
]
# What of it a chapter builds on, where that is not the data.
NEEDS = {
    "06_pretraining": "encoder",
    "07_finetuning": "models",
    "08_evaluation": "models",
    "99_receipt": "",
}


class Job(NamedTuple):
    """A chapter, or a part of the chain."""

    name: str
    command: list[str]
    needs: str  # the job that must have ended before; none where empty

    @property
    def log(self) -> Path:
        return BUILD / "logs" / f"{self.name}.txt"


class Cost(NamedTuple):
    """What running a job took; ``status`` is 0 where it went well."""

    status: int
    seconds: float
    peak_gb: float


def chapters(toc: Path) -> list[str]:
    """The notebooks of the table of contents, in order: ``notebooks/01_sar_images`` and so on."""
    parts = yaml.safe_load(toc.read_text(encoding="utf-8"))["parts"]
    entries = [entry for part in parts for entry in part["chapters"]]
    files = [page["file"] for entry in entries for page in (entry, *entry.get("sections", []))]
    return [file for file in files if file.startswith("notebooks/")]


def copy_sources() -> None:
    """Lay notebooks/ and book/ side by side in build/src, as they lie in the repository."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    unwanted = shutil.ignore_patterns("*.py", "__pycache__", ".ipynb_checkpoints", "_build")
    for name in ("notebooks", "book"):
        shutil.copytree(ROOT / name, SOURCE / name, ignore=unwanted)


def without_widgets(notebook: Path) -> None:
    """A widget is dead without its kernel: the page leaves it out, and shows the frames beside it."""
    held = json.loads(notebook.read_text(encoding="utf-8"))
    held["metadata"].pop("widgets", None)
    for cell in held["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [o for o in cell["outputs"] if WIDGET not in o.get("data", ())]
    notebook.write_text(json.dumps(held, indent=1), encoding="utf-8")


def run(job: Job) -> Cost:
    """Run a job, its output to its log.

    The memory is that of the largest process, which is a notebook's kernel: ``wait4`` counts
    the descendants that were waited for (Linux counts in kB, macOS in bytes).
    """
    env = dict(os.environ, OMP_NUM_THREADS="1")
    profile = env.setdefault("SARTUTORIAL_PROFILE", "laptop")
    env.setdefault("SARTUTORIAL_DATA", str(ROOT / "data" / "work" / profile))
    start = time.monotonic()
    with job.log.open("wb") as out:
        child = subprocess.Popen(job.command, cwd=SOURCE, env=env, stdout=out, stderr=out)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(child.returncode, time.monotonic() - start, usage.ru_maxrss * unit / 1e9)


def run_all(jobs: list[Job]) -> dict[str, Cost]:
    """Run jobs two at a time, in their order, each after the one that it needs, until one fails."""
    costs: dict[str, Cost] = {}
    waiting, running = list(jobs), dict[Future[Cost], Job]()
    with ThreadPoolExecutor(2) as pool:
        while waiting or running:
            ready = [job for job in waiting if job.needs in ("", *costs)]
            for job in ready[: 2 - len(running)]:
                waiting.remove(job)
                running[pool.submit(run, job)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, cost = running.pop(future), future.result()
                costs[job.name] = cost
                said = f"{cost.seconds:.1f} s, {cost.peak_gb:.2f} GB"
                print(f"[{len(costs):>2}/{len(jobs)}] {job.name}: {said}", flush=True)
                if cost.status:
                    waiting = []
                    log = job.log.read_text(encoding="utf-8", errors="replace")
                    where = job.log.relative_to(ROOT)
                    print(f"{log}\nFAILED: {job.command[-1]} (its output is in {where})",
                          file=sys.stderr)  # fmt: skip
    return costs


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
    shared = {name: calls for name, calls, _ in CHAIN}
    for r in rows:
        name = r["chapter"]
        said = f"shared: `{shared[name]}`" if name in shared else f"[{name}](../notebooks/{name})"
        lines.append(f"| {said} | {r['seconds']:.0f} | {r['peak_gb']:.2f} |")
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
    jobs = []
    for name, calls, before in CHAIN:
        code = f"from sartutorial import tutorial; {calls}"
        jobs.append(Job(name, [sys.executable, "-c", code], before))
    for chapter in chapters(ROOT / "book" / "_toc.yml"):
        if not (SOURCE / f"{chapter}.ipynb").exists():
            print(f"{chapter}.ipynb is in book/_toc.yml and not on disk", file=sys.stderr)
            return 1
        name = Path(chapter).name
        jobs.append(Job(name, [*NBMAKE, f"{chapter}.ipynb"], NEEDS.get(name, "data")))
    costs = run_all(sorted(jobs, key=lambda job: (*FIRST, job.name).index(job.name)))
    if any(cost.status for cost in costs.values()):
        return 1
    for chapter in chapters(ROOT / "book" / "_toc.yml"):
        without_widgets(SOURCE / f"{chapter}.ipynb")
    rows = [
        {
            "chapter": job.name,
            "seconds": round(costs[job.name].seconds, 1),
            "peak_gb": round(costs[job.name].peak_gb, 3),
        }
        for job in jobs
    ]
    write_costs(rows)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
