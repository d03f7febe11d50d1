"""Apply a registration method repeatedly, or also to the mirrored pair, for a better result."""

import numpy as np

from vxmlib import warp
from vxmlib.axes import reverse_and_roll
from vxmlib.checks import check_whole


def passes(register, moving, fixed, *, count):
    """Register a pair in several passes, and yield the total displacement after each pass.

    The first pass registers the pair. Each further pass registers the warped moving image to the
    fixed image, and its displacement is composed with that of the passes before it. The moving
    image is therefore interpolated only once, whatever the number of passes. For smooth maps, the
    Jacobian determinants of the passes multiply. On a grid, the earlier displacement is
    interpolated, and the later one stretches or shrinks the regions in which the earlier one
    folds, so the share of folded voxels may rise or fall from pass to pass.

    Parameters
    ----------
    register : callable
        ``register(moving, fixed)`` returns a displacement; for example
        ``functools.partial(models.register, model)``.
    moving, fixed : (*vol) ndarray
        Images in [0, 1] on one grid.
    count : int
        Number of passes, at least 1.

    Yields
    ------
    (*vol, nd) float ndarray
        Displacement in voxels, on the fixed grid, pointing into the original moving image. There
        are `count` of them, and each is computed only when it is requested.

    Raises
    ------
    ValueError
        `count` is not a whole number above 0. The error is raised when the first displacement is
        requested.

    References
    ----------
    Zhao et al., Recursive Cascaded Networks for Unsupervised Medical Image Registration, ICCV 2019:
    shared-weight cascading. In that paper, several networks are trained as a cascade, and each may
    be applied repeatedly. Here, a single network that was trained for one pass is applied
    repeatedly.

    Examples
    --------
    A method that covers half of the distance, on images whose grey value is the position / 64:

    >>> import numpy as np
    >>> there = np.tile(np.arange(32.0), (32, 1)).T / 64
    >>> def half(moving, fixed):
    ...     gap = 64 * (fixed - moving)[8:24].mean()
    ...     return np.full((32, 32, 2), [gap / 2, 0])
    >>> fields = passes(half, there, there + 4 / 64, count=3)
    >>> [round(float(field[16, 16, 0]), 6) for field in fields]
    [2.0, 3.0, 3.5]
    """
    count = check_whole("count", count, least=1)
    field = register(moving, fixed)
    yield field
    for _ in range(count - 1):
        field = warp.compose(field, register(warp.warp_image(moving, field), fixed))
        yield field


def repeated(register, count):
    """Return a registration method that makes `count` passes and returns the last displacement.

    Parameters
    ----------
    register, count
        As for :func:`passes`.

    Returns
    -------
    callable
        Called in the same way as `register`: ``method(moving, fixed)``.

    Examples
    --------
    >>> import numpy as np
    >>> twice = repeated(lambda moving, fixed: np.full((8, 8, 2), 1.0), 2)
    >>> twice(np.zeros((8, 8)), np.zeros((8, 8)))[4, 4].tolist()
    [2.0, 2.0]
    """

    def register_repeatedly(moving, fixed):
        *_, last = passes(register, moving, fixed, count=count)
        return last

    return register_repeatedly


def mirror_averaged(register, affine):
    """Return a registration method that averages the displacements of a pair and its mirror image.

    Both images are mirrored about the midplane (:func:`vxmlib.axes.reverse_and_roll`) and
    registered; the displacement is mirrored back and averaged with that of the original pair. A
    network that was trained with mirrored heads makes different errors on the two pairs, so the
    average has fewer. The method takes twice the time.

    Parameters
    ----------
    register : callable
        ``register(moving, fixed)`` returns a displacement.
    affine : (4, 4) array_like
        Voxel index -> RAS mm of the grid, of which one axis runs from left to right.

    Returns
    -------
    callable
        Called in the same way as `register`: ``method(moving, fixed)``.

    Raises
    ------
    ValueError
        As :func:`vxmlib.axes.reverse_and_roll`, when the method is called.

    Examples
    --------
    A method that always pulls to the same side is not wrong on average:

    >>> biased = mirror_averaged(lambda moving, fixed: np.full((8, 8, 2), [1.0, 3.0]), np.eye(4))
    >>> biased(np.zeros((8, 8)), np.zeros((8, 8)))[4, 4].tolist()
    [0.0, 3.0]
    """

    def register_twice(moving, fixed):
        axis, roll = reverse_and_roll(affine, np.shape(fixed))

        def mirrored(array):
            return np.roll(np.flip(array, axis), roll, axis)

        field = register(moving, fixed)
        other = mirrored(register(mirrored(moving), mirrored(fixed)))
        other[..., axis] *= -1
        return (field + other) / 2

    return register_twice
