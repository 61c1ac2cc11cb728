"""The picture in README.md: a simulated scene, its labels and a model's map of it: ``make picture``."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import rasterio

from sartutorial import inference, lulc, maps, radiometry, workspace
from sartutorial.profiles import data_dir

OUT = Path(__file__).parent / "_static" / "chain.png"


def main() -> None:
    scene = workspace.halved()[0]
    (drawn,) = inference.predict([scene], workspace.model(), data_dir() / "maps" / scene.name)
    layers = {}
    for name, path in {
        "sar": scene,
        "label": workspace.labelled() / scene.name,
        "map": drawn,
    }.items():
        with rasterio.open(path) as source:
            layers[name] = source.read(1)[::3, ::3]
    fig, axes = plt.subplots(
        1, 4, figsize=(11, 3.9), width_ratios=[1, 1, 1, 0.36], layout="constrained"
    )
    maps.show_backscatter(axes[0], radiometry.dn_to_db(layers["sar"]), "simulated scene, σ⁰")
    labels = lulc.to_index(layers["label"]) + 1
    maps.show_classes(axes[1], labels, "its land cover", training=True)
    maps.show_classes(axes[2], layers["map"], "a model's map", training=True)
    maps.class_legend(axes[3], training=True)
    fig.savefig(OUT, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
