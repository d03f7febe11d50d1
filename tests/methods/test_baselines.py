"""Classical methods: a known deformation is found, on straight and on oblique grids, every time."""

import sys
from functools import partial

import numpy as np
import pytest
from scipy import ndimage

from vxmlib import metrics, warp
from vxmlib.methods import baselines

SHIFT = {2: [2.0, -1.0], 3: [1.5, -1.0, 0.5]}


def blobs(ndim, shape=None):
    """A smooth image in [0, 1], zero at the rim."""
    shape = shape or ((48, 40) if ndim == 2 else (32, 28, 24))
    rng = np.random.default_rng(3)
    image = ndimage.gaussian_filter(rng.random(shape), 2)
    image = (image - image.min()) / np.ptp(image)
    rim = np.zeros(shape)
    rim[tuple(slice(6, -6) for _ in shape)] = 1
    return (image * ndimage.gaussian_filter(rim, 2)).astype(np.float32)


def shifted_pair(ndim, shape=None):
    """fixed(x) = moving(x + shift)."""
    moving = blobs(ndim, shape)
    shift = np.broadcast_to(np.float32(SHIFT[ndim]), (*moving.shape, ndim))
    return moving, warp.warp_image(moving, shift)


def oblique(ndim):
    """An affine with unequal voxels, axes swapped and turned by 20 and 10 degrees."""
    a, b = np.radians([20, 10])
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    if ndim == 3:
        about_z, about_x = np.eye(3), np.eye(3)
        about_z[:2, :2] = turn
        about_x[1:, 1:] = [[np.cos(b), -np.sin(b)], [np.sin(b), np.cos(b)]]
        turn = about_z @ about_x
    affine = np.eye(ndim + 1)
    affine[:ndim, :ndim] = turn @ np.eye(ndim)[::-1] @ np.diag([-1.1, 1.0, 0.9][:ndim])
    affine[:ndim, ndim] = [30.0, -20.0, 10.0][:ndim]
    return affine


METHODS = {
    "syn": partial(baselines.syn, iterations=(30, 10)),
    "mattes": partial(baselines.syn, iterations=(30, 20), metric="mattes"),
    "demons": partial(baselines.demons, iterations=(40, 40)),
    "greedy": partial(baselines.greedy, iterations=(40, 40)),
}


@pytest.mark.parametrize("grid", ["straight", "oblique"])
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_a_known_shift_is_found_in_voxels_on_any_grid(name, ndim, grid):
    moving, fixed = shifted_pair(ndim)
    affine = oblique(ndim) if grid == "oblique" else None
    field = METHODS[name](moving, fixed, affine=affine)
    assert field.shape == (*fixed.shape, ndim)
    assert field.dtype == np.float32
    inside = tuple(slice(n // 4, -n // 4) for n in fixed.shape)
    found = field[inside].reshape(-1, ndim).mean(axis=0)
    assert found == pytest.approx(SHIFT[ndim], abs=0.55)
    before = ((moving - fixed) ** 2).mean()
    assert ((warp.warp_image(moving, field) - fixed) ** 2).mean() < 0.2 * before


def test_greedy_with_mutual_information_finds_a_shift_in_an_image_of_enough_voxels():
    moving, fixed = shifted_pair(2, (128, 112))
    field = baselines.greedy(moving, fixed, iterations=(40, 40), metric="nmi")
    found = field[32:-32, 28:-28].reshape(-1, 2).mean(axis=0)
    assert found == pytest.approx(SHIFT[2], abs=0.2)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_pair_gives_the_same_displacement(name):
    moving, fixed = shifted_pair(2)
    first, second = METHODS[name](moving, fixed), METHODS[name](moving, fixed)
    difference = np.abs(first - second)
    if name == "greedy":  # it adds a little noise to the images, another in each call
        assert np.median(difference) < 0.1
    else:
        assert difference.max() < 1e-3


def test_classical_methods_do_not_fold_a_smooth_pair():
    moving, fixed = shifted_pair(2)
    for name in ("syn", "demons", "greedy"):
        assert metrics.folding(METHODS[name](moving, fixed)).count == 0


@pytest.mark.parametrize("name", ["identity", *METHODS])
def test_a_pair_on_two_grids_or_with_nan_is_refused(name):
    method = METHODS.get(name, baselines.identity)
    image = blobs(2)
    with pytest.raises(ValueError, match=r"moving, fixed: found shapes \(48, 39\) and"):
        method(image[:, :-1], image)
    with pytest.raises(ValueError, match=r"fixed: .* voxels are NaN or infinite"):
        method(image, np.where(image > 0.5, np.nan, image))


@pytest.mark.parametrize("name", METHODS)
def test_an_affine_that_does_not_fit_is_refused(name):
    image = blobs(2)
    with pytest.raises(ValueError, match=r"affine: found .* expected an invertible 3 x 3 matrix"):
        METHODS[name](image, image, affine=np.eye(4))
    with pytest.raises(ValueError, match="not at right angles"):
        METHODS[name](image, image, affine=[[1, 0.5, 0], [0, 1, 0], [0, 0, 1]])


def test_an_unknown_metric_is_refused():
    image = blobs(2)
    with pytest.raises(ValueError, match="metric: found 'ssd', expected one of: cc, mattes"):
        baselines.syn(image, image, metric="ssd")
    with pytest.raises(ValueError, match="metric: found 'cc', expected one of: ncc, nmi"):
        baselines.greedy(image, image, metric="cc")


@pytest.mark.parametrize(
    ("method", "module", "package"),
    [
        (baselines.syn, "ants", "antspyx"),
        (baselines.demons, "SimpleITK", "SimpleITK"),
        (baselines.greedy, "picsl_greedy", "picsl-greedy"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, method, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    image = blobs(2)
    with pytest.raises(baselines.BaselineMissing, match=f"{package} is not installed"):
        method(image, image)


def test_versions_are_those_installed():
    assert all(version[0].isdigit() for version in baselines.versions().values())


def test_the_way_back_is_that_of_the_reverse_registration():
    moving, fixed = shifted_pair(2)
    forward, backward = baselines.syn_both(moving, fixed, iterations=(30, 20))
    reverse = baselines.syn(fixed, moving, iterations=(30, 20))
    inside = (slice(12, -12), slice(10, -10))
    assert np.abs(backward - reverse)[inside].mean() < 0.1
    assert warp.inversion_error(forward, backward)[inside].mean() < 0.1
    assert backward[inside].reshape(-1, 2).mean(axis=0) == pytest.approx([-2, 1], abs=0.55)
