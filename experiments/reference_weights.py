"""The book's own weights: an encoder pretrained on nine simulated worlds, a model fine-tuned from it.

    python -m experiments.reference_weights [--device cuda] [--calibrate]    -> book/weights/

Three stages, each kept in data/work/reference and taken up where it was stopped: the worlds, as arrays
of patches; the encoder, SAR-W-SimMIM with mask cells of 32 px; the model, fine-tuned on the laptop
world's labelled training patches alone. No stage sees a validation or test patch of the laptop world.
What is ours here and not the paper's: the cells, the cosine schedule, the decoder's head and the loss;
experiments/reference_search.py searched for them. On a GPU a step is captured once as a CUDA graph and
replayed; without one the same steps take about a day. Sums are not associative: a second run differs
by rounding.
"""

from __future__ import annotations

import argparse
import datetime
import math
import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import rasterio
import timm
import torch
from torch import Tensor, nn
from tqdm import tqdm

import sartutorial as st
from experiments import model_cards
from sartutorial import files, splits, tutorial
from sartutorial.learn import checkpoints, datasets, evaluation, finetuning, training
from sartutorial.learn.encoders import Encoder, EncoderConfig
from sartutorial.learn.pretraining import CELL, SimMIM
from sartutorial.learn.segmentation import Decoder, Segmenter, rarity_weights
from sartutorial.profiles import LAPTOP, data_dir
from sartutorial.radiometry import lookup_table

WEIGHTS = Path(__file__).parents[1] / "book" / "weights"
WORLDS, FRESH = range(101, 109), 778  # seeds; the laptop world itself has 0
SIZE, KEEP = 128, 500  # px; steps between two saved states
CONFIG = EncoderConfig(SIZE, LAPTOP.embed_dim, LAPTOP.depths, LAPTOP.num_heads, 8)
DECODER = Decoder(64, 9, dropout=0.0, merged_taps=False, head="skips")
PRETRAIN = dict(steps=5940, batch=256, rate=1.5e-3, warmup=0.05, cells=32, ratio=0.6, seed=0)
FINETUNE = dict(steps=3600, batch=16, rate=5e-3, warmup=0.25, layer_decay=1.0, drop_path=0.1,
                loss="cross-entropy-dice", class_weight=0.5, seed=2)  # fmt: skip


def world(seed: int, out: Path) -> Path:
    """The patches of a simulated world, cut from halved scenes and their labels, as one file."""
    with files.made(out / f"world{seed}.npz", [], {"seed": seed, "size": SIZE}) as new:
        if new is None:
            return out / f"world{seed}.npz"
        here = out / f"world{seed}"
        st.simulate(here, seed=seed, progress=True)
        halves = st.downsample(here / "scenes", here / "half")
        labels = st.label(here / "half", here / "lulc", here / "labels")
        sar, ids = [], []
        for pair in zip(halves, labels, strict=True):
            dn, classes = (rasterio.open(path).read(1) for path in pair)
            for cell in np.ndindex(*(n // SIZE for n in dn.shape)):
                at = tuple(slice(i * SIZE, (i + 1) * SIZE) for i in cell)
                if (dn[at] > 0).all() and (classes[at] > 0).all():
                    sar.append(dn[at])
                    ids.append(classes[at])
        with new.open("wb") as file:
            np.savez(file, sar=np.stack(sar), ids=np.stack(ids))
    return out / f"world{seed}.npz"


@cache
def patches(folder: Path, split: str, step: str = "finetune") -> tuple[Tensor, Tensor]:
    """Decibels (N, 128, 128) and class indices of a folder's patches for a step and split."""
    rows = datasets.selected(folder, step, split)
    store, legend = st.Store(folder, rows), st.HR_LULC
    db = torch.from_numpy(np.stack([store.sar(i) for i in range(len(rows))]))
    ids = np.stack([store.label(i) for i in range(len(rows))])
    return db, torch.from_numpy(legend.to_index(ids).astype(np.int8))


def laptop(split: str, step: str = "finetune") -> tuple[Tensor, Tensor]:
    """Those of the laptop world."""
    return patches(tutorial.sampled(), split, step)


class Stepper:
    """One step of AdamW on fixed inputs, replayed as a CUDA graph where there is a GPU."""

    def __init__(
        self, model: nn.Module, loss: Callable[..., Tensor], inputs: list[Tensor], settings: Any
    ) -> None:
        self.model, self.loss, self.inputs = model, loss, inputs
        self.cuda, self.graph, self.done = inputs[0].is_cuda, None, 0
        groups = training.parameter_groups(model, settings)
        for group in groups:
            if self.cuda:  # a number would be frozen into the graph
                group["lr"] = torch.tensor(float(group["lr"]), device="cuda")
        self.adamw = torch.optim.AdamW(groups, fused=self.cuda, capturable=self.cuda)

    def step(self) -> Tensor:
        """Forward, backward, clip, step."""
        self.adamw.zero_grad(set_to_none=True)
        value = self.loss(*self.inputs)
        value.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), training.CLIP, foreach=True)
        self.adamw.step()
        return value.detach()

    def __call__(self, rate: float, *new: Tensor) -> Tensor:
        """A step at a learning rate on new inputs; the loss."""
        for group in self.adamw.param_groups:
            value = rate * group["lr_scale"]
            group["lr"].fill_(value) if self.cuda else group.update(lr=value)
        for old, fresh in zip(self.inputs, new, strict=True):
            old.copy_(fresh)
        self.done += 1
        if not self.cuda:
            return self.step()
        if self.done <= 3:  # warm up beside the stream that is captured
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                value = self.step()
            torch.cuda.current_stream().wait_stream(side)
            return value
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.value = self.step()
        self.graph.replay()
        return self.value


