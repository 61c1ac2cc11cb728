"""Small worlds that several tests share; nothing here touches the network or a GPU."""

import dataclasses
import gc
import multiprocessing
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import settings

import sartutorial as st
from sartutorial import lulc, profiles

# The same examples in every CI run; elsewhere hypothesis looks for new ones. No deadline: machines differ.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("here", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")

TINY = dataclasses.replace(
    profiles.PROFILES["laptop"],
    name="tiny",
    patch_size=64,
    world=1,
    scene_size=1024,
    embed_dim=16,
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 2, 4),
    decoder_width=32,  # a group of one value, as 16 would give for one small image, has no norm
    mixmae_decoder=(16, 1, 2),
    pretrain_epochs=2,
    finetune_epochs=2,
    finetune_warmup=1,
    finetune_batch=8,  # from here on what tests were written for, whatever the laptop's recipe is
    finetune_base_lr=0.32,
    merged_taps=True,
    head="quarter",
    layer_decay=0.8,
)
profiles.PROFILES["tiny"] = TINY
# Children are forks of a process that has all imports done: each would take seconds of its own.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *{f"sartutorial.{module}" for module in ("cli", *st._HOME.values())},
        *("hypothesis", "lightning.fabric", "pandas", "pyarrow.parquet", "pytest", "shapely"),
    ]
)
UTM = "EPSG:32653"
GRID = Affine(5.0, 0, 500_000, 0, -5.0, 3_652_000)  # close to 33N 135E


def pytest_addoption(parser):
    parser.addoption(
        "--first-cases",
        action="store_true",
        help="of a test with many cases, run the first: what other library versions break, breaks there",
    )


def pytest_collection_modifyitems(config, items):
    if config.getoption("--first-cases"):
        first = {(i.path, getattr(i, "originalname", i.name)): i for i in reversed(items)}
        rest = [i for i in items if i not in first.values()]
        config.hook.pytest_deselected(items=rest)
        items[:] = [i for i in items if i in first.values()]


@pytest.fixture(autouse=True)
def quiet(capsys):
    """The package's functions draw no progress bar unless they are asked to."""
    yield
    said = capsys.readouterr()
    assert "%|" not in said.out + said.err
    assert "it/s" not in said.out + said.err


@pytest.fixture(scope="session")
def tiny():
    """A profile for tests."""
    return TINY


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A simulated scene with tiles, and every raster step done."""
    out = tmp_path_factory.mktemp("world")
    with mock.patch("sartutorial.world.simulate.TILE_PIXELS", 3000):  # a sixteenth of the real ones
        st.simulate(out, profile="tiny", seed=3)
    st.downsample(out / "scenes", out / "half")
    st.label(out / "half", out / "lulc", out / "labels")
    st.cut(out / "half", out / "labels", out / "patches", size=64)
    # Forty patches: too few to lose some to a buffer.
    st.sample(out / "patches", out / "lulc", points=20_000, block=2, buffer=0)
    return out


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A folder with the package as it is installed, far from the repository."""
    out, root = tmp_path_factory.mktemp("wheel"), Path(__file__).parents[1]
    for name in ("sartutorial", "book/results", "book/weights"):
        shutil.copytree(root / name, out / "source" / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, out / "source")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", out, out / "source"], check=True)
    (made,) = out.glob("*.whl")
    shutil.unpack_archive(made, out / "site", "zip")
    shutil.rmtree(out / "source")
    return out / "site"


@pytest.fixture(scope="session")
def real():
    """The folder of real rasters; tests that want it are skipped, loudly, where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SARTUTORIAL_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"REAL DATA NOT TESTED: no folder {folder}; set SARTUTORIAL_REAL_DATA")
    return folder


@pytest.fixture
def run(capsys, monkeypatch, tiny):
    """Run a command in this process, with tiny networks: exit code, output, errors."""
    from sartutorial import cli

    monkeypatch.setitem(profiles.PROFILES, "laptop", tiny)

    def call(*arguments):
        try:
            cli.main([str(a) for a in arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        if arguments[0] in ("pretrain", "finetune"):
            gc.collect()  # a bar that an error left open is drawn once more when it is collected
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@contextmanager
def stopped_in(epoch):
    """Whatever trains within is interrupted in the epoch of this number, counted from 0."""
    from sartutorial.learn import training

    fit = training.fit

    def dies(*arguments, run, **options):
        def stop(model, losses):
            if len(losses) > epoch:
                raise KeyboardInterrupt
            if run.on_epoch:
                run.on_epoch(model, losses)

        return fit(*arguments, run=dataclasses.replace(run, on_epoch=stop), **options)

    with (
        mock.patch.object(training, "fit", dies),
        pytest.raises((KeyboardInterrupt, SystemExit)),
    ):
        yield


def write(path, array, *, transform=GRID, crs=UTM, nodata=0, **tags):
    """Write a small GeoTIFF, of one band or several; where its name tells no product, a tag says sigma0."""
    if not path.name.startswith(("IMG-", "N23W161_", "ALOS2")):
        tags = {"QUANTITY": "sigma0"} | tags
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = array[None] if array.ndim == 2 else array
    count, height, width = bands.shape
    grid = dict(height=height, width=width, crs=crs, transform=transform)
    with rasterio.open(
        path, "w", driver="GTiff", count=count, dtype=array.dtype, nodata=nodata, **grid
    ) as dataset:
        dataset.write(bands)
        dataset.update_tags(**tags)
    return path


def scene_array(rng, height, width, hole=0.0):
    """Random amplitude DN with a share of no-data pixels."""
    dn = rng.integers(1, 5000, (height, width)).astype(np.uint16)
    dn[rng.random(dn.shape) < hole] = 0
    return dn


def land_array(rng, height, width):
    """Random HR-LULC ids, void among them."""
    ids = [lulc.HR_LULC.void, *(i for i in lulc.HR_LULC.ids if i < 15)]
    return rng.choice(ids, (height, width)).astype(np.uint8)
