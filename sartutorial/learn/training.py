"""The loop that pretraining and fine-tuning share, on one screen: AdamW, schedules, resuming."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessException
from tqdm import tqdm

from sartutorial import InputError, _asked, check_words, files
from sartutorial.learn import checkpoints, datasets
from sartutorial.profiles import Profile

CLIP = 5.0  # gradient norm (authors' code)
WEIGHT_DECAY = 0.05  # authors' code
NO_DECAY = ("*mask_token", "*pos_embed", "*position_bias_table")  # nor biases and norms (theirs)
WARMUP_FROM = 5e-3  # of the peak learning rate; the authors' 5e-7 to 1e-4
STEP_AT, STEP_TO = 700 / 800, 0.1  # their multistep schedule: a tenth after epoch 700 of 800
COSINE_TO = 2e-3  # of the peak; the authors' 1.25e-4 to 2.5e-7
# What SLURM's scripts, torchrun and Lightning leave in the environment: where nodes meet, and which is
# this one; then what they say of processes, which are ours.
MEETING = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK", "TORCHELASTIC_USE_AGENT_STORE")
LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")

for _name in ("fabric.utilities.distributed", "pytorch.utilities.rank_zero"):  # no announcements
    logging.getLogger(f"lightning.{_name}").setLevel(logging.WARNING)

Precision = Literal["bf16-mixed", "32-true"]
Loss = Callable[[Any, dict[str, Tensor]], Tensor]
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
    """How a run is carried out: it matters by rounding, and where a loss looks across a batch's parts.

    Args:
        devices: Processes of a machine that share a batch, one a GPU where it has any.
        nodes: Machines that share it; on each the same command, with MASTER_ADDR, MASTER_PORT, NODE_RANK.
        accumulate: Parts of a process's share of a batch, one after the other, to save memory.
        precision: bf16-mixed or 32-true; default bf16-mixed where the device multiplies it natively.
    """

    devices: int = 1
    nodes: int = 1
    accumulate: int = 1
    precision: Precision | None = None

    def __post_init__(self) -> None:
        if self.precision is not None:
            check_words(precision=(self.precision, Precision))
        if min(self.devices, self.nodes, self.accumulate) < 1:
            raise InputError(f"{self}: devices, nodes and accumulate must be at least 1")
        if self.nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
            raise InputError("--nodes: set MASTER_ADDR, MASTER_PORT and NODE_RANK on each node")


ALONE = Hardware()


def settings(
    scale: Profile, step: Literal["pretrain", "finetune"], patches: int, *chosen: Any, **more: Any
) -> Settings:
    """Settings of a step: of the ``chosen`` epochs, batch and learning rate, None is the profile's."""
    epochs, batch, rate = (
        getattr(scale, f"{step}_{name}") if value is None else value
        for name, value in zip(("epochs", "batch", "base_lr"), chosen, strict=True)
    )
    batch = min(batch, patches)
    rate = rate * batch / 512 if chosen[2] is None else rate
    warmup = min(getattr(scale, f"{step}_warmup"), epochs / 2)  # at most half of the run (ours)
    return Settings(epochs, warmup, batch, rate, **more)


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

    ``last.ckpt`` keeps a run's state, from whose last epoch one that was stopped goes on, bit for bit.
    For several devices, loss and ``on_epoch`` must be functions of a module that can be imported.
    """
    s, hardware, state = run.settings, run.hardware, file.with_name("last.ckpt")
    said = json.loads(json.dumps(run.said | {"training": asdict(s)}))
    processes = hardware.devices * hardware.nodes
    rank = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    first = hardware.nodes == 1 or rank == "0"  # of the nodes, the one that writes
    if s.batch % (processes * hardware.accumulate):
        parts = f"{processes} processes times {hardware.accumulate} parts"
        mend = "take other --devices, --nodes and --accumulate"
        raise InputError(f"a batch of {s.batch} patches does not divide into {parts}; {mend}")
    with files.locked(file) if first else nullcontext():
        with suppress(OSError, ValueError, AttributeError):  # no description, or not of ours
            made = json.loads(file.with_suffix(".json").read_text())
            if file.exists() and said.items() <= made.items():
                return False
        if state.exists():
            read_state(state, said)
        torch.manual_seed(s.seed % datasets.SEEDS)
        model, loss, data = prepare()
        # Bound here, all but the model: Fabric gives each process its own copy of that.
        loop = partial(fit, loss=loss, data=data, state=state, run=replace(run, said=said))
        try:
            with own_processes(hardware.nodes):
                history = fabric(hardware).launch(loop, model)
        except ProcessException as error:
            what = str(error).strip().splitlines()[-1]
            raise InputError(f"{file}: one of the processes failed: {what}") from error
        if not first:
            with files.locked(file):  # until the first has written
                return False
        if processes > 1:
            model.load_state_dict(read_state(state, said)["model"])
        about = {"normalization": data.norm._asdict(), "hardware": asdict(hardware)}
        checkpoints.save(model, file, said | about | {"history": history})
        state.unlink(missing_ok=True)
    return True


def fit(
    fabric: Any, model: Any, loss: Loss, data: datasets.Patches, state: Path, run: Run
) -> list[float]:
    """Train ``model`` in place, as one of the processes; returns the mean loss of every epoch."""
    s, parts, world = run.settings, run.hardware.accumulate, fabric.world_size
    order = datasets.Shuffled(len(data), s.seed, s.batch, rank=fabric.global_rank, world=world)
    batches = datasets.loader(data, s.batch // (world * parts), order)
    adamw = torch.optim.AdamW(parameter_groups(model, s), betas=s.betas, fused=True)
    wrapped, optimiser = fabric.setup(model, adamw)
    history: list[float] = []
    if state.exists():
        saved = read_state(state, run.said)
        model.load_state_dict(saved["model"])
        adamw.load_state_dict(saved["optimiser"])
        history = saved["history"]
    steps, silent = len(order) * world // s.batch, not (run.progress and fabric.is_global_zero)
    bar = tqdm(total=steps * s.epochs, initial=steps * len(history), unit="step", disable=silent)
    with bar, steady() as interrupt:
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
                interrupt()
            history.append(mean := fabric.all_reduce(torch.stack(losses).mean()).item())
            if not math.isfinite(mean):
                raise InputError(f"loss is {mean} in epoch {epoch + 1}; lower the learning rate")
            bar.set_description(f"epoch {epoch + 1}, loss {mean:.4f}")
            if (caller := multiprocessing.parent_process()) and not caller.is_alive():
                raise SystemExit("the process that started this one has ended")  # and may run again
            if fabric.is_global_zero:
                if run.on_epoch:
                    run.on_epoch(model, history)
                saved = {"model": model.state_dict(), "optimiser": adamw.state_dict()}
                with files.atomic_write(state) as whole, whole.open("wb") as file:
                    torch.save(saved | {"history": history, "run": json.dumps(run.said)}, file)
    return history


def fabric(hardware: Hardware) -> Any:
    """Lightning's Fabric: it moves to devices, casts, and shares gradients among its processes."""
    from lightning.fabric import Fabric  # takes seconds; whoever only loads a model needs none
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    cuda = torch.cuda.is_available()
    if cuda and hardware.devices > torch.cuda.device_count():
        raise InputError(f"devices={hardware.devices}: there are {torch.cuda.device_count()} GPUs")
    return Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=hardware.devices,
        num_nodes=hardware.nodes,
        strategy="ddp_spawn" if hardware.devices * hardware.nodes > 1 else "auto",
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

    ``lr_scale`` is ``layer_decay`` to the number of Swin blocks from the top of the encoder down.
    """
    decay = settings.layer_decay
    if decay == 1:
        groups = param_groups_weight_decay(model, WEIGHT_DECAY, no_weight_decay_list=NO_DECAY)
    else:
        groups = param_groups_layer_decay(model, WEIGHT_DECAY, NO_DECAY, layer_decay=decay)
    return [{"lr_scale": 1.0, "lr": settings.learning_rate} | group for group in groups]


def precision() -> Precision:
    """bfloat16 autocast where the device multiplies it natively (CPUs included), else float32."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    capable: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = any(capable.get(name) for name in ("amx_bf16", "amx_tile", "avx512_bf16"))
    return "bf16-mixed" if fast else "32-true"


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
def own_processes(nodes: int) -> Iterator[None]:
    """Let processes that start now ignore the caller's script, and other launchers' words of theirs."""
    main, said = sys.modules["__main__"], dict(os.environ)
    others = multiprocessing.active_children()
    sys.modules["__main__"] = ModuleType("__main__")
    for name in LAUNCHERS if nodes > 1 else (*LAUNCHERS, *MEETING):
        os.environ.pop(name, None)
    try:
        yield
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():
            if child not in others and not child.daemon:
                child.join(60)  # until it has ended its step, and the line of its bar
        raise
    finally:
        sys.modules["__main__"] = main
        os.environ.update(said)


@contextmanager
def steady() -> Iterator[Callable[[], None]]:
    """Let torch compute the same again, where it can, and hold Ctrl-C; gives what raises it.

    Raised within one of torch's callbacks from C++, KeyboardInterrupt would end the process.
    """
    noted: list[Any] = []

    def interrupt() -> None:
        if noted or _asked:
            raise KeyboardInterrupt

    before, handler = torch.are_deterministic_algorithms_enabled(), signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if ours := main and callable(handler):
        signal.signal(signal.SIGINT, lambda *_: noted.append(_))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Or every new tensor is filled with NaN, in case something reads it too early.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield interrupt
        interrupt()
    except Exception:
        interrupt()  # of a process beside this one, which Ctrl-C has ended
        raise
    finally:
        torch.use_deterministic_algorithms(before)
        if ours:
            signal.signal(signal.SIGINT, handler)
