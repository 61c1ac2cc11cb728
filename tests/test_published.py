"""The authors' checkpoints become files of ours: every key accounted for, nothing pickled executed.

The files are built from the keys in ``golden/``, never from our own classes. The real ones are on the
network, which no test uses.
"""

import argparse
import json
import math
import os
import pickle
import shutil
import sys
import types
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import scene_array, write
from safetensors.torch import save_file
from test_golden import FIXED, GOLDEN, expected, weight

from sartutorial import InputError, checkpoints, lulc, published, rasters, segmentation
from sartutorial.encoders import Encoder, EncoderConfig, sincos_positions
from sartutorial.pretraining import MixMAE, SimMIM

KINDS = {"simmim": "encoder", "mixmim": "encoder", "upernet": "model"}


def state(name, size=128):
    """Weights under the published keys, for images of ``size`` pixels."""
    found = {}
    for key, shape in json.loads((GOLDEN / f"{name}.json").read_text())["state_dict"].items():
        if key.endswith("absolute_pos_embed"):
            shape[1] = (size // 4) ** 2
        if size == 64 and "layers.3" in key and key.endswith("bias_table"):
            shape[0] = 9  # the last stage has two tokens a side, less than a window
        found[key] = weight(key, shape)
        if name == "mixmim" and key.endswith(FIXED):
            found[key] = sincos_positions(shape[2], math.isqrt(shape[1]))
        if key.endswith("bias_table"):  # buffers that the published files hold as well
            found[key.replace("bias_table", "index")] = torch.zeros(16, 16, dtype=torch.int64)
            if "blocks.1" in key:
                stem = key.removesuffix("attn.relative_position_bias_table")
                found[f"{stem}attn_mask"] = torch.zeros(4, 16, 16)
    return found


def contents(tensors):
    """How often which numbers occur, whatever they are called."""
    return Counter((tuple(t.shape), t.numpy().tobytes()) for t in tensors)


def learnt(weights):
    return {k: v for k, v in weights.items() if not k.endswith(("position_index", "attn_mask"))}


@pytest.mark.parametrize("name", KINDS)
def test_every_number_arrives(tmp_path, name):
    given = state(name)
    assert len(learnt(given)) < len(given)
    torch.save({"model": given}, tmp_path / "theirs.pth")
    file = published.load(tmp_path / "theirs.pth", tmp_path / "out")
    assert file == tmp_path / "out" / f"{KINDS[name]}.safetensors"
    ours, description = checkpoints.load(file)
    assert contents(ours.values()) == contents(learnt(given).values())
    c = json.loads((GOLDEN / f"{name}.json").read_text())["config"]
    assert description["encoder"] == {
        "image_size": c["img_size"],
        "embed_dim": c["embed_dim"],
        "depths": c["depths"],
        "num_heads": c["num_heads"],
        "window_size": 4,
        "kind": "mixmae" if name == "mixmim" else "simmim",
        "positions": True,
    }
    assert description["normalization"] == {"mean": -10.4327, "std": 5.8041}
    assert description["spacing"] == 5
    assert description["quantity"] == "sigma0"
    said = description.keys() - {"grounds", "published", "provenance"}
    assert said == description["grounds"].keys()  # each entry has its ground
    assert description["published"]["file"] == "theirs.pth"
    if name == "upernet":
        assert description["classes"] == list(lulc.NAMES)
        assert description["width"] == 256


def test_the_file_computes_what_the_authors_code_does(tmp_path):
    torch.save(state("simmim"), tmp_path / "a.pth")
    torch.save(state("upernet"), tmp_path / "b.pth")
    ours, description = checkpoints.load(published.load(tmp_path / "a.pth", tmp_path))
    model, golden = SimMIM(Encoder(EncoderConfig(**description["encoder"]))), expected("simmim")
    checkpoints.load_into(model, ours, "a")
    with torch.no_grad():
        loss, _ = model.eval()(golden["x"], golden["mask"])
    torch.testing.assert_close(loss, golden["loss_l1"], atol=1e-4, rtol=0)
    model, _ = segmentation.from_file(published.load(tmp_path / "b.pth", tmp_path))
    golden = expected("upernet")
    with torch.no_grad():
        logits = model(golden["x"])
    torch.testing.assert_close(logits[:, :, ::4, ::4], golden["logits_sub"], atol=1e-3, rtol=0)


def test_mixmae_computes_it_too(tmp_path):
    torch.save({"model": state("mixmim")}, tmp_path / "c.pth")
    ours, description = checkpoints.load(published.load(tmp_path / "c.pth", tmp_path))
    golden = expected("mixmim")
    model = MixMAE(Encoder(EncoderConfig(**description["encoder"])), 32, 2, 4)
    checkpoints.load_into(model, ours, "c")
    with torch.no_grad():
        loss, _ = model.eval()(golden["x"], golden["mask"])
    torch.testing.assert_close(loss, golden["loss_normpix0"], atol=1e-3, rtol=0)


def test_an_encoder_alone_is_enough(tmp_path):
    alone = {
        k.removeprefix("encoder."): v
        for k, v in state("simmim").items()
        if k.startswith("encoder.") and "mask_token" not in k
    }
    torch.save({"state_dict": alone}, tmp_path / "theirs.pth")
    ours, description = checkpoints.load(published.load(tmp_path / "theirs.pth", tmp_path))
    assert contents(ours.values()) == contents(learnt(alone).values())
    assert all(k.startswith("encoder.") for k in ours)
    assert description["method"] == "simmim"
    save_file({k: v.clone() for k, v in alone.items()}, tmp_path / "theirs.safetensors")
    assert checkpoints.read_published(tmp_path / "theirs.safetensors").keys() == ours.keys()


def test_it_goes_on_into_the_chain(run, world, tmp_path):
    """Import, fine-tune, score; and import, map."""
    torch.save({"model": state("simmim", 64)}, tmp_path / "a.pth")
    torch.save({"model": state("upernet", 128)}, tmp_path / "b.pth")
    scene = write(tmp_path / "IMG.tif", scene_array(np.random.default_rng(0), 128, 128))
    model, mapped = tmp_path / "m" / "model.safetensors", tmp_path / "b" / "model.safetensors"
    for command in (
        ("import-weights", tmp_path / "a.pth", "--out", tmp_path / "a"),
        ("finetune", world / "patches", "--out", tmp_path / "m", "--epochs", 1,
         "--encoder", tmp_path / "a" / "encoder.safetensors"),
        ("evaluate", world / "patches", "--model", model, "--split", "val"),
        ("import-weights", tmp_path / "b.pth", "--out", tmp_path / "b"),
        ("predict", scene, "--model", mapped, "--out", tmp_path / "map.tif"),
    ):  # fmt: skip
        code, _, err = run(*command)
        assert code == 0, (command, err)
    tuned = json.loads(model.with_suffix(".json").read_text())
    assert tuned["normalization"]["mean"] == -10.4327
    assert tuned["encoder"]["depths"] == [2, 2, 2, 2]
    with rasters.opened(tmp_path / "map.tif", dtype="uint8") as found:
        assert 1 <= found.read(1).max() <= 9


def test_a_published_model_is_scored(run, world, tmp_path):
    torch.save({"model": state("upernet", 64)}, tmp_path / "b.pth")
    file = published.load(tmp_path / "b.pth", tmp_path)
    out = tmp_path / "val.json"
    code, _, err = run(
        "evaluate", world / "patches", "--model", file, "--split", "val", "--out", out
    )
    assert code == 0, err
    assert json.loads(out.read_text())["seed"] is None


def test_it_is_done_once(tmp_path):
    torch.save(state("simmim"), tmp_path / "a.pth")
    file = published.load(tmp_path / "a.pth", tmp_path / "out")
    before = file.stat().st_mtime_ns
    assert published.load(tmp_path / "a.pth", tmp_path / "out") == file
    assert file.stat().st_mtime_ns == before
    torch.save({k: v + 1 for k, v in state("simmim").items()}, tmp_path / "a.pth")
    published.load(tmp_path / "a.pth", tmp_path / "out")
    assert file.stat().st_mtime_ns != before


@pytest.fixture
def config_node(monkeypatch):
    """A class like yacs's, in a module that is gone when the file is read."""
    package, module = types.ModuleType("yacs"), types.ModuleType("yacs.config")

    class CfgNode(dict):
        def __init__(self, content):
            super().__init__(content)
            self.__dict__["__immutable__"] = True

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", package)
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    yield CfgNode
    assert "yacs.config" not in sys.modules  # what read the file has not imported it


def test_what_lies_beside_the_weights_is_left(tmp_path, config_node):
    given = state("simmim")
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))])
    optimizer.param_groups[0]["params"][0].sum().backward()
    optimizer.step()
    beside = {
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"last_epoch": 3},
        "epoch": 799,
        "max_accuracy": np.float64(0.4898),
        "args": argparse.Namespace(batch_size=256, data_path="/data", opts=None),
        "config": config_node({"MODEL": config_node({"TYPE": "swin"}), "AMP_OPT_LEVEL": "O0"}),
    }
    file = tmp_path / "theirs.pth"
    torch.save({"model": given} | beside, file)
    del sys.modules["yacs.config"], sys.modules["yacs"]
    with pytest.raises(pickle.UnpicklingError):  # not loaded without more ado
        torch.load(file, weights_only=True)
    allowed = set(torch.serialization.get_safe_globals())
    ours = checkpoints.read_published(file)
    assert contents(ours.values()) == contents(learnt(given).values())
    assert set(torch.serialization.get_safe_globals()) == allowed  # no name stays allowed


