"""The authors' checkpoints become files of ours: every key accounted for, nothing pickled executed.

The files are built from the keys in ``golden/``, never from our own classes. The real ones are on the
network, which no test uses.
"""

import argparse
import json
import math
import os
import pickle
import re
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

import sartutorial as st
from sartutorial import InputError, lulc
from sartutorial.learn import checkpoints, published
from sartutorial.learn.encoders import Encoder, EncoderConfig, sincos_positions
from sartutorial.learn.pretraining import MixMAE

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
    file = st.import_weights(tmp_path / "theirs.pth", tmp_path / "out")
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
    assert description["polarisation"] == "HH"
    if name == "upernet":
        assert description["legend"] == lulc.HR_LULC.to_dict()
        assert description["decoder"]["width"] == 256
        assert description["decoder"]["classes"] == 9


def test_the_file_computes_what_the_authors_code_does(tmp_path):
    """Imported, or as it was published: a module, ready in evaluation mode, and what is known of it."""
    torch.save(state("simmim"), tmp_path / "a.pth")
    torch.save(state("upernet"), tmp_path / "b.pth")
    golden = expected("simmim")
    for file in (tmp_path / "a.pth", st.import_weights(tmp_path / "a.pth", tmp_path)):
        model, description = published.load_pretraining(file)
        with torch.no_grad():
            loss, _ = model(golden["x"], golden["mask"])
        torch.testing.assert_close(loss, golden["loss_l1"], atol=1e-4, rtol=0)
        encoder, said = st.load_encoder(file)
        assert said == description
        torch.testing.assert_close(encoder.state_dict(), model.encoder.state_dict())
    golden = expected("upernet")
    for file in (tmp_path / "b.pth", st.import_weights(tmp_path / "b.pth", tmp_path)):
        model, description = st.load_model(file)
        with torch.no_grad():
            logits = model(golden["x"])
        torch.testing.assert_close(logits[:, :, ::4, ::4], golden["logits_sub"], atol=1e-3, rtol=0)
        assert st.Legend.from_dict(description["legend"]) == st.HR_LULC
        encoder, _ = st.load_encoder(file)
        torch.testing.assert_close(encoder.state_dict(), model.encoder.state_dict())
        assert not encoder.training


def test_what_a_file_does_not_hold_is_said(tmp_path):
    torch.save(state("simmim"), tmp_path / "a.pth")
    torch.save(state("upernet"), tmp_path / "b.pth")
    with pytest.raises(InputError, match=r"a\.pth: holds no segmentation model"):
        st.load_model(tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"b\.pth: holds no pretrained model"):
        published.load_pretraining(tmp_path / "b.pth")


def test_mixmae_computes_it_too(tmp_path):
    torch.save({"model": state("mixmim")}, tmp_path / "c.pth")
    ours, description = checkpoints.load(st.import_weights(tmp_path / "c.pth", tmp_path))
    golden = expected("mixmim")
    assert description["decoder"] == {"width": 32, "blocks": 2, "heads": 16}  # theirs have sixteen
    model = MixMAE(Encoder(EncoderConfig(**description["encoder"])), 32, 2, 4)
    checkpoints.load_into(model, ours, "c")
    with torch.no_grad():
        loss, _ = model.eval()(golden["x"], golden["mask"])
    torch.testing.assert_close(loss, golden["loss_normpix0"], atol=1e-3, rtol=0)


@pytest.mark.parametrize("with_token", [False, True])
def test_an_encoder_alone_is_enough(tmp_path, with_token):
    alone = {
        k.removeprefix("encoder."): v
        for k, v in state("simmim").items()
        if k.startswith("encoder.") and ("mask_token" not in k or with_token)
    }
    wanted = {k: v for k, v in learnt(alone).items() if k != "mask_token"}
    torch.save({"state_dict": alone}, tmp_path / "theirs.pth")
    ours, description = checkpoints.load(st.import_weights(tmp_path / "theirs.pth", tmp_path))
    assert contents(ours.values()) == contents(wanted.values())
    assert all(k.startswith("encoder.") for k in ours)
    assert description["method"] == "simmim"
    save_file({k: v.clone() for k, v in alone.items()}, tmp_path / "theirs.safetensors")
    bare = st.import_weights(tmp_path / "theirs.safetensors", tmp_path / "bare")
    assert checkpoints.load(bare)[0].keys() == ours.keys()
    encoder, _ = st.load_encoder(tmp_path / "theirs.pth")
    assert contents(encoder.state_dict().values()) == contents(wanted.values())


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
    ids = st.read_classes(tmp_path / "map.tif").ids
    assert 1 <= ids.max() <= 9
    # The same of the checkpoint as it was published.
    direct = st.predict(scene, tmp_path / "b.pth", tmp_path / "direct")
    np.testing.assert_array_equal(st.read_classes(direct).ids, ids)


