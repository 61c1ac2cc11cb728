"""A world to learn in: a made-up island in the open Pacific, seen by a made-up L-band HH radar.

The files have the form of the real products; the classes' backscatter is chosen by us. Random
numbers come in streams, ``default_rng([seed, stream, ...])``: the land stays however scenes cut it.
"""

from __future__ import annotations

import math
import zlib
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window, from_bounds
from scipy import fft, ndimage, spatial, special
from tqdm import tqdm

from sartutorial import InputError, lulc, profiles, radiometry, rasters
from sartutorial.profiles import Profile

Floats = NDArray[np.floating]  # float32
Ids = NDArray[np.uint8]  # HR-LULC ids
Rng = np.random.Generator

UTM, WGS84 = CRS.from_epsg(32653), CRS.from_epsg(4326)
MIDDLE = (686850, 3653060)  # 33N 137E to 10 m, open Pacific, where four label tiles meet
CELL = 5.0  # m, land; a scene's pixel is half as large
THETA, LEAN = np.radians((36, 10))  # on flat ground; of the southward track to the west
SWATH, PITCH = 0.92, 0.90  # a swath's side, and how far scenes lie apart, over a scene's side
LOOKS, CORRELATION, NOISE_DB = 2, 0.6, -28.0  # point response's sigma in pixels; noise floor
CORNERS, CORNER_POWER = 0.01, 40.0  # share of town cells that are corner reflectors, their power
# Each class's mean level in dB and the order nu of its gamma texture (inf: smooth). Chosen by us
# for this simulation, near what L-band HH shows at 36 degrees; not measurements.
SIGMA0_DB: dict[int, tuple[float, float]] = {
    1: (-22.5, math.inf), 2: (-3, 2), 3: (-16.5, math.inf), 4: (-15, math.inf), 5: (-14, 30),
    6: (-8, 8), 7: (-8.3, 8), 8: (-7.2, 8), 9: (-7, 8), 10: (-17.5, 30), 11: (-7.5, 12),
    12: (-19, math.inf), 13: (-11, 12), 14: (-8, 6),
}  # fmt: skip
DISTRICTS = (  # what a hundred parcels hold, from the shore inland
    {2: 85, 5: 6, 4: 6, 12: 3},  # towns
    {3: 84, 4: 4, 2: 5, 1: 2, 14: 3, 13: 2},  # rice
    {4: 70, 3: 8, 2: 6, 5: 5, 14: 6, 12: 3, 10: 2},  # dry fields
    {5: 60, 4: 16, 13: 10, 10: 8, 12: 6},  # pasture
)


class World(NamedTuple):
    """The truth, on a UTM grid of (H, W) cells."""

    grid: rasters.Grid
    dem: Floats  # metres, 0 at sea
    classes: Ids
    tone: Floats  # dB by which a place differs from its class: crops, soil, wind, streets


def fractal(n: int, longest: float, hurst: float, rng: Rng) -> Floats:
    """Fractal noise, (n, n), mean 0, variance 1: power k^-(2 hurst + 2) up to ``longest`` cells."""
    k2 = np.float32(fft.fftfreq(n)[:, None] ** 2 + fft.rfftfreq(n) ** 2)
    spectrum = fft.rfft2(rng.standard_normal((n, n), dtype=np.float32), workers=-1)
    spectrum *= (k2 + longest**-2.0) ** (-(hurst + 1) / 2)
    field: Floats = fft.irfft2(spectrum, s=(n, n), workers=-1)
    field -= field.mean()
    return field / np.std(field)


