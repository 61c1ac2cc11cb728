"""Files: which are scenes, how they are written whole, what is up to date, and work on many."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import signal
import socket
import sys
import tarfile
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path, PurePosixPath
from threading import Event
from types import ModuleType
from typing import Any, TypeVar, cast

import psutil
from filelock import FileLock
from tqdm import tqdm

from sartutorial import InputError, __version__

Paths = str | Path | Sequence[str | Path]  # one, or several
T = TypeVar("T")
R = TypeVar("R")

SUFFIXES = (".tif", ".tiff", ".vrt", ".img", ".jp2")
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
NOTES = ".made"  # the folder beside products with what is known of them, locks and partial files
DIED = "the processes that took it died, one after the other; is there memory enough?"
SETTLED = 2e9  # nanoseconds: two changes within a tick of a file system's clock look alike

_TILE = r"[NS]\d{2}[EW]\d{3}_\d{2}"  # JAXA's 25 m mosaics, of PALSAR-2 and of PALSAR-1
_LAYER = re.compile(  # of a product, and no scene; nor WorldCover's quality
    rf"{_TILE}_(mask|linci|date)(_F\d\d[A-Z]{{3}})?(\.tiff?)?$|^ALOS2.*_(LIN|MSK)\.tiff?$"
    r"|_InputQuality\.tif$"
)
_PACKED = re.compile(rf"^({_TILE}_MOS|.*ALOS2\d{{9}}).*({'|'.join(ARCHIVES)})$", re.IGNORECASE)
_HH = re.compile(rf"(^|/)({_TILE}_sl_HH(_F\d\d[A-Z]{{3}})?(\.tiff?)?|IMG-HH-ALOS2[^/]*\.tiff?)$")


def find_scenes(
    paths: Paths, what: str = "scene", *, without: str | Path | None = None
) -> list[str]:
    """Find the rasters that files, URLs, folders and archives stand for: their paths and URLs.

    A folder is searched through, in the order of names, but for hidden files and a product's other
    layers. ENVI rasters need no suffix. An archive of JAXA's (.tar.gz, .zip) stands for its HH layer.

    Args:
        paths: One path or several.
        what: What they are called in an error.
        without: A folder to pass over, such as that of the products.

    Raises:
        InputError: A path cannot be read, a folder holds no raster, or two rasters share a name.
    """
    found: list[str] = []
    for path in several(paths):
        inside = [str(path)]
        if not is_virtual(path):
            try:
                os.stat(path)
            except OSError as error:
                raise unreadable(path, error, what) from error
            inside = list(_rasters(inside[0], without)) if os.path.isdir(path) else inside
            inside = [_hh(p) if p.lower().endswith(ARCHIVES) else p for p in inside]
        if not inside:
            raise InputError(f"{path}: the folder holds no raster (*.tif); name a {what}")
        found += inside
    if not found:
        raise InputError(f"no {what} given; name a file or a folder")
    names: dict[str, str] = {}
    shown = {os.path.realpath(file): path for path in found for file in _shown(Path(path))}
    for path in found:
        if (other := names.setdefault(product_name(path), path)) is not path:
            fault = f"two {what}s of one name, after which products are called; rename one"
            raise InputError(f"{other} and {path}: {fault}")
        if vrt := shown.get(os.path.realpath(path)):
            raise InputError(f"{vrt} and {path}: the one shows the other; name one of them")
    return found


def several(paths: Paths) -> Sequence[str | Path]:
    """One path or several, as several."""
    return [paths] if isinstance(paths, str | Path) else paths


def unreadable(path: str | Path, error: OSError, what: str = "file") -> InputError:
    """What to raise where a path cannot be read: it is not there, or not for us."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return InputError(f"{path}: no such {what}; check the path")
    return InputError(f"{path}: not readable ({error.strerror}); ask its owner for permission")


def _rasters(folder: str, without: str | Path | None) -> Iterator[str]:
    """The rasters and archives in a folder and all that lies in it, in the order of names."""

    def closed(error: OSError) -> None:
        raise unreadable(error.filename, error) from error

    seen = {os.path.realpath(without)} if without else set()
    for at, folders, names in os.walk(folder, onerror=closed, followlinks=True):
        seen.add(os.path.realpath(at))  # a link may lead back
        inside = {f: os.path.realpath(os.path.join(at, f)) for f in sorted(folders)}
        folders[:] = [f for f in inside if not f.startswith(".") and inside[f] not in seen]
        for name in sorted(n for n in names if not n.startswith(".") and not _LAYER.search(n)):
            raster = name.lower().endswith(SUFFIXES) or f"{name}.hdr" in names
            if raster or _PACKED.search(name):
                yield os.path.join(at, name)


