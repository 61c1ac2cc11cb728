"""Rasters behind URLs: only the blocks that are needed, retries, and one clear line when it fails."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import GRID, UTM, land_array, scene_array, write

import sartutorial as st
from sartutorial import InputError, files

SERVER = Path(__file__).with_name("cloud_server.py")
HALF = "IMG-HH-ALOS2458503230-221119-UBSR2.1GUD.tif"
NAME = "IMG-HH-ALOS2458503210-221119-UBSR2.1GUD.tif"


class Cloud:
    """The folder that the server shows, and what it is told to do with requests."""

    def __init__(self, folder, port):
        self.folder, self.at = folder, f"http://127.0.0.1:{port}"

    def url(self, name):
        return f"{self.at}/{name}"

    def faults(self, faults):
        """What happens to the coming requests, by file."""
        urlopen(f"{self.at}/-/faults", json.dumps(faults).encode()).close()

    def sent(self):
        with urlopen(f"{self.at}/-/sent") as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cloud")
    server = subprocess.Popen(
        [sys.executable, SERVER, folder], stdout=subprocess.PIPE, text=True, cwd=folder
    )
    yield Cloud(folder, server.stdout.readline().strip())
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def dn(cloud):
    """A tiled scene of some megabytes in the cloud: its pixels."""
    dn = scene_array(np.random.default_rng(0), 1536, 1536)
    form = dict(driver="GTiff", dtype="uint16", count=1, nodata=0, compress="deflate")
    grid = dict(height=1536, width=1536, crs=UTM, transform=GRID)
    tiles = dict(tiled=True, blockxsize=256, blockysize=256)
    with rasterio.open(cloud.folder / NAME, "w", **form, **grid, **tiles) as target:
        target.write(dn, 1)
    return dn


@pytest.fixture(autouse=True)
def fresh(monkeypatch, cloud):
    """No test sees what another has fetched, and none waits long between attempts."""
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.05")
    cloud.faults({})


def test_a_window_asks_for_its_blocks_alone(cloud, dn):
    view = st.read_db(cloud.url(NAME), window=(700, 700, 60, 60))
    np.testing.assert_array_equal(view.db, st.dn_to_db(dn[700:760, 700:760]))
    whole = (cloud.folder / NAME).stat().st_size
    assert whole > 3e6
    assert cloud.sent()[NAME] < 0.1 * whole


@pytest.mark.parametrize(
    "faults",
    [[503, 503], [429], [500, "cut"], ["cut", "cut"], ["slow"] * 3],
    ids=["503, then fine", "429", "500, then cut", "cut off twice", "slow"],
)
def test_what_passes_is_tried_again(cloud, dn, faults, request):
    name = f"try-{request.node.callspec.id.replace(' ', '')}-{NAME}"
    (cloud.folder / name).hardlink_to(cloud.folder / NAME)
    cloud.faults({name: list(faults)})
    view = st.read_db(cloud.url(name), window=(0, 0, 300, 300), quantity="sigma0")
    np.testing.assert_array_equal(view.db, st.dn_to_db(dn[:300, :300]))


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ([], "404"),
        ([503] * 99, "503"),
        (["silent"] * 99, "slow"),
        ("nobody", "[Cc]onnect"),
        ("nowhere", "resolve host"),
    ],
    ids=["not there", "always busy", "silent", "nobody answers", "offline"],
)
def test_what_does_not_pass_is_one_clear_line(cloud, dn, run, tmp_path, monkeypatch, faults, said):
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "1")
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "2")
    name = f"bad{len(said)}-{NAME}"
    if faults and isinstance(faults, list):
        (cloud.folder / name).hardlink_to(cloud.folder / NAME)
        cloud.faults({name: faults})
    at = {"nobody": "http://127.0.0.1:9/", "nowhere": "https://no.such.host.invalid/"}
    url = f"{at[faults]}{name}" if isinstance(faults, str) else cloud.url(name)
    code, _, err = run("downsample", url, "--out", tmp_path / "half")
    assert code == 1
    (line,) = [t for t in err.splitlines() if t.startswith("sartutorial: ")]
    assert line.startswith(f"sartutorial: {url}: not a readable raster (")
    assert line.endswith("; check address and network, and run it again")
    assert re.search(said, line)
    assert "Traceback" not in err
    assert not list((tmp_path / "half").glob("*.tif"))


def test_a_connection_lost_on_the_way_leaves_no_product(cloud, dn, tmp_path, monkeypatch):
    """It names the scene, and the next run makes the file."""
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "1")
    name = NAME.replace("3210", "3220")
    (cloud.folder / name).hardlink_to(cloud.folder / NAME)
    with rasterio.open(cloud.url(name)):  # its head is read, and kept
        pass
    cloud.faults({name: [503] * 99})
    with pytest.raises(InputError, match=f"{name}: cannot be read .*; check address and network"):
        st.downsample(cloud.url(name), tmp_path)
    assert not list(tmp_path.glob("*.tif"))
    cloud.faults({})
    st.downsample(cloud.url(name), tmp_path)
    assert (tmp_path / name).exists()


PLACES = {  # how a file of the cloud is named
    "https": "http://{0}/{1}",
    "vsicurl": "/vsicurl/http://{0}/{1}",
    "vsis3": "/vsis3/bucket/{1}",
    "s3": "s3://bucket/{1}",
}


@pytest.fixture
def bucket(cloud, monkeypatch):
    """The server as an open bucket named so: what GDAL must be told of one that is not Amazon's."""
    said = dict(
        S3_ENDPOINT=cloud.at[7:], HTTPS="NO", VIRTUAL_HOSTING="FALSE", NO_SIGN_REQUEST="YES"
    )
    for name, value in said.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    if not (cloud.folder / "bucket").exists():
        (cloud.folder / "bucket").symlink_to(".")


