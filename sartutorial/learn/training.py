"""The loop that pretraining and fine-tuning share: Lightning, AdamW, schedules, resuming."""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sartutorial import InputError, checkpoints, datasets

CLIP = 5.0  # gradient norm (authors' code)
WEIGHT_DECAY = 0.05  # authors' code
WARMUP_FROM = 5e-3  # of the peak learning rate; the authors' 5e-7 to 1e-4
STEP_AT, STEP_TO = 700 / 800, 0.1  # their multistep schedule: a tenth after epoch 700 of 800
COSINE_TO = 2e-3  # of the peak; the authors' 1.25e-4 to 2.5e-7


class Settings(NamedTuple):
    """How a run is trained; saved with its weights, and part of what makes two runs the same."""

    epochs: int
    warmup: int  # epochs
    batch: int
    base_lr: float  # times batch / 512 (the authors' scaling)
    decay: Literal["step", "cosine"]
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = 1.0
    seed: int = 0


class Machine(NamedTuple):
    """How a run is carried out. What SimMIM computes depends on it by rounding alone.

    MixMAE mixes and masks the images of one process's part of a batch with each other, and Dice and
    dropout in fine-tuning see one such part at a time: these depend on how a batch is divided.
    """

    devices: int = 1  # processes of this machine, one a GPU where it has any
    accumulate: int = 1  # parts of a process's share of a batch, one after the other
    precision: Literal["bf16-mixed", "32-true"] | None = None  # None: see ``precision``
    compile: bool = False  # with torch.compile


ALONE = Machine()


