"""Our classes compute what the published architectures compute, from the published key names.

Inputs and outputs in ``golden/`` were made by the authors' public code at a tiny size. The weights
are built here from the published keys alone, so a wrong key, shape or order cannot go unseen.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from sartutorial.learn import checkpoints, published
from sartutorial.learn.encoders import Encoder, EncoderConfig
from sartutorial.learn.pretraining import MixMAE, SimMIM, intensity_weight, patchify
from sartutorial.learn.segmentation import Decoder, Segmenter

GOLDEN = Path(__file__).parent / "golden"
FIXED = ("absolute_pos_embed", "decoder_pos_embed")  # computed, not learnt, in MixMAE


def expected(name):
    data = np.load(GOLDEN / f"{name}.npz")
    return {k: torch.from_numpy(data[k]) for k in data}


def weights(name, fixed=()):
    keys = json.loads((GOLDEN / f"{name}.json").read_text())["state_dict"]
    state = {}
    for key, shape in keys.items():
        if key.endswith(fixed or ("\0",)):
            continue
        state[key] = weight(key, shape)
    return published.from_published(state)


def weight(key, shape):
    """The numbers that the golden outputs were made with, from the key alone."""
    value = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if len(shape) == 1:
        value = 1 + 0.1 * value if key.endswith("weight") else 0.1 * value
    else:
        value = value / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(value.astype(np.float32))


def encoder(name, kind):
    c = json.loads((GOLDEN / f"{name}.json").read_text())["config"]
    window = c["window_size"] if kind == "simmim" else c["window_size"][0]
    return Encoder(
        EncoderConfig(c["img_size"], c["embed_dim"], c["depths"], c["num_heads"], window, kind)
    )


def test_simmim():
    golden = expected("simmim")
    model = SimMIM(encoder("simmim", "simmim")).eval()
    checkpoints.load_into(model, weights("simmim"), "golden")
    with torch.no_grad():
        loss, reconstruction = model(golden["x"], golden["mask"])
        weighted, _ = model(golden["x"], golden["mask"], golden["weight"])
    torch.testing.assert_close(reconstruction, golden["reconstruction"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss, golden["loss_l1"], atol=1e-4, rtol=0)
    torch.testing.assert_close(weighted, golden["loss_weighted_l1"], atol=1e-4, rtol=0)
    weight = intensity_weight(golden["x"])
    torch.testing.assert_close(weight, golden["weight"], atol=1e-5, rtol=0)


def test_upernet():
    golden = expected("upernet")
    model = Segmenter(encoder("upernet", "simmim"), Decoder(256)).eval()
    checkpoints.load_into(model, weights("upernet"), "golden")
    with torch.no_grad():
        taps, logits = model.encoder.feature_pyramid(golden["x"]), model(golden["x"])
    means = torch.stack([t.double().mean() for t in taps])
    stds = torch.stack([t.double().std(correction=0) for t in taps])
    torch.testing.assert_close(means, golden["features_mean"], atol=1e-3, rtol=0)
    torch.testing.assert_close(stds, golden["features_std"], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(logits[:, :, ::4, ::4], golden["logits_sub"], atol=1e-3, rtol=0)
    torch.testing.assert_close(logits.mean((0, 2, 3)), golden["logits_mean"], atol=1e-3, rtol=0)


def test_upernet_drops_out_where_the_authors_do():
    """Evaluation mode cannot see a missing dropout: 8 bottlenecks, none in the pyramid."""
    model = Segmenter(encoder("upernet", "simmim"), Decoder(32))
    rates = [m.p for m in model.decoder.modules() if isinstance(m, torch.nn.Dropout)]
    assert rates == [0.5] * 8


def test_mixmae():
    golden = expected("mixmim")
    model = MixMAE(encoder("mixmim", "mixmae"), 32, 2, 4).eval()
    state = weights("mixmim", FIXED)
    state |= {k: v for k, v in model.state_dict().items() if k.endswith(FIXED)}
    checkpoints.load_into(model, state, "golden")
    with torch.no_grad():
        weighted, _ = model(golden["x"], golden["mask"], golden["weight"])
        loss, reconstruction = model(golden["x"], golden["mask"])
    torch.testing.assert_close(loss, golden["loss_normpix0"], atol=1e-3, rtol=0)
    torch.testing.assert_close(weighted, golden["loss_w_normpix0"], atol=1e-3, rtol=0)
    first, second = golden["reconstruction_tokens"].chunk(2)
    flat = golden["mask"].flatten()[None, :, None]
    tokens = first * flat + second.flip(0) * (1 - flat)
    torch.testing.assert_close(patchify(reconstruction), tokens, atol=1e-3, rtol=0)


def test_intensity_weight():
    golden = expected("weighting")
    weight = intensity_weight(golden["db"])
    torch.testing.assert_close(weight, golden["weight"], atol=1e-5, rtol=0)
    assert weight.min() >= 1 and weight.max() <= np.e + 1e-5
