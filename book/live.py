"""What the live page computes with: the reference networks and a few patches, as one script.

    python -m book.live        -> build/src/book/_static/live/data.js

``make book`` calls this before it builds the pages. Weights go in ten bits with a scale a row: with eight
the filled-in pixels would be off by up to a quarter of a dB.
"""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

import sartutorial as st
from book.execute import SOURCE
from sartutorial import tutorial
from sartutorial.learn import datasets

WEIGHTS = Path(__file__).parent / "weights"
PATCHES, LARGEST = 6, 511


def about(kind: str) -> dict[str, Any]:
    """The description of the reference ``encoder`` or ``model``."""
    found: dict[str, Any] = json.loads((WEIGHTS / f"{kind}.json").read_text(encoding="utf-8"))
    return found


def folded(weights: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The weights in float32, each batch normalisation taken into the convolution before it."""
    found = {k: v.astype(np.float32) for k, v in weights.items() if "num_batches" not in k}
    for name in [k for k in found if k.endswith("running_mean")]:
        norm = name.removesuffix(".running_mean")
        path, _, place = norm.rpartition(".")
        conv = f"{path}.{int(place) - 1}"
        mean, var, gain, shift = (
            found.pop(f"{norm}.{k}") for k in ("running_mean", "running_var", "weight", "bias")
        )
        gain = gain / np.sqrt(var + 1e-5)
        found[f"{conv}.weight"] *= gain[:, None, None, None]
        found[f"{conv}.bias"] = shift - mean * gain
    return found


def packed(kind: str, *, quantised: bool = True) -> dict[str, Any]:
    """Weights of the reference ``encoder`` or ``model`` as ``unpack`` in networks.js reads them."""
    blob, index = bytearray(), {}
    for name, values in folded(load_file(WEIGHTS / f"{kind}.safetensors")).items():
        if name.startswith("decoder.head.classify"):  # the last layer: it divides the logits
            values /= about(kind)["temperature"]
        matrix = (
            quantised and values.ndim > 1 and "position" not in name and "pos_embed" not in name
        )
        index[name] = [list(values.shape), len(blob), matrix]
        if matrix:
            rows = values.reshape(len(values), -1)
            scale = np.maximum(np.abs(rows).max(1), 1e-12) / LARGEST
            whole = np.rint(rows / scale[:, None]).astype(np.int16)
            blob += scale.astype(np.float32).tobytes()
            blob += (
                (whole & 255).astype(np.uint8).tobytes()
            )  # low and high bytes apart: gzip likes it
            blob += (whole >> 8).astype(np.int8).tobytes()
        else:
            blob += values.tobytes()
        blob += bytes(-len(blob) % 4)  # numbers of four bytes begin at multiples of four
    data = base64.b64encode(gzip.compress(bytes(blob), mtime=0)).decode()
    return {"config": about(kind)["encoder"], "index": index, "data": data}


def examples() -> list[dict[str, Any]]:
    """Test patches with many classes, as hundredths of dB and training classes + 1 (0 = no label)."""
    folder = tutorial.sampled()
    rows = datasets.selected(folder, "finetune", "test")
    held = datasets.class_counts(rows, st.HR_LULC) > 100
    chosen = np.argsort(-held.sum(1), kind="stable")[: 4 * PATCHES : 4]
    rows = rows.iloc[chosen]
    store = st.Store(folder, rows)
    found = []
    for i, name in enumerate(rows["patch"]):
        db = np.rint(store.sar(i) * 100).astype("<i2")
        truth = (st.HR_LULC.to_index(store.label(i)) + 1).astype(np.uint8)
        found.append({"name": name, "db": _text(db), "truth": _text(truth)})
    return found


def _text(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def script() -> str:
    """The script that the page loads: ``window.liveData``."""
    legend = st.HR_LULC
    data = {
        "normalization": about("model")["normalization"],
        "classes": [[n, list(c)] for n, c in zip(legend.names, legend.colours, strict=True)],
        "patches": examples(),
        "encoder": packed("encoder"),
        "model": packed("model"),
    }
    return f"window.liveData = {json.dumps(data, separators=(',', ':'))};\n"


def main() -> None:
    """Write the script beside the page, where the book has that page."""
    if not (SOURCE / "book" / "live.md").exists():
        return
    file = SOURCE / "book" / "_static" / "live" / "data.js"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(script(), encoding="utf-8")
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
