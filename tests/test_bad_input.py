"""Every command against every fault: one clear line, a bad exit code, nothing half-written."""

import json
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from affine import Affine
from conftest import GRID, land_array, scene_array, write
from safetensors.torch import save_file
from test_published import state as published_state

import sartutorial as st
from sartutorial import lulc, patches

# A sound call of every command; faults below replace one of its words.
SOUND = {
    "simulate": "simulate --out o",
    "downsample": "downsample IMG.tif --out o",
    "label": "label IMG.tif --tiles tiles --out o",
    "patches": "patches IMG.tif --labels labels --out o --max-void 1 --size 64",
    "export": "export set --out o",
    "import": "import theirs/locations.csv --sar theirs/sar --labels theirs/label --out o",
    "sample": "sample set --tiles lulc --points 9000 --block 2",
    "pretrain": "pretrain set --out o --epochs 1",
    "import-weights": "import-weights theirs.pth --out o",
    "finetune": "finetune set --out o --encoder encoder.safetensors --epochs 1",
    "evaluate": "evaluate set --model model.safetensors --split train --out o.json",
    "predict": "predict IMG.tif --model model.safetensors --out o.tif",
    "mosaic": "mosaic maps --out o.tif --min-area 0.1",
    "table1": "table1 --patches set --out o --seeds 1",
}
# The first file that each of them writes.
WRITES = {
    "simulate": "o/dem/DEM.tif",
    "downsample": "o/IMG.tif",
    "label": "o/IMG.tif",
    "patches": "o/arrays/IMG",
    "export": "o/sar/2022/",
    "import": "o/arrays/IMG",
    "sample": "set/",
    "pretrain": "o/last.ckpt",
    "import-weights": "o/encoder.safetensors",
    "finetune": "o/last.ckpt",
    "evaluate": "o.json",
    "predict": "o.tif",
    "mosaic": "o.tif",
}
SCENE_FAULTS = {
    "no.tif": "no.tif: no such scene; check the path",
    "*.tiff": "*.tiff: no file fits this pattern",
    "text.tif": "text.tif: not a readable raster",
    "short.tif": "short.tif: not a readable raster",
    "torn.tif": "torn.tif: cannot be read",
    "nowhere.tif": "nowhere.tif: no georeference",
    "float.tif": "float.tif: holds float32, expected uint16",
    "two.tif": "two.tif: holds 2 bands",
    "nothing": "nothing: the folder holds no raster",
    "IMG.tif IMG.tif": "IMG.tif and IMG.tif: two scenes of one name",
}
TILE_FAULTS = {
    "no": "no: no such land-cover tile",
    "nothing": "nothing: the folder holds no raster",
    "text.tif": "text.tif: not a readable raster",
    "nowhere.tif": "nowhere.tif: no georeference",
    "float.tif": "float.tif: holds float32, expected uint8",
    "ids": "77.tif: unknown class ids [77]",
    "short": "short/t.tif: not a readable raster",
    "torn": "torn/t.tif: cannot be read",
}
SET_FAULTS = {
    "no": "run 'sartutorial patches' first",
    "textset": "textset/patches.parquet: not a readable patch index",
    "emptyset": "emptyset/patches.parquet: holds no patch",
    "strange": "strange/patches.parquet: not a patch index",
}
TRAINING_FAULTS = SET_FAULTS | {
    "unsampled": "run 'sartutorial sample'",
    "gone": "run 'sartutorial patches' again",
    "shortset": "cannot be read",
    "inf": "infinite",
}
WEIGHT_FAULTS = {
    "no.safetensors": "no.safetensors: no such file",
    "text.safetensors": "text.safetensors: ",
    "short.safetensors": "short.safetensors: ",
    "foreign.safetensors": "foreign.safetensors: ",
    "alone.safetensors": "alone.json: no such file",
    "text.tif": "text.tif: ",
}
CONFIG_FAULTS = {
    "no.yaml": "no.yaml",
    "bad.yaml": "bad.yaml: not valid YAML",
    "list.yaml": "list.yaml: must hold a section a command",
    "command.yaml": "command.yaml: there is no command cook",
    "option.yaml": '"[colour]" from option.yaml',
    "text.tif": "text.tif",
}


