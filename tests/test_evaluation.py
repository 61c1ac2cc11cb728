"""Scores: those by hand and of other libraries, by block and seed; and models to be compared with."""

import json
import os

import numpy as np
import pytest
import sklearn.metrics
import torch
from conftest import FORKS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from sartutorial import InputError, lulc
from sartutorial.learn import baselines, datasets, evaluation
from sartutorial.learn.evaluation import evaluate
from sartutorial.learn.finetuning import finetune

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(world, tmp_path_factory):
    """A segmentation model, hardly trained."""
    return finetune(world / "patches", tmp_path_factory.mktemp("model"), profile="tiny", epochs=1)


def test_scores_are_those_by_hand():
    confusion = np.zeros((9, 9), np.int64)
    confusion[0, 0], confusion[0, 1], confusion[1, 1], confusion[2, 0] = 6, 2, 3, 1
    found = evaluation.scores(confusion, lulc.HR_LULC.names)
    assert found["per_class_iou"]["water"] == pytest.approx(6 / 9)
    assert found["per_class_iou"]["built-up"] == pytest.approx(3 / 5)
    assert found["per_class_iou"]["cropland"] == 0
    assert found["per_class_iou"]["forest"] is None  # no truth: left out
    assert found["miou"] == pytest.approx((6 / 9 + 3 / 5 + 0) / 3)
    assert found["macc"] == pytest.approx((6 / 8 + 1 + 0) / 3)
    assert found["accuracy"] == pytest.approx(9 / 12)
    assert found["majority"] == pytest.approx(
        {"miou": 8 / 12 / 3, "macc": 1 / 3, "accuracy": 8 / 12}
    )
    assert "forest       not in this split" in str(found)
    assert "built-up      0.600  1.000" in str(found)


@settings(deadline=None)
@given(st.integers(0, 99), st.integers(1, 5))
def test_scores_are_scikit_learns(seed, classes):
    rng = np.random.default_rng(seed)
    truth, shown = rng.integers(0, classes, (2, 60))
    confusion = sklearn.metrics.confusion_matrix(truth, shown, labels=range(classes))
    found = evaluation.scores(confusion, [str(k) for k in range(classes)])
    present = np.unique(truth)
    iou = sklearn.metrics.jaccard_score(truth, shown, labels=present, average="macro")
    assert found["miou"] == pytest.approx(iou)
    recall = sklearn.metrics.recall_score(truth, shown, labels=present, average="macro")
    assert found["macc"] == pytest.approx(recall)
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, shown))


def test_scores_of_nothing_are_zero():
    found = evaluation.scores(np.zeros((2, 2), np.int64), ["a", "b"])
    assert (found["miou"], found["macc"], found["accuracy"]) == (0, 0, 0)
    assert found["per_class_iou"] == {"a": None, "b": None}


def test_the_confusion_matrix_counts_every_labelled_pixel(world, model, tmp_path):
    result = evaluate(world / "patches", model, split="val", out=tmp_path / "val.json")
    rows = datasets.selected(world / "patches", "finetune", "val")
    assert np.sum(result["confusion_matrix"]) == len(rows) * 64 * 64
    truth = datasets.class_counts(rows, lulc.HR_LULC).sum(0)
    assert np.sum(result["confusion_matrix"], axis=1).tolist() == truth.tolist()
    assert json.loads((tmp_path / "val.json").read_text()) == result


def made(rng, patches_=12, classes=5, void=0.2):
    """Logits as images, with labels and keys, of patches in three blocks."""
    label = rng.integers(0, classes, (patches_, 8, 8))
    label[rng.random(label.shape) < void] = lulc.IGNORE_INDEX
    logits = rng.normal(0, 2, (patches_, classes, 8, 8)).astype(np.float32)
    items = [
        {"image": torch.from_numpy(x), "label": torch.from_numpy(y), "key": torch.tensor([0, 0, i])}
        for i, (x, y) in enumerate(zip(logits, label, strict=True))
    ]
    return items, torch.arange(patches_) % 3


def tallied(items, owner, classes=5, batch=4):
    return evaluation.tally(torch.nn.Identity(), DataLoader(items, batch), owner, classes)


@pytest.mark.parametrize("void", [0, 0.2])
def test_counts_and_calibration_are_those_of_torchmetrics_and_scikit_learn(void):
    import torchmetrics.classification as peer  # which takes seconds, also of a child

    items, owner = made(np.random.default_rng(1), void=void)
    matrices, error = tallied(items, owner)
    logits, label = (torch.stack([item[k] for item in items]) for k in ("image", "label"))
    for block in range(3):
        theirs = peer.MulticlassConfusionMatrix(5, ignore_index=-1)
        theirs.update(logits[owner == block], label[owner == block])
        assert matrices[block].tolist() == theirs.compute().tolist()
    known = label >= 0
    whole = sklearn.metrics.confusion_matrix(label[known], logits.argmax(1)[known])
    assert matrices.sum(0).tolist() == whole.tolist()
    theirs = peer.MulticlassCalibrationError(5, n_bins=15, ignore_index=-1)
    theirs.update(logits, label)
    assert error == pytest.approx(theirs.compute().item(), abs=1e-6)


