"""The recorded study of chapter 08: every number from its confusion matrices, and nothing lost twice."""

import json
import sys
import time

import numpy as np
import pytest
import torch
from conftest import FORKS

from experiments import flevoland, reference, shared, table1
from sartutorial.learn import evaluation

FILES = sorted(table1.RESULTS.glob("*.json"))
UNITS = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in FILES}
FINALS = [u for u in UNITS.values() if u["stage"] == "final"]
SAID = {
    "seed",
    "budget_s",
    "seconds",
    "steps",
    "origin",
    "provenance",
    "settings",
    "world",
    "labels",
}


@pytest.mark.parametrize("name", UNITS)
def test_every_number_says_its_seed_budget_and_origin_and_can_be_computed_again(name):
    u = UNITS[name]
    assert set(u) >= SAID
    assert table1.name_of(u) == name
    assert u["origin"].startswith("rerun")
    assert {"versions", "machine"} <= set(u["provenance"])
    if u["stage"] == "final":
        matrices = np.array([table1.dense(m) for m in u["blocks"].values()])
        found = evaluation.scores(matrices.sum(0), table1.NAMES)
        assert u["miou"] == pytest.approx(found["miou"], abs=1e-12)
        assert u["iou"] == pytest.approx(list(found["per_class_iou"].values()), abs=1e-12)
        assert 0 <= u["ece"] <= 1


def test_the_study_is_small():
    assert max(p.stat().st_size for p in FILES) < 2**14
    assert np.mean([p.stat().st_size for p in FILES]) < 6.2 * 2**10


def test_the_protocol_was_kept():
    """Trials as many and alike for all encoders, other seeds for final runs, settings of the best."""
    trials = {}
    for u in UNITS.values():
        if u["stage"] == "search" and u["trial"] in table1.TRIALS:
            row = table1.ROWS[u["row"]]
            assert u["settings"] == table1.settings(row, u["trial"])
            assert (u["split"], u["seed"]) == ("val", 0)
            trials.setdefault(u["row"], {})[u["trial"]] = u
    for u in FINALS:
        assert u["split"] == "test"
        if u["row"] in table1.SIMPLE:
            continue
        assert u["seed"] in table1.SEEDS
        searched = trials[table1.ROWS[u["row"]].searched.name]
        assert set(searched) == set(table1.TRIALS)
        best = max(searched, key=lambda i: searched[i]["miou"])
        assert (u["chosen"], u["settings"]) == (best, searched[best]["settings"])
        kind = table1.UNET.name if u["row"] == table1.UNET.name else "encoders"
        a_trial = table1.pace()[kind][str(best)]  # all encoders take the same
        assert u["steps"] == round(a_trial * u["budget_s"] / table1.BUDGET)


def test_nothing_of_the_study_is_left():
    units = {table1.name_of(about) for about in table1.everything()}
    assert units == set(UNITS)


def test_runs_of_a_seed_are_of_the_same_patches():
    """What is paired can be paired: the truth in every block is the same."""
    kept = {}
    for u in FINALS:
        truth = {k: table1.dense(m).sum(1).tolist() for k, m in u["blocks"].items()}
        assert kept.setdefault(u["world"], truth) == truth
    shares = {}
    for u in FINALS:
        if u["row"] not in table1.SIMPLE and "patches" in u:
            shares.setdefault((u["world"], u["labels"], u["seed"]), set()).add(u["patches"])
    assert all(len(numbers) == 1 for numbers in shares.values())


def test_intervals_come_from_blocks_and_seeds():
    """The bootstrap of a row, drawn here by hand, is the chapter's."""
    its = [u for u in FINALS if (u["row"], u["world"], u["labels"], u["budget_s"]) ==
           (table1.REFERENCE.name, "laptop", 1.0, table1.BUDGET)]  # fmt: skip
    matrices = np.array([[table1.dense(m) for m in u["blocks"].values()] for u in its])
    names = dict(enumerate(its[0]["blocks"]))
    results = [
        {"classes": table1.NAMES, "blocks": {names[i]: b for i, b in enumerate(m)}, "ece": 0}
        for m in matrices
    ]
    low, high = evaluation.pooled(results)["miou_95"]
    rng, (s, n), draws = np.random.default_rng(5), matrices.shape[:2], []
    for _ in range(1000):
        seeds, blocks = rng.integers(s, size=s), rng.integers(n, size=n)
        part = [evaluation.scores(matrices[i, blocks].sum(0), table1.NAMES)["miou"] for i in seeds]
        draws.append(np.mean(part))
    assert [low, high] == pytest.approx(np.percentile(draws, [2.5, 97.5]).tolist(), abs=0.006)


def test_a_killed_study_loses_the_unit_at_work_alone(tmp_path, monkeypatch, capsys):
    units = [table1.about_of("search", "laptop", table1.UNET.name, i, trial=0) for i in range(4)]
    units = [u | {"trial": i} for i, u in enumerate(units)]
    made = []

    def network(about, trial):
        made.append(trial)
        if made == [0, 1, 2]:
            raise KeyboardInterrupt
        return {"settings": {}, "miou": trial / 10 + len(made) / 1000}

    monkeypatch.setattr(table1, "RESULTS", tmp_path)
    monkeypatch.setenv("SARTUTORIAL_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(flevoland, "SCENE", tmp_path)
    monkeypatch.setattr(table1, "everything", lambda: iter(units))
    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: None)  # it is the process's
    monkeypatch.setattr(table1, "network", network)
    monkeypatch.setattr(sys, "argv", ["table1"])
    with pytest.raises(KeyboardInterrupt):
        table1.main()
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.json")}
    assert len(before) == 2
    monkeypatch.setattr(sys, "argv", ["table1", "--plan"])
    table1.main()
    assert "2 of 4 runs left" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["table1"])
    table1.main()
    table1.main()
    assert made == [0, 1, 2, 2, 3]  # nothing twice but what was cut off
    after = {p.name: p.read_bytes() for p in tmp_path.glob("*.json")}
    assert len(after) == 4
    assert before.items() <= after.items()


