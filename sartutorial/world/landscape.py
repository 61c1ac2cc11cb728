"""A made-up island: relief that rivers have cut, and the land cover that follows from it.

A plan of the whole island on coarse cells is drawn once, and the land surveyed from it block by block:
memory does not grow with the world. Random numbers belong to places: the land is the same however cut.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import shapely
from affine import Affine
from numpy.typing import ArrayLike, NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import array_bounds
from rasterio.windows import Window
from scipy import fft, ndimage, sparse, spatial, special
from scipy.interpolate import RectBivariateSpline
from scipy.sparse import csgraph, linalg

from sartutorial.rasters import Grid

Floats = NDArray[np.floating]  # float32; coordinates float64
Ids = NDArray[np.uint8]  # HR-LULC ids
Ints = NDArray[np.integer]
Mask = NDArray[np.bool_]
Key = tuple[int, ...]  # the name of a stream of random numbers
Rng = np.random.Generator

UTM = "EPSG:32653"
MIDDLE = (686850, 3653060)  # 33N 137E to 10 m, open Pacific, where four label tiles meet
CELL = 5.0  # m
LEAN = math.radians(10)  # of the southward track to the west
RIVER, ROAD, RUNWAY = 0, 1, 2
NOISE_BLOCK = 512  # cells or pixels that share a random stream
# The shares follow Japan's (book/results/japan_counts.json), but for solar panels and greenhouses,
# which a small world would hardly hold.
WOODS = 0.725  # of the land is forest and what lies above it
BELTS = np.cumsum((0.075, 0.845, 0.045, 0.021))  # of it: evergreen, mixed, larch, meadow; then rock
DISTRICTS = {  # what a hundred parcels hold, and the district's share of the plains
    "town": ({2: 92, 5: 4, 4: 4}, 0.28),
    "rice": ({3: 80, 4: 6, 2: 5, 1: 2, 14: 3, 5: 4}, 0.24),
    "fields": ({4: 72, 3: 3, 2: 6, 5: 13, 14: 5, 10: 1}, 0.22),
    "pasture": ({5: 84, 4: 3, 13: 10, 10: 3}, 0.26),
}
PARKS = np.array((0.0, 0.005, 0.03, 0.04))  # of their parcels, nine at a time, are solar parks


class Plan(NamedTuple):
    """The island on coarse cells, (N, N) float32 each; its districts and lines are float64."""

    seed: int
    grid: Grid
    unit: float  # m that "1 km" is; less in a small world, which is a model of a large one
    height: Floats  # m, below 0 at sea
    rough: Floats  # slope of the coarse land
    low: Floats  # below 0 plains, above 0 forest
    cold: Floats  # rank among the forest, 0 warm to 1 cold
    stand: Floats  # noise of about 2 km, mean 0, variance 1
    detail: Floats  # noise of about 1 km
    river: Floats  # m to the nearest river
    coast: Floats  # m to the nearest coast, on land
    wind: Floats  # standard normal over the water
    lines: Floats  # (S, 6): x0, y0, x1, y1, width in m, 0 river, 1 road, 2 runway
    district: Floats  # (D, 4): x, y, kind (DISTRICTS), angle of its parcels


class Land(NamedTuple):
    """The truth, on a UTM grid of (H, W) cells of 5 m."""

    grid: Grid
    dem: Floats  # m, 0 at sea
    classes: Ids
    tone: Floats  # dB by which a place differs from its class: crops, soil, wind, streets


def land_grid(cells: int) -> Grid:
    """The grid of an island of ``cells`` x ``cells`` cells of land."""
    left, top = MIDDLE[0] - cells * CELL / 2, MIDDLE[1] + cells * CELL / 2
    return Grid(CRS.from_string(UTM), Affine(CELL, 0, left, 0, -CELL, top), cells, cells)


def padded(window: Window, pad: int) -> Window:
    """The window with ``pad`` more cells on all sides."""
    left, top = window.col_off - pad, window.row_off - pad
    return Window(left, top, window.width + 2 * pad, window.height + 2 * pad)


def white(key: Key, window: Window) -> Floats:
    """Standard normal noise of a ``window`` of cells, (H, W) float32: a place has always its value."""
    left, top, width, height = (int(v) for v in window.flatten())
    n, far = NOISE_BLOCK, 2**20  # streams take numbers from 0 up; no world is a million blocks wide
    rows, cols = range(top // n, -(-(top + height) // n)), range(left // n, -(-(left + width) // n))
    rngs = [[np.random.default_rng([*key, i + far, j + far]) for j in cols] for i in rows]
    noise = np.block([[r.standard_normal((n, n), dtype=np.float32) for r in row] for row in rngs])
    return noise[top % n : top % n + height, left % n : left % n + width]


def smooth(key: Key, window: Window, sigma: float) -> Floats:
    """Noise of variance 1, (H, W), correlated by a Gaussian of ``sigma`` cells; see ``white``."""
    pad = math.ceil(4 * sigma) or 1
    noise: Floats = ndimage.gaussian_filter(white(key, padded(window, pad)), sigma, radius=pad)
    kernel = ndimage.gaussian_filter(np.eye(1, 2 * pad + 1, pad)[0], sigma, radius=pad)
    # Two axes leave the square of this of the variance.
    return noise[pad:-pad, pad:-pad] / np.float32((kernel**2).sum())


def fractal(n: int, longest: float, hurst: float, rng: Rng) -> Floats:
    """Fractal noise, (n, n), mean 0, variance 1: power k^-(2 hurst + 2) up to ``longest`` cells."""
    k2 = np.float32(fft.fftfreq(n)[:, None] ** 2 + fft.rfftfreq(n) ** 2)
    spectrum = fft.rfft2(rng.standard_normal((n, n), dtype=np.float32), workers=-1)
    spectrum *= (k2 + longest**-2.0) ** (-(hurst + 1) / 2)
    field: Floats = fft.irfft2(spectrum, s=(n, n), workers=-1)
    field -= field.mean()
    return field / np.std(field)


def _cheapest(cost: Floats, ends: Ints) -> tuple[sparse.csr_array, tuple[NDArray[Any], ...]]:
    """The costs between neighbours, and of each cell's cheapest way to an end: cost, next cell, end."""
    at = np.arange(cost.size, dtype=np.int32).reshape(cost.shape)  # what older scipy takes
    to = at[:, 1:], at[1:], at[1:, 1:], at[1:, :-1]
    start = at[:, :-1], at[:-1], at[:-1, :-1], at[:-1, 1:]
    a, b = (np.concatenate([cells.ravel() for cells in side]) for side in (to, start))
    step = np.repeat([1, 1, math.sqrt(2), math.sqrt(2)], [cells.size for cells in to])
    weights = step * (cost.ravel()[a] + cost.ravel()[b]) / 2
    graph = sparse.csr_array((weights, (a, b)), shape=(cost.size, cost.size))
    how = dict(directed=False, min_only=True, return_predecessors=True)
    return graph, csgraph.dijkstra(graph, indices=ends, **how)


