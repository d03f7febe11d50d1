"""Repeated registration by one method: each pass registers what the previous one left."""

from vxmlib import warp
from vxmlib.checks import check_whole


def passes(register, moving, fixed, *, count):
    """The displacement after each pass, all of them from the moving image as it came.

    The first pass registers the pair. Each further one registers the warped moving image to the
    fixed one, and its displacement is composed with those before it, so that the moving image is
    interpolated once however many passes there were. Of smooth maps the determinants multiply. On a
    grid the earlier displacement is interpolated, and what it folds is stretched or squeezed by the
    later one, so the share of voxels that fold may rise or fall from pass to pass.

    Parameters
    ----------
    register : callable
        ``register(moving, fixed)`` gives a displacement, as ``partial(models.register, model)``.
    moving, fixed : (*vol) ndarray
        On one grid, in [0, 1].
    count : int
        Passes, at least 1.

    Yields
    ------
    (*vol, nd) float ndarray
        In voxels, on the fixed grid; `count` of them, each computed when it is asked for.

    Raises
    ------
    ValueError
        `count` is no whole number above 0 (when the first displacement is asked for).

    References
    ----------
    Zhao et al., Recursive Cascaded Networks for Unsupervised Medical Image Registration, ICCV 2019:
    shared-weight cascading. There several networks are trained as a cascade, and each may be
    applied again; here one network is, which was trained for one pass.

    Examples
    --------
    A method that goes half of the way, on images whose grey value is the position:

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
    """A method of `count` passes, to be used as `register` is: its displacement is the last.

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
