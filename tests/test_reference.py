"""The book's own weights are what their descriptions say, wherever they are asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rasterio.windows import Window

import sartutorial as st
from experiments import model_cards
from sartutorial import profiles
from sartutorial.learn import checkpoints, published
from sartutorial.learn.datasets import Normalization
from sartutorial.world import simulate

WEIGHTS = Path(__file__).parents[1] / "book" / "weights"


def flat(level, seed, land=1):
    """An even field of ``level`` dB under speckle at 5 m, as a model of ours sees it: (128, 128) dB.

    ``land`` is the class whose own roughness it has: forest is rough, water is not.
    """
    window = Window(0, 0, 256, 256)
    rough = simulate.texture(np.full((256, 256), land, np.uint8), (seed + 1,), window)
    power = simulate.speckle(rough, simulate.LOOKS, simulate.CORRELATION, (seed,), window)
    return st.to_db(power.reshape(128, 2, 128, 2).mean((1, 3))).astype(np.float32) + level


def test_the_model_comes_from_the_encoder_beside_it():
    encoder, model = (st.load_encoder("reference"), st.load_model("reference"))
    method, fingerprint = model.description["pretrained"]
    assert method == encoder.description["method"] == "sar-w-simmim"
    assert fingerprint == checkpoints.fingerprint(WEIGHTS / "encoder.safetensors")
    low, high = model.description["scores"]["miou_95"]
    assert 0.5 < low < model.description["scores"]["miou"] < high
    for loaded in (encoder, model):  # of simulated data, and says so
        assert loaded.description["simulated"]
        assert loaded.description["licence"] == "MIT"


def test_the_cards_are_those_of_the_files():
    for kind in model_cards.TITLES:
        written = (WEIGHTS / f"{kind}.md").read_text(encoding="utf-8")
        assert written == model_cards.card(kind), "run `python -m experiments.model_cards`"


def test_the_model_tells_sea_from_forest():
    model, about = st.load_model("reference")
    norm = Normalization(**about["normalization"])
    names = st.HR_LULC.names
    for land, name in ((1, "water"), (6, "forest")):
        db = flat(simulate.SIGMA0[land].level, 5, land)
        image = torch.from_numpy((db - norm.mean) / norm.std)[None, None]
        with torch.inference_mode():
            called = model(image).argmax(1)
        assert (called == names.index(name)).float().mean() > 0.9, name


def test_the_encoder_sees_a_coast_past_the_mask():
    """Its fill is nearer to that of one who knows both levels than to the mean of what is visible."""
    model, about = published.load_pretraining("reference")
    norm = Normalization(**about["normalization"])
    db = np.where(np.arange(128) < 64, flat(-22, 1), flat(-8, 2))
    image = torch.from_numpy((db - norm.mean).astype(np.float32) / norm.std)[None, None]
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6:2] = 1
    hidden = mask.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None] > 0
    with torch.inference_mode():
        guess = model(image, mask)[1]
    levels = image.median(2, keepdim=True).values.expand_as(image)  # by column: sea, then land
    visible = image[~hidden].mean()
    error, known, mean = ((x - image).abs()[hidden].mean() for x in (guess, levels, visible))
    assert error - known < mean - error


def test_where_the_book_is_not_its_weights_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(profiles, "__file__", str(tmp_path / "a" / "b.py"))
    with pytest.raises(st.InputError, match=r"book/weights/encoder\.safetensors is not here"):
        st.load_encoder("reference")
