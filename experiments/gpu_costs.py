"""What a step of the gpu and japan networks takes on a GPU. Chapter 10 sets its estimate beside this.

    python -m experiments.gpu_costs      -> book/results/gpu_costs.json; a minute of an NVIDIA GPU

Networks of these sizes on patches of noise, in bfloat16, by the package's own losses and AdamW: the
loader and the processes' talk are left out. Batches are those that one device holds, not the profiles'.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sartutorial import profiles
from sartutorial.learn import checkpoints, pretraining, training
from sartutorial.learn.datasets import Normalization
from sartutorial.learn.encoders import Encoder, config_of
from sartutorial.learn.segmentation import Decoder, Segmenter, segmentation_loss

RESULT = Path(__file__).parents[1] / "book" / "results" / "gpu_costs.json"
BATCH, WARM, STEPS = 64, 5, 15
Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]


def timed(model: nn.Module, loss: Loss, batch: dict[str, Tensor], device: str) -> dict[str, Any]:
    """Milliseconds and operations of a step of training, and the peak of memory."""
    adamw = torch.optim.AdamW(model.to(device).train().parameters(), 1e-4, fused=True)
    batch = {k: v.to(device) for k, v in batch.items()}
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            value = loss(model, batch)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.CLIP)
        adamw.step()
        adamw.zero_grad()

    with FlopCounterMode(display=False) as flops:
        step()
    for _ in range(WARM):
        step()
    synchronise()
    begin = time.perf_counter()
    for _ in range(STEPS):
        step()
    synchronise()
    took, number = (time.perf_counter() - begin) / STEPS, len(batch["image"])
    told = {"batch": number, "ms a step": 1000 * took, "patches a second": number / took}
    told["TFLOP/s"] = flops.get_total_flops() / took / 1e12
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return told | {"GFLOP a patch": flops.get_total_flops() / number / 1e9, "GB": peak / 1e9}


@torch.inference_mode()
def mapped(model: nn.Module, image: Tensor, device: str) -> dict[str, Any]:
    """Megapixels a second of forward passes alone."""
    model, image = model.to(device).eval(), image.to(device)
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    for i in range(WARM + STEPS):
        if i == WARM:
            synchronise()
            begin = time.perf_counter()
        with torch.autocast(device, torch.bfloat16):
            model(image).argmax(1)
    synchronise()
    took = (time.perf_counter() - begin) / STEPS
    return {"batch": len(image), "Mpx a second": image.numel() / took / 1e6}


def main() -> None:
    """Time both networks, write."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = options.parse_args().device
    rows = []
    for name in ("gpu", "japan"):
        profile, norm = profiles.get(name), Normalization(-12.0, 6.0)
        size = profile.patch_size
        image, key = torch.randn(BATCH, 1, size, size), torch.arange(3 * BATCH).view(-1, 3)
        label = torch.randint(9, (BATCH, size, size))
        rebuilt = partial(pretraining.reconstruction_loss, domain="normalised", norm=norm)
        for method in ("sar-w-simmim", "sar-w-mixmae"):
            kind: Any = method.split("-")[-1]
            config = config_of(profile, size, kind)
            model = pretraining.build(cast(Any, method), config, profile)
            found = timed(model, rebuilt, {"image": image, "key": key}, device)
            rows.append({"profile": name, "step": method} | found)
        decoder = Decoder(profile.decoder_width, 9, profile.dropout)
        config = config_of(profile, size, "simmim")
        tuned = Segmenter(Encoder(config, drop_path_rate=profile.drop_path), decoder)
        found = timed(tuned, segmentation_loss, {"image": image, "label": label}, device)
        rows.append({"profile": name, "step": "finetune"} | found)
        rows.append({"profile": name, "step": "predict"} | mapped(tuned, image, device))
        for row in rows[-4:]:
            print(row, flush=True)
    result = {
        "what": "steps of the networks of two profiles on one device, bfloat16, patches of noise",
        "script": "python -m experiments.gpu_costs",
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "rows": rows,
        "provenance": checkpoints.provenance(),
    }
    checkpoints.write_json(result, RESULT)


if __name__ == "__main__":
    main()