def taken(run, at, place, model):
    """All that every command that reads rasters makes of them; ``place`` says where they are."""

    def made(*words):
        code, out, err = run(*words)
        assert code == 0, err
        return out

    tiles = ("--tiles", place("tile.tif"))
    made("downsample", place(NAME), "--out", at / "half")
    made("label", place(NAME), place(HALF), *tiles, "--out", at / "labels")
    cut = ("--labels", at / "labels", "--out", at / "patches", "--size", 64, "--max-void", 0.2)
    made("patches", place(NAME), *cut)
    said = made("sample", at / "patches", *tiles, "--points", 2000, "--block", 2, "--buffer", 0)
    made("predict", place(HALF), "--model", model, "--out", at / "maps", "--confidence")
    made("mosaic", place("map.tif"), "--out", at / "region.tif")
    rasters = sorted(p for p in at.rglob("*.tif") if files.NOTES not in p.parts)
    index = st.read_index(at / "patches")
    pixels = [st.Store(at / "patches", index).sar(i) for i in range(len(index))]
    return said, np.stack(pixels), {p.relative_to(at): rasterio.open(p).read() for p in rasters}


@pytest.fixture(scope="module")
def ground(cloud, dn):
    """Beside the scene, in the cloud: land cover, and a second scene."""
    rng, folder = np.random.default_rng(1), cloud.folder
    write(folder / "tile.tif", land_array(rng, 768, 768), transform=GRID * Affine.scale(2))
    write(folder / HALF, dn[:512, :512])


@pytest.fixture(scope="module")
def model(cloud, ground, world):
    """A model, of whose making there is a map in the cloud."""
    made = st.finetune(world / "patches", world / "cloudy", profile="tiny", epochs=1)
    st.predict(cloud.folder / HALF, made, cloud.folder / "map.tif", confidence=True)
    return made


@pytest.mark.slow
def test_every_command_on_rasters_reads_the_cloud_and_makes_the_same(
    run, cloud, bucket, model, tmp_path
):
    said, pixels, rasters = taken(run, tmp_path / "copied", lambda n: cloud.folder / n, model)
    assert len(rasters) == 7
    for kind, form in PLACES.items():
        place = partial(form.format, cloud.at[7:])
        found = taken(run, tmp_path / kind, place, model)
        assert found[0] == said, kind
        np.testing.assert_array_equal(found[1], pixels)
        assert found[2].keys() == rasters.keys()
        for name, values in rasters.items():
            np.testing.assert_array_equal(found[2][name], values)


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize(
    "command",
    [
        "downsample {far} --out {out}",
        "label {far} --tiles {at}/tile.tif --out {out}",
        "label {at}/{scene} --tiles {far} --out {out}",
        "patches {far} --labels {at} --out {out}",
        "predict {far} --model reference --out {out}",
        "mosaic {far} --out {out}",
    ],
)
def test_what_is_not_in_the_cloud_is_named(run, cloud, bucket, ground, tmp_path, kind, command):
    far = PLACES[kind].format(cloud.at[7:], "IMG-HH-ALOS2458503299-221119-UBSR2.1GUD.tif")
    here = dict(at=cloud.folder, scene=HALF, out=tmp_path / "made.tif")
    code, _, err = run(*command.format(far=far, **here).split())
    assert code == 1
    (line,) = [t for t in err.splitlines() if t.startswith("sartutorial: ")]
    assert f": {far}: " in line
    assert line.endswith("; check address and network, and run it again")
    assert not (tmp_path / "made.tif").exists()
