"""Files: which are scenes, whole or not there, what is up to date, and work on many."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from conftest import land_array, scene_array, write
from hypothesis import given
from hypothesis import strategies as st

from sartutorial import InputError, files, rasters

RNG = np.random.default_rng(0)
MOSAIC = "N23W161_20_sl_HH_F02DAR"
JAXA = "IMG-HH-ALOS2458503210-221119-UBSR2.1GUD.tif"


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


# Scenes ------------------------------------------------------------------------------------------


def test_a_folder_is_its_rasters_wherever_they_lie_in_order(tmp_path):
    wanted = [tmp_path / p for p in ("a.TIF", "b.vrt", "orders/0001/c.tiff", "orders/0002/d.jp2")]
    touch(*wanted)
    touch(*(tmp_path / p for p in (
        "notes.txt", "._a.TIF", ".hidden.tif", "orders/0001/._c.tiff", "orders/0001/summary.txt",
        ".made/a.tif", "orders/.trash/e.tif", "orders/0001/c.tif.ovr", "a.TIF.aux.xml",
        "N23W161_20_mask_F02DAR.tif", "N23W161_20_linci_F02DAR.tif", "N23W161_20_date_F02DAR.tif",
        "N33E135_07_mask", "N33E135_07_mask.hdr", "ALOS2397743750-211004_WBDR2.2GUD_MSK.tif",
        "ALOS2397743750-211004_WBDR2.2GUD_LIN.tif",
        "ESA_WorldCover_10m_2021_v200_N33E135_InputQuality.tif",
    )))  # fmt: skip
    assert files.find_scenes(tmp_path) == files.find_scenes(str(tmp_path)) == list(map(str, wanted))
    assert files.find_scenes([tmp_path / "orders"]) == list(map(str, wanted[2:]))
    assert files.find_scenes(tmp_path, without=tmp_path / "orders") == list(map(str, wanted[:2]))
    assert files.find_scenes(wanted[0]) == [str(wanted[0])]


def test_a_link_to_a_folder_is_followed_once(tmp_path):
    touch(tmp_path / "disk" / "a.tif")
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "scenes")
    assert files.find_scenes(tmp_path / "scenes") == [str(tmp_path / "scenes" / "link" / "a.tif")]


def test_what_is_not_there_is_said(tmp_path):
    touch(tmp_path / "only" / "._a.tif")
    with pytest.raises(InputError, match=r"c\.tif: no such tile; check the path"):
        files.find_scenes(tmp_path / "c.tif", "tile")
    with pytest.raises(InputError, match="only: the folder holds no raster"):
        files.find_scenes([tmp_path / "only"])
    with pytest.raises(InputError, match="no scene given"):
        files.find_scenes([])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("s/scene.tif", "s/scene.tiff"),
        ("s/scene.tif", "s/scene.vrt"),
        ("s/scene.TIF", "s/scene.img"),
        ("s/1/scene.tif", "s/2/scene.tif"),
    ],
)
def test_two_scenes_that_would_be_one_product_are_refused_naming_both(tmp_path, one, other):
    touch(tmp_path / one, tmp_path / other)
    for paths in (tmp_path, [tmp_path / one, tmp_path / other], [tmp_path, tmp_path / one]):
        with pytest.raises(InputError) as caught:
            files.find_scenes(paths)
        assert one.rsplit("/")[-1] in str(caught.value)
        assert "two scenes of one name" in str(caught.value)
    with pytest.raises(InputError, match=f"{other}"):
        files.find_scenes(tmp_path)


def test_a_vrt_beside_what_it_shows_would_count_it_twice(tmp_path):
    scene = write(tmp_path / "in" / "a.tif", scene_array(RNG, 9, 9))
    rasterio.shutil.copy(scene, tmp_path / "all.vrt", driver="VRT")
    with pytest.raises(InputError, match=r"all\.vrt and .*a\.tif: the one shows the other"):
        files.find_scenes(tmp_path)
    assert files.find_scenes(tmp_path / "all.vrt") == [str(tmp_path / "all.vrt")]


def test_envi_needs_no_suffix(tmp_path):
    touch(tmp_path / "N33E135_15_sl_HH_F02DAR", tmp_path / "N33E135_15_sl_HH_F02DAR.hdr")
    touch(tmp_path / "README", tmp_path / "b.hdr", tmp_path / "b.img")
    assert [Path(p).name for p in files.find_scenes(tmp_path)] == [
        "N33E135_15_sl_HH_F02DAR",
        "b.img",
    ]
    assert files.product_name(tmp_path / "N33E135_15_sl_HH_F02DAR") == "N33E135_15_sl_HH_F02DAR.tif"


def packed(archive, *members):
    """An archive of what lies in the folder ``in`` beside it."""
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive, "w") as file:
            for name, path in members:
                file.write(path, name)
    else:
        with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as file:
            for name, path in members:
                file.add(path, name)
    return archive


@pytest.mark.parametrize("folder", ["", "N23W161_20_MOS_F02DAR/"])
@pytest.mark.parametrize(
    ("name", "stem", "driver"),
    [
        ("N23W161_20_MOS_F02DAR.tar.gz", f"{MOSAIC}.tif", "GTiff"),
        ("N23W161_20_MOS_F02DAR.zip", f"{MOSAIC}.tif", "GTiff"),
        ("N23W161_15_MOS_F02DAR.tar.gz", "N23W161_15_sl_HH_F02DAR", "ENVI"),
        ("N23W161_07_MOS.tar.gz", "N23W161_07_sl_HH", "ENVI"),
        ("N23W161_07_MOS.tgz", "N23W161_07_sl_HH", "ENVI"),
        ("N23W161_07_MOS.zip", "N23W161_07_sl_HH.tif", "GTiff"),
        ("0000561234_001001_ALOS2458503210-221119.zip", JAXA, "GTiff"),
    ],
)
def test_an_archive_stands_for_its_hh(tmp_path, name, stem, driver, folder):
    dn = scene_array(RNG, 20, 30)
    grid = dict(crs="EPSG:4326", transform=Affine(1 / 4500, 0, 135, 0, -1 / 4500, 33))
    inside = []
    for layer in (stem.replace("HH", "HV"), stem):
        path = tmp_path / "in" / layer
        path.parent.mkdir(exist_ok=True)
        with rasterio.open(path, "w", driver=driver, dtype="uint16", count=1, height=20, width=30,
                           **grid) as file:  # fmt: skip
            file.write(dn, 1)
        inside.append((folder + layer, path))
        if driver == "ENVI":
            inside.append((f"{folder}{layer}.hdr", path.with_name(f"{layer}.hdr")))
    archive = packed(
        tmp_path / "out" / name if (tmp_path / "out").mkdir() is None else None, *inside
    )
    (found,) = files.find_scenes(tmp_path / "out")
    assert files.find_scenes(archive) == [found]
    assert found.endswith(f"{name}/{folder}{stem}")
    assert files.on_disk(found) == archive
    assert files.product_name(found) == f"{stem.removesuffix('.tif')}.tif"
    view = rasters.read_db(archive)
    assert view.quantity == ("sigma0" if "IMG" in stem else "gamma0")
    np.testing.assert_array_equal(np.isnan(view.db), dn == 0)


def test_an_archive_without_hh_or_in_pieces_is_named(tmp_path):
    touch(tmp_path / "x.txt")
    packed(tmp_path / "N23W161_20_MOS_F02DAR.zip", ("x.txt", tmp_path / "x.txt"))
    with pytest.raises(InputError, match=r"N23W161_20_MOS_F02DAR\.zip: holds no HH layer"):
        files.find_scenes(tmp_path)
    for name in ("a.zip", "a.tar.gz"):
        (tmp_path / name).write_bytes(b"torn")
        with pytest.raises(InputError, match=f"{name}: not a readable archive"):
            files.find_scenes(tmp_path / name)


def test_a_name_is_free_of_folders_and_a_query():
    assert files.name_of(f"https://example.org/a/{MOSAIC}.tif?key=a/b.tif") == f"{MOSAIC}.tif"
    assert files.name_of("a/b?.tif") == "b?.tif"


@pytest.mark.parametrize(
    ("out", "several", "file"),
    [
        ("maps", False, "maps/s.tif"),
        ("maps/", False, "maps/s.tif"),
        ("maps", True, "maps/s.tif"),
        ("map.tif", False, "map.tif"),
        ("map.TIFF", False, "map.TIFF"),
        ("v1.2", False, "v1.2/s.tif"),
        ("folder.tif", False, "folder.tif/s.tif"),  # which is there
    ],
)
def test_out_is_a_file_if_it_is_called_one(tmp_path, monkeypatch, out, several, file):
    monkeypatch.chdir(tmp_path)
    Path("folder.tif").mkdir()
    touch(*(Path("a", name) for name in ("s.vrt", "t.tif")[: several + 1]))
    made = files.products(lambda scene, out, progress: out, "a", out, name="n", progress=False)
    assert made[0] == Path(file)


def test_one_file_for_several_scenes_is_refused(tmp_path):
    touch(tmp_path / "s.tif", tmp_path / "t.tif")
    with pytest.raises(InputError, match=r"m\.tif: one file for several scenes; name a folder"):
        files.products(copied, tmp_path, "m.tif", name="copy", progress=False)


# Whole files -------------------------------------------------------------------------------------


def left_in(folder):
    """All that lies in a folder, but for what was noted and locked."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")
                  if p.is_file() and not p.name.endswith((".lock", ".json")))  # fmt: skip


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail():
        with files.atomic_write(path) as partial:
            partial.write_text("half of the n")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert left_in(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_file_has_the_mode_that_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        with files.atomic_write(tmp_path / "new" / "x.bin") as partial:
            os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600))  # as some libraries do
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "x.bin").stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_partial_file_ends_as_the_file_does(tmp_path):
    with (
        files.atomic_write(tmp_path / "a.npy") as one,
        files.atomic_write(tmp_path / "a.npy") as two,
    ):
        assert one != two
        for path in (one, two):
            np.save(path, np.arange(3))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]
    assert left_in(tmp_path) == ["a.npy"]


