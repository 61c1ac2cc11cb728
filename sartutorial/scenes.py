"""Many scenes: one after the other in this process, or side by side over dask.distributed.

The call is the same. What is done for a scene must not depend on another scene; one that fails is
noted, and the rest goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from sartutorial import InputError, rasters

T = TypeVar("T")
Work = Callable[[str], T]
ANSWER = 60  # seconds that a scheduler has to name a worker


def each(
    work: Work[T],
    scenes: Sequence[str | Path],
    *,
    name: str,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = False,
) -> tuple[dict[str, T], dict[str, Exception]]:
    """``work`` done on every scene: results and errors by scene, both in the order of ``scenes``.

    Here, one scene at a time and each with all threads; with ``workers`` above 1, so many scenes at a
    time in processes of their own on this machine; with the address of a dask ``scheduler``, on its
    workers, which must see the same files and have this package. A worker gives each of its threads a
    scene, which is decoded and encoded in one thread. ``work`` must be picklable, and safe to be done
    twice.

    Raises InputError if the scheduler does not answer or has no worker.
    """
    names = [shared(s, scheduler) for s in scenes]
    found: dict[str, T | Exception] = {}
    with ExitStack() as stack:
        if scheduler or min(workers, len(names)) > 1:
            done = _on_dask(stack, work, names, name, min(workers, len(names)), scheduler)
        else:
            done = ((scene, _tried(work, scene)) for scene in names)
        found.update(tqdm(done, name, len(names), unit="scene", disable=not progress))
    results = {s: r for s in names if not isinstance(r := found[s], Exception)}
    return results, {s: r for s in names if isinstance(r := found[s], Exception)}


def check(failed: Mapping[str, Exception]) -> None:
    """Raise what went wrong, if anything did: one line a scene, which names it.

    A single error is raised as it is where it names its scene.
    """
    lines = [_line(scene, error) for scene, error in failed.items()]
    if len(failed) == 1:
        (error,) = failed.values()
        if isinstance(error, (InputError, OSError)) and str(error) in lines[0]:
            raise error
    if lines:
        raise InputError("\n".join(lines)) from next(iter(failed.values()))


def _line(scene: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if not isinstance(error, (InputError, OSError)):
        text = f"{type(error).__name__}: {text}"
    return text if Path(rasters.name_of(scene)).stem in text else f"{scene}: {text}"


def shared(path: str | Path, scheduler: str | None) -> str:
    """A path as the workers of another machine must be told it; as it is where there are none."""
    if not scheduler or rasters.is_virtual(path):
        return str(path)
    return str(Path(path).absolute())


def _tried(work: Work[T], scene: str) -> T | Exception:
    try:
        return work(scene)
    except Exception as error:  # whatever it is, the other scenes can do without this one
        return error


def _on_dask(
    stack: ExitStack,
    work: Work[T],
    names: Sequence[str],
    step: str,
    workers: int,
    scheduler: str | None,
) -> Iterator[tuple[str, T | Exception]]:
    """Scenes and their results, in the order in which dask's workers are done with them."""
    from distributed import Client, LocalCluster, as_completed

    if scheduler:
        address: str | LocalCluster = scheduler
    else:
        address = stack.enter_context(
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        )
    try:
        client = stack.enter_context(Client(address, timeout=10))
        client.wait_for_workers(1, timeout=ANSWER)
    except (OSError, ValueError) as error:
        fault = "has no worker" if "client" in locals() else "no dask scheduler answers"
        raise InputError(
            f"{scheduler}: {fault}; start one with 'dask scheduler' and 'dask worker'"
        ) from error
    tasks = {client.submit(_task, work, scene, step, pure=False): scene for scene in names}
    for task in as_completed(tasks):
        fault = task.exception()  # of dask itself, such as a worker that died; ours is a result
        yield tasks[task], fault or task.result()


def _task(work: Work[T], scene: str, step: str) -> T | Exception:
    """``work`` on a worker, which does it alone and decodes and encodes in one thread."""
    from distributed import Lock

    os.environ["GDAL_NUM_THREADS"] = "1"
    with Lock(f"{step} {scene}"):  # the task of a run that was killed may still be at it
        return _tried(work, scene)
