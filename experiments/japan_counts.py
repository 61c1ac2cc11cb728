"""Pixels per class of all Japan, counted on JAXA's own raster, for chapter 05.

    python -m experiments.japan_counts

The raster is JAXA's and not in this repository (data/README.md); its counts are.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import sartutorial as st
from sartutorial import lulc

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SARTUTORIAL_REAL_DATA", ROOT.parent / "shared" / "data"))
RASTER = DATA / "JAXA_HRLULC_Japan_v23.12_250m.tif"
RESULT = ROOT / "book" / "results" / "japan_counts.json"


def by_degree() -> dict[str, NDArray[np.int64]]:
    """Pixels per HR-LULC id (16,) of every square of one degree with a label, by its tile's name."""
    ids, grid, legend = st.read_classes(RASTER)
    side, tiles = round(1 / grid.transform.a), {}
    for top in range(0, grid.height, side):
        for left in range(0, grid.width, side):
            square = ids[top : top + side, left : left + side]
            counts = np.bincount(square[square != legend.void], minlength=16)
            if counts.any():
                name = lulc.tile_name(*grid.transform * (left + side / 2, top + side / 2))
                tiles[Path(name).stem] = counts
    return tiles


def main() -> int:
    """Count, compare with the package's own count, write."""
    if not RASTER.exists():
        print(
            f"NOT COUNTED: no {RASTER.name} in {DATA}; set SARTUTORIAL_REAL_DATA", file=sys.stderr
        )
        return 1
    tiles, whole = by_degree(), st.count_classes(RASTER)[0]
    counts = np.sum(list(tiles.values()), axis=0)
    assert (counts == whole[:16]).all()  # however it is cut
    nine = st.HR_LULC.merged(whole)
    total = int(whole.sum())
    ids = {
        str(c.id): {"name": c.name, "pixels": int(counts[c.id]), "share": counts[c.id] / total}
        for c in st.HR_LULC.classes
        if counts[c.id]
    }
    merged = {
        name: {"pixels": int(n), "share": n / total}
        for name, n in zip(st.HR_LULC.names, nine, strict=True)
    }
    result = {
        "what": "labelled pixels per class of all Japan on a grid of 250 m; tiles: ids 0 to 15 by degree",
        "source": "JAXA HR-LULC Japan v23.12, 250 m, (c) JAXA; real, not simulated",
        "file": RASTER.name,
        "sha256": hashlib.sha256(RASTER.read_bytes()).hexdigest(),
        "terms": "The raster is JAXA's, under JAXA's terms, and not in this repository: only counts.",
        "note": "The sea is class 1 or void, in tiles of 1 degree: its share is the product's.",
        "script": "python -m experiments.japan_counts",
        "date": date.today().isoformat(),
        "pixels": total,
        "ids": ids,
        "nine": merged,
        "tiles": {name: [int(n) for n in counts] for name, counts in tiles.items()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    text = json.dumps(result, indent=1)
    text = re.sub(
        r"\n\s+(\d+,?)(?=\n)|(?<=\d)\n\s+\]", lambda m: m[1] or "]", text
    )  # one line a tile
    RESULT.write_text(text + "\n", encoding="utf-8")
    print(f"{RESULT.relative_to(ROOT)}: {total} labelled pixels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