class Task(lightning.LightningModule):
    """A model, its loss on a batch, its optimiser; subclasses give ``loss``."""

    def __init__(self, model: nn.Module, settings: Settings, run: Mapping[str, Any]) -> None:
        super().__init__()
        self.model: Any = model
        self.settings = settings
        self.run = json.dumps(run)  # what makes two runs the same
        self.history: list[float] = []  # mean training loss per epoch
        self._losses: list[Tensor] = []

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The scalar loss of a batch (see ``datasets.Patches`` for its keys)."""
        raise NotImplementedError

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch; raises InputError if it is not finite."""
        loss = self.loss(batch)
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss is {loss.item()} in epoch {self.current_epoch}: look for NaN or infinite "
                "values in the patches, or lower the learning rate"
            )
        self._losses.append(loss.detach())
        return loss

    def on_train_epoch_start(self) -> None:
        """Seed torch for the epoch."""
        # Dropout and stochastic depth start from (seed, epoch), so a resumed run draws the same.
        torch.manual_seed(self.settings.seed * 100_003 + self.current_epoch)

    def on_train_epoch_end(self) -> None:
        """Note the epoch's mean loss."""
        mean = self.trainer.strategy.reduce(torch.stack(self._losses).mean(), reduce_op="mean")
        self.history.append(float(mean))
        self._losses.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history and which run this is beside the weights."""
        checkpoint |= {"history": self.history, "run": self.run}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history up again."""
        self.history = checkpoint["history"]

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Clip the gradients' norm at ``CLIP``."""
        # Lightning's own clipping refuses a fused optimiser under autocast, for the sake of float16.
        nn.utils.clip_grad_norm_(self.parameters(), CLIP)

    def configure_optimizers(self) -> Any:
        """AdamW at ``base_lr`` times batch / 512, and its schedule, step by step."""
        s = self.settings
        peak = s.base_lr * s.batch / 512
        optimiser = torch.optim.AdamW(
            parameter_groups(self.model, s.layer_decay, peak), lr=peak, betas=s.betas, fused=True
        )
        per_epoch = max(int(self.trainer.estimated_stepping_batches) // s.epochs, 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: lr_factor(step / per_epoch, s)
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def lr_factor(epoch: float, settings: Settings) -> float:
    """The learning rate at a (fractional) epoch, relative to its peak: warm-up, then step or cosine."""
    if epoch < settings.warmup:
        return WARMUP_FROM + (1 - WARMUP_FROM) * epoch / settings.warmup
    if settings.decay == "step":
        return 1.0 if epoch < STEP_AT * settings.epochs else STEP_TO
    done = (epoch - settings.warmup) / max(settings.epochs - settings.warmup, 1)
    return COSINE_TO + (1 - COSINE_TO) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def parameter_groups(model: Any, layer_decay: float, peak: float) -> list[dict[str, Any]]:
    """AdamW groups: no weight decay on biases, norms, tokens and position tables (authors' code).

    With ``layer_decay`` below 1 the learning rate shrinks by that factor a Swin block from the top
    of the encoder down to the patch embedding (layer-wise decay).
    """
    depths: tuple[int, ...] = model.encoder.config.depths
    total = sum(depths) + 1
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        depth = _layer(name, depths, total)
        plain = parameter.ndim <= 1 or any(
            s in name for s in ("mask_token", "pos_embed", "position_bias_table")
        )
        group = groups.setdefault(
            (depth, plain),
            {
                "params": [],
                "weight_decay": 0.0 if plain else WEIGHT_DECAY,
                "lr": peak * layer_decay ** (total - depth),
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _layer(name: str, depths: tuple[int, ...], total: int) -> int:
    """0 for the patch embedding, then one more a block; ``total`` for the final norm and beyond."""
    if not name.startswith("encoder.") or name.startswith("encoder.norm"):
        return total
    if not name.startswith("encoder.layers."):
        return 0
    _, _, stage, part, *rest = name.split(".")
    before = sum(depths[: int(stage)])
    return before + 1 + (int(rest[0]) if part == "blocks" else 0)


def precision() -> Literal["bf16-mixed", "32-true"]:
    """bfloat16 autocast where the device multiplies it natively (CPUs included), else float32."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    capable = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = capable.get("amx_bf16") or capable.get("amx_tile") or capable.get("avx512_bf16")
    return "bf16-mixed" if fast else "32-true"


def is_done(file: Path, run: dict[str, Any], folder: str | Path) -> bool:
    """Whether ``file`` was made by this very run, from the patch index as it is now."""
    description = file.with_suffix(".json")
    if not (file.exists() and description.exists()):
        return False
    if datasets.index_of(folder).stat().st_mtime > file.stat().st_mtime:
        return False
    made = json.loads(description.read_text())
    return all(made.get(k) == v for k, v in json.loads(json.dumps(run)).items())


class Shares(lightning.LightningDataModule):
    """Every process's share of each global batch; which process this is, the trainer knows."""

    trainer: Any

    def __init__(self, data: datasets.Patches, batch: int, machine: Machine) -> None:
        super().__init__()
        self.data, self.batch, self.machine = data, batch, machine

    def train_dataloader(self) -> DataLoader[Any]:
        """The loader of this process."""
        free = (os.cpu_count() or 1) // self.machine.devices - 2
        return datasets.loader(
            self.data,
            self.batch,
            shuffle=True,
            workers=min(8, max(free, 0)),
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            parts=self.machine.accumulate,
        )


def fit(
    task: Task,
    data: datasets.Patches,
    out: str | Path,
    *,
    machine: Machine = ALONE,
    callbacks: Sequence[lightning.Callback] = (),
    progress: bool,
) -> None:
    """Train ``task`` on ``data``; a run that was stopped goes on from its last epoch.

    The state is kept in ``out/last.ckpt`` after every epoch; ``finish`` removes it.

    Raises InputError if ``out/last.ckpt`` is damaged or belongs to another run, or if the batch does
    not divide among the machine's processes and their parts, OSError if the state cannot be written.
    """
    state = Path(out) / "last.ckpt"
    state.parent.mkdir(parents=True, exist_ok=True)  # fail before an epoch, not after it
    if state.exists():
        _check_state(state, task.run)
    s = task.settings
    batch, shares = min(s.batch, len(data)), machine.devices * machine.accumulate
    if batch % shares:
        raise InputError(
            f"a batch of {batch} patches does not divide into {machine.devices} processes times "
            f"{machine.accumulate} parts; take other --devices and --accumulate"
        )
    keep = ModelCheckpoint(out, state.stem, every_n_epochs=1, enable_version_counter=False)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advice in a chapter
    warnings.filterwarnings("ignore", module="lightning")  # nor its own deprecations
    # Or determinism fills every new tensor with NaN, in case something reads it too early.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if machine.compile:
        task.model.compile()
    trainer = lightning.Trainer(
        max_epochs=s.epochs,
        devices=machine.devices,
        strategy="ddp" if machine.devices > 1 else "auto",
        accumulate_grad_batches=machine.accumulate,
        precision=machine.precision or precision(),
        callbacks=[*callbacks, keep, *([TQDMProgressBar(leave=True)] if progress else [])],
        enable_progress_bar=progress,
        enable_model_summary=False,
        logger=False,
        deterministic="warn",
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # datasets.Shuffled deals the patches out itself
    )
    try:
        trainer.fit(
            task,
            datamodule=Shares(data, batch, machine),
            ckpt_path=state if state.exists() else None,
            weights_only=True,
        )
    except OSError as error:  # the patches' own are InputErrors
        raise OSError(f"{state}: could not be written ({error})") from error


def _check_state(state: Path, run: str) -> None:
    try:
        found = torch.load(state, map_location="cpu", weights_only=True)["run"]
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{state}: damaged; delete it to train anew") from error
    if found != run:
        raise InputError(f"{state}: is from another run; delete it or take another --out")


def finish(task: Task, file: Path, description: Mapping[str, Any]) -> None:
    """Save what was trained, with its history, and then remove the state of the run.

    Of several processes, the first does.
    """
    if not task.trainer.is_global_zero:
        return
    checkpoints.save(task.model, file, dict(description) | {"history": task.history})
    file.with_name("last.ckpt").unlink(missing_ok=True)
