"""The jobs for a cluster: one that its time limit cut off is submitted again, one that failed is not."""

import subprocess
from pathlib import Path

import pytest

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
