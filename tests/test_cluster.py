"""The jobs for a cluster: one that its time limit cut off is submitted again, one that failed is not."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

import sartutorial
from sartutorial.learn import checkpoints, training

torch.set_num_threads(1)  # as the jobs' processes have it

JOBS = Path(__file__).parents[1] / "configs" / "cluster"
COMMAND = """#!/bin/bash
echo "$@" >> asked
[ "$(wc -l < asked)" -ge {runs} ] && exit {code}
trap 'exit 130' INT
while :; do sleep 0.05; done
"""
SUBMIT = """
. {jobs}/job.sh
again() {{ echo "again $1"; AGAIN=$1 run_recipe "$RECIPE" 0.3; }}
RECIPE=r.yaml AGAIN={left}
run_recipe "$RECIPE" 0.3
"""


@pytest.mark.parametrize(
    ("runs", "code", "left", "ends", "said"),
    [
        (3, 0, 10, 0, ["again 9", "again 8"]),  # the third job ends the recipe
        (1, 1, 10, 1, []),  # a fault is not tried again
        (9, 0, 1, 124, ["again 0"]),  # nobody submits for ever
    ],
)
def test_a_job_goes_on(tmp_path, runs, code, left, ends, said):
    command = tmp_path / "sartutorial"
    command.write_text(COMMAND.format(runs=runs, code=code))
    command.chmod(0o755)
    script = SUBMIT.format(jobs=JOBS, left=left)
    environment = {"PATH": "/usr/bin:/bin", "SARTUTORIAL": str(command)}
    done = subprocess.run(
        ["bash", "-uc", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split("\n")[:-1]) == (ends, said), done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == ["run r.yaml"] * (len(said) + 1)


@pytest.mark.parametrize("job", sorted(JOBS.iterdir()), ids=lambda p: p.name)
def test_its_shell_is_sound(job):
    assert subprocess.run(["bash", "-n", job]).returncode == 0


# Stand-ins for SLURM's commands: of two nodes, both of this machine.
SLURM = {
    "scontrol": "echo 127.0.0.1; echo elsewhere",
    "srun": 'for i in 0 1; do SLURM_NNODES=2 SLURM_NODEID=$i "$@" & all="${all:-} $!"; done\n'
    "for i in $all; do wait $i || exit; done",
}


def slurm(at):
    """The environment of a job on two nodes."""
    for name, text in SLURM.items():
        (at / name).write_text(f"#!/bin/bash\n{text}\n")
        (at / name).chmod(0o755)
    said = dict(SLURM_SUBMIT_DIR=str(JOBS.parents[1]), SLURM_JOB_NODELIST="n[1-2]")
    said["SLURM_JOB_ID"] = str(os.getpid())  # of which the job makes a port
    return os.environ | said | {"PATH": f"{at}:{os.environ['PATH']}"}


CHILD = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import conftest
from sartutorial import _main
_main()
"""


def told(at):
    """The environment that names our command, which knows the tests' networks."""
    (at / "run.py").write_text(CHILD)
    command = f"{sys.executable} {at / 'run.py'} {Path(__file__).parent}"
    return {"SARTUTORIAL": command, "OMP_NUM_THREADS": "1"}


def killed(processes, number=signal.SIGKILL):
    """Send a signal to all of them, the youngest first."""
    for process in reversed(processes):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@pytest.mark.nightly
