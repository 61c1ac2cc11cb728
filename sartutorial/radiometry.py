"""Radiometry: DN, power and decibels, and which backscatter coefficient a product holds.

PALSAR-2 amplitude products store a digital number DN per pixel, and backscatter is
``10 log10 <DN^2> + CF`` with CF = -83.0 dB, where ``<.>`` is a mean of power (JAXA's calibration
of L1.5, L2.1, the 25 m mosaic and ScanSAR L2.2; Shimada et al. 2009).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sartutorial import InputError

CALIBRATION_DB = -83.0  # dB, JAXA
MAX_DN = 65535

_SCENE_NAME = re.compile(r"(?:IMG-)?[HV]{2}-ALOS2\d{9}-\d{6}-[A-Z]{3}[LR](?P<level>\d\.\d)")
_GAMMA_NAME = re.compile(r"_(?:sl_)?[HV]{2}_F02DAR|_MOS_F02DAR|[LR]2\.2")


def to_power(db: ArrayLike) -> NDArray[np.floating]:
    """Decibels to linear power, ``10^(db/10)``; keeps shape and float precision."""
    return np.power(10.0, np.divide(db, 10.0))


def to_db(power: ArrayLike) -> NDArray[np.floating]:
    """Linear power to decibels, ``10 log10(power)``; power 0 gives -inf, negative power NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10.0 * np.log10(power)


def lookup_table(calibration_db: float = CALIBRATION_DB, nodata: float = 0) -> NDArray[np.float32]:
    """The 65,536 entries that turn a uint16 DN into backscatter.

    Returns float32 dB of shape (65536,), NaN at ``nodata`` and at DN 0, which has no logarithm.
    The paper says "sensor-specific lookup tables"; that this is one of them is our reading.
    """
    dn = np.arange(MAX_DN + 1, dtype=np.float64)
    table = to_db(dn**2) + calibration_db
    table[0] = np.nan
    if 0 <= nodata <= MAX_DN:
        table[int(nodata)] = np.nan
    return table.astype(np.float32)


def dn_to_db(
    dn: NDArray[np.uint16], *, calibration_db: float = CALIBRATION_DB, nodata: float = 0
) -> NDArray[np.float32]:
    """Amplitude DN (uint16, any shape) to backscatter in dB (float32, same shape, NaN = no data).

    Raises InputError if ``dn`` is not uint16: another type is another unit.
    """
    if np.asarray(dn).dtype != np.uint16:
        raise InputError(f"DN must be uint16 amplitude, got {np.asarray(dn).dtype}")
    return lookup_table(calibration_db, nodata)[dn]


def db_to_dn(db: ArrayLike, *, calibration_db: float = CALIBRATION_DB) -> NDArray[np.uint16]:
    """Backscatter in dB (any shape, NaN = no data) to the nearest DN (uint16, 0 = no data).

    Valid values are clipped to 1..65535, so that no valid pixel turns into no data.
    """
    db = np.asarray(db)
    dn = np.sqrt(to_power(db - calibration_db))
    return np.where(np.isnan(db), 0, np.clip(np.rint(dn), 1, MAX_DN)).astype(np.uint16)


def quantity(path: str, tags: Mapping[str, str] | None = None) -> str:
    """Which coefficient a product holds: ``sigma0`` (L1.5, L2.1) or ``gamma0`` (mosaic, L2.2).

    A tag ``QUANTITY`` written by an earlier step decides; else the product's name; a name outside
    JAXA's grammar counts as sigma0.
    Raises InputError for level 3.1, whose enhanced images are not radiometric, and for 1.1, which
    is complex.
    """
    if tags and "QUANTITY" in tags:
        return tags["QUANTITY"]
    name = PurePosixPath(path).name
    match = _SCENE_NAME.search(name)
    if match and match["level"] in ("3.1", "1.1"):
        raise InputError(
            f"{path}: level {match['level']} cannot be calibrated to backscatter; "
            "order level 1.5 or 2.1"
        )
    if match:
        return "gamma0" if match["level"] == "2.2" else "sigma0"
    return "gamma0" if _GAMMA_NAME.search(path) else "sigma0"