@pytest.mark.parametrize("said", ["disk full", "x.txt: disk full"])
def test_a_file_that_cannot_be_written_is_named_once(tmp_path, monkeypatch, said):
    monkeypatch.chdir(tmp_path)

    def fail():
        with files.atomic_write("x.txt"):
            raise OSError(said)

    with pytest.raises(OSError, match="disk full") as caught:
        fail()
    assert str(caught.value).count("x.txt") == 1
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=r"file/x\.txt: could not be written"),
        files.atomic_write(tmp_path / "file" / "x.txt"),
    ):
        pass


KILLED = """if True:
    import os, signal, sys
    from sartutorial import files
    with files.{}(sys.argv[1]{}) as partial:
        partial.write_text("half")
        print(os.listdir(partial.parent), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """


@pytest.mark.parametrize(("call", "more"), [("atomic_write", ""), ("made", ", [], {}")])
@pytest.mark.parametrize("name", ["x.txt", "[a-b] *.x.txt"])
def test_what_a_killed_run_leaves_is_swept_by_the_next(tmp_path, call, more, name):
    path = tmp_path / name
    with files.atomic_write(path) as partial:
        partial.write_text("old")
        code = KILLED.format(call, more)
        for _ in range(2):
            assert subprocess.run([sys.executable, "-c", code, path]).returncode == -signal.SIGKILL
        assert len(left_in(tmp_path)) == 2  # that of this run, which lives, and of one that is dead
    assert path.read_text() == "old"
    with files.atomic_write(path) as partial:
        partial.write_text("new")
    assert left_in(tmp_path) == [name]


