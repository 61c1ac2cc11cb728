"""What real L-band HH shows of each class, for chapter 01 to set beside the simulation.

    python -m book.lband_levels

The rasters are their owners' and not in this repository (data/README.md); these numbers are.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.vrt import WarpedVRT

from sartutorial import lulc, radiometry

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SARTUTORIAL_REAL_DATA", ROOT.parent / "shared" / "data"))
SCENE = DATA / "flevoland-l-band" / "AIRSAR-HH-FLEVOLAND.tif"
LABELS = DATA / "flevoland-l-band" / "LC_N52E005.tif"
TILE = DATA / "N23W161_20_MOS_F02DAR.tar.gz"
RESULT = ROOT / "book" / "results" / "lband_levels.json"


def level(power: NDArray[np.floating]) -> dict[str, Any]:
    """Mean (of power), 10th, 50th and 90th percentile of a class, in dB."""
    low, middle, high = np.percentile(power, [10, 50, 90])
    mean, *rest = (round(float(radiometry.to_db(p)), 2) for p in (power.mean(), low, middle, high))
    return {"pixels": int(power.size), "mean_db": mean, "p10_p50_p90_db": rest}


def flevoland() -> dict[str, Any]:
    """Every class of the AIRSAR scene."""
    with rasterio.open(SCENE) as scene, rasterio.open(LABELS) as labels:
        grid = dict(
            crs=scene.crs, transform=scene.transform, width=scene.width, height=scene.height
        )
        with WarpedVRT(labels, **grid, tolerance=1e-9) as vrt:
            ids = vrt.read(1)
        power = radiometry.to_power(radiometry.dn_to_db(scene.read(1)).astype(np.float64))
    known = np.isfinite(power)
    return {
        c.name: level(power[(ids == c.id) & known])
        for c in lulc.CLASSES
        if ((ids == c.id) & known).any()
    }


def mosaic() -> dict[str, Any]:
    """Land and ocean of the ALOS-2 mosaic tile, by the product's own mask (255 land, 50 ocean)."""
    with tarfile.open(TILE) as tar:
        names = tar.getnames()
    inside = {k: next(n for n in names if k in n) for k in ("HH", "mask")}
    with (
        rasterio.open(f"/vsitar/{TILE}/{inside['HH']}") as hh,
        rasterio.open(f"/vsitar/{TILE}/{inside['mask']}") as mask,
    ):
        table = radiometry.lookup_table(nodata=hh.nodata)
        power, kind = radiometry.to_power(table[hh.read(1)].astype(np.float64)), mask.read(1)
    known = np.isfinite(power)
    return {n: level(power[(kind == v) & known]) for n, v in (("land", 255), ("ocean", 50))}


def main() -> int:
    """Write the result; 1 if the rasters are not there."""
    if not SCENE.exists() or not TILE.exists():
        print(
            f"NOT MEASURED: no real rasters in {DATA}; set SARTUTORIAL_REAL_DATA", file=sys.stderr
        )
        return 1
    result = {
        "what": "backscatter of real L-band HH per class: mean of power and percentiles, dB",
        "flevoland": {
            "source": "AIRSAR (NASA/JPL), airborne, Flevoland, via wrccrwx/sim2pec9, Apache-2.0; "
            "the file's absolute calibration is not known to us, so compare differences",
            "quantity": "as the file has it",
            "classes": flevoland(),
        },
        "mosaic": {
            "source": "ALOS-2 PALSAR-2 25 m mosaic 2020, Lehua and north Niihau, (c) JAXA",
            "quantity": "gamma0",
            "classes": mosaic(),
        },
        "script": "python -m book.lband_levels",
        "date": date.today().isoformat(),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{RESULT.relative_to(ROOT)}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