def work(folder, number, begin=None):
    """Units 0 to 5, of which the odd ones wait for all even ones; each notes who ran it."""
    if begin:
        begin.wait()

    def run(i):
        time.sleep(0.2)
        with (folder / f"{i}.txt").open("a") as file:
            file.write(f"{number}\n")
        (folder / f"{i}.json").touch()

    def ready(i):
        return i % 2 == 0 or all((folder / f"{k}.json").exists() for k in (0, 2, 4))

    shared.work(range(6), lambda i: folder / f"{i}.json", ready, run, folder / "locks")


def test_processes_share_a_study(tmp_path):
    begin = FORKS.Barrier(2)  # or one has done all before the other is there
    both = [FORKS.Process(target=work, args=(tmp_path, n, begin)) for n in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    ran = {f.stem: f.read_text().split() for f in tmp_path.glob("*.txt")}
    assert sorted(ran) == list("012345")
    assert all(len(who) == 1 for who in ran.values())


def test_a_unit_of_a_killed_process_is_taken_up(tmp_path):
    """Its lock opens with its end, and what waits for it goes on."""
    first = FORKS.Process(target=held, args=(tmp_path,))
    first.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
    first.kill()
    first.join()
    work(tmp_path, 1)
    assert {p.stem for p in tmp_path.glob("*.json")} == set("012345")


def held(folder):
    """A process that never ends its first unit."""

    def run(i):
        (folder / "begun").touch()
        time.sleep(600)

    shared.work(range(6), lambda i: folder / f"{i}.json", lambda i: True, run, folder / "locks")


def test_a_confusion_matrix_comes_back():
    rng = np.random.default_rng(0)
    matrix = rng.integers(3, size=(9, 9)) * rng.integers(1000, size=(9, 9))
    np.testing.assert_array_equal(table1.dense(table1.sparse(matrix)), matrix)
    assert table1.dense("").sum() == 0


def test_flevoland_folds_hold_every_cell_once_and_guard_their_borders(monkeypatch):
    rng = np.random.default_rng(0)
    db = rng.normal(size=(640, 1024)).astype(np.float32)
    classes = rng.integers(9, size=db.shape).astype(np.int8)
    monkeypatch.setattr(flevoland, "scene", lambda: (db, classes))
    folds = flevoland.folds().reshape(5, 8)
    assert np.bincount(folds.ravel()).tolist() == [8] * 5
    assert (folds[1:] != folds[:-1]).all()
    assert (folds[:, 1:] != folds[:, :-1]).all()
    held = flevoland.Fold(2)
    images, truth, counts = held.train(1.0, 0)
    assert len(images) == len(held.radar()) == 32
    assert counts.sum() == (truth >= 0).sum()
    place = flevoland.cells(np.arange(db.size).reshape(db.shape))[~held.test]
    rows, columns = np.divmod(place, 1024)
    for cell in np.flatnonzero(held.test):
        y, x = (128 * i for i in np.divmod(cell, 8))
        near = (abs(rows - y - 63.5) < 80) & (abs(columns - x - 63.5) < 80)
        assert (truth.numpy()[near] == -1).all()
    assert (truth >= 0).float().mean() > 0.4
    found = held.score(lambda x: torch.nn.functional.one_hot(torch.full(x[:, 0].shape, 2), 9)
                       .permute(0, 3, 1, 2).float())  # fmt: skip
    assert found["miou"] < 0.2  # noise
    assert len(found["blocks"]) == 8


def test_labels_are_wrong_in_a_share_of_the_squares():
    """There every label is another class; void stays void, and a smaller share lies in a larger."""
    classes = torch.randint(-1, 9, (60, 32, 32), generator=torch.Generator().manual_seed(0))
    known, hit = classes >= 0, {}
    for share in table1.WRONG:
        found = table1.mislabelled(classes, share, seed=1)
        hit[share] = found != classes
        squares = hit[share].unfold(1, 8, 8).unfold(2, 8, 8)
        whole = (squares | ~known.unfold(1, 8, 8).unfold(2, 8, 8)).all(-1).all(-1)
        assert torch.equal(whole, squares.any(-1).any(-1))
        assert float(whole.float().mean()) == pytest.approx(share, abs=0.04)
        assert torch.equal(found >= 0, known)
        assert int(found.max()) == 8
    assert (hit[0.2] | ~hit[0.05]).all()
    assert not torch.equal(table1.mislabelled(classes, 0.2, seed=2), found)


def test_a_study_makes_the_guesses_of_its_chapter():
    """All of them, by the chapter's own functions, on pixels that are hidden alone."""
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    masks = torch.eye(4).expand(2, 4, 4)
    found = reference.errors(images, masks, images)
    assert (found.pop("SAR-W-SimMIM") == 0).all()  # it was given what is hidden
    wide = f"Gaussian {max(reference.SIGMAS)}"
    assert list(found) == ["visible mean", "bilinear", *(f"Gaussian {s}" for s in reference.SIGMAS)]
    assert all(0.7 < e < 1.2 for errors in found.values() for e in errors)
    hidden = np.kron(np.eye(4), np.ones((16, 16))) > 0
    image = images[0, 0].numpy()
    by_hand = np.abs(image[hidden] - image[~hidden].mean()).mean()
    assert found["visible mean"][0] == pytest.approx(by_hand, rel=1e-5)
    assert found[wide] == pytest.approx(found["visible mean"], rel=0.02)
