"""Masks, losses, schedules and training: exact where they can be, reproducible everywhere."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import stopped_in
from hypothesis import given
from hypothesis import strategies as st
from timm.models.swin_transformer import SwinTransformer

from sartutorial import (
    InputError,
    checkpoints,
    datasets,
    evaluation,
    finetuning,
    losses,
    lulc,
    pretraining,
    profiles,
    rasters,
    sampling,
    segmentation,
    training,
)
from sartutorial.encoders import Encoder, config_of


def keys(*items):
    return torch.tensor(items)


@given(st.integers(1, 20), st.floats(0, 1), st.integers(0, 99))
def test_masks_hide_exactly_their_share(cells, ratio, seed):
    masks = pretraining.mask_cells(cells, ratio, keys((seed, 0, 0), (seed, 5, 1)))
    assert masks.shape == (2, cells, cells)
    assert masks.dtype == torch.float32
    assert masks.sum((1, 2)).tolist() == [math.ceil(cells * cells * ratio)] * 2
    alone = pretraining.mask_cells(cells, ratio, keys((seed, 5, 1)))
    assert torch.equal(masks[1:], alone)  # whatever else is in the batch


def test_masks_differ_between_seeds_patches_and_epochs():
    masks = pretraining.mask_cells(16, 0.6, keys((0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)))
    assert not any(torch.equal(masks[i], masks[j]) for i in range(4) for j in range(i))
    assert masks[0].sum() == 154  # the authors' number


def test_masks_come_from_the_published_generator():
    """The first numbers of SplitMix64 from 1234567, as its users test themselves."""
    found = pretraining._mixed(1234567 + pretraining.GOLDEN * torch.arange(1, 6))
    assert [n % 2**64 for n in found.tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_every_cell_is_hidden_as_often_and_apart_from_its_neighbour():
    """Counts over many keys against the binomial; neighbours against drawing without replacement."""
    n, cells, share = 4000, 8, 39 / 64
    for varied in range(3):
        each = torch.zeros(n, 3, dtype=torch.long)
        each[:, varied] = torch.arange(n)
        masks = pretraining.mask_cells(cells, 0.6, each)
        z = (masks.sum(0) - n * share) / math.sqrt(n * share * (1 - share))
        assert z.abs().max() < 4.5
        assert 0.6 < z.square().mean() < 1.5
        both = (masks[:, :, 1:] * masks[:, :, :-1]).mean()
        assert both.item() == pytest.approx(share * 38 / 63, abs=0.005)
        again = (masks[1:] * masks[:-1]).mean()  # successive keys share nothing
        assert again.item() == pytest.approx(share**2, abs=0.005)


def test_dark_pixels_weigh_most_and_constant_patches_are_even():
    image = torch.linspace(-3, 3, 64).reshape(1, 1, 8, 8)
    weight = pretraining.intensity_weight(image).flatten()
    assert weight[0] == pytest.approx(math.e, abs=1e-5)
    assert weight[-1] == pytest.approx(1, abs=1e-3)
    assert (weight.diff() < 0).all()
    even = pretraining.intensity_weight(torch.full((1, 1, 8, 8), -7.0))
    assert torch.isfinite(even).all()
    assert even.std() == 0


def test_mixmae_hides_half_with_one_mask_for_the_batch(tiny):
    model = pretraining.build("mixmae", config_of(tiny, 64, "mixmae"), tiny)
    mask = pretraining.draw_mask(model, torch.zeros(2, 3, dtype=torch.long))
    assert mask.shape == (1, 1, 2, 2)
    assert mask.sum() == 2


def test_only_hidden_pixels_count_for_simmim(tiny):
    torch.manual_seed(0)
    model = pretraining.build("simmim", config_of(tiny, 64, "simmim"), tiny).eval()
    features = torch.randn(2, 2, 2, model.encoder.num_features)
    model.encoder.encode = lambda tokens: features  # one prediction, whatever the image
    mask = torch.zeros(2, 4, 4)
    mask[:, 0, 0] = 1
    hidden = mask.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
    with torch.no_grad():
        predicted = model.decoder(features.permute(0, 3, 1, 2))
        assert model(predicted + 5 * (1 - hidden), mask)[0] == pytest.approx(0, abs=1e-5)
        assert model(predicted + 5 * hidden, mask)[0] == pytest.approx(5, abs=1e-4)


def test_shifted_windows_see_nothing_from_beyond_the_edge(tiny):
    """Weights of exactly 0: timm's would be denormal numbers, which slow a CPU down."""
    config = config_of(dataclasses.replace(tiny, depths=(2, 1, 1, 1)), 64, "simmim")
    model = pretraining.build("simmim", config, tiny)
    (mask,) = (b for name, b in model.named_buffers() if name.endswith("attn_mask"))
    assert mask.double().exp().to(torch.float32).unique().tolist() == [0, 1]