def test_the_format_before_torch_1_6(tmp_path):
    old = {"_use_new_zipfile_serialization": False}
    torch.save({"model": state("simmim")}, tmp_path / "old.pth", **old)
    ours = checkpoints.read_published(tmp_path / "old.pth")
    assert contents(ours.values()) == contents(learnt(state("simmim")).values())
    torch.save({"model": ours, "args": argparse.Namespace(a=1)}, tmp_path / "older.pth", **old)
    with pytest.raises(InputError, match=r"older\.pth: weights cannot be read"):
        checkpoints.read_published(tmp_path / "older.pth")


class Evil:
    """Pickled, it calls a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("how", ["system", "exec", "eval", "copy", "numpy"])
@pytest.mark.parametrize("where", ["beside", "whole", "within", "for the weights"])
def test_nothing_pickled_is_executed(tmp_path, how, where):
    source, trace = tmp_path / "source", tmp_path / "trace"
    source.write_text("1")
    evil = {
        "system": Evil(os.system, f"touch {trace}"),
        "exec": Evil(exec, f"open({str(trace)!r}, 'w').write('x')"),
        "eval": Evil(eval, f"open({str(trace)!r}, 'w').write('x')"),
        "copy": Evil(shutil.copy, str(source), str(trace)),
        "numpy": Evil(np.savetxt, str(trace), [1.0]),
    }[how]
    pickle.loads(pickle.dumps(evil))
    assert trace.exists()  # it would
    trace.unlink()
    weights = state("simmim")
    torch.save(
        {
            "beside": {"model": weights, "config": evil},
            "whole": evil,
            "within": {"model": weights | {"encoder.extra": evil}},
            "for the weights": {"model": evil},
        }[where],
        tmp_path / "theirs.pth",
    )
    if where == "beside" and how != "system":
        published.load(tmp_path / "theirs.pth", tmp_path / "out")
    else:  # torch refuses the name of os.system even to stand for something else
        with pytest.raises(InputError, match=r"theirs\.pth: "):
            published.load(tmp_path / "theirs.pth", tmp_path / "out")
        assert not (tmp_path / "out").exists()
    assert not trace.exists()


@pytest.mark.parametrize("left", [0, 1, 500, 100_000, -1])
def test_a_torn_file_is_named(tmp_path, left):
    torch.save({"model": state("simmim")}, tmp_path / "a.pth")
    (tmp_path / "torn.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:left])
    with pytest.raises(InputError, match=r"torn\.pth: weights cannot be read .* fetch it again"):
        published.load(tmp_path / "torn.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def spoil(given, what):
    """Weights that do not fit, and what is said of them."""
    first = "encoder.layers.0.blocks.0.norm1.weight"
    if what == "missing":
        del given[first]
        return "1 missing (encoder.layers.0.blocks.0.norm1.weight)"
    if what == "left over":
        given["encoder.layers.0.blocks.0.more"] = torch.zeros(2)
        return "1 left over (encoder.layers.0.blocks.0.more)"
    if what == "shape":
        given[first] = torch.zeros(3)
        return "1 of another shape (encoder.layers.0.blocks.0.norm1.weight)"
    if what == "many":
        for k in [k for k in given if ".mlp." in k]:
            del given[k]
        return "32 missing (encoder.layers.0.blocks.0.mlp.fc1.bias, "
    if what == "positions":
        del given["encoder.absolute_pos_embed"]
        return "lacks encoder.absolute_pos_embed"
    if what == "block":  # the second of a stage, though not the first
        for k in [k for k in given if k.startswith("encoder.layers.1.blocks.0.")]:
            del given[k]
        return "lacks encoder.layers.1.blocks.0.attn.relative_position_bias_table"
    if what == "twice":
        given["norm.weight"] = given["encoder.norm.weight"]
        return "two of the keys mean encoder.norm.weight"
    if what == "channels":
        given["encoder.patch_embed.proj.weight"] = torch.zeros(16, 3, 4, 4)
        return "1 of another shape (encoder.patch_embed.proj.weight)"
    if what == "heads":
        key = "encoder.layers.2.blocks.0.attn.relative_position_bias_table"
        given[key] = torch.zeros(49, 3)
        return "7 of another shape (encoder.layers.2.blocks.0."
    if what == "scalar":
        given["encoder.absolute_pos_embed"] = torch.tensor(1.0)
        return "its shapes make no encoder of ours"
    if what == "nothing":
        given.clear()
        return "holds no weights"
    if what == "number":
        given["encoder.norm.weight"] = 3
        return "holds no weights"
    if what == "foreign":
        given.clear()
        given["conv1.weight"] = torch.zeros(2)
        return "lacks encoder."
    raise KeyError(what)


@pytest.mark.parametrize(
    "what",
    ["missing", "left over", "shape", "many", "positions", "block", "twice", "channels", "heads",
     "scalar", "nothing", "number", "foreign"],
)  # fmt: skip
def test_keys_that_do_not_fit_are_named(tmp_path, what):
    given = state("simmim")
    words = spoil(given, what)
    torch.save({"model": given}, tmp_path / "theirs.pth")
    with pytest.raises(InputError) as caught:
        published.load(tmp_path / "theirs.pth", tmp_path / "out")
    assert str(caught.value).startswith(f"{tmp_path / 'theirs.pth'}: ")
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_another_number_of_classes_is_named(tmp_path):
    given = state("upernet")
    given["decoder.prog_head.cls_seg.weight"] = torch.zeros(10, 256, 3, 3)
    torch.save({"model": given}, tmp_path / "theirs.pth")
    with pytest.raises(InputError, match=r"of another shape \(decoder\.head\.2\.weight\)"):
        published.load(tmp_path / "theirs.pth", tmp_path / "out")
