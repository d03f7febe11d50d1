"""Simulated people: the flow is a diffeomorphism that is known, and the scans look like scans."""

import itertools

import numpy as np
import pytest
from scipy import linalg, ndimage

from vxmlib import augment, cohorts, metrics, warp
from vxmlib.sources import simulate, template


@pytest.fixture(scope="module")
def people():
    return cohorts.load("mni", people={"train": 2, "validation": 2, "test": 8})


@pytest.fixture(scope="module")
def volumes():
    return cohorts.load("mni", ndim=3, people={"train": 1, "validation": 1, "test": 2})


def jacobian(displacement):
    """det of I + du/dx by central differences, written out a second time."""
    nd = displacement.shape[-1]
    slopes = np.stack([np.stack(np.gradient(displacement[..., k]), -1) for k in range(nd)], -2)
    return np.linalg.det(slopes + np.eye(nd))


def test_a_constant_velocity_shifts_by_itself():
    flow = warp.exponential(np.full((16, 16, 16, 3), [0.5, -2.0, 3.25]))
    np.testing.assert_allclose(flow, np.broadcast_to([0.5, -2.0, 3.25], flow.shape), atol=1e-5)


def test_a_linear_velocity_flows_as_the_matrix_exponential():
    slope = np.array([[0.05, -0.2], [0.2, -0.1]])
    position = np.moveaxis(np.indices((65, 65)), 0, -1) - 32.0
    flow = warp.exponential(position @ slope.T)
    expected = position @ (linalg.expm(slope) - np.eye(2)).T
    inside = np.s_[16:49, 16:49]  # what flows in from beyond the border is not linear
    np.testing.assert_allclose(flow[inside], expected[inside], atol=0.02)


@pytest.mark.parametrize(("ndim", "spacing"), [(2, 1.0), (3, 2.0)])
def test_the_flow_back_undoes_the_flow(ndim, spacing):
    there = simulate.displacement(5, ndim=ndim, spacing=spacing)
    back = simulate.displacement(5, ndim=ndim, spacing=spacing, inverse=True)
    error = np.linalg.norm(warp.compose(there, back), axis=-1)
    inside = (slice(10, -10),) * ndim
    assert error[inside].max() < 0.1
    assert np.linalg.norm(there, axis=-1)[inside].mean() > 0.5


@pytest.mark.parametrize(("ndim", "spacing", "people"), [(2, 1.0, 9), (2, 2.0, 9), (3, 2.0, 1)])
def test_no_flow_folds(ndim, spacing, people):
    for seed in range(people):
        assert jacobian(simulate.displacement(seed, ndim=ndim, spacing=spacing)).min() > 0.1


@pytest.mark.parametrize(("ndim", "fine", "coarse"), [(2, 1.0, 2.0), (3, 1.0, 2.0)])
def test_a_person_is_the_same_at_every_spacing(ndim, fine, coarse):
    in_mm = fine * simulate.displacement(3, ndim=ndim, spacing=fine)
    rough = coarse * simulate.displacement(3, ndim=ndim, spacing=coarse)
    blocks = in_mm.reshape(*itertools.chain(*((n, 2) for n in rough.shape[:-1])), ndim)
    averaged = blocks.mean(axis=tuple(range(1, 2 * ndim, 2)))
    inside = (slice(8, -8),) * ndim
    np.testing.assert_allclose(averaged[inside], rough[inside], atol=0.15)


def test_upsampling_keeps_the_field_of_view_and_linear_fields():
    x = np.arange(12.0)[:, None] + np.zeros((12, 9))
    fine = augment.upsample(x[..., None], 4)[..., 0]
    assert fine.shape == (48, 36)
    # The centre of fine voxel i lies at (i + 1/2) / 4 - 1/2 in coarse voxels.
    expected = (np.arange(48) + 0.5) / 4 - 0.5
    np.testing.assert_allclose(fine[12:36, 18], expected[12:36], atol=0.01)


def test_a_unit_field_has_unit_spread_and_the_width_that_was_asked_for():
    generator = np.random.default_rng(0)
    fields = np.stack([augment.unit_field(generator, (40, 40), 3.0) for _ in range(200)])
    assert fields.std() == pytest.approx(1, abs=0.03)
    neighbours = (fields[:, 3:] * fields[:, :-3]).mean()
    assert neighbours == pytest.approx(np.exp(-(3.0**2) / (4 * 3.0**2)), abs=0.03)


def test_the_affine_part_is_there(monkeypatch):
    monkeypatch.setattr(simulate, "SCALES", {2: {}})
    monkeypatch.setattr(simulate, "SLOPE", 0.1)
    flow = simulate.displacement(1, ndim=2)[40:-40, 40:-40]
    curvature = np.abs(np.diff(flow, n=2, axis=0)).max()
    assert curvature < 1e-3 < np.abs(np.diff(flow, axis=0)).max()