def test_a_published_model_is_scored(run, world, tmp_path):
    torch.save({"model": state("upernet", 64)}, tmp_path / "b.pth")
    file = st.import_weights(tmp_path / "b.pth", tmp_path)
    out = tmp_path / "val.json"
    code, _, err = run(
        "evaluate", world / "patches", "--model", file, "--split", "val", "--out", out
    )
    assert code == 0, err
    assert json.loads(out.read_text())["seed"] is None


def test_it_is_done_once(tmp_path):
    torch.save(state("simmim"), tmp_path / "a.pth")
    file = st.import_weights(tmp_path / "a.pth", tmp_path / "out")
    before = file.stat().st_mtime_ns
    assert st.import_weights(tmp_path / "a.pth", tmp_path / "out") == file
    assert file.stat().st_mtime_ns == before
    torch.save({k: v + 1 for k, v in state("simmim").items()}, tmp_path / "a.pth")
    st.import_weights(tmp_path / "a.pth", tmp_path / "out")
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
    ours, _ = published.load_pretraining(file)
    assert contents(ours.state_dict().values()) == contents(learnt(given).values())
    assert set(torch.serialization.get_safe_globals()) == allowed  # no name stays allowed


def test_the_format_before_torch_1_6(tmp_path):
    old = {"_use_new_zipfile_serialization": False}
    torch.save({"model": state("simmim")}, tmp_path / "old.pth", **old)
    ours, _ = published.load_pretraining(tmp_path / "old.pth")
    assert contents(ours.state_dict().values()) == contents(learnt(state("simmim")).values())
    torch.save(
        {"model": state("simmim"), "args": argparse.Namespace(a=1)}, tmp_path / "older.pth", **old
    )
    with pytest.raises(InputError, match=r"older\.pth: weights cannot be read"):
        st.load_encoder(tmp_path / "older.pth")


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
        st.import_weights(tmp_path / "theirs.pth", tmp_path / "out")
    else:  # torch refuses the name of os.system even to stand for something else
        with pytest.raises(InputError, match=r"theirs\.pth: "):
            st.import_weights(tmp_path / "theirs.pth", tmp_path / "out")
        assert not (tmp_path / "out").exists()
    assert not trace.exists()