def _hh(archive: str) -> str:
    """GDAL's path of the HH layer in an archive."""
    kind = "zip" if archive.lower().endswith(".zip") else "tar"
    try:
        with zipfile.ZipFile(archive) if kind == "zip" else tarfile.open(archive) as packed:
            names = packed.namelist() if isinstance(packed, zipfile.ZipFile) else packed.getnames()
    except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{archive}: not a readable archive ({error}); fetch it anew") from error
    if not (name := next(filter(_HH.search, names), None)):
        raise InputError(f"{archive}: holds no HH layer (*_sl_HH*); unpack it and name the raster")
    return f"/vsi{kind}/{os.path.abspath(archive)}/{name.removeprefix('./')}"


def is_virtual(path: str | Path) -> bool:
    """Whether a path is a URL or one of GDAL's virtual files, rather than a file's."""
    return "://" in str(path) or str(path).startswith("/vsi")


def name_of(path: str | Path) -> str:
    """The file name of a path or URL, without a URL's query."""
    text = str(path)
    return PurePosixPath(text.partition("?")[0] if is_virtual(text) else text).name


def stem_of(path: str | Path) -> str:
    """A scene's name without the suffix of a raster: what its products and patches are named after."""
    name = name_of(path)
    return next((name[: -len(s)] for s in SUFFIXES if name.lower().endswith(s)), name)


def product_name(scene: str | Path) -> str:
    """The file name of what is made from a scene: ``<stem>.tif``."""
    return f"{stem_of(scene)}.tif"


def on_disk(path: str | Path) -> Path:
    """The file of this machine that a path reads: its archive, for a path into an archive."""
    text = str(path)
    if not text.startswith(("/vsitar/", "/vsizip/")):
        return Path(text)
    inside = Path(text[8:])
    return next((p for p in inside.parents if p.is_file()), inside)