def test_the_background_is_exactly_0_and_the_brain_above(people):
    brightness, labels = simulate.anatomy(2, 1.0)
    scan = simulate.scan(brightness, 7)
    assert scan.dtype == np.float32
    np.testing.assert_array_equal(scan > 0, brightness > 0)
    assert not labels[brightness == 0].any()


def test_the_noise_and_the_bias_are_those_of_a_scanner():
    flat = np.zeros((160, 160), np.float32)
    flat[20:-20, 20:-20] = 1
    scan = simulate.scan(flat, 11)[30:-30, 30:-30]
    slow = ndimage.gaussian_filter(scan, 8)
    noise = (scan - slow)[10:-10, 10:-10].std()
    assert 0.003 < noise < 0.03  # blurred before the noise is added, so all of it stays
    assert 0.01 < slow[10:-10, 10:-10].std() < 0.2


def test_another_scanner_gives_another_contrast():
    brightness, labels = simulate.anatomy(2, 1.0)
    ratios = []
    for seed in range(6):
        scan = simulate.scan(brightness, seed)
        ratios.append(np.median(scan[labels == 3]) / np.median(scan[labels == 2]))
    assert 0.4 < min(ratios) < max(ratios) - 0.05
    assert max(ratios) < 0.9


def test_tissue_orders_as_in_a_t1_scan(people):
    image, labels = people.image("test-00"), people.labels("test-00")
    fluid, grey, white = (np.median(image[labels == k]) for k in (4, 3, 2))
    assert fluid < grey - 0.1 < white - 0.2


def test_left_is_left():
    labels = simulate.anatomy(3, 2.0)[1]
    for left, right in ((2, 41), (17, 53), (8, 47), (13, 52)):
        middle = [np.argwhere(labels == k)[:, 0].mean() for k in (left, right)]
        assert middle[0] < 40 < middle[1]
    assert np.argwhere(labels == 2)[:, 0].max() < 45  # folded-in lesions keep their side
    assert np.argwhere(labels == 41)[:, 0].min() > 34
    _, affine = template.grid(2.0)
    assert affine[0, 0] > 0  # the first axis runs to the Right


def test_people_overlap_as_affinely_aligned_ones(people, volumes):
    pairs = [(a, b) for a, b in itertools.combinations(people.split["test"], 2)]
    mean = np.mean([overlap(people, *pair) for pair in pairs])
    assert 0.5 < mean < 0.65
    assert 0.5 < overlap(volumes, "test-00", "test-01") < 0.65


def overlap(cohort, moving, fixed, displacement=None):
    labels = cohort.labels(moving)
    if displacement is not None:
        labels = warp.warp_labels(labels, displacement)
    return np.mean(list(metrics.dice(labels, cohort.labels(fixed), cohort.structures).values()))


def test_the_true_displacement_matches_the_labels(people, volumes):
    found = [
        overlap(people, *pair, people.true_pair_displacement(*pair))
        for pair in itertools.combinations(people.split["test"][:4], 2)
    ]
    assert min(found) > 0.88
    truth = volumes.true_pair_displacement("test-00", "test-01")
    assert overlap(volumes, "test-00", "test-01", truth) > 0.8


def test_the_true_displacement_matches_the_images_and_does_not_fold(people):
    moving, fixed = "test-02", "test-05"
    truth = people.true_pair_displacement(moving, fixed)
    assert jacobian(truth).min() > 0
    brain = people.brain(fixed)
    before, after = (
        np.corrcoef(image[brain], people.image(fixed)[brain])[0, 1]
        for image in (people.image(moving), warp.warp_image(people.image(moving), truth))
    )
    assert after > 0.9 > before


def test_a_person_is_the_template_seen_through_its_true_displacement(people):
    _, labels = simulate.anatomy(2, 1.0)
    flow = people.true_displacement("train-01")
    evaluated = np.where(np.isin(labels, list(people.structures)), labels, 0)
    np.testing.assert_array_equal(warp.warp_labels(evaluated, flow), people.labels("train-01"))


def test_the_way_of_a_pair_leads_through_the_template(people):
    moving, fixed = "test-02", "test-05"
    pair = people.true_pair_displacement(moving, fixed)
    on_to_template = warp.compose(people.true_displacement(moving), pair)
    error = np.linalg.norm(on_to_template - people.true_displacement(fixed), axis=-1)
    assert error[12:-12, 12:-12].max() < 0.1


def test_a_pair_with_oneself_is_nearly_the_identity(people):
    truth = people.true_pair_displacement("test-03", "test-03")
    assert np.linalg.norm(truth, axis=-1)[10:-10, 10:-10].max() < 0.1
