"""What studies share: units of work among processes, and functions of the chapter that one is for."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from filelock import FileLock, Timeout

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
Unit = TypeVar("Unit")


def of_chapter(name: str, *functions: str) -> SimpleNamespace:
    """Functions as the chapter ``name`` defines them; of its other cells only imports are run."""
    file = NOTEBOOKS / f"{name}.py"
    body = ast.parse(file.read_text(encoding="utf-8")).body
    wanted = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom)]
    wanted += [n for n in body if isinstance(n, ast.FunctionDef) and n.name in functions]
    space: dict[str, Any] = {}
    exec(compile(ast.Module(wanted, []), str(file), "exec"), space)
    return SimpleNamespace(**{function: space[function] for function in functions})


def work(
    units: Sequence[Unit],
    file_of: Callable[[Unit], Path],
    ready: Callable[[Unit], bool],
    run: Callable[[Unit], object],
    locks: Path,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Run every unit whose file is not there, beside other processes that do the same.

    A unit waits until it is ``ready``. The lock of one that is killed opens by itself, so that another
    process takes its unit up. No unit begins once ``until`` is true.
    """
    locks.mkdir(parents=True, exist_ok=True)
    while left := [u for u in units if not file_of(u).exists()]:
        idle = True
        for unit in left:
            if until():
                return
            if file_of(unit).exists() or not ready(unit):
                continue
            try:
                with FileLock(locks / f"{file_of(unit).stem}.lock", timeout=0):
                    if not file_of(unit).exists():
                        run(unit)
                        idle = False
            except Timeout:  # another process is at it
                continue
        if idle:
            time.sleep(0.5)