def rate_at(share: float, peak: float, warmup: float) -> float:
    """Linear warm-up, then a half cosine, over a run of which a share is done."""
    if share < warmup:
        return peak * (share / warmup + 1e-3)
    return peak * ((1 + math.cos(math.pi * (share - warmup) / (1 - warmup))) / 2 + 1e-3)


def flipped(*images: Tensor) -> list[Tensor]:
    """Each image of a batch flipped at random in both axes, the same for all of its kinds."""
    for axis in (-1, -2):
        chosen = torch.rand(len(images[0]), device=images[0].device) < 0.5
        images = tuple(
            torch.where(chosen.view(-1, *[1] * (x.ndim - 1)), x.flip(axis), x) for x in images
        )
    return list(images)


def hidden(batch: int, cells: int, ratio: float, device: str) -> Tensor:
    """Random masks (B, 8, 8) of SimMIM's cells that hide cells of ``cells`` px."""
    side, fine = SIZE // cells, cells // CELL
    order = torch.rand(batch, side * side, device=device).argsort(1)
    mask = torch.zeros(batch, side * side, device=device)
    mask.scatter_(1, order[:, : math.ceil(ratio * side * side)], 1.0)
    mask = mask.view(-1, side, side)
    return mask.repeat_interleave(fine, 1).repeat_interleave(fine, 2)


def run(
    stepper: Stepper, draw: Callable[[], list[Tensor]], how: dict[str, Any], state: Path | None
) -> list[float]:
    """Take ``how["steps"]`` steps on what ``draw`` gives; the loss at each state (kept in a file)."""
    start, losses = 0, []
    if state and state.exists():
        saved = torch.load(state, weights_only=True)
        stepper.model.load_state_dict(saved["model"])
        stepper.adamw.load_state_dict(saved["adamw"])
        start, losses = saved["step"], saved["losses"]
    steps, name = range(start, how["steps"]), state.stem if state else None
    for i in tqdm(steps, name, initial=start, total=how["steps"], disable=not state):
        value = stepper(rate_at(i / how["steps"], how["rate"], how["warmup"]), *draw())
        if (i + 1) % KEEP == 0 or i + 1 == how["steps"]:
            losses.append(float(value))
            if not state:
                continue
            now = {"model": stepper.model.state_dict(), "adamw": stepper.adamw.state_dict()}
            with files.atomic_write(state) as partial:
                torch.save(now | {"step": i + 1, "losses": losses}, partial)
    return losses


def encoder(pool: Tensor, norm: datasets.Normalization, out: Path, device: str) -> SimMIM:
    """SAR-W-SimMIM, pretrained on all patches of ``pool`` (N, 128, 128) dB."""
    torch.manual_seed(PRETRAIN["seed"])
    model, how = SimMIM(Encoder(CONFIG)).to(device).train(), PRETRAIN

    def loss(image: Tensor, mask: Tensor) -> Tensor:
        value: Tensor = model(image, mask, st.intensity_weight(image))[0]
        return value

    def draw() -> list[Tensor]:
        chosen = torch.randint(len(pool), (how["batch"],)).to(pool.device)
        image = ((pool[chosen].float() - norm.mean) / norm.std)[:, None].to(device)
        return [*flipped(image), hidden(how["batch"], how["cells"], how["ratio"], device)]

    settings = training.Settings(1, 0, how["batch"], how["rate"], "cosine")
    run(Stepper(model, loss, draw(), settings), draw, how, out / "encoder.ckpt")
    return model.eval()


