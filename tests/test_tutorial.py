"""What the chapters build for themselves, and keep."""

import dataclasses
import inspect
import shutil

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import stopped_in

import sartutorial as st
from sartutorial import profiles, tutorial
from sartutorial.learn import checkpoints, pretraining
from sartutorial.learn.encoders import EncoderConfig
from sartutorial.world import simulate


@pytest.fixture
def scale(tmp_path, tiny, monkeypatch):
    """A place of its own for the laptop's data, and a way to say how large a laptop is."""
    monkeypatch.setenv("SARTUTORIAL_DATA", str(tmp_path))
    monkeypatch.delenv("SARTUTORIAL_PROFILE", raising=False)

    def scale(**changed):
        profile = dataclasses.replace(tiny, **changed)
        monkeypatch.setitem(profiles.PROFILES, "laptop", profile)

    scale()
    return scale


@pytest.fixture
def small(scale, world, monkeypatch):
    """The same, with patches that are there already; sets the epochs."""
    monkeypatch.setattr(tutorial, "sampled", lambda: world / "patches")
    return lambda epochs: scale(pretrain_epochs=epochs)


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_any_chapter_can_be_opened_first(scale, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(simulate, "TILE_PIXELS", 6000)
    scale(scene_size=1536, patch_size=32, pretrain_epochs=1, finetune_epochs=1)
    file = tutorial.model(None)
    assert file == tmp_path / "models" / "scratch" / "model.safetensors"
    tutorial.encoder()
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["making", "fine-tuning", "pretraining"]
    assert all(line.endswith("...") for line in said)

    assert list(tutorial.epochs(tutorial.model(None))) == [1]  # chapter 7 draws its curve from them
    tutorial.encoder()
    (scene,), (half,) = tutorial.scenes(), tutorial.halved()
    assert scene.name == half.name
    assert (tutorial.labelled() / half.name).exists()
    assert {"pretrain", "finetune"} <= set(st.read_index(tutorial.sampled()))
    assert capsys.readouterr().out == ""  # nothing is made again

    shutil.rmtree(file.parent)
    tutorial.model(None)
    assert capsys.readouterr().out.startswith("fine-tuning")


def test_every_epoch_is_kept_and_the_last_is_the_encoder(small):
    small(3)
    file = tutorial.encoder()
    kept = tutorial.epochs(file)
    assert list(kept) == [1, 2, 3]
    assert not same(kept[1], kept[2])
    assert not same(kept[2], kept[3])
    state, description = checkpoints.load(file)
    assert same(kept[3], state)
    config = EncoderConfig(**description["encoder"])
    model = pretraining.build("sar-w-simmim", config, profiles.get())
    checkpoints.load_into(model, kept[1], file)

    files = sorted((file.parent / "epochs").glob("*.safetensors"))
    times = [f.stat().st_mtime_ns for f in files]
    assert list(tutorial.epochs(tutorial.encoder())) == [1, 2, 3]  # nothing is trained again
    assert [f.stat().st_mtime_ns for f in files] == times


def test_a_killed_training_keeps_the_epochs_of_an_undisturbed_one(small, tmp_path, monkeypatch):
    small(3)
    with stopped_in(2):
        tutorial.encoder()
    resumed = tutorial.epochs(tutorial.encoder())
    monkeypatch.setenv("SARTUTORIAL_DATA", str(tmp_path / "undisturbed"))
    undisturbed = tutorial.epochs(tutorial.encoder())
    assert list(resumed) == list(undisturbed) == [1, 2, 3]
    assert all(same(resumed[n], undisturbed[n]) for n in resumed)


def test_a_long_training_keeps_a_few(small):
    small(25)
    assert list(tutorial.epochs(tutorial.encoder())) == [*range(2, 25, 2), 25]


def test_epochs_of_another_run_are_passed_over(small):
    small(3)
    tutorial.epochs(tutorial.encoder())
    small(2)
    assert list(tutorial.epochs(tutorial.encoder())) == [1, 2]
    assert len(list((tutorial.encoder().parent / "epochs").glob("*.safetensors"))) == 3


def test_without_kept_weights_the_encoder_is_the_only_epoch(small):
    small(2)
    shutil.rmtree(tutorial.encoder().parent / "epochs")
    assert list(tutorial.epochs(tutorial.encoder())) == [2]


def test_a_chapter_shows_the_source_that_runs():
    pytest.importorskip("IPython")  # which comes with notebooks
    shown = tutorial.show_source(tutorial.halved).data
    assert shown == f"```python\n{inspect.getsource(tutorial.halved)}```"


def test_a_slider_is_alive_without_a_kernel():
    pytest.importorskip("IPython")  # which comes with notebooks
    figures = [(str(k), plt.subplots()[0]) for k in range(3)]
    page = tutorial.slider(figures, "looks", "speckle by looks", start=-1).data
    assert page.count("data:image/png;base64,") == 4  # three frames, and the one shown first
    assert "<output>2</output>" in page and 'value="2"' in page
    assert 'alt="speckle by looks"' in page
    assert not plt.get_fignums()
