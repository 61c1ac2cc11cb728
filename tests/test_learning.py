"""Masks, losses, schedules and training: exact where they can be, reproducible everywhere."""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, stopped_in
from hypothesis import given
from hypothesis import strategies as st
from timm.models.swin_transformer import SwinTransformer

import sartutorial
from sartutorial import InputError, lulc, patches, profiles, sampling
from sartutorial.learn import (
    baselines,
    checkpoints,
    datasets,
    pretraining,
    segmentation,
    training,
)
from sartutorial.learn.encoders import Encoder, config_of
from sartutorial.learn.evaluation import evaluate
from sartutorial.learn.finetuning import finetune
from sartutorial.learn.pretraining import pretrain
from sartutorial.learn.published import load_model
from sartutorial.learn.segmentation import Decoder, Segmenter

torch.set_num_threads(1)  # tiny networks: more threads only wait for each other


@pytest.fixture
def scale(monkeypatch):
    """Register a profile like the tiny one for a test; gives its name."""

    def register(**changes):
        monkeypatch.setitem(profiles.PROFILES, "changed", dataclasses.replace(TINY, **changes))
        return "changed"

    return register


def told(file):
    """The description beside weights."""
    return json.loads(file.with_suffix(".json").read_text())


def same(one, two):
    """Whether two files of weights hold the same bits, after the same losses."""
    (a, said), (b, other) = checkpoints.load(one), checkpoints.load(two)
    equal = a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    return equal and said["history"] == other["history"]


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
    """In linear power it is handed decibels, else the normalised image."""
    torch.manual_seed(0)
    model = pretraining.build("simmim", config_of(tiny, 64, "simmim"), tiny)
    batch = {"image": torch.randn(2, 1, 64, 64), "key": keys((0, 0, 0), (0, 0, 1))}
    image, mask = batch["image"], pretraining.draw_mask(model, batch["key"])
    norm = datasets.Normalization(-10.0, 5.0)
    decibels = 5 * image - 10
    for domain, measured in ((None, None), ("normalised", image), ("linear", decibels)):
        weight = None if measured is None else pretraining.intensity_weight(measured)
        loss = pretraining.reconstruction_loss(model, batch, domain=domain, norm=norm)
        assert loss.item() == pytest.approx(model(image, mask, weight)[0].item(), rel=1e-6)


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
        found, merged = ours.feature_pyramid(image, merged=False), ours.feature_pyramid(image)
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
    assert segmentation.dice(logits, target) == pytest.approx(each[:5].mean(), abs=1e-6)
    assert i + u == pytest.approx(p.sum(0) + g.sum(0))  # the Dice identity for one-hot truth


def test_focal_with_gamma_0_is_cross_entropy():
    logits, target = torch.randn(50, 9), torch.randint(0, 9, (50,))
    plain = torch.nn.functional.cross_entropy(logits, target)
    assert segmentation.focal(logits, target, gamma=0, alpha=1) == pytest.approx(
        plain.item(), abs=1e-6
    )
    p = logits.softmax(1)[torch.arange(50), target]
    by_hand = (-0.5 * (1 - p) ** 2 * p.log()).mean()
    assert segmentation.focal(logits, target) == pytest.approx(by_hand.item(), abs=1e-6)


@pytest.mark.parametrize("loss", ["dice-focal", "cross-entropy"])
def test_void_pixels_change_no_loss_and_an_unlabelled_batch_gives_zero(loss):
    def value(logits, target):
        batch = {"image": logits, "label": target}
        return segmentation.segmentation_loss(torch.nn.Identity(), batch, loss=loss)

    logits = torch.randn(2, 9, 8, 8, requires_grad=True)
    target = torch.randint(0, 9, (2, 8, 8))
    target[0, :4] = lulc.IGNORE_INDEX
    changed = logits.detach().clone()
    changed[0, :, :4] = 100
    assert value(logits, target).item() == value(changed, target).item()
    nothing = value(logits, torch.full_like(target, lulc.IGNORE_INDEX))
    nothing.backward()
    assert nothing == 0
    assert (logits.grad == 0).all()


def test_rare_classes_weigh_by_their_rarity():
    counts = torch.tensor([900, 90, 10, 0])
    weights = torch.tensor(segmentation.rarity_weights(counts, 0.5), dtype=torch.float64)
    assert weights[1] / weights[0] == pytest.approx(10**0.5)
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)  # 1 for a mean pixel
    assert torch.isfinite(weights).all()
    assert segmentation.rarity_weights(counts, 0) == (1, 1, 1, 1)


