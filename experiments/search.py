"""Which recipe is worth the minutes of chapter 07? A random search of fine-tuning on a CPU.

    python -m experiments.search [--trials 6] [--seconds 40] [--final 175] [--seeds 3]

Every trial has the same time of one thread, not the same steps: what a step costs is part of a recipe.
The pretrained encoder and the random one get the same draws of settings, the U-Net as many of its own.
Settings are chosen on validation blocks alone. Then the best of each start, of those on whole patches
as ``st.finetune`` trains, is frozen and trained with several seeds for the minutes that the chapter has
(the encoders by ``st.finetune`` itself), and scored on test blocks, beside the forest. Each unit is kept
when it ends, so a run goes on where it stopped. "looks" in the result came before, by hand.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

import sartutorial as st
from experiments.reference_weights import SIZE, flipped, laptop
from sartutorial import profiles, tutorial
from sartutorial.learn import baselines, checkpoints, datasets, evaluation, segmentation, training
from sartutorial.learn.encoders import Encoder
from sartutorial.learn.segmentation import (
    Decoder,
    Segmenter,
    block,
    rarity_weights,
    resized,
    segmentation_loss,
)

RESULT = Path(__file__).parents[1] / "book" / "results" / "live.json"
PRETRAINED, SCRATCH, UNET = STARTS = ("pretrained (reference)", "scratch", "U-Net, scratch")
FOREST = "random forest"
CHOICES: dict[str, tuple[Any, ...]] = {
    "lr": (1e-3, 2e-3, 3e-3, 5e-3, 8e-3),
    "ld": (0.8, 0.9, 1.0),
    "dropout": (0.0, 0.1),
    "drop_path": (0.0, 0.1),
    "merged": (False, True),
    "head": ("quarter", "quarter", "quarter", "grown"),
    "width": (32, 64),
    "loss": ("cross-entropy", "cross-entropy", "cross-entropy-dice", "dice-focal"),
    "cw": (0.0, 0.5),
    "batch": (2, 4, 8),
    "crop": (SIZE,),
    "warm": (0.05, 0.1, 0.25),
}
OF_UNET = {k: CHOICES[k] for k in ("lr", "loss", "cw", "crop", "warm")} | {
    "width": (8, 16, 24),
    "batch": (4, 8, 16),
}
# Where every search starts: what looks by hand found, and of the U-Net the best of search.json. The
# second trial asks of each what crops would change.
GIVEN = {
    "lr": 3e-3, "ld": 0.9, "dropout": 0.0, "drop_path": 0.0, "merged": False, "head": "quarter",
    "width": 64, "loss": "cross-entropy", "cw": 0.5, "batch": 4, "crop": SIZE, "warm": 0.1,
}  # fmt: skip
OF_UNET_GIVEN = {
    "lr": 5e-3, "loss": "cross-entropy-dice", "cw": 0.5, "crop": SIZE, "warm": 0.3,
    "width": 16, "batch": 16,
}  # fmt: skip
# What each departure from the published model is worth: the pretrained's best, taken back one by one.
CHANGES: tuple[dict[str, Any], ...] = (
    {"head": "grown"},
    {"loss": "dice-focal", "cw": 0.0},
    {"merged": True},
    {"head": "detail"},
)
NAMES = {
    "lr": "peak learning rate of AdamW",
    "ld": "layer decay (of the pretrained encoder only)",
    "merged": "taps after patch merging, as the authors' code, or before it",
    "head": "grown: the published one; quarter: classes at 1/4, resized; detail: with the image",
    "loss": "dice-focal: the paper's",
    "cw": "exponent of a class's rarity in the cross-entropy",
    "crop": "pixels; four crops of 64 px, of four patches, make one image",
    "warm": "share of the run that warms up",
}


class Source:
    """Training patches in memory, drawn whole or as crops, flipped at random."""

    def __init__(
        self, norm: datasets.Normalization, seed: int, pair: tuple[Tensor, Tensor] | None = None
    ) -> None:
        db, self.classes = pair or laptop("train")
        self.images = (db - norm.mean) / norm.std
        self.rng = np.random.default_rng([seed, 2])
        self.order = self.forever()

    def forever(self) -> Iterator[int]:
        """Indices of patches, every one once before any again."""
        while True:
            yield from self.rng.permutation(len(self.images)).tolist()

    def draw(self, batch: int, crop: int) -> dict[str, Tensor]:
        """A batch of images (B, 1, 128, 128) and labels, of as many pixels whatever the crop."""
        side = self.images.shape[-1] // crop
        rows = []
        for _ in range(batch * side):
            parts = []
            for _ in range(side):
                i, (y, x) = next(self.order), self.rng.integers(SIZE - crop + 1, size=2)
                cut = (slice(y, y + crop), slice(x, x + crop))
                pair = self.images[i][cut][None], self.classes[i][cut].long()[None]
                parts.append(flipped(*pair))
            rows.append([torch.cat(p, -1) for p in zip(*parts, strict=True)])
        images, labels = (
            torch.cat(r, 1).view(-1, batch, SIZE, SIZE)[0] for r in zip(*rows, strict=True)
        )
        return {"image": images[:, None], "label": labels}


class DetailHead(nn.Module):
    """From 1/4 of the image to its classes, with detail from the image itself: tried, and not taken.

    A token spans 4 x 4 pixels, so edges and small fields are lost to the encoder: the image joins at
    half resolution, where convolutions cost a quarter, and classes come for 2 x 2 pixels at a time.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        half = width // 2
        self.coarse = block(width, width, 3)
        self.detail = nn.Sequential(
            nn.PixelUnshuffle(2), block(4, half, 3), nn.Conv2d(half, width, 3, padding=1)
        )
        self.fine = block(width, width, 3)
        self.classify = nn.Sequential(nn.Conv2d(width, 4 * classes, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """``x`` (B, width, H/4, W/4) and the image (B, 1, H, W) to logits (B, K, H, W)."""
        x = resized(self.coarse(x), image.shape[-1] // 2) + self.detail(image)
        logits: Tensor = self.classify(self.fine(x))
        return logits


segmentation.SEEING["detail"] = DetailHead


def network(start: str, s: dict[str, Any], given: Encoder | None = None) -> nn.Module:
    """An untrained model of these settings; the encoder is as ``given``, or may be the reference."""
    if start == UNET:
        return baselines.UNet(9, s["width"])
    given = given or st.load_encoder("reference").model
    encoder = Encoder(given.config, drop_path_rate=s["drop_path"])
    if start != SCRATCH:
        encoder.load_state_dict(given.state_dict())
    return Segmenter(encoder, Decoder(s["width"], 9, s["dropout"], s["merged"], s["head"]))


def class_weights(exponent: float) -> tuple[float, ...] | None:
    """Of the training patches' pixels, as ``finetune`` has them."""
    rows = datasets.selected(tutorial.sampled(), "finetune", "train")
    counts = torch.from_numpy(datasets.class_counts(rows, st.HR_LULC).sum(0))
    return rarity_weights(counts, exponent) if exponent else None


def train(
    start: str, s: dict[str, Any], seed: int, seconds: float, steps: int | None = None
) -> tuple[nn.Module, int, float]:
    """A model, the steps it took and their seconds of one thread."""
    torch.manual_seed(seed)
    model, source = network(start, s).train(), Source(norm(), seed)
    told = schedule(s, decays=start == PRETRAINED)
    loss = partial(segmentation_loss, loss=s["loss"], weights=class_weights(s["cw"]))
    return fitted(model, lambda: source.draw(s["batch"], s["crop"]), loss, told, seconds, steps)


def schedule(s: dict[str, Any], *, decays: bool) -> training.Settings:
    """AdamW's, over a run of length 1; a random encoder has no layer decay."""
    decay = s["ld"] if decays else 1.0
    return training.Settings(1, s["warm"], s["batch"], s["lr"], "cosine", layer_decay=decay)


def fitted(
    model: nn.Module,
    draw: Callable[[], dict[str, Tensor]],
    loss: Callable[..., Tensor],
    told: training.Settings,
    seconds: float,
    steps: int | None = None,
    most: int | None = None,
) -> tuple[nn.Module, int, float]:
    """The model trained on what ``draw`` gives, the steps it took and their seconds of one thread.

    Steps that are not given are those that fit, at the pace of the fastest of the first twenty: what
    else the machine does then changes little. ``most`` ends it early; the steps are still those that fit.
    """
    adamw = torch.optim.AdamW(training.parameter_groups(model, told), told.learning_rate,
                              told.betas, fused=True)  # fmt: skip
    pace, done, begin = [], 0, time.process_time()
    while steps is None or done < min(steps, most or steps):
        now = time.process_time()
        for group in adamw.param_groups:
            at = done / (steps or 1000)
            rate = told.learning_rate * group["lr_scale"]
            group["lr"] = rate * training.lr_factor(at, told)
        loss(model, draw()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.CLIP)
        adamw.step()
        adamw.zero_grad()
        pace.append(time.process_time() - now)
        done += 1
        if steps is None and done == 20:
            steps = max(int(seconds / min(pace[1:])), 20)
    return model.eval(), cast(int, steps), time.process_time() - begin


def norm() -> datasets.Normalization:
    """Of the reference encoder, for every start."""
    return datasets.Normalization(**st.load_encoder("reference").description["normalization"])


def scored(model: nn.Module, split: Literal["val", "test"]) -> evaluation.Scores:
    """As ``st.evaluate`` scores a file, with the confusion matrix of every block."""
    rows = datasets.selected(tutorial.sampled(), "finetune", split)
    with torch.inference_mode():
        return evaluation.scored(model, tutorial.sampled(), rows, norm(), st.HR_LULC.names)


def trial(start: str, s: dict[str, Any], seed: int, seconds: float) -> dict[str, Any]:
    """A trial of the search: validation blocks only."""
    model, steps, took = train(start, s, seed, seconds)
    found = scored(model, "val")
    told = {"steps": steps, "seconds": round(took, 1), "miou": {"validation": found["miou"]}}
    return told | {"validation_iou": list(found["per_class_iou"].values())}


def final(start: str, s: dict[str, Any], seed: int, steps: int) -> dict[str, Any]:
    """A frozen recipe for the chapter's minutes: validation and test blocks."""
    epoch, begin = len(laptop("train")[0]) // s["batch"], time.process_time()
    if start == UNET:
        model, _, _ = train(start, s, seed, 0, steps)
        took = time.process_time() - begin
        val, test = (scored(model, split) for split in ("val", "test"))
    else:  # as a reader does it, in whole epochs
        name = f"live-{short(start)}"
        profiles.PROFILES[name] = as_profile(name, s, epochs := max(steps // epoch, 1))
        out = profiles.data_dir() / "search" / f"{name}-{seed}"
        encoder, steps = "reference" if start == PRETRAINED else None, epochs * epoch
        there = (
            out / "model.safetensors"
        ).exists()  # from a run that was cut off: its time is lost
        file = st.finetune(tutorial.sampled(), out, encoder=encoder, seed=seed, profile=name)
        took: float | None = time.process_time() - begin
        val, test = (st.evaluate(tutorial.sampled(), file, split=k) for k in ("val", "test"))
        took = None if there else took
    return {"steps": steps, "seconds": took and round(took, 1)} | both(val, test)


def forest() -> dict[str, Any]:
    """The random forest of chapter 08."""
    begin, out = time.process_time(), profiles.data_dir() / "search" / "forest"
    val, test = (
        st.baselines(tutorial.sampled(), out / k, which=["forest"], split=k)["forest"]
        for k in ("val", "test")
    )
    return {"steps": None, "seconds": round(time.process_time() - begin, 1)} | both(val, test)


def both(val: evaluation.Scores, test: evaluation.Scores) -> dict[str, Any]:
    """What is kept of scores on validation and test blocks."""
    return {
        "miou": {"validation": val["miou"], "test": test["miou"]},
        "validation_iou": list(val["per_class_iou"].values()),
        "test_iou": list(test["per_class_iou"].values()),
        "test_scores": {k: test[k] for k in ("classes", "blocks", "ece", "miou_95")},
    }


def as_profile(name: str, s: dict[str, Any], epochs: int) -> profiles.Profile:
    """The laptop's profile with these settings."""
    return replace(
        profiles.LAPTOP,
        name=name,
        decoder_width=s["width"],
        finetune_epochs=epochs,
        finetune_warmup=round(s["warm"] * epochs, 6),
        finetune_batch=s["batch"],
        finetune_base_lr=s["lr"] * 512 / s["batch"],
        dropout=s["dropout"],
        drop_path=s["drop_path"],
        merged_taps=s["merged"],
        head=s["head"],
        layer_decay=s["ld"],
        loss=s["loss"],
        class_weight=s["cw"],
    )


def unit(name: str, make: Any, about: dict[str, Any]) -> dict[str, Any]:
    """A unit of work, kept as a file of its own as soon as it is there."""
    file = profiles.data_dir() / "search" / f"{name}.json"
    if file.exists():
        found = cast(dict[str, Any], json.loads(file.read_text(encoding="utf-8")))
        if all(found.get(k) == v for k, v in json.loads(json.dumps(about)).items()):
            return found
    file.parent.mkdir(parents=True, exist_ok=True)
    found = about | make()
    checkpoints.write_json(found, file)
    print(f"{name}: {json.dumps(found['miou'])} in {found['steps']} steps", flush=True)
    return found


def drawn(start: str, seed: int, trials: int) -> list[dict[str, Any]]:
    """Settings of every trial; more trials begin with the same ones."""
    space, given = (OF_UNET, OF_UNET_GIVEN) if start == UNET else (CHOICES, GIVEN)
    rng = np.random.default_rng(seed)
    more = [{k: v[rng.integers(len(v))] for k, v in space.items()} for _ in range(trials)]
    return [given, given | {"crop": 64}, *more][:trials]


def summary(finals: list[dict[str, Any]]) -> dict[str, Any]:
    """Test scores by start over blocks and seeds, and the lead of the first, paired by both."""
    by = {k: [r["test_scores"] | {"seed": r["seed"]} for r in finals if r["start"] == k]
          for k in (*STARTS, FOREST)}  # fmt: skip
    kept = ("miou", "miou_95", "per_class_iou", "per_class_iou_95", "accuracy", "ece", "seeds")
    pools = {k: evaluation.pooled(v) for k, v in by.items()}
    by[FOREST] *= len(by[PRETRAINED])  # the same for every seed
    return {
        "scores": {k: {n: v[n] for n in kept} for k, v in pools.items()},
        "lead of the pretrained over": {
            k: evaluation.difference(by[PRETRAINED], v) for k, v in by.items() if k != PRETRAINED
        },
        "blocks": len(by[FOREST][0]["blocks"]),
    }


def main() -> None:
    """Search, freeze, train with several seeds, write."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--trials", type=int, default=6, help="of every start")
    options.add_argument("--seconds", type=float, default=40, help="of a trial, of one thread")
    options.add_argument("--final", type=float, default=175, help="seconds of a frozen recipe")
    options.add_argument("--seeds", type=int, default=3, help="of the frozen recipes")
    options.add_argument("--seed", type=int, default=0, help="of the draws")
    o = options.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    runs, finals = [], []
    for i in range(o.trials):
        for start in STARTS:
            s = drawn(start, o.seed, o.trials)[i]
            about = {"stage": "search", "trial": i, "start": start, "budget_s": o.seconds}
            about |= {"seed": o.seed, "settings": s}
            make = partial(trial, start, s, o.seed, o.seconds)
            runs.append(unit(f"{short(start)}-{i}", make, about))
    for seed in range(o.seeds):
        for start in STARTS:
            mine = [r for r in runs if r["start"] == start and r["settings"]["crop"] == SIZE]
            best = max(mine, key=lambda r: r["miou"]["validation"])
            steps = int(o.final * best["steps"] / best["seconds"])
            about = {"stage": "final", "trial": best["trial"], "start": start, "budget_s": o.final}
            about |= {"seed": seed, "settings": best["settings"]}
            make = partial(final, start, best["settings"], seed, steps)
            finals.append(unit(f"final-{short(start)}-{seed}", make, about))
            write(runs, finals, o)
    about = {"stage": "final", "trial": None, "start": FOREST, "budget_s": None}
    finals.append(unit("final-forest", forest, about | {"seed": 0, "settings": {}}))
    for i, change in enumerate(CHANGES):
        s = finals[0]["settings"] | change
        about = {"stage": "change", "trial": i, "start": PRETRAINED, "budget_s": o.seconds}
        about |= {"seed": o.seed, "settings": s, "changed": change}
        make = partial(trial, PRETRAINED, s, o.seed, o.seconds)
        runs.append(unit(f"change-{i}", make, about))
        write(runs, finals, o)


def short(start: str) -> str:
    """A start's name in a file's."""
    return start.split()[0].strip(",").lower()


def write(runs: list[dict[str, Any]], finals: list[dict[str, Any]], o: argparse.Namespace) -> None:
    """All units as one file."""
    before = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    cpu = platform.processor() or platform.machine()
    result = {
        "what": "random search of the recipe of chapter 07's live run: equal seconds of one thread",
        "budget": f"{o.trials} trials a start of {o.seconds:g} s; then the best of each by "
        f"validation, {o.seeds} seeds of about {o.final:g} s at its trial's pace (encoders in whole "
        "epochs and with their validation; each run says the seconds it took)",
        "names": NAMES,
        "data": "simulated laptop world (seed 0), blocked split with buffer",
        "limits": "few trials, one seed each; settings of the first were found by looks (see looks) at "
        "the pretrained encoder alone, so scratch and U-Net had less; short trials favour what learns "
        "fast; three seeds are few; intervals know the blocks of one world; the machine was shared, so "
        "seconds of a thread bought fewer steps than on an idle one",
        "script": "python -m experiments.search",
        "provenance": checkpoints.provenance() | {"threads": 1, "processor": cpu},
    }
    if len(finals) > len(STARTS) * o.seeds:
        result |= summary(finals)
    kept = [{k: v for k, v in r.items() if k != "test_scores"} for r in runs + finals]
    result |= {"looks": before.get("looks", []), "runs": kept}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
