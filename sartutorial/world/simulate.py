"""A world to learn in: a made-up island (``landscape``), seen by a made-up L-band HH radar.

The files have the form of the real products; the classes' backscatter is chosen by us.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from contextlib import ExitStack
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window
from scipy import ndimage, special
from shapely import affinity
from tqdm import tqdm

from sartutorial import InputError, files, lulc, profiles, radiometry, rasters
from sartutorial.world import landscape
from sartutorial.world.landscape import CELL, LEAN, MIDDLE, Floats, Ids, Key, padded, smooth, white

TILE_PIXELS = 12000  # per degree, JAXA HR-LULC v23.12
SCENES = Path("scenes")
CLASSES, TONE, DEM = Path("truth/classes.tif"), Path("truth/tone.tif"), Path("dem/DEM.tif")
TRUTH: dict[Path, tuple[dict[str, str], dict[str, Any]]] = {  # its tags and its form
    CLASSES: ({}, {"dtype": "uint8", "nodata": 0}),
    TONE: ({"UNIT": "0.01 dB"}, {"dtype": "int16", "nodata": None, "predictor": 2}),
    DEM: ({"UNIT": "m"}, {"dtype": "float32", "nodata": None, "predictor": 3}),
}
THETA = math.radians(36)  # incidence angle on flat ground
SWATH, PITCH = 0.92, 0.90  # a swath's side, and how far scenes lie apart, over a scene's side
LOOKS, CORRELATION, NOISE_DB = 2, 0.6, -28.0  # point response's sigma in pixels; noise floor
CORNERS, CORNER_POWER = 0.004, 60.0  # share of a town's pixels with a corner reflector; its peak
SHIPS = 0.06  # a square kilometre of sea
REACH = 64  # cells within which a ridge can cast its shadow
SCENE_TAGS = {"QUANTITY": "sigma0", "CALIBRATION_DB": "-83.0", "POLARISATION": "HH"}
BLOCK = 1024  # cells surveyed at a time, a side
Field = Floats | float
Fleet = list[tuple[Any, float]]  # outlines of ships in pixels of a scene, and their power


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


def incidence(dem: Floats) -> Floats:
    """Cosine of the local incidence angle, (H, W); 0 or less where a slope turns away."""
    north, east = np.gradient(dem, -CELL, CELL)
    facing = east * math.cos(LEAN) - north * math.sin(LEAN)  # it stands in the east, looks west
    cos: Floats = (math.cos(THETA) - math.sin(THETA) * facing) / np.sqrt(1 + north**2 + east**2)
    return cos


def shadow(dem: Floats) -> NDArray[np.bool_]:
    """Where a ridge within ``REACH`` cells stands between the ground and the radar, (H, W)."""
    height, width = dem.shape
    dark = np.zeros(dem.shape, bool)
    for k in range(1, REACH + 1):
        down, right = round(k * math.sin(LEAN)), round(k * math.cos(LEAN))
        if down < height and right < width:
            ray = np.float32(math.hypot(down, right) * CELL / math.tan(THETA))
            here = (slice(0, height - down), slice(0, width - right))
            dark[here] |= dem[down:, right:] > dem[here] + ray
    return dark


def terrain_gain(cos: Floats, exponent: Field) -> Floats:
    """A slope's power over flat ground's, at most 10 dB more: its shape and its area a pixel.

    cos^exponent of the local incidence angle, times the ground seen, sin(theta) / sin(local theta).
    """
    up = np.maximum(cos, 1e-3)
    area = math.sin(THETA) / np.sqrt(np.maximum(1 - up**2, 1e-6))
    gain: Floats = np.minimum((up / math.cos(THETA)) ** exponent * area, 10)
    return gain


def mean_sigma0(classes: Ids, tone: Floats, dem: Floats, bias: Floats) -> Floats:
    """Mean backscatter, (H, W) linear power, without texture and speckle.

    ``bias`` (16,) dB is what the tones of a class come to on average; it is taken off.
    """
    level, exponent = np.zeros((2, 16), np.float32)
    for i, echo in SIGMA0.items():
        level[i], exponent[i] = echo.level - bias[i], echo.exponent
    power = radiometry.to_power(level[classes] + tone)
    gain = terrain_gain(incidence(dem), exponent[classes])
    return np.where(shadow(dem), 0, power * gain).astype(np.float32)


def texture(classes: Ids, key: Key, window: Window) -> Floats:
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
    mean: Field, looks: int, correlation_px: float, key: Key, window: Window, target: Field = 0.0
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


def corners(houses: Floats, key: Key, window: Window) -> tuple[Floats, Floats]:
    """Corner reflectors among ``houses``, (H, W) mean power, 0 elsewhere: amplitude and what is left.

    Walls and ground send the wave straight back, all of it in step: an amplitude that no speckle
    touches, as wide as the point response. The others lose what keeps the mean.
    """
    response = ndimage.gaussian_filter(np.eye(1, 99, 49)[0], CORRELATION)
    energy = ((response / response.max()) ** 2).sum() ** 2
    rest = houses / np.float32(1 + CORNERS * CORNER_POWER * energy)
    there = white(key, window) > special.ndtri(1 - CORNERS)
    peak = np.sqrt(CORNER_POWER * rest) * there
    return ndimage.gaussian_filter(peak, CORRELATION) / np.float32(response.max() ** 2), rest


def _read(path: Path, window: Window) -> Any:
    """A window of a raster of the truth; 0 beyond its rim."""
    with rasterio.open(path) as file:
        return file.read(1, window=window, boundless=True, fill_value=0)


def _ships(out: Path, seed: int, row: int, col: int, size: int) -> Fleet:
    """The ships of a scene on open sea."""
    rng, fleet = np.random.default_rng([seed, 4, row, col]), []
    for _ in range(rng.poisson(SHIPS * (size * CELL / 1000) ** 2)):
        x, y = rng.uniform(0, size, 2)
        length, heading, power = rng.uniform(15, 70), rng.uniform(0, 180), rng.uniform(-3, 5)
        around = Window(col + int(x) - 40, row + int(y) - 40, 80, 80)
        sea = (_read(out / CLASSES, around) == 1) & (_read(out / DEM, around) <= 0)
        if sea.all():
            hull = shapely.box(-length / 2, -length / 12, length / 2, length / 12)
            hull = affinity.translate(affinity.rotate(hull, heading), 2 * x, 2 * y)
            fleet.append((hull, float(radiometry.to_power(power))))
    return fleet


def observe(
    out: Path, bias: Floats, ships: Fleet, seed: int, row: int, col: int, window: Window
) -> NDArray[np.uint16]:
    """DN of the ``window`` of a scene whose first cell is (row, col) of the world of ``out``."""
    top, height = int(window.row_off) // 2, int(window.height) // 2
    cells, rim = Window(col, row + top, window.width // 2, height), 4
    classes, tone, dem = (_read(out / p, padded(cells, REACH)) for p in (CLASSES, TONE, DEM))
    classes, tone = classes.clip(1), tone.astype(np.float32) / 100  # beyond the world is sea
    power = mean_sigma0(classes, tone, dem, bias)
    crop = (slice(REACH - rim, rim - REACH),) * 2  # a little more, for the point response
    wide = padded(cells, rim)
    classes, power = classes[crop], power[crop] * texture(classes[crop], (seed, 5), wide)
    houses = np.where((classes == 2) & (tone[crop] > -4), power, 0).repeat(2, 0).repeat(2, 1)
    fine = Window(*(2 * k for k in wide.flatten()))
    target, rest = corners(houses, (seed, 6), fine)
    power = np.where(houses > 0, rest, power.repeat(2, 0).repeat(2, 1))
    inner = (slice(2 * rim, -2 * rim),) * 2
    power, target = power[inner] + np.float32(radiometry.to_power(NOISE_DB)), target[inner]
    if ships:
        # With a rim: of a raster whose place is the identity, rasterio would warn.
        at, (rows, columns) = Affine.translation(-1, window.row_off - 1), power.shape
        power += rasterize(ships, (rows + 1, columns + 1), transform=at, dtype="float32")[1:, 1:]
    intensity = speckle(power, LOOKS, CORRELATION, (seed, 7, row, col), window, target)
    size = int(window.width)
    x = np.arange(size) - (size - 1) / 2
    y = (np.arange(2 * height) + window.row_off - (size - 1) / 2)[:, None]
    across = math.cos(LEAN) * x + math.sin(LEAN) * y
    along = math.cos(LEAN) * y - math.sin(LEAN) * x
    intensity[np.maximum(np.abs(across), np.abs(along)) >= SWATH / 2 * size] = np.nan
    return radiometry.db_to_dn(radiometry.to_db(intensity))


def _layout(n: int, size: int) -> tuple[int, dict[Path, tuple[Any, int, int]]]:
    """A world's side in cells, and its products: who makes them, of which first cell or degree on."""
    sin, cos = PITCH * math.sin(LEAN), PITCH * math.cos(LEAN)
    products: dict[Path, tuple[Any, int, int]] = {}
    cells = 2 * math.ceil(size / 2 * (1 + (n - 1) * (cos + sin)) + 4)
    for row, col in np.ndindex(n, n):
        south, east = row - (n - 1) / 2, col - (n - 1) / 2
        day = date(2022, 10, 8) + timedelta(days=14 * col)  # real orbits were below 47,000 then
        name = f"IMG-HH-ALOS2{90001 + 207 * col}{3210 + 10 * row}-{day:%y%m%d}-UBSR2.1GUD.tif"
        top, left = south * cos + east * sin - 0.5, east * cos - south * sin - 0.5
        corner = round(cells / 2 + top * size), round(cells / 2 + left * size)
        products[SCENES / name] = (_scene, *corner)
    (x, y), reach = MIDDLE, cells / 2 * CELL
    box = transform_bounds(
        landscape.UTM, rasters.DEGREES, x - reach, y - reach, x + reach, y + reach
    )
    left, bottom, right, top = map(math.floor, box)
    for west, south in itertools.product(range(left, right + 1), range(bottom, top + 1)):
        products[Path("lulc", lulc.tile_name(west, south))] = _tile, west, south
    return cells, products