# What is up to date ------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    """A folder with a product, its two inputs, and how to ask for it again."""
    folder = tmp_path / "data"
    (folder / "in").mkdir(parents=True)
    for name in "ab":
        (folder / "in" / name).write_text(name * 9)

    def again(folder=folder, names="ab", **parameters):
        """Whether the product was made now."""
        inputs = [folder / "in" / name for name in names]
        with files.made(folder / "out" / "o.txt", inputs, {"n": 1} | parameters) as partial:
            if partial:
                partial.write_text("".join(i.read_text() for i in inputs))
        assert files.up_to_date(folder / "out" / "o.txt", inputs, {"n": 1} | parameters)
        return partial is not None

    assert again()
    assert left_in(folder / "out") == ["o.txt"]
    return folder, again


def test_a_product_is_made_once(made):
    _, again = made
    assert not again()
    assert again(n=2)
    assert again(names="ba")
    assert again(names="b")
    assert not again(names="b")


def test_parameters_are_those_that_json_can_hold(made):
    _, again = made
    assert again(t=(1, 2), d={"a": None})
    assert not again(t=[1, 2], d={"a": None})


def test_a_replaced_input_is_noticed_whatever_its_date(made):
    folder, again = made
    a = folder / "in" / "a"
    before = a.stat()
    a.write_text("A" * 9)  # of the same size
    os.utime(a, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert again()
    (folder / "in" / "b").rename(folder / "in" / "old")
    (folder / "in" / "b").write_text("B" * 9)
    os.utime(folder / "in" / "b", (0, 0))
    assert again()
    assert (folder / "out" / "o.txt").read_text() == "A" * 9 + "B" * 9
    os.utime(a)  # touched, and the same
    assert not again()


def test_a_copied_or_moved_folder_stays_current(made, tmp_path):
    folder, again = made
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    assert not again(tmp_path / "copy")
    folder.rename(tmp_path / "moved")
    assert not again(tmp_path / "moved")
    for path in tmp_path.rglob("*.json"):
        assert str(tmp_path) not in path.read_text()


def test_contents_are_read_once(made, monkeypatch):
    """Only a file whose size, times or inode are not those noted is read for what it holds."""
    folder, again = made
    shutil.copytree(folder, folder.with_name("copy"), copy_function=shutil.copyfile)
    read, content = [], files._content
    monkeypatch.setattr(files, "SETTLED", 0)
    assert not again()
    monkeypatch.setattr(files, "_content", lambda p: read.append(p.name) or content(p))
    assert not again()
    assert read == []
    assert not again(folder.with_name("copy"))
    assert read == ["a", "b"]
    assert not again(folder.with_name("copy"))
    assert read == ["a", "b"]


def test_another_version_makes_it_anew(made, monkeypatch):
    _, again = made
    monkeypatch.setattr(files, "__version__", "9.9.1")
    assert again()


def test_a_lost_product_or_note_is_made_anew(made):
    folder, again = made
    (folder / "out" / "o.txt").unlink()
    assert again()
    for damage in ("", "{}", "[]", "3", '{"version": 1}', '{"states": [3], "inputs": [["a", 1]]}'):
        (folder / "out" / ".made" / "o.txt.json").write_text(damage)
        assert again()


def test_an_input_that_changes_meanwhile_is_not_taken_for_the_one_that_was_read(tmp_path):
    source = tmp_path / "a"
    source.write_text("old")
    with files.made(tmp_path / "o", [source], {}) as partial:
        partial.write_text(source.read_text())
        source.write_text("longer")
    assert (tmp_path / "o").read_text() == "old"
    assert not files.up_to_date(tmp_path / "o", [source], {})
    source.write_text("old")  # put back: nobody knows which of the two was read
    assert not files.up_to_date(tmp_path / "o", [source], {})


def test_a_failed_remake_leaves_the_old_product_and_its_note(made):
    folder, again = made
    inputs = [folder / "in" / name for name in "ab"]

    def fail():
        with files.made(folder / "out" / "o.txt", inputs, {"n": 5}):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert left_in(folder / "out") == ["o.txt"]
    assert not again()


def test_no_product_overwrites_its_source(tmp_path):
    source = tmp_path / "a.tif"
    source.write_text("x")
    (tmp_path / "link.tif").symlink_to(source)
    for out in (source, tmp_path / "b" / ".." / "a.tif", tmp_path / "link.tif"):
        with pytest.raises(InputError, match="would overwrite its own source"):
            files.up_to_date(out, [source], {})
    with (
        pytest.raises(InputError, match=r"no\.tif: no such file"),
        files.made(tmp_path / "o.tif", [tmp_path / "no.tif"], {}),
    ):
        pass


def test_what_lies_beside_or_behind_an_input_belongs_to_it(tmp_path):
    """A mask beside a scene, a header, the file that a VRT shows."""
    scene = write(tmp_path / "s.tif", scene_array(RNG, 9, 9))
    rasterio.shutil.copy(scene, tmp_path / "v.vrt", driver="VRT")
    (tmp_path / "e").write_text("x")
    (tmp_path / "e.hdr").write_text("ENVI")

    def current():
        with files.made(tmp_path / "o", [tmp_path / "v.vrt", tmp_path / "e"], {}) as partial:
            if partial:
                partial.touch()
            return partial is None

    assert [current(), current()] == [False, True]
    for change in (
        lambda: write(scene, scene_array(RNG, 9, 9)),
        lambda: (tmp_path / "s.tif.msk").write_text("mask"),
        lambda: (tmp_path / "s.tif.msk").unlink(),
        lambda: (tmp_path / "e.hdr").write_text("ENVI 2"),
    ):
        change()
        assert [current(), current()] == [False, True]


def test_what_lies_elsewhere_is_known_by_its_address(tmp_path):
    out = tmp_path / "o"
    with files.made(out, ["https://example.org/a.tif?key=secret"], {}) as partial:
        partial.touch()
    assert files.up_to_date(out, ["https://example.org/a.tif?key=other"], {})
    assert not files.up_to_date(out, ["https://example.org/b.tif?key=secret"], {})
    assert "secret" not in (tmp_path / ".made" / "o.json").read_text()


def test_a_product_that_is_current_may_lie_where_nobody_writes(made):
    folder, again = made
    shutil.rmtree(folder / "out" / ".made" / "o.txt.lock", ignore_errors=True)
    for path in (folder / "out" / ".made", folder / "out"):
        path.chmod(0o555)
    try:
        assert not again()
    finally:
        for path in (folder / "out", folder / "out" / ".made"):
            path.chmod(0o755)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none() | st.booleans()))