def test_the_weight_is_used_where_the_method_says(tiny):
    torch.manual_seed(0)
    model = pretraining.build("simmim", config_of(tiny, 64, "simmim"), tiny)
    settings = training.Settings(epochs=1, warmup=0, batch=2, base_lr=1, decay="step")
    batch = {"image": torch.randn(2, 1, 64, 64), "key": torch.tensor([[0, 0, 0], [0, 0, 1]])}
    image, mask = batch["image"], pretraining.draw_mask(model, batch["key"])
    for weigh in (None, pretraining.intensity_weight):
        task = pretraining.PretrainingTask(model, settings, {}, weigh=weigh)
        weight = weigh and weigh(image)
        assert task.loss(batch).item() == model(image, mask, weight)[0].item()


def test_the_domain_of_the_weight_reaches_the_loss(world, tiny, tmp_path, monkeypatch):
    """In linear power the weight is handed decibels, else the normalised image."""
    handed = {}
    weight = pretraining.intensity_weight
    for domain in ("normalised", "linear"):
        monkeypatch.setattr(
            pretraining,
            "intensity_weight",
            lambda image, at=domain: handed.setdefault(at, image) * 0 + weight(image),
        )
        out = tmp_path / domain
        file = pretraining.pretrain(world / "patches", out, domain=domain, profile=tiny, epochs=1)
        assert json.loads(file.with_suffix(".json").read_text())["domain"] == domain
    norm = json.loads(file.with_suffix(".json").read_text())["normalization"]
    torch.testing.assert_close(handed["linear"], handed["normalised"] * norm["std"] + norm["mean"])
    plain = pretraining.pretrain(
        world / "patches", tmp_path / "plain", method="simmim", profile=tiny, epochs=1
    )
    assert json.loads(plain.with_suffix(".json").read_text())["domain"] is None