def dense_loss(logits: Tensor, target: Tensor, weights: Tensor | None, *, dice: bool) -> Tensor:
    """The package's cross-entropy, with Dice or without, but without indexing, which no graph holds."""
    entropy = nn.functional.cross_entropy(logits, target, weights, ignore_index=-1)
    if not dice:
        return entropy
    known = (target >= 0)[:, None]
    p = logits.softmax(1) * known
    g = nn.functional.one_hot(target.clamp(min=0), logits.shape[1]).permute(0, 3, 1, 2) * known
    common, union = (f(p, g.to(p.dtype)).sum((0, 2, 3)) for f in (torch.minimum, torch.maximum))
    lost = 1 - (2 * common + 1e-6) / (common + union + 1e-6)
    there = (g.sum((0, 2, 3)) > 0).to(p.dtype)
    return entropy + (lost * there).sum() / there.sum().clamp(min=1)


def fine_tuned(
    model: nn.Module,
    how: dict[str, Any],
    norm: datasets.Normalization,
    device: str,
    state: Path | None = None,
) -> nn.Module:
    """The model trained on the laptop world's labelled training patches."""
    db, classes = (x.to(device) for x in laptop("train"))
    model.to(device).train()
    counts = torch.bincount(classes[classes >= 0].long(), minlength=9).cpu()
    exponent = how["class_weight"]
    weights = torch.tensor(rarity_weights(counts, exponent), device=device) if exponent else None

    def draw() -> list[Tensor]:
        chosen = torch.randint(len(db), (how["batch"],), device=device)
        return flipped(((db[chosen] - norm.mean) / norm.std)[:, None], classes[chosen].long())

    def loss(image: Tensor, label: Tensor) -> Tensor:
        return dense_loss(model(image), label, weights, dice=how["loss"] == "cross-entropy-dice")

    settings = training.Settings(1, 0, how["batch"], how["rate"], "cosine",
                                 layer_decay=how["layer_decay"])  # fmt: skip
    run(Stepper(model, loss, draw(), settings), draw, how, state)
    return model.eval()


def segmenter(start: Encoder, how: dict[str, Any], decoder: Decoder) -> Segmenter:
    """The encoder with an untrained decoder."""
    encoder = Encoder(CONFIG, drop_path_rate=how["drop_path"])
    encoder.load_state_dict(start.state_dict())
    return Segmenter(encoder, decoder)


@torch.inference_mode()
def confusions(
    model: nn.Module, norm: datasets.Normalization, db: Tensor, classes: Tensor
) -> Tensor:
    """The confusion matrix (rows truth) of every patch: (N, 9, 9)."""
    found, device = [], next(model.parameters()).device
    for x, y in zip(db.float().split(16), classes.long().split(16), strict=True):
        guess = model(((x - norm.mean) / norm.std)[:, None].to(device)).argmax(1).cpu()
        pairs = torch.where(y >= 0, 9 * y + guess, 81)
        found += [torch.bincount(p.ravel(), minlength=82)[:81].view(9, 9) for p in pairs]
    return torch.stack(found)


def scores_of(model: nn.Module, norm: datasets.Normalization) -> dict[str, Any]:
    """MIoU on the laptop world's test blocks, with 95 % of 1,000 draws of whole blocks."""
    rows = datasets.selected(tutorial.sampled(), "finetune", "test")
    each = confusions(model, norm, *laptop("test")).numpy()
    block, rng = splits.blocks(rows, 4), np.random.default_rng(0)
    sums = np.stack([each[block == b].sum(0) for b in np.unique(block)])
    whole = evaluation.scores(each.sum(0), st.HR_LULC.names)
    draws = [evaluation.scores(sums[rng.integers(len(sums), size=len(sums))].sum(0),
                               st.HR_LULC.names)["miou"] for _ in range(1000)]  # fmt: skip
    return {
        "on": "test blocks of the simulated laptop world (seed 0)",
        "patches": len(rows),
        "blocks": len(sums),
        "miou": whole["miou"],
        "miou_95": np.percentile(draws, [2.5, 97.5]).tolist(),
        "per_class_iou": whole["per_class_iou"],
    }


