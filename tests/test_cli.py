"""The command line: the whole chain, what a command takes, configuration files, how it ends."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio
from affine import Affine
from conftest import GRID, land_array, scene_array, write

import sartutorial
from sartutorial import InputError, cli

SARTUTORIAL = [sys.executable, "-c", "import sartutorial; sartutorial._main()"]


@pytest.fixture
def scene(tmp_path):
    """A scene and its labels, 128 x 128, in a folder that is the present one."""
    rng = np.random.default_rng(0)
    write(tmp_path / "labels" / "IMG.tif", land_array(rng, 128, 128))
    return write(tmp_path / "IMG.tif", scene_array(rng, 128, 128))


def test_the_whole_chain(run, tmp_path):
    world, half, labels = tmp_path / "world", tmp_path / "half", tmp_path / "labels"
    patches, encoder, model = tmp_path / "patches", tmp_path / "encoder", tmp_path / "model"
    tuned = model / "model.safetensors"
    for command, said in (
        (("simulate", "--out", world, "--seed", 3), str(world)),
        (("downsample", world / "scenes", "--out", half), str(half)),
        (("label", half, "--tiles", world / "lulc", "--out", labels), str(labels)),
        (("patches", half, "--labels", labels, "--out", patches, "--size", 64), "patches.parquet"),
        (("export", patches, "--out", tmp_path / "pairs"), str(tmp_path / "pairs")),
        (("sample", patches, "--tiles", world / "lulc", "--points", 20000, "--block", 2), "forest"),
        (("pretrain", patches, "--out", encoder, "--epochs", 1), "encoder.safetensors"),
        (
            ("finetune", patches, "--out", model, "--encoder", encoder / "encoder.safetensors"),
            str(tuned),
        ),
        (("evaluate", patches, "--model", tuned, "--out", tmp_path / "test.json"), "water"),
        (("predict", half, "--model", tuned, "--out", tmp_path / "map.tif"), "map.tif"),
    ):
        code, out, err = run(*command)
        assert code == 0, (command, err)
        assert said in out, command
    assert json.loads((model / "metrics.json").read_text())["classes"][0] == "water"
    assert json.loads((tmp_path / "test.json").read_text())["split"] == "test"
    with rasterio.open(tmp_path / "map.tif") as found:
        assert found.read(1).max() <= 9
    back = ("import", tmp_path / "pairs/locations.csv", "--sar", tmp_path / "pairs/sar")
    code, _, err = run(*back, "--labels", tmp_path / "pairs/label", "--out", tmp_path / "back")
    assert code == 0, err
    assert len(sartutorial.read_index(tmp_path / "back")) == len(sartutorial.read_index(patches))


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_command_is_its_function(run, command):
    """Every parameter is an option with the function's own words, save those of Python alone."""
    function = getattr(sartutorial, cli.COMMANDS[command])
    code, out, _ = run(command, "--help")
    assert code == 0
    shown = " ".join(out.replace("│", " ").split())
    assert " ".join(function.__doc__.split("\n")[0].replace("`", "").split()) in shown
    for place, name in enumerate(inspect.signature(function).parameters):
        if name in (*cli.UNSHOWN, "hardware"):
            assert f"--{name.replace('_', '-')}" not in shown
        else:
            assert f"--{name.replace('_', '-')}" in shown
            assert (f"{name.upper()} --{name}" in shown) == (place == 0 and name != "out")
    assert ("--devices" in shown) == ("hardware" in inspect.signature(function).parameters)


