"""The pictures in README.md and on the landing page: ``make picture``.

A simulated scene, its labels and a model's map of it side by side; and the scene and the map, each without
a frame and of one size, to be laid over each other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

import sartutorial as st
from sartutorial import tutorial
from sartutorial.profiles import data_dir

OUT = Path(__file__).parent / "_static"
SIDE = 768  # pixels drawn of each raster


def alone(name: str, draw: Callable[[Axes], object]) -> None:
    """Draw a raster to a file of its own, pixel by pixel, whose ending says the format."""
    fig = plt.figure(figsize=(SIDE / 100, SIDE / 100))
    draw(fig.add_axes((0, 0, 1, 1)))
    options = {"quality": 80} if name.endswith("jpg") else {"optimize": True}
    fig.savefig(OUT / name, dpi=100, pil_kwargs=options)
    plt.close(fig)


def main() -> None:
    scene = tutorial.halved()[0]
    drawn = st.predict(scene, "reference", data_dir() / "maps")
    radar, mapped = st.read_db(scene, max_size=SIDE), st.read_classes(drawn, max_size=SIDE)
    fig, axes = plt.subplots(
        1, 4, figsize=(11, 3.9), width_ratios=[1, 1, 1, 0.36], layout="constrained"
    )
    image = st.show_backscatter(radar, axes[0], "simulated scene, σ⁰")
    fig.colorbar(image, ax=axes[0], location="left", shrink=0.6, label="dB")
    label = st.read_classes(tutorial.labelled() / scene.name, max_size=SIDE)
    indices = label.legend.to_index(label.ids) + 1
    st.show_classes(indices, axes[1], "its land cover", legend=label.legend, training=True)
    st.show_classes(mapped, axes[2], "the model's map")
    st.show_legend(label.legend, axes[3], training=True)
    fig.savefig(OUT / "chain.png", dpi=100, bbox_inches="tight")

    alone("hero-radar.jpg", lambda ax: st.show_backscatter(radar, ax))
    alone("hero-map.png", lambda ax: st.show_classes(mapped, ax))


if __name__ == "__main__":
    main()
