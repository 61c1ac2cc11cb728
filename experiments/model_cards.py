"""Model cards of the book's weights, from the descriptions beside them.

    python -m experiments.model_cards     -> book/weights/{encoder,model}.md

`python -m experiments.reference_weights` writes them too, after new weights.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parents[1] / "book" / "weights"
TITLES = {"encoder": "The reference encoder", "model": "The reference model"}
USES = {
    "encoder": (
        'A Swin encoder for SAR patches, to be fine-tuned: `st.load_encoder("reference")`, '
        "`sartutorial finetune PATCHES --encoder reference --out DIR`."
    ),
    "model": (
        "The encoder with a UPerNet decoder, which maps nine land-cover classes: "
        '`st.load_model("reference")`, `sartutorial predict SCENE --model reference --out DIR`.'
    ),
}
LIMITS = (
    "**It has seen simulated land alone**: an island drawn by chance, with the simulator's own "
    "backscatter, texture and speckle. What it scores there says nothing of Japan, and a map of a "
    "real scene made with it is no product.",
    "It fits one kind of image: {polarisation} {quantity} at {spacing:.1f} m, of a single date. The "
    "package refuses others; a wrong calibration within that kind it cannot see.",
    "The simulated scenes have one incidence angle and no layover.",
)
SEEDS = {
    "encoder": "One run, one seed: how far another run would differ was not measured.",
    "model": "One of three runs, the best on validation patches; the interval resamples blocks of land, "
    "not trainings. From a random encoder, or as a plain U-Net, as many steps lead to almost the same "
    "score on this world ([chapter 8](../../notebooks/08_evaluation)).",
}


def card(kind: str) -> str:
    """The card of ``encoder`` or ``model``, in Markdown."""
    file = WEIGHTS / f"{kind}.safetensors"
    said = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    shape, how, made = said["encoder"], said["training"], said["provenance"]
    depths = "-".join(map(str, shape["depths"]))
    rows = {
        "file": f"`{file.name}`, {file.stat().st_size / 1e6:.1f} MB, half precision",
        "SHA-256": f"`{hashlib.sha256(file.read_bytes()).hexdigest()}`",
        "licence": f"{said['licence']}; made from simulated data alone",
        "encoder": f"Swin, {shape['embed_dim']} channels, depths {depths}, "
        f"windows of {shape['window_size']} tokens of 4 px, patches of {shape['image_size']} px",
        "input": f"{said['polarisation']} {said['quantity']} in dB at {said['spacing']:.1f} m, "
        f"minus {said['normalization']['mean']:.2f}, over {said['normalization']['std']:.2f}",
        "data": _data(kind, said),
        "recipe": ", ".join(
            f"{k} {v if isinstance(v, str) else format(v, 'g')}"
            for k, v in how.items()
            if k != "seed"
        ),
        "seed": how["seed"],
        "made by": f"`{made['command']}`, {made['device']}, {made['minutes'][kind]} minutes, "
        f"{made['date']}",
    }
    table = "\n".join(f"| {k} | {v} |" for k, v in rows.items())
    limits = [
        *(text.format(**said) for text in LIMITS),
        SEEDS[kind],
        *made.get("note", "").splitlines(),
    ]
    parts = [f"# {TITLES[kind]}", USES[kind], f"| | |\n|---|---|\n{table}", _scores(said)]
    parts += ["## Limits", "\n".join(f"- {text}" for text in limits)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _data(kind: str, said: dict[str, Any]) -> str:
    if kind == "encoder":
        return (
            f"{said['patches']:,} simulated patches, labelled or not, of nine worlds: the training "
            f"blocks of the laptop world and eight others; {said['epochs']:.0f} epochs of {said['method']}"
        )
    return (
        f"{said['training_patches']:,} labelled training patches of the simulated laptop world; no "
        "patch of its validation or test blocks, nor of the buffer between them"
    )


def _scores(said: dict[str, Any]) -> str:
    """Scores with their interval, where there are any."""
    if "scores" not in said:
        return ""
    scores, fresh = said["scores"], said["fresh_world"]
    low, high = scores["miou_95"]
    classes = "\n".join(f"| {k} | {v:.3f} |" for k, v in scores["per_class_iou"].items())
    said_of = (
        f"On {scores['patches']} patches in {scores['blocks']} {scores['on']}: mIoU "
        f"**{scores['miou']:.3f}**, in 95 % of draws of whole blocks from {low:.3f} to {high:.3f}. On "
        f"{fresh['patches']:,} patches of a world of another seed ({fresh['seed']}), which no choice "
        f"has seen: {fresh['miou']:.3f}. Its logits are divided by {said['temperature']:.2f}, the "
        "temperature that fits the validation blocks; the expected calibration error on the test blocks "
        f"is {scores['ece']['calibrated']:.3f} with it and {scores['ece']['as trained']:.3f} without."
    )
    return f"## Scores\n\n{said_of}\n\n| class | IoU |\n|---|---|\n{classes}"


def write() -> None:
    """Write both cards."""
    for kind in TITLES:
        (WEIGHTS / f"{kind}.md").write_text(card(kind), encoding="utf-8")


if __name__ == "__main__":
    write()
