"""Figures and web maps: backscatter in grey, classes in the colours of their legend, layers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import rasterio
from affine import Affine
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.warp import calculate_default_transform, reproject, transform

from sartutorial import files, lulc, rasters

if TYPE_CHECKING:
    import folium

DB_RANGE = (-25.0, 0.0)  # the stretch of every backscatter figure in the book
EARTH = 6378137.0  # metres, the radius of web maps
WRONG = (255, 255, 255)  # no legend has a class in white
# To some eyes towns have the colour of forest or bare ground, greenhouses that of wetland.
HATCH = {"built-up": "////", "greenhouse": "xxxx", "bamboo forest": "++"}
HATCH |= dict.fromkeys(("deciduous broad-leaved forest", "rock reef / tidal flat"), "..")
HATCH |= dict.fromkeys(("deciduous needle-leaved forest", "evergreen needle-leaved forest"), "||")
SIDE = 900  # pixels of a web map's layer: a page of five opens at once
# A web map's own controls: what is shown and how opaque, a swipe, and the legend.
PANEL = """(() => {
const map = MAP, layers = [LAYERS], classes = CLASSES;
const shown = () => layers.filter(([, layer]) => map.hasLayer(layer)).map(([, layer]) => layer);
const panel = L.control({position: "topright"}), box = L.DomUtil.create("details", "sar-panel");
const add = (html) => box.appendChild(Object.assign(document.createElement("label"), {innerHTML: html}));
box.open = innerWidth > 500;
box.innerHTML = `<summary>Layers and legend</summary><style>
.sar-panel { font: 13px/1.5 sans-serif; padding: 6px 10px; border-radius: 4px; max-width: 62vw;
  max-height: 70vh; overflow: auto; background: #fffe; color: #111; }
.sar-panel label { display: grid; grid-template-columns: 20px 1fr 70px; align-items: center; }
.sar-panel i { width: 12px; height: 12px; border: 1px solid #8888; }
.sar-panel input { margin: 2px; min-width: 0; }
@media (prefers-color-scheme: dark) { .sar-panel { background: #222e; color: #eee; }
  .leaflet-container { background: #333; } }</style>`;
layers.slice().reverse().forEach(([name, layer]) => {
  const row = add(`<input type="checkbox" checked><span></span>
<input type="range" min="0" max="1" step="0.05" value="1">`);
  const [check, opacity] = row.querySelectorAll("input");
  row.querySelector("span").textContent = name;
  opacity.setAttribute("aria-label", `opacity of ${name}`);
  check.onchange = () => { check.checked ? layer.addTo(map) : layer.remove(); swipe(); };
  opacity.oninput = () => layer.setOpacity(opacity.value);
});
const cut = add(`<i style="border: 0">⇄</i><span>swipe</span>
<input type="range" min="0" max="100" value="100" aria-label="swipe the uppermost layer">`).lastChild;
const swipe = () => {
  const frame = map.getContainer().getBoundingClientRect();
  const at = frame.left + frame.width * cut.value / 100;
  shown().forEach((layer, i, all) => {
    const image = layer.getElement(), right = image.getBoundingClientRect().right;
    image.style.zIndex = layers.findIndex(([, other]) => other === layer);
    image.style.clipPath = i === all.length - 1 ? `inset(0 ${Math.max(0, right - at)}px 0 0)` : "";
  });
};
cut.oninput = swipe;
map.on("move zoomend resize viewreset", swipe);
classes.forEach(([name, colour]) => {
  add(`<i style="background: ${colour}"></i><span></span>`).lastChild.textContent = name;
});
L.DomEvent.disableClickPropagation(box);
L.DomEvent.disableScrollPropagation(box);
panel.onAdd = () => box;
panel.addTo(map);
swipe();
})();"""


def show_backscatter(
    db: rasters.View | NDArray[np.floating] | str | Path, ax: Axes | None = None, title: str = ""
) -> AxesImage:
    """Draw backscatter in grey, from -25 to 0 dB; no data is left transparent.

    Args:
        db: A scene, what ``read_db`` returned, or an array of dB (H, W), NaN = no data.
        ax: Where to draw; default a figure of its own.
        title: Above the picture.

    Returns:
        The image, for a colour bar.
    """
    db = rasters.read_db(db, max_size=SIDE) if isinstance(db, str | Path) else db
    array = db.db if isinstance(db, rasters.View) else db
    low, high = DB_RANGE
    return _axes(ax, title).imshow(array, cmap="gray", vmin=low, vmax=high, interpolation="nearest")


def show_classes(
    classes: rasters.Classes | NDArray[np.integer] | str | Path,
    ax: Axes | None = None,
    title: str = "",
    *,
    legend: str | Path | lulc.Legend | None = None,
    training: bool = False,
) -> AxesImage:
    """Draw land cover in the colours of its legend, some hatched; what is no class is transparent.

    Args:
        classes: A raster, what ``read_classes`` returned, which knows its legend, or ids (H, W).
        ax: Where to draw; default a figure of its own.
        title: Above the picture.
        legend: Of a raster, default what it says itself, or of an array; else hr-lulc.
        training: Whether an array holds training index + 1, as maps do, rather than ids.

    Returns:
        The image.
    """
    if isinstance(classes, str | Path):
        classes = rasters.read_classes(classes, legend=legend, max_size=SIDE)
    if isinstance(classes, rasters.Classes):
        return show_classes(classes.ids, ax, title, legend=classes.legend)
    of = lulc.legend(legend or lulc.HR_LULC)
    of = of.for_maps if training else of
    colours = _palette(of.colormap())[classes]
    image = _axes(ax, title).imshow(colours, interpolation="nearest")
    for c in of.classes:
        here = classes == c.id
        if c.name in HATCH and here.any() and min(here.shape) > 1:  # matplotlib hatches no line
            image.axes.contourf(here, [0.5, 1], colors="none", hatches=[HATCH[c.name]])
    return image


def show_legend(
    legend: str | Path | lulc.Legend = "hr-lulc",
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
    of = lulc.legend(legend).for_maps if training else lulc.legend(legend)
    handles = [
        Patch(fc=np.divide(c.rgb, 255), ec="black", lw=0, hatch=HATCH.get(c.name), label=c.name)
        for c in of.classes
    ]
    _axes(ax, "").legend(handles=handles, loc="center left", frameon=False, fontsize="small")


def _axes(ax: Axes | None, title: str) -> Axes:
    ax = ax or plt.subplots(layout="constrained")[1]
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def _palette(colours: Mapping[int, tuple[int, ...]]) -> NDArray[np.uint8]:
    table = np.zeros((256, 4), np.uint8)
    table[list(colours)] = list(colours.values())
    return table


Picture = NDArray[np.uint8]  # RGBA (H, W, 4)
Layer = str | Path | tuple[str | Path, str | Path]  # a raster, or a map and the labels to compare


def quicklook(layer: Layer, side: int = SIDE) -> tuple[Picture, rasters.Box, lulc.Legend | None]:
    """A raster as a picture in the projection of web maps.

    Args:
        layer: A scene, drawn in grey; land cover, in the colours of its training classes or, if it
            has no legend, of its own colour table; what ``predict`` wrote beside a map, whose
            confidence is drawn, from dark (none) to light; or a map and the labels of its scene,
            whose disagreement is drawn, in white.
        side: Pixels of the longest side that are read.

    Returns:
        RGBA (H, W, 4), transparent where the raster holds no data; its west, south, east and north
        in degrees, where east is above 180 if it crosses 180 degrees; and the legend of land cover.
    """
    for path in layer if isinstance(layer, tuple) else (layer,):
        files.find_scenes(path, "raster")  # which says what is not there
    picture, grid, legend = _drawn(layer, side)
    return *_mercator(picture, grid), legend


def _drawn(layer: Layer, side: int) -> tuple[Picture, rasters.Grid, lulc.Legend | None]:
    """A picture on the grid of a raster, and the legend of land cover."""
    if isinstance(layer, tuple):
        (found, grid, _), (truth, _, _) = (_indices(path, side) for path in layer)
        wrong = (found >= 0) & (truth >= 0) & (found != truth)
        return _palette({1: (*WRONG, 255)})[wrong.astype(np.uint8)], grid, None
    with rasterio.open(layer) as source:
        scene = source.dtypes[0] == "uint16"
        if source.count == 3:
            part = min(1, side / max(source.shape))
            height, width = (max(1, round(n * part)) for n in source.shape)
            sure = source.read(1, masked=True, out_shape=(height, width)) / 100
            fine = Affine.scale(source.width / width, source.height / height)
            grid = rasters.Grid(source.crs, source.transform * fine, width, height)
            return plt.get_cmap("cividis")(sure, bytes=True), grid, None
    if scene:
        db, grid, _ = rasters.read_db(layer, max_size=side)
        low, high = DB_RANGE
        grey = np.nan_to_num(np.clip((db - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        return np.stack([grey, grey, grey, np.isfinite(db) * np.uint8(255)], 2), grid, None
    index, grid, legend = _indices(layer, side)
    return _palette(legend.for_maps.colormap())[index + 1], grid, legend


def _indices(path: str | Path, side: int) -> tuple[NDArray[np.int64], rasters.Grid, lulc.Legend]:
    """The training classes (H, W) of land cover, -1 = none: of labels and maps alike."""
    with rasterio.open(path) as source:
        legend = rasters.legend_of(source) or _of_colours(source)
    ids, grid, known = rasters.read_classes(path, legend=legend, max_size=side)
    return known.to_index(ids), grid, known


def _of_colours(source: DatasetReader) -> lulc.Legend | None:
    """A legend without words, of a raster that says nothing but the colours of its ids."""
    try:
        colours = {i: c[:3] for i, c in source.colormap(1).items() if i != (source.nodata or 0)}
    except ValueError:
        return None
    classes = (lulc.LandCover(id_, str(id_), c, i) for i, (id_, c) in enumerate(colours.items()))
    return lulc.Legend("colours", tuple(classes), tuple(map(str, colours)), tuple(colours.values()))


def _mercator(picture: Picture, grid: rasters.Grid) -> tuple[Picture, rasters.Box]:
    """A picture on a grid, drawn in web mercator, and its bounds in degrees."""
    width, height = grid.width, grid.height
    x, y = grid.transform * np.array([(0, 0), (width, 0), (0, height), (width, height)]).T
    middle = transform(grid.crs, rasters.DEGREES, [x.mean()], [y.mean()])[0][0]
    # Counted from its middle, a raster across 180 degrees lies in one piece.
    crs = f"+proj=merc +a={EARTH} +b={EARTH} +lon_0={middle} +nadgrids=@null +no_defs"
    bounds = x.min(), y.min(), x.max(), y.max()
    at, width, height = calculate_default_transform(grid.crs, crs, width, height, *bounds)
    out = np.zeros((4, height, width), np.uint8)
    here = {"src_transform": grid.transform, "src_crs": grid.crs}
    reproject(np.moveaxis(picture, 2, 0), out, **here, dst_transform=at, dst_crs=crs)  # nearest
    west, east = (middle + math.degrees(m / EARTH) for m in (at.c, at.c + width * at.a))
    ends = at.f + height * at.e, at.f
    south, north = (math.degrees(math.atan(math.sinh(m / EARTH))) for m in ends)
    return np.moveaxis(out, 0, 2), (west, south, east, north)


def web_map(layers: Mapping[str, Layer] | files.Paths, *, base: bool = False) -> folium.Map:
    """Lay rasters over each other on a map to zoom, pan and compare.

    Each layer has an opacity; the swipe takes the uppermost one off from the right. All of it works
    by keyboard and, but for ``base`` and the library Leaflet, without a network.

    Args:
        layers: Scenes, labels, maps or other land cover, confidence, or pairs (map, labels) for what
            is wrong, by the name of their layer, the last one on top; or rasters without names.
        base: Whether to add OpenStreetMap's tiles, which need a network.

    Returns:
        A folium map, which a notebook shows.
    """
    import folium
    from folium.template import Template

    if not isinstance(layers, Mapping):
        layers = {files.stem_of(path): path for path in files.find_scenes(layers, "raster")}
    world = folium.Map(tiles="OpenStreetMap" if base else None, control_scale=True)
    for loaded in (world.default_js, world.default_css):  # all that these layers need is Leaflet
        loaded[:] = [(name, url) for name, url in loaded if name in ("leaflet", "leaflet_css")]
    overlays, classes = {}, dict[str, str]()
    for name, layer in layers.items():
        picture, (west, south, east, north), legend = quicklook(layer)
        overlay = folium.raster_layers.ImageOverlay(
            picture, bounds=[[south, west], [north, east]], mercator_project=False
        ).add_to(world)
        world.fit_bounds([[south, west], [north, east]])
        overlays[name] = overlay.get_name()
        for one in legend.for_maps.classes if legend else ():
            classes[one.name] = "#{:02x}{:02x}{:02x}".format(*one.rgb)
    panel = folium.MacroElement()  # type: ignore[no-untyped-call]
    named = ", ".join(f"[{json.dumps(name)}, {overlay}]" for name, overlay in overlays.items())
    panel._template = Template(
        "{% macro script(this, kwargs) %}{% raw %}"
        + PANEL.replace("MAP", world.get_name(), 1)
        .replace("LAYERS", named, 1)
        .replace("CLASSES", json.dumps([*classes.items()]), 1)
        + "{% endraw %}{% endmacro %}"
    )
    panel.add_to(world)
    return world
