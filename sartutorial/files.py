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
from types import ModuleType
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from filelock import FileLock
from tqdm import tqdm

from sartutorial import InputError, __version__

Paths = str | Path | Sequence[str | Path]  # one, or several
T = TypeVar("T")
R = TypeVar("R")

SUFFIXES = (".tif", ".tiff", ".vrt", ".img", ".jp2")
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
NOTES = ".made"  # the folder beside products with what is known of them, locks and partial files
SETTLED = 2e9  # nanoseconds: two changes within a tick of a file system's clock look alike
ANSWER = 60  # seconds that a scheduler has to name a worker

_TILE = r"[NS]\d{2}[EW]\d{3}_\d{2}"  # JAXA's 25 m mosaics, of PALSAR-2 and of PALSAR-1
_LAYER = re.compile(  # of a product, and no scene; nor WorldCover's quality
    rf"{_TILE}_(mask|linci|date)(_F\d\d[A-Z]{{3}})?(\.tiff?)?$|^ALOS2.*_(LIN|MSK)\.tiff?$"
    r"|_InputQuality\.tif$"
)
_PACKED = re.compile(rf"^({_TILE}_MOS|.*ALOS2\d{{9}})[^/]*$")
_INSIDE = re.compile(
    rf"(^|/)({_TILE}_sl_HH(_F\d\d[A-Z]{{3}})?(\.tiff?)?|IMG-HH-ALOS2[^/]*\.tiff?)$"
)


# Scenes ------------------------------------------------------------------------------------------


def find_scenes(
    paths: Paths, what: str = "scene", *, without: str | Path | None = None
) -> list[str]:
    """Find the rasters that files, URLs, folders and archives stand for.

    A folder is searched through, in the order of names, but for hidden files and a product's other
    layers (mask, incidence angle, date). ENVI rasters need no suffix. An archive of JAXA's (.tar.gz,
    .zip) stands for its HH layer, which is read in place.

    Args:
        paths: One path or several.
        what: What they are called in an error.
        without: A folder to pass over, such as that of the products.

    Returns:
        Paths and URLs.

    Raises:
        InputError: A path does not exist or cannot be read, a folder holds no raster, or two rasters
            would be made into products of the same name.
    """
    found: list[str] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        inside = [str(path)]
        if not is_virtual(path):
            try:
                os.stat(path)
            except OSError as error:
                raise unreadable(path, error, what) from error
            inside = list(_rasters(inside[0], without)) if os.path.isdir(path) else inside
        if not inside:
            raise InputError(f"{path}: the folder holds no raster (*.tif); name a {what}")
        found += [_hh(p) if p.lower().endswith(ARCHIVES) else p for p in inside]
    if not found:
        raise InputError(f"no {what} given; name a file or a folder")
    names: dict[str, str] = {}
    for path in found:
        if (other := names.setdefault(product_name(path), path)) is not path:
            raise InputError(
                f"{other} and {path}: two {what}s of one name, after which products are called; "
                "name one of them, or rename one"
            )
    places = {os.path.realpath(path): path for path in found}
    for path in found:
        for file in _shown(Path(path)):
            if twin := places.get(os.path.realpath(file)):
                raise InputError(f"{path} and {twin}: the one shows the other; name one of them")
    return found


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
    seen.discard(os.path.realpath(folder))
    for at, folders, names in os.walk(folder, onerror=closed, followlinks=True):
        seen.add(os.path.realpath(at))
        places = {f: os.path.realpath(os.path.join(at, f)) for f in sorted(folders)}
        folders[:] = [f for f in places if not f.startswith(".") and places[f] not in seen]
        for name in sorted(n for n in names if not n.startswith(".") and not _LAYER.search(n)):
            raster = name.lower().endswith(SUFFIXES) or f"{name}.hdr" in names
            if raster or (_PACKED.search(name) and name.lower().endswith(ARCHIVES)):
                yield os.path.join(at, name)


