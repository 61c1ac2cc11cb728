"""The picture in README.md: a simulated scene, its labels and a model's map of it: ``make picture``."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

import sartutorial as st
from sartutorial import tutorial
from sartutorial.profiles import data_dir

OUT = Path(__file__).parent / "_static" / "chain.png"
SIDE = 768  # pixels drawn of each raster


def main() -> None:
    scene = tutorial.halved()[0]
    drawn = st.predict(scene, "reference", data_dir() / "maps")
    fig, axes = plt.subplots(
        1, 4, figsize=(11, 3.9), width_ratios=[1, 1, 1, 0.36], layout="constrained"
    )
    st.show_backscatter(st.read_db(scene, max_size=SIDE), axes[0], "simulated scene, σ⁰")
    label = st.read_classes(tutorial.labelled() / scene.name, max_size=SIDE)
    indices = label.legend.to_index(label.ids) + 1
    st.show_classes(indices, axes[1], "its land cover", legend=label.legend, training=True)
    st.show_classes(st.read_classes(drawn, max_size=SIDE), axes[2], "the model's map")
    st.show_legend(label.legend, axes[3], training=True)
    fig.savefig(OUT, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