def _notes(out: Path) -> Path:
    return out.parent if out.parent.name == NOTES else out.parent / NOTES


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a file of this run's own, called as ``path`` is, that becomes ``path`` if all goes well.

    An interrupted run leaves the old file or none; what a killed run has left is removed by the next.
    Raises OSError, naming ``path``, if it cannot be written.
    """
    path, here = Path(path), socket.gethostname()
    notes = _notes(path)
    partial = notes / f"{here}.{os.getpid()}.{secrets.token_hex(4)}.{path.name}"
    try:
        notes.mkdir(parents=True, exist_ok=True)
        for left in os.listdir(notes):
            run, _, rest = left.removeprefix(f"{here}.").partition(".")
            if rest[9:] == path.name and run.isdigit() and not psutil.pid_exists(int(run)):
                (notes / left).unlink(missing_ok=True)
        partial.touch()
        mode = partial.stat().st_mode  # as the umask has it, whatever mode a library would take
        partial.unlink()
        yield partial
        os.chmod(partial, mode)
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            error = error.__context__  # torch's way to say that a file cannot be written
        if not isinstance(error, OSError) or str(path) in str(error):
            raise
        raise OSError(f"{path}: could not be written ({error.__cause__ or error})") from error


@contextmanager
def locked(out: str | Path) -> Iterator[None]:
    """Hold the right to make ``out``: a second process that asks for it waits for the first."""
    notes = _notes(Path(out))
    try:
        notes.mkdir(parents=True, exist_ok=True)
        lock = FileLock(notes / f"{Path(out).name}.lock").acquire()
    except OSError as error:
        raise OSError(f"{out}: could not be written ({error})") from error
    with lock:
        yield


def up_to_date(out: str | Path, inputs: Paths, parameters: Mapping[str, Any]) -> bool:
    """Whether ``out`` was made from the same inputs, with the same parameters, by this version.

    Args:
        out: The product; what it was made from is noted beside it, in the folder ``.made``.
        inputs: The files it is made from, in order. Their content counts, neither times nor folders;
            what lies elsewhere is known by its address alone.
        parameters: What else decides how it is made; anything that JSON can hold.

    Raises:
        InputError: ``out`` is one of its inputs, or an input is missing.
    """
    out = Path(out)
    if any(on_disk(i).resolve() == out.resolve() for i in several(inputs)):
        raise InputError(f"{out}: would overwrite its own source; take another --out")
    try:
        noted = json.loads(_sidecar(out).read_text())
        known = _known(noted)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    now = _described(inputs, parameters, known)
    if not out.exists() or now | dict(states=0) != noted | dict(states=0):
        return False
    if now != noted:  # the same in a copy, say: its content need not be read again
        with suppress(OSError):
            _note(out, now)
    return True


@contextmanager
def made(out: str | Path, inputs: Paths, parameters: Mapping[str, Any]) -> Iterator[Path | None]:
    """Yield a file to write that becomes ``out``, or None if it is up to date, now or after a wait.

    Args:
        out: The product.
        inputs: The files it is made from, as for ``up_to_date``.
        parameters: What else decides how it is made.

    Raises:
        InputError: As of ``up_to_date``.
    """
    out = Path(out)
    if up_to_date(out, inputs, parameters):
        yield None
        return
    with locked(out):
        if up_to_date(out, inputs, parameters):  # another process was quicker
            yield None
            return
        before = _described(inputs, parameters)
        with atomic_write(out) as partial:
            yield partial
            _sidecar(out).unlink(missing_ok=True)  # it is not what this file is made from
        if _described(inputs, parameters, _known(before))["inputs"] == before["inputs"]:
            _note(out, before)


def record(out: str | Path, inputs: Paths, parameters: Mapping[str, Any]) -> None:
    """Note what ``out``, which is there, is made from, for ``up_to_date``."""
    _note(Path(out), _described(inputs, parameters))


def _sidecar(out: Path) -> Path:
    return _notes(out) / f"{out.name}.json"


def _note(out: Path, description: dict[str, Any]) -> None:
    with atomic_write(_sidecar(out)) as partial:
        partial.write_text(json.dumps(description))


def _known(noted: Mapping[str, Any]) -> dict[Any, Any]:
    return dict(zip(map(tuple, noted["states"]), noted["inputs"], strict=True))


def _described(
    inputs: Paths, parameters: Mapping[str, Any], known: Mapping[Any, Any] = {}
) -> dict[str, Any]:
    """What a product is made from: inputs by name and content, read unless ``known`` by their state."""
    found, states = [], []
    for name, file in _parts(inputs):
        content, state = None, list[int]()
        if file:
            s, now = file.stat(), time.time_ns()
            state = [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino]
            content = known[tuple(state)][1] if tuple(state) in known else _content(file)
            state = [] if now - max(s.st_mtime_ns, s.st_ctime_ns) < SETTLED else state
        found.append([name, content])
        states.append(state)
    version, plain = __version__.rpartition(".")[0], json.loads(json.dumps(dict(parameters)))
    return dict(version=version, parameters=plain, inputs=found, states=states)


def _parts(inputs: Paths) -> list[tuple[str, Path | None]]:
    """Every file that inputs read, by name: also what lies beside them or what a VRT points to."""
    parts: list[tuple[str, Path | None]] = []
    for i in several(inputs):
        file = on_disk(i)
        if is_virtual(i) and not file.is_file():
            parts.append((str(i).partition("?")[0], None))  # a query may hold a key that expires
            continue
        if not file.exists():
            raise InputError(f"{file}: no such file; check the path")
        beside = [file.with_name(file.name + s) for s in (".msk", ".aux.xml", ".hdr")]
        beside = [p for p in (*beside, file.with_suffix(".hdr")) if p.is_file()]
        parts += [(name_of(i), file), *((p.name, p) for p in beside), *_parts(_shown(file))]
    return parts


def _shown(file: Path) -> list[Path]:
    """The files that a VRT shows."""
    if file.suffix.lower() != ".vrt" or not file.is_file():
        return []
    names = re.findall(
        r"<Source(?:Filename|Dataset)[^>]*>([^<]+)<", file.read_text(errors="replace")
    )
    return sorted({p for n in names if (p := file.parent / n).is_file()})  # n may be absolute


def _content(file: Path) -> int:
    """CRC-32: with a file's size enough against chance, and quicker than a cryptographic sum."""
    crc = 0
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def map_scenes(
    work: Callable[[str], T],
    scenes: Paths,
    *,
    name: str,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = False,
) -> list[T]:
    """Do ``work`` on every scene and return what came of each; one that fails stops no other.

    Args:
        work: Takes a scene's path. For other processes it must be picklable, with absolute paths.
        scenes: Paths or URLs; or one, or a folder of them.
        name: What the work is called, for the bar.
        workers: How many scenes at a time, each in a process of its own; 1 works in this process.
        scheduler: The address of a dask scheduler, whose workers see the same files and know this package.
        progress: Show a bar.

    Raises:
        InputError: Scenes failed: one line each, once all others are done. Or no scheduler answers.
    """
    if workers < 1:
        raise InputError(f"--workers {workers}: must be 1 or more")
    scenes = find_scenes(scenes) if isinstance(scenes, str | Path) else scenes
    names = [str(s) if is_virtual(s) or not scheduler else os.path.abspath(s) for s in scenes]
    with closing(_each(work, names, min(workers, len(names)), scheduler)) as done:
        found = dict(tqdm(done, name, len(names), unit="scene", disable=not progress))
    failed = [(s, error) for s in names if isinstance(error := found[s], Exception)]
    lines = []
    for scene, error in failed:
        kind = "" if isinstance(error, InputError | OSError) else f"{type(error).__name__}: "
        said = kind + " ".join(str(error).split())
        lines.append(said if stem_of(scene) in said else f"{scene}: {said}")
    if failed and lines == [str(failed[0][1])]:
        raise failed[0][1]
    if failed:
        raise InputError("\n".join(lines)) from failed[0][1]
    return [cast(T, found[s]) for s in names]


