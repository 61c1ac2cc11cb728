"""Pixels per class of all Japan, counted on JAXA's own raster, for chapter 05.

    python -m book.japan_counts

The raster is JAXA's and not in this repository (data/README.md); its counts are.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import date
from pathlib import Path

from sartutorial import lulc, sampling

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SARTUTORIAL_REAL_DATA", ROOT.parent / "shared" / "data"))
RASTER = DATA / "JAXA_HRLULC_Japan_v23.12_250m.tif"
RESULT = ROOT / "book" / "results" / "japan_counts.json"


def main() -> int:
    if not RASTER.exists():
        print(f"NOT COUNTED: no {RASTER.name} in {DATA}; set SARTUTORIAL_REAL_DATA",
              file=sys.stderr)  # fmt: skip
        return 1
    counts = sampling.count_classes([RASTER], progress=True)[0]
    nine = lulc.merged(counts)
    total = int(counts.sum())
    ids = {
        str(c.id): {"name": c.name, "pixels": int(counts[c.id]), "share": counts[c.id] / total}
        for c in lulc.CLASSES
        if counts[c.id]
    }
    merged = {
        n: {"pixels": int(k), "share": k / total} for n, k in zip(lulc.NAMES, nine, strict=True)
    }
    result = {
        "what": "labelled pixels per class of all Japan, on a grid of 250 m",
        "source": "JAXA HR-LULC Japan v23.12, 250 m, (c) JAXA; real, not simulated",
        "file": RASTER.name,
        "sha256": sampling._checksum(RASTER),
        "terms": "The raster is JAXA's, under JAXA's terms, and not in this repository: only counts.",
        "note": "The sea is class 1 or void, in tiles of 1 degree: its share is the product's.",
        "script": "python -m book.japan_counts",
        "date": date.today().isoformat(),
        "pixels": total,
        "ids": ids,
        "nine": merged,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{RESULT.relative_to(ROOT)}: {total} labelled pixels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
