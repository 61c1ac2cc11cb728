"""kill -9 at random moments of every raster step: run again, it ends as if nothing had happened."""

import hashlib
import json
import os
import random
import shutil
import time

import numpy as np
import pytest
import torch
from affine import Affine
from conftest import FORKS, GRID, land_array, scene_array, write
from safetensors.torch import load_file

import sartutorial as st
from sartutorial import cli
from sartutorial.world import simulate

KILLS = 6
STEPS = {
    "simulate": "simulate --out out --seed 3 --profile tiny",
    "downsample": "downsample scenes --out out",
    "label": "label half --tiles tiles --out out",
    "patches": "patches half --labels labels --out out --size 64 --max-void 1",
    "export": "export cut --out out",
    "import": "import pairs/locations.csv --sar pairs/sar --labels pairs/label --out out",
    "sample": "sample out --tiles tiles --points 20000 --block 1 --buffer 0",
    "predict": "predict half --model model/model.safetensors --out out --confidence",
    "mosaic": "mosaic maps --out out/region.tif --min-area 0.1",
}
TRAINING = "pretrain sampled --out out --epochs 12 --profile tiny"


def act(where, *lines):
    """What a child does: commands in a folder, what they say in ``said`` beside it."""
    os.chdir(where)
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    simulate.TILE_PIXELS = 1200
    for line in lines:
        cli.main(line.split())


def begin(where, *lines):
    """A child that has begun to run commands: a fork, so that a kill falls into the work."""
    child = FORKS.Process(target=act, args=(where, *lines))
    child.start()
    return child


def finished(where, *lines):
    """Run commands to their end; the seconds they take."""
    start = time.monotonic()
    child = begin(where, *lines)
    child.join()
    assert child.exitcode == 0, (where / "said").read_text()
    return time.monotonic() - start


def killed(child, seconds):
    """Kill a child after some time; whether it was still at work."""
    child.join(seconds)
    child.kill()
    child.join()
    return child.exitcode == -9


@pytest.fixture(scope="module", autouse=True)
def imports(tmp_path_factory):
    """The server of the forks imports for seconds: before the first child whose time is taken."""
    finished(tmp_path_factory.mktemp("imports"))


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
    model = st.finetune(at / "sampled", at / "model", profile="tiny", epochs=1)
    st.predict(at / "half", model, at / "maps", confidence=True)
    return at


def prepared(ground, step, where):
    """A folder for a step, with links to what it needs."""
    where.mkdir(exist_ok=True)
    for path in ground.iterdir():
        if not (where / path.name).exists():
            (where / path.name).symlink_to(path)
    if step == "sample" and not (where / "out").exists():
        shutil.copytree(ground / "cut", where / "out")
    return where


def products(folder):
    """Every file under its final name; not locks, notes and partial files."""
    return [p for p in folder.rglob("*") if p.is_file() and ".made" not in p.parts]


def contents(folder):
    """The bytes of every product."""
    digest = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in products(folder)}
    return {str(p.relative_to(folder)): code for p, code in digest.items()}


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_killed_step_runs_again_to_the_same_bytes(ground, tmp_path, step):
    line = STEPS[step]
    takes = finished(prepared(ground, step, tmp_path / "undisturbed"), line)
    whole = contents(tmp_path / "undisturbed" / "out")
    assert whole
    allowed = {k: {v} for k, v in whole.items()}
    if step == "sample":  # the index is there before, and is completed
        before = contents(ground / "cut")
        allowed = {k: {v, before.get(k)} for k, v in whole.items()}

    moments, kills, where = random.Random(step), 0, tmp_path / "killed"
    for _ in range(10 * KILLS):
        if kills == KILLS:
            break
        kills += killed(begin(prepared(ground, step, where), line), moments.uniform(0, takes))
        found = contents(where / "out")
        assert all(v in allowed[k] for k, v in found.items())
        if found == whole:  # done too early: begin anew
            shutil.rmtree(where / "out")
    assert kills == KILLS
    finished(prepared(ground, step, where), line)
    assert contents(where / "out") == whole


