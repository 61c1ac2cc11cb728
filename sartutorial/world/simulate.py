"""A world to learn in: a made-up island (``landscape``), seen by a made-up L-band HH radar.

The files have the form of the real products; the classes' backscatter is chosen by us.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import operator
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window, from_bounds
from scipy import ndimage, special
from tqdm import tqdm

from sartutorial import InputError, landscape, lulc, profiles, radiometry, rasters
from sartutorial.landscape import CELL, LEAN, MIDDLE, UTM, Floats, Ids, smooth, white
from sartutorial.profiles import Profile

WGS84 = CRS.from_epsg(4326)
CLASSES, TONE, DEM = Path("truth/classes.tif"), Path("truth/tone.tif"), Path("dem/DEM.tif")
TRUTH: dict[Path, tuple[dict[str, str], dict[str, Any]]] = {
    CLASSES: ({}, {"dtype": "uint8", "nodata": 0}),
    TONE: ({"UNIT": "0.01 dB"}, {"dtype": "int16", "predictor": 2}),
    DEM: ({"UNIT": "m"}, {"dtype": "float32", "predictor": 3}),
}
THETA = math.radians(36)  # incidence angle on flat ground
SWATH, PITCH = 0.92, 0.90  # a swath's side, and how far scenes lie apart, over a scene's side
LOOKS, CORRELATION, NOISE_DB = 2, 0.6, -28.0  # point response's sigma in pixels; noise floor
CORNERS, CORNER_POWER = 0.004, 60.0  # share of a town's pixels with a corner reflector; its peak
SHIPS = 0.06  # a square kilometre of sea
REACH = 64  # cells within which a ridge can cast its shadow
BLOCK, AHEAD = 1024, 16  # cells surveyed at a time, a side, and how many such blocks are under way


class Backscatter(NamedTuple):
    """How a class answers the radar."""

    level: float  # dB, mean sigma0 on flat ground
    exponent: float  # of the cosine of the local incidence angle: 1 a volume, more a surface
    order: float  # of its gamma texture, inf: speckle alone


# Chosen by us for this simulation, not measured; chapter 01 compares them with real L-band scenes.
SIGMA0: dict[int, Backscatter] = {
    1: Backscatter(-22.5, 4, math.inf),
    2: Backscatter(-3, 1, 2),
    3: Backscatter(-16.5, 2, math.inf),
    4: Backscatter(-13, 2, math.inf),
    5: Backscatter(-14.5, 2, 30),
    6: Backscatter(-8, 1, 8),
    7: Backscatter(-8.3, 1, 8),
    8: Backscatter(-7.3, 1, 8),
    9: Backscatter(-7, 1, 8),
    10: Backscatter(-17.5, 2, 30),
    11: Backscatter(-7.5, 1, 12),
    12: Backscatter(-19, 2, math.inf),
    13: Backscatter(-11, 1.5, 12),
    14: Backscatter(-9, 1, 6),
}


def incidence(dem: Floats, cell_m: float = CELL) -> Floats:
    """Cosine of the local incidence angle, (H, W); 0 or less where a slope turns away."""
    north, east = np.gradient(dem, -cell_m, cell_m)
    facing = east * math.cos(LEAN) - north * math.sin(LEAN)  # it stands in the east, looks west
    cos: Floats = (math.cos(THETA) - math.sin(THETA) * facing) / np.sqrt(1 + north**2 + east**2)
    return cos


def shadow(dem: Floats, cell_m: float = CELL, reach: int = REACH) -> NDArray[np.bool_]:
    """Where a ridge within ``reach`` cells stands between the ground and the radar, (H, W)."""
    height, width = dem.shape
    dark = np.zeros(dem.shape, bool)
    for k in range(1, reach + 1):
        down, right = round(k * math.sin(LEAN)), round(k * math.cos(LEAN))
        if down < height and right < width:
            ray = np.float32(math.hypot(down, right) * cell_m / math.tan(THETA))
            here = (slice(0, height - down), slice(0, width - right))
            dark[here] |= dem[down:, right:] > dem[here] + ray
    return dark


def terrain_gain(cos: Floats, exponent: Floats | float) -> Floats:
    """A slope's power over flat ground's, at most 10 dB more: its shape and its area a pixel.

    cos^n of the local incidence angle, n from ``exponent``, times the ground that a pixel sees,
    sin(theta) / sin(local theta).
    """
    up = np.maximum(cos, 1e-3)
    area = math.sin(THETA) / np.sqrt(np.maximum(1 - up**2, 1e-6))
    gain: Floats = np.minimum((up / math.cos(THETA)) ** exponent * area, 10)
    return gain


def mean_sigma0(classes: Ids, tone: Floats, dem: Floats, bias: NDArray[np.floating]) -> Floats:
    """Mean backscatter, (H, W) linear power, without texture and speckle.

    ``bias`` (16,) dB is what the tones of a class come to on average: taken off, so that the class
    has its level in the mean.
    """
    level, exponent = np.zeros(16, np.float32), np.zeros(16, np.float32)
    for i, echo in SIGMA0.items():
        level[i], exponent[i] = echo.level - bias[i], echo.exponent
    power = radiometry.to_power(level[classes] + tone)
    gain = terrain_gain(incidence(dem), exponent[classes])
    return np.where(shadow(dem), 0, power * gain).astype(np.float32)


def texture(classes: Ids, key: tuple[int, ...], window: Window) -> Floats:
    """The land's own roughness, (H, W) linear power of mean 1, the same from every orbit.

    Gamma distributed, so that intensity under speckle is K distributed. ``window`` in cells.
    """
    normal = smooth(key, window, 0.7)
    field, z = np.ones(classes.shape, np.float32), np.linspace(-5, 5, 999)
    for i in np.unique(classes):
        if math.isfinite(order := SIGMA0[int(i)].order):  # normal to gamma, quantile by quantile
            gamma = special.gammaincinv(order, special.ndtr(z)) / order
            field[classes == i] = np.interp(normal[classes == i], z, gamma)
    return field


def speckle(
    mean: Floats | float,
    looks: int,
    correlation_px: float,
    key: tuple[int, ...],
    window: Window,
    target: Floats | float = 0.0,
) -> Floats:
    """Intensity of ``mean`` power under speckle: the mean of ``looks`` independent images.

    ``window`` (H, W) places it in the scene that ``key`` names; ``target`` is the amplitude of
    what stands still against the waves of its surroundings. Power is linear.
    """
    # The complex field is correlated before detection: one look's intensity stays exponential.
    amplitude = np.sqrt(np.float32(mean) / 2)
    power = np.zeros((int(window.height), int(window.width)), np.float32)
    for look in range(looks):
        real, imaginary = (smooth((*key, look, part), window, correlation_px) for part in (0, 1))
        power += (amplitude * real + target) ** 2 + (amplitude * imaginary) ** 2
    return power / np.float32(looks)


def corners(houses: Floats, key: tuple[int, ...], window: Window) -> tuple[Floats, Floats]:
    """Corner reflectors among ``houses``, (H, W) mean power, 0 elsewhere: amplitude and what is left.

    Walls and ground send the wave straight back, all of it in step: an amplitude that no speckle
    touches, as wide as the point response. What the others have lost keeps the mean what it was.
    """
    response = ndimage.gaussian_filter(np.eye(1, 99, 49)[0], CORRELATION)
    energy = ((response / response.max()) ** 2).sum() ** 2
    rest = houses / np.float32(1 + CORNERS * CORNER_POWER * energy)
    there = white(key, window) > special.ndtri(1 - CORNERS)
    peak = np.sqrt(CORNER_POWER * rest) * there
    return ndimage.gaussian_filter(peak, CORRELATION) / np.float32(response.max() ** 2), rest


def _read(path: Path, window: Window, pad: int = 0) -> NDArray[Any]:
    """A window of a raster with ``pad`` more cells on all sides; 0 beyond its rim."""
    wide = Window(window.col_off - pad, window.row_off - pad,
                  window.width + 2 * pad, window.height + 2 * pad)  # fmt: skip
    with rasterio.open(path) as file:
        band: NDArray[Any] = file.read(1, window=wide, boundless=True, fill_value=0)
    return band


def _ships(out: Path, seed: int, row: int, col: int, size: int) -> list[tuple[Any, float]]:
    """The ships of a scene on open sea: their outlines in pixels of the scene, and their power."""
    from shapely import affinity
    from shapely.geometry import box

    rng, fleet = np.random.default_rng([seed, 4, row, col]), []
    for _ in range(rng.poisson(SHIPS * (size * CELL / 1000) ** 2)):
        x, y = rng.uniform(0, size, 2)
        length, heading, power = rng.uniform(15, 70), rng.uniform(0, 180), rng.uniform(-3, 5)
        around = Window(col + int(x) - 40, row + int(y) - 40, 80, 80)
        on_land = _read(out / CLASSES, around) != 1
        if not (on_land | (_read(out / DEM, around) > 0)).any():
            hull = affinity.rotate(box(-length / 2, -length / 12, length / 2, length / 12), heading)
            hull = affinity.translate(hull, 2 * x, 2 * y)
            fleet.append((hull, float(radiometry.to_power(power))))
    return fleet


def observe(
    out: Path, bias: NDArray[np.floating], ships: list[tuple[Any, float]], seed: int,
    row: int, col: int, window: Window,
) -> NDArray[np.uint16]:  # fmt: skip
    """DN of the ``window`` of a scene whose first cell is (row, col) of the world of ``out``."""
    top, height = int(window.row_off) // 2, int(window.height) // 2
    cells, rim = Window(col, row + top, window.width // 2, height), 4
    classes, tone, dem = (_read(out / p, cells, REACH) for p in (CLASSES, TONE, DEM))
    classes, tone = classes.clip(1), tone.astype(np.float32) / 100  # beyond the world is sea
    power = mean_sigma0(classes, tone, dem, bias)
    crop = (slice(REACH - rim, rim - REACH),) * 2  # a little more, for the point response
    wide = Window(cells.col_off - rim, cells.row_off - rim, cells.width + 2 * rim, height + 2 * rim)
    classes, power = classes[crop], power[crop] * texture(classes[crop], (seed, 5), wide)
    houses = np.where((classes == 2) & (tone[crop] > -4), power, 0).repeat(2, 0).repeat(2, 1)
    fine = Window(*(2 * k for k in wide.flatten()))
    target, rest = corners(houses, (seed, 6), fine)
    power = np.where(houses > 0, rest, power.repeat(2, 0).repeat(2, 1))
    inner = (slice(2 * rim, -2 * rim),) * 2
    power, target = power[inner] + np.float32(radiometry.to_power(NOISE_DB)), target[inner]
    if ships:
        at = Affine.translation(0, window.row_off)
        power += rasterize(ships, power.shape, transform=at, dtype="float32")
    intensity = speckle(power, LOOKS, CORRELATION, (seed, 7, row, col), window, target)
    size = int(window.width)
    x = np.arange(size) - (size - 1) / 2
    y = (np.arange(2 * height) + window.row_off - (size - 1) / 2)[:, None]
    across = math.cos(LEAN) * x + math.sin(LEAN) * y
    along = math.cos(LEAN) * y - math.sin(LEAN) * x
    intensity[np.maximum(np.abs(across), np.abs(along)) >= SWATH / 2 * size] = np.nan
    return radiometry.db_to_dn(radiometry.to_db(intensity))


def _layout(n: int, size: int) -> tuple[int, dict[str, tuple[int, int]]]:
    """The side of a world of ``n`` x ``n`` scenes, and each scene's first row and column, in cells."""
    sin, cos, first = PITCH * math.sin(LEAN), PITCH * math.cos(LEAN), {}
    cells = 2 * math.ceil(size / 2 * (1 + (n - 1) * (cos + sin)) + 4)
    for row, col in np.ndindex(n, n):
        south, east = row - (n - 1) / 2, col - (n - 1) / 2
        day = date(2022, 10, 8) + timedelta(days=14 * col)  # real orbits were below 47,000 then
        name = f"IMG-HH-ALOS2{90001 + 207 * col}{3210 + 10 * row}-{day:%y%m%d}-UBSR2.1GUD.tif"
        top, left = south * cos + east * sin - 0.5, east * cos - south * sin - 0.5
        first[name] = round(cells / 2 + top * size), round(cells / 2 + left * size)
    return cells, first