def test_a_job_on_two_nodes_trains_the_encoder_of_one_even_if_a_node_is_lost(world, tmp_path):
    """Over gloo, in float32; the one left ends in a line, and the job goes on when submitted again."""
    exact = dict(epochs=6, profile="tiny")
    hardware = training.Hardware(precision="32-true")
    alone = sartutorial.pretrain(world / "patches", tmp_path / "alone", hardware=hardware, **exact)
    recipe, file = tmp_path / "r.yaml", tmp_path / "nodes" / "encoder.safetensors"
    options = exact | dict(patches=str(world / "patches"), out="nodes", precision="32-true")
    recipe.write_text(yaml.safe_dump(dict(data=str(tmp_path), pretrain=options)))

    def job():
        environment = slurm(tmp_path) | told(tmp_path) | dict(RECIPE=str(recipe), STEP="pretrain")
        return subprocess.Popen(
            ["bash", JOBS / "nodes.slurm"], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    submitted, last = job(), file.with_name("last.ckpt")
    while not last.exists():
        assert submitted.poll() is None, submitted.communicate()
        time.sleep(0.02)
    children = psutil.Process(submitted.pid).children(recursive=True)
    killed([p for p in children if p.environ().get("NODE_RANK") == "1"])
    said = submitted.communicate()[1]
    assert submitted.returncode == 1  # a fault, which is not submitted again
    assert [t for t in said.splitlines() if t.startswith(f"sartutorial: {file}: one of")], said
    assert 0 < len(torch.load(last, weights_only=True)["history"]) < 6
    submitted = job()
    out, said = submitted.communicate()
    assert (submitted.returncode, out.splitlines()) == (0, [str(file)] * 2), said
    (state, description), (other, said) = map(checkpoints.load, (alone, file))
    assert said["hardware"]["nodes"] == 2
    assert said["history"] == pytest.approx(description["history"], rel=1e-4)
    for key, value in state.items():
        torch.testing.assert_close(other[key], value, rtol=1e-2, atol=2e-4)


RECIPE = """
data: {data}
downsample: {{scene: scenes, out: {out}/half}}
label: {{scene: "{out}/half", tiles: lulc, out: {out}/labels}}
patches: {{scene: "{out}/half", labels: "{out}/labels", out: {out}/patches, size: 64}}
sample: {{patches: "{out}/patches", tiles: lulc, points: 20000, block: 2, buffer: 0}}
pretrain: {{patches: "{out}/patches", out: {out}/encoder, epochs: 30, profile: tiny}}
"""


@pytest.mark.nightly
def test_a_job_that_is_cut_off_ends_as_one_that_is_not(run, world, tmp_path):
    """Of a recipe: by the cluster's SIGTERM and SIGKILL in its training, and by the job's own limit."""
    environment = os.environ | told(tmp_path)

    def written(out):
        recipe = tmp_path / f"{out.name}.yaml"
        recipe.write_text(RECIPE.format(data=world, out=out))
        return recipe

    def job(out):
        """Submit the job."""
        script = f". {JOBS}/job.sh; again() {{ echo again; }}; run_recipe {written(out)} 900"
        return subprocess.Popen(
            ["bash", "-uc", script], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def at_work(out):
        """Submit it, and wait until the training has saved one epoch more than it had."""
        state, submitted = out / "encoder" / "last.ckpt", job(out)
        before = state.stat().st_mtime_ns if state.exists() else 0
        while not (state.exists() and state.stat().st_mtime_ns > before):
            assert submitted.poll() is None, submitted.communicate()[0]
            time.sleep(0.02)
        return submitted, psutil.Process(submitted.pid)

    whole, out = tmp_path / "whole", tmp_path / "cut"
    code, _, said = run("run", written(whole))
    assert code == 0, said
    for number in (signal.SIGTERM, signal.SIGKILL):
        submitted, job_of = at_work(out)
        # All of it, as a cluster does: `timeout` has its own group.
        killed([job_of, *job_of.children(recursive=True)], number)
        assert "again" not in submitted.communicate()[0].splitlines()
        assert not (out / "encoder" / "encoder.safetensors").exists()
    submitted, job_of = at_work(out)
    (limit,) = (p for p in job_of.children() if p.name() == "timeout")
    limit.send_signal(signal.SIGALRM)  # which is how the system tells it that the time is up
    said = submitted.communicate()[0]
    assert said.splitlines()[-1] == "again", said
    assert "interrupted; run it again" in said
    said = job(out).communicate()[0]
    states = [load_file(at / "encoder" / "encoder.safetensors") for at in (whole, out)]
    assert states[0].keys() == states[1].keys()
    assert all((states[0][key] == value).all() for key, value in states[1].items()), said
    for file in whole.rglob("*.tif"):
        if ".made" not in file.parts:
            assert file.read_bytes() == (out / file.relative_to(whole)).read_bytes()
