"""The loop that pretraining and fine-tuning share, on one screen: AdamW, schedules, resuming."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException
from tqdm import tqdm

from sartutorial import InputError, files
from sartutorial.learn import checkpoints, datasets
from sartutorial.profiles import Profile

if TYPE_CHECKING:
    from lightning.fabric import Fabric

CLIP = 5.0  # gradient norm (authors' code)
WEIGHT_DECAY = 0.05  # authors' code
NO_DECAY = ("*mask_token", "*pos_embed", "*position_bias_table")  # nor biases and norms (theirs)
WARMUP_FROM = 5e-3  # of the peak learning rate; the authors' 5e-7 to 1e-4
STEP_AT, STEP_TO = 700 / 800, 0.1  # their multistep schedule: a tenth after epoch 700 of 800
COSINE_TO = 2e-3  # of the peak; the authors' 1.25e-4 to 2.5e-7
STATE = "last.ckpt"  # in a run's folder, until it is done
# What SLURM's scripts, torchrun and Lightning leave in the environment.
LAUNCHERS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK",
             "WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE")  # fmt: skip

for _name in ("fabric.utilities.distributed", "pytorch.utilities.rank_zero"):  # no announcements
    logging.getLogger(f"lightning.{_name}").setLevel(logging.WARNING)

Precision = Literal["bf16-mixed", "32-true"]
Batch = dict[str, Tensor]
Loss = Callable[[Any, Batch], Tensor]
OnEpoch = Callable[[nn.Module, list[float]], None]


@dataclass(frozen=True)
class Settings:
    """How a run is trained; saved with its weights, and part of what makes two runs the same."""

    epochs: int
    warmup: float  # epochs
    batch: int  # patches a step, of all processes together
    learning_rate: float  # at its peak
    decay: Literal["step", "cosine"]
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "learning_rate", "layer_decay"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)}: must be above 0")


@dataclass(frozen=True)
class Hardware:
    """How a run is carried out. What SimMIM computes depends on it by rounding alone.

    MixMAE mixes and masks the images of one process's part of a batch with each other, and Dice and
    dropout in fine-tuning see one such part at a time: these depend on how a batch is divided.

    Args:
        devices: Processes of this machine that share a batch, one a GPU where it has any.
        accumulate: Parts of a process's share of a batch, one after the other, to save memory.
        precision: bf16-mixed or 32-true; default bf16-mixed where the device multiplies it natively.
        compile: Whether to compile the model with torch.compile.
    """

    devices: int = 1
    accumulate: int = 1
    precision: Precision | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.devices < 1 or self.accumulate < 1:
            raise InputError(f"{self}: devices and accumulate must be at least 1")


ALONE = Hardware()


def settings(
    scale: Profile, step: Literal["pretrain", "finetune"], patches: int, *chosen: Any, **more: Any
) -> Settings:
    """Settings of a step: of the ``chosen`` epochs, batch and learning rate, None is the profile's.

    Warm-up is at most half of the run (ours).
    """
    said = [getattr(scale, f"{step}_{name}") for name in ("epochs", "batch", "base_lr", "warmup")]
    epochs, batch, rate = (a if b is None else b for a, b in zip(said, chosen, strict=False))
    batch = min(batch, patches)
    rate = rate * batch / 512 if chosen[2] is None else rate
    return Settings(epochs, min(said[3], epochs / 2), batch, rate, **more)


@dataclass(frozen=True)
class Run:
    """What makes two runs the same (for JSON), how one is trained, and who watches it."""

    said: dict[str, Any]
    settings: Settings
    hardware: Hardware = ALONE
    progress: bool = False
    on_epoch: OnEpoch | None = None


def trained(
    file: Path, run: Run, prepare: Callable[[], tuple[nn.Module, Loss, datasets.Patches]]
) -> bool:
    """Train what ``file`` is to hold, and save it with its description; False if it is there already.

    A run that was stopped goes on from its last epoch, bit for bit: its state is kept in ``last.ckpt``.
    A second process that asks for the same file waits for the first. For several devices, loss and
    ``on_epoch`` must be functions of a module that can be imported.
    """
    s, hardware, state = run.settings, run.hardware, file.with_name(STATE)
    said = json.loads(json.dumps(run.said | {"training": asdict(s)}))
    if s.batch % (hardware.devices * hardware.accumulate):
        raise InputError(
            f"a batch of {s.batch} patches does not divide into {hardware.devices} processes times "
            f"{hardware.accumulate} parts; take other --devices and --accumulate"
        )
    with files.locked(file):
        if is_done(file, said):
            return False
        if state.exists():
            read_state(state, said)
        torch.manual_seed(s.seed % datasets.SEEDS)
        model, loss, data = prepare()
        # Bound here, all but the model: Fabric gives each process its own copy of that.
        loop = partial(fit, loss=loss, data=data, state=state, run=replace(run, said=said))
        try:
            with own_processes():
                history = fabric(hardware).launch(loop, model)
        except (ProcessRaisedException, ProcessExitedException) as error:
            what = str(error).strip().splitlines()[-1]
            raise InputError(f"{file}: one of the processes failed: {what}") from error
        if hardware.devices > 1:
            model.load_state_dict(read_state(state, said)["model"])
        about = {"normalization": data.norm._asdict(), "hardware": asdict(hardware)}
        checkpoints.save(model, file, said | about | {"history": history})
        state.unlink(missing_ok=True)
    return True


def fit(
    fabric: Fabric, model: Any, loss: Loss, data: datasets.Patches, state: Path, run: Run
) -> list[float]:
    """Train ``model`` in place, as one of the processes; returns the mean loss of every epoch."""
    s, parts, world = run.settings, run.hardware.accumulate, fabric.world_size
    first = fabric.is_global_zero
    order = datasets.Shuffled(len(data), s.seed, s.batch, rank=fabric.global_rank, world=world)
    batches = datasets.loader(data, s.batch // (world * parts), order)
    adamw = torch.optim.AdamW(parameter_groups(model, s), betas=s.betas, fused=True)
    if run.hardware.compile:
        model.compile()
    history: list[float] = []
    wrapped, optimiser = fabric.setup(model, adamw)
    if state.exists():
        saved = read_state(state, run.said)
        model.load_state_dict(saved["model"])
        adamw.load_state_dict(saved["optimiser"])
        history = saved["history"]
    steps, silent = len(order) * world // s.batch, not (run.progress and first)
    bar = tqdm(total=steps * s.epochs, initial=steps * len(history), unit="step", disable=silent)
    with repeatable(), bar:
        for epoch in range(len(history), s.epochs):
            # Dropout and stochastic depth start from (seed, epoch), so a resumed run draws the same.
            torch.manual_seed((s.seed * 100_003 + epoch) % datasets.SEEDS)
            order.set_epoch(epoch)
            wrapped.train()
            losses = []
            for i, batch in enumerate(batches):
                last = (i + 1) % parts == 0
                with fabric.no_backward_sync(wrapped, enabled=not last):
                    with fabric.autocast():
                        value = loss(wrapped, fabric.to_device(batch))
                    fabric.backward(value / parts)
                losses.append(value.detach())
                if last:
                    rate = s.learning_rate * lr_factor(epoch + i // parts / steps, s)
                    for group in optimiser.param_groups:
                        group["lr"] = rate * group["lr_scale"]
                    fabric.clip_gradients(wrapped, adamw, max_norm=CLIP, error_if_nonfinite=False)
                    optimiser.step()
                    optimiser.zero_grad()
                    bar.update()
            mean: Any = fabric.all_reduce(torch.stack(losses).mean())
            history.append(float(mean))
            if not math.isfinite(mean):
                raise InputError(
                    f"the loss is {mean} in epoch {epoch + 1}; lower the learning rate"
                )
            bar.set_description(f"epoch {epoch + 1}, loss {mean:.4f}")
            if (caller := multiprocessing.parent_process()) and not caller.is_alive():
                raise SystemExit("the process that started this one has ended")  # and may run again
            if first:
                if run.on_epoch:
                    run.on_epoch(model, history)
                saved = {"model": model.state_dict(), "optimiser": adamw.state_dict()}
                with files.atomic_write(state) as partial, partial.open("wb") as file:
                    torch.save(saved | {"history": history, "run": json.dumps(run.said)}, file)
    return history


def fabric(hardware: Hardware) -> Any:
    """Lightning's Fabric: it moves to devices, casts, and shares gradients among its processes."""
    from lightning.fabric import Fabric  # takes seconds; whoever only loads a model needs none
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.strategies.ddp import DDPStrategy

    several, cuda = hardware.devices > 1, torch.cuda.is_available()
    if cuda and hardware.devices > torch.cuda.device_count():
        raise InputError(f"devices={hardware.devices}: there are {torch.cuda.device_count()} GPUs")
    if several and hasattr(sys, "ps1"):
        raise InputError("several devices cannot be used from a notebook; use the command line")
    return Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=hardware.devices,
        strategy=DDPStrategy(start_method="spawn") if several else "auto",
        precision=hardware.precision or precision(),
        plugins=[LightningEnvironment()],  # whoever started this process, ours are its own
    )


