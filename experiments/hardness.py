"""Is the simulated world worth a network? A random forest against a small U-Net, for chapter 08.

    python -m experiments.hardness

Same world, same blocked split with its buffer; test scores with intervals from resampled blocks.
About a quarter of an hour on two cores.
"""

from __future__ import annotations

import json
from pathlib import Path

import sartutorial as st
from sartutorial import profiles, tutorial
from sartutorial.learn import baselines, datasets

RESULT = Path(__file__).parents[1] / "book" / "results" / "hardness.json"
EPOCHS, SEED = 12, 0
NAMES = {"network": "u-net", "forest": "forest", "forest, balanced": "balanced forest"}


def main() -> None:
    """Train, score, write."""
    folder, out = tutorial.sampled(), profiles.data_dir() / "models" / "baselines"
    found = st.baselines(
        folder, out, which=list(NAMES.values()), epochs=EPOCHS, seed=SEED, progress=True
    )
    first = found["u-net"]
    result = {
        "what": "test scores on the simulated laptop world, blocked split with buffer",
        "patches": {s: len(datasets.selected(folder, "finetune", s)) for s in ("train", "test")},
        "blocks": len(first["blocks"]),
        "script": "python -m experiments.hardness",
        "provenance": first["provenance"],
    }
    kept = ("miou", "miou_95", "accuracy", "per_class_iou", "per_class_iou_95", "ece", "seed")
    for name, called in NAMES.items():
        scores = found[called]
        result[name] = {k: scores[k] for k in kept} | {"majority": scores["majority"]["miou"]}
        print(name, scores, sep="\n")
    parameters = sum(p.numel() for p in baselines.UNet(len(first["classes"])).parameters())
    result["network"] |= {"name": "U-Net", "epochs": EPOCHS, "parameters": parameters}
    result["forest"] |= {
        "trees": baselines.TREES,
        "features": "mean and variance of dB in 7 x 7 pixels",
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