def _survey(out: Path, made: dict[str, int], cells: int, keep: Collection[Path], bar: bool) -> None:
    """Survey the island into those rasters of the truth that are not up to date, block by block."""
    power, count, written = np.zeros(16), np.zeros(16), {}
    with ExitStack() as stack:
        for path, (unit, form) in TRUTH.items():
            if new := stack.enter_context(files.made(out / path, [], made)):
                tags = _tags(made) | unit
                file = rasters.create(new, landscape.land_grid(cells), tags, **form)
                written[path] = stack.enter_context(file)
        if not written:
            return
        for old in set((out / SCENES).glob("*.tif")) - set(keep):  # of another world
            with rasters.opened(old) as scene:
                simulated = "SIMULATED" in scene.tags()
            if simulated:  # real ones stay
                old.unlink()
        if CLASSES in written:
            written[CLASSES].write_colormap(1, lulc.HR_LULC.colormap())
        windows = list(rasters.row_windows(next(iter(written.values())), BLOCK, BLOCK))
        look = partial(landscape.survey, landscape.plan(cells, made["seed"]))
        surveyed = stack.enter_context(files.prefetch(look, windows, rasters.threads()))
        for window, land in zip(tqdm(windows, "land", disable=not bar), surveyed, strict=True):
            tone = np.rint(100 * land.tone).astype(np.int16)
            for path, band in {CLASSES: land.classes, TONE: tone, DEM: land.dem}.items():
                if path in written:
                    written[path].write(band, 1, window=window)
            flat = land.classes.ravel()
            count += np.bincount(flat, minlength=16)
            power += np.bincount(flat, radiometry.to_power(land.tone.ravel()), 16)
        bias = radiometry.to_db(power / np.maximum(count, 1)).clip(-99)
        for file in written.values():
            file.update_tags(BIAS=" ".join(f"{b:.4f}" for b in bias))


