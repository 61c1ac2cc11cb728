"""Pack patches into one array file, for training on a machine without the raster libraries.

The file is a structured NumPy array (``.npy``): a row a patch, its pixels beside what training asks of
the index. ``np.load(file, mmap_mode="r")`` opens it anywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from sartutorial import InputError, datasets, files

if TYPE_CHECKING:
    import pandas as pd


def pack(folder: str | Path, out: str | Path, *, progress: bool = False) -> Path:
    """Write the patches of ``folder`` that ``sample`` chose to the file ``out``, and return its path.

    A row holds ``sar`` (H, W) float32 dB, ``label`` (H, W) uint8 HR-LULC ids, and of the index
    ``patch``, ``split``, ``pretrain``, ``finetune``, ``size`` (pixels), ``spacing`` (metres) and
    ``quantity``. Rows are in the order of the index, and written one after the other: memory does not
    grow with their number. A file that is current is left alone.

    Raises InputError if the patches are not sampled or none is chosen, or for a patch that cannot be
    read, is of another size than its row says or holds NaN or infinite values; OSError if ``out``
    cannot be written.
    """
    folder, out = Path(folder), Path(out)
    if folder.is_file():
        raise InputError(f"{folder}: is a file; name the folder of patches to pack")
    index = datasets.sampled(folder)
    rows = index[index["pretrain"] | index["finetune"]]
    if rows.empty:
        raise InputError(
            f"{folder}: no patch is chosen; run 'sartutorial sample' with more --points"
        )
    if _is_current(out, folder, rows):
        return out
    pixels, kind = datasets.Pixels(folder, rows), _kind(rows)
    header = {"descr": kind.descr, "fortran_order": False, "shape": (len(rows),)}
    about = rows[list(datasets.COLUMNS)].itertuples(index=False, name=None)
    with files.replacing(out) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        for i, row in enumerate(tqdm(about, "pack", len(rows), unit="patch", disable=not progress)):
            pair = [pixels.read(which, i) for which in ("sar", "label")]
            if {array.shape for array in pair} != {kind["sar"].shape}:
                raise InputError(
                    f"{folder}: the patch {row[0]} is not of {kind['sar'].shape[0]} px; pack patches "
                    "of one size"
                )
            file.write(np.array([(*pair, *row)], dtype=kind).tobytes())
    return out


def _kind(rows: pd.DataFrame) -> np.dtype[np.void]:
    """The type of a row, its texts as wide as the widest."""
    size = int(rows["size"].iloc[0])
    text = {c: f"<U{rows[c].str.len().max()}" for c in ("patch", "split", "quantity")}
    about = text | {"pretrain": "?", "finetune": "?", "size": "<i4", "spacing": "<f8"}
    return np.dtype(
        [("sar", "<f4", (size, size)), ("label", "u1", (size, size))]
        + [(name, about[name]) for name in datasets.COLUMNS]
    )


def _is_current(out: Path, folder: Path, rows: pd.DataFrame) -> bool:
    """Whether ``out`` is a packed file of these very rows, newer than their index."""
    if not out.exists() or datasets.index_of(folder).stat().st_mtime >= out.stat().st_mtime:
        return False
    try:
        made = datasets.sampled(out)
    except InputError:  # damaged, or another file
        return False
    wanted = rows[list(datasets.COLUMNS)]
    return made.shape == wanted.shape and bool((made.to_numpy() == wanted.to_numpy()).all())
