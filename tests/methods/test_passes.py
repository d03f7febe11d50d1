"""Several passes by one method: closed forms, one interpolation, and what is refused."""

import numpy as np
import pytest

from vxmlib import metrics, warp
from vxmlib.methods import passes

SHAPE = (24, 20, 16)


GRID = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) - (np.array(SHAPE) - 1) / 2
INNER = (slice(6, -6),) * 3


def linear(matrix):
    """The displacement of a linear map about the middle."""
    return GRID @ (matrix - np.eye(3)).T


def ramp(shift=0.0):
    """Grey value = position along the first axis, over 64."""
    line = (np.arange(SHAPE[0]) + shift) / 64
    return np.broadcast_to(line[:, None, None], SHAPE).copy()


def half_way(moving, fixed):
    gap = 64 * (fixed - moving)[6:18].mean()
    return np.full((*SHAPE, 3), [gap / 2, 0, 0])


def test_each_pass_goes_half_of_what_is_left():
    found = list(passes.passes(half_way, ramp(), ramp(4.0), count=4))
    reached = [field[12, 10, 8, 0] for field in found]
    np.testing.assert_allclose(reached, [4 * (1 - 0.5**n) for n in (1, 2, 3, 4)], atol=1e-6)
    left = passes.repeated(half_way, 4)(ramp(), ramp(4.0))
    np.testing.assert_array_equal(left, found[-1])


def test_linear_maps_multiply():
    matrix = np.array([[1.02, 0.03, 0.0], [-0.02, 0.97, 0.01], [0.0, 0.02, 1.01]])
    found = passes.repeated(lambda *_: linear(matrix), 3)(ramp(), ramp())
    cubed = np.linalg.matrix_power(matrix, 3)
    np.testing.assert_allclose(found[INNER], linear(cubed)[INNER], atol=1e-6)
    determinant = metrics.jacobian_determinant(found)[INNER]
    np.testing.assert_allclose(determinant, np.linalg.det(matrix) ** 3, rtol=1e-5)


def test_the_first_answer_is_read_where_the_second_points():
    turn = np.array([[1, -0.03, 0], [0.03, 1, 0], [0, 0, 1]])
    shear = np.array([[1, 0.05, 0], [0, 1, 0], [0, 0, 1]])
    answers = iter([linear(turn), linear(shear)])
    found = passes.repeated(lambda *_: next(answers), 2)(ramp(), ramp())
    np.testing.assert_allclose(found[INNER], linear(turn @ shear)[INNER], atol=1e-6)
    assert np.abs(linear(turn @ shear) - linear(shear @ turn))[INNER].max() > 1e-3


def test_a_later_pass_sees_the_warped_image_and_the_fixed_one():
    seen = []

    def method(moving, fixed):
        seen.append((moving, fixed))
        return np.full((*SHAPE, 3), [1.0, 0.0, 0.0])

    moving, fixed = ramp(), ramp(3.0)
    passes.repeated(method, 3)(moving, fixed)
    two = np.full((*SHAPE, 3), [2.0, 0.0, 0.0])
    np.testing.assert_array_equal(seen[0][0], moving)
    np.testing.assert_allclose(seen[2][0], warp.warp_image(moving, two), atol=1e-6)
    assert all(second is fixed for _, second in seen)


def test_a_pass_is_made_when_it_is_asked_for():
    asked = []

    def method(moving, fixed):
        asked.append(1)
        return np.zeros((*SHAPE, 3))

    found = passes.passes(method, ramp(), ramp(), count=5)
    next(found), next(found)
    assert len(asked) == 2


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2", None])
def test_a_count_that_is_none_is_refused(count):
    with pytest.raises(ValueError, match=r"count: found .* expected a whole number of at least 1"):
        passes.repeated(half_way, count)(ramp(), ramp())


#: A grid whose midplane is not its middle: the mirror image of index i is 13 - i.
OFF_CENTRE = np.array([[2.0, 0, 0, -13.0], [0, 2.0, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 1.0]])


def place_dependent(moving, fixed):
    """A local method: what it answers at a voxel depends on both images there, and on no side."""
    return np.stack([0 * fixed, moving - 2 * fixed], axis=-1)


def test_a_method_without_a_preferred_side_is_unchanged_by_the_mirror():
    moving, fixed = np.random.default_rng(4).random((2, 16, 8))
    once = place_dependent(moving, fixed)
    both = passes.mirror_averaged(place_dependent, OFF_CENTRE)(moving, fixed)
    np.testing.assert_allclose(both, once, atol=1e-12)


def test_the_mirrored_pair_is_the_pair_seen_from_the_other_side():
    moving, fixed = np.random.default_rng(4).random((2, 16, 8))
    seen = []

    def watch(*pair):
        seen.append(pair)
        return np.zeros((16, 8, 2))

    passes.mirror_averaged(watch, OFF_CENTRE)(moving, fixed)
    (first, _), (second, _) = seen
    np.testing.assert_array_equal(first, moving)
    for index in range(14):
        np.testing.assert_array_equal(second[index], moving[13 - index])


def test_an_error_to_one_side_is_averaged_away():
    def biased(moving, fixed):
        side = np.where(np.arange(16) < 6, 1.0, 0.0)[:, None] * np.ones((16, 8))
        return np.stack([side, side], axis=-1)

    field = passes.mirror_averaged(biased, OFF_CENTRE)(np.zeros((16, 8)), np.zeros((16, 8)))
    assert field[2, 0].tolist() == [0.5, 0.5]
    assert field[11, 0].tolist() == [-0.5, 0.5]  # 13 - 11 = 2
    assert field[7, 0].tolist() == [0, 0]
