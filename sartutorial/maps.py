"""Figures and web maps: backscatter in grey, classes in the colours of their legend, layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import rasterio
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.warp import Resampling, calculate_default_transform, reproject, transform

from sartutorial import lulc, rasters

if TYPE_CHECKING:
    import folium

DB_RANGE = (-25.0, 0.0)  # the stretch of every backscatter figure in the book
EARTH = 6378137.0  # metres, the radius of web maps


def show_backscatter(
    db: rasters.View | NDArray[np.floating], ax: Axes | None = None, title: str = ""
) -> AxesImage:
    """Draw backscatter in grey, from -25 to 0 dB; no data is left transparent.

    Args:
        db: What ``read_db`` returned, or an array of dB (H, W), NaN = no data.
        ax: Where to draw; default a figure of its own.
        title: Above the picture.

    Returns:
        The image, for a colour bar.
    """
    array = db.db if isinstance(db, rasters.View) else db
    low, high = DB_RANGE
    return _axes(ax, title).imshow(array, cmap="gray", vmin=low, vmax=high, interpolation="nearest")


def show_classes(
    classes: rasters.Classes | NDArray[np.integer],
    ax: Axes | None = None,
    title: str = "",
    *,
    legend: str | Path | lulc.Legend = lulc.HR_LULC,
    training: bool = False,
) -> AxesImage:
    """Draw land cover in the colours of its legend; what is no class is left transparent.

    Args:
        classes: What ``read_classes`` returned, which knows its legend, or an array of ids (H, W).
        ax: Where to draw; default a figure of its own.
        title: Above the picture.
        legend: Of an array.
        training: Whether an array holds training index + 1, as maps do, rather than ids.

    Returns:
        The image.
    """
    if isinstance(classes, rasters.Classes):
        return show_classes(classes.ids, ax, title, legend=classes.legend)
    colours = _palette(lulc.legend(legend).colormap(training))
    return _axes(ax, title).imshow(colours[classes], interpolation="nearest")


def show_legend(
    legend: str | Path | lulc.Legend = lulc.HR_LULC,
    ax: Axes | None = None,
    *,
    training: bool = False,
) -> None:
    """Draw the classes of a legend, or those of training, with their colours.

    Args:
        legend: A name, a table, or a legend.
        ax: Axes of its own; default a figure of its own.
        training: Whether to draw the classes of training.
    """
    of = lulc.legend(legend)
    handles = [
        Patch(color="#{:02x}{:02x}{:02x}".format(*c.rgb), label=c.name)
        for c in (of.for_maps if training else of).classes
    ]
    _axes(ax, "").legend(handles=handles, loc="center left", frameon=False, fontsize="small")


def _axes(ax: Axes | None, title: str) -> Axes:
    ax = ax or plt.subplots(layout="constrained")[1]
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def _palette(colours: Mapping[int, tuple[int, ...]]) -> NDArray[np.uint8]:
    table = np.zeros((256, 4), np.uint8)
    for value, rgba in colours.items():
        table[value] = rgba
    return table


def quicklook(path: str | Path, side: int = 700) -> tuple[NDArray[np.uint8], rasters.Box]:
    """A raster as a picture in the projection of web maps.

    Args:
        path: A scene, drawn in grey, or land cover: a label raster or map, in the colours of its
            legend, or any raster of ids, in those of its colour table.
        side: Pixels of the longest side that are read.

    Returns:
        RGBA (H, W, 4), transparent where the raster holds no data, and its west, south, east and
        north in degrees; east is above 180 where it crosses 180 degrees.
    """
    with rasterio.open(path) as source:
        scene = source.dtypes[0] == "uint16"
        legend = None if scene else rasters.legend_of(source) or _of_colours(source)
    if scene:
        db, grid, _ = rasters.read_db(path, max_size=side)
        low, high = DB_RANGE
        grey = np.nan_to_num(np.clip((db - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        picture = np.stack([grey, grey, grey, np.isfinite(db) * np.uint8(255)])
    else:
        ids, grid, legend = rasters.read_classes(path, legend=legend, max_size=side)
        picture = np.moveaxis(_palette(legend.colormap())[ids], 2, 0)
    return _mercator(picture, grid)


def _of_colours(source: DatasetReader) -> lulc.Legend | None:
    """A legend without words, of a raster that says nothing but the colours of its ids."""
    try:
        colours = source.colormap(1)
    except ValueError:
        return None
    colours.pop(source.nodata or 0, None)
    classes = tuple(
        lulc.LandCover(id_, str(id_), rgba[:3], i) for i, (id_, rgba) in enumerate(colours.items())
    )
    names, rgb = (c.name for c in classes), (c.rgb for c in classes)
    return lulc.Legend("colours", classes, tuple(names), tuple(rgb))


def _mercator(
    picture: NDArray[np.uint8], grid: rasters.Grid
) -> tuple[NDArray[np.uint8], rasters.Box]:
    """Bands (4, H, W) on a grid, drawn (H, W, 4) in web mercator, and its bounds in degrees."""
    width, height = grid.width, grid.height
    x, y = grid.transform * np.array([(0, 0), (width, 0), (0, height), (width, height)]).T
    middle = transform(grid.crs, rasters.DEGREES, [x.mean()], [y.mean()])[0][0]
    # Counted from its middle, a raster across 180 degrees lies in one piece.
    crs = f"+proj=merc +a={EARTH} +b={EARTH} +lon_0={middle} +nadgrids=@null +no_defs"
    bounds = x.min(), y.min(), x.max(), y.max()
    at, width, height = calculate_default_transform(grid.crs, crs, width, height, *bounds)
    out = np.zeros((4, height, width), np.uint8)
    reproject(
        picture,
        out,
        src_transform=grid.transform,
        src_crs=grid.crs,
        dst_transform=at,
        dst_crs=crs,
        resampling=Resampling.nearest,
    )
    west, east = (middle + math.degrees(m / EARTH) for m in (at.c, at.c + width * at.a))
    south, north = (
        math.degrees(math.atan(math.sinh(m / EARTH))) for m in (at.f + height * at.e, at.f)
    )
    return np.moveaxis(out, 0, 2), (west, south, east, north)


def web_map(layers: Mapping[str, str | Path], *, base: bool = False) -> folium.Map:
    """Lay rasters over each other on a map to zoom and pan.

    Args:
        layers: Scenes, labels, maps or other land cover, by the name of their layer; the last one is
            on top.
        base: Whether to add OpenStreetMap's tiles, which need a network.

    Returns:
        A folium map, which a notebook shows.
    """
    import folium

    world = folium.Map(tiles="OpenStreetMap" if base else None, control_scale=True)
    for name, path in layers.items():
        picture, (west, south, east, north) = quicklook(path)
        folium.raster_layers.ImageOverlay(
            picture, bounds=[[south, west], [north, east]], name=name, mercator_project=False
        ).add_to(world)
        world.fit_bounds([[south, west], [north, east]])
    folium.LayerControl(collapsed=False).add_to(world)
    return world
