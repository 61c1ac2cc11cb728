"""kill -9 at random moments of every raster step: run again, it ends as if nothing had happened."""

import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from affine import Affine
from conftest import GRID, land_array, scene_array, write
from safetensors.torch import load_file

import sartutorial as st

KILLS = {"predict": 3}  # imports take most of its time; ten for every other step
STEPS = {
    "simulate": "simulate --out out --seed 3 --profile tiny",
    "downsample": "downsample scenes --out out",
    "label": "label half --tiles tiles --out out",
    "patches": "patches half --labels labels --out out --size 64 --max-void 1",
    "export": "export cut --out out",
    "import": "import pairs/locations.csv --sar pairs/sar --labels pairs/label --out out",
    "sample": "sample out --tiles tiles --points 20000 --block 1 --buffer 0",
    "predict": "predict half --model model/model.safetensors --out out",
}
TRAINING = "pretrain sampled --out out --epochs 12 --profile tiny"
# The imports come before the word, so that a kill falls into the work. Small tiles, small worlds.
CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import conftest, pandas
from sartutorial import cli
from sartutorial.world import simulate
getattr(cli, cli.COMMANDS[sys.argv[2]])
simulate.TILE_PIXELS = 1200
print("ready", flush=True)
cli.main(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Three scenes and what each step needs."""
    at, rng = tmp_path_factory.mktemp("ground"), np.random.default_rng(4)
    for i in range(3):
        moved = Affine.translation(i * 3000, 0) * GRID
        name = f"IMG-HH-ALOS245850321{i}-221119-UBSR2.1GUD.tif"
        write(at / "scenes" / name, scene_array(rng, 900, 700), transform=moved)
    write(at / "tiles" / "t.tif", land_array(rng, 1200, 2200), transform=GRID * Affine.scale(2))
    st.downsample(at / "scenes", at / "half")
    st.label(at / "half", at / "tiles", at / "labels")
    st.cut(at / "half", at / "labels", at / "cut", size=64, max_void=1)
    st.export(at / "cut", at / "pairs")
    shutil.copytree(at / "cut", at / "sampled")
    st.sample(at / "sampled", at / "tiles", points=20_000, block=1, buffer=0)
    st.finetune(at / "sampled", at / "model", profile="tiny", epochs=1)
    return at


def start(ground, step, where):
    """A run of ``step`` that has its imports done; its output goes to ``where/out``."""
    where.mkdir(exist_ok=True)
    for path in ground.iterdir():
        if not (where / path.name).exists():
            (where / path.name).symlink_to(path)
    if step == "sample" and not (where / "out").exists():
        shutil.copytree(ground / "cut", where / "out")
    command = [
        sys.executable,
        "-c",
        CHILD,
        Path(__file__).parent,
        *(STEPS | {"pretrain": TRAINING})[step].split(),
    ]
    child = subprocess.Popen(
        command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n", child.stderr.read()
    return child


def contents(folder):
    """The bytes of every file under its final name; not locks, notes and partial files."""
    files = (p for p in folder.rglob("*") if p.is_file() and ".made" not in p.parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_killed_step_runs_again_to_the_same_bytes(ground, tmp_path, step):
    child = start(ground, step, tmp_path / "undisturbed")
    begin = time.monotonic()
    _, err = child.communicate()
    assert child.returncode == 0, err
    takes, whole = time.monotonic() - begin, contents(tmp_path / "undisturbed" / "out")
    assert whole
    allowed = {k: {v} for k, v in whole.items()}
    if step == "sample":  # the index is there before, and is completed
        before = contents(ground / "cut")
        allowed = {k: {v, before.get(k)} for k, v in whole.items()}

    moments, killed, where = random.Random(step), 0, tmp_path / "killed"
    kills = KILLS.get(step, 10)
    for _ in range(10 * kills):
        if killed == kills:
            break
        child = start(ground, step, where)
        time.sleep(moments.uniform(0, takes))
        child.kill()
        child.communicate()
        if child.returncode == -9:
            killed += 1
        found = contents(where / "out")
        assert all(v in allowed[k] for k, v in found.items())
        if found == whole:  # done too early: begin anew
            shutil.rmtree(where / "out")
    assert killed == kills
    child = start(ground, step, where)
    _, err = child.communicate()
    assert child.returncode == 0, err
    assert contents(where / "out") == whole


@pytest.mark.slow
def test_a_training_killed_within_its_epochs_ends_with_the_same_weights(ground, tmp_path):
    """kill -9 three times, each some moment after another epoch was saved."""

    def ended(where):
        child = start(ground, "pretrain", where)
        _, err = child.communicate()
        assert child.returncode == 0, err
        file = where / "out" / "encoder.safetensors"
        return load_file(file), json.loads(file.with_suffix(".json").read_text())

    state, description = ended(tmp_path / "undisturbed")
    moments, last, epochs = random.Random(6), tmp_path / "killed" / "out" / "last.ckpt", []
    for _ in range(3):
        saved = last.stat().st_mtime_ns if last.exists() else 0
        child = start(ground, "pretrain", tmp_path / "killed")
        while child.poll() is None and not (last.exists() and last.stat().st_mtime_ns > saved):
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.15))
        child.kill()
        _, err = child.communicate()
        assert child.returncode == -9, err
        epochs.append(len(torch.load(last, weights_only=True)["history"]))
    assert epochs == sorted(set(epochs))  # each run went on from where the last one was
    resumed, said = ended(tmp_path / "killed")
    assert said["history"] == description["history"]
    assert all(torch.equal(resumed[k], state[k]) for k in state)


@pytest.mark.slow
def test_ten_scenes_killed_thirty_times_end_as_if_undisturbed(tmp_path):
    """Halving, labels and patches of ten scenes, one command after the other, killed at any moment."""
    rng = np.random.default_rng(5)
    for i in range(10):
        dn = scene_array(rng, 420, 380)
        dn[:, :40] = 0
        write(
            tmp_path / "scenes" / f"{i}.tif", dn, transform=Affine.translation(i * 1500, 0) * GRID
        )
    write(
        tmp_path / "tiles" / "t.tif", land_array(rng, 500, 1800), transform=GRID * Affine.scale(2)
    )
    chain = """
import sys
import pandas
from sartutorial import cli, downsampling, labels, patches
print("ready", flush=True)
for line in (
    "downsample scenes --out OUT/half",
    "label OUT/half --tiles tiles --out OUT/labels",
    "patches OUT/half --labels OUT/labels --out OUT/patches --size 32 --max-void 1",
):
    cli.main(line.replace("OUT", sys.argv[1]).split())
"""

    def begin(out):
        child = subprocess.Popen([sys.executable, "-c", chain, out], cwd=tmp_path, text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        assert child.stdout.readline() == "ready\n", child.stderr.read()
        return child

    child = begin("undisturbed")
    ready = time.monotonic()
    _, err = child.communicate()
    assert child.returncode == 0, err
    takes, whole = time.monotonic() - ready, contents(tmp_path / "undisturbed")
    assert len(whole) == 10 + 10 + 3 * 10 + 1
    moments, killed = random.Random(30), 0
    progress = [0]
    for _ in range(90):
        if killed == 30:
            break
        child = begin("killed")
        time.sleep(moments.uniform(0, takes / 4))
        child.kill()
        child.communicate()
        killed += child.returncode == -9
        found = contents(tmp_path / "killed")
        assert found.items() <= whole.items()  # whole files, and right ones
        progress.append(len(found))
        if found == whole:  # done too early: begin anew
            shutil.rmtree(tmp_path / "killed")
    assert killed == 30
    assert len(set(progress)) > 5  # the kills fell into the work
    child = begin("killed")
    _, err = child.communicate()
    assert child.returncode == 0, err
    assert contents(tmp_path / "killed") == whole