def fresh_scores(
    model: nn.Module, norm: datasets.Normalization, out: Path, table: Tensor
) -> dict[str, Any]:
    """MIoU on a world that no choice has seen."""
    with np.load(world(FRESH, out)) as found:
        db = table[found["sar"].astype(np.int64)]
        classes = torch.from_numpy(st.HR_LULC.to_index(found["ids"]).astype(np.int8))
    each = confusions(model, norm, db, classes)
    miou = evaluation.scores(each.sum(0).numpy(), st.HR_LULC.names)["miou"]
    note = "a simulated world that no choice has seen; whole patches without void"
    return {"seed": FRESH, "patches": len(db), "miou": miou, "note": note}


def provenance(device: str, began: dict[str, float]) -> dict[str, Any]:
    """How these files were made; minutes are those since ``began``, of the last sitting alone."""
    return {
        "command": "python -m experiments.reference_weights",
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device != "cpu" else platform.machine(),
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
        "minutes": {k: round((time.monotonic() - t) / 60, 1) for k, t in began.items()},
    }


def publish(
    model: nn.Module, kind: str, norm: datasets.Normalization, made: dict[str, Any]
) -> None:
    """Write weights in half precision, and what the package must know of them."""
    rows = datasets.selected(tutorial.sampled(), "finetune", "train")
    about = {
        "encoder": CONFIG._asdict(),
        "normalization": norm._asdict(),
        "training": PRETRAIN if kind == "encoder" else FINETUNE,
        "simulated": True,
        "licence": "MIT",
        "script": "python -m experiments.reference_weights",
    }
    about |= datasets.common(rows)
    if kind == "encoder":
        about |= {"method": "sar-w-simmim", "domain": "normalised"}
    else:
        about |= {"decoder": DECODER._asdict(), "legend": st.HR_LULC.to_dict()}
    file = WEIGHTS / f"{kind}.safetensors"
    checkpoints.save(model.half(), file, about)
    checkpoints.write_json(about | made, file.with_suffix(".json"))  # with where it was trained
    model.float()


def calibrate() -> None:
    """Note the model's temperature, and the calibration error on test blocks without and with it."""
    folder, file = tutorial.sampled(), WEIGHTS / "model.safetensors"
    finetuning.calibrate(file, folder)
    model, known = st.load_model(file)
    rows, norm = (
        datasets.selected(folder, "finetune", "test"),
        datasets.Normalization(**known["normalization"]),
    )
    error = {}
    for name, temperature in (("as trained", 1.0), ("calibrated", model.temperature)):
        model.temperature = temperature
        error[name] = evaluation.scored(model, folder, rows, norm, st.HR_LULC.names)["ece"]
    checkpoints.write_json(
        known | {"scores": known["scores"] | {"ece": error}}, file.with_suffix(".json")
    )
    model_cards.write()
    print(f"temperature {known['temperature']:.3f}, calibration error {error}")


def main() -> None:
    """Worlds, encoder, model; then the files and their scores."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--calibrate", action="store_true", help="the temperature alone, anew")
    if options.parse_args().calibrate:
        calibrate()
        return
    device = options.parse_args().device
    out, table = data_dir().parent / "reference", torch.from_numpy(lookup_table())
    pool = [laptop("train", "pretrain")[0]]
    for seed in WORLDS:
        pool.append(table[np.load(world(seed, out))["sar"].astype(np.int64)])
    pooled = torch.cat(pool)
    norm = datasets.Normalization(float(pooled.mean()), float(pooled.std()))
    began = time.monotonic()
    pretrained = encoder(pooled, norm, out, device)
    made = provenance(device, {"encoder": began})
    epochs = PRETRAIN["steps"] * PRETRAIN["batch"] / len(pooled)
    about = {"patches": len(pooled), "epochs": epochs, "provenance": made}
    publish(pretrained, "encoder", norm, about)
    began = time.monotonic()
    torch.manual_seed(FINETUNE["seed"])
    untrained = segmenter(pretrained.encoder, FINETUNE, DECODER)
    tuned = cast(Segmenter, fine_tuned(untrained, FINETUNE, norm, device, out / "model.ckpt"))
    made = provenance(device, {"model": began})
    scores = scores_of(tuned.cpu(), norm)
    about = {
        "pretrained": ["sar-w-simmim", checkpoints.fingerprint(WEIGHTS / "encoder.safetensors")],
        "training_patches": len(datasets.selected(tutorial.sampled(), "finetune", "train")),
        "scores": scores,
        "fresh_world": fresh_scores(tuned, norm, out, table),
        "provenance": made,
    }
    publish(tuned, "model", norm, about)
    calibrate()
    print(scores["miou"], scores["miou_95"])


if __name__ == "__main__":
    main()