@pytest.mark.parametrize("left", [0, 1, 500, 100_000, -1])
def test_a_torn_file_is_named(tmp_path, left):
    torch.save({"model": state("simmim")}, tmp_path / "a.pth")
    (tmp_path / "torn.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:left])
    with pytest.raises(InputError, match=r"torn\.pth: weights cannot be read .* fetch it again"):
        st.import_weights(tmp_path / "torn.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def spoil(given, what):
    """Weights that do not fit, and what is said of them."""
    first = "encoder.layers.0.blocks.0.norm1.weight"
    if what == "missing":
        del given[first]
        return 'Missing key(s) in state_dict: "encoder.layers.0.blocks.0.norm1.weight".'
    if what == "left over":
        given["encoder.layers.0.blocks.0.more"] = torch.zeros(2)
        return 'Unexpected key(s) in state_dict: "encoder.layers.0.blocks.0.more".'
    if what == "shape":
        given[first] = torch.zeros(3)
        return "size mismatch for encoder.layers.0.blocks.0.norm1.weight: "
    if what == "many":
        for k in [k for k in given if ".mlp." in k]:
            del given[k]
        return 'Missing key(s) in state_dict: "encoder.layers.0.blocks.0.mlp.fc1.weight", '
    if what == "block":  # the second of a stage, though not the first
        for k in [k for k in given if k.startswith("encoder.layers.1.blocks.0.")]:
            del given[k]
        return "lacks 'encoder.layers.1.blocks.0.attn.relative_position_bias_table'"
    if what == "twice":
        given["norm.weight"] = given["encoder.norm.weight"]
        return "two of the keys mean encoder.norm.weight"
    if what == "channels":
        given["encoder.patch_embed.proj.weight"] = torch.zeros(16, 2, 4, 4)
        return "reads images of 2 channels, ours have one"
    if what == "heads":
        key = "encoder.layers.2.blocks.0.attn.relative_position_bias_table"
        given[key] = torch.zeros(49, 3)
        return "size mismatch for encoder.layers.2.blocks.0."
    if what == "scalar":
        given["encoder.absolute_pos_embed"] = torch.tensor(1.0)
        return "has unknown shapes"
    if what == "nothing":
        given.clear()
        return "holds no weights"
    if what == "number":
        given["encoder.norm.weight"] = 3
        return "holds no weights"
    if what == "foreign":
        given.clear()
        given["conv1.weight"] = torch.zeros(2)
        return "lacks 'encoder."
    raise KeyError(what)


@pytest.mark.parametrize(
    "what",
    ["missing", "left over", "shape", "many", "block", "twice", "channels", "heads",
     "scalar", "nothing", "number", "foreign"],
)  # fmt: skip
def test_keys_that_do_not_fit_are_named(tmp_path, what):
    given = state("simmim")
    words = spoil(given, what)
    torch.save({"model": given}, tmp_path / "theirs.pth")
    with pytest.raises(InputError) as caught:
        st.import_weights(tmp_path / "theirs.pth", tmp_path / "out")
    assert str(caught.value).startswith(f"{tmp_path / 'theirs.pth'}: ")
    assert words in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 500
    assert not (tmp_path / "out").exists()


def test_another_number_of_classes_is_named(tmp_path):
    given = state("upernet")
    given["decoder.prog_head.cls_seg.weight"] = torch.zeros(10, 256, 3, 3)
    torch.save({"model": given}, tmp_path / "theirs.pth")
    with pytest.raises(InputError, match=r"size mismatch for decoder\.head\.2\.weight"):
        st.import_weights(tmp_path / "theirs.pth", tmp_path / "out")


# What stands around a model, or beside it, when its weights are saved.
WRAPPED = {
    "data parallel": lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
    "compiled": lambda s: {"model": {f"_orig_mod.{k}": v for k, v in s.items()}},
    "compiled, then parallel": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "parallel, then compiled": lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    "encoder compiled": lambda s: {
        "state_dict": {k.replace("encoder.", "encoder._orig_mod.", 1): v for k, v in s.items()}
    },
    "activations checkpointed": lambda s: {
        k.replace(".norm1.", "._checkpoint_wrapped_module.norm1."): v for k, v in s.items()
    },
    "Lightning": lambda s: {
        "state_dict": {f"model.{k}": v for k, v in s.items()} | {"criterion.w": torch.ones(9)},
        "pytorch-lightning_version": "2.6",
        "callbacks": {"best": {"best_model_score": torch.tensor(0.5), "best_model_path": "a"}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}],
    },
    "Lightning, compiled": lambda s: {
        "state_dict": {f"model._orig_mod.net.{k}": v for k, v in s.items()}
    },
    "deep": lambda s: {"state": {"model": {"state_dict": s, "step": 3}}, "epoch": 3},
    "by the encoder": lambda s: {"encoder": s, "epoch": 3},
    "beside its average": lambda s: {
        "model": s, "model_ema": {f"module.{k}": v * 0 for k, v in s.items()}
    },
    "averaged": lambda s: {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in s.items()},
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("how", WRAPPED)
def test_wrappers_are_taken_off(how, name):
    given = learnt(state(name))
    if how == "by the encoder" and name == "mixmim":  # bare keys are those of the encoder then
        given = {k: v for k, v in given.items() if "decoder" not in k and "mask" not in k}
    plain, found = published.from_published(given), published.from_published(WRAPPED[how](given))
    assert found.keys() == plain.keys()
    assert all(found[k] is plain[k] for k in plain)


def test_patches_merged_at_the_start_of_a_stage():
    """As timm names them, and who trains on with this package's own modules."""
    given = learnt(state("simmim"))
    ours = published.from_published(given)
    assert (
        published.from_published({"state_dict": {f"model.{k}": v for k, v in ours.items()}}) == ours
    )


def test_a_pretrained_model_of_ours_comes_with_its_head(tmp_path):
    """Whose heads no shape tells: the description does."""
    config = EncoderConfig(64, 16, (1, 1, 1, 1), (1, 2, 2, 4), 8, "mixmae")
    model = MixMAE(Encoder(config), 16, 1, 2).eval()
    decoder = {"width": 16, "blocks": 1, "heads": 2}
    file = tmp_path / "encoder.safetensors"
    checkpoints.save(model, file, {"encoder": config._asdict(), "decoder": decoder})
    found, _ = published.load_pretraining(file)
    image, mask = torch.randn(2, 1, 64, 64), torch.eye(2)[None, None]
    with torch.no_grad():
        torch.testing.assert_close(found(image, mask), model(image, mask))


def test_a_file_of_ours_is_not_imported(tmp_path):
    """It knows its own normalisation, which the authors' would replace."""
    torch.save(state("simmim"), tmp_path / "a.pth")
    file = st.import_weights(tmp_path / "a.pth", tmp_path / "one")
    with pytest.raises(InputError, match=r"encoder\.safetensors: is a file of ours"):
        st.import_weights(file, tmp_path / "two")


def test_parts_saved_apart_are_joined():
    given, parts = learnt(state("simmim")), {"encoder": {}, "decoder": {}}
    for key, value in given.items():
        part, rest = key.split(".", 1)
        parts[part][rest] = value
    found = published.from_published(parts | {"epoch": 3})
    assert found.keys() == published.from_published(given).keys()


def test_two_models_are_not_guessed_between(tmp_path):
    torch.save({"student": state("simmim"), "teacher": state("simmim")}, tmp_path / "theirs.pth")
    with pytest.raises(InputError, match=r"theirs\.pth: holds several models \(student, teacher\)"):
        st.load_encoder(tmp_path / "theirs.pth")


def test_an_encoder_without_positions(tmp_path):
    """It computes what the same encoder does whose positions are all 0."""
    given = {k: v for k, v in state("simmim").items() if "absolute_pos" not in k}
    torch.save({"model": given}, tmp_path / "none.pth")
    zero = {"encoder.absolute_pos_embed": torch.zeros(1, 32 * 32, 16)}
    torch.save({"model": given | zero}, tmp_path / "zero.pth")
    (none, said), (other, _) = (st.load_encoder(tmp_path / f"{n}.pth") for n in ("none", "zero"))
    assert (said["encoder"]["positions"], said["encoder"]["image_size"]) == (False, 128)
    assert said["normalization"] == {"mean": -10.4327, "std": 5.8041}
    image = torch.randn(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(none.encode(none.embed(image)), other.encode(other.embed(image)))
    file = st.import_weights(tmp_path / "none.pth", tmp_path)
    assert st.load_encoder(file).description["encoder"]["positions"] is False


def shaped(size, window):
    """Weights of microsoft/SimMIM's naming, without positions, for images and windows of a size."""
    torch.manual_seed(0)
    config = EncoderConfig(size, 16, (2, 2, 2, 2), (1, 2, 4, 8), window, positions=False)
    return {f"encoder.{k}": v for k, v in Encoder(config).state_dict().items()}


@pytest.mark.parametrize("size", [128, 192, 256])
def test_an_encoder_without_positions_fits_patches_of_any_size(tmp_path, size):
    """Theirs are 192 px and windows of 6 tokens, in each stage."""
    given = shaped(192, 6)
    torch.save({"model": given}, tmp_path / "theirs.pth")
    encoder, said = st.load_encoder(tmp_path / "theirs.pth", size)
    assert said["encoder"] == encoder.config._asdict()
    assert (encoder.config.image_size, encoder.config.window_size) == (size, 6)
    fresh = Encoder(encoder.config).eval()  # as it is built when its weights are loaded again
    fresh.load_state_dict(encoder.state_dict())
    image = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, again = (e.encode(e.embed(image)) for e in (encoder, fresh))
    assert found.shape == (1, size // 32, size // 32, 128)
    assert torch.equal(found, again)
    for i, block in enumerate(encoder.layers[3].blocks):  # each pair of tokens keeps its bias
        side = block.window_size[0]
        assert side == min(size // 32, 6)
        whole = Encoder(encoder.config._replace(image_size=192)).layers[3].blocks[0].attn
        table = f"encoder.layers.3.blocks.{i}.attn.relative_position_bias_table"
        whole.relative_position_bias_table.data = given[table]
        inner = [6 * row + column for row in range(side) for column in range(side)]
        bias = whole._get_rel_pos_bias()[:, :, inner][..., inner]
        assert torch.equal(block.attn._get_rel_pos_bias(), bias)


def test_windows_do_not_grow_beyond_what_they_know(tmp_path):
    torch.save({"model": shaped(128, 6)}, tmp_path / "theirs.pth")  # the last of 4 tokens
    with pytest.raises(InputError, match=r"theirs\.pth: does not fit: .*layers\.3\.blocks\.0"):
        st.load_encoder(tmp_path / "theirs.pth", 192)


def test_patches_that_an_encoder_with_positions_does_not_know_are_refused(world, tmp_path):
    torch.save({"model": state("simmim", 128)}, tmp_path / "theirs.pth")
    assert st.load_encoder(tmp_path / "theirs.pth", 64).model.config.image_size == 128
    with pytest.raises(InputError, match=r"theirs\.pth: was trained on patches of size 128"):
        st.finetune(world / "patches", tmp_path, encoder=tmp_path / "theirs.pth", profile="tiny")


@pytest.mark.parametrize("positions", [True, False])
def test_three_channels_become_one(tmp_path, positions):
    """What the same image in three channels gave, and the mean of the three that were made of it."""
    given = {k: v for k, v in state("simmim").items() if positions or "absolute_pos" not in k}
    stem, head = "encoder.patch_embed.proj", "decoder.0"  # as microsoft/SimMIM's own
    given[f"{stem}.weight"] = weight(stem, (16, 3, 4, 4))
    for part in ("weight", "bias"):
        shape = given[f"{head}.{part}"].shape[1:]
        given[f"{head}.{part}"] = weight(f"{head}.{part}", (3 * 1024, *shape))
    torch.save({"model": given}, tmp_path / "theirs.pth")
    file = st.import_weights(tmp_path / "theirs.pth", tmp_path)
    model, said = published.load_pretraining(file)
    image = torch.randn(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    conv = torch.nn.Conv2d(3, 16, 4, stride=4)
    conv.load_state_dict({k: given[f"{stem}.{k}"] for k in ("weight", "bias")})
    three = torch.nn.Sequential(torch.nn.Conv2d(128, 3 * 1024, 1), torch.nn.PixelShuffle(32))
    three[0].load_state_dict({k: given[f"{head}.{k}"] for k in ("weight", "bias")})
    with torch.no_grad():
        seen = conv(image.expand(-1, 3, -1, -1))
        torch.testing.assert_close(model.encoder.patch_embed.proj(image), seen, atol=1e-5, rtol=0)
        features = model.encoder.encode(model.encoder.embed(image)).permute(0, 3, 1, 2)
        mean = three(features).mean(1, keepdim=True)
        torch.testing.assert_close(model.decoder(features), mean, atol=1e-5, rtol=0)
    # They have seen photographs: nothing is known of radar.
    assert not said.keys() & {"normalization", "spacing", "quantity", "polarisation"}
    assert "photographs" in said["grounds"]["channels"]


def test_weights_of_photographs_take_the_normalisation_of_the_patches(world, tmp_path):
    given = shaped(192, 6) | {"encoder.patch_embed.proj.weight": torch.ones(16, 3, 4, 4)}
    torch.save({"model": given}, tmp_path / "theirs.pth")  # patches have 64 px
    encoder = tmp_path / "theirs.pth"
    model = st.finetune(world / "patches", tmp_path, encoder=encoder, epochs=1, profile="tiny")
    known = st.load_model(model).description
    assert -20 < known["normalization"]["mean"] < -5
    assert known["normalization"]["mean"] != -10.4327
    assert (known["quantity"], known["encoder"]["positions"]) == ("sigma0", False)
    assert (known["encoder"]["image_size"], known["encoder"]["window_size"]) == (64, 6)


def test_weights_are_everybodys_to_read_as_the_umask_says(tmp_path):
    torch.save(state("simmim"), tmp_path / "a.pth")
    before = os.umask(0o022)
    try:
        file = st.import_weights(tmp_path / "a.pth", tmp_path)
    finally:
        os.umask(before)
    modes = [f.stat().st_mode & 0o777 for f in (file, file.with_suffix(".json"))]
    assert modes == [0o644, 0o644]


@pytest.mark.parametrize("name", ["encoder.safetensors", "a.pth"])
def test_what_may_not_be_read_is_not_called_missing(tmp_path, name):
    torch.save(state("simmim"), tmp_path / "a.pth")
    st.import_weights(tmp_path / "a.pth", tmp_path)
    (tmp_path / name).chmod(0)
    user = os.geteuid()
    if user == 0:  # whom no mode keeps out
        os.seteuid(65534)
    try:
        with pytest.raises(InputError, match=rf"{re.escape(name)}: not readable \(Permission"):
            st.load_encoder(tmp_path / name)
    finally:
        os.seteuid(user)
