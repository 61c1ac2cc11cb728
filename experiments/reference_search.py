"""Which recipe makes the reference model? Equal numbers of trials and steps for three starts, on a GPU.

    python -m experiments.reference_search      -> book/results/search.json; any number of processes at once

Sixteen trials a start, judged on validation blocks of the simulated laptop world: the pretrained encoder
and the random one get the same settings, the U-Net draws from its own. The first settings of each are
the best that earlier looks had found. The best trial of a start is frozen and trained six times as long
with seeds that chose nothing, then scored on test blocks and on a world that no choice has seen. Units
are kept when they end, in data/work; a process takes those that no other is at.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import sartutorial as st
from experiments import shared
from experiments.reference_weights import confusions, fine_tuned, laptop, patches, segmenter
from experiments.table1 import FRESH, world  # and with it the head "detail"
from sartutorial import profiles
from sartutorial.learn import baselines, checkpoints, datasets, evaluation
from sartutorial.learn.encoders import Encoder
from sartutorial.learn.segmentation import Decoder

RESULT = Path(__file__).parents[1] / "book" / "results" / "search.json"
PRETRAINED, SCRATCH, UNET = STARTS = ("pretrained (reference)", "scratch", "U-Net, scratch")
TRIALS, STEPS, LONG, SEEDS = 16, 600, 3600, (1, 2, 3)
LOSSES = ("cross-entropy", "cross-entropy-dice")
CHOICES: dict[str, tuple[Any, ...]] = {
    "lr": (1e-3, 2e-3, 3e-3, 5e-3),
    "ld": (0.8, 0.9, 1.0),
    "drop_path": (0.0, 0.1, 0.2),
    "head": ("grown", "detail", "skips", "skips"),
    "width": (32, 64),
    "loss": LOSSES,
    "cw": (0.0, 0.5),
    "batch": (8, 16),
    "warm": (0.1, 0.25),
}
OF_UNET = {k: CHOICES[k] for k in ("loss", "cw", "batch", "warm")} | {
    "lr": (1e-3, 2e-3, 5e-3, 8e-3),
    "width": (16, 24, 32),
}
GIVEN = {"lr": 3e-3, "ld": 0.9, "drop_path": 0.1, "head": "detail", "width": 32,
         "loss": LOSSES[1], "cw": 0.0, "batch": 8, "warm": 0.25}  # fmt: skip
OF_UNET_GIVEN = {
    "lr": 5e-3,
    "width": 16,
    "loss": LOSSES[1],
    "cw": 0.5,
    "batch": 16,
    "warm": 0.25,
}
NAMES = {
    "lr": "peak learning rate",
    "ld": "layer decay (pretrained only)",
    "head": "grown: the published one; detail: the image joins at 1/2; skips: beside the two finest "
    "scales of a U-Net",
    "cw": "exponent of a class's rarity in the cross-entropy",
    "warm": "share of the run that warms up",
}


def drawn(start: str, seed: int = 0) -> list[dict[str, Any]]:
    """Settings of every trial."""
    space, given = (OF_UNET, OF_UNET_GIVEN) if start == UNET else (CHOICES, GIVEN)
    rng = np.random.default_rng(seed)
    return [
        given,
        *({k: v[rng.integers(len(v))] for k, v in space.items()} for _ in range(TRIALS - 1)),
    ]


def network(start: str, s: dict[str, Any]) -> nn.Module:
    """An untrained model of these settings."""
    if start == UNET:
        return baselines.UNet(9, s["width"])
    given = st.load_encoder("reference").model
    if start == SCRATCH:
        given = Encoder(given.config)
    decoder = Decoder(s["width"], 9, dropout=0.0, merged_taps=False, head=s["head"])
    return segmenter(given, s, decoder)


def recipe(start: str, s: dict[str, Any], steps: int) -> dict[str, Any]:
    """Settings as ``fine_tuned`` takes them."""
    return {"steps": steps, "batch": s["batch"], "rate": s["lr"], "warmup": s["warm"], "loss": s["loss"],
            "layer_decay": s["ld"] if start == PRETRAINED else 1.0, "class_weight": s["cw"]}  # fmt: skip


@cache
def fresh() -> tuple[Tensor, Tensor]:
    """Decibels and classes of the labelled patches of a world that no choice has seen."""
    folder = world(f"fresh {FRESH}").folder
    parts = [patches(folder, split) for split in ("train", "val", "test")]
    db, classes = (torch.cat(x) for x in zip(*parts, strict=True))
    return db, classes


def made(about: dict[str, Any], device: str) -> dict[str, Any]:
    """Train as a unit says, and score."""
    start, s, begin = about["start"], about["settings"], time.monotonic()
    norm = datasets.Normalization(**st.load_encoder("reference").description["normalization"])
    torch.manual_seed(about["seed"])
    model = fine_tuned(network(start, s), recipe(start, s, about["steps"]), norm, device)
    took = time.monotonic() - begin
    if about["stage"] == "final" and start == PRETRAINED:  # any of these may become the reference
        state = model.half().state_dict().items()
        kept = {k: v.cpu().contiguous() for k, v in state}
        model.float()
        save_file(kept, file_of(about).with_suffix(".safetensors"))
    sets = {"validation": laptop("val")}
    if about["stage"] == "final":
        sets |= {"test": laptop("test"), "fresh world": fresh()}
    found = {k: confusions(model, norm, *pair).sum(0).numpy() for k, pair in sets.items()}
    scores = {k: evaluation.scores(m, st.HR_LULC.names) for k, m in found.items()}
    told = {"seconds": round(took, 1), "miou": {k: v["miou"] for k, v in scores.items()}}
    told["device"] = torch.cuda.get_device_name() if device != "cpu" else "CPU"
    return told | {"iou": {k: list(v["per_class_iou"].values()) for k, v in scores.items()}}


def file_of(about: dict[str, Any]) -> Path:
    """Where a unit is kept."""
    last = about["trial"] if about["stage"] == "search" else f"seed{about['seed']}"
    name = f"{about['stage']}-{about['start'].split()[0].strip(',').lower()}-{last}"
    return profiles.data_dir() / "reference_search" / f"{name}.json"


def trials(start: str) -> list[dict[str, Any]]:
    """What the units of a start's search are."""
    return [{"stage": "search", "trial": i, "start": start, "steps": STEPS, "seed": 0, "settings": s}
            for i, s in enumerate(drawn(start))]  # fmt: skip


