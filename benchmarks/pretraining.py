"""Pretraining against Hugging Face's ``SwinForMaskedImageModeling``, in patches per second.

Step: our SimMIM, its intensity weight on, against theirs, which has none: the same Swin, batch, mask
cells, AdamW and precision. Before anything is timed, both get the same weights and must give the same
loss. Loop: what ``sartutorial pretrain`` runs, from epoch to epoch, against the plain loop in float32
that most people write around their model. Loader: patches from the folder that ``patches`` wrote,
flipped and normalised, against what our fastest step eats.
The sides take turns, and the best of their runs counts.

On a CPU: the laptop's encoder at 128 px, and a Swin-T at 256 px. On a GPU: Swin-B at 256 px under
autocast, as it is and compiled. The share of the machine's matrix peak, which a large product in this
very run measures, goes with every step.

    make bench NAME=pretraining
"""

import json
import math
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import _rasters as bench
import numpy as np
import rasterio
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sartutorial import patches
from sartutorial.learn import datasets, pretraining, training
from sartutorial.learn.encoders import PATCH, STRIDE, config_of
from sartutorial.profiles import PROFILES, Profile

try:
    import transformers
except ImportError:
    transformers = None

PEER = "Hugging Face SwinForMaskedImageModeling"
RUNS = 4
EPOCHS = 3  # of a run of the loop; the first warms up
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BF16 = training.precision() == "bf16-mixed"
TARGETS: dict[str, float] = {
    "cpu": {"step": 1.1, "loop": 1.5, "loader": 5.0},
    "cuda": {"step": 1.5, "loader": 5.0},
}[DEVICE]


class Case(NamedTuple):
    """A profile's encoder and patch size, with a batch and lengths that fit the machine."""

    profile: str
    model: str
    batch: int
    steps: int  # timed steps a run
    loop: int  # steps of an epoch of the loop


def cases() -> list[Case]:
    """What is measured on this device."""
    if DEVICE == "cpu":
        return [Case("laptop", "laptop profile", 16, 6, 12), Case("gpu", "Swin-T", 4, 2, 4)]
    large = torch.cuda.get_device_properties(0).total_memory > 60e9
    return [Case("japan", "Swin-B", 128 if large else 16, 10, 20)]


def pair(profile: Profile) -> tuple[pretraining.SimMIM, nn.Module]:
    """Our model and theirs, alike down to the weights."""
    torch.manual_seed(0)
    config = config_of(profile, profile.patch_size, "simmim")
    ours = pretraining.build("sar-w-simmim", config, profile)
    peer = transformers.SwinForMaskedImageModeling(
        transformers.SwinConfig(
            image_size=profile.patch_size, patch_size=PATCH, num_channels=1, encoder_stride=STRIDE,
            embed_dim=profile.embed_dim, depths=list(profile.depths), drop_path_rate=0.0,
            num_heads=list(profile.num_heads), window_size=profile.window_size,
            use_absolute_embeddings=True,
        )
    )  # fmt: skip
    # Where a grid is smaller than the window, both make the window smaller, but their table of
    # relative positions keeps its size, and their model fails: it gets the table that fits.
    for i, stage in enumerate(peer.swin.encoder.layers):
        side = min(profile.window_size, profile.patch_size // (PATCH * 2**i))
        for block in stage.blocks:
            bias = type(block.attention.relative_position_bias)
            block.attention.relative_position_bias = bias(profile.num_heads[i], (side, side))
    peer.load_state_dict(dict(renamed(ours.state_dict())))
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, peer)]
    assert counts[0] == counts[1], f"{counts} parameters"
    return ours.to(DEVICE).train(), peer.to(DEVICE).train()