def _tags(made: dict[str, int]) -> dict[str, str]:
    return {"SIMULATED": "yes"} | {name.upper(): str(value) for name, value in made.items()}


def _scene(out: Path, made: dict[str, int], new: Path, row: int, col: int) -> None:
    """Write the scene whose first cell is (row, col) of the world."""
    seed, size = made["seed"], made["size"]
    with rasterio.open(out / CLASSES) as truth:
        bias = np.array([float(b) for b in truth.tags()["BIAS"].split()])
        place = truth.transform * Affine.translation(col, row) * Affine.scale(0.5)
        grid = rasters.Grid(truth.crs, place, 2 * size, 2 * size)
    look = partial(observe, out, bias, _ships(out, seed, row, col, size), seed, row, col)
    form = dict(dtype="uint16", nodata=0, predictor=2)
    with rasters.create(new, grid, _tags(made) | SCENE_TAGS, **form) as file:
        windows = list(rasters.row_windows(file))
        with files.prefetch(look, windows, rasters.threads()) as seen:
            for window, dn in zip(windows, seen, strict=True):
                file.write(dn, 1, window=window)


def _tile(out: Path, made: dict[str, int], new: Path, west: int, south: int) -> None:
    """Write the ids of one degree by exact nearest neighbour; the sea goes on beyond the island."""
    n, degrees = TILE_PIXELS, CRS.from_string(rasters.DEGREES)
    grid = rasters.Grid(degrees, Affine(1 / n, 0, west, 0, -1 / n, south + 1), n, n)
    # The tolerance makes GDAL place every pixel itself: its usual shortcut misplaces some.
    with (
        rasterio.open(out / CLASSES) as truth,
        WarpedVRT(truth, **grid._asdict(), tolerance=1e-9) as vrt,
        rasters.create(new, grid, _tags(made), dtype="uint8", nodata=0) as file,
    ):
        file.write_colormap(1, lulc.HR_LULC.colormap())
        for _, window in file.block_windows(1):
            file.write(vrt.read(1, window=window).clip(1), 1, window=window)


