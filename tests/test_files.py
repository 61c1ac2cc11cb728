"""Many scenes: the same results from one process, several, or a cluster; failures named at the end."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import land_array, scene_array, write
from test_killed import contents

from sartutorial import InputError, downsample, labels, patches, rasters, scenes


def halve(scene, by=2):
    """Work that some scenes refuse."""
    if scene == "bad":
        raise InputError("bad: of no use; take another")
    if scene == "odd":
        raise ValueError("nobody\nfound this out")
    return len(scene) / by


def test_one_process_goes_on_after_a_failure():
    done, failed = scenes.each(partial(halve, by=1), ["a", "bad", "ccc", "odd"], name="halve")
    assert done == {"a": 1, "ccc": 3}
    assert list(done) == ["a", "ccc"]
    assert list(failed) == ["bad", "odd"]
    with pytest.raises(InputError) as caught:
        scenes.check(failed)
    assert str(caught.value).splitlines() == [
        "bad: of no use; take another",
        "odd: ValueError: nobody found this out",
    ]
    scenes.check({})


def test_a_single_error_is_raised_as_it_is():
    _, failed = scenes.each(halve, ["bad"], name="halve")
    with pytest.raises(InputError) as caught:
        scenes.check(failed)
    assert caught.value is failed["bad"]


def test_threads_follow_gdals_own_variable(monkeypatch):
    monkeypatch.setenv("GDAL_NUM_THREADS", "3")
    assert rasters.threads() == 3
    for other in ("ALL_CPUS", "0", ""):
        monkeypatch.setenv("GDAL_NUM_THREADS", other)
        assert 1 <= rasters.threads() <= os.cpu_count()


@pytest.mark.parametrize("allowed", [1, 3])
def test_no_step_takes_more_threads_than_it_may(tmp_path, monkeypatch, allowed):
    """What is asked of GDAL, and of the pools in which labels are looked up and blocks are cut."""
    asked, pools, gdal, pool = set(), set(), rasterio.open, ThreadPoolExecutor

    def spied_open(*call, **options):
        asked.add(options.get("num_threads", 1))
        return gdal(*call, **options)

    def spied_pool(workers):
        pools.add(workers)
        return pool(workers)

    rng = np.random.default_rng(0)
    scene = write(tmp_path / "s.tif", scene_array(rng, 128, 128))
    tile = write(tmp_path / "t.tif", land_array(rng, 128, 128))
    monkeypatch.setenv("GDAL_NUM_THREADS", str(allowed))
    monkeypatch.setattr(rasterio, "open", spied_open)
    for module in (rasters, patches):
        monkeypatch.setattr(module, "ThreadPoolExecutor", spied_pool)
    half = downsample.downsample(scene, tmp_path / "half" / "s.tif")
    labels.label(half, [tile], tmp_path / "labels" / "s.tif")
    patches.cut([half], tmp_path / "labels", tmp_path / "p", size=32, max_void=1)
    assert asked == pools == {1, allowed}


@pytest.mark.slow
def test_no_scheduler_is_said():
    with pytest.raises(InputError, match=r"tcp://127.0.0.1:9: no dask scheduler answers"):
        scenes.each(halve, ["a"], name="halve", scheduler="tcp://127.0.0.1:9")


def test_a_failing_scene_is_named_and_the_rest_is_indexed(run, tmp_path):
    rng = np.random.default_rng(0)
    for name in "abc":
        write(tmp_path / "half" / f"{name}.tif", scene_array(rng, 64, 64))
        write(tmp_path / "labels" / f"{name}.tif", land_array(rng, 64, 64))
    (tmp_path / "half" / "b.tif").write_text("torn")
    (tmp_path / "labels" / "c.tif").unlink()
    call = ("patches", tmp_path / "half", "--labels", tmp_path / "labels", "--out", tmp_path / "o",
            "--size", 32, "--max-void", 1)  # fmt: skip
    code, _, err = run(*call)
    said = [line for line in err.splitlines() if line.startswith("sartutorial:")]
    assert code == 1
    assert len(said) == 2
    assert "b.tif: not a readable raster" in said[0]
    assert "c.tif: no label raster" in said[1]
    assert set(patches.read_index(tmp_path / "o")["scene"]) == {"a"}


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    """Six scenes with tiles under them, one torn."""
    at, rng = tmp_path_factory.mktemp("land"), np.random.default_rng(1)
    for i in range(6):
        write(at / "scenes" / f"{i}.tif", scene_array(rng, 300, 260, hole=1e-4))
    write(at / "tiles" / "t.tif", land_array(rng, 300, 260))
    (at / "scenes" / "2.tif").write_text("torn")
    return at


def chain(land, out, *how):
    """The three raster commands in processes of their own; what they leave, and what they say."""
    errors = []
    for line in (
        ["downsample", land / "scenes", "--out", out / "half"],
        ["label", out / "half", "--tiles", land / "tiles", "--out", out / "labels"],
        ["patches", out / "half", "--labels", out / "labels", "--out", out / "p", "--size", 32,
         "--max-void", 1],
    ):  # fmt: skip
        command = [sys.executable, "-m", "sartutorial", *map(str, line), *map(str, how)]
        done = subprocess.run(command, capture_output=True, text=True)
        errors += [e for e in done.stderr.splitlines() if e.startswith("sartutorial:")]
        assert done.returncode == ("downsample" in line), done.stderr
    return contents(out), errors


@pytest.mark.slow
def test_processes_make_the_same_files(land, tmp_path):
    alone, said = chain(land, tmp_path / "alone")
    assert len(alone) > 50
    assert len(said) == 1
    assert "2.tif: not a readable raster" in said[0]
    assert chain(land, tmp_path / "two", "--workers", 2) == (
        alone,
        [said[0].replace("/alone/", "/two/")],
    )


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers, each a process of its own, on the loopback address."""
    dask = Path(sys.executable).with_name("dask")
    log = (tmp_path / "dask.log").open("w")
    kept = dict(stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
    address = "tcp://127.0.0.1:"
    port = 18786 + os.getpid() % 1000
    started = [subprocess.Popen([dask, "scheduler", "--host", "127.0.0.1", "--port", str(port),
                                 "--no-dashboard", "--no-show"], **kept)]  # fmt: skip
    for _ in range(2):
        started.append(subprocess.Popen(
            [dask, "worker", f"{address}{port}", "--nthreads", "1", "--no-dashboard",
             "--host", "127.0.0.1"], **kept))  # fmt: skip
    yield f"{address}{port}"
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)
    for process in started:
        process.wait(20)
    log.close()