@pytest.mark.parametrize("merged", [True, False])
def test_a_decoder_of_either_taps_gives_every_pixel_its_classes(tiny, merged):
    config = config_of(tiny, 64, "simmim")
    model = Segmenter(Encoder(config), Decoder(32, 5, 0.2, merged))
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 5, 64, 64)
    rates = [m.p for m in model.decoder.modules() if isinstance(m, torch.nn.Dropout)]
    assert rates == [0.2] * 8
    assert model.decoder.laterals[0][0].in_channels == (32 if merged else 16)


@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("head", ["grown", "skips", "quarter"])
def test_a_narrow_decoder_takes_one_small_image(tiny, width, head):
    """At 32 px the last map is one pixel, of which each group has two channels or more."""
    torch.manual_seed(0)
    model = Segmenter(Encoder(config_of(tiny, 32, "simmim")), Decoder(width, 3, 0.0, head=head))
    model.train(head != "skips")  # whose batch normalisation, in training, is of the whole batch
    image = torch.randn(2, 1, 32, 32)
    together, alone = model(image), model(image[:1])
    assert alone.shape == (1, 3, 32, 32)
    torch.testing.assert_close(alone, together[:1], rtol=1e-3, atol=1e-3)
    level = model.decoder.pyramid[0](torch.randn(1, 128, 1, 1))
    assert (level != level.mean()).any()  # a group of one value would be 0 everywhere


@pytest.mark.parametrize("head", ["grown", "skips", "quarter"])
def test_heads_differ_in_how_fine_their_classes_are(tiny, head):
    config = config_of(tiny, 64, "simmim")
    model = Segmenter(Encoder(config), Decoder(32, 5, head=head))
    logits = model(torch.randn(2, 1, 64, 64))
    assert logits.shape == (2, 5, 64, 64)
    coarse = logits[..., [0, 21, 42, 63], :][..., [0, 21, 42, 63]]  # every fifth of 16 x 16 cells
    between = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear", align_corners=True)
    assert not torch.allclose(between, logits, atol=1e-3)  # 16 x 16 say more than 4 x 4
    if head == "quarter":
        (cells,) = [m for m in model.decoder.head.modules() if isinstance(m, torch.nn.Conv2d)]
        assert cells.kernel_size == (1, 1)
        steps = logits.diff(dim=-1).diff(dim=-1).abs() > 1e-4  # straight but at the 16 cells
        assert steps.any(dim=(0, 1, 2)).sum() <= 2 * 16


def test_the_learning_rate_is_the_authors():
    theirs = profiles.PROFILES["japan"]
    assert (theirs.pretrain_batch, theirs.finetune_batch) == (8 * 256, 8 * 64)
    japan = training.settings(theirs, "pretrain", 300_000, None, None, None, decay="step")
    assert japan.learning_rate == pytest.approx(4e-4)  # on eight GPUs
    assert (japan.epochs, japan.warmup) == (800, 40)
    assert training.lr_factor(0, japan) == pytest.approx(5e-3)
    assert training.lr_factor(40, japan) == training.lr_factor(699, japan) == 1
    assert training.lr_factor(701, japan) * 4e-4 == pytest.approx(4e-5)
    tuned = training.settings(theirs, "finetune", 70_000, None, None, None, decay="cosine")
    assert (tuned.learning_rate, tuned.epochs, tuned.warmup) == (pytest.approx(1.25e-4), 100, 20)
    assert training.lr_factor(20, tuned) == 1
    assert training.lr_factor(100, tuned) * 1.25e-4 == pytest.approx(2.5e-7)


@pytest.mark.parametrize("layer_decay", [1.0, 0.8])
def test_what_decays_and_how_deep_layers_learn(tiny, layer_decay):
    config = config_of(dataclasses.replace(tiny, depths=(1, 2, 1, 1)), 64, "simmim")
    model = Segmenter(Encoder(config), Decoder(16))
    s = training.Settings(1, 0, 8, 0.1, "cosine", layer_decay=layer_decay)
    groups = training.parameter_groups(model, s)
    found = {id(p): g for g in groups for p in g["params"]}
    assert len(found) == len(list(model.parameters()))
    below = {0: 0, 1: 1, 2: 3, 3: 4}  # blocks below each stage, of five
    for name, parameter in model.named_parameters():
        part, *path = name.split(".")
        depth = 6  # the top: final norm and decoder
        if part == "encoder" and path[0] != "norm":
            depth = 0
            if path[0] == "layers":  # patches merge with the stage's first block
                block = int(path[3]) if path[2] == "blocks" else 0
                depth = 1 + below[int(path[1])] + block
        group = found[id(parameter)]
        assert group["lr_scale"] == pytest.approx(layer_decay ** (6 - depth)), name
        plain = parameter.ndim == 1 or "pos" in name
        assert group["weight_decay"] == (0 if plain else 0.05), name


