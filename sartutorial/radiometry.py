"""Radiometry: DN, power and decibels, and which product a file is.

PALSAR-2 amplitude products store a digital number DN per pixel, and backscatter is
``10 log10 <DN^2> + CF`` with CF = -83.0 dB, where ``<.>`` is a mean of power (JAXA's calibration
of L1.5, L2.1, the 25 m mosaic and ScanSAR L2.2; Shimada et al. 2009).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sartutorial import InputError

CALIBRATION_DB = -83.0  # dB, JAXA
MAX_DN = 65535

Quantity = Literal["sigma0", "gamma0"]


class Product(NamedTuple):
    """What a file's name, its tags or the user say of its pixels."""

    level: str  # "1.5", "2.1", "2.2", "mosaic"; another word for what is not JAXA's
    quantity: Quantity
    calibration_db: float = CALIBRATION_DB
    mask: str | None = None  # where the product's mask lies, if it comes with one
    void: tuple[int, ...] = ()  # the values of the mask that hold no data


# A name's grammar is JAXA's. That a mask's layover, shadow and ocean stay in is our choice: they
# were measured, and only what holds no measurement (0; 5 in level 2.2) is left out.
_SCENE = re.compile(
    r"(?:IMG-)?[HV]{2}-ALOS2\d{9}-\d{6}-[A-Z]{3}[LR](?P<level>\d\.\d)[GR_][UPML_][AD]"
)
_LEVELS: dict[str, Quantity] = {"1.5": "sigma0", "2.1": "sigma0", "2.2": "gamma0"}
_SCANSAR = re.compile(r"(ALOS2\d{9}-\d{6}_[A-Z]{3}[LR]2\.2[GR_][UPML_][AD])_[HV]{2}_SLP(?=\.tif)")
_MOSAIC = re.compile(r"([NS]\d{2}[EW]\d{3}_\d{2})_sl_[HV]{2}_F02DAR(?=\.tif)")
# AIRSAR's L band as data/README.md describes it: written as PALSAR-2 would have written it.
_AIRSAR = re.compile(r"AIRSAR-[HV]{2}-\w+")


def to_power(db: ArrayLike) -> NDArray[np.floating]:
    """Decibels to linear power, ``10^(db/10)``; keeps shape and float precision."""
    return np.power(10.0, np.divide(db, 10.0))


def to_db(power: ArrayLike) -> NDArray[np.floating]:
    """Linear power to decibels, ``10 log10(power)``; power 0 gives -inf, negative power NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10.0 * np.log10(power)


def no_data(dn: NDArray[np.uint16], nodata: float = 0) -> NDArray[np.bool_]:
    """Where DN (uint16, any shape) hold no data: at ``nodata`` and at DN 0, which has no logarithm."""
    void: NDArray[np.bool_] = dn == 0
    if nodata:
        void |= dn == nodata
    return void


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


def product(
    path: str, tags: Mapping[str, str] | None = None, quantity: Quantity | None = None
) -> Product:
    """Which product a file (a path or a URL) is, and so how its DN become backscatter.

    ``quantity``, the user's word, decides; else the tag ``QUANTITY`` that an earlier step wrote; else
    the name, by JAXA's grammar (sigma0 in levels 1.5 and 2.1, gamma0 in level 2.2 and the 25 m
    mosaic). The factor is that of ``calibration`` in each case.
    Raises InputError for a tag ``CALIBRATION_DB`` that is no number, for level 3.1, whose enhanced
    images are not radiometric, for 1.1, which is complex, and for a name that tells no unit.
    """
    tags = tags or {}
    named = _named(path)
    calibration_db = calibration(path, tags)
    if quantity or "QUANTITY" in tags:
        said = quantity or tags["QUANTITY"]
        if said not in get_args(Quantity):
            raise InputError(f"{path}: holds {said}, expected sigma0 or gamma0")
        known = named or Product("unknown", "sigma0")
        return known._replace(quantity=cast(Quantity, said), calibration_db=calibration_db)
    if named is None:
        raise InputError(
            f"{path}: its name is none of JAXA's, so its unit is unknown; keep the product's name, "
            "or name the unit: 'sartutorial downsample --factor 1 --quantity sigma0'"
        )
    if named.level[0].isdigit() and named.level not in _LEVELS:
        raise InputError(
            f"{path}: level {named.level} cannot be calibrated to backscatter; "
            "order level 1.5 or 2.1, or name the unit: 'sartutorial downsample --quantity sigma0'"
        )
    return named._replace(calibration_db=calibration_db)


def calibration(path: str, tags: Mapping[str, str] | None = None) -> float:
    """The calibration factor of a file in dB: what its tag ``CALIBRATION_DB`` says, else JAXA's.

    Raises InputError if the tag is no finite number.
    """
    said = (tags or {}).get("CALIBRATION_DB", CALIBRATION_DB)
    try:
        factor = float(said)
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor):
        raise InputError(
            f"{path}: its tag CALIBRATION_DB is '{said}', no number of dB; write it anew, such as "
            f"{CALIBRATION_DB}"
        )
    return factor


def _named(path: str) -> Product | None:
    folder, _, name = path.rpartition("/")
    if match := _SCENE.search(name):
        return Product(match["level"], _LEVELS.get(match["level"], "sigma0"))
    for grammar, level, mask, void in (
        (_SCANSAR, "2.2", r"\1_MSK", (0, 5)),
        (_MOSAIC, "mosaic", r"\1_mask_F02DAR", (0,)),
    ):
        if grammar.search(name):
            beside = f"{folder}/{grammar.sub(mask, name)}" if folder else grammar.sub(mask, name)
            return Product(level, "gamma0", mask=beside, void=void)
    return Product("AIRSAR", "sigma0") if _AIRSAR.match(name) else None


def quantity(path: str, tags: Mapping[str, str] | None = None) -> Quantity:
    """Which coefficient a file holds: ``sigma0`` or ``gamma0``; see ``product``."""
    return product(path, tags).quantity