def test_a_sure_and_right_model_is_calibrated_and_a_sure_and_wrong_one_is_not():
    """Confidence that is 1 in float32 falls into the last bin, with what comes near it."""
    label = torch.tensor([[[0, 0], [1, -1]]])
    right = (
        torch.tensor([100.0, -100])[None, :, None, None] * torch.where(label == 1, -1, 1)[:, None]
    )
    for logits, wanted in ((right, 0), (-right, 1), (0 * right, abs(0.5 - 2 / 3))):
        item = {"image": logits[0], "label": label[0], "key": torch.tensor([0, 0, 0])}
        _, error = tallied([item], torch.zeros(1, dtype=torch.int64), 2)
        assert error == pytest.approx(wanted)


def one_of_two(rank, folder):
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    items, owner = made(np.random.default_rng(1))
    matrices, error = tallied(items[rank::2], owner)
    if rank == 0:
        np.savez(f"{folder}/found.npz", matrices=matrices, error=error)
    torch.distributed.barrier()
    os._exit(0)  # torch 2.6 may wait for ever to take the group down


def test_two_processes_count_what_one_does(tmp_path):
    both = [FORKS.Process(target=one_of_two, args=(rank, tmp_path)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    found = np.load(tmp_path / "found.npz")
    matrices, error = tallied(*made(np.random.default_rng(1)))
    assert found["matrices"].tolist() == matrices.tolist()
    assert found["error"] == pytest.approx(error, abs=1e-12)


def result_of(matrices, **more):
    """What ``evaluate`` gives for confusion matrices by block."""
    names = [str(k) for k in range(matrices.shape[-1])]
    found = evaluation.scores(matrices.sum(0), names)
    blocks = {f"block {i}": m.tolist() for i, m in enumerate(matrices)}
    return found | {"blocks": blocks, "ece": 0.1, "seed": 0} | more


def drawn(rng, seeds, blocks=20, classes=4):
    """Results of several seeds on the same truth, the second half of the seeds better."""
    truth = rng.integers(0, 200, (blocks, classes))
    truth[: blocks - 3, -1] = 0  # a class of three blocks
    found = []
    for i in range(seeds):
        right = 0.5 + 0.3 * (i >= seeds // 2) + rng.normal(0, 0.02)
        odds = np.eye(classes) * (right - (1 - right) / 3) + (1 - right) / 3
        found.append(result_of(np.stack([[rng.multinomial(n, p) for n, p in zip(t, odds, strict=True)]
                                         for t in truth]), seed=i))  # fmt: skip
    return found


def test_an_interval_is_that_of_blocks_drawn_again_and_again():
    (result,) = drawn(np.random.default_rng(0), 1)
    found = evaluation.pooled([result], seed=7)
    for key in ("miou", "macc", "accuracy", "per_class_iou", "majority", "confusion_matrix"):
        assert found[key] == result[key], key
    each, rng = np.array(list(result["blocks"].values())), np.random.default_rng(7)
    draws = [
        evaluation.scores(each[np.repeat(np.arange(20), times)].sum(0), result["classes"])
        for times in rng.multinomial(20, np.full(20, 1 / 20), evaluation.DRAWS)
    ]
    wanted = np.percentile([d["miou"] for d in draws], [2.5, 97.5])
    assert found["miou_95"] == pytest.approx(wanted, abs=1e-12)
    rare = [d["per_class_iou"]["3"] for d in draws if d["per_class_iou"]["3"] is not None]
    assert 900 < len(rare) < 1000  # in some draws none of its blocks
    assert found["per_class_iou_95"]["3"] == pytest.approx(np.percentile(rare, [2.5, 97.5]))
    assert evaluation.pooled([result], seed=8)["miou_95"] != found["miou_95"]
    assert json.loads(json.dumps(found)) == found


def test_an_interval_holds_the_truth_as_often_as_it_says():
    """IoU of one class in blocks of unlike size and difficulty: 95 in 100, less some for few blocks."""
    rng, held = np.random.default_rng(3), 0
    for _ in range(100):
        size, right = rng.integers(50, 150, 40), rng.normal(0.6, 0.1, 40).clip(0, 1)
        hit = np.round(size * right).astype(int)
        matrices = np.zeros((40, 2, 2), np.int64)
        matrices[:, 0, 0], matrices[:, 0, 1] = hit, size - hit
        low, high = evaluation.pooled([result_of(matrices)])["per_class_iou_95"]["0"]
        held += low < 0.6 < high
    assert 0.86 < held / 100 < 0.99


def test_several_seeds_are_pooled_and_compared():
    results = drawn(np.random.default_rng(1), 6)
    worse, better = results[:3], results[3:]
    pool = evaluation.pooled(better)
    assert pool["miou"] == pytest.approx(np.mean([r["miou"] for r in better]))
    assert pool["macc"] == pytest.approx(np.mean([r["macc"] for r in better]))
    assert pool["per_class_iou"]["3"] == pytest.approx(
        np.mean([r["per_class_iou"]["3"] for r in better])
    )
    assert pool["seeds"] == [3, 4, 5]
    alone = evaluation.pooled(better[:1])["miou_95"]
    both = evaluation.pooled([better[0], worse[0]])["miou_95"]
    assert np.ptp(both) > 1.5 * np.ptp(alone)  # that of blocks and of unlike seeds
    lead = evaluation.difference(better, worse)
    assert lead["miou"] == pytest.approx(pool["miou"] - evaluation.pooled(worse)["miou"])
    low, high = lead["miou_95"]
    assert 0 < low < lead["miou"] < high
    back = evaluation.difference(worse, better)
    assert back["miou_95"] == pytest.approx([-high, -low])
    none = evaluation.difference(better, better)
    assert (none["miou"], none["miou_95"], none["per_class_iou_95"]["3"]) == (0, [0, 0], [0, 0])


def test_a_paired_interval_is_narrower_than_its_parts():
    """Blocks that are hard for one are hard for the other."""
    rng = np.random.default_rng(5)
    right = rng.uniform(0.2, 0.9, 30)
    both = []
    for lead in (0.05, 0):
        matrices = np.zeros((30, 2, 2), np.int64)
        matrices[:, 0, 0] = np.round(100 * (right + lead))
        matrices[:, 0, 1] = 100 - matrices[:, 0, 0]
        both.append(result_of(matrices))
    widths = [np.ptp(evaluation.pooled([r])["miou_95"]) for r in both]
    paired = evaluation.difference(both[:1], both[1:])
    assert paired["miou"] == pytest.approx(0.05, abs=0.005)
    assert np.ptp(paired["miou_95"]) < min(widths) / 5


def test_results_of_unlike_patches_are_not_compared():
    one, other = drawn(np.random.default_rng(1), 2)
    fewer = dict(list(other["blocks"].items())[1:])
    moved = {f"x{k}": v for k, v in other["blocks"].items()}
    truth = {k: np.transpose(v).tolist() for k, v in other["blocks"].items()}
    for blocks in (fewer, moved, truth):
        with pytest.raises(InputError, match="different patches"):
            evaluation.difference([one], [other | {"blocks": blocks}])
    with pytest.raises(InputError, match="different patches"):
        evaluation.pooled([one, other | {"classes": list("abcd")}])
    with pytest.raises(InputError, match="1 results against 3"):
        evaluation.difference([one], [other] * 3)


def test_one_block_one_class_and_nothing_at_all_are_defined():
    one = evaluation.pooled([result_of(np.array([[[5, 1], [0, 2]]]))])
    assert one["miou"] == pytest.approx((5 / 6 + 2 / 3) / 2)
    assert one["miou_95"] is None  # one block says nothing of others
    assert one["per_class_iou_95"] == {"0": None, "1": None}
    single = evaluation.pooled([result_of(np.array([[[5]], [[7]]]))])
    assert (single["miou"], single["miou_95"], single["majority"]["miou"]) == (1, [1, 1], 1)
    assert "1.000 to 1.000" in str(single)
    void = evaluation.pooled([result_of(np.zeros((2, 3, 3), np.int64))])
    assert (void["miou"], void["miou_95"], void["per_class_iou_95"]["1"]) == (0, [0, 0], None)
    assert str(void).count("not in this split") == 3


def test_batches_of_one_class_of_void_and_of_one_are_counted():
    rng = np.random.default_rng(2)
    items, owner = made(rng, classes=1)
    matrices, error = tallied(items, owner, 1)
    assert matrices.sum() == sum((item["label"] >= 0).sum() for item in items)
    assert error == 0  # the softmax of one class is sure, and right
    items, owner = made(rng, void=1)
    matrices, error = tallied(items, owner)
    assert (matrices.shape, matrices.sum(), error) == ((3, 5, 5), 0, 0)
    items, owner = made(rng)
    alone, together = tallied(items, owner, batch=1), tallied(items, owner, batch=12)
    assert alone[0].tolist() == together[0].tolist()
    assert alone[1] == pytest.approx(together[1])


def test_a_result_holds_its_blocks_and_intervals(world, model):
    result = evaluate(world / "patches", model, split="train")
    blocks = np.array(list(result["blocks"].values()))
    assert len(blocks) > 1
    assert blocks.sum(0).tolist() == result["confusion_matrix"]
    again = evaluation.pooled([result])
    for key in ("miou", "miou_95", "per_class_iou", "per_class_iou_95"):
        assert again[key] == result[key]
    low, high = result["miou_95"]
    assert low <= high
    assert 0 <= result["ece"] <= 1
    assert f"{low:.3f} to {high:.3f}" in str(result)


def test_blocks_are_squares_of_four_patches_on_the_ground(world, monkeypatch):
    """Whichever way the raster is stored, and apart for every coordinate system."""
    rows = datasets.selected(world / "patches", "finetune").iloc[[0] * 40].reset_index(drop=True)
    i, j = np.divmod(np.arange(40), 8)
    side = 64 * 5.0
    up = [[5.0, 0, 384e3 + side * x, 0, -5.0, 64e5 - side * y] for x, y in zip(j, i, strict=True)]
    rows["transform"] = up
    seen = []

    def tally(predict, batches, owner, classes, **options):
        seen.append(owner.tolist())
        return np.ones((max(seen[-1]) + 1, classes, classes), np.int64), 0.0

    def cells():
        norm = datasets.Normalization(0, 1)
        evaluation.scored(None, world / "patches", rows, norm, lulc.HR_LULC.names)
        return seen.pop()

    monkeypatch.setattr(evaluation, "tally", tally)
    found = np.array(cells()).reshape(5, 8)
    assert all(len(np.unique(found[y : y + 4, x : x + 4])) == 1 for y in (0, 4) for x in (0, 4))
    assert len(np.unique(found)) == 4
    rows["transform"] = [[a, b, c, d, -e, f - side] for a, b, c, d, e, f in up]
    assert cells() == found.ravel().tolist()
    rows["crs"] = ["EPSG:32653", "EPSG:32654"] * 20
    assert len(set(cells())) == 8


def test_baselines_give_what_evaluate_gives(world, model, tmp_path):
    options = dict(split="val", epochs=2, batch=4, seed=3)
    found = baselines.baselines(world / "patches", tmp_path, **options)
    assert list(found) == ["majority", "forest", "balanced forest", "u-net"]
    other = evaluate(world / "patches", model, split="val")
    for name, result in found.items():
        assert result.keys() == other.keys()
        assert list(result["blocks"]) == list(other["blocks"])
        assert (result["model"], result["seed"], result["split"]) == (name, 3, "val")
        assert json.loads((tmp_path / f"{name}.json").read_text()) == result
        evaluation.difference([result], [other])  # of the same pixels
    train = datasets.selected(world / "patches", "finetune", "train")
    most = datasets.class_counts(train, lulc.HR_LULC).sum(0).argmax()
    shown = np.sum(found["majority"]["confusion_matrix"], 0)
    assert np.flatnonzero(shown).tolist() == [most]
    assert found["forest"]["miou"] > found["majority"]["miou"]
    weights = tmp_path / "u-net" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = baselines.baselines(world / "patches", tmp_path, which=["u-net", "forest"], **options)
    assert weights.stat().st_mtime_ns == before
    for name, result in again.items():
        assert result["blocks"] == found[name]["blocks"]


def test_a_baseline_that_is_not_there_is_named(world, tmp_path):
    with pytest.raises(InputError, match="perceptron: no such baseline; use majority, forest"):
        baselines.baselines(world / "patches", tmp_path, which=["perceptron"])


def test_the_forest_knows_classes_that_some_labels_lack(world, tmp_path):
    """Few labels hold few classes; all others are still scored."""
    result = baselines.baselines(
        world / "patches", tmp_path, which=["forest"], split="train", labels=0.1
    )
    assert np.shape(result["forest"]["confusion_matrix"]) == (9, 9)


def test_the_temperature_of_overconfident_logits_is_found():
    """Labels drawn from a softmax whose logits a model gives three times too large, a half void."""
    rng = np.random.default_rng(3)
    right = torch.from_numpy(rng.normal(0, 1.5, (8, 4, 128, 128))).float()
    p = right.softmax(1).permute(0, 2, 3, 1).reshape(-1, 4)
    label = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(0)).view(8, 128, 128)
    label[:, :64] = -1
    batches = [{"image": torch.tensor([[[[i]]]]), "label": label[i : i + 1]} for i in range(8)]

    def predict(image):
        return 3 * right[image.long().ravel()]

    assert evaluation.fitted_temperature(predict, batches) == pytest.approx(3, rel=0.05)
    for batch in batches:
        batch["label"] = torch.full_like(batch["label"], -1)
    assert evaluation.fitted_temperature(predict, batches) == 1
