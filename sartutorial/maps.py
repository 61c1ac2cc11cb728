"""Figures and web maps: backscatter in grey, classes in JAXA's colours, layers over each other."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from sartutorial import lulc, radiometry, rasters

if TYPE_CHECKING:
    import folium
    from IPython.display import HTML

DB_RANGE = (-25.0, 0.0)  # the stretch of every backscatter figure in the book


def show_backscatter(ax: Axes, db: NDArray[np.floating], title: str = "") -> AxesImage:
    """Draw backscatter in dB (H, W) in grey; no data is left transparent."""
    ax.set_axis_off()
    ax.set_title(title)
    return ax.imshow(db, cmap="gray", vmin=DB_RANGE[0], vmax=DB_RANGE[1], interpolation="nearest")


def show_classes(
    ax: Axes, values: NDArray[np.integer], title: str = "", *, training: bool = False
) -> AxesImage:
    """Draw HR-LULC ids (H, W), or class index + 1 of the nine if ``training``, in their colours."""
    colours = np.zeros((256, 4))
    for value, rgba in lulc.colormap(training).items():
        colours[value] = np.array(rgba) / 255
    ax.set_axis_off()
    ax.set_title(title)
    return ax.imshow(
        values, cmap=ListedColormap(list(colours)), vmin=0, vmax=255, interpolation="nearest"
    )


def class_legend(ax: Axes, *, training: bool = False) -> None:
    """A legend of the class colours in an axis of its own."""
    names = dict(enumerate(lulc.NAMES, 1)) if training else {c.id: c.name for c in lulc.CLASSES}
    colours = lulc.colormap(training)
    handles = [
        Patch(color="#{:02x}{:02x}{:02x}".format(*colours[i]), label=name)
        for i, name in names.items()
    ]
    ax.set_axis_off()
    ax.legend(handles=handles, loc="center left", frameon=False, fontsize="small")


def picture(fig: Figure) -> str:
    """A figure as a PNG data address, for pages to embed; the figure is closed."""
    import matplotlib.pyplot as plt

    file = io.BytesIO()
    fig.savefig(file, dpi=70, format="png")
    plt.close(fig)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def slider(
    figures: Iterable[tuple[str, Figure]], name: str, alt: str, *, start: int | None = None
) -> HTML:
    """A slider over labelled figures that is alive on a page without a kernel or a network.

    ``name`` says what the labels are values of, ``alt`` what the figures show. ``start`` is the
    figure shown first, the middle one if it is not given; -1 is the last. The button plays them.
    """
    from IPython.display import HTML

    frames = [[label, picture(fig)] for label, fig in figures]
    start = (len(frames) // 2 if start is None else start) % len(frames)
    return HTML(f"""<div class="frames">
<img src="{frames[start][1]}" alt="{alt}" style="max-width:100%">
<label>{name} = <output>{frames[start][0]}</output>
<input type="range" min="0" max="{len(frames) - 1}" value="{start}" style="width:60%"></label>
<button type="button" aria-label="play">▶</button>
<script>{{
const box = document.currentScript.parentElement, frames = {json.dumps(frames)};
const input = box.querySelector("input");
const show = () => {{
  const [label, src] = frames[input.value];
  box.querySelector("img").src = src;
  box.querySelector("output").value = label;
}};
let timer;
input.addEventListener("input", () => {{
  clearInterval(timer);
  show();
}});
box.querySelector("button").addEventListener("click", () => {{
  clearInterval(timer);
  input.value = 0;
  show();
  timer = setInterval(() => {{
    input.stepUp();
    show();
    if (input.value === input.max) clearInterval(timer);
  }}, 800);
}});
}}</script></div>""")  # type: ignore[no-untyped-call]


def quicklook(
    path: str | Path, side: int = 700
) -> tuple[NDArray[np.uint8], tuple[float, float, float, float]]:
    """A raster as an RGBA picture (H, W, 4) of at most ``side`` pixels, and its bounds in degrees.

    The picture is in web mercator, the bounds are (west, south, east, north): scenes in grey dB,
    labels and maps in their colours.
    """
    import rasterio

    with rasterio.open(path) as source:
        scene = source.dtypes[0] == "uint16"
        how = Resampling.rms if scene else Resampling.nearest
        with WarpedVRT(source, crs="EPSG:3857", resampling=how) as vrt:
            shrink = max(vrt.width, vrt.height) / side
            shape = (max(round(vrt.height / shrink), 1), max(round(vrt.width / shrink), 1))
            pixels = vrt.read(1, out_shape=shape, resampling=how)
            bounds = transform_bounds(vrt.crs, "EPSG:4326", *vrt.bounds)
        if not scene:
            table = np.zeros((256, 4), dtype=np.uint8)
            try:
                palette = source.colormap(1)
            except ValueError:  # it came without one
                palette = lulc.colormap()
            for value, rgba in palette.items():
                table[value] = rgba
            table[lulc.VOID] = 0
            return table[pixels], bounds
        factor = radiometry.calibration(str(path), source.tags())
        db = radiometry.dn_to_db(pixels, calibration_db=factor, nodata=rasters.nodata_of(source))
    low, high = DB_RANGE
    grey = np.nan_to_num(np.clip((db - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return np.dstack([grey, grey, grey, np.isfinite(db) * np.uint8(255)]), bounds


def web_map(layers: Mapping[str, str | Path], *, base: bool = False) -> folium.Map:
    """A folium map of rasters laid over each other, by layer name; the last one is on top.

    ``base`` adds OpenStreetMap tiles, which need a network.
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
