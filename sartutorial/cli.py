"""The command line: each step of the book as a command, in the order in which data flows."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from cyclopts import App, Parameter
from cyclopts.config import Dict
from cyclopts.types import NonNegativeFloat, NonNegativeInt, PositiveInt

from sartutorial import InputError, __version__, profiles
from sartutorial.radiometry import Quantity

HELP = """From a raw ALOS-2 PALSAR-2 scene to a land-cover map, step by step.

A first run on simulated data, in minutes on two cores:

    sartutorial simulate --out world
    sartutorial downsample world/scenes --out half
    sartutorial label half --tiles world/lulc --out labels
    sartutorial patches half --labels labels --out patches
    sartutorial sample patches --tiles world/lulc
    sartutorial pretrain patches --out encoder
    sartutorial finetune patches --encoder encoder/encoder.safetensors --out model
    sartutorial evaluate patches --model model/model.safetensors
    sartutorial predict half --model model/model.safetensors --out maps

SCENE is a file, a URL or a folder of scenes; PATCHES the folder that `patches` wrote, for training and
evaluation also the file that `pack` wrote. Every command can be run again: it goes on where it stopped,
and leaves alone what is done.
"""

app = App(name="sartutorial", help=HELP, help_format="markdown", version=__version__,
          error_formatter=lambda e: f"sartutorial: {' '.join(str(e).split())}")  # fmt: skip
# Modules are imported in the commands that use them: training from a packed file needs no raster
# library, and no other step torch. So these two are pretraining.Method and downsample.Average again.
Method = Literal["sar-w-simmim", "simmim", "sar-w-mixmae", "mixmae"]
Average = Literal["power", "amplitude"]
Scale = Annotated[
    Literal["laptop", "gpu", "japan"] | None,
    Parameter(help="How large everything is; default $SARTUTORIAL_PROFILE, else laptop."),
]
Workers = Annotated[
    PositiveInt,
    Parameter(help="How many scenes at a time, each in a process of its own (dask.distributed)."),
]
Scheduler = Annotated[
    str | None,
    Parameter(
        env_var="DASK_SCHEDULER_ADDRESS",
        help="Address of a dask scheduler, such as tcp://host:8786, whose workers take the scenes.",
    ),
]


def _chosen(profile: str | None) -> profiles.Profile:
    return profiles.PROFILES[profile] if profile else profiles.current()


def _each(
    run: Callable[..., Path],
    scene: tuple[str, ...],
    out: Path,
    workers: int,
    scheduler: str | None,
    **options: Any,
) -> tuple[dict[str, Path], dict[str, Exception]]:
    """Call ``run`` for every scene and print what it made; those files, and what failed, by scene."""
    from sartutorial import scenes

    found = _scenes(scene)
    folder = scenes.shared(out, scheduler)
    work = partial(
        _into, run=run, folder=folder, progress=len(found) == 1 and not scheduler, **options
    )
    done, failed = scenes.each(work, found, name=run.__name__, workers=workers, scheduler=scheduler,
                               progress=len(found) > 1)  # fmt: skip
    for path in done.values():
        print(path)
    return done, failed


def _into(scene: str, *, run: Callable[..., Path], folder: str, **options: Any) -> Path:
    from sartutorial import rasters

    return run(scene, out=Path(folder) / rasters.name_of(scene), **options)


def _scenes(scene: tuple[str, ...]) -> list[str]:
    from sartutorial import rasters

    if not scene:
        raise InputError("no SCENE given; name files, URLs or folders of scenes")
    return rasters.find(scene)


@app.command(sort_key=0)
def simulate(
    *,
    out: Path,
    profile: Scale = None,
    seed: NonNegativeInt = 0,
    side: PositiveInt | None = None,
    workers: PositiveInt | None = None,
) -> None:
    """Make a simulated world: OUT/scenes, OUT/lulc (land-cover tiles), OUT/dem and OUT/truth.

    Parameters
    ----------
    out
        The folder to write to.
    seed
        Land and speckle follow from it: the same seed gives the same files.
    side
        How many scenes the world has a side; default the profile's.
    workers
        How many processes share the work; default one a processor.
    """
    from sartutorial import simulate as simulation

    scale = _chosen(profile)
    scale = dataclasses.replace(scale, world=side or scale.world)

    simulation.simulate(
        out,
        profile=scale,
        seed=seed,
        workers=workers or os.cpu_count() or 1,
        progress=True,
    )


@app.command(sort_key=1)
def downsample(
    *scene: str,
    out: Path,
    factor: PositiveInt = 2,
    average: Average = "power",
    quantity: Quantity | None = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
) -> None:
    """Average scenes over blocks of pixels, keeping georeference, tags and nodata (paper 2.1).

    Parameters
    ----------
    scene
        Amplitude DN (uint16): files, URLs or folders; a mosaic's .tar.gz stands for its HH.
    out
        The folder to write to; files keep their names.
    factor
        Pixels per block and axis.
    average
        Of power (unbiased) or of amplitude (for comparison).
    quantity
        What the scenes hold; default what their tags or JAXA's file names say.
    """
    from sartutorial import scenes
    from sartutorial.downsample import downsample as run

    options = {"factor": factor, "average": average, "quantity": quantity}
    _, failed = _each(run, scene, out, workers, scheduler, **options)
    scenes.check(failed)


@app.command(sort_key=2)
def label(
    *scene: str, tiles: Path, out: Path, workers: Workers = 1, scheduler: Scheduler = None
) -> None:
    """Bring land-cover tiles onto each scene's grid, by nearest neighbour (paper 2.1).

    Parameters
    ----------
    scene
        What `downsample` wrote: files, URLs or folders.
    tiles
        A folder of land-cover rasters with HR-LULC ids (uint8), in any CRS.
    out
        The folder to write to; label rasters have their scene's name.
    """
    from sartutorial import rasters, scenes
    from sartutorial.labels import label as run

    found = [scenes.shared(t, scheduler) for t in rasters.find([tiles], "land-cover tile")]
    done, failed = _each(run, scene, out, workers, scheduler, tiles=found)
    for name, path in done.items():  # from the file: it may be one that was left alone
        with rasters.opened(path, dtype="uint8") as made:
            absent = made.tags().get("MISSING", "").replace(",", ", ")
        if absent:
            print(f"{name}: partly beyond the land-cover tiles; {absent} would help",
                  file=sys.stderr)  # fmt: skip
    scenes.check(failed)


@app.command(sort_key=3)
def patches(
    *scene: str,
    labels: Path,
    out: Path,
    size: PositiveInt | None = None,
    max_void: float = 0.0,
    profile: Scale = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
) -> None:
    """Cut scenes and labels into patch pairs: OUT/sar (dB), OUT/label, OUT/patches.parquet (paper 2.1).

    Parameters
    ----------
    scene
        What `downsample` wrote: files, URLs or folders.
    labels
        The folder that `label` wrote.
    out
        The folder to write to.
    size
        Pixels per side; default the profile's.
    max_void
        Largest share of unlabelled pixels in a patch; SAR no-data is never tolerated.
    """
    from sartutorial import patches as cutting

    size = size or _chosen(profile).patch_size
    index = cutting.cut(_scenes(scene), labels, out, size=size, max_void=max_void, workers=workers,
                        scheduler=scheduler, progress=True)  # fmt: skip
    print(f"{index}: {len(cutting.read_index(out))} patches")


@app.command(sort_key=3.1)
def export(patches: Path, *, out: Path) -> None:
    """Lay patches out as the authors do: OUT/locations.csv, OUT/sar and OUT/label by date.

    Parameters
    ----------
    patches
        The folder that `patches` wrote.
    out
        The folder to write to: year/month/day/FileName below OUT/sar and OUT/label.
    """
    from sartutorial import exchange

    print(exchange.export(patches, out, progress=True))


@app.command(name="import", sort_key=3.2)
def load(table: Path, *, sar: Path, out: Path, labels: Path | None = None) -> None:
    """Bring patches that are laid out as the authors do into a folder of ours, with its index.

    Parameters
    ----------
    table
        Their CSV table of locations.
    sar
        The root of the SAR patches (float32 dB): year/month/day/FileName.
    labels
        The root of the label patches (HR-LULC ids), laid out in the same way; without it every
        pixel counts as void.
    out
        The folder to write to: what `patches` writes.
    """
    from sartutorial import exchange

    print(exchange.load(table, sar, out, labels=labels, progress=True))


@app.command(sort_key=4)
def sample(
    patches: Path,
    *,
    tiles: Path,
    points: PositiveInt | None = None,
    seed: NonNegativeInt = 0,
    inverse: Literal["reciprocal", "complement"] = "reciprocal",
    allocation: Literal["weight", "area"] = "weight",
    category: Literal["pixels", "weight"] = "pixels",
    forest: bool = True,
    replace: bool = True,
    split: Literal["block", "scene", "random"] = "block",
    block: PositiveInt = 4,
    buffer: NonNegativeFloat = 1.0,
    workers: PositiveInt | None = None,
) -> None:
    """Choose patches by class-weighted points and split them by spatial blocks (paper 2.2).

    Prints what is left after each stage, with its class shares: what PATCHES/sampling.csv holds.

    Parameters
    ----------
    patches
        The folder that `patches` wrote; its index receives the selection and the split.
    tiles
        The folder of land-cover rasters to draw points from.
    points
        How many points; default 20 a patch.
    inverse
        Class weights 1/p or 1 - p: the paper's words allow both.
    allocation
        A tile's share of the points: by the class weights of its pixels, or by its labelled area.
    category
        In a tile, a pixel by the weight of its class, or a class by its weight alone (for
        comparison: this applies the weight twice).
    forest
        Draw points in forest too; else its probability is 0.
    replace
        Draw with replacement; else no pixel twice, and a class is capped at its pixels in a tile.
    split
        By spatial blocks with a buffer; by scene or at random for comparison, since they leak.
    block
        Side of a spatial block, in patches.
    buffer
        Least distance between patches of two splits (blocks only), in patch sides.
    workers
        How many tiles are read at a time; default as many as the machine allows.
    """
    import pandas as pd

    from sartutorial import rasters, sampling

    found = rasters.find([tiles], "land-cover tile")
    sampling.sample(
        patches, found, points=points, seed=seed, inverse=inverse, allocation=allocation,
        category=category, forest=forest, replace=replace, split=split, block=block,
        buffer=buffer, workers=workers, progress=True,
    )  # fmt: skip
    table = pd.read_csv(patches / sampling.REPORT, index_col=0)
    print(table.to_string(float_format="{:.3f}".format))


@app.command(sort_key=4.1)
def pack(patches: Path, *, out: Path) -> None:
    """Pack the sampled patches into one array file, for training without any raster library.

    Parameters
    ----------
    patches
        The folder that `patches` wrote and `sample` completed.
    out
        The file to write to, such as patches.npy: `pretrain`, `finetune` and `evaluate` take it in
        place of the folder.
    """
    from sartutorial import packing

    print(packing.pack(patches, out, progress=True))


@app.command(sort_key=5)
def pretrain(
    patches: Path,
    *,
    out: Path,
    method: Method = "sar-w-simmim",
    domain: Literal["normalised", "linear"] = "normalised",
    epochs: PositiveInt | None = None,
    seed: NonNegativeInt = 0,
    devices: PositiveInt = 1,
    accumulate: PositiveInt = 1,
    precision: Literal["bf16-mixed", "32-true"] | None = None,
    compile: bool = False,
    profile: Scale = None,
) -> None:
    """Pretrain an encoder on unlabelled patches: OUT/encoder.safetensors (paper 3.1).

    Parameters
    ----------
    patches
        The folder that `patches` wrote and `sample` completed, or the file of `pack`.
    out
        The folder to write to; a run that was stopped goes on from its last epoch.
    method
        SimMIM or MixMAE, with the SAR intensity weight or without.
    domain
        Where the weight measures intensity: in normalised dB (the authors' loader) or linear power.
    epochs
        Default the profile's.
    devices
        Processes that share a batch: GPUs, or processes on a CPU.
    accumulate
        Parts of a batch that a process takes one after the other, where memory is short.
    precision
        Default bfloat16 where the device multiplies it, else float32.
    compile
        Compile the model with torch.compile.
    """
    from lightning.pytorch.utilities import rank_zero_only

    from sartutorial.pretraining import pretrain as run
    from sartutorial.training import Machine

    file = run(patches, out, method=method, domain=domain, seed=seed, epochs=epochs,
               profile=_chosen(profile), machine=Machine(devices, accumulate, precision, compile),
               progress=True)  # fmt: skip
    rank_zero_only(print)(file)


@app.command(sort_key=5.1)
def import_weights(file: Path, *, out: Path) -> None:
    """Bring the authors' published weights into OUT/encoder.safetensors or OUT/model.safetensors.

    Nothing that the checkpoint pickles is run. What it does not hold (normalisation, pixel spacing,
    the names of the classes) comes from the authors' code and paper; the JSON beside the weights says
    so.

    Parameters
    ----------
    file
        A torch checkpoint with the authors' keys, on this machine: pretrained (SimMIM, MixMAE) or
        fine-tuned (UPerNet).
    out
        The folder to write to: `finetune --encoder` takes the encoder, `predict --model` the model.
    """
    from sartutorial import published

    print(published.load(file, out))


@app.command(sort_key=6)
def finetune(
    patches: Path,
    *,
    out: Path,
    encoder: Path | None = None,
    epochs: PositiveInt | None = None,
    seed: NonNegativeInt = 0,
    profile: Scale = None,
) -> None:
    """Train encoder and UPerNet on labels: OUT/model.safetensors, OUT/metrics.json (paper 3.2).

    Parameters
    ----------
    patches
        The folder that `patches` wrote and `sample` completed, or the file of `pack`.
    out
        The folder to write to; `metrics.json` holds the scores on the validation split.
    encoder
        What `pretrain` wrote; without it, training starts from random weights.
    epochs
        Default the profile's.
    """
    from sartutorial.finetuning import finetune as run

    print(run(patches, out, encoder=encoder, seed=seed, epochs=epochs, profile=_chosen(profile),
              progress=True))  # fmt: skip


@app.command(sort_key=7)
def evaluate(
    patches: Path,
    *,
    model: Path,
    split: Literal["train", "val", "test"] = "test",
    out: Path | None = None,
) -> None:
    """Score a model on a split: IoU and accuracy per class, mIoU, mAcc, majority class (paper 4).

    Parameters
    ----------
    patches
        The folder that `patches` wrote and `sample` completed, or the file of `pack`.
    model
        What `finetune` wrote.
    out
        A JSON file for the scores and the confusion matrix.
    """
    from sartutorial import evaluation

    result = evaluation.evaluate(patches, model, split=split, out=out, progress=True)
    print(evaluation.table(result))


@app.command(sort_key=8)
def predict(*scene: str, model: Path, out: Path) -> None:
    """Map whole scenes: one scene to the file OUT, several to the folder OUT (paper 4, Fig. 4).

    Parameters
    ----------
    scene
        What `downsample` wrote: files, URLs or folders, of the model's pixel spacing.
    model
        What `finetune` wrote.
    out
        Cloud-Optimized GeoTIFF: class index + 1, 0 = no data, with the class colours.
    """
    from sartutorial.inference import predict as run

    for path in run(_scenes(scene), model, out, progress=True):
        print(path)


@app.command(sort_key=9)
def table1(
    *, out: Path, seeds: PositiveInt = 3, patches: Path | None = None, profile: Scale = None
) -> None:
    """Repeat the paper's Table 1: five training strategies, several seeds: OUT/table1.json.

    Parameters
    ----------
    out
        The folder for all runs; those that are done are not run again.
    patches
        Sampled patches, a folder or a packed file; default the simulated world's.
    """
    from sartutorial import table1 as table

    chosen = _chosen(profile)
    if patches is None:
        from sartutorial import workspace

        os.environ["SARTUTORIAL_PROFILE"] = chosen.name
        patches = workspace.sampled()
    for row in table.table1(patches, out, seeds=seeds, profile=chosen, progress=True)["rows"]:
        spread = "" if row["miou_std"] is None else f" ± {row['miou_std']:.4f}"
        print(f"{row['name']:<34} mIoU {row['miou_mean']:.4f}{spread} (paper {row['paper_miou']:.4f})"
              f"  mAcc {row['macc_mean']:.4f} (paper {row['paper_macc']:.4f})")  # fmt: skip


def _recipe(config: Path) -> dict[str, dict[str, Any]]:
    """The options a command that a configuration file holds, once each is known to exist."""
    try:
        recipe = yaml.safe_load(config.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{config}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(recipe, dict) or not all(isinstance(o, dict) for o in recipe.values()):
        raise InputError(
            f"{config}: must hold a section a command, such as 'patches: {{size: 64}}'"
        )
    for command, options in recipe.items():
        if command not in list(app):
            raise InputError(f"{config}: there is no command {command}; see 'sartutorial --help'")
        known = inspect.signature(app[command].default_command).parameters  # type: ignore[arg-type]
        for option in options.keys() - known.keys():
            raise InputError(
                f"{config}: {command} has no option {option}; see 'sartutorial {command} --help'"
            )
    return recipe


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None, Parameter(help="YAML with a section a command, such as `patches: {size: 64}`.")
    ] = None,
    debug: Annotated[bool, Parameter(help="Show the whole traceback of an error.")] = False,
) -> None:
    """Run one command; options given by hand win over those in the configuration file."""
    try:
        app.config = (Dict(_recipe(config), source=str(config)),) if config else ()
        app(tokens)
        return
    except (InputError, OSError) as error:
        if debug:
            raise
        message = str(error)
    # Only now, when the traceback has let go of it, is a progress bar's line at its end.
    for line in message.splitlines():
        print(f"sartutorial: {line}", file=sys.stderr)
    sys.exit(1)


def main() -> None:
    """The entry point of ``sartutorial`` and ``python -m sartutorial``."""
    app.meta()