def rows():
    """(command, the word to replace or None, what stands in for it, what the message must say)."""
    for command in ("downsample", "label", "patches", "predict"):
        for fault, words in SCENE_FAULTS.items():
            yield command, "IMG.tif", fault, words
        yield command, "IMG.tif", "", "--scene requires an argument"
    for command in ("downsample", "patches"):
        yield command, "IMG.tif", "IMG-HH-ALOS2458503210-221119-UBSR3.1GUD.tif", "level 3.1"
    for command in ("downsample", "patches", "predict"):
        yield command, "IMG.tif", "IMG-tokyo.tif", "IMG-tokyo.tif: its name is none of JAXA's"
    yield "downsample", "--out o", "--out o --quantity beta0", "beta0"
    yield "downsample", "IMG.tif", "ALOS2397743750-211004_WBDR2.2GUD_HH_SLP.tif", "not on the grid"
    for fault, words in TILE_FAULTS.items():
        yield "label", "tiles", fault, words
        yield "sample", "lulc", fault, words
    for fault, words in SET_FAULTS.items():
        yield "export", "set", fault, words
    yield "export", "set", "gone", "run 'sartutorial patches' again"
    yield "import", "theirs/locations.csv", "no.csv", "no.csv: no such table"
    yield (
        "import",
        "theirs/locations.csv",
        "text.tif",
        "text.tif: no table with the column FileName",
    )
    yield "import", "theirs/sar", "nothing", "nothing: the folder holds no raster"
    yield "import", "theirs/sar", "tiles", "which is not in tiles; check the folder"
    yield "import", "theirs/sar", "theirs/label", "uint8"
    yield "import", "theirs/label", "theirs/sar", "holds float32, expected uint8"
    yield "label", "tiles", "far", "IMG.tif: no land-cover tile meets it; it needs LC_N33E135.tif"
    yield "label", "--out o", "--out o --legend crops", "crops"
    yield "sample", "lulc", "void", "no labelled pixel"
    yield "sample", "lulc", "far", "none of the points fell on a patch"
    yield "sample", "lulc", "wood --no-forest", "every class with pixels has weight 0"
    for wrong in ("--split leaky", "--buffer -1", "--inverse fair"):
        yield "sample", "--points 9000", wrong, wrong.split()[0]
    for fault, words in SET_FAULTS.items():
        yield "sample", "set", fault, words
    for command in ("pretrain", "finetune", "evaluate", "table1"):
        for fault, words in TRAINING_FAULTS.items():
            yield command, "set", fault, words
    yield "patches", "labels", "no", "run 'sartutorial label' first"
    yield "patches", "labels", "grid", "grid/IMG.tif: not on the grid of IMG.tif"
    yield "patches", "labels", "text", "text/IMG.tif: not a readable raster"
    yield "patches", "labels", "wrong", "wrong/IMG.tif: holds uint16, expected uint8"
    yield "patches", "labels", "shortlabels", "shortlabels/IMG.tif: not a readable raster"
    yield "patches", "labels", "unknown", "unknown/IMG.tif: unknown class ids [77]"
    yield "patches", "--size 64", "--size 999", "less than --size 999"
    yield "patches", "--size 64", "--size 0", "--size"
    yield "patches", "--size 64", "--size 6.4", "6.4 is not a whole number"
    yield "patches", "--max-void 1", "--max-void 2", "--max-void"
    yield "patches", "--max-void 1", "--max-void nan", "--max-void"
    yield "predict", "IMG.tif", "fine.tif", "run 'sartutorial downsample --factor 2' on it first"
    yield "predict", "IMG.tif", "N23W161_20_sl_HH_F02DAR.tif", "holds gamma0"
    yield "downsample", "--out o", "--out o --factor 0", "factor"
    yield "downsample", "--out o", "--out o --workers 0", "workers"
    yield "downsample", "IMG.tif --out o", "o/IMG.tif --out o", "o/IMG.tif: no such scene"
    yield "downsample", "IMG.tif --out o", "IMG.tif --out .", "IMG.tif"
    yield "simulate", "--out o", "--out o --seed -1", "seed"
    yield "simulate", "--out o", "--out o --side 0", "side"
    yield "simulate", "--out o", "--out o --workers 0", "workers"
    yield "simulate", "--out o", "--out o --profile huge", "huge"
    yield "sample", "--points 9000", "--points 0", "points"
    yield "sample", "--block 2", "--block 0", "block"
    yield "sample", "--block 2", "--seed -1", "seed"
    yield "pretrain", "--epochs 1", "--method gan", "gan"
    yield "evaluate", "--split train", "--split all", "all"
    for command in ("pretrain", "finetune"):
        for wrong in (
            *("--epochs 0", "--devices 0", "--accumulate 0", "--seed 0.5", "--batch 0"),
            *("--learning-rate 0", "--learning-rate nan", "--profile huge", "--precision half"),
        ):
            yield command, "--epochs 1", wrong, wrong.split()[0][2:].split("-")[0]
    for wrong in ("--labels 0", "--labels 2", "--dropout 1.5", "--layer-decay 0"):
        yield "finetune", "--epochs 1", wrong, wrong.split()[0][2:].split("-")[0]
    yield "predict", "--out o.tif", "--out o.tif --workers 0", "workers"
    for fault, words in (
        ("no", "no: no such map"),
        ("nothing", "nothing: the folder holds no raster"),
        ("text.tif", "text.tif: not there, or torn"),
        ("tiles", "t.confidence.tif: not there, or torn"),
        ("tiles --overlap newest", "t.tif: no map with the legend of"),
        ("maps --overlap newest", "m.tif: its name holds no date"),
        ("maps --overlap best", "best"),
        ("maps --min-area -1", "min-area"),
        ("maps --min-area nan", "min-area"),
    ):
        yield "mosaic", "maps", fault, words
    yield "table1", "--seeds 1", "--seeds 0", "seeds"
    for fault, words in WEIGHT_FAULTS.items():
        yield "finetune", "encoder.safetensors", fault, words
        yield "evaluate", "model.safetensors", fault, words
        yield "predict", "model.safetensors", fault, words
    for fault in ("text.tif", "short.safetensors"):
        yield "import-weights", "theirs.pth", fault, f"{fault}: "
    yield "import-weights", "theirs.pth", "no.pth", "no.pth: no such file"
    yield "import-weights", "theirs.pth", "foreign.safetensors", "foreign.safetensors: "
    yield "evaluate", "model.safetensors", "encoder.safetensors", "encoder.safetensors: holds no"
    yield "predict", "model.safetensors", "encoder.safetensors", "encoder.safetensors: holds no"
    yield "pretrain", "--out o", "--out stale", "stale/last.ckpt: damaged"
    yield "finetune", "--out o", "--out stale", "stale/last.ckpt: damaged"
    for command, line in SOUND.items():
        yield command, None, "--nonsense 1", "--nonsense"
        for fault, words in CONFIG_FAULTS.items():
            yield command, None, f"--config {fault}", words
        # A folder that nobody can make, for root either: a file stands in its way.
        word = next((w for w in line.split() if w in ("o", "o.tif", "o.json")), None)
        if word:
            yield command, f" {word}", " text.tif/o", "text.tif"
            if command != "evaluate":
                yield command, f"--out {word}", "", "--out"