def _hh(archive: str) -> str:
    """GDAL's path of the HH layer in an archive; of one elsewhere, by JAXA's rule for names."""
    kind = "/vsizip/" if archive.lower().endswith(".zip") else "/vsitar/"
    if is_virtual(archive):
        layer = _without(name_of(archive), ARCHIVES).replace("_MOS", "_sl_HH")
        return f"{kind}/vsicurl/{archive}/{layer}{'.tif' * ('_F' in layer)}"
    try:
        if kind == "/vsizip/":
            with zipfile.ZipFile(archive) as packed:
                name = next(filter(_INSIDE.search, packed.namelist()), None)
        else:
            with tarfile.open(archive) as packed:  # read as far as the layer, not to its end
                name = next((m.name for m in packed if _INSIDE.search(m.name)), None)
    except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{archive}: not a readable archive ({error}); fetch it anew") from error
    if name is None:
        raise InputError(f"{archive}: holds no HH layer (*_sl_HH*); unpack it and name the raster")
    return f"{kind}{os.path.abspath(archive)}/{name.removeprefix('./')}"


def _without(name: str, suffixes: tuple[str, ...]) -> str:
    return next((name[: -len(s)] for s in suffixes if name.lower().endswith(s)), name)


def is_virtual(path: str | Path) -> bool:
    """Whether a path is a URL or one of GDAL's virtual files, rather than a file's."""
    return "://" in str(path) or str(path).startswith("/vsi")


def name_of(path: str | Path) -> str:
    """The file name of a path or URL, without a URL's query."""
    text = str(path)
    if not is_virtual(text):
        return Path(text).name  # whose separators are those of this machine
    return PurePosixPath(urlsplit(text).path if "://" in text else text).name


def stem_of(path: str | Path) -> str:
    """A scene's name without the suffix of a raster: what its products and patches are named after.

    >>> stem_of("a/IMG-HH-ALOS2458503210-221119-UBSR2.1GUD.tif")
    'IMG-HH-ALOS2458503210-221119-UBSR2.1GUD'
    """
    return _without(name_of(path), SUFFIXES)


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


def target(out: str | Path, scene: str | Path, several: bool) -> Path:
    """Where a scene's product goes: into the folder ``out``, or to a file if it is called .tif.

    Raises InputError if ``out`` is one file for ``several`` scenes.
    """
    file = str(out).lower().endswith((".tif", ".tiff")) and not Path(out).is_dir()
    if file and several:
        raise InputError(f"{out}: one file for several scenes; name a folder")
    return Path(out) if file else Path(out) / product_name(scene)


