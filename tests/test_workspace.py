"""What the chapters build for themselves, and keep."""

import dataclasses

import pytest
import torch
from conftest import stopped_in

from sartutorial import checkpoints, pretraining, profiles, workspace
from sartutorial.encoders import EncoderConfig


@pytest.fixture
def small(world, tiny, tmp_path, monkeypatch):
    """A workspace of a tiny profile whose patches are there already; sets the epochs."""
    monkeypatch.setenv("SARTUTORIAL_DATA", str(tmp_path))
    monkeypatch.delenv("SARTUTORIAL_PROFILE", raising=False)
    monkeypatch.setattr(workspace, "sampled", lambda: world / "patches")

    def scale(epochs):
        profile = dataclasses.replace(tiny, pretrain_epochs=epochs)
        monkeypatch.setitem(profiles.PROFILES, "laptop", profile)

    return scale


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_every_epoch_is_kept_and_the_last_is_the_encoder(small):
    small(3)
    kept = workspace.epochs()
    assert list(kept) == [1, 2, 3]
    assert not same(kept[1], kept[2])
    assert not same(kept[2], kept[3])
    file = workspace.encoder()
    state, description = checkpoints.load(file)
    assert same(kept[3], state)
    files = sorted((file.parent / "epochs").glob("*"))
    last = torch.load(files[-1], weights_only=True)
    assert same({k.removeprefix("model."): v for k, v in last["state_dict"].items()}, state)
    assert "optimizer_states" not in last
    config = EncoderConfig(**description["encoder"])
    model = pretraining.build("sar-w-simmim", config, profiles.current())
    checkpoints.load_into(model, kept[1], file)

    times = [f.stat().st_mtime_ns for f in files]
    assert list(workspace.epochs()) == [1, 2, 3]  # nothing is trained again
    assert [f.stat().st_mtime_ns for f in files] == times


def test_a_killed_training_keeps_the_epochs_of_an_undisturbed_one(small, tmp_path, monkeypatch):
    small(3)
    with stopped_in(2):
        workspace.encoder()
    resumed = workspace.epochs()
    monkeypatch.setenv("SARTUTORIAL_DATA", str(tmp_path / "undisturbed"))
    undisturbed = workspace.epochs()
    assert list(resumed) == list(undisturbed) == [1, 2, 3]
    assert all(same(resumed[n], undisturbed[n]) for n in resumed)


def test_a_long_training_keeps_a_few(small):
    small(25)
    assert list(workspace.epochs()) == [*range(2, 25, 2), 25]


def test_epochs_of_another_run_are_passed_over(small):
    small(3)
    workspace.epochs()
    small(2)
    assert list(workspace.epochs()) == [1, 2]
    assert len(list((workspace.encoder().parent / "epochs").iterdir())) == 3


def test_without_kept_weights_the_encoder_is_the_only_epoch(small):
    small(2)
    for path in (workspace.encoder().parent / "epochs").iterdir():
        path.unlink()
    assert list(workspace.epochs()) == [2]
