"""A study's units, shared among processes: each takes what no other works at, until all are there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

Unit = TypeVar("Unit")


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