def make_world(side_m: float, seed: int, cell_m: float = CELL) -> World:
    """An island in a square of sea, ``side_m`` metres a side; a coarse ``cell_m`` makes a draft."""
    rng, n = np.random.default_rng([seed, 0]), 2 * math.ceil(side_m / cell_m / 2)
    at = Affine(cell_m, 0, MIDDLE[0] - n / 2 * cell_m, 0, -cell_m, MIDDLE[1] + n / 2 * cell_m)
    unit = min(1000.0, side_m / 10) / cell_m  # what "1 km" is in cells; small worlds are models

    # Relief: an island rises from its shore, with valleys where a smooth noise passes zero.
    valley, detail = fractal(n, 5 * unit, 1.8, rng), fractal(n, 1.2 * unit, 1.5, rng)
    stand, rise = fractal(n, 2 * unit, 0.6, rng), np.exp(0.6 * fractal(n, 8 * unit, 0.8, rng))
    axis = np.abs(np.linspace(-1, 1, n, dtype=np.float32)) ** 3
    rise *= 1 - np.cbrt(axis[:, None] + axis)
    rise -= np.quantile(rise[::7, ::7], 0.31)
    land, rise = rise > 0, np.clip(rise / 0.25, 0, 1)
    dem = 2 + 30 * rise + 55 * rise**1.2 * np.abs(valley) ** 1.2 * (0.4 + np.abs(detail))
    dem *= land * np.float32(unit * cell_m / 1000)
    slope = np.hypot(*np.gradient(ndimage.gaussian_filter(dem, unit / 15), cell_m))
    river = np.abs(valley) / np.hypot(*np.gradient(valley, cell_m))  # about m to a valley's line
    low = 4 * dem / dem.max() + 4 * slope + 0.25 * stand
    cold = dem / dem.max() + 0.15 * detail

    # Two thirds forest, by height and in stands, meadows at the top, bamboo at the foot.
    brink, foot = np.quantile(low[land][::7], (0.35, 0.40))
    plain, forest = land & (low < brink), land & (low >= brink)
    belt = np.digitize(cold, np.quantile(cold[forest][::7], (0.2, 0.9, 0.988)))
    classes = np.where(forest, np.array([8, 6, 7, 5], np.uint8)[belt], np.uint8(1))
    classes[(classes == 6) & (stand > 0.2)] = 9
    classes[forest & (low < foot) & (detail > 0)] = 11

    # Plains parcel by parcel, then what water makes of them: reeds, gravel, beaches, rivers.
    tone = stand * np.where(land, np.float32(0.7), np.float32(1.4))
    yx = np.argwhere(plain) * cell_m
    classes[plain], tone[plain] = _parcels(yx, rise[plain], 0.9 * unit * cell_m, rng)
    classes[plain & (river < 150) & (stand > 0.6) & (detail > 0)] = 13
    classes[plain & (river < 45) & (detail > 0.3) | land & (dem < 3) & (stand < -0.5)] = 10
    classes[land & (river < 24 - 14 * rise)] = 1
    tone[land & (classes == 1)] = -1.5  # still water
    return World(rasters.Grid(UTM, at, n, n), dem, classes, tone)


