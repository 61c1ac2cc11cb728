"""Guesses without learning, as chapter 06 defines them: exact where they must be, finite everywhere."""

import ast
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.interpolate import griddata
from scipy.spatial import QhullError

CHAPTER = Path(__file__).resolve().parents[1] / "notebooks" / "06_pretraining.py"
NAMES = ("visible_mean", "nearest", "masked_error", "bilinear", "gaussian")


def defined():
    """The chapter's functions, with what they need of its imports."""
    body = ast.parse(CHAPTER.read_text(encoding="utf-8")).body
    found = [n for n in body if isinstance(n, ast.FunctionDef) and n.name in NAMES]
    space = dict(
        np=np, ndimage=ndimage, griddata=griddata, QhullError=QhullError, suppress=suppress
    )
    exec(compile(ast.Module(found, []), CHAPTER.name, "exec"), space)
    return SimpleNamespace(**{name: space[name] for name in NAMES})


chapter = defined()
GUESSES = {
    "visible mean": chapter.visible_mean,
    "bilinear": chapter.bilinear,
    "Gaussian": lambda z, visible: chapter.gaussian(z, visible, 3.0),
}
side = st.integers(1, 30)


def cells(seed, *, cell=8, number=6, ratio=0.6):
    """A mask of square cells, true where visible, at least one cell of it."""
    order = np.random.default_rng(seed).permutation(number**2)
    hidden = (order < ratio * number**2).reshape(number, number)
    return ~np.kron(hidden, np.ones((cell, cell), bool))


@pytest.mark.parametrize("guess", GUESSES.values(), ids=GUESSES)
@settings(deadline=None)  # not a timed test
@given(side, side, st.floats(0, 1), st.integers(0, 99))
def test_fills_what_is_hidden_and_nothing_else(guess, height, width, ratio, seed):
    rng = np.random.default_rng(seed)
    z, visible = rng.normal(size=(height, width)), rng.random((height, width)) > ratio
    visible[rng.integers(height), rng.integers(width)] = True
    filled = guess(np.where(visible, z, np.nan), visible)  # it cannot have looked
    assert np.array_equal(filled[visible], z[visible])
    tolerance = 1e-9
    assert filled.min() >= z[visible].min() - tolerance
    assert filled.max() <= z[visible].max() + tolerance


@pytest.mark.parametrize("guess", GUESSES.values(), ids=GUESSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_keeps_a_constant_and_the_type(guess, dtype):
    z = np.full((48, 48), -7.25, dtype)
    filled = guess(z, cells(0))
    assert filled.dtype == dtype
    np.testing.assert_allclose(filled, z, rtol=1e-6)
    assert chapter.masked_error(z, filled, cells(0)) < 1e-5


@settings(deadline=None)
@given(st.integers(0, 99), st.floats(-2, 2), st.floats(-2, 2))
def test_bilinear_is_exact_on_a_plane(seed, down, right):
    row, column = np.mgrid[:48, :48]
    z, visible = 3 + down * row + right * column, cells(seed)
    visible[[0, 0, -1, -1], [0, -1, 0, -1]] = True  # all else lies within the four corners
    np.testing.assert_allclose(chapter.bilinear(z, visible), z, atol=1e-9)


def test_bilinear_takes_the_nearest_beyond_the_hull_and_on_a_line():
    z = np.tile(np.arange(12.0), (12, 1))
    visible = np.zeros((12, 12), bool)
    visible[:, 4] = True  # no triangle
    assert (chapter.bilinear(z, visible) == 4).all()
    visible[:, 7] = True
    np.testing.assert_allclose(chapter.bilinear(z, visible)[5], np.clip(z[5], 4, 7))


def test_bilinear_looks_at_the_border_of_a_hole_only():
    z = np.full((24, 24), 1e6)
    z[7:17, 7:17] = np.random.default_rng(0).normal(size=(10, 10))
    visible = np.ones((24, 24), bool)
    visible[8:16, 8:16] = False
    assert np.abs(chapter.bilinear(z, visible)[~visible]).max() < 5


def test_gaussian_is_the_weighted_mean_of_all_that_is_visible():
    rng = np.random.default_rng(1)
    z, visible, sigma = rng.normal(size=(20, 17)), rng.random((20, 17)) > 0.6, 1.7
    filled = chapter.gaussian(z, visible, sigma)
    row, column = np.mgrid[:20, :17]
    for r, c in np.argwhere(~visible):
        w = np.exp(-((row - r) ** 2 + (column - c) ** 2) / (2 * sigma**2)) * visible
        assert filled[r, c] == pytest.approx((w * z).sum() / w.sum())


def test_gaussian_too_narrow_to_count_is_the_nearest():
    z, visible = np.arange(10_000.0).reshape(100, 100), np.zeros((100, 100), bool)
    visible[:2, :2] = True
    assert chapter.gaussian(z, visible, 0.5)[99, 99] == z[1, 1]
    assert chapter.gaussian(z, visible, 1e6)[99, 99] == pytest.approx(z[:2, :2].mean())


def test_masked_error_sees_hidden_pixels_only():
    z, visible = np.zeros((4, 4)), np.ones((4, 4), bool)
    visible[0] = False
    guess = np.full((4, 4), 100.0)
    guess[0] = [1, -1, 2, -2]
    assert chapter.masked_error(z, guess, visible) == 1.5


@pytest.mark.parametrize("guess", GUESSES.values(), ids=GUESSES)
def test_where_nothing_is_hidden_nothing_is_changed(guess):
    z = np.zeros((4, 4))
    assert np.array_equal(guess(z, np.ones((4, 4), bool)), z)
