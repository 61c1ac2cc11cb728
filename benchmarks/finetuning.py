"""A step of fine-tuning against Hugging Face's Swin with UPerNet, and a U-Net, in patches per second.

Forward, loss, backward and AdamW. Ours is the laptop profile's network and loss; theirs
(``UperNetForSemanticSegmentation``) has the same Swin, decoder width, batch, optimiser and precision, and
its own unweighted cross-entropy; the U-Net is that of ``st.baselines``. The sides take turns, and the
best of their runs counts. On a CPU all run on one thread, and time is the processor's: what else a
machine does costs little.

    make bench NAME=finetuning
"""

import json
import platform
import sys
import time
from collections.abc import Callable
from functools import partial

import _rasters as bench
import torch
from pretraining import DEVICE, stepper
from torch import Tensor, nn

from sartutorial.learn import training
from sartutorial.learn.baselines import UNet
from sartutorial.learn.encoders import Encoder, config_of
from sartutorial.learn.segmentation import Decoder, Segmenter, rarity_weights, segmentation_loss
from sartutorial.profiles import PROFILES, Profile

try:
    import transformers
except ImportError:
    transformers = None

PEER = "Hugging Face UperNetForSemanticSegmentation, Swin backbone"
CLASSES = 9
PROFILE, BATCH, STEPS, RUNS = ("laptop", 8, 4, 6) if DEVICE == "cpu" else ("gpu", 64, 10, 6)
TARGET = 1.3


def ours(scale: Profile) -> Segmenter:
    """What ``finetune`` trains."""
    torch.manual_seed(0)
    config = config_of(scale, scale.patch_size, "simmim")
    decoder = Decoder(scale.decoder_width, CLASSES, scale.dropout, scale.merged_taps, scale.head)
    return Segmenter(Encoder(config, drop_path_rate=scale.drop_path), decoder)


def peer(scale: Profile) -> nn.Module:
    """Theirs, of the same size."""
    torch.manual_seed(0)
    swin = transformers.SwinConfig(
        image_size=scale.patch_size, patch_size=4, num_channels=1, embed_dim=scale.embed_dim,
        depths=list(scale.depths), num_heads=list(scale.num_heads), window_size=scale.window_size,
        drop_path_rate=scale.drop_path, use_absolute_embeddings=True,
        out_features=[f"stage{i}" for i in range(1, 5)],
    )  # fmt: skip
    return transformers.UperNetForSemanticSegmentation(
        transformers.UperNetConfig(
            backbone_config=swin, hidden_size=scale.decoder_width, num_labels=CLASSES,
            use_auxiliary_head=False, loss_ignore_index=-1,
        )
    )  # fmt: skip


def now() -> float:
    """Seconds: of this process's work on a CPU; else of the clock, when the GPU is done."""
    if DEVICE == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def rate(step: Callable[[], Tensor]) -> float:
    """Patches per second over some steps, whose losses must be finite."""
    start = now()
    losses = [step() for _ in range(STEPS)]
    seconds = now() - start
    assert torch.isfinite(torch.stack(losses)).all(), "the loss is not finite"
    return round(BATCH * STEPS / seconds, 2)


def rows(precision: str) -> list[dict[str, object]]:
    """Our step against the two others."""
    scale = PROFILES[PROFILE]
    side = scale.patch_size
    image = torch.randn(BATCH, 1, side, side, device=DEVICE)
    label = torch.randint(-1, CLASSES, (BATCH, side, side), device=DEVICE)
    batch = {"image": image, "label": label}
    weights = None
    if scale.loss != "dice-focal":
        weights = rarity_weights(torch.bincount(label[label >= 0]).cpu(), scale.class_weight)
    models = {"ours": ours(scale), "peer": peer(scale), "U-Net": UNet(CLASSES)}
    models = {name: model.to(DEVICE).train() for name, model in models.items()}
    mine = partial(segmentation_loss, batch=batch, loss=scale.loss, weights=weights)
    losses = {
        "ours": partial(mine, models["ours"]),
        "peer": lambda: models["peer"](image, labels=label).loss,
        "U-Net": partial(mine, models["U-Net"]),
    }
    steps = {name: stepper(models[name], losses[name], precision) for name in models}
    for step in steps.values():
        assert all(torch.isfinite(step()) for _ in range(2)), "the loss is not finite"
    runs: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(RUNS):
        for name, step in steps.items():
            runs[name].append(rate(step))
    best = {name: max(found) for name, found in runs.items()}
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    found = [
        {
            "what": "step", "sides": f"ours / {other}", "precision": precision, "ours": best["ours"],
            "peer": best[other], "unit": "patches/s", "ratio": round(best["ours"] / best[other], 2),
            "target": TARGET if other == "peer" else None, "ours_runs": runs["ours"],
            "peer_runs": runs[other], "parameters": [sizes["ours"], sizes[other]],
        }
        for other in ("peer", "U-Net")
    ]  # fmt: skip
    print(json.dumps(found), flush=True)
    return found


def main() -> int:
    if transformers is None:
        print("NOT MEASURED: no transformers; install it with pip install '.[bench]'",
              file=sys.stderr)  # fmt: skip
        return 1
    if DEVICE == "cpu":
        torch.set_num_threads(1)
    native = training.precision() == "bf16-mixed"
    precisions = ["fp32"] if DEVICE == "cpu" else []
    if native:
        precisions.append("bf16")
    else:
        print("NOT MEASURED: bf16, which this device does not multiply natively", file=sys.stderr)
    found = [row for precision in precisions or ["fp32"] for row in rows(precision)]
    head = min((r for r in found if r["sides"] == "ours / peer"), key=lambda r: r["ratio"])
    scale = PROFILES[PROFILE]
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.machine()
    result = {
        "name": "finetuning",
        "ours": head["ours"],
        "peer": head["peer"],
        "peer_name": PEER,
        "unit": "patches/s",
        "ratio": head["ratio"],
        "size": f"{PROFILE} profile, {scale.patch_size} px, decoder {scale.decoder_width} wide, "
        f"batch {BATCH}, {head['precision']}",
        "rows": found,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    bench.save(result, machine=name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
