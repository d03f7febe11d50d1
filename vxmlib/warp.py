"""Warp images and label maps with displacements; compose, invert and integrate such fields."""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.ndimage import map_coordinates

from vxmlib.checks import check_displacement, check_labels

#: Number of squarings in `exponential`, whose first step v / 64 is a small part of a voxel.
SQUARINGS = 6
_SLAB = 1 << 18  # voxels at a time, so that intermediate arrays stay in the processor's cache


def identity(shape):
    """Return the zero displacement of a grid.

    Parameters
    ----------
    shape : sequence of int
        Grid ``(*vol)`` with two or three axes.

    Returns
    -------
    numpy.ndarray
        Zeros ``(*vol, nd)``, float32, in voxels.

    Raises
    ------
    ValueError
        If the shape does not have two or three positive sizes.

    Examples
    --------
    >>> identity((4, 5)).shape
    (4, 5, 2)
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"shape: expected 2 or 3 positive sizes, found {shape}.")
    return np.zeros((*shape, len(shape)), np.float32)


def each_slab(shape, work):
    """Call ``work(rows)`` in several threads, for slices that cover the first axis of a grid.

    A slab, the part of the grid in one slice, is small enough for the processor's cache. NumPy
    and SciPy let other threads run while they compute, so slabs are computed in parallel.

    Parameters
    ----------
    shape : sequence of int
        Grid ``(*vol)``.
    work : callable
        Function of a slice of rows; it must write only to these rows.

    Examples
    --------
    >>> squares = np.zeros((700, 40, 40))
    >>> each_slab(squares.shape, lambda rows: squares[rows].fill(2.0))
    >>> bool((squares == 2.0).all())
    True
    """
    rows, step = shape[0], max(1, _SLAB // max(1, math.prod(shape[1:])))
    slabs = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    if len(slabs) < 2:
        for slab in slabs:
            work(slab)
        return
    with ThreadPoolExecutor(min(len(slabs), os.cpu_count() or 1, 8)) as pool:
        list(pool.map(work, slabs))  # `list` raises the exception of a thread


def warp_image(image, displacement):
    """Resample `image` at ``x + u(x)`` with linear interpolation.

    Positions outside the image take the value of the nearest edge voxel, as by default
    (``fill_value=None``) in ``voxelmorph.layers.SpatialTransformer`` and with ``mode="nearest"``
    in SciPy.

    Parameters
    ----------
    image : array_like
        Moving image ``(*vol)`` of finite real numbers.
    displacement : array_like
        Displacement ``(*vol, nd)`` in voxels, 'ij' order, defined on the fixed grid and
        pointing into the moving image.

    Returns
    -------
    numpy.ndarray
        Warped image ``(*vol)`` on the fixed grid, float64 if `image` is, and otherwise float32.

    Raises
    ------
    ValueError
        If the shapes do not match, the image is not of real numbers, or an entry is NaN or
        infinite.

    Notes
    -----
    Positions are computed in double precision. voxelmorph computes them in single precision, so
    its result differs by about 1e-5 of the local contrast on a grid of 200 voxels per axis.

    Examples
    --------
    >>> image = np.array([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])
    >>> half_a_voxel = np.full((2, 3, 2), [0.0, 0.5])
    >>> warp_image(image, half_a_voxel)
    array([[ 0.5,  1.5,  2. ],
           [10.5, 11.5, 12. ]])
    """
    image = np.asarray(image)
    if not np.issubdtype(image.dtype, np.number) or np.iscomplexobj(image):
        raise ValueError(
            f"image: expected real numbers, found dtype {image.dtype}. Warp masks and label maps "
            "with warp_labels."
        )
    if image.dtype != np.float64:
        image = image.astype(np.float32, copy=False)
    if image.size and not (np.isfinite(image.min()) and np.isfinite(image.max())):
        raise ValueError("image: found NaN or infinite intensities; set them to 0 first.")
    field = check_displacement(displacement, shape=image.shape)
    warped = np.empty(image.shape, image.dtype)

    def fill(rows):
        positions = _positions(field[rows], rows, np.float64, grid=image.shape)
        warped[rows] = _sample(image, positions)

    each_slab(image.shape, fill)
    return warped


def warp_labels(labels, displacement):
    """Resample a label map at the voxel nearest to ``x + u(x)``.

    The result has no new labels and keeps the type of the map. Positions outside the map take the
    label of the nearest edge voxel. Nearest-neighbour interpolation of the integer map has the
    same result as that of a one-hot copy, but needs only a small part of the memory.

    Parameters
    ----------
    labels : array_like
        Moving label map ``(*vol)``, integer or boolean.
    displacement : array_like
        Displacement ``(*vol, nd)`` in voxels, 'ij' order, defined on the fixed grid and
        pointing into the moving label map.

    Returns
    -------
    numpy.ndarray
        Label map ``(*vol)`` on the fixed grid, of the dtype of `labels`.

    Raises
    ------
    ValueError
        If the labels are neither integer nor boolean, the shapes do not match, or an entry of the
        displacement is NaN or infinite.

    Notes
    -----
    Rounding is that of ``voxelmorph.layers.SpatialTransformer(interp_method="nearest")``:
    positions are computed in float32, and exact halves are rounded to the even voxel. (SciPy's
    order 0 rounds halves up.)

    Examples
    --------
    >>> labels = np.array([[0, 2, 17, 17]], dtype="int16")
    >>> warp_labels(labels, np.full((1, 4, 2), [0.0, 0.6]))
    array([[ 2, 17, 17, 17]], dtype=int16)
    """
    kept_type = np.asarray(labels).dtype
    labels = check_labels(labels)
    field = check_displacement(displacement, shape=labels.shape)
    flat = labels.ravel()
    warped = np.empty(labels.shape, labels.dtype)

    def fill(rows):
        positions = _positions(field[rows], rows, np.float32, grid=labels.shape)
        index = 0
        for size, position in zip(labels.shape, positions, strict=True):
            index = index * size + np.rint(position).astype(np.intp)
        warped[rows] = flat.take(index)

    each_slab(labels.shape, fill)
    return warped.astype(kept_type, copy=False)


def compose(first, second):
    """Compose two displacements into one, ``w(x) = second(x) + first(x + second(x))``.

    ``warp_image(image, compose(first, second))`` corresponds to
    ``warp_image(warp_image(image, first), second)``, but interpolates the image only once.

    Parameters
    ----------
    first, second : array_like
        Displacements ``(*vol, nd)`` in voxels, 'ij' order, on one grid. `first` is interpolated
        linearly; positions outside the grid take the value of the nearest edge voxel.

    Returns
    -------
    numpy.ndarray
        Displacement ``(*vol, nd)`` in voxels, float64 if one of the two is, and otherwise float32.

    Raises
    ------
    ValueError
        If the shapes do not match, or an entry is NaN or infinite.

    Examples
    --------
    >>> right, down = np.full((5, 5, 2), [0.0, 1.0]), np.full((5, 5, 2), [2.0, 0.0])
    >>> compose(right, down)[0, 0].tolist()
    [2.0, 1.0]
    """
    second = check_displacement(second, name="second")
    first = check_displacement(first, shape=second.shape[:-1], name="first")
    joined = np.empty(second.shape, np.promote_types(first.dtype, second.dtype))
    components = np.ascontiguousarray(np.moveaxis(first, -1, 0))

    def fill(rows):
        positions = _positions(second[rows], rows, np.float64, grid=second.shape[:-1])
        for axis, component in enumerate(components):
            joined[rows][..., axis] = _sample(component, positions) + second[rows][..., axis]

    each_slab(second.shape[:-1], fill)
    return joined


def inverse(displacement, *, iterations=50, tolerance=1e-3):
    """Invert a displacement by fixed-point iteration: ``v(x) = -u(x + v(x))``.

    Parameters
    ----------
    displacement : array_like
        Displacement ``(*vol, nd)`` in voxels, 'ij' order.
    iterations : int
        Largest number of iterations.
    tolerance : float
        Iteration stops when no component of ``v`` changes by more than this, in voxels.

    Returns
    -------
    numpy.ndarray
        Inverse displacement ``(*vol, nd)`` in voxels.

    Raises
    ------
    ValueError
        If the shape is not ``(*vol, nd)``, or an entry is NaN or infinite.

    Notes
    -----
    The method is that of Chen et al., Medical Physics 35:81-88 (2008). It converges where the
    field stretches by less than a factor of two. Where the field folds, no inverse exists, and
    the result is only that of the last iteration. Near the edge, the inverse leaves the grid and
    edge values are used. Therefore, check `inversion_error` before you use the result.

    Examples
    --------
    >>> shift = np.full((6, 6, 2), [1.5, -2.0])
    >>> inverse(shift)[3, 3].tolist()
    [-1.5, 2.0]
    """
    field = check_displacement(displacement)
    components = np.ascontiguousarray(np.moveaxis(field, -1, 0))
    backward = np.empty_like(field)

    def fill(rows):  # the iteration of a voxel does not depend on others, so slabs stop separately
        guess = -field[rows]
        for _ in range(iterations):
            positions = _positions(guess, rows, np.float64, grid=field.shape[:-1])
            better = -np.stack([_sample(c, positions) for c in components], axis=-1)
            change = np.abs(better - guess).max()
            guess = better
            if change <= tolerance:
                break
        backward[rows] = guess

    each_slab(field.shape[:-1], fill)
    return backward


def exponential(velocity):
    """Integrate a stationary velocity field over unit time by scaling and squaring.

    Parameters
    ----------
    velocity : (*vol, nd) float ndarray
        Velocity in voxels per unit time, 'ij' order.

    Returns
    -------
    (*vol, nd) float32 ndarray
        Displacement in voxels.

    Raises
    ------
    ValueError
        If the shape is not ``(*vol, nd)``, or an entry is NaN or infinite.

    Notes
    -----
    The method is that of Arsigny et al., A Log-Euclidean Framework for Statistics on
    Diffeomorphisms, MICCAI 2006.

    Examples
    --------
    >>> exponential(np.full((8, 8, 2), 1.5))[4, 4].tolist()
    [1.5, 1.5]
    """
    flow = np.asarray(velocity, np.float32) / 2**SQUARINGS
    for _ in range(SQUARINGS):
        flow = compose(flow, flow)
    return flow


def inversion_error(displacement, inverse_displacement):
    """Compute the distance between each point and its position after both displacements.

    Parameters
    ----------
    displacement, inverse_displacement : array_like
        Displacements ``(*vol, nd)`` in voxels, 'ij' order, on one grid.

    Returns
    -------
    numpy.ndarray
        Distance ``(*vol)`` in voxels, at least 0: the length of ``v(x) + u(x + v(x))``, where
        ``u`` is the first and ``v`` the second argument.

    Raises
    ------
    ValueError
        If the shapes do not match, or an entry is NaN or infinite.

    Examples
    --------
    >>> shift = np.full((4, 4, 2), [0.0, 1.0])
    >>> float(inversion_error(shift, -shift).max())
    0.0
    """
    return np.linalg.norm(compose(displacement, inverse_displacement), axis=-1)


def _positions(moves, rows, dtype, *, grid):
    """Positions ``x + u(x)`` of some rows, of shape ``(nd, *slab)``, clipped to the grid."""
    # Outside the grid, clipping selects the nearest edge voxel. It also removes the huge positions
    # of a diverged model, for which SciPy and casts to integers return meaningless values.
    positions = np.moveaxis(moves, -1, 0).astype(dtype)
    for axis, size in enumerate(grid):
        span = np.arange(rows.start, rows.stop) if axis == 0 else np.arange(size)
        along = [1] * len(grid)
        along[axis] = -1
        positions[axis] += span.reshape(along).astype(dtype)
        np.clip(positions[axis], 0, size - 1, out=positions[axis])
    return positions


def _sample(array, positions):
    """Interpolate linearly at positions on the grid."""
    return map_coordinates(array, positions, order=1, mode="nearest", prefilter=False)
