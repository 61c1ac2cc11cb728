"""Rasters behind URLs: only the blocks that are needed, retries, and one clear line when it fails."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import GRID, UTM, land_array, scene_array, write

import sartutorial as st
from sartutorial import InputError

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


def test_every_step_on_rasters_reads_urls_and_makes_the_same(cloud, dn, tmp_path):
    """Scenes and land cover from the cloud, or copied from there."""
    rng = np.random.default_rng(1)
    write(cloud.folder / "tile.tif", land_array(rng, 768, 768), transform=GRID * Affine.scale(2))
    write(cloud.folder / HALF, dn[:512, :512], transform=GRID * Affine.scale(2))
    found = []
    for place in (cloud.url, lambda name: cloud.folder / name):
        at = tmp_path / str(len(found))
        half = st.downsample(place(NAME), at / "half")
        tile, scenes = place("tile.tif"), [half, place(HALF)]
        st.label(scenes, tile, at / "labels")
        st.cut(scenes, at / "labels", at / "patches", size=64, max_void=0.2)
        report = st.sample(at / "patches", tile, points=2000, block=2, buffer=0)
        index = st.read_index(at / "patches")
        pixels = [st.Store(at / "patches", index).sar(i) for i in range(len(index))]
        found.append((report.to_dict(), index["points"].tolist(), np.stack(pixels)))
    assert found[0][:2] == found[1][:2]
    np.testing.assert_array_equal(found[0][2], found[1][2])