# Whole files -------------------------------------------------------------------------------------


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a file to write to, which becomes ``path`` only if all went well.

    It is one of its own, so two runs do not meet in it, and ends as ``path`` does. An interrupted
    run leaves the old file or none; what a killed run has left is removed by the next.

    Raises:
        OSError: ``path`` cannot be written; it is named.
    """
    path, here = Path(path), socket.gethostname()
    notes = path.parent / NOTES
    partial = notes / f"{here}.{os.getpid()}.{secrets.token_hex(4)}.{path.name}"
    try:
        notes.mkdir(parents=True, exist_ok=True)
        for left in os.listdir(notes):
            run, _, rest = left.removeprefix(f"{here}.").partition(".")
            if rest[9:] == path.name and run.isdigit() and not _alive(int(run)):
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


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def locked(out: str | Path) -> Iterator[None]:
    """Hold the right to make ``out``: a second process that asks for it waits for the first."""
    notes = Path(out).parent / NOTES
    try:
        notes.mkdir(parents=True, exist_ok=True)
        lock = FileLock(notes / f"{Path(out).name}.lock").acquire()
    except OSError as error:
        raise OSError(f"{out}: could not be written ({error})") from error
    with lock:
        yield


# What is up to date ------------------------------------------------------------------------------


def up_to_date(
    out: str | Path, inputs: Sequence[str | Path], parameters: Mapping[str, Any]
) -> bool:
    """Whether ``out`` was made from the same inputs, with the same parameters, by this version.

    Inputs are the same if their content is: neither times nor folders count. What lies elsewhere
    is known by its address alone.

    Args:
        out: The product; what it was made from is noted beside it, in the folder ``.made``.
        inputs: The files it is made from, in order.
        parameters: What else decides how it is made; anything that JSON can hold.

    Raises:
        InputError: ``out`` is one of its inputs, or an input is missing.
    """
    out = Path(out)
    if any(on_disk(i).resolve() == out.resolve() for i in inputs):
        raise InputError(f"{out}: would overwrite its own source; take another --out")
    try:
        noted = json.loads(_sidecar(out).read_text())
        known = dict(zip(map(tuple, noted["states"]), noted["inputs"], strict=True))
        known.pop((), None)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    now = _described(inputs, parameters, known)
    if not out.exists() or now | dict(states=0) != noted | dict(states=0):
        return False
    if now != noted:  # the same in a copy, say: its content need not be read again
        with suppress(OSError):
            _note(out, now)
    return True


def record(out: str | Path, inputs: Sequence[str | Path], parameters: Mapping[str, Any]) -> None:
    """Note what ``out``, which is whole, was made from, for ``up_to_date``."""
    _note(Path(out), _described(inputs, parameters))


@contextmanager
def made(
    out: str | Path, inputs: Sequence[str | Path], parameters: Mapping[str, Any]
) -> Iterator[Path | None]:
    """Yield a file to write that becomes ``out``, or None if ``out`` is up to date.

    Of several processes that ask for the same ``out``, one makes it while the others wait.
    """
    out = Path(out)
    if up_to_date(out, inputs, parameters):
        yield None
        return
    with locked(out), ThreadPoolExecutor(1) as beside:
        if up_to_date(out, inputs, parameters):  # another process was quicker
            yield None
            return
        before = _states(inputs)
        description = beside.submit(_described, inputs, parameters)
        with atomic_write(out) as partial:
            yield partial
            note = description.result()
            _sidecar(out).unlink(missing_ok=True)  # it is not what this file is made from
        if _states(inputs) == before:
            _note(out, note)


def _sidecar(out: Path) -> Path:
    return out.parent / NOTES / f"{out.name}.json"


def _note(out: Path, description: dict[str, Any]) -> None:
    with atomic_write(_sidecar(out)) as partial:
        partial.write_text(json.dumps(description))


def _described(
    inputs: Sequence[str | Path], parameters: Mapping[str, Any], known: Mapping[Any, Any] = {}
) -> dict[str, Any]:
    """What a product is made from: each input by name and content, which is read unless ``known``."""
    found, states = [], _states(inputs)
    for i, (name, file) in enumerate(_parts(inputs)):
        content = known.get(tuple(states[i]), (name, None))[1]
        if file and time.time_ns() - max(states[i][1:3]) < SETTLED:
            content, states[i] = None, []
        if file and content is None:
            content = _content(file)
        found.append([name, content])
    version = ".".join(__version__.split(".")[:2])
    plain = json.loads(json.dumps(dict(parameters)))
    return dict(version=version, parameters=plain, inputs=found, states=states)


def _parts(inputs: Iterable[str | Path]) -> list[tuple[str, Path | None]]:
    """Every file that inputs read, by name: also what lies beside them or what a VRT points to."""
    parts: list[tuple[str, Path | None]] = []
    for i in inputs:
        file = on_disk(i)
        if is_virtual(i) and not file.is_file():
            parts.append((str(i).partition("?")[0], None))  # a query may hold a key that expires
            continue
        if not file.exists():
            raise InputError(f"{file}: no such file; check the path")
        parts.append((name_of(i), file))
        beside = [file.with_name(file.name + s) for s in (".msk", ".aux.xml", ".hdr")]
        parts += [(p.name, p) for p in (*beside, file.with_suffix(".hdr")) if p.is_file()]
        parts += _parts(_shown(file))
    return parts


def _shown(file: Path) -> list[Path]:
    """The files that a VRT shows."""
    if file.suffix.lower() != ".vrt" or not file.is_file():
        return []
    names = re.findall(r"<SourceFilename[^>]*>([^<]+)<", file.read_text(errors="replace"))
    return sorted({p for n in names if (p := file.parent / n).is_file()})  # n may be absolute


def _states(inputs: Sequence[str | Path]) -> list[list[int]]:
    """What differs once a file is replaced or written to, whatever date it is given."""
    stats = [file.stat() if file else None for _, file in _parts(inputs)]
    return [[s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] if s else [] for s in stats]


def _content(file: Path) -> int:
    """CRC-32 of a file's content: with its size enough against chance, and thrice as fast as SHA-256."""
    crc = 0
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


# Many scenes -------------------------------------------------------------------------------------