@contextmanager
def _workers(n: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """``map`` over ``n`` processes, or the builtin one."""
    if n == 1:
        yield map
        return
    fresh = multiprocessing.get_context("spawn")  # a fork would inherit locked threads
    try:
        with ProcessPoolExecutor(n, fresh, _end_with_parent) as pool:
            yield pool.map
    except BrokenProcessPool as error:
        raise InputError(
            "simulate: a worker process ended; is memory short, or does a script lack "
            "'if __name__ == \"__main__\":'? take workers=1"
        ) from error


def _end_with_parent() -> None:
    """Have this process end when the one that started it is killed."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _land(out: Path, cells: int, seed: int, tags: dict[str, str], over: Any, bar: Any) -> None:
    """Survey the island block by block into rasters of the truth."""
    island = landscape.plan(cells, seed)
    place = Affine(CELL, 0, island.grid.transform.c, 0, -CELL, island.grid.transform.f)
    grid = rasters.Grid(UTM, place, cells, cells)
    power, count = np.zeros(16), np.zeros(16)
    with ExitStack() as stack:
        files = [stack.enter_context(rasters.created(out / path, grid, tags | unit, **profile))
                 for path, (unit, profile) in TRUTH.items()]  # fmt: skip
        files[0].write_colormap(1, lulc.colormap())
        windows = [
            Window(left, top, min(BLOCK, cells - left), min(BLOCK, cells - top))
            for top in range(0, cells, BLOCK)
            for left in range(0, cells, BLOCK)
        ]
        for i in range(0, len(windows), AHEAD):  # what is under way does not grow with the world
            some = windows[i : i + AHEAD]
            surveyed = over(partial(landscape.survey, island), some)
            for window, land in zip(some, surveyed, strict=True):
                tone = np.rint(100 * land.tone).astype(np.int16)
                for file, band in zip(files, (land.classes, tone, land.dem), strict=True):
                    file.write(band, 1, window=window)
                flat = land.classes.ravel()
                count += np.bincount(flat, minlength=16)
                power += np.bincount(flat, radiometry.to_power(land.tone.ravel()), 16)
                bar.update()
        bias = radiometry.to_db(power / np.maximum(count, 1)).clip(-99)
        for file in files:
            file.update_tags(BIAS=" ".join(f"{b:.4f}" for b in bias))


def _scene(
    out: Path, path: Path, tags: dict[str, str], seed: int, row: int, col: int, n: int
) -> None:
    with rasterio.open(out / CLASSES) as truth:
        bias = np.array([float(b) for b in truth.tags()["BIAS"].split()])
        place = truth.transform * Affine.translation(col, row) * Affine.scale(0.5)
    grid, ships = rasters.Grid(UTM, place, 2 * n, 2 * n), _ships(out, seed, row, col, n)
    with rasters.created(path, grid, tags, dtype="uint16", nodata=0, predictor=2) as file:
        for window in rasters.strips(file):
            file.write(observe(out, bias, ships, seed, row, col, window), 1, window=window)


def _tile(out: Path, path: Path, tags: dict[str, str], west: int, south: int, n: int) -> None:
    """HR-LULC ids of one degree by exact nearest neighbour; the sea goes on beyond the island."""
    grid = rasters.Grid(WGS84, Affine(1 / n, 0, west, 0, -1 / n, south + 1), n, n)
    # The tolerance makes GDAL place every pixel itself: its usual shortcut misplaces some.
    with (
        rasterio.open(out / CLASSES) as truth,
        WarpedVRT(truth, **grid._asdict(), tolerance=1e-9) as vrt,
        rasters.created(path, grid, tags, dtype="uint8", nodata=0) as file,
    ):
        file.write_colormap(1, lulc.colormap())
        box = from_bounds(*transform_bounds(UTM, WGS84, *truth.bounds), grid.transform)
        box = box.round_offsets().round_lengths()
        for window in rasters.strips(file):
            ids = np.ones((int(window.height), n), np.uint8)
            here = Window(0, window.row_off, n, window.height)
            if rasterio.windows.intersect(box, here):
                part = box.intersection(here)
                at = Window(part.col_off, part.row_off - window.row_off, part.width, part.height)
                ids[at.toslices()] = vrt.read(1, window=part).clip(1)
            file.write(ids, 1, window=window)


def simulate(
    out: str | Path,
    *,
    profile: Profile | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: bool = False,
) -> None:
    """Write a world in the form of the real products, in folders of ``out``.

    ``scenes``: uint16 amplitude DN of sigma0 at 2.5 m, nodata 0. ``lulc``: one-degree tiles of
    HR-LULC ids, uint8, nodata 0, with the palette. ``dem``: float32 metres at 5 m. ``truth``: the
    classes (uint8) and their tones (int16, 0.01 dB) on the DEM's grid, from which the others come.
    ``profile`` (default: the current one) says how many scenes of what size; ``workers`` processes
    share the work, and memory does not grow with the world. The same seed gives the same bytes
    however many they are, and files made with the same parameters stay. A script that asks for
    several must guard its own start with ``if __name__ == "__main__":``.
    Raises InputError if seed < 0, or a worker process ends.
    """
    if seed < 0:
        raise InputError(f"seed {seed}: must be 0 or larger")
    out, profile = Path(out), profile or profiles.current()
    size = profile.scene_size // 2
    cells, first = _layout(profile.world, size)
    recipe = Path(landscape.__file__).read_text() + Path(__file__).read_text()
    made = {"SIMULATED": "yes", "SEED": str(seed), "WORLD": f"{profile.world} x {size} cells",
            "RECIPE": str(zlib.crc32(recipe.encode()))}  # fmt: skip
    tasks: dict[Path, Callable[[], None]] = {}
    for name, (row, col) in first.items():
        path, tags = out / "scenes" / name, made | {"QUANTITY": "sigma0"}
        tasks[path] = partial(_scene, out, path, tags, seed, row, col, size)
    reach = cells / 2 * CELL
    box = (MIDDLE[0] - reach, MIDDLE[1] - reach, MIDDLE[0] + reach, MIDDLE[1] + reach)
    left, bottom, right, top = (math.floor(v) for v in transform_bounds(UTM, WGS84, *box))
    for west, south in itertools.product(range(left, right + 1), range(bottom, top + 1)):
        path = out / "lulc" / lulc.tile_name(west, south)
        tasks[path] = partial(_tile, out, path, made, west, south, lulc.TILE_PIXELS)
    land = [out / p for p in TRUTH]
    stale = not all(rasters.is_current(p, [], made) for p in land)
    todo = [run for path, run in tasks.items() if stale or not rasters.is_current(path, land, made)]
    if stale:  # another world's scenes would be taken for this one's
        for old in set((out / "scenes").glob("*.tif")) - tasks.keys():
            with rasters.opened(old) as file:
                simulated = "SIMULATED" in file.tags()
            if simulated:
                old.unlink()
    if not todo:
        return
    blocks = math.ceil(cells / BLOCK) ** 2 * stale
    total = blocks + len(todo)
    with (
        tqdm(total=total, desc="simulate", disable=not progress) as bar,
        _workers(min(workers, total)) as over,
    ):
        if stale:
            _land(out, cells, seed, made, over, bar)
        for _ in over(operator.call, todo):
            bar.update()
