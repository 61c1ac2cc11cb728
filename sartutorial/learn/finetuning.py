"""Fine-tune (paper section 3.2): encoder and UPerNet trained together on labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from sartutorial import InputError, check_words, profiles
from sartutorial.learn import checkpoints, datasets, evaluation, training
from sartutorial.learn.encoders import Encoder, Kind, config_of
from sartutorial.learn.published import load_encoder, load_model
from sartutorial.learn.segmentation import Decoder, Segmenter, rarity_weights, segmentation_loss
from sartutorial.lulc import Legend
from sartutorial.patches import read_legend

CALIBRATED = 512  # validation patches, at most, that a model's temperature is fitted to


def finetune(
    patches: str | Path,
    out: str | Path,
    *,
    encoder: str | Path | None = None,
    kind: Kind = "simmim",
    epochs: int | None = None,
    learning_rate: float | None = None,
    batch: int | None = None,
    labels: float = 1.0,
    dropout: float | None = None,
    layer_decay: float | None = None,
    seed: int = 0,
    hardware: training.Hardware = training.ALONE,
    profile: str | None = None,
    progress: bool = False,
    on_epoch: training.OnEpoch | None = None,
) -> Path:
    """Fine-tune a segmentation model on the labelled training patches (paper section 3.2).

    A run that was stopped goes on from its last epoch; one that is done is left alone.
    ``out/metrics.json`` holds the scores on validation patches, by which confidence is calibrated.

    Args:
        patches: Folder that ``cut`` wrote and ``sample`` completed.
        out: Folder for the weights and ``metrics.json``.
        encoder: What ``pretrain`` or ``import_weights`` wrote, or ``reference``; default random.
        kind: Of the encoder that starts from random weights.
        epochs: Times that every patch is seen; default the profile's.
        learning_rate: At its peak, of AdamW; default the profile's times batch / 512.
        batch: Patches a step, of all processes together; default the profile's.
        labels: Share of the labelled patches, drawn by class; a smaller lies within a larger.
        dropout: In the decoder; default the profile's.
        layer_decay: Factor of the rate a block downwards; default the profile's, 1 without encoder.
        seed: Any whole number: of the first weights, the order, flips and dropout.
        hardware: Processes, parts of a batch, precision.
        profile: Scale of the network and the run: laptop, gpu or japan.
        progress: Whether to draw a bar of the steps.
        on_epoch: Called after every epoch with the model and the mean losses so far.

    Returns:
        ``out/model.safetensors``, with its description (.json) beside it.

    Raises:
        InputError: Patches and encoder do not fit, ``out`` holds another run, or a setting is off.
    """
    check_words(kind=(kind, Kind))
    scale, legend = profiles.get(profile), read_legend(patches)
    rows = datasets.share(datasets.selected(patches, "finetune", "train"), legend, labels, seed)
    if layer_decay is None:  # which would starve random lower layers (ours)
        layer_decay = scale.layer_decay if encoder else 1.0
    more, chosen = dict(layer_decay=layer_decay, seed=seed), (epochs, batch, learning_rate)
    settings = training.settings(scale, "finetune", len(rows), *chosen, decay="cosine", **more)
    said, make = _job(patches, rows, legend, encoder, kind, scale, dropout, seed)
    file, metrics = Path(out) / "model.safetensors", Path(out) / "metrics.json"
    fresh = training.trained(file, training.Run(said, settings, hardware, progress, on_epoch), make)
    if (fresh or not metrics.exists()) and "val" in {*datasets.selected(patches, "finetune").split}:
        calibrate(file, patches)
        evaluation.evaluate(patches, file, split="val", out=metrics)
    return file


def calibrate(file: Path, patches: str | Path) -> None:
    """Note in a model's description the temperature that validation patches ask for."""
    model, known = load_model(file)
    rows = datasets.selected(patches, "finetune", "val")
    rows = rows.iloc[:: -(-len(rows) // CALIBRATED)]
    device, model.temperature = "cuda" if torch.cuda.is_available() else "cpu", 1.0
    data = datasets.Patches(patches, rows, datasets.Normalization(**known["normalization"]))
    batches = datasets.loader(data, evaluation.BATCH)
    found = evaluation.fitted_temperature(model.to(device), batches, device=device)
    checkpoints.write_json(known | {"temperature": found}, file.with_suffix(".json"))


def _job(
    patches: str | Path,
    rows: pd.DataFrame,
    legend: Legend,
    encoder: str | Path | None,
    kind: Kind,
    scale: profiles.Profile,
    dropout: float | None,
    seed: int,
) -> tuple[dict[str, Any], Callable[[], Any]]:
    """What makes this run, and what it needs to be trained."""
    size, start, given = int(rows["size"].iloc[0]), None, dict[str, Any]()
    if encoder:
        start, given = load_encoder(encoder := checkpoints.named(encoder, "encoder"), size)
        datasets.check_fits(rows, given, encoder)
    config = start.config if start else config_of(scale, size, kind)
    rate = scale.dropout if dropout is None else dropout
    if not 0 <= rate < 1:
        raise InputError(f"--dropout {rate:g}: must be from 0 to less than 1")
    decoder = Decoder(scale.decoder_width, len(legend.names), rate, scale.merged_taps, scale.head)
    counts = torch.from_numpy(datasets.class_counts(rows, legend).sum(0))
    weights = rarity_weights(counts, scale.class_weight) if scale.loss != "dice-focal" else None
    said: dict[str, Any] = {
        "encoder": config._asdict(),
        "decoder": decoder._asdict(),
        "drop_path": scale.drop_path,
        "loss": scale.loss,
        "class_weights": weights,
        "pretrained": [given.get("method"), checkpoints.fingerprint(encoder)] if encoder else None,
        "legend": legend.to_dict(),
        "data": datasets.fingerprint(rows),
    } | datasets.common(rows)

    def prepare() -> tuple[nn.Module, training.Loss, datasets.Patches]:
        fixed = given.get("normalization")
        norm = datasets.Normalization(**fixed) if fixed else datasets.statistics(patches, rows)
        model = Segmenter(Encoder(config, drop_path_rate=scale.drop_path), decoder)
        if start:
            model.encoder.load_state_dict(start.state_dict())
        loss = partial(segmentation_loss, loss=scale.loss, weights=weights)
        return model, loss, datasets.Patches(patches, rows, norm, seed=seed)

    return said, prepare