@pytest.mark.slow
def test_a_cluster_makes_the_same_files_even_from_a_run_that_was_killed(land, tmp_path, cluster):
    alone, _ = chain(land, tmp_path / "alone")
    found, said = chain(land, tmp_path / "far", "--scheduler", cluster)
    assert found == alone
    assert len(said) == 1
    # Another run is killed; its tasks may go on. The next one waits for them, and ends the same.
    folder = tmp_path / "again"
    line = ["patches", tmp_path / "alone" / "half", "--labels", tmp_path / "alone" / "labels", "--out",
            folder, "--size", 32, "--max-void", 1, "--scheduler", cluster]  # fmt: skip
    command = [sys.executable, "-m", "sartutorial", *map(str, line)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not list(folder.rglob("*.tif")) and time.monotonic() < end:
        time.sleep(0.01)
    child.kill()
    child.wait()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = {k[2:]: v for k, v in alone.items() if k.startswith("p/")}
    assert contents(folder) == expected


@pytest.mark.slow
def test_a_killed_run_leaves_no_worker_behind(land, tmp_path):
    command = [sys.executable, "-m", "sartutorial", "downsample", land / "scenes", "--out", tmp_path / "o",
               "--workers", "2"]  # fmt: skip
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end, children = time.monotonic() + 60, []
    while len(children) < 3 and child.poll() is None and time.monotonic() < end:
        asked = subprocess.run(["pgrep", "-P", str(child.pid)], capture_output=True, text=True)
        children = asked.stdout.split()
    child.kill()
    child.wait()
    assert len(children) >= 2
    end = time.monotonic() + 30
    while time.monotonic() < end and any(Path(f"/proc/{c}").exists() for c in children):
        time.sleep(0.2)
    assert [c for c in children if Path(f"/proc/{c}").exists()] == []