def _parcels(yx: Floats, rise: Floats, district_m: float, rng: Rng) -> tuple[Ids, Floats]:
    """Classes and tones (dB) of the cells at ``yx``, (N, 2) metres; ``rise`` is 0 at the shore."""
    # Districts are the Voronoi cells of jittered points, each with its own grid of parcels.
    side = int(yx.max() / district_m) + 2
    points = np.argwhere(np.ones((side, side))) + rng.uniform(-0.45, 0.45, (side**2, 2))
    district = spatial.cKDTree(points * district_m).query(yx, workers=-1)[1]
    rural = np.bincount(district, rise, side**2) / np.bincount(district, minlength=side**2).clip(1)
    rural += rng.normal(0, 0.2, side**2)
    kind = np.searchsorted(np.quantile(rural[district][::7], (0.25, 0.58, 0.85)), rural)[district]
    angle, (y, x) = rng.uniform(0, np.pi / 2, side**2)[district], yx.T
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    parcel = (district * 7919 + u // 120 * 104729 + v // 60 * 1299709).astype(np.int64) % 65536
    hundred = np.array([np.repeat(list(d), list(d.values())) for d in DISTRICTS], np.uint8)
    classes = hundred[kind, rng.integers(100, size=65536)[parcel]]
    tone = rng.normal(0, 1.5, 65536).astype(np.float32)[parcel]
    tone += (classes == 2) * np.where((u % 60 < 8) | (v % 60 < 8), -7, 1)  # streets
    tone += (classes == 14) * np.where(u % 20 < 10, -4, 2)  # roofs in rows
    return classes, tone


def terrain_gain(dem: Floats, cell_m: float = CELL) -> Floats:
    """A slope's power over flat ground's, (H, W), within 10 dB: tan(theta) / tan(local theta)."""
    north, east = np.gradient(dem, -cell_m, cell_m)
    facing = east * math.cos(LEAN) - north * math.sin(LEAN)  # it stands in the east, looks west
    cos: Floats = (math.cos(THETA) - math.sin(THETA) * facing) / np.sqrt(1 + north**2 + east**2)
    return np.clip(math.tan(THETA) * cos / np.sqrt(np.maximum(1 - cos**2, 1e-6)), 0.1, 10)


def mean_sigma0(world: World) -> Floats:
    """The mean backscatter of each cell, (H, W) linear power, without texture and speckle."""
    level = np.array([SIGMA0_DB.get(i, (0, 0))[0] for i in range(16)], np.float32)
    power = radiometry.to_power(level[world.classes] + world.tone)
    return power * terrain_gain(world.dem, world.grid.transform.a)


def _normal(shape: tuple[int, int], sigma: float, rng: Rng) -> Floats:
    """Normal noise of variance 1, correlated by a Gaussian of ``sigma`` pixels."""
    noise: Floats = rng.standard_normal(shape, dtype=np.float32)
    ndimage.gaussian_filter(noise, sigma, output=noise, mode="wrap")
    kernel = ndimage.gaussian_filter(np.eye(1, 99, 49)[0], sigma)
    noise /= np.float32((kernel**2).sum())  # two axes leave the square of this of the variance
    return noise


def texture(classes: Ids, seed: int) -> Floats:
    """The land's own roughness, (H, W) linear power of mean 1, the same from every orbit."""
    normal = _normal(classes.shape, 0.7, np.random.default_rng([seed, 1]))
    field, z = np.ones(classes.shape, np.float32), np.linspace(-5, 5, 999)
    for i, (_, order) in SIGMA0_DB.items():
        if math.isfinite(order):  # normal to gamma, quantile by quantile
            gamma = special.gammaincinv(order, special.ndtr(z)) / order
            field[classes == i] = np.interp(normal[classes == i], z, gamma)
    town = np.flatnonzero(classes == 2)  # where walls and ground send the wave straight back
    corner = np.random.default_rng([seed, 2]).random(len(town)) < CORNERS
    field.flat[town] *= np.where(corner, CORNER_POWER, 1) / (1 + CORNERS * (CORNER_POWER - 1))
    return field


def speckle(shape: tuple[int, int], looks: int, correlation_px: float, rng: Rng) -> Floats:
    """Speckle of mean 1: the mean intensity of ``looks`` independent images, linear power."""
    # The complex field is correlated before detection: one look's intensity stays exponential.
    power = np.zeros(shape, np.float32)
    for _ in range(2 * looks):  # real and imaginary parts
        power += _normal(shape, correlation_px, rng) ** 2
    return power / np.float32(2 * looks)


def observe(land: Floats, rng: Rng) -> NDArray[np.uint16]:
    """A scene of ``land`` (N, N), mean power times texture: DN (2 N, 2 N), 0 outside the swath."""
    power = (land + np.float32(radiometry.to_power(NOISE_DB))).repeat(2, 0).repeat(2, 1)
    power *= speckle(power.shape, LOOKS, CORRELATION, rng)
    x, sin, cos = np.arange(len(power)) - (len(power) - 1) / 2, math.sin(LEAN), math.cos(LEAN)
    across, along = cos * x + sin * x[:, None], cos * x[:, None] - sin * x
    power[np.maximum(np.abs(across), np.abs(along)) >= SWATH / 2 * len(power)] = np.nan
    return radiometry.db_to_dn(radiometry.to_db(power))


def _layout(n: int, size: int) -> tuple[int, dict[str, tuple[int, int]]]:
    """The side of a world of ``n`` x ``n`` scenes, and each scene's first row and column."""
    sin, cos, first = PITCH * math.sin(LEAN), PITCH * math.cos(LEAN), {}
    cells = 2 * math.ceil(size / 2 * (1 + (n - 1) * (cos + sin)) + 4)
    for row, col in np.ndindex(n, n):
        south, east = row - (n - 1) / 2, col - (n - 1) / 2
        day = date(2022, 10, 8) + timedelta(days=14 * col)  # real orbits were below 47,000 then
        name = f"IMG-HH-ALOS2{90001 + 207 * col}{3210 + 10 * row}-{day:%y%m%d}-UBSR2.1GUD.tif"
        top, left = south * cos + east * sin - 0.5, east * cos - south * sin - 0.5
        first[name] = round(cells / 2 + top * size), round(cells / 2 + left * size)
    return cells, first


def label(world: World, grid: rasters.Grid) -> Ids:
    """HR-LULC ids on ``grid``, nearest neighbour; the sea goes on beyond the world."""
    labels, here = np.ones((grid.height, grid.width), np.uint8), world.grid._asdict()
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", count=1, dtype="uint8", nodata=0, **here) as file:
            file.write(world.classes, 1)
        # The tolerance makes GDAL place every pixel itself: its usual shortcut misplaces some.
        with memory.open() as file, WarpedVRT(file, **grid._asdict(), tolerance=1e-9) as vrt:
            box = from_bounds(*transform_bounds(UTM, grid.crs, *file.bounds), grid.transform)
            box = box.round_offsets().round_lengths().intersection(Window(0, 0, *labels.T.shape))
            labels[box.toslices()] = vrt.read(1, window=box).clip(1)
    return labels


def simulate(
    out: str | Path, *, profile: Profile | None = None, seed: int = 0, progress: bool = False
) -> None:
    """Write a world in the form of the real products, in three folders of ``out``.

    ``scenes``: uint16 amplitude DN of sigma0 at 2.5 m, nodata 0. ``lulc``: one-degree tiles of
    HR-LULC ids, uint8, nodata 0, with the palette. ``dem``: float32 metres at 10 m.
    ``profile`` (default: the current one) says how many scenes of what size. The same seed gives
    the same bytes, and files made with the same parameters stay. Raises InputError if seed < 0.
    """
    if seed < 0:
        raise InputError(f"seed {seed}: must be 0 or larger")
    profile, n = profile or profiles.current(), lulc.TILE_PIXELS
    size = profile.scene_size // 2
    cells, first = _layout(profile.world, size)
    recipe = (profile.world, size, SIGMA0_DB, DISTRICTS, LOOKS, CORRELATION, NOISE_DB)
    made = {"SIMULATED": "yes", "SEED": str(seed), "RECIPE": f"{zlib.crc32(repr(recipe).encode())}"}
    tiles = {lulc.tile_name(*c): c for c in ((136, 32), (137, 32), (136, 33), (137, 33))}
    todo = {Path(out, "dem", "DEM.tif"): {"UNIT": "m"}} | {Path(out, "lulc", t): {} for t in tiles}
    todo |= {Path(out, "scenes", name): {"QUANTITY": "sigma0"} for name in first}
    todo = {p: made | t for p, t in todo.items() if not rasters.is_current(p, [], made | t)}
    if not todo:
        return
    world = make_world(cells * CELL, seed)
    land, at = mean_sigma0(world) * texture(world.classes, seed), world.grid.transform
    for path, tags in tqdm(todo.items(), desc="simulate", unit="file", disable=not progress):
        if path.name in tiles:
            west, south = tiles[path.name]
            grid = rasters.Grid(WGS84, Affine(1 / n, 0, west, 0, -1 / n, south + 1), n, n)
            image: NDArray[Any] = label(world, grid)
        elif path.name in first:
            row, col = first[path.name]
            rng = np.random.default_rng([seed, 3, row, col])
            image = observe(land[row : row + size, col : col + size], rng)
            place = Affine(CELL / 2, 0, at.c + CELL * col, 0, -CELL / 2, at.f - CELL * row)
            grid = rasters.Grid(UTM, place, 2 * size, 2 * size)
        else:
            image = ndimage.uniform_filter(world.dem, 2)[1::2, 1::2]  # means of 2 x 2 cells
            grid = rasters.Grid(UTM, Affine(2 * CELL, 0, at.c, 0, -2 * CELL, at.f), *image.shape)
        nodata = None if "UNIT" in tags else 0
        with rasters.created(path, grid, tags, dtype=image.dtype, nodata=nodata) as file:
            if path.name in tiles:
                file.write_colormap(1, lulc.colormap())
            file.write(image, 1)
