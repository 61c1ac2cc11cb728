"""How often do intervals of area hold the true one? A thousand samples of a simulated map, for chapter 09.

    python -m experiments.area_coverage

The truth is known, so it can be counted. Samples are drawn class by class of the book's own map of two
simulated scenes, without putting back, of several sizes; half a minute, once the maps are there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sartutorial as st
from sartutorial import lulc, tutorial
from sartutorial.learn import reports

RESULT = Path(__file__).parents[1] / "book" / "results" / "area_coverage.json"
NAMES = lulc.HR_LULC.names
SAMPLES, SEED, SIZES = 1000, 0, (25, 50, 100, 400)  # pixels of each class of the map


def population(scenes: list[Path]) -> NDArray[np.int64]:
    """Pixels (K, K) by class in the map and true class."""
    maps = st.predict(scenes, "reference", tutorial.data_dir() / "maps")
    labels = tutorial.labelled()
    truth = sum(reports.agreement(path, labels / path.name) for path in maps)
    return np.asarray(truth).T


def drawn(counts: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """A stratified sample (K, K) of a population: ``size`` pixels of each class of the map, or all."""
    return np.array([rng.multivariate_hypergeometric(c, min(size, c.sum())) for c in counts])


def coverage(counts: NDArray[np.int64], size: int) -> dict[str, Any]:
    """How often each interval holds the true area, and how wide it is in shares of that area."""
    rng, mapped, true = np.random.default_rng((SEED, size)), counts.sum(1), counts.sum(0)
    held, width = np.zeros((2, len(true))), np.zeros((2, len(true)))
    for _ in range(SAMPLES):
        found = st.estimate_areas(drawn(counts, size, rng), mapped, NAMES)
        for i, kind in enumerate(("", "exact_")):
            low, high = found[f"{kind}low"].to_numpy(), found[f"{kind}high"].to_numpy()
            held[i] += (low <= true) & (true <= high)
            width[i] += (high - low) / np.maximum(true, 1)
    kinds = dict(zip(("normal", "exact"), zip(held, width, strict=True), strict=True))
    return {
        kind: {
            name: {"held": float(h / SAMPLES), "width": round(w / SAMPLES, 4)}
            for name, h, w in zip(NAMES, *both, strict=True)
        }
        for kind, both in kinds.items()
    }


def main() -> None:
    """Count, and write the result."""
    scenes = tutorial.halved()[:2]
    counts = population(scenes)
    keep = counts.sum(1) >= 2  # of a class that the map hardly has nothing can be sampled
    counts = np.where(keep[:, None], counts, 0)
    said = {
        "what": "share of samples whose 95 % interval of area holds the true area, simulated scenes",
        "scenes": [scene.name for scene in scenes],
        "model": "reference",
        "samples": SAMPLES,
        "seed": SEED,
        "pixels_by_map_and_truth": counts.tolist(),
        "classes": list(NAMES),
        "by_pixels_a_class": {str(size): coverage(counts, size) for size in SIZES},
    }
    RESULT.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    for size, kinds in said["by_pixels_a_class"].items():
        for kind, found in kinds.items():
            print(size, kind, {name: one["held"] for name, one in found.items()})


if __name__ == "__main__":
    main()
