# %% [markdown]
# # Pretraining
#
# ```{admonition} This chapter
# **You will** hide parts of radar patches from a network, weigh its errors by radar intensity, and watch it learn to fill them in without a single label.
#
# **You need** [chapter 5](05_sampling) and some PyTorch.
#
# **In the paper** §3.1. **Modules** `datasets`, `encoders`, `pretraining`, `training`. **Takes** the patches marked `pretrain`. **Makes** `encoder.safetensors`. What it costs is [measured](../book/costs).
# ```
#
# A *masked autoencoder* {cite:p}`he2022masked` learns from images alone: hide a part, let the network fill it in, compare.
# To guess what stands behind the mask it must know what radar images are like.
#
# The paper uses two kinds: SimMIM {cite:p}`xie2022simmim`, which replaces hidden tokens, and MixMAE {cite:p}`liu2023mixmae`, which mixes two images and recovers both.
# This chapter trains SimMIM with the paper's weight, **SAR-W-SimMIM**; the package has all four.

# %%

import matplotlib.pyplot as plt
import numpy as np
import torch

from sartutorial import checkpoints, datasets, maps, pretraining, workspace
from sartutorial.encoders import EncoderConfig
from sartutorial.profiles import current

folder = workspace.sampled()
rows = datasets.selected(folder, "pretrain")
norm = datasets.statistics(folder, rows)
print(
    f"{len(rows)} patches; mean {norm.mean:.2f} dB, standard deviation {norm.std:.2f} dB"
)

# %% [markdown]
# **Code:** the authors normalise with −10.4327 and 5.8041 dB, the statistics of *their* set.
# Ours come from our own training patches, in one pass, and are stored with the weights.
#
# ## Tokens and masks
#
# The encoder is a Swin transformer {cite:p}`liu2021swin`.
# It cuts the image into tokens (vectors that stand for 4 × 4 pixels) and lets tokens look at each other within windows; after each stage it merges 2 × 2 tokens into one, until a token stands for 32 × 32 pixels.
#
# **Code:** masks are made of cells of 16 × 16 pixels, 60 % of them hidden.
# The paper says hidden regions are *zeroed*; the code puts a learnt *mask token* in their place.

