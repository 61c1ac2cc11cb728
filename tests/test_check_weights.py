"""The script that checks downloaded weights, on files built from the authors' keys."""

import numpy as np
import pytest
import torch
from conftest import scene_array, write
from test_published import state

from experiments import check_weights
from sartutorial import InputError


def test_an_order_is_found_and_what_ours_is_worth():
    matrix = np.array([[0, 9, 0], [8, 1, 0], [0, 0, 5]])
    channels, best, ours = check_weights.order(matrix)
    assert channels == [1, 0, 2]
    assert best == pytest.approx(22 / 23)
    assert ours == pytest.approx(6 / 23)


def test_a_checkpoint_whose_classes_were_shuffled_is_seen(tmp_path, capsys, monkeypatch):
    """Labels are made by the model itself, then two of its channels change places."""
    torch.manual_seed(0)
    given = state("upernet")
    torch.save({"model": given}, tmp_path / "a.pth")
    sar = write(tmp_path / "scene.tif", scene_array(np.random.default_rng(0), 128, 256))
    truth = np.arange(128 * 256).reshape(128, 256) % 9
    ids = np.array([1, 2, 3, 5, 6, 10, 12, 13, 14], np.uint8)
    labels = write(tmp_path / "labels.tif", ids[truth])
    monkeypatch.setattr(
        check_weights, "confusion", lambda model, db, truth, *_: np.roll(np.eye(9, dtype=int), 1, 1)
    )
    said = check_weights.report(tmp_path / "a.pth", sar, labels)
    assert said["published"] == {"channels": [*range(1, 9), 0], "best": 1.0, "ours": 0.0}
    out = capsys.readouterr().out
    assert "all fit a Segmenter" in out
    assert "on trust, legend" in out
    assert "fits built-up's place better" in out


def test_its_confusion_is_that_of_the_model(tmp_path):
    from sartutorial.learn import published

    torch.save({"model": state("upernet")}, tmp_path / "a.pth")
    model, _ = published.load_model(tmp_path / "a.pth")
    db = np.random.default_rng(0).normal(-10, 5, (2, 128, 128)).astype(np.float32)
    with torch.no_grad():
        found = model(torch.from_numpy((db + 10) / 5)[:, None]).argmax(1).numpy()
    matrix = check_weights.confusion(model, db, found.astype(np.int64), -10, 5)
    assert np.array_equal(matrix, np.diag(np.bincount(found.ravel(), minlength=9)))


def test_keys_that_do_not_fit_are_named(tmp_path):
    given = state("upernet")
    del given["encoder.layers.0.blocks.0.norm1.weight"]
    torch.save({"model": given}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"layers\.0\.blocks\.0\.norm1\.weight"):
        check_weights.report(tmp_path / "a.pth")


def test_who_imports_weights_is_told_what_to_state(run, tmp_path):
    torch.save(state("simmim"), tmp_path / "a.pth")
    code, out, err = run("import-weights", tmp_path / "a.pth", "--out", tmp_path / "ours")
    assert code == 0, err
    assert "licence MIT" in out
    assert "copyrighted by JAXA and used under the JAXA-AIST agreement" in out
