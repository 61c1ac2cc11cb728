"""What real L-band HH shows of each class, for chapter 01 to set beside the simulation.

    python -m experiments.lband_levels

The rasters are their owners' and not in this repository (data/README.md); these numbers are.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.vrt import WarpedVRT

import sartutorial as st
from sartutorial import rasters

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SARTUTORIAL_REAL_DATA", ROOT.parent / "shared" / "data"))
SCENE = DATA / "flevoland-l-band" / "AIRSAR-HH-FLEVOLAND.tif"
LABELS = DATA / "flevoland-l-band" / "LC_N52E005.tif"
TILE = DATA / "N23W161_20_MOS_F02DAR.tar.gz"
RESULT = ROOT / "book" / "results" / "lband_levels.json"


def level(power: NDArray[np.floating]) -> dict[str, Any]:
    """Mean (of power), 10th, 50th and 90th percentile of a class, in dB."""
    low, middle, high = np.percentile(power, [10, 50, 90])
    mean, *rest = (round(float(st.to_db(p)), 2) for p in (power.mean(), low, middle, high))
    return {"pixels": int(power.size), "mean_db": mean, "p10_p50_p90_db": rest}


def power_of(db: NDArray[np.float32]) -> NDArray[np.float64]:
    """Linear power of dB, NaN = no data."""
    return st.to_power(db.astype(np.float64))


def flevoland() -> dict[str, Any]:
    """Every class of the AIRSAR scene."""
    db, grid, _ = st.read_db(SCENE, quantity="sigma0")
    with (
        rasterio.open(LABELS) as labels,
        WarpedVRT(labels, **grid._asdict(), tolerance=1e-9) as vrt,
    ):
        ids = np.where(np.isfinite(db), vrt.read(1), 0)
    power = power_of(db)
    return {c.name: level(power[ids == c.id]) for c in st.HR_LULC.classes if (ids == c.id).any()}


def mosaic() -> dict[str, Any]:
    """Land and ocean of the ALOS-2 mosaic tile, by the product's own mask (255 land, 50 ocean)."""
    (scene,) = st.find_scenes(TILE)
    power = power_of(st.read_db(scene).db)
    with rasterio.open(rasters.mask_of(scene)) as mask:
        kind = np.where(np.isfinite(power), mask.read(1), 0)
    return {name: level(power[kind == v]) for name, v in (("land", 255), ("ocean", 50))}


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
        "script": "python -m experiments.lband_levels",
        "date": date.today().isoformat(),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{RESULT.relative_to(ROOT)}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