# %%
data = datasets.Patches(folder, rows, norm)
item = int(
    np.argsort(-(rows[[f"n_{i}" for i in range(1, 15)]].to_numpy() > 200).sum(axis=1))[
        0
    ]
)
image = data[item]["image"][None]
size = image.shape[-1]
mask = pretraining.mask_cells(size // pretraining.CELL, 0.6, (0, 0, item))[None]
print(
    f"image {tuple(image.shape)}, mask {tuple(mask.shape)}, {int(mask.sum())} of {mask.numel()} cells hidden"
)
assert mask.sum() == np.ceil(0.6 * mask.numel())
workspace.show_source(pretraining.mask_cells)

# %% [markdown]
# A mask depends on the seed, the epoch and the patch, on nothing else.
# So a run that was stopped goes on with the masks it would have had.
#
# ## The weight
#
# Power spans orders of magnitude: one corner reflector outweighs a field.
# **Code** (SAR-W-MixMAE, {cite:t}`caglayan2025sarwmixmae`): every pixel's error is multiplied by
#
# $$
# w = \exp\bigl(s\,(1 - \tilde x)\bigr), \qquad
# \tilde x = \frac{P - \min P}{\max P - \min P + 10^{-6}}, \qquad P = 10^{d/10}
# $$ (eq-weight)
#
# with $s = 1$: dark pixels weigh $e$, the brightest 1.
# Here $d$ is the pixel handed in, read as decibels.
# Their published loader (for Sentinel-1; the one for ALOS-2 is not public) hands {eq}`eq-weight` the *normalised* image, so that $P$ is a compressed power; their README says linear power.
# Side by side:

# %% mystnb={"figure": {"caption": "A simulated patch, its mask, and the SAR weight in both domains on one scale.", "name": "fig-weight"}, "image": {"alt": "Four panels: the radar patch, the patch with hidden cells blanked, and two weight maps. With normalised intensity the weight follows the image; with linear power it is almost constant except at a few bright points."}}
db = image * norm.std + norm.mean
weights = {
    "normalised": pretraining.intensity_weight(image),
    "linear": pretraining.intensity_weight(db),
}
hidden = mask[0].repeat_interleave(16, 0).repeat_interleave(16, 1).bool()

fig, axes = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
maps.show_backscatter(axes[0], db[0, 0], "σ⁰")
maps.show_backscatter(
    axes[1], np.where(hidden, np.nan, db[0, 0]), "what the encoder sees"
)
for ax, (domain, weight) in zip(axes[2:], weights.items(), strict=True):
    drawn = ax.imshow(weight[0, 0], cmap="viridis", vmin=1, vmax=np.e)
    ax.set_axis_off()
    ax.set_title(f"weight, {domain}")
fig.colorbar(drawn, ax=axes[2:], shrink=0.8)
plt.show()
for domain, weight in weights.items():
    assert weight.min() >= 1 and weight.max() <= np.e + 1e-5
    print(
        f"{domain:<11} middle 80 % of the weights: {np.quantile(weight, 0.1):.2f} to {np.quantile(weight, 0.9):.2f}"
    )

# %% [markdown]
# With linear power a single bright point pushes nearly all other weights towards $e$: the weight says little any more.
# The book trains with the normalised domain, as the published loader does.
#
# ## The model
#
# It is one screen.

# %%
workspace.show_source(pretraining.SimMIM)

# %% [markdown]
# The loss is SimMIM's, with the weight put in and its denominator kept (**ours**, in parallel to the code of SAR-W-MixMAE):
#
# $$
# L = \frac{\sum M\, w\, |x - \hat x|}{\sum M + 10^{-5}}
# $$ (eq-loss)
#
# where $M$ is 1 on hidden pixels.
#
# ## Train
#
# **Paper:** 800 epochs, 40 of them warm-up, AdamW. The laptop profile does this many:

# %%
profile = current()
print(
    f"{profile.pretrain_epochs} epochs, {profile.pretrain_warmup} of warm-up, batches of {profile.pretrain_batch}"
)
file = workspace.encoder()
state, description = checkpoints.load(file)
history = description["history"]
assert np.isfinite(history).all() and history[-1] < history[0]  # it learns

# %% mystnb={"figure": {"caption": "Training loss by epoch (weighted L1 error of hidden pixels, simulated patches).", "name": "fig-pretrain"}, "image": {"alt": "A falling curve: the loss by epoch, steep at first, then flat."}}
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.plot(range(1, len(history) + 1), history, marker="o")
ax.set_xlabel("epoch")
ax.set_ylabel("loss")
plt.show()

# %% [markdown]
# ## Look at what it fills in
#
# On a patch of the *test* split, which pretraining never saw.

# %%
model = pretraining.build(
    "sar-w-simmim", EncoderConfig(**description["encoder"]), profile
).eval()
checkpoints.load_into(model, state, file)

test = datasets.Patches(folder, datasets.selected(folder, "finetune", "test"), norm)
images = torch.stack([test[i]["image"] for i in range(len(test))])
masks = torch.stack(
    [pretraining.mask_cells(size // 16, 0.6, (1, 0, i)) for i in range(len(test))]
)
with torch.inference_mode():
    reconstruction = torch.cat(
        [
            model(*batch)[1]
            for batch in zip(images.split(32), masks.split(32), strict=True)
        ]
    )
pixels = masks.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None].bool()
pasted = torch.where(pixels, reconstruction, images)

# %% mystnb={"figure": {"caption": "Simulated test patches: input, what the encoder sees, and the reconstruction with the visible pixels pasted back.", "name": "fig-reconstruction"}, "image": {"alt": "Three rows of radar patches. The hidden cells are filled with smooth grey that follows the brightness of the surroundings but has no speckle."}}
shown = images.std((1, 2, 3)).argsort(descending=True)[:12:3]
fig, axes = plt.subplots(3, len(shown), figsize=(10.5, 8), layout="constrained")
for column, i in zip(axes.T, shown.tolist(), strict=True):
    for ax, z in zip(
        column,
        (images[i], torch.where(pixels[i], torch.nan, images[i]), pasted[i]),
        strict=True,
    ):
        maps.show_backscatter(ax, (z[0] * norm.std + norm.mean).numpy())
plt.show()

# %% [markdown]
# The fill is smooth, and it must be: speckle cannot be predicted, so the best guess of an L1 loss is the median, and the weight, which favours dark pixels, pulls it lower.
#
# ## Has it learnt more than to smooth?
#
# Three guesses without any learning: the mean of the visible pixels of the patch, a linear interpolation between 2,500 of the visible pixels, and the visible pixels blurred by the best of several Gaussians.

# %%
from scipy.interpolate import griddata
from scipy.ndimage import gaussian_filter

sample = range(0, len(test), max(len(test) // 24, 1))


def gaussian(z, visible, sigma):
    return gaussian_filter(z * visible, sigma) / np.maximum(
        gaussian_filter(visible.astype(float), sigma), 1e-6
    )


def linear(z, visible):
    rows, cols = np.nonzero(visible)
    keep = np.random.default_rng(0).permutation(rows.size)[:2500]
    target = np.nonzero(~visible)
    points = (rows[keep], cols[keep])
    filled = griddata(
        points, z[points], target, method="linear", fill_value=z[visible].mean()
    )
    out = z.copy()
    out[target] = filled
    return out


guesses = {"visible mean": lambda z, v: np.full_like(z, z[v].mean()), "linear": linear}
guesses |= {
    f"Gaussian, sigma {s} px": lambda z, v, s=s: gaussian(z, v, s) for s in (6, 12, 24)
}
errors = {name: [] for name in ["SAR-W-SimMIM", *guesses]}
for i in sample:
    z, visible = images[i, 0].numpy(), ~pixels[i, 0].numpy()
    errors["SAR-W-SimMIM"].append(
        np.abs(reconstruction[i, 0].numpy() - z)[~visible].mean()
    )
    for name, guess in guesses.items():
        errors[name].append(np.abs(guess(z, visible) - z)[~visible].mean())
for name, values in errors.items():
    print(
        f"{name:<24} {np.mean(values) * norm.std:.3f} dB mean absolute error of hidden pixels"
    )

# %% [markdown]
# This is a short run of a small network on simulated land; where it stands among the simple guesses is printed above, not promised.
# What pretraining is worth shows in [chapter 8](08_evaluation).
#
# ## What the weight does
#
# **Paper:** the weighting "aims to mitigate the impact of speckle and extreme intensity values".
# What it does to the loss can be measured: sort the hidden pixels by intensity into ten equal groups and see which share of the loss each contributes, with and without the weight.

# %% mystnb={"figure": {"caption": "Share of the loss by decile of intensity, without and with the SAR weight (simulated test patches, same model).", "name": "fig-decile"}, "image": {"alt": "Two lines over ten intensity deciles. With the weight, dark deciles contribute more and bright deciles less than without it."}}
z, error = images[pixels], (reconstruction - images).abs()[pixels]
w = torch.cat([pretraining.intensity_weight(batch) for batch in images.split(32)])[
    pixels
]
edges = torch.quantile(z[::37], torch.linspace(0, 1, 11))
decile = torch.bucketize(z, edges[1:-1])
plain, weighted = (torch.bincount(decile, v, 10) / v.sum() for v in (error, error * w))
assert weighted[0] > plain[0] and weighted[-1] < plain[-1]
fig, ax = plt.subplots(figsize=(7, 3), layout="constrained")
ax.plot(range(1, 11), plain, marker="o", color="#bbbbbb", label="plain")
ax.plot(range(1, 11), weighted, marker="s", color="#0072b2", label="weighted")
ax.set_xlabel("decile of intensity, dark to bright")
ax.set_ylabel("share of the loss")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Wrong on purpose: a mask as fine as the token
#
# Hide single tokens of 4 pixels instead of cells of 16, and a network can copy from next door: even a blur gets better, which understands nothing.

# %%
coarse, fine = [], []
for i in sample:
    z = images[i, 0].numpy()
    cells = pretraining.mask_cells(size // 4, 0.6, (2, 0, i)).numpy()
    visible = ~np.kron(cells, np.ones((4, 4))).astype(bool)
    fine.append(
        min(np.abs(gaussian(z, visible, s) - z)[~visible].mean() for s in (2, 4, 6, 12))
    )
    coarse.append(
        min(
            errors[f"Gaussian, sigma {s} px"][list(sample).index(i)]
            for s in (6, 12, 24)
        )
    )
print(
    f"best blur, 16 px cells: {np.mean(coarse) * norm.std:.3f} dB; 4 px cells: {np.mean(fine) * norm.std:.3f} dB"
)
assert np.mean(fine) < np.mean(coarse)

# %% [markdown]
# ## Key points
#
# - Pretraining needs radar and no labels.
# - The weight moves the loss from bright to dark pixels, *if* it is computed on normalised intensity.
# - On the command line: `sartutorial pretrain PATCHES --out DIR [--method sar-w-simmim|simmim|sar-w-mixmae|mixmae]`.