def test_any_plain_parameters_are_found_again(tmp_path_factory, parameters):
    out = tmp_path_factory.mktemp("p") / "o"
    with files.made(out, [], parameters) as partial:
        partial.touch()
    assert files.up_to_date(out, [], json.loads(json.dumps(parameters)))
    assert not files.up_to_date(out, [], parameters | {"another": 1.5})


WRITER = """if True:
    import os, sys, time
    from pathlib import Path
    from sartutorial import files
    out, source, log = sys.argv[1:]
    with files.made(out, [source], {}) as partial:
        if partial:
            with open(log, "a") as said:
                print("made", file=said)
            time.sleep(0.5)
            partial.write_text(Path(source).read_text())
    print(Path(out).read_text())
    """


def test_of_several_runs_at_once_one_makes_it_and_the_others_wait(tmp_path):
    (tmp_path / "source").write_text("x" * 9)
    line = [sys.executable, "-c", WRITER, tmp_path / "o", tmp_path / "source", tmp_path / "log"]
    runs = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [r.communicate()[0] for r in runs] == ["x" * 9 + "\n"] * 4
    assert (tmp_path / "log").read_text() == "made\n"


def test_threads_lock_each_other_out_too(tmp_path):
    held, most = [], []

    def hold():
        with files.locked(tmp_path / "new" / "o"):
            held.append(1)
            most.append(len(held))
            time.sleep(0.02)
            held.pop()

    threads = [threading.Thread(target=hold) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


# Many scenes -------------------------------------------------------------------------------------


def halve(scene, by=2):
    """Work that some scenes refuse."""
    if scene == "bad":
        raise InputError("bad: of no use; take another")
    if scene == "odd":
        raise ValueError("nobody\nfound this out")
    return len(scene) / by


def test_one_process_goes_on_after_a_failure():
    assert files.map_scenes(partial(halve, by=1), ["a", "ccc"], name="halve") == [1, 3]
    done = []

    def work(scene):
        done.append(scene)
        return halve(scene)

    with pytest.raises(InputError) as caught:
        files.map_scenes(work, ["a", "bad", "ccc", "odd", "e"], name="halve")
    assert done == ["a", "bad", "ccc", "odd", "e"]
    assert str(caught.value).splitlines() == [
        "bad: of no use; take another",
        "odd: ValueError: nobody found this out",
    ]


def test_a_single_error_is_raised_as_it_is():
    error = InputError("bad: of no use")

    def refuse(scene):
        raise error

    with pytest.raises(InputError) as caught:
        files.map_scenes(refuse, ["bad"], name="halve")
    assert caught.value is error


def copied(scene, *, out, progress):
    with files.made(out, [scene], {}) as partial:
        if partial:
            shutil.copyfile(scene, partial)
    return out


def test_products_come_back_as_they_were_asked_for(tmp_path):
    for name in "ab":
        write(tmp_path / "s" / f"{name}.tif", scene_array(RNG, 4, 4))
    make = partial(files.products, copied, name="copy", progress=False)
    out = tmp_path / "o"
    one, two = out / "a.tif", out / "b.tif"
    assert make(tmp_path / "s" / "a.tif", out) == one
    assert make(str(tmp_path / "s" / "a.tif"), tmp_path / "x.tif") == tmp_path / "x.tif"
    assert make([tmp_path / "s" / "a.tif"], out) == [one]
    assert make(tmp_path / "s", f"{out}/") == [one, two]
    # A folder of products within that of the scenes holds no scenes.
    inside = tmp_path / "s" / "half"
    for _ in range(2):
        assert make(tmp_path / "s", inside) == [inside / "a.tif", inside / "b.tif"]


def test_work_goes_ahead_in_order_and_not_far():
    asked, used = [], []

    def work(i):
        asked.append(i)
        if i == 7:
            raise InputError("7")
        return i

    def use():
        with files.prefetch(work, range(100), threads=2) as results:
            for i in results:
                used.append(i)
                assert max(asked) <= i + 2  # so that memory does not grow with the work

    with pytest.raises(InputError, match="7"):
        use()
    assert used == list(range(7))


@pytest.mark.parametrize("threads", [1, 3])
def test_nobody_reads_on_when_an_interrupted_step_closes_its_rasters(threads):
    begun, done = [], []

    def work(i):
        begun.append(i)
        time.sleep(0.1)
        done.append(i)

    def use():
        with files.prefetch(work, range(9), threads) as results:
            next(results)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as _held:  # whose traceback keeps the results alive
        use()
    assert sorted(begun) == sorted(done)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_thread_that_is_interrupted_while_it_starts_reads_nothing(monkeypatch, nth):
    """The pool does not know of it, and would not wait for it."""
    begun, started, start = [], [], threading.Thread.start

    def interrupted(thread):
        start(thread)
        started.append(thread)
        if len(started) == nth:
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), files.prefetch(begun.append, range(9), 2) as results:
        list(results)
    for thread in started:
        thread.join()
    assert begun == []


