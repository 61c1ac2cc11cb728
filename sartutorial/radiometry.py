"""Radiometry: DN, power and decibels, and which product a file is.

PALSAR-2 stores an amplitude DN per pixel, 0 = no data; ``10 log10 <DN^2> - 83 dB`` is backscatter
(JAXA's calibration of L1.5, L2.1, mosaics and ScanSAR L2.2; Shimada et al. 2009).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sartutorial import InputError

CALIBRATION_DB = -83.0  # dB, JAXA
MAX_DN = 65535
SAY = "name the unit: --quantity sigma0 of 'sartutorial downsample --factor 1' (or of 'import')"

Quantity = Literal["sigma0", "gamma0"]


class Product(NamedTuple):
    """What a file's name, its tags or the user say of its pixels."""

    level: str  # "1.5", "2.1", "2.2", "mosaic"; another word for what is not JAXA's
    quantity: Quantity
    polarisation: str = "unknown"
    calibration_db: float = CALIBRATION_DB
    mask: str | None = None  # where the product's mask lies, if it comes with one
    void: tuple[int, ...] = ()  # the values of the mask that hold no data


# A name's grammar is JAXA's. That a mask's layover, shadow and ocean stay in is our choice: they
# were measured, and only what holds no measurement (0; 5 in level 2.2) is left out. The mosaics of
# PALSAR-1 are without the mode at the end, and those before 2019 (ENVI) without a suffix.
_SCENE = re.compile(r"[HV]{2}-ALOS2\d{9}-\d{6}-[A-Z]{3}[LR](\d\.\d)[GR_][UPML_][AD]")
_SCANSAR = re.compile(r"(ALOS2\d{9}-\d{6}_\w{4}2\.2\w{3})_[HV]{2}_SLP(\.tiff?)?$")
_MOSAIC = re.compile(r"([NS]\d\d[EW]\d{3}_\d\d)_sl_[HV]{2}((_F\d\d[A-Z]{3})?(\.tiff?)?)$")
_POLARISATION = re.compile(r"(?<![A-Z0-9])[HV]{2}(?![A-Z0-9])", re.IGNORECASE)
_LEVELS: dict[str, Quantity] = {"1.5": "sigma0", "2.1": "sigma0", "2.2": "gamma0"}


def to_power(db: ArrayLike) -> NDArray[np.floating]:
    """Decibels to linear power, ``10^(db/10)``; keeps shape and float precision."""
    return np.power(10.0, np.divide(db, 10.0))


def to_db(power: ArrayLike) -> NDArray[np.floating]:
    """Linear power to decibels, ``10 log10(power)``; power 0 gives -inf, negative power NaN.

    >>> float(to_db(to_power(-10.0)))
    -10.0
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10.0 * np.log10(power)


def lookup_table(calibration_db: float = CALIBRATION_DB) -> NDArray[np.float32]:
    """The 65,536 entries that turn a uint16 DN into backscatter: float32 dB, NaN at DN 0.

    The paper says "sensor-specific lookup tables"; that this is one of them is our reading.
    """
    table = to_db(np.arange(MAX_DN + 1, dtype=np.float64) ** 2) + calibration_db
    table[0] = np.nan
    return table.astype(np.float32)


def check_dn(dn: ArrayLike) -> None:
    """Raise InputError unless ``dn`` are uint16: another type is another unit."""
    if np.asarray(dn).dtype != np.uint16:
        raise InputError(f"DN must be uint16 amplitude, got {np.asarray(dn).dtype}")


def dn_to_db(
    dn: NDArray[np.uint16], *, calibration_db: float = CALIBRATION_DB
) -> NDArray[np.float32]:
    """Turn amplitude DN into backscatter: float32 dB of the same shape, NaN for no data.

    Args:
        dn: uint16, any shape; 0 is no data.
        calibration_db: The product's calibration factor in dB.

    Raises:
        InputError: ``dn`` is not uint16: another type is another unit.
    """
    check_dn(dn)
    return lookup_table(calibration_db)[dn]


def db_to_dn(db: ArrayLike, *, calibration_db: float = CALIBRATION_DB) -> NDArray[np.uint16]:
    """Turn backscatter into the nearest amplitude DN: uint16, 1..65535 and 0 for no data.

    Args:
        db: dB, any shape; NaN is no data.
        calibration_db: The calibration factor in dB that the DN shall have.
    """
    db = np.asarray(db)
    dn = np.sqrt(to_power(db - calibration_db))
    return np.where(np.isnan(db), 0, np.clip(np.rint(dn), 1, MAX_DN)).astype(np.uint16)


def product(
    path: str | Path, tags: Mapping[str, str] | None = None, quantity: Quantity | None = None
) -> Product:
    """Tell which product a file is, and so how its DN become backscatter.

    By JAXA's grammar of names, levels 1.5 and 2.1 hold sigma0, level 2.2 and the 25 m mosaics
    gamma0, all with one calibration factor. The tags ``QUANTITY``, ``CALIBRATION_DB`` and
    ``POLARISATION``, which earlier steps write, come before the name, but for the polarisation;
    ``quantity`` is the user's word, which comes before both. Raises InputError where none tells the
    unit, for level 3.1 (enhanced, not radiometric) or 1.1 (complex), and for a tag that cannot be.
    """
    tags, known = tags or {}, _named(str(path))
    if said := quantity or tags.get("QUANTITY"):
        if said not in get_args(Quantity):
            raise InputError(f"{path}: holds {said}, expected sigma0 or gamma0")
        known = (known or Product("unknown", "sigma0"))._replace(quantity=cast(Quantity, said))
    elif known is None:
        fault = "its name is none of JAXA's, so its unit is unknown; keep the product's name"
        raise InputError(f"{path}: {fault}, or {SAY}")
    elif known.level[0].isdigit() and known.level not in _LEVELS:
        fault = f"level {known.level} cannot be calibrated to backscatter; order level 1.5 or 2.1"
        raise InputError(f"{path}: {fault}, or {SAY}")
    factor = str(tags.get("CALIBRATION_DB", CALIBRATION_DB))
    if not re.fullmatch(r"[-+]?\d+\.?\d*", factor):
        fault = f"its tag CALIBRATION_DB is '{factor}', no number of dB; write one, such as -83"
        raise InputError(f"{path}: {fault}")
    word = _POLARISATION.search(str(path).rpartition("/")[2])
    polarisation = word[0].upper() if word else tags.get("POLARISATION", "unknown")
    return known._replace(polarisation=polarisation, calibration_db=float(factor))


def _named(path: str) -> Product | None:
    """What the name says alone; data/README.md describes AIRSAR's, written as PALSAR-2 would be."""
    folder, slash, name = path.partition("?")[0].rpartition("/")
    if found := _SCENE.search(name):
        return Product(found[1], _LEVELS.get(found[1], "sigma0"))
    if _SCANSAR.search(name):
        mask = folder + slash + _SCANSAR.sub(r"\1_MSK\2", name)
        return Product("2.2", "gamma0", mask=mask, void=(0, 5))
    if _MOSAIC.search(name):
        mask = folder + slash + _MOSAIC.sub(r"\1_mask\2", name)
        return Product("mosaic", "gamma0", mask=mask, void=(0,))
    return Product("AIRSAR", "sigma0") if name.startswith("AIRSAR-") else None