@pytest.fixture(scope="module")
def kit(world, tmp_path_factory):
    """Sound input and every kind of bad input, in one folder that no command may change."""
    at, rng = tmp_path_factory.mktemp("kit"), np.random.default_rng(0)
    dn, ids = scene_array(rng, 128, 128), land_array(rng, 128, 128)
    write(at / "IMG.tif", dn)
    write(at / "IMG-HH-ALOS2458503210-221119-UBSR3.1GUD.tif", dn)
    write(at / "N23W161_20_sl_HH_F02DAR.tif", dn)
    write(at / "IMG-tokyo.tif", dn)
    write(at / "ALOS2397743750-211004_WBDR2.2GUD_HH_SLP.tif", dn)
    write(at / "ALOS2397743750-211004_WBDR2.2GUD_MSK.tif", ids[:64])
    write(at / "fine.tif", dn, transform=GRID * Affine.scale(0.5))
    (at / "text.tif").write_text("not a raster")
    short(write(at / "short.tif", dn))
    write(at / "nowhere.tif", dn, crs=None, transform=Affine.identity())
    write(at / "float.tif", dn.astype(np.float32))
    with rasterio.open(at / "IMG.tif") as one:
        profile = one.profile | {"count": 2}
    with rasterio.open(at / "two.tif", "w", **profile) as two:
        two.write(np.stack([dn, dn]))
    (at / "nothing").mkdir()
    short(st.downsample(at / "fine.tif", at / "torn.tif"))  # its directory comes first

    write(at / "tiles" / "t.tif", ids)
    write(at / "far" / "t.tif", ids, crs="EPSG:32631")
    write(at / "void" / "t.tif", ids * 0)
    write(at / "wood" / "t.tif", np.full_like(ids, 6))
    write(at / "ids" / "77.tif", np.full_like(ids, 77))
    short(write(at / "short" / "t.tif", ids))
    (at / "torn").mkdir()
    short(st.label(at / "IMG.tif", at / "tiles", at / "torn" / "t.tif"))
    write(at / "labels" / "IMG.tif", ids)
    for name in ("IMG-tokyo", "IMG-HH-ALOS2458503210-221119-UBSR3.1GUD"):
        write(at / "labels" / f"{name}.tif", ids)
    write(at / "labels" / "torn.tif", ids[:64, :64])
    write(at / "grid" / "IMG.tif", ids[:64])
    write(at / "wrong" / "IMG.tif", dn)
    write(at / "unknown" / "IMG.tif", np.full_like(ids, 77))
    short(write(at / "shortlabels" / "IMG.tif", ids))
    (at / "text").mkdir()
    (at / "text" / "IMG.tif").write_text("not a raster")

    said = json.dumps(lulc.HR_LULC.for_maps.to_dict())
    write(at / "maps" / "m.tif", rng.integers(0, 10, ids.shape).astype(np.uint8), LEGEND=said)
    write(at / "maps" / "m.confidence.tif", np.full((3, *ids.shape), 50, np.uint8), nodata=255)

    sampled = world / "patches"
    st.export(sampled, at / "theirs")
    index = st.read_index(sampled, geometry=True)
    west, south, east, north = index.to_crs("EPSG:4326").total_bounds
    over = Affine((east - west) / 128, 0, west, 0, (south - north) / 128, north)
    write(at / "lulc" / "t.tif", ids, crs="EPSG:4326", transform=over)
    for name in ("set", "textset", "emptyset", "strange", "unsampled", "gone", "shortset", "inf"):
        shutil.copytree(sampled, at / name)
    (at / "textset" / patches.INDEX).write_text("not a table")
    index = st.read_index(sampled)
    patches.write_index(index[:0], at / "emptyset")
    pd.DataFrame({"a": [1]}).to_parquet(at / "strange" / patches.INDEX)
    bare = index.drop(columns=["split", "pretrain", "finetune"])
    patches.write_index(bare, at / "unsampled")
    for array in (at / "gone" / "arrays").glob("*.npy"):
        array.unlink()
    for array in (at / "shortset" / "arrays").glob("*.npy"):
        short(array)
    for array in (at / "inf" / "arrays").glob("*.sar.npy"):
        np.save(array, np.full(np.load(array).shape, np.inf, np.float32))

    encoder = st.pretrain(sampled, at / "e", profile="tiny", epochs=1)
    model = st.finetune(sampled, at / "m", encoder=encoder, profile="tiny", epochs=1)
    for file in (encoder, model):
        for suffix in (".safetensors", ".json"):
            shutil.copy(file.with_suffix(suffix), at)
    for name in ("text", "short", "foreign", "alone"):
        shutil.copy(at / "model.json", at / f"{name}.json")
    (at / "text.safetensors").write_text("not weights")
    shutil.copy(at / "model.safetensors", at / "alone.safetensors")
    (at / "alone.json").unlink()
    short(Path(shutil.copy(at / "model.safetensors", at / "short.safetensors")))
    torch.save({"model": published_state("simmim")}, at / "theirs.pth")
    save_file({"a": torch.zeros(2)}, at / "foreign.safetensors")
    (at / "foreign.json").write_text("[1, 2]")
    (at / "stale").mkdir()
    (at / "stale" / "last.ckpt").write_text("half a checkpoint")

    (at / "bad.yaml").write_text("patches: [1\n")
    (at / "list.yaml").write_text("- 1\n")
    (at / "command.yaml").write_text("cook: {size: 3}\n")
    (at / "option.yaml").write_text("".join(f"{c}: {{colour: red}}\n" for c in SOUND))
    return at