def renamed(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Our weights under their names: they have three projections where we have one, merge patches at
    the end of a stage and not at the start of the next, and register some names otherwise."""
    names = {
        "encoder.patch_embed.proj": "swin.embeddings.patch_embeddings.projection",
        "encoder.patch_embed": "swin.embeddings",
        "encoder.absolute_pos_embed": "swin.embeddings.position_embeddings",
        "mask_token": "swin.embeddings.mask_token",
        "encoder.norm": "swin.layernorm",
        "attn.proj": "attention.o_proj",
        "attn.relative": "attention.relative_position_bias.relative",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "encoder.layers": "swin.encoder.layers",
    }
    for key, value in state.items():
        key = re.sub(
            r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key
        )
        for old, new in names.items():
            key = key.replace(old, new)
        if "attn.qkv" in key:
            for name, third in zip("qkv", value.chunk(3), strict=True):
                yield key.replace("attn.qkv", f"attention.{name}_proj"), third
        else:
            yield key, value


def drawn(size: int, batch: int) -> tuple[Tensor, Tensor]:
    """Random mask cells as both take them: (B, H/16, W/16) float32, and (B, H/4 · W/4) bool."""
    side = size // pretraining.CELL
    hidden = math.ceil(side**2 * pretraining.MASK_RATIO["simmim"])
    ranks = torch.rand(batch, side**2).argsort(1).argsort(1)
    cells = (ranks < hidden).view(batch, side, side)
    factor = pretraining.CELL // PATCH
    tokens = cells.repeat_interleave(factor, 1).repeat_interleave(factor, 2).flatten(1)
    return cells.float().to(DEVICE), tokens.to(DEVICE)


def stepper(model: nn.Module, loss: Callable[[], Tensor], precision: str) -> Callable[[], Tensor]:
    """One training step: the same for both sides but for the loss."""
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=1e-4, weight_decay=training.WEIGHT_DECAY, fused=True
    )

    def step() -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16"):
            value = loss()
        value.backward()
        optimiser.step()
        optimiser.zero_grad()
        return value.detach()

    return step


def now() -> float:
    """Seconds; what a GPU was asked to do is done."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def rate(step: Callable[[], Tensor], case: Case) -> float:
    """Patches per second over a run of steps, whose losses must be finite."""
    start = now()
    losses = [step() for _ in range(case.steps)]
    seconds = now() - start
    assert torch.isfinite(torch.stack(losses)).all(), "the loss is not finite"
    return case.batch * case.steps / seconds


def in_turns(sides: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Every side's runs, one after the other, so that a busy machine is shared."""
    runs: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(RUNS):
        for name, side in sides.items():
            runs[name].append(round(side(), 2))
    return runs


def peak(precision: str) -> float:
    """Multiply-adds of a large matrix product, as operations per second: the best of several."""
    n = 8192 if DEVICE == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(n, n, device=DEVICE, dtype=dtype) for _ in range(2))
    best = math.inf
    for _ in range(12):
        start = now()
        a @ b
        best = min(best, now() - start)
    return 2 * n**3 / best


def row(what: str, case: Case, ours: list[float], peer: list[float], **more: Any) -> dict[str, Any]:
    """One line of the result, and of the screen."""
    line = {
        "what": what, "model": case.model, "patch_px": PROFILES[case.profile].patch_size,
        "batch": case.batch, "ours": max(ours), "peer": max(peer), "unit": "patches/s",
        "ratio": round(max(ours) / max(peer), 2), "target": TARGETS.get(what), **more, "ours_runs": ours,
        "peer_runs": peer,
    }  # fmt: skip
    print(json.dumps(line), flush=True)
    return line


def steps(case: Case, precision: str) -> Iterator[dict[str, Any]]:
    """Our step against theirs; on a GPU also compiled."""
    profile = PROFILES[case.profile]
    ours, peer = pair(profile)
    image = torch.randn(case.batch, 1, profile.patch_size, profile.patch_size, device=DEVICE)
    cells, tokens = drawn(profile.patch_size, case.batch)
    with torch.no_grad():
        losses = ours(image, cells)[0], peer(image, tokens).loss
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)

    def our_loss() -> Tensor:
        return ours(image, cells, pretraining.intensity_weight(image))[0]

    def peer_loss() -> Tensor:
        return peer(image, tokens).loss

    sides = {
        "ours": stepper(ours, our_loss, precision),
        "peer": stepper(peer, peer_loss, precision),
    }
    if DEVICE == "cuda":
        sides["ours compiled"] = stepper(ours, torch.compile(our_loss), precision)
        sides["peer compiled"] = stepper(peer, torch.compile(peer_loss), precision)
    for step in sides.values():
        assert all(torch.isfinite(step()) for _ in range(2)), "the loss is not finite"
    with FlopCounterMode(display=False) as counter:
        sides["ours"]()
    runs = in_turns({name: lambda step=step: rate(step, case) for name, step in sides.items()})
    top = peak(precision)
    for one, other in (("ours", "peer"), ("ours compiled", "peer"),
                       ("ours compiled", "peer compiled")):  # fmt: skip
        if one in runs:
            done = max(runs[one]) * counter.get_total_flops() / case.batch
            yield row(
                "step", case, runs[one], runs[other], sides=f"{one} / {other}", precision=precision,
                peak_share=round(done / top, 3), peak_tflops=round(top / 1e12, 3),
            )  # fmt: skip


