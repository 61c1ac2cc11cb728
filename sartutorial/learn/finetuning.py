"""Fine-tune (paper section 3.2): encoder and UPerNet trained on labels with Dice and Focal loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sartutorial import (
    InputError,
    checkpoints,
    datasets,
    evaluation,
    losses,
    lulc,
    segmentation,
    training,
)
from sartutorial.encoders import Encoder, EncoderConfig, config_of
from sartutorial.profiles import Profile, current

LAYER_DECAY = 0.8  # authors' code
DROP_PATH = 0.1  # authors' code


class FinetuningTask(training.Task):
    """One training step: logits, then 0.32 Dice + 0.57 Focal over the labelled pixels."""

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """0.32 Dice + 0.57 Focal (scalar) of ``image`` (B, 1, H, W) against ``label`` (B, H, W)."""
        return losses.combined(self.model(batch["image"]), batch["label"])


def finetune(
    folder: str | Path,
    out: str | Path,
    *,
    encoder: str | Path | None = None,
    kind: Literal["simmim", "mixmae"] = "simmim",
    seed: int = 0,
    epochs: int | None = None,
    profile: Profile | None = None,
    machine: training.Machine = training.ALONE,
    progress: bool = False,
) -> Path:
    """Fine-tune on the training patches marked ``finetune``; returns ``out/model.safetensors``.

    ``encoder`` is what ``pretrain`` wrote; without it the model of ``kind`` starts from random
    weights (the paper's baseline). Layer-wise decay of the learning rate (0.8, the authors' code)
    holds with a pretrained encoder only: it would starve random lower layers (ours).
    ``out/metrics.json`` holds the scores on the validation split, if that holds patches. ``machine``
    says how many processes share a batch; Dice is then a mean over their parts of it.
    Raises InputError for patches in another unit than the encoder's, an encoder that does not fit, or
    a batch that does not divide among the machine's processes.
    """
    profile = profile or current()
    rows = datasets.selected(folder, "finetune", "train")
    if rows.empty:
        raise InputError(f"{folder}: no labelled training patch; sample with more --points")
    size, quantity = int(rows["size"].iloc[0]), str(rows["quantity"].iloc[0])
    state, given = checkpoints.load(encoder) if encoder else ({}, {})
    if encoder and "method" not in given:
        raise InputError(f"{encoder}: holds no pretrained encoder; give what 'pretrain' wrote")
    config = EncoderConfig(**given["encoder"]) if given else config_of(profile, size, kind)
    if config.image_size != size or given.get("quantity", quantity) != quantity:
        raise InputError(
            f"{encoder}: was trained on {given['quantity']} patches of {config.image_size} px, these "
            f"are {quantity} of {size} px; pretrain on these patches"
        )
    settings = training.Settings(
        epochs=epochs or profile.finetune_epochs,
        warmup=profile.finetune_warmup,
        batch=profile.finetune_batch,
        base_lr=profile.finetune_base_lr,
        decay="cosine",
        layer_decay=LAYER_DECAY if encoder else 1.0,
        seed=seed,
    )
    run: dict[str, Any] = {
        "encoder": config._asdict(),
        "width": profile.decoder_width,
        "training": settings._asdict(),
        "pretrained": [given["method"], checkpoints.fingerprint(encoder)] if encoder else None,
        "data": datasets.fingerprint(rows),
    }
    file, metrics = Path(out) / "model.safetensors", Path(out) / "metrics.json"
    done = training.is_done(file, run, folder)
    if not done:
        fixed = given.get("normalization")
        norm = datasets.Normalization(**fixed) if fixed else datasets.statistics(folder, rows)
        torch.manual_seed(seed)
        fresh = Encoder(config, drop_path_rate=DROP_PATH)
        model = segmentation.Segmenter(fresh, profile.decoder_width)
        if encoder:
            own = {k[8:]: v for k, v in state.items() if k.startswith("encoder.")}
            checkpoints.load_into(model.encoder, own, encoder)
        task = FinetuningTask(model, settings, run)
        data = datasets.Patches(folder, rows, norm, seed=seed)
        training.fit(task, data, out, machine=machine, progress=progress)
        description = run | {
            "machine": machine._asdict(),
            "normalization": norm._asdict(),
            "spacing": float(rows["spacing"].mean()),
            "quantity": quantity,
            "classes": list(lulc.NAMES),
        }
        training.finish(task, file, description)
        if not task.trainer.is_global_zero:  # one of several processes saves and scores
            return file
    if not (done and metrics.exists()) and len(datasets.selected(folder, "finetune", "val")):
        evaluation.evaluate(folder, file, split="val", out=metrics)
    return file