@pytest.mark.slow
def test_a_training_killed_within_its_epochs_ends_with_the_same_weights(ground, tmp_path):
    """kill -9 three times, each some moment after another epoch was saved."""

    def ended(where):
        finished(prepared(ground, "pretrain", where), TRAINING)
        file = where / "out" / "encoder.safetensors"
        return load_file(file), json.loads(file.with_suffix(".json").read_text())

    state, description = ended(tmp_path / "undisturbed")
    moments, last, epochs = random.Random(6), tmp_path / "killed" / "out" / "last.ckpt", []
    for _ in range(3):
        saved = last.stat().st_mtime_ns if last.exists() else 0
        child = begin(prepared(ground, "pretrain", tmp_path / "killed"), TRAINING)
        while child.is_alive() and not (last.exists() and last.stat().st_mtime_ns > saved):
            time.sleep(0.01)
        assert killed(child, moments.uniform(0, 0.15)), (tmp_path / "killed/said").read_text()
        epochs.append(len(torch.load(last, weights_only=True)["history"]))
    assert epochs == sorted(set(epochs))  # each run went on from where the last one was
    resumed, said = ended(tmp_path / "killed")
    assert said["history"] == description["history"]
    assert all(torch.equal(resumed[k], state[k]) for k in state)


@pytest.mark.slow
def test_the_same_training_twice_at_once_is_done_once(ground, tmp_path):
    line = f"pretrain sampled --out {tmp_path / 'out'} --epochs 3 --profile tiny"
    both = [prepared(ground, "pretrain", tmp_path / name) for name in ("one", "two")]
    children = [begin(where, line) for where in both]
    for child in children:
        child.join()
    said = [(where / "said").read_text() for where in both]
    assert [child.exitcode for child in children] == [0, 0], said
    assert sorted("epoch 3" in text for text in said) == [False, True]  # one has a bar
    description = tmp_path / "out" / "encoder.json"
    assert len(json.loads(description.read_text())["history"]) == 3


@pytest.mark.slow
def test_ten_scenes_killed_thirty_times_end_as_if_undisturbed(tmp_path):
    """Halving, labels and patches of ten scenes, one command after the other, killed at any moment."""
    rng = np.random.default_rng(5)
    for i in range(10):
        dn = scene_array(rng, 420, 380)
        dn[:, :40] = 0
        moved = Affine.translation(i * 1500, 0) * GRID
        write(tmp_path / "scenes" / f"{i}.tif", dn, transform=moved)
    land = land_array(rng, 500, 1800)
    write(tmp_path / "tiles" / "t.tif", land, transform=GRID * Affine.scale(2))

    def chain(out):
        return (
            f"downsample scenes --out {out}/half",
            f"label {out}/half --tiles tiles --out {out}/labels",
            f"patches {out}/half --labels {out}/labels --out {out}/patches --size 32 --max-void 1",
        )

    finished(tmp_path, *chain("undisturbed"))
    whole, out = contents(tmp_path / "undisturbed"), tmp_path / "killed"
    assert len(whole) == 10 + 10 + 3 * 10 + 1
    moments, kills, found = random.Random(30), 0, {}
    for _ in range(90):
        if kills == 30:
            break
        child, some = begin(tmp_path, *chain("killed")), len(found) + moments.randrange(8)
        while child.is_alive() and len(products(out)) < some:
            time.sleep(0.005)
        kills += killed(child, moments.uniform(0, 0.1))
        found = contents(out)
        assert found.items() <= whole.items()  # whole files, and right ones
        if found == whole:  # done too early: begin anew
            shutil.rmtree(out)
            found = {}
    assert kills == 30
    finished(tmp_path, *chain("killed"))
    assert contents(tmp_path / "killed") == whole
