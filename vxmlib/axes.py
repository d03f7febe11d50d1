"""Reflect images and label maps about the midplane, and describe a voxel grid to ITK.

An affine maps voxel indices to RAS millimetres. The midplane is the plane x = 0 of that space.
In general it is not the middle of the array, so reversing the array does not mirror the head.
"""

import numpy as np
from scipy import ndimage

from vxmlib.checks import check_affine

#: RAS millimetres -> RAS millimetres: exchanges left and right.
REFLECTION = np.diag([-1.0, 1.0, 1.0, 1.0])
#: RAS millimetres -> LPS (Left, Posterior, Superior) millimetres of ITK and ANTs; self-inverse.
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ALIGNED = 1e-6


def itk_grid(affine, ndim=3):
    """Describe a voxel grid as ITK, ANTs and SimpleITK do, in LPS millimetres.

    Parameters
    ----------
    affine : (ndim + 1, ndim + 1) array_like
        Voxel index -> RAS mm. In 2D, pixel index -> mm in the plane; ITK uses the same plane
        axes, so their signs are kept.
    ndim : {2, 3}

    Returns
    -------
    axes : (ndim, ndim) float64 ndarray
        Its columns are the steps of one voxel along each voxel axis, in LPS mm. A displacement
        ``field`` in voxels is ``field @ axes.T`` in mm.
    spacing : (ndim,) float64 ndarray
        Voxel sizes in mm: the lengths of the columns of ``axes``.
    direction : (ndim, ndim) float64 ndarray
        The columns of ``axes``, scaled to length 1.
    origin : (ndim,) float64 ndarray
        Position of the first voxel, in LPS mm.

    Raises
    ------
    ValueError
        If the affine has another shape, cannot be inverted, or contains shear.

    Examples
    --------
    >>> affine = np.diag([2.0, 3.0, 4.0, 1.0])
    >>> affine[:3, 3] = 10, 20, 30
    >>> axes, spacing, direction, origin = itk_grid(affine)
    >>> axes.diagonal().tolist(), spacing.tolist(), origin.tolist()
    ([-2.0, -3.0, 4.0], [2.0, 3.0, 4.0], [-10.0, -20.0, 30.0])
    """
    affine = check_affine(affine, ndim=ndim)
    if not at_right_angles(affine):
        raise ValueError(
            f"affine: found {affine.tolist()}, whose voxel axes are not at right angles (shear), "
            "expected a grid that ITK can represent; use vxmlib.preprocess.resample"
        )
    to_lps = RAS_TO_LPS[:3, :3] if ndim == 3 else np.eye(2)
    axes = to_lps @ affine[:-1, :-1]
    spacing = np.linalg.norm(axes, axis=0)
    return axes, spacing, axes / spacing, to_lps @ affine[:-1, -1]


def at_right_angles(affine):
    """Return whether the voxel axes of an affine are orthogonal in space.

    Examples
    --------
    >>> at_right_angles(np.diag([-1.0, 2.0, 3.0, 1.0]))
    True
    """
    axes = np.asarray(affine)[:-1, :-1]
    axes = axes / np.linalg.norm(axes, axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(len(axes)), atol=1e-4))


def mirror_matrix(affine, ndim=3):
    """Return the matrix that reflects voxel indices about the midplane x = 0.

    Parameters
    ----------
    affine : (4, 4) array_like
        Voxel index -> RAS mm.
    ndim : {2, 3}
        2 for a coronal slice, whose pixel ``(i, k)`` has the voxel index ``(i, 0, k)``.

    Returns
    -------
    (ndim + 1, ndim + 1) float64 ndarray
        Voxel index -> voxel index, in homogeneous coordinates. It is its own inverse.

    Raises
    ------
    ValueError
        If the affine is not (4, 4) or cannot be inverted; in 2D also if the slice is oblique to
        the midplane, so its reflection lies outside of the slice.

    Examples
    --------
    The midplane of this grid lies between two voxels, at index 1.5:

    >>> affine = np.diag([2.0, 2.0, 2.0, 1.0])
    >>> affine[0, 3] = -3.0
    >>> (mirror_matrix(affine) @ [0, 5, 5, 1]).tolist()
    [3.0, 5.0, 5.0, 1.0]
    """
    affine = check_affine(affine)
    matrix = np.linalg.inv(affine) @ REFLECTION @ affine
    if ndim == 3:
        return matrix
    in_slice = [0, 2, 3]
    if np.abs(matrix[1] - [0, 1, 0, 0]).max() > _ALIGNED:
        raise ValueError(
            f"affine: found {affine.tolist()}, whose slice is oblique to the midplane, so that "
            "its mirror image lies outside of it; resample the scan to a coronal slice first"
        )
    return matrix[np.ix_(in_slice, in_slice)]