@pytest.mark.slow
def test_no_scheduler_is_said():
    with pytest.raises(InputError, match=r"tcp://127.0.0.1:9: no dask scheduler answers"):
        files.map_scenes(halve, ["a"], name="halve", scheduler="tcp://127.0.0.1:9")


UNGUARDED = """
import os, sys
import sartutorial as st

def size(scene):
    return os.path.getsize(scene) + (os.getpid() == int(os.environ["PARENT"]))

os.environ["PARENT"] = str(os.getpid())
print(st.map_scenes(size, sys.argv[1:], name="size", workers=2))
"""


@pytest.mark.slow
def test_a_script_without_a_guard_can_use_processes(tmp_path):
    (tmp_path / "script.py").write_text(UNGUARDED)
    for name in "ab":
        (tmp_path / name).write_text(name * 9)
    line = [sys.executable, tmp_path / "script.py", tmp_path / "a", tmp_path / "b"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[9, 9]\n", "")


ENDLESS = """if True:
    import signal, sys, time
    import sartutorial as st

    def wait(scene):
        print("at work", flush=True)
        while True:
            time.sleep(0.1)

    if __name__ == "__main__":
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            st.map_scenes(wait, ["a", "b"], name="wait", workers=2)
        except KeyboardInterrupt:
            print("stopped", flush=True)
    """


@pytest.fixture
def endless(tmp_path):
    """A run whose two workers are at their endless work; what it and they print is in one pipe."""
    (tmp_path / "script.py").write_text(ENDLESS)
    child = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert [child.stdout.readline(), child.stdout.readline()] == ["at work\n"] * 2
    yield child
    child.stdout.close()


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(endless):
    workers = psutil.Process(endless.pid).children(recursive=True)
    endless.kill()
    endless.wait()
    assert workers
    assert not psutil.wait_procs(workers, timeout=300)[1]  # those alive, where none should be


@pytest.mark.slow
def test_an_interruption_ends_the_workers_without_a_word(endless):
    os.killpg(endless.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    assert endless.stdout.read() == "stopped\n"
    assert endless.wait() == 0


@pytest.fixture(scope="module")
def land(tmp_path_factory):
    """Five scenes with a tile under them, and a torn one."""
    at, rng = tmp_path_factory.mktemp("land"), np.random.default_rng(1)
    for i in range(6):
        write(at / "scenes" / f"{i}.tif", scene_array(rng, 300, 260, hole=1e-4))
    write(at / "tiles" / "t.tif", land_array(rng, 300, 260))
    (at / "scenes" / "2.tif").write_text("torn")
    return at


def contents(folder):
    """Every product by its name: notes, locks and partial files are none."""
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*") if path.is_file() and files.NOTES not in path.parts}  # fmt: skip


def command(*words):
    return [Path(sys.executable).with_name("sartutorial"), *map(str, words)]


def chain(land, out, *how):
    """The three raster commands in processes of their own; what they leave, and what they say."""
    errors = []
    for words in (
        ["downsample", land / "scenes", "--out", out / "half"],
        ["label", out / "half", "--tiles", land / "tiles", "--out", out / "labels"],
        ["patches", out / "half", "--labels", out / "labels", "--out", out / "p", "--size", 32,
         "--max-void", 1],
    ):  # fmt: skip
        done = subprocess.run(command(*words, *how), capture_output=True, text=True)
        errors += [e for e in done.stderr.splitlines() if e.startswith("sartutorial:")]
        assert done.returncode == ("downsample" in words), done.stderr
    return contents(out), errors


@pytest.mark.slow
def test_processes_make_the_same_files(land, tmp_path):
    alone, said = chain(land, tmp_path / "alone")
    assert {name.split("/")[0] for name in alone} == {"half", "labels", "p"}
    assert len(said) == 1
    assert "2.tif: not a readable raster" in said[0]
    assert chain(land, tmp_path / "two", "--workers", 2) == (
        alone,
        [said[0].replace("/alone/", "/two/")],
    )


def dies(scene, *, out, progress):
    """Work that is killed, as by a lack of memory, each time or the first time that it has a scene."""
    with (out.parent / "tried").open("a") as tried:
        tried.write(f"{out.stem}\n")
    often = (out.parent / "tried").read_text().split().count(out.stem)
    if out.stem == "3" or (out.stem == "4" and often == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return copied(scene, out=out, progress=progress)


@pytest.mark.slow
def test_a_killed_worker_costs_its_own_scene_at_most(land, tmp_path):
    """One scene whose worker dies once, one whose workers always die."""
    (tmp_path / "out").mkdir()
    make = partial(files.products, dies, land / "scenes", tmp_path / "out", name="copy")
    with pytest.raises(InputError) as caught:
        make(workers=2, progress=False)
    assert str(caught.value) == f"{land / 'scenes' / '3.tif'}: {files.DIED}"
    made = contents(tmp_path / "out")
    tried = made.pop("tried").decode().split()  # what a worker had when it died is made again
    assert tried.count("3") == 2 <= tried.count("4")
    assert made == {k: v for k, v in contents(land / "scenes").items() if k != "3.tif"}


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers in processes and a folder of their own, on the loopback address."""
    dask = Path(sys.executable).with_name("dask")
    log = (tmp_path / "dask.log").open("w")
    kept = dict(stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
    address = f"tcp://127.0.0.1:{18786 + os.getpid() % 1000}"
    common = ["--no-dashboard", "--host", "127.0.0.1"]
    started = [
        subprocess.Popen([dask, "scheduler", "--port", address[-5:], "--no-show", *common], **kept),
        *(subprocess.Popen([dask, "worker", address, "--nthreads", "1", *common], **kept)
          for _ in range(2)),
    ]  # fmt: skip
    yield address
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)
    for process in started:
        process.wait()
    log.close()


@pytest.mark.nightly
def test_a_cluster_makes_the_same_files_even_from_a_run_that_was_killed(
    land, tmp_path, cluster, monkeypatch
):
    alone, _ = chain(land, tmp_path / "alone")
    monkeypatch.chdir(tmp_path)  # its workers are told what a relative path means here
    found, said = chain(land, Path("far"), "--scheduler", cluster)
    assert found == alone
    assert len(said) == 1
    # Another run is killed; its tasks may go on. The next one waits for them, and ends the same.
    again = Path("again")
    line = command("patches", "alone/half", "--labels", "alone/labels", "--out", again, "--size", 32,
                   "--max-void", 1, "--scheduler", cluster)  # fmt: skip
    child = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(again.rglob("*.npy")) and child.poll() is None:
        time.sleep(0.01)
    child.kill()
    child.wait()
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(again) == {k[2:]: v for k, v in alone.items() if k.startswith("p/")}