def test_statistics_and_items(world):
    rows = datasets.selected(world / "patches", "finetune")
    norm = datasets.statistics(world / "patches", rows)
    store = patches.Store(world / "patches", rows)
    pixels = np.stack([store.sar(i) for i in range(len(rows))])
    assert norm == pytest.approx((pixels.mean(), pixels.std()), abs=1e-3)
    data = datasets.Patches(world / "patches", rows, norm, seed=7)
    plain = data[0]["image"]
    torch.testing.assert_close(plain[0], torch.from_numpy((store.sar(0) - norm.mean) / norm.std))
    index = lulc.HR_LULC.to_index(store.label(0))
    assert torch.equal(data[0]["label"], torch.from_numpy(index))
    flipped = [data[(epoch, 0)]["image"] for epoch in range(12)]
    kinds = {tuple(torch.equal(f, plain.flip(d)) for d in ([], [1], [2], [1, 2])) for f in flipped}
    assert len(kinds) == 4  # all four flips occur, and nothing else
    assert all(any(kind) for kind in kinds)


def test_a_folder_alone_gives_all_its_patches_normalised(world):
    data = datasets.Patches(world / "patches")
    assert len(data) == len(patches.read_index(world / "patches"))
    images = torch.stack([data[i]["image"] for i in range(len(data))])
    assert images.mean() == pytest.approx(0, abs=1e-3)
    assert images.std() == pytest.approx(1, abs=1e-3)