def final(start: str, seed: int) -> dict[str, Any]:
    """What the unit of the best trial's long run is, once all trials are there."""
    about = {"stage": "final", "start": start, "steps": LONG, "seed": seed}
    if all(file_of(t).exists() for t in trials(start)):
        found = [json.loads(file_of(t).read_text(encoding="utf-8")) for t in trials(start)]
        best = max(found, key=lambda r: r["miou"]["validation"])
        about |= {"trial": best["trial"], "settings": best["settings"]}
    return about


def write(units: list[dict[str, Any]]) -> None:
    """All units that are there, as one file."""
    runs = [json.loads(f.read_text(encoding="utf-8")) for u in units if (f := file_of(u)).exists()]
    result = {
        "what": "random search of the reference model's recipe on simulated land: equal numbers of trials "
        "and steps for every start; chosen on validation alone, test and fresh world of final runs only",
        "budget": f"{TRIALS} trials a start of {STEPS:,} steps, then the best of each for {LONG:,} steps "
        f"with {len(SEEDS)} seeds",
        "names": NAMES,
        "data": f"simulated laptop world (seed 0), blocked split with buffer; fresh world: seed {FRESH}, "
        "its labelled patches",
        "limits": "one seed a trial; settings are confounded in so few trials; equal steps are not "
        "equal time, nor, where batches differ, equal numbers of images",
        "script": "python -m experiments.reference_search",
        "device": " and ".join(sorted({r["device"] for r in runs})),
        "date": time.strftime("%Y-%m-%d"),
        "provenance": checkpoints.provenance(),
        "runs": runs,
    }
    checkpoints.write_json(result, RESULT)


def main() -> None:
    """Search, freeze, train long, write."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = options.parse_args().device

    def run(about: dict[str, Any]) -> None:
        if about["stage"] == "final":
            about = final(about["start"], about["seed"])
        found = baselines.unit(file_of(about), about, lambda: made(about, device))
        print(file_of(about).stem, found["miou"], found["seconds"], flush=True)

    units = [trials(start)[i] for i in range(TRIALS) for start in STARTS]
    units += [final(start, seed) for seed in SEEDS for start in STARTS]

    def ready(about: dict[str, Any]) -> bool:
        return about["stage"] == "search" or all(
            file_of(t).exists() for t in trials(about["start"])
        )

    shared.work(units, file_of, ready, run, profiles.data_dir() / "locks")
    write(units)


if __name__ == "__main__":
    main()