def test_the_list_of_commands_and_raster_commands_bring_no_torch(scene, tmp_path):
    code = f"""
import sys
from sartutorial import cli
cli.main(["--help"])
slow = ("torch", "timm", "lightning", "geopandas", "matplotlib", "folium", "rasterio")
print([m for m in slow if m in sys.modules])
cli.main(["downsample", {str(scene)!r}, "--out", {str(tmp_path / "o")!r}])
cli.main(["sample", "--help"])
print([m for m in slow[:3] if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines().count("[]") == 2


def test_a_name_that_begins_with_a_dash(run, scene, tmp_path, monkeypatch):
    scene.rename(tmp_path / "-IMG.tif")
    monkeypatch.chdir(tmp_path)
    assert run("downsample", "--out", "a", "--", "-IMG.tif")[0] == 0
    assert run("downsample", "./-IMG.tif", "--out", "b")[0] == 0
    assert run("downsample", "--out", "c", "--", "--config", "d")[0] == 1  # names, no options
    assert (tmp_path / "a" / "-IMG.tif").read_bytes() == (tmp_path / "b" / "-IMG.tif").read_bytes()


def test_a_pattern_that_no_shell_expanded_is_named(run, scene, tmp_path):
    code, _, err = run("downsample", tmp_path / "*.tiff", "--out", tmp_path / "o")
    assert code == 1
    assert "*.tiff: no file fits this pattern" in err
    strange = scene.rename(tmp_path / "IMG[1].tif")
    assert run("downsample", strange, "--out", tmp_path / "o")[0] == 0


def test_home_is_expanded_where_no_shell_does_so(run, scene, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "recipe.yaml"
    config.write_text("downsample: {out: ~/one, scene: ~/IMG.tif}\n")
    (tmp_path / "home").mkdir()
    scene.rename(tmp_path / "home" / "IMG.tif")
    assert run("downsample", "--config", config)[0] == 0
    assert run("downsample", "~/IMG.tif", "--out=~/two")[0] == 0
    made = [(tmp_path / "home" / name / "IMG.tif").read_bytes() for name in ("one", "two")]
    assert made[0] == made[1]
    assert not (tmp_path / "~").exists()


def test_options_come_from_a_file_and_the_hand_wins(run, scene, tmp_path):
    config = tmp_path / "recipe.yaml"
    asked = ("patches", scene, "--labels", tmp_path / "labels", "--config", config)

    def patches(*options):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        code, _, err = run(*asked, "--out", out, *options)
        assert code == 0, err
        return len(sartutorial.read_index(out))

    for text in (
        "patches:\n  size: 64\n  max_void: 1.0\n",
        "patches:\r\n  size: 6.4e1\r\n  max-void: 1e0\r\nsimulate:\r\n",  # as on Windows
    ):
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            config.write_bytes(text.encode(encoding))
            assert patches() == 4
    assert patches("--size", 32) == 16
    config.write_text("patches: {size: 6.4, max_void: 1}\n")
    code, _, err = run(*asked, "--out", tmp_path / "p")
    assert code == 1
    assert "[size]" in err
    assert "6.4 is not a whole number" in err


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("patches: {sizes: 64}", '"[sizes]" from'),
        ("patches: {size: [64, 32]}", "--size takes one value"),
        ("patches: {size: {a: 1}}", "size"),
        ("patches: {size: large}", "large is not a whole number"),
        ("patches: {max_void: [1, 0.5]}", "--max-void takes one value"),
        ("patches: 64", "must hold a section a command"),
        ("cook: {}", "there is no command cook"),
    ],
)
def test_a_faulty_recipe_is_named(run, scene, tmp_path, config, said):
    (tmp_path / "recipe.yaml").write_text(config)
    asked = ("patches", scene, "--labels", tmp_path / "labels", "--out", tmp_path / "o")
    code, _, err = run(*asked, "--config", tmp_path / "recipe.yaml")
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "recipe.yaml" in err
    assert said in err


def test_missing_tiles_are_named_for_every_scene_and_every_time(run, tmp_path):
    """Also where a scene fails, and for labels that are there already."""
    rng = np.random.default_rng(0)
    for lon, name in ((134.95, "a"), (136.95, "b"), (135.2, "whole")):
        transform = Affine(0.001, 0, lon, 0, -0.001, 33.4)
        half = tmp_path / "half" / f"{name}.tif"
        write(half, scene_array(rng, 50, 100), crs="EPSG:4326", transform=transform)
    for lon in (135, 136):
        transform = Affine(0.01, 0, lon, 0, -0.01, 34)
        tile = tmp_path / "tiles" / f"LC_N33E{lon}.tif"
        write(tile, land_array(rng, 100, 100), crs="EPSG:4326", transform=transform)
    (tmp_path / "half" / "torn.tif").write_text("torn")
    call = ("label", tmp_path / "half", "--tiles", tmp_path / "tiles", "--out", tmp_path / "labels")
    for _ in range(2):
        code, _, err = run(*call)
        said = sorted(line for line in err.splitlines() if "would help" in line)
        assert len(said) == 2, err
        assert "a.tif" in said[0]
        assert "LC_N33E134.tif would help" in said[0]
        assert "b.tif" in said[1]
        assert "LC_N33E137.tif would help" in said[1]
        assert code == 1
        assert "torn.tif: not a readable raster" in err


def test_debug_shows_where_it_failed(run, tmp_path):
    with pytest.raises(InputError, match="no such scene"):
        run("downsample", tmp_path / "no.tif", "--out", tmp_path / "o", "--debug")


def test_a_reader_who_has_seen_enough_is_no_error(scene, tmp_path):
    """``sartutorial ... | head -1``: quiet, whether the pipe closes early or while it is written."""
    for command in ("--help", f"downsample {scene} --out {tmp_path / 'o'}"):
        child = subprocess.Popen(
            [*SARTUTORIAL, *command.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        child.stdout.close()
        said = child.stderr.read().decode()
        assert child.wait() != 0
        assert "Traceback" not in said
        assert "pipe" not in said.lower()


def test_an_output_that_cannot_be_written_is_one_line():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*SARTUTORIAL, "--version"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode != 0
    assert done.stderr.startswith("sartutorial: ")
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


# Ctrl-C: the terminal sends it to all processes of the command at once.
LONG = {
    "simulate": "simulate --out o --side 9",
    "downsample": "downsample scenes --out o",
    "two workers": "downsample scenes --out o --workers 2",
    "label": "label scenes --tiles tiles --out o",
    "patches": "patches scenes --labels labels --out o --size 64 --max-void 1",
    "sample": "sample patches --tiles {world}/lulc --points 3e8 --block 2 --buffer 0",
    "pretrain": "pretrain {world}/patches --out o --epochs 2000",
    "two processes": "pretrain {world}/patches --out o --epochs 2000 --devices 2",
    "finetune": "finetune {world}/patches --out o --epochs 2000",
}


def group(process):
    """The group of a process; none of one that has ended."""
    try:
        return os.getpgid(process.pid) if process.status() != psutil.STATUS_ZOMBIE else None
    except (ProcessLookupError, psutil.NoSuchProcess):
        return None


def interrupted(command, at, wait, times=1):
    """Send Ctrl-C to a command in the folder ``at``, ``wait`` seconds after it began; its exit code.

    Somebody impatient sends it several ``times``, the next one while the first is at its work.
    """
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    begin = f"{heard}; import sartutorial; print(flush=True); sartutorial._main()"
    child = subprocess.Popen(
        [sys.executable, "-c", begin, *command.split()],
        cwd=at,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    child.stdout.readline()
    time.sleep(wait)
    for _ in range(times):
        os.killpg(child.pid, signal.SIGINT)  # its process is there until it is waited for
        time.sleep(0.02)
    _, err = child.communicate()
    if child.returncode == 0:
        return 0
    said = [t for t in err.replace("\r", "\n").splitlines() if t.strip() and "%|" not in t]
    assert child.returncode == 130, (wait, err)
    assert said == ["sartutorial: interrupted; run it again, and it goes on where it stopped"]
    left = [p for p in psutil.process_iter() if group(p) == child.pid]
    assert not psutil.wait_procs(left, timeout=60)[1]
    assert not [p for p in at.rglob("*") if "partial" in p.name]
    return 130


def test_what_an_interrupted_command_holds_open_is_closed_before_python_ends(monkeypatch, capsys):
    """GDAL may crash if a raster is closed while Python itself is taken down."""

    def held():
        try:
            yield
        finally:
            print("closed", file=sys.stderr)

    def main():
        raster = held()
        next(raster)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", main)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        sartutorial._main()
    assert ended.value.code == 130
    closed, said = capsys.readouterr().err.splitlines()
    assert (closed, said.partition(";")[0]) == ("closed", "sartutorial: interrupted")


def test_a_second_ctrl_c_does_not_cut_short_what_the_first_closes(monkeypatch):
    monkeypatch.setattr(sartutorial, "_asked", [])
    with pytest.raises(KeyboardInterrupt):
        sartutorial._interrupt(signal.SIGINT, None)
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sartutorial._interrupt(signal.SIGINT, None)


def test_a_ctrl_c_waits_until_what_an_error_leaves_open_is_closed(monkeypatch):
    closed = []

    def torn():
        try:
            raise InputError("torn")
        except InputError:
            signal.raise_signal(signal.SIGINT)
            closed.append(True)
        time.sleep(60)

    monkeypatch.setattr(sartutorial, "_asked", [])
    before = signal.signal(signal.SIGINT, sartutorial._interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            torn()
    finally:
        signal.signal(signal.SIGINT, before)
    assert closed


@pytest.fixture(scope="module")
def ground(world, tmp_path_factory):
    """Three scenes that a step takes long over, and what it needs beside them."""
    at, rng = tmp_path_factory.mktemp("ground"), np.random.default_rng(1)
    dn, ids = (
        np.tile(scene_array(rng, 500, 500), (12, 12)),
        np.tile(land_array(rng, 500, 500), (12, 12)),
    )
    for i in range(3):
        moved = Affine.translation(30_000 * i, 0) * GRID
        write(at / "scenes" / f"{i}.tif", dn, transform=moved)
        write(at / "labels" / f"{i}.tif", ids, transform=moved)
    write(at / "tiles" / "t.tif", ids, transform=GRID * Affine.scale(4))
    (at / "patches").symlink_to(world / "patches")
    return at


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in LONG if c != "pretrain"])
def test_an_interrupted_command_ends_with_one_line(ground, world, tmp_path, command):
    """Early and late: exit code 130, no traceback of a child, no partial file, nothing left running."""
    for path in ground.iterdir():
        (tmp_path / path.name).symlink_to(path)
    line = LONG[command].format(world=world)
    assert 130 in [interrupted(line, tmp_path, *how) for how in ((0.3,), (3, 2))]


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.2, 1.2, 2.4, 5])
def test_a_training_is_interrupted_at_any_moment(world, tmp_path, wait):
    """While torch is imported and while it computes: nothing is raised where C++ would have to catch it."""
    assert interrupted(LONG["pretrain"].format(world=world), tmp_path, wait) == 130


def test_a_command_that_is_done_is_not_interrupted():
    """Python gives a signal back to the system while it ends, which would end it as a failure."""
    code = """
import os, signal, sys, sartutorial
class Late:
    def __del__(self, kill=os.kill, me=os.getpid(), number=signal.SIGINT):
        kill(me, number)
sys.late, sys.argv = Late(), ["sartutorial", "--version"]
signal.signal(signal.SIGINT, signal.default_int_handler)
sartutorial._main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == sartutorial.__version__


def test_an_import_is_not_interrupted_but_what_follows(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = "import signal\nsignal.raise_signal(signal.SIGINT)\nwhole = True\n"
    (tmp_path / "long_import.py").write_text(module)

    def work():
        import long_import

        assert long_import.whole
        time.sleep(60)

    begin, before = time.monotonic(), signal.signal(signal.SIGINT, sartutorial._interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.signal(signal.SIGINT, before)
        sartutorial._asked.clear()
    assert "long_import" in sys.modules
    assert time.monotonic() - begin < 60  # a wait is woken, not waited for