def drainage(cost: Floats, sea: Mask) -> tuple[Ints, Ints]:
    """The land's cells from the shore up, and where in that list each drains to (-1: the sea).

    The rain runs along the cheapest way. Cells are flat indices.
    """
    shore = np.flatnonzero(sea & ndimage.binary_dilation(~sea))
    _, (distance, downhill, _) = _cheapest(cost, shore)
    up = np.argsort(distance, kind="stable")
    up = up[~sea.ravel()[up] & np.isfinite(distance[up])]
    place = np.full(cost.size, -1)
    place[up] = np.arange(len(up))
    return up, place[downhill[up]]


def relief(uplift: Floats, up: Ints, to: Ints, cell_m: float) -> tuple[Floats, Floats]:
    """Heights that rivers have cut and the land that drains through each cell, (N, N) m and km2.

    After the stream-power law of geomorphology, slope = uplift x area^-0.45: ridges are steep,
    rivers flat, and all of them run down to the sea.
    """
    cells, inland = np.arange(len(up)), np.flatnonzero(to >= 0)
    # "A cell minus the one below it": triangular, since water runs down the order of ``up``.
    signs = np.r_[np.ones(len(up)), -np.ones(len(inland))]
    place = np.array([np.r_[cells, inland], np.r_[cells, to[inland]]], np.int32)
    fall = sparse.csr_array((signs, tuple(place)))
    km2 = linalg.spsolve_triangular(fall.T.tocsr(), np.ones(len(up)), lower=False)
    km2 *= (cell_m / 1000) ** 2
    below, n = np.where(to >= 0, up[to], up), len(uplift)
    step = np.maximum(np.hypot(up // n - below // n, up % n - below % n), 1) * cell_m
    slope = uplift.ravel()[up] * np.minimum(0.09 * km2**-0.45, 0.65) + 5e-4
    height, area = np.full((n, n), -5, np.float32), np.zeros((n, n), np.float32)
    height.flat[up], area.flat[up] = linalg.spsolve_triangular(fall, step * slope), km2
    return height, area


def _paths(to: Ints, river: Mask) -> list[Ints]:
    """The rivers, each from its spring to the sea or into another, as places in ``to``."""
    seen, paths = np.zeros(len(to), bool), []
    for spring in np.flatnonzero(river)[::-1]:  # the farthest first, so that main streams are long
        path, at = [], int(spring)
        while at >= 0 and not seen[at]:
            seen[at] = True
            path.append(at)
            at = int(to[at])
        if len(path) > 2:
            paths.append(np.array([*path, at] if at >= 0 else path))
    return paths


def _roads(cost: Floats, towns: Ints) -> list[Ints]:
    """The cheapest roads that join all towns; towns and roads are flat indices."""
    graph, (far, back, nearest) = _cheapest(cost, towns)
    edges, towns = graph.tocoo(), np.sort(towns)
    a, b = edges.coords
    length = far[a] + edges.data + far[b]
    meet = np.flatnonzero((nearest[a] != nearest[b]) & np.isfinite(length))
    meet = meet[np.argsort(length[meet], kind="stable")]
    pairs = np.sort(np.searchsorted(towns, nearest[np.stack([a[meet], b[meet]])]), axis=0)
    pairs, first = np.unique(pairs, axis=1, return_index=True)
    # To choose the shortest of a tree, their order says as much as their lengths, and which they are.
    net = sparse.csr_array((first + 1, tuple(pairs.astype(np.int32))), shape=(len(towns),) * 2)
    roads = []
    for edge in meet[csgraph.minimum_spanning_tree(net).data.astype(int) - 1]:
        road: list[int] = []
        for cell in (a[edge], b[edge]):  # from the middle to either town
            road.reverse()
            while cell >= 0:
                road.append(int(cell))
                cell = back[cell]
        roads.append(np.array(road))
    return roads


def _xy(grid: Grid, row: NDArray[Any], col: NDArray[Any]) -> Floats:
    """The middles of cells, (C, 2) metres."""
    at = grid.transform
    return np.column_stack([at.c + at.a * (col + 0.5), at.f + at.e * (row + 0.5)])


def _rounded(xy: Floats) -> Floats:
    """A line through the points ``xy`` (P, 2) with its corners rounded and its ends kept."""
    line = ndimage.gaussian_filter1d(xy, 2, axis=0, mode="nearest")
    return np.vstack([xy[:1], line[1:-1], xy[-1:]])


def _line(xy: Floats, width: ArrayLike, kind: int) -> Floats:
    """The line through ``xy`` (P, 2) as rows of ``Plan.lines``."""
    wide = np.broadcast_to(width, len(xy))[1:]
    return np.column_stack([xy[:-1], xy[1:], wide, np.full(len(wide), kind)])


def _ranks(field: Floats, where: Mask) -> Floats:
    """Each value's rank, 0 to 1, among those at ``where``."""
    known = np.sort(field[where])
    return np.interp(field, known, np.linspace(0, 1, len(known))).astype(np.float32)


def _settle(
    plain: Mask, height: Floats, river: Floats, cost: Floats, unit: float, rng: Rng
) -> tuple[list[Ints], Floats]:
    """Roads (flat indices), and districts (D, 4): row, column, kind, angle. All in coarse cells."""
    # Districts are the Voronoi cells of jittered points, each with its own grid of parcels.
    n, side = len(plain), 0.9 * unit
    k = math.ceil(n / side)
    points = (np.argwhere(np.ones((k, k))) + rng.uniform(0.05, 0.95, (k * k, 2))) * side
    row, col = np.minimum(points, n - 1).astype(int).T
    on = np.flatnonzero(plain[row, col])

    # Towns lie low and by rivers, three kilometres apart or more, and are of very different size.
    appeal = 2 * river[row, col] / unit + height[row, col] / 20 + rng.exponential(2, k * k)
    towns: list[int] = []
    for i in on[np.argsort(appeal[on], kind="stable")][: max(len(on) // 4, 2)]:
        if all(math.dist(points[i], points[j]) > 3 * unit for j in towns):
            towns.append(int(i))
    size = rng.lognormal(0, 0.5, len(towns))
    urban = (spatial.distance.cdist(points, points[towns]) / size).min(1)
    shares = np.cumsum([share for _, share in DISTRICTS.values()])
    town = urban <= np.quantile(urban[on], shares[0])
    rest = np.setdiff1d(on, np.flatnonzero(town))
    rural = height[row, col] / 15 + river[row, col] / unit + rng.normal(0, 0.4, k * k)
    cuts = np.quantile(rural[rest], (shares[1:-1] - shares[0]) / (1 - shares[0]))
    kind = np.where(town, 0, 1 + np.digitize(rural, cuts))

    roads = _roads(cost, np.unique(row[towns] * n + col[towns])) if len(towns) > 1 else []
    angle = rng.uniform(0, np.pi / 2, k * k)
    if roads:  # a town's streets follow the road that passes
        cells = [np.stack(np.divmod(road, n), 1) for road in roads]
        steps = np.concatenate([c[::4] for c in cells])
        ahead = np.concatenate([np.gradient(c.astype(float), axis=0)[::4] for c in cells])
        down, right = ahead[spatial.cKDTree(steps).query(points[town])[1]].T
        angle[town] = np.arctan2(-down, right) % (np.pi / 2)
    return roads, np.column_stack([points, kind, angle])[on]


def _terrain(n: int, u: float, step: float, rng: Rng) -> tuple[NDArray[Any], ...]:
    """Fields of ``Plan``, where water is, its way as in ``drainage``, the km2 that drain there."""
    detail, stand = fractal(n, 1.2 * u, 1.2, rng), fractal(n, 2 * u, 0.6, rng)
    rise = np.exp(0.8 * fractal(n, 8 * u, 0.7, rng)) * (1 + 0.12 * detail)
    axis = np.abs(np.linspace(-1, 1, n, dtype=np.float32)) ** 3
    rise *= np.maximum(1 - np.cbrt(axis[:, None] + axis), 0)
    rise -= np.quantile(rise, 0.31)
    water = rise <= 0
    rise = np.clip(rise / np.quantile(rise, 0.98), 0, 1)

    # Mountains rise inland; plains and basins, three tenths of the land, hardly do.
    low = rise + 0.16 * fractal(n, 5 * u, 1.2, rng)
    low -= np.quantile(low[~water], 1 - WOODS)
    uplift = special.expit(14 * low) * (0.3 + rise)
    up, to = drainage(np.exp(0.9 * fractal(n, 3 * u, 0.3, rng) + 2 * uplift), water)
    height, area = relief(uplift, up, to, step)
    height = ndimage.gaussian_filter(height, 0.7)
    rough = np.hypot(*np.gradient(np.maximum(height, 0), step))
    low += 0.3 * rough + 0.03 * stand
    low -= np.quantile(low[~water], 1 - WOODS)
    return height, rough, low, stand, detail, water, up, to, area.ravel()[up]


def plan(cells: int, seed: int) -> Plan:
    """An island in a square of sea, ``cells`` x ``cells`` cells of land."""
    rng, land, side = np.random.default_rng([seed, 0]), land_grid(cells), cells * CELL
    unit = min(1000.0, side / 10)
    step = max(round(unit / 25 / CELL), math.ceil(cells / 1200), 1) * CELL
    n, u = math.ceil(side / step), unit / step
    grid = Grid(land.crs, land.transform * Affine.scale(step / CELL), n, n)
    height, rough, low, stand, detail, water, up, to, km2 = _terrain(n, u, step, rng)
    plain = ~water & (low < 0)
    cold = _ranks(height / height.max() + 0.1 * detail + 0.03 * stand, ~water & (low > 0))
    wind = special.ndtri(_ranks(fractal(n, 4 * u, 0.8, rng), water).clip(1e-3, 1 - 1e-3))

    lines, bed, dry = [], _xy(grid, *np.divmod(up, n)), np.ones((n, n), bool)
    for path in _paths(to, km2 > 0.6 * (unit / 1000) ** 2):
        # A main stream comes before its tributaries, which end where it really runs.
        bed[path] = _rounded(bed[path])
        mouth = 2 * bed[path[-1]] - bed[path[-2]]  # into the sea, or on to the middle of a river
        width = np.clip(9 * np.sqrt(km2[path]), 8, 120)
        lines.append(_line(np.vstack([bed[path], mouth]), np.append(width, width[-1]), RIVER))
        dry.flat[up[path]] = False
    river = ndimage.distance_transform_edt(dry)
    cost = 1 + 100 * rough**2 + 3 * ~dry + np.where(water, 1e4, 0)
    roads, district = _settle(plain, height, river, cost, u, rng)
    lines += [_line(_rounded(_xy(grid, *np.divmod(road, n))), 16, ROAD) for road in roads]
    if unit == 1000:  # in the middle of the widest plain
        middle = np.divmod([ndimage.distance_transform_edt(plain).argmax()], n)
        along = np.linspace(-1, 1, 9)[:, None] * (900, 250)
        lines.append(_line(_xy(grid, *middle) + along, 60, RUNWAY))
    district[:, :2] = _xy(grid, *district[:, :2].T)
    coast = ndimage.distance_transform_edt(~water)
    fields = (height, rough, low, cold, stand, detail, river * step, coast * step, wind)
    single = (np.asarray(field, np.float32) for field in fields)
    return Plan._make([seed, grid, unit, *single, np.concatenate(lines), district])


def survey(island: Plan, window: Window) -> Land:
    """The land of a ``window`` in cells of 5 m, counted from the island's upper left corner."""
    seed, pad, shape = island.seed, 8, (int(window.height), int(window.width))
    at = Affine(CELL, 0, island.grid.transform.c, 0, -CELL, island.grid.transform.f)
    at *= Affine.translation(window.col_off, window.row_off)
    rows, cols = (np.arange(-pad, m + pad, dtype=np.float32) + 0.5 for m in shape)
    k = island.grid.transform.a / CELL
    rows, cols = (rows + window.row_off) / k - 0.5, (cols + window.col_off) / k - 0.5

    def near(field: Floats, order: int = 1, rim: int = pad) -> Floats:
        # The part of the plan that counts; eight cells farther off, a cubic spline feels nothing.
        top, left = (max(int(x[0]) - 8, 0) for x in (rows, cols))
        part = field[top : int(rows[-1]) + 10, left : int(cols[-1]) + 10]
        spline = RectBivariateSpline(*map(np.arange, part.shape), part, kx=order, ky=order)
        inner = slice(rim, -rim or None)
        return np.asarray(spline(rows[inner] - top, cols[inner] - left), np.float32)

    dem = near(island.height, 3, 0)
    # Crags and gullies: the rougher the land the larger, and none below the sea.
    crag = smooth((seed, 1), padded(window, pad), 3) * (0.3 + 9 * near(island.rough, rim=0) ** 1.5)
    dem = np.maximum(dem + np.clip(crag, -0.3 * dem.clip(0), None), 0)[pad:-pad, pad:-pad]
    ragged = smooth((seed, 2), window, 6)
    land, low = dem > 0, near(island.low) + 0.02 * ragged
    stand, detail = near(island.stand) + 0.25 * ragged, near(island.detail)

    # Forest by height and in stands, meadows and rock at the top, bamboo at the foot.
    belt = np.digitize(near(island.cold) + 0.01 * ragged, BELTS)
    classes = np.where(land, np.array([8, 6, 7, 5, 10], np.uint8)[belt], np.uint8(1))
    classes[(classes == 6) & (stand > 0.4)] = 9
    classes[land & (low > 0) & (low < 0.055) & (detail > 0.1)] = 11
    tone = np.where(land, 0.7 * stand, 2.2 * near(island.wind)).astype(np.float32)

    # Plains parcel by parcel, then what water makes of them: reeds, gravel, beaches.
    grid, plain = Grid(island.grid.crs, at, *shape[::-1]), land & (low < 0)
    river, coast = (near(field) * 1000 / island.unit for field in (island.river, island.coast))
    classes[plain], parcel = _parcels(island, _xy(grid, *np.nonzero(plain)), 20 * ragged[plain])
    tone[plain] += parcel
    classes[plain & (river < 300) & (stand > 0.7) & (detail > -0.2)] = 13
    classes[plain & (river + 40 * ragged < 45) & (detail > 0.5)] = 10
    classes[land & (coast + 30 * ragged < 35) & (stand < -0.4)] = 10
    return _with_lines(island, Land(grid, dem, classes, tone))


def _parcels(island: Plan, xy: Floats, fray: Floats) -> tuple[Ids, Floats]:
    """Classes and tones (dB) of the cells at ``xy``, (C, 2) m; ``fray`` (C,) m bends districts' borders."""
    here = spatial.cKDTree(island.district[:, :2]).query(xy + fray[:, None])[1]
    kind, angle = island.district[here, 2].astype(int), island.district[here, 3]
    x, y = (xy - MIDDLE).T
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    draw = np.random.default_rng([island.seed, 3])
    chance, mood = draw.random(65536), draw.normal(0, 1, 65536).astype(np.float32)

    def number(length: float, breadth: float) -> Ints:
        cell = here * 7919 + u // length * 104729 + v // breadth * 1299709
        return np.asarray(cell, np.int64) % 65536

    hundred = np.array([np.repeat([*d], [*d.values()]) for d, _ in DISTRICTS.values()], np.uint8)
    parcel, park = number(120, 60), number(360, 180)
    classes = hundred[kind, (100 * chance[parcel]).astype(int)]
    classes[chance[park] < PARKS[kind]] = 12
    # Grass is not sown by the parcel.
    tone = mood[parcel] * np.array([0, 1, 1.5, 2, 1.5, 0.4, *[0] * 4, 1, 0, 0.3, 0.5, 0.5])[classes]
    tone -= 6 * ((classes == 3) & (chance[::-1][parcel] < 0.3))  # flooded, the others in stubble
    # Streets, and houses in rows: those that stand along the track send most of the wave back.
    askew = (angle + LEAN + np.pi / 4) % (np.pi / 2) - np.pi / 4
    street = (u % 60 < 8) | (v % 60 < 8)
    tone += (classes == 2) * np.where(street, -8, 6 * np.exp(-((askew / 0.15) ** 2)))
    tone += (classes == 14) * np.where(u % 20 < 10, -4, 2)  # roofs in rows
    return classes, tone.astype(np.float32)


def _with_lines(island: Plan, land: Land) -> Land:
    """The same land with its rivers, roads and runways drawn into it."""
    ends, width, kind = np.split(island.lines, [4, 5], axis=1)
    paths = shapely.linestrings(ends.reshape(-1, 2, 2))
    place = shapely.box(*array_bounds(land.grid.height, land.grid.width, land.grid.transform))
    near = shapely.intersects(paths, place.buffer(width.max()))
    for this, (id_, tone) in {RIVER: (1, -3), ROAD: (2, -8), RUNWAY: (2, -14)}.items():
        chosen = near & (kind[:, 0] == this)
        if chosen.any():
            shapes = shapely.buffer(paths[chosen], width[chosen, 0] / 2)
            drawn = rasterize(shapes, land.classes.shape, transform=land.grid.transform) == 1
            drawn &= land.dem > 0
            land.classes[drawn], land.tone[drawn] = id_, tone
    land.tone[(land.classes == 1) & (land.dem > 0)] = -3
    return land
