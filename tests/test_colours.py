"""Classes are told apart by every eye: by colour, or by hatch where the colours are JAXA's."""

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.contour import QuadContourSet

import sartutorial as st
from sartutorial import maps

# What people without one kind of cone see, on linear RGB (Machado et al. 2009, severity 1).
EYES = {
    "usual": np.eye(3),
    "protanope": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                  [-0.003882, -0.048116, 1.051998]],
    "deuteranope": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                    [-0.011820, 0.042940, 0.968881]],
    "tritanope": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                  [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
          [0.0193339, 0.1191920, 0.9503041]]  # fmt: skip


def lab(rgb, eye="usual"):
    """CIELAB (D65) of a colour of 0 to 255, as an eye sees it."""
    c = np.asarray(rgb) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.array(EYES[eye]) @ linear, 0, 1) / (0.95047, 1, 1.08883)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def ciede2000(one, two):
    """The difference of two colours in CIELAB (Sharma et al. 2005)."""
    (l1, a1, b1), (l2, a2, b2) = one, two
    c = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    grow = 1 + (1 - np.sqrt(c**7 / (c**7 + 25**7))) / 2
    c1, c2 = np.hypot(a1 * grow, b1), np.hypot(a2 * grow, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a * grow)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0
    light, chroma, hue = (l1 + l2) / 2, (c1 + c2) / 2, h1 + turn / 2 if c1 * c2 else h1 + h2
    cos = [np.cos(np.radians(k * hue - at)) for k, at in ((1, 30), (2, 0), (3, -6), (4, 63))]
    t = 1 + np.dot((-0.17, 0.24, 0.32, -0.20), cos)
    x = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    y = (c2 - c1) / (1 + 0.045 * chroma)
    z = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * chroma * t)
    bend = 60 * np.exp(-(((hue % 360 - 275) / 25) ** 2))
    mixed = -2 * np.sqrt(chroma**7 / (chroma**7 + 25**7)) * np.sin(np.radians(bend))
    return float(np.sqrt(x**2 + y**2 + z**2 + mixed * y * z))


@pytest.mark.parametrize(
    ("one", "two", "difference"),
    [  # of the table that Sharma et al. publish
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_the_difference_is_the_published_one(one, two, difference):
    assert ciede2000(one, two) == pytest.approx(difference, abs=1e-4)


@pytest.mark.parametrize("training", [True, False], ids=["the nine", "the ids of the map"])
@pytest.mark.parametrize("eye", EYES)
def test_classes_are_told_apart(eye, training):
    legend = st.HR_LULC.for_maps if training else st.HR_LULC
    of = {c.name: c.rgb for c in legend.classes}
    assert len(of) == (9 if training else 15)
    alike = [
        (a, b)
        for a, b in combinations(of, 2)
        if ciede2000(lab(of[a], eye), lab(of[b], eye)) < 9
        and maps.HATCH.get(a) == maps.HATCH.get(b)
    ]
    assert not alike


def test_without_hatches_some_would_be_alike():
    of = dict(zip(st.HR_LULC.names, st.HR_LULC.colours, strict=True))
    built, forest, bare = of["built-up"], of["forest"], of["bare"]
    assert ciede2000(lab(built, "deuteranope"), lab(forest, "deuteranope")) < 3
    assert ciede2000(lab(built, "protanope"), lab(bare, "protanope")) < 3
    of = {c.name: c.rgb for c in st.HR_LULC.classes}
    grass, broad = of["grassland"], of["deciduous broad-leaved forest"]
    assert ciede2000(lab(grass, "protanope"), lab(broad, "protanope")) < 4


@pytest.mark.parametrize(
    ("ids", "hatched"), [([1, 2, 8, 8], 1), ([2, 14, 6, 7], 4), ([1, 8, 8, 5], 0)]
)
def test_what_some_eyes_confuse_is_hatched_in_figures(ids, hatched):
    ax = plt.subplots()[1]
    st.show_classes(np.reshape(ids, (2, 2)).repeat(4, 0).repeat(4, 1).astype(np.uint8), ax)
    drawn = [c for c in ax.get_children() if isinstance(c, QuadContourSet)]
    assert len(drawn) == hatched and all(c.hatches[0] in maps.HATCH.values() for c in drawn)
    plt.close("all")


@pytest.mark.parametrize(("training", "hatched"), [(True, 2), (False, len(maps.HATCH))])
def test_the_legend_shows_the_hatch(training, hatched):
    ax = plt.subplots()[1]
    st.show_legend(st.HR_LULC, ax, training=training)
    entries = zip(ax.get_legend().get_texts(), ax.get_legend().get_patches(), strict=True)
    found = {text.get_text(): patch.get_hatch() for text, patch in entries}
    seen = {name: hatch for name, hatch in found.items() if hatch}
    assert seen.items() <= maps.HATCH.items() and len(seen) == hatched
    plt.close("all")