def test_pretraining_reads_no_label(world, tmp_path):
    """Its folder may have none; images, flips and keys are the same."""
    shutil.copytree(world / "patches", tmp_path / "patches")
    for file in (tmp_path / "patches" / "arrays").glob("*.label.npy"):
        file.unlink()
    rows = datasets.selected(tmp_path / "patches", "pretrain")
    alone, both = (
        datasets.Patches(folder, rows, datasets.Normalization(0, 1), labels=labels)[(1, 2)]
        for folder, labels in ((tmp_path / "patches", False), (world / "patches", True))
    )
    assert alone.keys() == {"image", "key"}
    assert all(torch.equal(alone[k], both[k]) for k in alone)
    assert pretrain(tmp_path / "patches", tmp_path / "out", profile="tiny", epochs=1).exists()


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
    shares = [list(datasets.Shuffled(length, 1, batch, rank=r, world=world)) for r in range(world)]
    step = batch // world
    for k in range(length // batch):
        together = [item for share in shares for item in share[k * step : (k + 1) * step]]
        assert sorted(together) == sorted(alone[k * batch : (k + 1) * batch])
    assert sum(map(len, shares)) == len(alone)


def test_a_loader_shuffles_in_training_and_only_there(world):
    rows = datasets.selected(world / "patches", "finetune")
    data = datasets.Patches(world / "patches", rows, datasets.Normalization(0, 1), seed=3)

    def numbers(order):
        return [i for b in datasets.loader(data, 4, order) for _, _, i in b["key"].tolist()]

    assert numbers(None) == list(range(len(rows)))  # none dropped, none moved
    order = numbers(datasets.Shuffled(len(rows), 3, 4))
    assert len(order) == len(rows) // 4 * 4
    assert order != sorted(order)
    assert len(set(order)) == len(order)


@pytest.mark.parametrize("seed", [-1, 20260315, 4294967296, 1764187200123456789, 2**64, 10**30])
def test_any_whole_number_is_a_seed(world, seed):
    rows = datasets.selected(world / "patches", "finetune")
    data = datasets.Patches(world / "patches", rows, datasets.Normalization(0, 1), seed=seed)
    first = datasets.Patches(world / "patches", rows, datasets.Normalization(0, 1), seed=0)
    order = list(datasets.Shuffled(len(rows), seed))
    assert order != list(datasets.Shuffled(len(rows), 0))
    assert not torch.equal(data[order[0]]["key"], first[order[0]]["key"])
    assert len(datasets.share(rows, lulc.HR_LULC, 0.5, seed)) == round(len(rows) / 2)


def test_every_epoch_has_keys_of_its_own(world):
    rows = datasets.selected(world / "patches", "finetune")
    data = datasets.Patches(world / "patches", rows, datasets.Normalization(0, 1), seed=3)
    keys = {tuple(data[(epoch, i)]["key"].tolist()) for epoch in range(4) for i in range(2)}
    assert len(keys) == 8


@pytest.mark.parametrize("method", ["sar-w-simmim", "sar-w-mixmae"])
def test_a_killed_run_goes_on_to_the_same_weights(world, tmp_path, scale, method):
    options = dict(method=method, profile=scale(pretrain_epochs=3))
    undisturbed = pretrain(world / "patches", tmp_path / "a", **options)
    with stopped_in(2):
        pretrain(world / "patches", tmp_path / "b", **options)
    assert (tmp_path / "b" / "last.ckpt").exists()
    assert not (tmp_path / "b" / "encoder.safetensors").exists()
    resumed = pretrain(world / "patches", tmp_path / "b", **options)
    assert not list((tmp_path / "b").glob("*.ckpt"))
    assert same(undisturbed, resumed)


def test_killed_fine_tuning_goes_on_with_its_dropout(world, tmp_path):
    undisturbed = finetune(world / "patches", tmp_path / "a", profile="tiny")
    with stopped_in(1):
        finetune(world / "patches", tmp_path / "b", profile="tiny")
    assert same(undisturbed, finetune(world / "patches", tmp_path / "b", profile="tiny"))


@pytest.fixture
def heard():
    """Ctrl-C is heard, also where whoever started this process had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("parts", [1, 2])
def test_ctrl_c_waits_for_the_end_of_a_step(world, tmp_path, monkeypatch, parts):
    """Within a step it could meet a callback of torch's from C++, which would end the process."""
    options = dict(profile="tiny", batch=4, hardware=training.Hardware(accumulate=parts))
    undisturbed = pretrain(world / "patches", tmp_path / "a", **options)
    loss, told_of = pretraining.reconstruction_loss, []

    def interrupted(*arguments, **more):
        told_of.append("loss")
        if len(told_of) == 8 * parts:  # in the second epoch
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)  # where Python would raise it
            told_of.append("went on")
        return loss(*arguments, **more)

    monkeypatch.setattr(pretraining, "reconstruction_loss", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        pretrain(world / "patches", tmp_path / "b", **options)
    assert told_of[-1] == "went on"
    assert (tmp_path / "b" / "last.ckpt").exists()
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    again = pretrain(world / "patches", tmp_path / "b", **options)
    assert same(undisturbed, again)


@pytest.mark.usefixtures("heard")
def test_what_breaks_after_ctrl_c_is_an_interruption():
    """Such as a worker that reads patches, whom the terminal has told as well."""

    def steps(interrupted, broken):
        with training.steady() as interrupt:
            interrupt()
            if interrupted:
                os.kill(os.getpid(), signal.SIGINT)
            if broken:
                raise RuntimeError("DataLoader worker exited unexpectedly")

    steps(interrupted=False, broken=False)
    for broken in (False, True):
        with pytest.raises(KeyboardInterrupt):
            steps(True, broken)
    with pytest.raises(RuntimeError, match="worker"):
        steps(False, True)


def test_an_interruption_that_a_library_swallowed_ends_a_training(monkeypatch):
    """One Ctrl-C, raised while an index was read, was lost: the training went on to its end."""
    monkeypatch.setattr(training, "_asked", asked := [])
    frame = sys._getframe()
    with training.steady() as interrupt:
        interrupt()
        monkeypatch.setattr(sartutorial, "_asked", asked)
        with contextlib.suppress(KeyboardInterrupt):
            sartutorial._interrupt(signal.SIGINT, frame)
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        asked.clear()


@pytest.mark.usefixtures("heard")
def test_ctrl_c_is_held_where_it_is_heard():
    """Not in another thread, nor where the caller has chosen what it does."""

    def within():
        with training.steady():
            return signal.getsignal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    assert within() is not before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(within).result() is before
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert within() is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


CHILD = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import conftest
from sartutorial import cli
print("read once")
cli.main()  # without a guard
"""
# A batch job of two tasks, and what else may lie about.
FOREIGN = dict(
    SLURM_JOB_ID="77", SLURM_JOB_NAME="train", SLURM_NTASKS="2", SLURM_NTASKS_PER_NODE="2",
    SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0", SLURM_JOB_NODELIST="localhost",
    SLURM_NNODES="1", MASTER_ADDR="nowhere.invalid", MASTER_PORT="1", RANK="1", LOCAL_RANK="1",
    WORLD_SIZE="4", NODE_RANK="1", OMP_NUM_THREADS="1", SARTUTORIAL_PROFILE="tiny",
)  # fmt: skip


@pytest.mark.slow
def test_two_processes_and_parts_of_a_batch_train_the_same_encoder(world, tmp_path):
    """Steps in float32: alone, in two parts, and on two processes over gloo, from a script without a
    guard within a SLURM job."""
    found = {}
    for name, parts in (("alone", 1), ("parts", 2)):
        hardware = training.Hardware(precision="32-true", accumulate=parts)
        found[name] = pretrain(
            world / "patches", tmp_path / name, method="simmim", profile="tiny", hardware=hardware
        )
    file = tmp_path / "run.py"
    file.write_text(CHILD)
    command = f"pretrain {world / 'patches'} --out {tmp_path / 'two'} --method simmim"
    child = subprocess.run(
        [sys.executable, file, Path(__file__).parent, *command.split(), "--devices", "2",
         "--precision", "32-true"],
        capture_output=True, text=True, env=os.environ | FOREIGN,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    found["two"] = tmp_path / "two" / "encoder.safetensors"
    assert child.stdout.splitlines() == ["read once", str(found["two"])]
    assert told(found["two"])["hardware"]["devices"] == 2
    (state, description), *others = (checkpoints.load(file) for file in found.values())
    for other, said in others:
        assert said["history"] == pytest.approx(description["history"], rel=1e-5)
        for key, value in state.items():
            torch.testing.assert_close(other[key], value, rtol=1e-3, atol=2e-5)


def test_a_node_is_told_where_to_meet(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match="nodes: set MASTER_ADDR, MASTER_PORT and NODE_RANK"):
        training.Hardware(nodes=2)


@pytest.mark.parametrize("hardware", [{"accumulate": 7}, {"devices": 3}])
def test_a_batch_that_does_not_divide_among_processes_is_refused(world, tmp_path, hardware):
    with pytest.raises(InputError, match="does not divide"):
        pretrain(
            world / "patches", tmp_path, profile="tiny", hardware=training.Hardware(**hardware)
        )


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_gradients_are_clipped(world, tmp_path, monkeypatch, precision):
    norms, step = [], torch.optim.AdamW.step

    def note(self, *arguments):
        each = [p.grad.norm() for group in self.param_groups for p in group["params"]]
        norms.append(torch.stack(each).norm().item())
        return step(self, *arguments)

    monkeypatch.setattr(training, "CLIP", 1e-3)
    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    hardware = training.Hardware(precision=precision)
    pretrain(world / "patches", tmp_path, profile="tiny", hardware=hardware)
    assert norms == pytest.approx([1e-3] * len(norms), rel=1e-3)
    assert norms


@pytest.fixture(scope="module")
def tuned(world, tmp_path_factory):
    """An encoder, and a model tuned from it."""
    out = tmp_path_factory.mktemp("tuned")
    encoder = pretrain(world / "patches", out / "encoder", profile="tiny", seed=1)
    return encoder, finetune(
        world / "patches", out / "model", encoder=encoder, profile="tiny", seed=1
    )


def test_fine_tuning_starts_from_the_encoder_and_learns(tuned):
    encoder, model = tuned
    description, pretrained = told(model), told(encoder)
    assert description["history"][-1] < description["history"][0]
    for name in ("normalization", "spacing", "quantity", "polarisation"):
        assert description[name] == pretrained[name]
    assert description["pretrained"][0] == "sar-w-simmim"
    assert description["training"]["layer_decay"] == 0.8  # the authors'
    assert pretrained["training"]["layer_decay"] == 1
    assert lulc.Legend.from_dict(description["legend"]) == lulc.HR_LULC
    metrics = json.loads((model.parent / "metrics.json").read_text())
    wanted = {"miou", "macc", "per_class_iou", "confusion_matrix", "classes", "seed"}
    assert wanted <= metrics.keys()
    assert not (model.parent / "last.ckpt").exists()


def test_a_model_is_as_sure_as_its_validation_patches_ask(world, tuned):
    """Its logits are those of its weights over the temperature, where the cross-entropy is least."""
    model, description = load_model(tuned[1])
    raw = load_model(tuned[1])[0]
    raw.temperature = 1.0
    rows = datasets.selected(world / "patches", "finetune", "val")
    norm = datasets.Normalization(**description["normalization"])
    data = datasets.Patches(world / "patches", rows, norm)
    images, labels = (
        torch.stack([data[i][k] for i in range(len(data))]) for k in ("image", "label")
    )

    def entropy(logits):
        return torch.nn.functional.cross_entropy(logits[..., ::4, ::4], labels[..., ::4, ::4],
                                                 ignore_index=-1)  # fmt: skip

    with torch.inference_mode():
        logits, cold = model(images), raw(images)
    torch.testing.assert_close(logits * description["temperature"], cold)
    assert entropy(logits) <= entropy(cold)
    assert all(entropy(logits) <= entropy(logits * f) for f in (0.9, 1.1))


def test_the_first_step_of_fine_tuning_meets_the_encoders_weights(world, tuned, tmp_path):
    """With a rate of next to nothing, they are still there at the end."""
    encoder, _ = tuned
    model = finetune(world / "patches", tmp_path, encoder=encoder, profile="tiny", epochs=1,
                     learning_rate=1e-12)  # fmt: skip
    (before, _), (after, _) = checkpoints.load(encoder), checkpoints.load(model)
    for key in after:
        if key.startswith("encoder."):
            torch.testing.assert_close(after[key], before[key], rtol=0, atol=1e-6)


def test_a_finished_run_is_left_alone_until_its_patches_change(world, tuned, tmp_path):
    encoder, _ = tuned

    def again(folder):
        before = encoder.stat().st_mtime_ns
        pretrain(folder, encoder.parent, profile="tiny", seed=1)
        return encoder.stat().st_mtime_ns != before

    assert not again(world / "patches")
    shutil.copytree(world / "patches", tmp_path / "patches")
    index = tmp_path / "patches" / "patches.parquet"
    os.utime(index, (2e9, 2e9))
    assert not again(tmp_path / "patches")  # a copy, and later
    changed = patches.read_index(tmp_path / "patches")
    changed.loc[changed.index[changed["pretrain"]][0], "checksum"] += 1
    patches.write_index(changed, tmp_path / "patches")
    os.utime(index, (0, 0))
    assert again(tmp_path / "patches")  # other pixels under the same name, and earlier
    assert again(world / "patches")


def test_sampling_again_keeps_what_was_trained_current(world, tuned):
    encoder, _ = tuned
    before = encoder.stat().st_mtime_ns
    sampling.sample(world / "patches", world / "lulc", points=20_000, block=2, buffer=0)
    pretrain(world / "patches", encoder.parent, profile="tiny", seed=1)
    assert encoder.stat().st_mtime_ns == before


def test_options_win_over_the_profile(world, tmp_path, scale):
    rates = []

    def look(model, history):
        rates.append({m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"})

    name = scale(loss="cross-entropy", class_weight=0.5, merged_taps=False, drop_path=0.3)
    model = finetune(
        world / "patches", tmp_path, profile=name, epochs=1, batch=2, learning_rate=3e-4,
        dropout=0.25, layer_decay=0.9, labels=0.5, on_epoch=look,
    )  # fmt: skip
    said = told(model)
    assert said["training"] | {"warmup": 0.5} == said["training"]  # at most half of the run
    chosen = ("epochs", "batch", "learning_rate", "layer_decay")
    assert [said["training"][k] for k in chosen] == [1, 2, 3e-4, 0.9]
    wanted = dict(width=32, classes=9, dropout=0.25, merged_taps=False)
    assert said["decoder"] | wanted == said["decoder"]
    assert (said["loss"], len(said["class_weights"])) == ("cross-entropy", 9)
    assert max(rates[0]) == pytest.approx(0.3)
    assert load_model(model).model(torch.zeros(1, 1, 64, 64)).shape == (1, 9, 64, 64)
    encoder = pretrain(
        world / "patches", tmp_path, profile=name, epochs=1, batch=4, learning_rate=1e-3
    )
    assert [told(encoder)["training"][k] for k in chosen] == [1, 4, 1e-3, 1]


def test_the_command_line_takes_the_same_options(run, world, tmp_path):
    said = {}
    for command, more in (("pretrain", ""), ("finetune", " --labels 0.5 --dropout 0.25")):
        words = f"--epochs 1 --batch 2 --learning-rate 2e-3{more}".split()
        code, out, err = run(command, world / "patches", "--out", tmp_path / command, *words)
        assert code == 0, err
        said[command] = told(Path(out.strip()))
        settings = said[command]["training"]
        assert [settings[k] for k in ("epochs", "batch", "learning_rate")] == [1, 2, 2e-3]
    rows = datasets.selected(world / "patches", "finetune", "train")
    half = datasets.share(rows, lulc.HR_LULC, 0.5, seed=0)
    assert said["finetune"]["data"] == datasets.fingerprint(half)
    assert said["finetune"]["decoder"]["dropout"] == 0.25


@pytest.mark.parametrize(
    "option", ["epochs=0", "batch=0", "learning_rate=-1", "learning_rate=nan", "labels=0",
               "labels=1.5", "dropout=1", "layer_decay=0"],
)  # fmt: skip
def test_options_out_of_range_are_refused(world, tmp_path, option):
    name, value = option.split("=")
    number = int(value) if name in ("epochs", "batch") else float(value)
    with pytest.raises(InputError, match=name):
        finetune(world / "patches", tmp_path, profile="tiny", **{name: number})


@pytest.mark.parametrize("name", ["devices", "nodes", "accumulate"])
def test_hardware_is_at_least_one(name):
    with pytest.raises(InputError, match="at least 1"):
        training.Hardware(**{name: 0})


def test_a_share_of_labels_keeps_every_class_and_lies_within_a_larger(world):
    """Forty times the patches of the world, so that shares are large."""
    rows = datasets.selected(world / "patches", "finetune")
    rows = rows.loc[np.tile(rows.index, 40)].reset_index(drop=True)
    counts = datasets.class_counts(rows, lulc.HR_LULC)
    held = {}
    for labels in (0.01, 0.1, 0.5, 1.0):
        part = datasets.share(rows, lulc.HR_LULC, labels, seed=4)
        assert len(part) == max(round(labels * len(rows)), 1)
        assert part.index.is_monotonic_increasing
        held[labels] = set(part.index)
        if labels >= 0.1:
            kept = datasets.class_counts(part, lulc.HR_LULC).sum(0) / counts.sum(0)
            assert kept[counts.sum(0) > 0] == pytest.approx(labels, abs=0.5 * labels)
    assert held[0.01] < held[0.1] < held[0.5] < held[1.0]
    other = datasets.share(rows, lulc.HR_LULC, 0.1, seed=5)
    assert set(other.index) != held[0.1]


def test_weights_that_do_not_fit_are_named(tuned, tmp_path):
    encoder, model = tuned
    with pytest.raises(InputError, match="no segmentation model"):
        load_model(encoder)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(model.read_bytes()[:500])
    broken.with_suffix(".json").write_text("{}")
    with pytest.raises(InputError, match=r"broken\.safetensors"):
        load_model(broken)


UNLIKE = [("quantity", "gamma0"), ("polarisation", "HV"), ("spacing", 25.0), ("size", 128)]


@pytest.mark.parametrize(("what", "value"), UNLIKE)
def test_weights_meet_only_patches_like_their_own(world, tuned, tmp_path, what, value):
    said = told(tuned[0]) | {what: value}
    if what == "size":
        said["encoder"]["image_size"] = value
    rows = datasets.selected(world / "patches", "finetune")
    with pytest.raises(InputError, match=f"x: was trained on patches of {what} {value}, these"):
        datasets.check_fits(rows, said, "x")
    datasets.check_fits(rows, told(tuned[0]) | {"polarisation": "unknown"}, "x")
    if what != "size":
        encoder, model = (Path(shutil.copy(file, tmp_path)) for file in tuned)
        for file in (encoder, model):
            file.with_suffix(".json").write_text(json.dumps(told(tuned[1]) | {what: value}))
        with pytest.raises(InputError, match=what):
            finetune(world / "patches", tmp_path / "out", encoder=encoder, profile="tiny")
        with pytest.raises(InputError, match=what):
            evaluate(world / "patches", model)


def test_a_model_of_another_legend_is_not_scored(world, tuned, tmp_path):
    said, copy = told(tuned[1]), tmp_path / "model.safetensors"
    shutil.copy(tuned[1], copy)
    said["legend"]["names"][1] = "towns"
    copy.with_suffix(".json").write_text(json.dumps(said))
    with pytest.raises(InputError, match="knows the classes water, towns"):
        evaluate(world / "patches", copy)


def test_nan_in_a_loss_stops_the_run_with_a_reason(world, tmp_path, monkeypatch):
    item = datasets.Patches.__getitem__
    monkeypatch.setattr(
        datasets.Patches,
        "__getitem__",
        lambda s, i: item(s, i) | {"image": torch.full((1, 64, 64), torch.nan)},
    )
    with pytest.raises(InputError, match="loss is nan in epoch 1"):
        pretrain(world / "patches", tmp_path, profile="tiny")
    assert not (tmp_path / "last.ckpt").exists()


def test_patches_that_do_not_divide_into_windows(tiny):
    with pytest.raises(InputError, match="multiple of 256"):
        config_of(tiny, 96 + 32 + 16, "simmim")


@pytest.mark.parametrize("damage", ["empty", "torn", "foreign", "text"])
def test_a_damaged_state_is_named(world, tmp_path, damage):
    state = tmp_path / "last.ckpt"
    torch.save({"a": torch.zeros(500)}, state)  # foreign: whole, and no state of ours
    if damage == "text":
        state.write_text("half a checkpoint")
    elif damage != "foreign":
        state.write_bytes(state.read_bytes()[: 0 if damage == "empty" else 900])
    with pytest.raises(InputError, match=r"last\.ckpt: damaged"):
        pretrain(world / "patches", tmp_path, profile="tiny")


@pytest.mark.parametrize(
    ("capable", "found"), [({"amx_tile": True}, "bf16-mixed"), ({}, "32-true")]
)
def test_bf16_where_the_processor_multiplies_it(monkeypatch, capable, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable, raising=False)
    assert training.precision() == found


def test_the_state_of_another_run_is_refused(world, tmp_path):
    """Stopped as SimMIM, taken up as SAR-W-SimMIM: the same keys, and yet another run."""
    with stopped_in(1):
        pretrain(world / "patches", tmp_path, method="simmim", profile="tiny")
    with pytest.raises(InputError, match="another run"):
        pretrain(world / "patches", tmp_path, method="sar-w-simmim", profile="tiny")


def test_table1_runs_what_is_left(world, tmp_path, monkeypatch):
    """Killed at any moment it loses the run at work; what is done is neither run nor written again."""
    alike = "MixMAE", "SAR-W-MixMAE", "SimMIM scratch", "SimMIM"  # other words for the same runs
    rows = {name: row for name, row in baselines.ROWS.items() if name not in alike}
    monkeypatch.setattr(baselines, "ROWS", rows)
    options = dict(patches=world / "patches", seeds=1, profile="tiny")
    assert len(baselines.table1(tmp_path, plan=True, **options)) == len(baselines.ROWS) + 1
    with stopped_in(1):
        baselines.table1(tmp_path, **options)
    assert "none is done yet" in baselines.table1(tmp_path, plan=True, **options)[-1]
    table = baselines.table1(tmp_path, **options)
    assert baselines.table1(tmp_path, plan=True, **options) == []
    files = {p: p.read_bytes() for p in tmp_path.glob("* 0.json")}
    assert len(files) == len(table) == len(baselines.ROWS)
    (tmp_path / "majority 0.json").unlink()
    *left, said = baselines.table1(tmp_path, plan=True, **options)
    assert left == ["majority 0"]
    assert said.startswith(f"1 of {len(files)} runs left")
    again = baselines.table1(tmp_path, **options)
    assert again.drop(columns="seeds").astype(str).equals(table.drop(columns="seeds").astype(str))
    kept = {p: p.read_bytes() for p in files if p.stem != "majority 0"}
    assert kept.items() <= files.items()
    rows = json.loads((tmp_path / "table1.json").read_text())["rows"]
    assert {k: v["miou"] for k, v in rows.items()} == table["miou"].to_dict()
    assert table.loc["SAR-W-SimMIM", "paper"] == (0.6073, 0.4898)
    with pytest.raises(InputError, match="holds another run"):
        baselines.table1(tmp_path, **options | {"profile": "laptop"})
    scratch = told(tmp_path / "MixMAE scratch 0" / "model" / "model.safetensors")
    assert (scratch["encoder"]["kind"], scratch["pretrained"]) == ("mixmae", None)


# Neither modules nor their metadata, by which some libraries look for others, are to be found.
BARE = """
import sys

absent = set(sys.argv[1].split(","))

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        known = name.split(".")[0] not in absent
        return self.finder.find_spec(name, path, target) if known else None

    def find_distributions(self, *context):
        found = getattr(self.finder, "find_distributions", lambda *context: ())(*context)
        return (d for d in found if d.name not in absent)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import dataclasses
from sartutorial import cli, profiles
small = dict(patch_size=64, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))
laptop = dataclasses.replace(profiles.PROFILES["laptop"], **small)
profiles.PROFILES["laptop"] = laptop
for line in sys.argv[2:]:
    cli.main(line.split())