def cut(case: Case, at: Path) -> Path:
    """Patches of a simulated scene, as the package cuts them, enough for a run of the loop."""
    size, wanted = PROFILES[case.profile].patch_size, case.batch * case.loop
    scene = at / "scene" / "scene.tif"
    label = at / "label" / "scene.tif"
    for path in (scene, label):
        path.parent.mkdir(parents=True)
    bench.scene(str(scene), str(size * (math.isqrt(wanted) + 2)))
    with rasterio.open(scene) as sar:
        profile = sar.profile | dict(dtype="uint8")
        with rasterio.open(label, "w", **profile) as out:
            ids = np.arange(sar.width // 8, dtype=np.uint8) % 14 + 1
            out.write(np.broadcast_to(np.repeat(ids, 8), sar.shape), 1)
    patches.cut(scene, label.parent, at / "patches", size=size)
    index = patches.read_index(at / "patches")
    index["pretrain"] = np.arange(len(index)) < wanted
    assert index["pretrain"].sum() == wanted
    index["finetune"], index["split"] = False, "train"
    patches.write_index(index, at / "patches")
    return at / "patches"


def our_loop(case: Case, folder: Path) -> float:
    """Patches per second of ``pretrain`` from the end of its first epoch to that of its last."""
    PROFILES["timed"] = replace(PROFILES[case.profile], name="timed", pretrain_batch=case.batch)
    ticks: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        pretraining.pretrain(folder, out, epochs=EPOCHS, profile="timed",
                             on_epoch=lambda *_: ticks.append(now()))  # fmt: skip
    assert len(ticks) == EPOCHS
    return case.batch * case.loop * (EPOCHS - 1) / (ticks[-1] - ticks[0])


def peer_loop(case: Case, loader: Any, model: nn.Module) -> float:
    """The same of a plain loop around their model, in float32, fed by our loader."""
    batch: dict[str, Tensor] = {}

    def forward() -> Tensor:
        image = batch["image"].to(DEVICE)
        return model(image, drawn(image.shape[-1], len(image))[1]).loss

    step, ticks = stepper(model, forward, "fp32"), []
    for _ in range(EPOCHS):
        for fed in loader:
            batch.update(fed)
            loss = step()
        ticks.append(now())
    assert torch.isfinite(loss)
    return case.batch * case.loop * (EPOCHS - 1) / (ticks[-1] - ticks[0])


def reading(loader: Any) -> float:
    """Patches per second of the loader alone, from its first batch to its last, over and over."""
    list(loader)  # maps the arrays
    start, number = now(), 0
    while now() < start + 1:
        number += sum(len(batch["image"]) for batch in loader)
    return number / (now() - start)


def loops(case: Case, eaten: list[float], at: Path) -> Iterator[dict[str, Any]]:
    """Our loop against the common one, and our loader against ``eaten``, what our step can take."""
    folder = cut(case, at)
    data = datasets.Patches(folder, datasets.selected(folder, "pretrain"), labels=False)
    loader = datasets.loader(data, case.batch, datasets.Shuffled(len(data), 0, case.batch))
    _, peer = pair(PROFILES[case.profile])
    runs = in_turns({
        "ours": lambda: our_loop(case, folder),
        "peer": lambda: peer_loop(case, loader, peer),
        "loader": lambda: reading(loader),
    })  # fmt: skip
    mine = training.precision()
    yield row("loop", case, runs["ours"], runs["peer"], sides=f"ours {mine} / peer fp32",
              workers=loader.num_workers)  # fmt: skip
    yield row("loader", case, runs["loader"], eaten, sides="our loader / our fastest step",
              workers=loader.num_workers)  # fmt: skip


def main() -> int:
    if transformers is None:
        print("NOT MEASURED: no transformers; install it with pip install '.[bench]'",
              file=sys.stderr)  # fmt: skip
        return 1
    precisions = ["fp32", "bf16"] if DEVICE == "cpu" else ["bf16"]
    precisions = precisions if BF16 else ["fp32"]
    if not BF16:
        print("NOT MEASURED: bf16, which this device does not multiply natively", file=sys.stderr)
    rows = []
    for case in cases():
        stepped = [line for precision in precisions for line in steps(case, precision)]
        eaten = max((line["ours_runs"] for line in stepped), key=max)
        with tempfile.TemporaryDirectory() as folder:
            rows += [*stepped, *loops(case, eaten, Path(folder))]
    # The headline is the least favourable step of those at equal terms.
    head = min((r for r in rows if r["sides"] == "ours / peer"), key=lambda r: r["ratio"])
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.machine()
    result = {
        "name": "pretraining",
        "ours": head["ours"],
        "peer": head["peer"],
        "peer_name": PEER,
        "unit": "patches/s",
        "ratio": head["ratio"],
        "size": f"{head['model']}, {head['patch_px']} px, batch {head['batch']}, {head['precision']}",
        "rows": rows,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    bench.save(result, machine=name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
