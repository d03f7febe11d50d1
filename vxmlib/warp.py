"""Move images and label maps along a displacement field; join and invert such fields."""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.ndimage import map_coordinates

from vxmlib.checks import check_displacement, check_labels

#: Of an integration: the first step is exp(v / 64), a small part of a voxel.
SQUARINGS = 6
_SLAB = 1 << 18  # voxels at a time: what is computed for them stays in the processor's cache


def identity(shape):
    """Displacement that moves nothing.

    Parameters
    ----------
    shape : sequence of int
        Grid ``(*vol)`` of two or three axes.

    Returns
    -------
    numpy.ndarray
        Zeros ``(*vol, nd)``, float32, in voxels.

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
    """Call ``work(rows)`` for slices that cover the first axis of a grid, several at a time.

    A slab is small enough for the processor's cache. NumPy and SciPy let other threads run while
    they compute, so that slabs share the cores.

    Parameters
    ----------
    shape : sequence of int
        Grid ``(*vol)``.
    work : function of a slice
        What to do with these rows; it must write to these rows alone.

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
        list(pool.map(work, slabs))  # the list raises what a thread has raised


def warp_image(image, displacement):
    """Resample `image` at ``x + u(x)`` with linear interpolation.

    Points outside the image take the value of the nearest edge voxel. This is what
    ``voxelmorph.layers.SpatialTransformer`` does by default (``fill_value=None``) and SciPy
    calls ``mode="nearest"``.

    Parameters
    ----------
    image : array_like
        Moving image ``(*vol)``, finite numbers.
    displacement : array_like
        Displacement ``(*vol, nd)`` in voxels, 'ij' order, defined on the fixed grid and
        pointing into the moving image.

    Returns
    -------
    numpy.ndarray
        Warped image ``(*vol)`` on the fixed grid; float32 (float64 if `image` is).

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN or infinite entries.

    Notes
    -----
    Positions are computed in double precision; voxelmorph's are single precision, so that its
    result differs by about 1e-5 of the local contrast on a grid of 200 voxels.

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
            f"image: expected real numbers, found dtype {image.dtype}. Masks and label maps are "
            "moved by warp_labels."
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

    No label appears that was not there before; the type stays. Points outside take the label
    of the nearest edge voxel. No one-hot copy is made: on an integer map the nearest
    neighbour gives the same answer at a small part of the memory.

    Parameters
    ----------
    labels : array_like
        Moving label map ``(*vol)``, integer or boolean.
    displacement : array_like
        Displacement ``(*vol, nd)`` in voxels, 'ij' order, on the fixed grid.

    Returns
    -------
    numpy.ndarray
        Label map ``(*vol)`` on the fixed grid, dtype of `labels`.

    Raises
    ------
    ValueError
        Labels not integer, another grid, NaN or infinite displacement.

    Notes
    -----
    Rounding is that of ``voxelmorph.layers.SpatialTransformer(interp_method="nearest")``: the
    position is added up in float32 and exact halves go to the even voxel. (SciPy's order 0
    rounds halves up.)

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
    """One displacement that does what two do one after the other.

    ``warp_image(image, compose(first, second))`` is
    ``warp_image(warp_image(image, first), second)`` without the second interpolation of the
    image: ``w(x) = second(x) + first(x + second(x))``.

    Parameters
    ----------
    first, second : array_like
        Displacements ``(*vol, nd)`` in voxels. `first` is interpolated linearly; beyond the
        edge it keeps its edge value.

    Returns
    -------
    numpy.ndarray
        Displacement ``(*vol, nd)``, float32 (float64 if either is).

    Raises
    ------
    ValueError
        As `check_displacement`.

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
        Displacement ``(*vol, nd)`` in voxels.
    iterations : int
        At most this many rounds.
    tolerance : float
        Stop when no voxel of ``v`` changes by more than this, in voxels.

    Returns
    -------
    numpy.ndarray
        Displacement ``(*vol, nd)`` that undoes the first one.

    Raises
    ------
    ValueError
        As `check_displacement`.

    Notes
    -----
    Method of Chen et al., Medical Physics 35:81-88 (2008). It converges where the field
    stretches by less than a factor of two; where the field folds there is no inverse, and what
    comes back is only the last round. Near the edge the inverse leaves the grid and the edge
    value is used. So look at `inversion_error` before you trust the result.

    Examples
    --------
    >>> shift = np.full((6, 6, 2), [1.5, -2.0])
    >>> inverse(shift)[3, 3].tolist()
    [-1.5, 2.0]
    """
    field = check_displacement(displacement)
    components = np.ascontiguousarray(np.moveaxis(field, -1, 0))
    backward = np.empty_like(field)

    def fill(rows):  # a voxel's iteration looks only at that voxel: every slab stops by itself
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
    """Integrate a stationary velocity field over unit time, by scaling and squaring.

    Parameters
    ----------
    velocity : (*vol, nd) float ndarray
        Voxels per unit time.

    Returns
    -------
    (*vol, nd) float32 ndarray
        Displacement in voxels.

    Notes
    -----
    Arsigny et al., A Log-Euclidean Framework for Statistics on Diffeomorphisms, MICCAI 2006.

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
    """How far a point ends from its start after both displacements.

    Parameters
    ----------
    displacement, inverse_displacement : array_like
        Displacements ``(*vol, nd)`` in voxels.

    Returns
    -------
    numpy.ndarray
        Distance ``(*vol)`` in voxels, at least 0: the length of
        ``v(x) + u(x + v(x))`` with ``u`` the first and ``v`` the second argument.

    Raises
    ------
    ValueError
        As `check_displacement`.

    Examples
    --------
    >>> shift = np.full((4, 4, 2), [0.0, 1.0])
    >>> float(inversion_error(shift, -shift).max())
    0.0
    """
    return np.linalg.norm(compose(displacement, inverse_displacement), axis=-1)


def _positions(moves, rows, dtype, *, grid):
    """Positions ``x + u(x)`` of some rows, whose `moves` these are, kept on the grid.

    Result ``(nd, *slab)``. Clipping is the edge rule; it also keeps SciPy and integer casts away
    from the huge numbers of a diverged model, for which they return nonsense.
    """
    positions = np.moveaxis(moves, -1, 0).astype(dtype)
    for axis, size in enumerate(grid):
        span = np.arange(rows.start, rows.stop) if axis == 0 else np.arange(size)
        along = [1] * len(grid)
        along[axis] = -1
        positions[axis] += span.reshape(along).astype(dtype)
        np.clip(positions[axis], 0, size - 1, out=positions[axis])
    return positions


def _sample(array, positions):
    """Linear interpolation at positions on the grid."""
    return map_coordinates(array, positions, order=1, mode="nearest", prefilter=False)