def lr_factor(epoch: float, settings: Settings) -> float:
    """The learning rate at a (fractional) epoch, relative to its peak: warm-up, then step or cosine."""
    if epoch < settings.warmup:
        return WARMUP_FROM + (1 - WARMUP_FROM) * epoch / settings.warmup
    if settings.decay == "step":
        return 1.0 if epoch < STEP_AT * settings.epochs else STEP_TO
    done = (epoch - settings.warmup) / max(settings.epochs - settings.warmup, 1e-9)
    return COSINE_TO + (1 - COSINE_TO) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def parameter_groups(model: Any, settings: Settings) -> list[dict[str, Any]]:
    """AdamW groups: no weight decay on biases, norms, tokens and position tables (authors' code).

    With ``layer_decay`` below 1 the learning rate shrinks by that factor (``lr_scale``) a Swin block
    from the top of the encoder down to the patch embedding.
    """
    if settings.layer_decay == 1:
        groups = param_groups_weight_decay(model, WEIGHT_DECAY, no_weight_decay_list=NO_DECAY)
    else:
        groups = param_groups_layer_decay(
            model, WEIGHT_DECAY, NO_DECAY, layer_decay=settings.layer_decay
        )
    return [{"lr_scale": 1.0, "lr": settings.learning_rate} | group for group in groups]


