"""Anatomical axes of a grid: reflection about the midplane, and the description that ITK expects.

An affine maps voxel indices to RAS millimetres. The midplane is the plane x = 0 of that space.
It is in general not the middle of the array, so that reversing an array does not mirror a head.
"""

import numpy as np
from scipy import ndimage

from vxmlib.checks import check_affine

#: RAS millimetres -> RAS millimetres: left and right change places.
REFLECTION = np.diag([-1.0, 1.0, 1.0, 1.0])
#: RAS millimetres -> the Left, Posterior, Superior millimetres of ITK and ANTs; its own inverse.
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ALIGNED = 1e-6


def itk_grid(affine, ndim=3):
    """Describe a grid as ITK, ANTs and SimpleITK do, in LPS millimetres.

    Parameters
    ----------
    affine : (ndim + 1, ndim + 1) array_like
        Voxel index -> RAS mm; in 2D -> mm of the plane, whose axes ITK does not reverse.
    ndim : {2, 3}

    Returns
    -------
    axes : (ndim, ndim) float64 ndarray
        One step along each voxel axis in LPS mm, as columns: ``field @ axes.T`` is a displacement
        ``field`` in voxels, expressed in mm.
    spacing : (ndim,) float64 ndarray
        Lengths of the columns of ``axes``, in mm.
    direction : (ndim, ndim) float64 ndarray
        The columns of ``axes``, of length 1.
    origin : (ndim,) float64 ndarray
        Position of the first voxel, in LPS mm.

    Raises
    ------
    ValueError
        An affine of another size, one that cannot be inverted, or one with shear.

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
    """Return whether the voxel axes of a grid are orthogonal in space.

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
        2 for a coronal slice, whose pixel ``(i, k)`` has the index ``(i, 0, k)``.

    Returns
    -------
    (ndim + 1, ndim + 1) float64 ndarray
        Voxel index -> voxel index, in homogeneous coordinates. It is its own inverse.

    Raises
    ------
    ValueError
        The affine is not (4, 4) or cannot be inverted, or the reflection of a slice leaves the
        slice because the slice is oblique to the midplane.

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


def mirror(image, affine):
    """Reflect an image about the midplane x = 0, by linear interpolation.

    Parameters
    ----------
    image : (*vol) ndarray
        Intensities, 2-D (a coronal slice) or 3-D.
    affine : (4, 4) array_like
        Voxel index -> RAS mm.

    Returns
    -------
    (*vol) ndarray of the same type
        On the same grid; 0 where the mirror image lies outside of it.

    Raises
    ------
    ValueError
        As :func:`mirror_matrix`.

    Examples
    --------
    The midplane is the middle voxel here:

    >>> affine = np.diag([1.0, 1.0, 1.0, 1.0])
    >>> affine[0, 3] = -1.0
    >>> mirror(np.array([[1.0], [2.0], [3.0]]), affine).ravel().tolist()
    [3.0, 2.0, 1.0]
    """
    return _reflected(np.asarray(image), affine, order=1)


def mirror_labels(labels, affine, structures):
    """Reflect a label map about the midplane, and exchange the labels of the two sides.

    Parameters
    ----------
    labels : (*vol) integer ndarray
    affine : (4, 4) array_like
        Voxel index -> RAS mm.
    structures : dict
        Label -> name; "Left X" and "Right X" (or "X left", "X right") are the two sides of X.

    Returns
    -------
    (*vol) ndarray of the same type
        The nearest voxel's label.

    Raises
    ------
    ValueError
        A structure of one side has no partner, or one that the type of the map cannot hold; or as
        :func:`mirror_matrix`.

    Examples
    --------
    >>> sides = {17: "Left Hippocampus", 53: "Right Hippocampus", 16: "Brain Stem"}
    >>> affine = np.diag([1.0, 1.0, 1.0, 1.0])
    >>> affine[0, 3] = -1.0
    >>> mirror_labels(np.array([[17], [16], [0]]), affine, sides).ravel().tolist()
    [0, 16, 53]
    """
    labels = np.asarray(labels)
    numbers = {name: label for label, name in structures.items()}
    table = np.arange(max([int(labels.max(initial=0)), *structures]) + 1)
    for name, label in numbers.items():
        other = _other_side(name)
        if other not in numbers:
            raise ValueError(
                f"structures: {name!r} has no partner {other!r}; add it, with its label"
            )
        table[label] = numbers[other]
    mirrored = table[labels]
    if mirrored.max(initial=0) > np.iinfo(labels.dtype).max:
        raise ValueError(
            f"labels: found type {labels.dtype}, which cannot hold the mirrored label "
            f"{mirrored.max()}; use labels.astype('int32')"
        )
    return _reflected(mirrored.astype(labels.dtype), affine, order=0)


def _reflected(array, affine, *, order):
    matrix = mirror_matrix(affine, array.ndim)
    linear, start = matrix[:-1, :-1], matrix[:-1, -1]
    # SciPy rounds halves up at order 0, so that a midplane between two voxels drops none of them.
    return ndimage.affine_transform(array, linear, start, order=order, mode="grid-constant")


def _other_side(name):
    """The name of the structure on the other side; a structure of the middle keeps its name."""
    words = {"Left": "Right", "Right": "Left", "left": "right", "right": "left"}
    return " ".join(words.get(word, word) for word in name.split(" "))
