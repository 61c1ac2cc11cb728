# %% [markdown]
# # The determinism receipt
#
# A seed does not make two computers agree to the last digit.
# Which instructions a CPU has (AVX are those that work on several numbers at once), how many threads add up a sum, and which version of a library does it all change the order in which floating-point numbers are added; training then makes small differences larger.
# This page computes key numbers of the whole chain on a small simulated world, says how far they moved between kinds of CPU, threads and versions, and whether yours lie within.

# %%
import json
import zlib
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch

import sartutorial as st
from sartutorial import profiles, rasters
from sartutorial.learn import datasets, published

work = profiles.data_dir() / "receipt"
exact, real = {}, {}  # numbers that must agree, and numbers that may move

# %% [markdown]
# ## From the scene to the patches
#
# One scene of a world of its own, seed 0: simulated, halved, labelled, cut and sampled. A checksum is a number made of all pixels, and another one as soon as a single pixel differs; a mean tells how far off they are.

# %%
if not work.exists():
    print("making a small world (half a minute) ...", flush=True)
world = st.simulate(work / "world", side=1, seed=0)
scenes = sorted((world / "scenes").glob("*.tif"))
tiles = sorted((world / "lulc").glob("*.tif"))
st.downsample(scenes, work / "half")
half = [work / "half" / scene.name for scene in scenes]
st.label(half, tiles, work / "labels")
st.cut(half, work / "labels", work / "patches")
st.sample(work / "patches", tiles, seed=0)
index = pd.read_parquet(work / "patches" / "patches.parquet")

# %%
with rasters.opened(scenes[0]) as scene:
    exact["checksum of the scene"] = zlib.crc32(scene.read(1).tobytes())
with rasters.opened(half[0]) as scene:
    dn = scene.read(1)
    exact["checksum of the halved scene"] = zlib.crc32(dn.tobytes())
db = st.dn_to_db(dn)
real["mean of the halved scene [dB]"] = float(np.nanmean(db, dtype=float))
real["deviation of the halved scene [dB]"] = float(np.nanstd(db, dtype=float))
exact["patches"] = len(index)
exact["pixels of built-up land in them"] = int(index["n_2"].sum())
exact["patches chosen for fine-tuning"] = int(index["finetune"].sum())
exact["test patches"] = int((index["split"] == "test").sum())

# %% [markdown]
# ## Networks
#
# What the reference encoder and the reference model make of fixed patches, and a pretraining of two epochs from random weights, whose loss has gone through every kind of step that the book's trainings take.

# %%
rows = datasets.selected(work / "patches", "finetune", "test")
network, about = published.load_pretraining("reference")
norm = datasets.Normalization(**about["normalization"])
data = datasets.Patches(work / "patches", rows[:16], norm)
images = torch.stack([data[i]["image"] for i in range(len(data))])
hidden = (torch.arange(64) % 3 == 0).float().view(1, 8, 8).expand(len(images), 8, 8)
with torch.inference_mode():
    features = network.encoder.encode(network.encoder.embed(images))
    filled = network(images, hidden)[1]
missing = hidden.repeat_interleave(16, 1).repeat_interleave(16, 2) > 0
error = (filled[:, 0] - images[:, 0])[missing].abs().mean()
real["deviation of the encoder's features"] = float(features.std())
real["reconstruction error [dB]"] = float(error * norm.std)

# %%
scores = st.evaluate(work / "patches", "reference")
real["mIoU of the reference model"] = scores["miou"]
real["calibration error of the reference model"] = scores["ece"]
pixels = np.array(scores["confusion_matrix"]).sum(axis=0)
real["pixels that the reference model calls forest"] = int(
    pixels[scores["classes"].index("forest")]
)

# %%
with TemporaryDirectory() as folder:  # trained anew each time
    file = st.pretrain(work / "patches", folder, epochs=2, seed=0)
    losses = json.loads(file.with_suffix(".json").read_text())["history"]
real["loss after one epoch"], real["loss after two"] = losses
assert all(np.isfinite(list((exact | real).values())))

# %% [markdown]
# ## Do yours lie within?
#
# `python -m experiments.receipt` ran the cells above with one thread and two, with libraries that were told to leave AVX instructions alone, and with the oldest versions that the package allows. *Agrees* is for whole numbers and checksums: yours is one that was seen. *Within* is for the rest: yours lies in the range that was seen, widened on either side by its own width, because few machines show less than all of the range, and by a part in 100,000, because sums of single-precision numbers differ by about that where nothing else does.

# %%
from IPython.display import display

receipt = json.loads(profiles.book_file("results/receipt.json").read_text())
seen = pd.DataFrame({n: v["exact"] for n, v in receipt["variants"].items()})
agree = np.array([exact[name] in seen.loc[name].to_numpy() for name in seen.index])
seen.insert(
    0,
    "yours",
    [
        f"{exact[n]} {'agrees' if ok else 'is new'}"
        for n, ok in zip(seen.index, agree, strict=True)
    ],
)
display(seen)

# %%
seen = pd.DataFrame({n: v["real"] for n, v in receipt["variants"].items()})
low, high = seen.min(axis=1), seen.max(axis=1)
margin = (high - low) + 1e-5 * high.abs()
table = pd.DataFrame({"lowest": low, "highest": high, "yours": pd.Series(real)})
within = table["yours"].between(low - margin, high + margin)
table["spread"] = (high - low) / high.abs()
table.insert(0, "yours is", np.where(within, "within", "outside"))
numbers = ["lowest", "highest", "yours"]
display(table.style.format("{:.8g}", subset=numbers).format("{:.1e}", subset="spread"))
print(
    f"{agree.sum()} of {len(agree)} whole numbers agree, {within.sum()} of {len(within)} others lie within"
)

# %%
for name, variant in receipt["variants"].items():
    made, versions = variant["provenance"], variant["provenance"]["versions"]
    print(
        f"{name:<18}{made['cpu']:<9}torch {versions['torch']}, NumPy {versions['numpy']}, {made['date']}"
    )
here = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
print(
    f"yours: {here[0]}, {here[1]} thread(s), torch {torch.__version__}, NumPy {np.__version__}"
)

# %% [markdown]
# Only the kinds of CPU listed above were seen; with AVX-512 or AMX instructions, or on a GPU, yours may lie outside.
#
# The same seed gives the same pixels on the same kind of CPU with the same NumPy, and elsewhere pixels that differ in the last place of a float, a few of which round to another DN: checksums differ, counts of classes, patches and splits do not. *Spread* is relative. Training makes more of a small difference than a forward pass does, and a longer training more than this short one.
#
# A number outside is not an error: it is a machine or a version that the table has not seen. Whole numbers and checksums that differ come first, since all else follows from the pixels. Scores that differ while the pixels agree come from the networks' arithmetic; on a GPU, or with other weights than the book's, they must.
