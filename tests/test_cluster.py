"""The jobs for a cluster: one that its time limit cut off is submitted again, one that failed is not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

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
    subprocess.run(["bash", "-n", job], check=True)


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


@pytest.mark.slow
def test_a_job_on_two_nodes_trains_one_encoder(world, tmp_path):
    (tmp_path / "run.py").write_text(CHILD)
    recipe = tmp_path / "r.yaml"
    out = "out: encoder, epochs: 2, profile: tiny"
    recipe.write_text(f"data: {tmp_path}\npretrain: {{patches: {world}/patches, {out}}}\n")
    command = f"{sys.executable} {tmp_path / 'run.py'} {Path(__file__).parent}"
    told = dict(SARTUTORIAL=command, RECIPE=str(recipe), STEP="pretrain")
    job = ["bash", JOBS / "nodes.slurm"]
    done = subprocess.run(job, env=slurm(tmp_path) | told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "encoder" / "encoder.safetensors"
    assert done.stdout.splitlines() == [str(file)] * 2
    said = json.loads(file.with_suffix(".json").read_text())
    assert said["hardware"]["nodes"] == 2
    assert len(said["history"]) == 2


CHILD = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import conftest
from sartutorial import _main
_main()
"""
RECIPE = """
data: {data}
downsample: {{scene: scenes, out: {out}/half}}
label: {{scene: "{out}/half", tiles: lulc, out: {out}/labels}}
patches: {{scene: "{out}/half", labels: "{out}/labels", out: {out}/patches, size: 64}}
sample: {{patches: "{out}/patches", tiles: lulc, points: 20000, block: 2, buffer: 0}}
pretrain: {{patches: "{out}/patches", out: {out}/encoder, epochs: 100, profile: tiny}}
"""


@pytest.mark.slow
def test_a_job_that_is_cut_off_ends_as_one_that_is_not(world, tmp_path):
    """Of a recipe: by the cluster's SIGTERM and SIGKILL in its training, and by the job's own limit."""
    (tmp_path / "run.py").write_text(CHILD)
    command = f"{sys.executable} {tmp_path / 'run.py'} {Path(__file__).parent}"
    environment = os.environ | {"SARTUTORIAL": command}

    def job(out, seconds):
        """Submit the job."""
        recipe = tmp_path / f"{out.name}.yaml"
        recipe.write_text(RECIPE.format(data=world, out=out))
        script = f". {JOBS}/job.sh; again() {{ echo again; }}; run_recipe {recipe} {seconds}"
        return subprocess.Popen(
            ["bash", "-uc", script], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def at_work(out, submitted):
        """Wait until the training has saved one epoch more than it had."""
        state = out / "encoder" / "last.ckpt"
        before = state.stat().st_mtime_ns if state.exists() else 0
        while not (state.exists() and state.stat().st_mtime_ns > before):
            assert submitted.poll() is None, submitted.communicate()[0]
            time.sleep(0.02)

    whole, out = tmp_path / "whole", tmp_path / "cut"
    said = job(whole, 900).communicate()[0]
    assert (whole / "encoder" / "encoder.safetensors").exists(), said
    for number in (signal.SIGTERM, signal.SIGKILL):
        start, submitted = time.monotonic(), job(out, 900)
        at_work(out, submitted)
        takes = time.monotonic() - start
        job_of = psutil.Process(
            submitted.pid
        )  # all of it, as a cluster does: `timeout` has its own group
        for process in (*job_of.children(recursive=True), job_of):
            process.send_signal(number)
        assert "again" not in submitted.communicate()[0].splitlines()
        assert not (out / "encoder" / "encoder.safetensors").exists()
    said = job(out, round(takes + 0.2, 1)).communicate()[0]
    assert said.splitlines()[-1] == "again", said
    assert "interrupted; run it again" in said
    said = job(out, 900).communicate()[0]
    states = [load_file(at / "encoder" / "encoder.safetensors") for at in (whole, out)]
    assert states[0].keys() == states[1].keys()
    assert all((states[0][key] == value).all() for key, value in states[1].items()), said
    for file in whole.rglob("*.tif"):
        if ".made" not in file.parts:
            assert file.read_bytes() == (out / file.relative_to(whole)).read_bytes()