def reverse_and_roll(affine, shape):
    """Return how to mirror an array about the midplane without interpolation.

    Reversing the array mirrors it about the middle of the grid. Rolling it by whole voxels then
    brings the plane of reflection to the midplane x = 0, up to a quarter of a voxel.

    Parameters
    ----------
    affine : (4, 4) array_like
        Voxel index -> RAS mm.
    shape : tuple of int
        Shape of the array: 3D, or 2D for a coronal slice.

    Returns
    -------
    axis : int
        Array axis that runs from left to right.
    roll : int
        Voxels for ``np.roll(np.flip(array, axis), roll, axis)``. What leaves the array on one side
        enters it on the other.

    Raises
    ------
    ValueError
        As :func:`mirror_matrix`, and if no array axis runs from left to right.

    Examples
    --------
    >>> affine = np.diag([2.0, 2.0, 2.0, 1.0])
    >>> affine[0, 3] = -7.0
    >>> reverse_and_roll(affine, (10, 8, 8))
    (0, -2)
    """
    ndim = len(shape)
    matrix = mirror_matrix(affine, ndim)
    signs = matrix.diagonal()[:ndim].round(6)
    if np.abs(matrix[:ndim, :ndim] - np.diag(signs)).max() > _ALIGNED or sorted(signs)[0] != -1:
        raise ValueError(
            f"affine: found {np.asarray(affine).tolist()}, expected a grid with one axis from left "
            "to right; resample the images to one (vxmlib.preprocess.resample)"
        )
    axis = int(np.argmin(signs))
    return axis, int(np.round(matrix[axis, -1])) - (shape[axis] - 1)


def mirror(image, affine):
    """Reflect an image about the midplane x = 0, with linear interpolation.

    Parameters
    ----------
    image : (*vol) ndarray
        Intensities, 2-D (a coronal slice) or 3-D.
    affine : (4, 4) array_like
        Voxel index -> RAS mm.

    Returns
    -------
    (*vol) ndarray of the same type
        Mirrored image on the same grid; 0 where the mirrored position lies outside of the grid.

    Raises
    ------
    ValueError
        As :func:`mirror_matrix`.

    Examples
    --------
    In this example, the midplane passes through the middle voxel:

    >>> affine = np.diag([1.0, 1.0, 1.0, 1.0])
    >>> affine[0, 3] = -1.0
    >>> mirror(np.array([[1.0], [2.0], [3.0]]), affine).ravel().tolist()
    [3.0, 2.0, 1.0]
    """
    return _reflected(np.asarray(image), affine, order=1)


def mirror_labels(labels, affine, structures):
    """Reflect a label map about the midplane, and exchange the labels of left and right.

    Parameters
    ----------
    labels : (*vol) integer ndarray
    affine : (4, 4) array_like
        Voxel index -> RAS mm.
    structures : dict
        Label -> name. Structures named "Left X" and "Right X" (or "X left" and "X right") are
        partners, whose labels are exchanged.

    Returns
    -------
    (*vol) ndarray of the same type
        Mirrored label map on the same grid, with nearest-neighbour interpolation; 0 where the
        mirrored position lies outside of the grid.

    Raises
    ------
    ValueError
        If a structure of one side has no partner in ``structures``, if the type of the label map
        cannot hold a mirrored label, or as :func:`mirror_matrix`.

    Examples
    --------
    >>> sides = {17: "Left Hippocampus", 53: "Right Hippocampus", 16: "Brain Stem"}
    >>> affine = np.diag([1.0, 1.0, 1.0, 1.0])
    >>> affine[0, 3] = -1.0
    >>> mirror_labels(np.array([[17], [16], [0]]), affine, sides).ravel().tolist()
    [0, 16, 53]
    """
    return _reflected(exchange_sides(labels, structures), affine, order=0)


def exchange_sides(labels, structures):
    """Exchange the labels of left and right, without moving a voxel.

    After an image is reflected, its left structures lie on the right, so their labels have to
    change.

    Parameters
    ----------
    labels, structures
        As for :func:`mirror_labels`.

    Returns
    -------
    (*vol) ndarray of the same type

    Raises
    ------
    ValueError
        If a structure of one side has no partner in ``structures``, or if the type of the label map
        cannot hold the exchanged label.

    Examples
    --------
    >>> exchange_sides(np.array([17, 0, 16]), {17: "Left X", 53: "Right X", 16: "Y"}).tolist()
    [53, 0, 16]
    """
    labels = np.asarray(labels)
    numbers = {name: label for label, name in structures.items()}
    table = np.arange(max([int(labels.max(initial=0)), *structures]) + 1)
    for name, label in numbers.items():
        other = _other_side(name)
        if other not in numbers:
            raise ValueError(
                f"structures: {name!r} has no partner {other!r}; add {other!r} with its label"
            )
        table[label] = numbers[other]
    mirrored = table[labels]
    if mirrored.max(initial=0) > np.iinfo(labels.dtype).max:
        raise ValueError(
            f"labels: found type {labels.dtype}, which cannot hold the mirrored label "
            f"{mirrored.max()}; use labels.astype('int32')"
        )
    return mirrored.astype(labels.dtype)


def _reflected(array, affine, *, order):
    matrix = mirror_matrix(affine, array.ndim)
    linear, start = matrix[:-1, :-1], matrix[:-1, -1]
    # At order 0 SciPy rounds halves up, so a midplane between two voxels loses none of them.
    return ndimage.affine_transform(array, linear, start, order=order, mode="grid-constant")


def _other_side(name):
    """Exchange left and right in the name of a structure; other names stay as they are."""
    words = {"Left": "Right", "Right": "Left", "left": "right", "right": "left"}
    return " ".join(words.get(word, word) for word in name.split(" "))