assert not sys.modules.keys() & absent
"""
RASTER = "rasterio,osgeo,affine,geopandas,pyogrio,pyproj,shapely"
OTHERS = "distributed,dask,folium,matplotlib,scipy,sklearn,scikit-learn"


def test_a_machine_that_trains_needs_no_raster_library(world, tmp_path):
    lines = [
        f"pretrain {world / 'patches'} --out {tmp_path}/e --epochs 1",
        f"finetune {world / 'patches'} --out {tmp_path}/m --epochs 1 "
        f"--encoder {tmp_path}/e/encoder.safetensors",
        f"evaluate {world / 'patches'} --model {tmp_path}/m/model.safetensors --split val",
    ]
    done = subprocess.run(
        [sys.executable, "-c", BARE, f"{RASTER},{OTHERS}", *lines], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "mean" in done.stdout


def test_a_bad_pixel_is_named_in_one_line_also_by_a_worker(world, tmp_path):
    folder = tmp_path / "patches"
    shutil.copytree(world / "patches", folder)
    rows = datasets.selected(folder, "pretrain")
    row = rows.iloc[2]
    file = folder / "arrays" / f"{row['scene']}.sar.npy"
    pixels = np.load(file, mmap_mode="r+")
    pixels[row["array"], 3, 5] = 0  # DN 0 is no data
    pixels.flush()
    data = datasets.Patches(folder, rows, datasets.Normalization(0, 1))
    assert torch.isfinite(data[0]["image"]).all()
    words = f"{row['patch']} holds NaN or infinite values"
    with pytest.raises(InputError, match=words):
        data[2]
    with pytest.raises(InputError, match=words):
        pretrain(folder, tmp_path / "out", profile="tiny")
    worker = torch.utils.data.DataLoader(data, 4, num_workers=1)
    with pytest.raises(InputError, match=words) as caught:
        list(worker)
    assert len(str(caught.value).splitlines()) == 1