def precision() -> Precision:
    """bfloat16 autocast where the device multiplies it natively (CPUs included), else float32."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    capable = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = capable.get("amx_bf16") or capable.get("amx_tile") or capable.get("avx512_bf16")
    return "bf16-mixed" if fast else "32-true"


def is_done(file: Path, run: Mapping[str, Any]) -> bool:
    """Whether ``file`` and the JSON beside it are there and of this very run."""
    try:
        made = json.loads(file.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return False
    return file.exists() and all(made.get(k) == v for k, v in run.items())


def read_state(state: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """What ``fit`` kept; raises InputError if it is damaged or of another run."""
    try:
        found: dict[str, Any] = torch.load(state, map_location="cpu", weights_only=True)
        said = json.loads(found["run"])
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{state}: damaged; delete it to train anew") from error
    if said != run:
        raise InputError(f"{state}: is from another run; delete it or take another --out")
    return found


@contextmanager
def own_processes() -> Iterator[None]:
    """Let processes that start now ignore the caller's script, and other launchers' words of theirs."""
    hidden = {name: os.environ.pop(name) for name in LAUNCHERS if name in os.environ}
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        os.environ.pop("MASTER_PORT", None)  # that of our processes
        os.environ.update(hidden)


@contextmanager
def repeatable() -> Iterator[None]:
    """Let torch compute the same again, where it can."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Or every new tensor is filled with NaN, in case something reads it too early.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
