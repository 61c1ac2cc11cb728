# %% [markdown]
# # All of Japan
#
# ```{admonition} This chapter
# **You will** run the whole chain from the command line, see what changes with real PALSAR-2 products, and what the authors' scale would ask of a machine.
#
# **You need** the chapters before; their steps are commands now.
#
# **In the paper** all of it. **Module** `cli`. **Takes** scenes. **Makes** maps. What it costs is [measured](../book/costs).
# ```
#
# ## The chain as commands
#
# Each step of the book is a command, and each can be run again: it leaves alone what is done.

# %%
import os
import shutil
import subprocess
import sys

import numpy as np
import rasterio

from sartutorial import patches, radiometry, workspace
from sartutorial.encoders import Encoder, config_of
from sartutorial.profiles import PROFILES, current, data_dir


def sartutorial(command):
    """Run a command of the package and show what it prints."""
    print(f"$ sartutorial {command}")
    arguments = [sys.executable, "-m", "sartutorial", *command.split()]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=data_dir())
    print(done.stdout + (done.stderr if done.returncode else ""))
    return done.returncode


workspace.model()  # the commands below find their inputs, whichever chapter is opened first
os.environ |= {
    "COLUMNS": "90",
    "TERM": "dumb",
    "NO_COLOR": "1",
}  # plain text for this page
os.environ.pop("FORCE_COLOR", None)
assert sartutorial("--help") == 0

# %% [markdown]
# One scene through all raster steps, in a folder of its own:

# %%
shutil.rmtree(data_dir() / "chain", ignore_errors=True)
name = workspace.scenes()[0].name
for command in (
    f"downsample scenes/{name} --out chain/half",
    "label chain/half --tiles lulc --out chain/labels",
    "patches chain/half --labels chain/labels --out chain/patches",
    "sample chain/patches --tiles lulc",
    f"predict chain/half/{name} --model models/sar-w-simmim/model.safetensors --out chain/map.tif",
):
    assert sartutorial(command) == 0

# %% [markdown]
# The same functions ran, so the halved scene is the same as in [chapter 2](02_downsampling):

# %%
with (
    rasterio.open(data_dir() / "half" / name) as a,
    rasterio.open(data_dir() / "chain/half" / name) as b,
):
    assert np.array_equal(a.read(1), b.read(1))
index = patches.read_index(data_dir() / "chain/patches")
print(f"{len(index)} patches of {name}")

# %% [markdown]
# ## Bad input is answered, not swallowed
#
# The model was trained on 5 m pixels.
# Give it the scene as it comes, at 2.5 m:

# %%
code = sartutorial(
    f"predict scenes/{name} --model models/sar-w-simmim/model.safetensors --out chain/wrong.tif"
)
assert code != 0 and not (data_dir() / "chain/wrong.tif").exists()

# %% [markdown]
# ## Many scenes, many machines
#
# `downsample`, `label` and `patches` do a scene at a time. With `--workers` they do several, each in a process of its own, and with `--scheduler` on the workers of a [dask](https://docs.dask.org) cluster that see the same files:
#
#     dask scheduler                                  # on one machine; it prints its address
#     dask worker tcp://host:8786                     # on each of the others
#     sartutorial downsample scenes --out half --scheduler tcp://host:8786
#
# What is written is the same. A scene that fails is named at the end and does not stop the others, and running again does only what is missing.
# Here two at a time, one of them spoilt:

# %%
shutil.rmtree(data_dir() / "chain" / "some", ignore_errors=True)
(data_dir() / "chain" / "some").mkdir()
spoilt = workspace.scenes()[1]
shutil.copy(workspace.scenes()[0], data_dir() / "chain" / "some")
(data_dir() / "chain" / "some" / spoilt.name).write_bytes(spoilt.read_bytes()[:100_000])
assert sartutorial("downsample chain/some --out chain/few --workers 2") != 0
assert [p.name for p in (data_dir() / "chain" / "few").iterdir()] == [name]

# %% [markdown]
# ## Real products
#
# What is different with real PALSAR-2 data, and where the package looks:
#
# | product | unit | nodata | how to use it |
# |---|---|---|---|
# | ALOS-2 L2.1 ultra-fine, HH (restricted) | σ⁰ | 0 | as in the book: halve it, then all steps |
# | ALOS-2 25 m mosaic (open, JAXA's terms) | γ⁰ | as declared: 1 in the tile we know | no halving; a model of its own, since unit and spacing differ |
# | HR-LULC v23.12, 1° tiles (registration) | ids | 0; 255 is void too | `label --tiles` |
#
# `data/README.md` in the repository says where to find them and under which terms.
# The declared nodata value matters: in a real mosaic tile that declares 1, taking 0 instead turns its no-data pixels into numbers.

# %%
mosaic = np.array(
    [[1, 1, 4000], [1, 2500, 3000]], dtype=np.uint16
)  # made up, in the form of a mosaic
print("nodata 1:", radiometry.dn_to_db(mosaic, nodata=1).round(1).tolist())
print("nodata 0:", radiometry.dn_to_db(mosaic, nodata=0).round(1).tolist())

# %% [markdown]
# ## The authors' scale
#
# A profile holds every number that depends on the machine.
# `SARTUTORIAL_PROFILE=japan` holds the authors' model and SimMIM schedule, where they are public.
# A batch is global: `--devices 8` shares it among eight processes, one a GPU, and `--accumulate 4` lets each take its share in four parts, where memory is short.
# Neither changes what SimMIM computes, except by rounding.
# `sartutorial pack` writes the patches into one file for a machine without raster libraries.

# %%
fields = (
    "patch_size",
    "embed_dim",
    "depths",
    "decoder_width",
    "pretrain_epochs",
    "pretrain_batch",
    "finetune_epochs",
)
print(f"{'':<18}" + "".join(f"{p:>16}" for p in PROFILES))
for field in fields:
    print(
        f"{field:<18}"
        + "".join(f"{getattr(p, field)!s:>16}" for p in PROFILES.values())
    )

# %% [markdown]
# **Paper:** more than 301,088 patches, 800 epochs of pretraining, 100 of fine-tuning. **Code:** one node of eight GPUs, with job limits of 72 and 48 hours.
# How much is that, in the patches that this machine has just processed?

# %%
import json

pretrained = json.loads((workspace.encoder().with_suffix(".json")).read_text())
here = len(patches.read_index(workspace.sampled()).query("pretrain")) * len(
    pretrained["history"]
)
there = 301_088 * 800
print(
    f"pretraining here: {here:,} patches in all; at the authors' scale: {there:,}, {there / here:,.0f} times as many,"
)
ratio = (PROFILES["japan"].patch_size / current().patch_size) ** 2
size = {
    p: sum(
        w.numel() for w in Encoder(config_of(PROFILES[p], 256, "simmim")).parameters()
    )
    for p in PROFILES
}
print(
    f"each with {ratio:.0f} times the pixels, through an encoder {size['japan'] / size[current().name]:.0f} times as large."
)

# %% [markdown]
# That takes a cluster, and the commands stay the same.
# Recipes live in `configs/`, one YAML file each, with a section a command: `sartutorial patches ... --config configs/flevoland.yaml`.
#
# ## Key points
#
# - Steps are commands; commands can be killed and run again.
# - Real products differ in unit, nodata and spacing; the package reads these from the product and refuses what does not fit.
# - Scale is a profile, not another program.