def map_scenes(
    work: Callable[[str], T],
    scenes: Sequence[str | Path],
    *,
    name: str,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = False,
) -> list[T]:
    """Do ``work`` on every scene, here or in other processes; one that fails stops no other.

    Args:
        work: Takes a scene's path. For other processes it must be picklable, with absolute paths.
        scenes: Paths or URLs.
        name: What the work is called, for the bar.
        workers: How many scenes at a time, each in a process of its own; 1 works in this process,
            with all threads.
        scheduler: The address of a dask scheduler whose workers do it instead. They must see the
            same files and have this package.
        progress: Show a bar.

    Returns:
        What ``work`` returned for each scene.

    Raises:
        InputError: Scenes failed: one line each, once all others are done. Or the scheduler does
            not answer or has no worker.
    """
    if workers < 1:
        raise InputError(f"--workers {workers}: must be 1 or more")
    names = [str(s) if is_virtual(s) or not scheduler else os.path.abspath(s) for s in scenes]
    with closing(_each(work, names, min(workers, len(names)), scheduler)) as done:
        found = dict(tqdm(done, name, len(names), unit="scene", disable=not progress))
    lines = [_line(s, error) for s in names if isinstance(error := found[s], Exception)]
    if lines:
        first = next(error for s in names if isinstance(error := found[s], Exception))
        if lines == [str(first)] and isinstance(first, InputError | OSError):
            raise first
        raise InputError("\n".join(lines)) from first
    return [cast(T, found[s]) for s in names]


def products(
    work: Callable[..., Path],
    scene: Paths,
    out: str | Path,
    *,
    name: str,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = False,
) -> Path | list[Path]:
    """Make a product of each scene with ``work(scene, out=file, progress=...)``: the rule for --out.

    Returns the file of a single scene, and a list of files for several or for a folder.
    """
    scenes = find_scenes(scene, without=out)
    place = os.path.abspath(out) if scheduler else out  # as other machines must be told it

    def make(one: str) -> Path:
        return work(one, out=target(place, one, len(scenes) > 1), progress=progress)

    made = map_scenes(
        make, scenes, name=name, workers=workers, scheduler=scheduler, progress=progress
    )
    single = isinstance(scene, str | Path) and not os.path.isdir(scene)
    return made[0] if single else made


def _line(scene: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if not isinstance(error, InputError | OSError):
        text = f"{type(error).__name__}: {text}"
    return text if stem_of(scene) in text else f"{scene}: {text}"


def _tried(work: Callable[[str], T], scene: str) -> T | Exception:
    try:
        return work(scene)
    except Exception as error:  # whatever it is, the other scenes can do without this one
        return error


def _each(
    work: Callable[[str], T], scenes: Sequence[str], workers: int, scheduler: str | None
) -> Generator[tuple[str, T | Exception]]:
    """Scenes and their results, in the order in which they are done."""
    if workers < 2 and not scheduler:
        yield from ((scene, _tried(work, scene)) for scene in scenes)
        return
    from distributed import Client, as_completed

    with ExitStack() as stack:
        try:
            client = None
            address = scheduler or stack.enter_context(_own_workers(workers))
            client = stack.enter_context(Client(address, timeout=10))
            client.wait_for_workers(1, timeout=ANSWER)
        except (OSError, ValueError) as error:
            fault = "has no worker" if client else "no dask scheduler answers"
            raise InputError(
                f"{scheduler}: {fault}; start one with 'dask scheduler' and 'dask worker'"
            ) from error
        tasks = {client.submit(_task, work, scene, pure=False): scene for scene in scenes}
        for task in as_completed(tasks):
            fault = task.exception()  # of dask, such as a worker that died; ours is a result
            yield tasks[task], fault or task.result()


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
        cluster = LocalCluster(n_workers=number, threads_per_worker=1, dashboard_address=":0",
                               silence_logs=logging.CRITICAL)  # fmt: skip
    finally:
        sys.modules["__main__"] = main
        mask(signal.SIG_SETMASK, before)
    with cluster:
        yield cluster


def _task(work: Callable[[str], T], scene: str) -> T | Exception:
    """``work`` on a worker, which decodes and encodes a scene in one thread."""
    os.environ["GDAL_NUM_THREADS"] = "1"
    return _tried(work, scene)


def prefetch(work: Callable[[T], R], items: Iterable[T], threads: int = 1) -> Iterator[R]:
    """``work(item)`` in order; while the caller uses one result, ``threads`` make the next ones."""
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[R]] = deque()
        for item in items:
            coming.append(pool.submit(work, item))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