def simulate(
    out: str | Path,
    *,
    profile: str | None = None,
    seed: int = 0,
    side: int | None = None,
    progress: bool = False,
) -> Path:
    """Simulate a world in the form of the real products; a seed gives the same bytes on a kind of CPU.

    ``out/scenes`` gets uint16 amplitude DN of sigma0 at 2.5 m; ``out/lulc`` HR-LULC ids in tiles of
    one degree; ``out/dem`` heights, float32 m; ``out/truth`` what the others come from: classes, and
    their tones, int16 in 0.01 dB. A stopped run goes on where it was.

    Args:
        out: The world's folder.
        profile: How large: laptop, gpu or japan. By default what SARTUTORIAL_PROFILE says, or laptop.
        seed: Which world: any whole number from 0 up.
        side: Scenes along each axis; the profile's by default.
        progress: Show a bar.

    Returns:
        The folder.

    Raises:
        InputError: ``seed`` is negative or ``side`` below 1, or ``scenes`` holds a damaged raster.
    """
    out, scale = Path(out), profiles.get(profile)
    side, size = scale.world if side is None else side, scale.scene_size // 2
    if seed < 0 or side < 1:
        raise InputError(f"seed {seed}, side {side}: must be at least 0 and 1")
    rasters.check_proj()
    made, (cells, products) = dict(seed=int(seed), side=side, size=size), _layout(side, size)
    _survey(out, made, cells, [out / path for path in products], progress)
    truth = [out / path for path in TRUTH]
    for path, (make, *place) in tqdm(products.items(), "simulate", disable=not progress):
        with files.made(out / path, truth, made) as new:
            if new:
                make(out, made, new, *place)
    return out