def products(
    work: Callable[..., Path], scene: Paths, out: str | Path, *, progress: bool, **how: Any
) -> Path | list[Path]:
    """Make each scene's product in the folder ``out``, or of a single one the file ``out`` (.tif).

    ``work`` takes a scene, ``out`` and ``progress``; ``how`` is for ``map_scenes``. The file of a
    single scene comes back alone, those of several or of a folder in a list.
    """
    scenes = find_scenes(scene, without=out)
    file = str(out).lower().endswith((".tif", ".tiff")) and not os.path.isdir(out)
    if file and len(scenes) > 1:
        raise InputError(f"{out}: one file for several scenes; name a folder")
    place = Path(out).absolute() if how.get("scheduler") else Path(out)  # others must find it

    def make(one: str) -> Path:
        return work(one, out=place if file else place / product_name(one), progress=progress)

    made = map_scenes(make, scenes, progress=progress, **how)
    return made[0] if isinstance(scene, str | Path) and not os.path.isdir(scene) else made


def _tried(work: Callable[[str], T], scene: str, threads: str = "") -> T | Exception:
    if threads:  # to decode and encode in: on a worker, one
        os.environ["GDAL_NUM_THREADS"] = threads
    try:
        return work(scene)
    except Exception as error:  # whatever it is, the other scenes can do without this one
        return error


def _each(
    work: Callable[[str], T], scenes: Sequence[str], workers: int, scheduler: str | None
) -> Generator[tuple[str, T | Exception]]:
    """Scenes and what came of them, in the order in which they are done."""
    if workers < 2 and not scheduler:
        yield from ((scene, _tried(work, scene)) for scene in scenes)
        return
    from distributed import Client, KilledWorker, as_completed

    with ExitStack() as stack:
        try:
            address = scheduler or stack.enter_context(_own_workers(workers))
            client = stack.enter_context(Client(address, timeout=10))
            client.wait_for_workers(1, timeout=60)
        except (OSError, ValueError) as error:
            fault = "no dask scheduler answers, or none with workers; start it and 'dask worker'"
            raise InputError(f"{scheduler}: {fault}") from error
        tasks = {client.submit(_tried, work, scene, "1", pure=False): scene for scene in scenes}
        for task in as_completed(tasks):
            scene = tasks.pop(task)  # or a worker that dies takes results along, to be made again
            died = isinstance(task.exception(), KilledWorker)  # ours is a result
            lost = InputError(f"{scene}: {DIED}") if died else task.exception()
            yield scene, lost or task.result()


@contextmanager
def _own_workers(number: int) -> Iterator[Any]:
    """Processes of this machine, which end with this one.

    They do not read the caller's script again, so it needs no ``if __name__ == "__main__"``, and
    leave an interruption to this process.
    """
    from distributed import LocalCluster

    main, mask = sys.modules["__main__"], signal.pthread_sigmask
    resource_tracker.ensure_running()  # which would unblock the signal if started meanwhile
    before = mask(signal.SIG_BLOCK, [signal.SIGINT])
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        how: dict[str, Any] = dict(dashboard_address=":0", silence_logs=logging.CRITICAL)
        how["scheduler_kwargs"] = dict(allowed_failures=1)  # a scene may kill one worker, no second
        cluster: Any = LocalCluster(n_workers=number, threads_per_worker=1, **how)
    finally:
        sys.modules["__main__"] = main
        mask(signal.SIG_SETMASK, before)
    with cluster:
        cluster.scheduler.WORKER_SATURATION = 1.0  # none waits at a worker, to be suspected with it
        yield cluster


@contextmanager
def prefetch(work: Callable[[T], R], items: Iterable[T], threads: int = 1) -> Iterator[Iterator[R]]:
    """``work(item)`` in order; while the caller uses one result, ``threads`` make the next ones.

    No thread works on when the context has ended: what they read may be closed then.
    """
    with ThreadPoolExecutor(threads) as pool:
        # Threads start before there is work: the pool does not wait for one that Ctrl-C met starting.
        idle = Event()
        try:
            for _ in range(threads):
                pool.submit(idle.wait)
        finally:
            idle.set()

        def results() -> Iterator[R]:
            coming: deque[Future[R]] = deque()
            for item in items:
                coming.append(pool.submit(work, item))
                if len(coming) > threads:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

        yield results()