@pytest.mark.parametrize("kind", ["simmim", "mixmae"])
def test_taps_before_merging_are_timms_own(tiny, kind):
    """The same weights in timm's feature extractor, of a Swin without absolute positions."""
    torch.manual_seed(0)
    config = config_of(tiny, 64, kind)._replace(positions=False, depths=(2, 2, 2, 2))
    ours = Encoder(config).eval()
    image = torch.randn(2, 1, 64, 64)
    theirs = SwinTransformer(
        img_size=64, patch_size=4, in_chans=1, num_classes=0, embed_dim=config.embed_dim,
        depths=config.depths, num_heads=config.num_heads, window_size=config.window_size,
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        found, merged = ours.taps(image, merged=False), ours.taps(image)
        wanted = theirs.forward_intermediates(image, intermediates_only=True)
    same = [torch.equal(f, w) for f, w in zip(found, wanted, strict=True)]
    if kind == "simmim":
        assert all(same)
    else:
        assert not any(same)  # its windows never shift
    assert [f.shape[1:] for f in found] == [(16, 16, 16), (32, 8, 8), (64, 4, 4), (128, 2, 2)]
    assert [m.shape[1:] for m in merged] == [(32, 8, 8), (64, 4, 4), (128, 2, 2), (128, 2, 2)]
    assert torch.equal(merged[3], found[3])


def test_absolute_positions_can_be_left_out(tiny):
    config = config_of(tiny, 64, "simmim")
    names = {n for n, _ in Encoder(config).named_parameters()}
    without = {n for n, _ in Encoder(config._replace(positions=False)).named_parameters()}
    assert names - without == {"absolute_pos_embed"}


def test_dice_is_the_formula():
    torch.manual_seed(0)
    logits, target = torch.randn(200, 9), torch.randint(0, 5, (200,))
    p = logits.softmax(1).double().numpy()
    g = np.eye(9)[target.numpy()]
    i, u = np.minimum(p, g).sum(0), np.maximum(p, g).sum(0)
    each = 1 - (2 * i + 1e-6) / (i + u + 1e-6)
    assert losses.dice(logits, target) == pytest.approx(each[:5].mean(), abs=1e-6)
    assert i + u == pytest.approx(p.sum(0) + g.sum(0))  # the Dice identity for one-hot truth


def test_focal_with_gamma_0_is_cross_entropy():
    logits, target = torch.randn(50, 9), torch.randint(0, 9, (50,))
    plain = torch.nn.functional.cross_entropy(logits, target)
    assert losses.focal(logits, target, gamma=0, alpha=1) == pytest.approx(plain.item(), abs=1e-6)
    p = logits.softmax(1)[torch.arange(50), target]
    by_hand = (-0.5 * (1 - p) ** 2 * p.log()).mean()
    assert losses.focal(logits, target) == pytest.approx(by_hand.item(), abs=1e-6)


def test_void_pixels_change_no_loss_and_an_unlabelled_batch_gives_zero():
    logits = torch.randn(2, 9, 8, 8, requires_grad=True)
    target = torch.randint(0, 9, (2, 8, 8))
    target[0, :4] = lulc.IGNORE_INDEX
    changed = logits.detach().clone()
    changed[0, :, :4] = 100
    assert losses.combined(logits, target).item() == losses.combined(changed, target).item()
    nothing = losses.combined(logits, torch.full_like(target, lulc.IGNORE_INDEX))
    nothing.backward()
    assert nothing == 0
    assert (logits.grad == 0).all()


def test_the_learning_rate_is_the_authors():
    japan = training.Settings(epochs=800, warmup=40, batch=2048, base_lr=1e-4, decay="step")
    theirs = profiles.PROFILES["japan"]  # on eight GPUs, 4e-4 at the peak
    assert theirs.pretrain_base_lr * theirs.pretrain_batch / 512 == pytest.approx(4e-4)
    assert (theirs.pretrain_batch, theirs.finetune_batch) == (8 * 256, 8 * 64)
    assert training.lr_factor(0, japan) * 4e-4 == pytest.approx(4e-4 * 5e-3)
    assert training.lr_factor(40, japan) == training.lr_factor(699, japan) == 1
    assert training.lr_factor(701, japan) * 4e-4 == pytest.approx(4e-5)
    tuned = training.Settings(epochs=100, warmup=20, batch=64, base_lr=1.25e-4, decay="cosine")
    assert training.lr_factor(20, tuned) * 1.25e-4 == pytest.approx(1.25e-4)
    assert training.lr_factor(100, tuned) * 1.25e-4 == pytest.approx(2.5e-7)


def test_what_decays_and_how_deep_layers_learn(tiny):
    model = pretraining.build("simmim", config_of(tiny, 64, "simmim"), tiny)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = training.parameter_groups(model, 0.8, 1.0)
    assert sum(len(g["params"]) for g in groups) == len(names)
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            plain = parameter.ndim == 1 or "mask_token" in name or "pos" in name
            assert group["weight_decay"] == (0 if plain else 0.05), name
            if name.startswith("encoder.patch_embed"):
                assert group["lr"] == pytest.approx(0.8**5)  # below four blocks and the head
            if name.startswith("decoder"):
                assert group["lr"] == 1


def test_statistics_and_items(world):
    rows = datasets.selected(world / "patches", "finetune")
    norm = datasets.statistics(world / "patches", rows)
    pixels = np.stack([datasets.read(world / "patches" / "sar" / n) for n in rows["patch"]])
    assert norm == pytest.approx((pixels.mean(), pixels.std()), abs=1e-3)
    data = datasets.Patches(world / "patches", rows, norm, seed=7)
    plain = data[0]["image"]
    flipped = [data[(epoch, 0)]["image"] for epoch in range(12)]
    kinds = {tuple(torch.equal(f, plain.flip(d)) for d in ([], [1], [2], [1, 2])) for f in flipped}
    assert len(kinds) == 4  # all four flips occur, and nothing else
    assert all(any(kind) for kind in kinds)
    label = data[(3, 0)]["label"]
    both = torch.stack([data[(3, 0)]["image"][0], flipped[3][0]])
    assert torch.equal(both[0], both[1])
    assert label.shape == plain.shape[1:]


def test_pretraining_reads_no_label(world, tiny, tmp_path):
    """Its folder may have none; images, flips and keys are the same."""
    shutil.copytree(world / "patches", tmp_path / "patches")
    shutil.rmtree(tmp_path / "patches" / "label")
    rows = datasets.selected(tmp_path / "patches", "pretrain")
    alone, both = (
        datasets.Patches(folder, rows, datasets.Normalization(0, 1), labels=labels)[(1, 2)]
        for folder, labels in ((tmp_path / "patches", False), (world / "patches", True))
    )
    assert alone.keys() == {"image", "key"}
    assert all(torch.equal(alone[k], both[k]) for k in alone)
    assert pretraining.pretrain(tmp_path / "patches", tmp_path / "out", profile=tiny).exists()


def test_image_and_label_are_flipped_together(world):
    rows = datasets.selected(world / "patches", "finetune")
    data = datasets.Patches(world / "patches", rows, datasets.Normalization(0, 1))
    for epoch in range(8):
        item = data[(epoch, 1)]
        for axes in ([], [0], [1], [0, 1]):
            if torch.equal(item["image"][0], data[1]["image"][0].flip(axes)):
                assert torch.equal(item["label"], data[1]["label"].flip(axes))


def test_the_order_of_an_epoch_depends_on_seed_and_epoch():
    sampler = datasets.Shuffled(20, seed=1)
    first = list(sampler)
    assert sorted(i for _, i in first) == list(range(20))
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert [i for _, i in sampler] != [i for _, i in first]


@given(st.integers(1, 50), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_processes_share_the_batches_of_one(length, world, parts, each):
    batch = world * parts * each
    alone = list(datasets.Shuffled(length, 1, batch=batch))
    assert len(alone) == length // batch * batch
    shares = [
        list(datasets.Shuffled(length, 1, batch=batch, rank=r, world=world)) for r in range(world)
    ]
    step = batch // world
    for k in range(length // batch):
        together = [item for share in shares for item in share[k * step : (k + 1) * step]]
        assert sorted(together) == sorted(alone[k * batch : (k + 1) * batch])
    assert sum(map(len, shares)) == len(alone)


def test_a_loader_shuffles_in_training_and_only_there(world):
    rows = datasets.selected(world / "patches", "finetune")
    data = datasets.Patches(world / "patches", rows, datasets.Normalization(0, 1), seed=3)

    def keys(shuffle):
        batches = datasets.loader(data, 4, shuffle=shuffle)
        return [k for batch in batches for k in batch["key"].tolist()]

    plain, shuffled = keys(False), keys(True)
    assert plain == [[3, 0, i] for i in range(len(rows))]  # none dropped, none moved
    order = [i for _, _, i in shuffled]
    assert len(order) == len(rows) // 4 * 4
    assert order != sorted(order)
    assert len(set(order)) == len(order)


def test_every_epoch_has_keys_of_its_own(world):
    rows = datasets.selected(world / "patches", "finetune")
    data = datasets.Patches(world / "patches", rows, datasets.Normalization(0, 1), seed=3)
    keys = {tuple(data[(epoch, i)]["key"].tolist()) for epoch in range(4) for i in range(2)}
    assert len(keys) == 8


@pytest.mark.parametrize("method", ["sar-w-simmim", "sar-w-mixmae"])
def test_a_killed_run_goes_on_to_the_same_weights(world, tiny, tmp_path, method):
    profile = dataclasses.replace(tiny, pretrain_epochs=3)
    undisturbed = pretraining.pretrain(
        world / "patches", tmp_path / "a", method=method, profile=profile
    )

    with stopped_in(2):
        pretraining.pretrain(world / "patches", tmp_path / "b", method=method, profile=profile)
    assert (tmp_path / "b" / "last.ckpt").exists()
    assert not (tmp_path / "b" / "encoder.safetensors").exists()
    resumed = pretraining.pretrain(
        world / "patches", tmp_path / "b", method=method, profile=profile
    )
    assert not list((tmp_path / "b").glob("*.ckpt"))
    one, two = checkpoints.load(undisturbed), checkpoints.load(resumed)
    assert one[1]["history"] == two[1]["history"]
    assert all(torch.equal(one[0][k], two[0][k]) for k in one[0])


def test_two_processes_and_parts_of_a_batch_train_the_same_encoder(world, tiny, tmp_path):
    """Steps in float32: alone, in two parts, and on two processes over gloo."""
    file = tmp_path / "run.py"
    file.write_text("""
import sys
sys.path.insert(0, sys.argv[1])
from conftest import TINY
from sartutorial import cli, profiles
profiles.PROFILES["laptop"] = TINY
cli.app.meta(sys.argv[2:])
""")
    exact = training.Machine(precision="32-true")
    found = {
        name: checkpoints.load(
            pretraining.pretrain(
                world / "patches", tmp_path / name, method="simmim", profile=tiny, machine=machine
            )
        )
        for name, machine in (("alone", exact), ("parts", exact._replace(accumulate=2)))
    }
    command = f"pretrain {world / 'patches'} --out {tmp_path / 'two'} --method simmim --devices 2"
    child = subprocess.run(
        [sys.executable, file, Path(__file__).parent, *command.split(), "--precision", "32-true"],
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    weights = tmp_path / "two" / "encoder.safetensors"
    assert child.stdout.splitlines().count(str(weights)) == 1  # said by one of the processes
    found["two"] = checkpoints.load(weights)
    assert found["two"][1]["machine"]["devices"] == 2
    state, description = found.pop("alone")
    for other, said in found.values():
        assert said["history"] == pytest.approx(description["history"], rel=1e-5)
        for key, value in state.items():
            torch.testing.assert_close(other[key], value, rtol=1e-3, atol=2e-5)


def test_a_batch_that_does_not_divide_among_processes_is_refused(world, tiny, tmp_path):
    with pytest.raises(InputError, match="does not divide"):
        pretraining.pretrain(
            world / "patches", tmp_path, profile=tiny, machine=training.Machine(accumulate=7)
        )


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_gradients_are_clipped(world, tiny, tmp_path, monkeypatch, precision):
    norms = []

    def note(self, *_):
        norms.append(torch.stack([p.grad.norm() for p in self.parameters()]).norm().item())

    monkeypatch.setattr(training, "CLIP", 1e-3)
    monkeypatch.setattr(training, "precision", lambda: precision)
    monkeypatch.setattr(pretraining.PretrainingTask, "on_train_batch_end", note)
    pretraining.pretrain(world / "patches", tmp_path, profile=tiny)
    assert norms == pytest.approx([1e-3] * len(norms), rel=1e-3)
    assert norms


@pytest.fixture(scope="module")
def tuned(world, tiny, tmp_path_factory):
    """An encoder, a model tuned from it, and where they lie."""
    out = tmp_path_factory.mktemp("tuned")
    encoder = pretraining.pretrain(world / "patches", out / "encoder", profile=tiny, seed=1)
    model = finetuning.finetune(
        world / "patches", out / "model", encoder=encoder, profile=tiny, seed=1
    )
    return encoder, model


def test_fine_tuning_starts_from_the_encoder_and_learns(world, tiny, tuned):
    encoder, model = tuned
    description = json.loads(model.with_suffix(".json").read_text())
    assert description["history"][-1] < description["history"][0]
    pretrained = json.loads(encoder.with_suffix(".json").read_text())
    assert description["normalization"] == pretrained["normalization"]
    assert description["pretrained"][0] == "sar-w-simmim"
    assert description["training"]["layer_decay"] == 0.8  # the authors'
    assert pretrained["training"]["layer_decay"] == 1
    metrics = json.loads((model.parent / "metrics.json").read_text())
    wanted = {"miou", "macc", "per_class_iou", "confusion_matrix", "classes", "seed"}
    assert wanted <= metrics.keys()
    assert not (model.parent / "last.ckpt").exists()


def test_a_finished_run_is_left_alone(world, tiny, tuned):
    encoder, _ = tuned
    before = encoder.stat().st_mtime_ns
    pretraining.pretrain(world / "patches", encoder.parent, profile=tiny, seed=1)
    assert encoder.stat().st_mtime_ns == before


def test_a_run_is_done_until_the_index_changes(world, tuned):
    encoder, _ = tuned
    run = json.loads(encoder.with_suffix(".json").read_text())
    assert training.is_done(encoder, run, world / "patches")
    assert not training.is_done(encoder, run | {"method": "simmim"}, world / "patches")
    assert not training.is_done(encoder.with_name("none.safetensors"), run, world / "patches")
    index = world / "patches" / "patches.parquet"
    before = index.stat()
    os.utime(index, (before.st_atime, encoder.stat().st_mtime + 1))
    assert not training.is_done(encoder, run, world / "patches")
    os.utime(index, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_fine_tuning_drops_paths_as_the_authors_do(world, tiny, tmp_path, monkeypatch):
    class Built(Exception):
        pass

    def encoder(config, *, drop_path_rate):
        assert drop_path_rate == 0.1
        raise Built

    monkeypatch.setattr(finetuning, "Encoder", encoder)
    with pytest.raises(Built):
        finetuning.finetune(world / "patches", tmp_path, profile=tiny)


def test_weights_that_do_not_fit_are_named(world, tiny, tuned, tmp_path):
    encoder, model = tuned
    wide = dataclasses.replace(tiny, decoder_width=32)
    again = finetuning.finetune(
        world / "patches", tmp_path, encoder=encoder, profile=wide, epochs=1
    )
    assert again.exists()
    with pytest.raises(InputError, match="no segmentation model"):
        segmentation.from_file(encoder)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(model.read_bytes()[:500])
    broken.with_suffix(".json").write_text("{}")
    with pytest.raises(InputError, match=r"broken\.safetensors"):
        segmentation.from_file(broken)
    with pytest.raises(InputError, match="does not fit"):
        checkpoints.load_into(torch.nn.Linear(2, 2), {"weight": torch.zeros(3, 2)}, "x")


def test_nan_in_a_patch_stops_the_run_with_a_reason(world, tiny, tmp_path, monkeypatch):
    item = datasets.Patches.__getitem__
    monkeypatch.setattr(
        datasets.Patches,
        "__getitem__",
        lambda s, i: item(s, i) | {"image": torch.full((1, 64, 64), torch.nan)},
    )
    with pytest.raises(InputError, match="NaN"):
        pretraining.pretrain(world / "patches", tmp_path, profile=tiny)


def test_patches_that_do_not_divide_into_windows(tiny):
    with pytest.raises(InputError, match="multiple of 256"):
        config_of(tiny, 96 + 32 + 16, "simmim")


def test_scores_are_those_of_scikit_style_by_hand():
    confusion = np.zeros((9, 9), np.int64)
    confusion[0, 0], confusion[0, 1], confusion[1, 1], confusion[2, 0] = 6, 2, 3, 1
    found = evaluation.scores(confusion)
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


def test_the_confusion_matrix_counts_every_labelled_pixel(world, tuned):
    result = evaluation.evaluate(world / "patches", tuned[1], split="val")
    rows = datasets.selected(world / "patches", "finetune", "val")
    assert np.sum(result["confusion_matrix"]) == len(rows) * 64 * 64
    truth = [
        rows[[f"n_{c.id}" for c in lulc.CLASSES if c.nine == k]].to_numpy().sum() for k in range(9)
    ]
    assert np.sum(result["confusion_matrix"], axis=1).tolist() == truth


@pytest.mark.parametrize("damage", ["empty", "torn", "foreign", "text"])
def test_a_damaged_state_is_named(world, tiny, tmp_path, damage):
    state = tmp_path / "last.ckpt"
    torch.save({"a": torch.zeros(500)}, state)  # foreign: whole, and no state of ours
    if damage == "text":
        state.write_text("half a checkpoint")
    elif damage != "foreign":
        state.write_bytes(state.read_bytes()[: 0 if damage == "empty" else 900])
    with pytest.raises(InputError, match=r"last\.ckpt: damaged"):
        pretraining.pretrain(world / "patches", tmp_path, profile=tiny)


@pytest.mark.parametrize(
    ("capable", "found"), [({"amx_tile": True}, "bf16-mixed"), ({}, "32-true")]
)
def test_bf16_where_the_processor_multiplies_it(monkeypatch, capable, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable, raising=False)
    assert training.precision() == found


def test_the_state_of_another_run_is_refused(world, tiny, tmp_path, monkeypatch):
    """Stopped as SimMIM, taken up as SAR-W-SimMIM: the same keys, and yet another run."""

    def dies(self):
        if self.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(pretraining.PretrainingTask, "on_train_epoch_start", dies)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            pretraining.pretrain(world / "patches", tmp_path, method="simmim", profile=tiny)
    with pytest.raises(InputError, match="another run"):
        pretraining.pretrain(world / "patches", tmp_path, method="sar-w-simmim", profile=tiny)


def test_sampling_again_keeps_what_was_trained_current(world):
    """The same seed gives the same index, which is then not written anew."""
    path = world / "patches" / "patches.parquet"
    before = path.stat().st_mtime_ns
    tiles = rasters.find([world / "lulc"])
    sampling.sample(world / "patches", tiles, points=20_000, block=2, buffer=0)
    assert path.stat().st_mtime_ns == before