def short(path):
    """Cut a file off in the middle."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def listing(folder):
    """What lies in a folder, and when it was written; not notes, nor a report that is made anew."""
    files = (p for p in folder.rglob("*") if p.is_file() and ".made" not in p.parts)
    files = (p for p in files if p.name != "sampling.csv")
    return {str(p): p.stat().st_mtime_ns for p in files}


@pytest.mark.parametrize(
    ("command", "word", "fault", "words"),
    [pytest.param(*r, id=f"{r[0]}: {r[1] or ''}->{r[2]}") for r in rows()],
)
def test_bad_input_is_answered_with_one_line(
    run, kit, tmp_path, monkeypatch, command, word, fault, words
):
    line = SOUND[command]
    assert word is None or word in line
    line = f"{line} {fault}" if word is None else fault.join(line.rsplit(word, 1))
    for path in kit.iterdir():  # links, so that a command meets the same relative names
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    before = listing(kit), listing(tmp_path)
    code, out, err = run(*line.split())
    said = [text for text in err.splitlines() if text.startswith("sartutorial:")]
    assert code not in (0, None), out
    assert len(said) == 1, err
    assert words in said[0]
    assert "Traceback" not in err
    assert (listing(kit), listing(tmp_path)) == before  # nothing half-written, nothing touched


@pytest.mark.parametrize("command", [c for c in SOUND if c not in ("simulate", "table1")])
def test_the_sound_calls_are_sound(run, kit, tmp_path, monkeypatch, command):
    shutil.copytree(kit, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*SOUND[command].split())
    assert code == 0, err


@contextmanager
def full_disk():
    """No file may grow beyond a thousand bytes: writing fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("command", list(WRITES))
def test_a_full_disk_is_named_and_leaves_nothing(run, kit, tmp_path, monkeypatch, command):
    for path in kit.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    before = listing(kit), listing(tmp_path)
    with full_disk():  # around nothing else: pytest itself may write to a file
        code, _, err = run(*SOUND[command].split())
    said = [text for text in err.splitlines() if text.startswith("sartutorial:")]
    assert code not in (0, None)
    assert len(said) == 1, err
    assert WRITES[command] in said[0]
    assert (listing(kit), listing(tmp_path)) == before
