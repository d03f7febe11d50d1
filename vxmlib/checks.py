"""Validate arguments: each function returns a valid argument and raises an error for any other.

The message names the argument or file, what was found, what was expected and how to correct it.
"""

import math
import numbers

import numpy as np

MULTIPLE = 16  # the U-Net halves the grid four times
#: Smallest range of intensities, maximum minus minimum, that `check_image` accepts.
SPAN = 0.05


_MANY_BELOW = 1.0  # percent of the voxels; interpolation makes a few values below 0


def check_whole(name, value, *, least=0, most=None):
    """Return a whole number as an int; the limits are inclusive.

    Booleans and floats are refused, even True and 1.0.

    Examples
    --------
    >>> check_whole("seed", np.int64(3))
    3
    >>> check_whole("epochs", 0, least=1)
    Traceback (most recent call last):
    ...
    ValueError: epochs: found 0, expected a whole number of at least 1
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limit = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name}: found {value!r}, expected a whole number {limit}")
    return int(value)


def check_number(name, value, *, least=None, above=None, most=None):
    """Return a finite real number as a float; booleans are refused.

    The limits `least` and `most` are inclusive, and `above` is exclusive.

    Examples
    --------
    >>> check_number("lam", 1, least=0)
    1.0
    >>> check_number("learning_rate", 0, above=0)
    Traceback (most recent call last):
    ...
    ValueError: learning_rate: found 0, expected a finite number above 0
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    fits = real and math.isfinite(value)
    fits = fits and (least is None or value >= least) and (above is None or value > above)
    if not fits or (most is not None and value > most):
        limits = [("of at least", least), ("above", above), ("of at most", most)]
        wanted = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
        raise ValueError(f"{name}: found {value!r}, expected a finite number {wanted}".rstrip())
    return float(value)


def check_choice(name, value, choices):
    """Return the choice that equals the value.

    A boolean equals only a boolean, and a float only a float: True and 1.0 are not the choice 1.
    An integer may select a float: 1 is the choice 1.0.

    Examples
    --------
    >>> check_choice("image_loss", "ncc", ("ncc", "mse"))
    'ncc'
    >>> check_choice("image_loss", "nc", ("ncc", "mse"))
    Traceback (most recent call last):
    ...
    ValueError: image_loss: found 'nc', expected one of: ncc, mse
    """
    choices = list(choices)
    for choice in choices:
        same_type = isinstance(value, bool) == isinstance(choice, bool)
        same_type = same_type and isinstance(value, float) <= isinstance(choice, float)
        if same_type and value == choice:
            return choice
    expected = ", ".join(map(str, choices))
    raise ValueError(f"{name}: found {value!r}, expected one of: {expected}")


def check_affine(affine, *, ndim=3, name="affine"):
    """Return an affine as a float64 array if it is invertible.

    Parameters
    ----------
    affine : array_like
        Voxel index -> RAS mm, ``(ndim + 1, ndim + 1)``, finite and invertible.
    ndim : {2, 3}
        Number of axes; 2 for the 3 x 3 affine of a plane.
    name : str
        Argument or file name for the error message.

    Raises
    ------
    ValueError
        If the shape differs, an entry is NaN or infinite, or the matrix cannot be inverted.
    """
    matrix = np.asarray(affine, np.float64)
    finite = matrix.shape == (ndim + 1, ndim + 1) and np.isfinite(matrix).all()
    if not finite or abs(np.linalg.det(matrix[:-1, :-1])) < 1e-12:
        raise ValueError(
            f"{name}: found {matrix.tolist()}, expected an invertible {ndim + 1} x {ndim + 1} "
            "matrix from voxel index to RAS millimetres. Correct the header: each axis needs a "
            "direction and a length."
        )
    return matrix


def check_shape(shape, *, axes=(2, 3), name="shape"):
    """Return a grid shape as a tuple of int if a U-Net can halve each size four times.

    Examples
    --------
    >>> check_shape([32, 48])
    (32, 48)
    >>> check_shape((18, 18))
    Traceback (most recent call last):
    ...
    ValueError: shape: found (18, 18), expected 2 or 3 sizes divisible by 16; pad to (32, 32)
    """
    sizes = tuple(shape) if isinstance(shape, list | tuple) else ()
    whole = all(isinstance(size, numbers.Integral) and size > 0 for size in sizes)
    if len(sizes) not in axes or not whole or any(size % MULTIPLE for size in sizes):
        mend = f"; pad to {fitting_shape(sizes)}" if whole and len(sizes) in axes else ""
        wanted = " or ".join(map(str, axes))
        raise ValueError(
            f"{name}: found {shape!r}, expected {wanted} sizes divisible by {MULTIPLE}{mend}"
        )
    return tuple(map(int, sizes))


def check_displacement(displacement, *, shape=None, name="displacement"):
    """Return a displacement as an array of floats if it is valid.

    Parameters
    ----------
    displacement : array_like
        Displacement ``(*vol, nd)`` in voxels, finite; ``nd`` is the number of grid axes, 2 or 3.
    shape : sequence of int, optional
        The grid ``(*vol)`` on which it must be defined; None accepts any grid.
    name : str
        Argument or file name for the error message.

    Returns
    -------
    (*vol, nd) ndarray
        float64 if the displacement is float64, otherwise float32.

    Raises
    ------
    ValueError
        If the number of axes or components is wrong, the grid differs from `shape`, the entries
        are not real numbers, or an entry is NaN or infinite.
    """
    field = np.asarray(displacement)
    grid = field.shape[:-1]
    if len(grid) not in (2, 3) or field.shape[-1] != len(grid):
        raise ValueError(
            f"{name}: expected shape (*vol, nd), for example (160, 160, 2) or (80, 96, 80, 3), "
            f"found {field.shape}. Drop a batch axis with field[0]. The last axis must have one "
            "component for each axis of the grid."
        )
    if shape is not None and grid != tuple(shape):
        raise ValueError(
            f"{name}: defined on grid {grid}, expected {tuple(shape)}. Use the full-resolution "
            "displacement (models.register), not the model's half-resolution output."
        )
    if not (np.issubdtype(field.dtype, np.floating) or np.issubdtype(field.dtype, np.integer)):
        raise ValueError(f"{name}: expected real numbers, found dtype {field.dtype}.")
    if field.dtype not in (np.float32, np.float64):
        field = field.astype(np.float32)
    # The extremes are finite only if every entry is, and need no boolean array.
    if field.size and not (np.isfinite(field.min()) and np.isfinite(field.max())):
        raise ValueError(
            f"{name}: found NaN or infinite entries, expected finite numbers. If a model predicted "
            "them, it has diverged: lower the learning rate and check that images lie in [0, 1]."
        )
    return field


def check_labels(labels, *, shape=None, name="labels", least=None, most=None):
    """Return a label map as an integer array if it is valid; booleans become 0 and 1.

    Parameters
    ----------
    labels : array_like
        Label map ``(*vol)`` of an integer or boolean type.
    shape : sequence of int, optional
        The grid ``(*vol)`` on which it must be defined; None accepts any grid.
    name : str
        Argument or file name for the error message.
    least : int, optional
        Smallest label that is allowed, such as 0 for a label map read from a file. None sets no
        limit.
    most : int, optional
        Largest label that is allowed. None sets no limit.

    Raises
    ------
    ValueError
        If the type is not integer or boolean, the grid differs from `shape`, or a label is below
        `least` or above `most`.
    """
    array = np.asarray(labels)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name}: expected an integer label map, found dtype {array.dtype}. If every value is "
            "a whole number, use labels.astype('int16'); values between two labels come from "
            "linear interpolation, which must not be used on label maps."
        )
    if shape is not None and array.shape != tuple(shape):
        raise ValueError(
            f"{name}: found grid {array.shape}, expected {tuple(shape)}. Resample the label "
            "map to the expected grid (nearest neighbour) before you compare or warp it."
        )
    if least is not None and array.size and array.min() < least:
        raise ValueError(
            f"{name}: found label {array.min()}, expected 0 (background) and above. The file "
            "may be an intensity image, or its labels may not fit into the type of the array."
        )
    if most is not None and array.size and array.max() > most:
        raise ValueError(
            f"{name}: found label {array.max()}, expected at most {most}. Renumber the label map."
        )
    return array


def check_image(image, *, name="image"):
    """Return an image unchanged if the network can use it.

    Parameters
    ----------
    image : (*vol) ndarray
        Intensities in [0, 1], 2-D or 3-D, with a range of at least `SPAN`; every size is a
        multiple of 16.
    name : str
        Argument or file name for the error message.

    Raises
    ------
    ValueError
        If the image is not of this kind, is constant, or contains NaN or infinite values.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or not np.issubdtype(image.dtype, np.number):
        raise ValueError(
            f"{name}: expected a 2-D or 3-D array of numbers, found shape {image.shape} of "
            f"{image.dtype}. Leave out the batch and channel axes, which vxmlib adds for the model."
        )
    _check_sides(image.shape, name)
    check_finite(image, name)
    low, high = float(image.min()), float(image.max())
    if low == high:
        raise ValueError(
            f"{name}: every voxel is {low:g}, so there is nothing to register. Look at the scan: "
            "it may be empty, or it may have been sampled outside of its field of view."
        )
    if low < 0 or high > 1:
        raise ValueError(
            f"{name}: intensities from {low:g} to {high:g}, expected [0, 1]. Use "
            "vxmlib.preprocess.normalise, because NCC is inaccurate for large values."
        )
    if high - low < SPAN:
        raise ValueError(
            f"{name}: intensities from {low:g} to {high:g}, expected to span [0, 1]. Use "
            "vxmlib.preprocess.normalise; NCC treats an image that hardly varies as constant, so "
            "its gradient is 0."
        )
    return image


def check_image_on_grid(image, *, name, shape):
    """Return an image as float32 if a model with this grid can use it.

    Parameters
    ----------
    image : array_like, (*vol)
        Intensities in [0, 1].
    name : str
        Argument or file name for the error message.
    shape : sequence of int
        The grid ``(*vol)`` of the model.

    Returns
    -------
    ndarray, (*vol), float32

    Raises
    ------
    ValueError
        If the shape differs from `shape`, or as :func:`check_image`.

    Examples
    --------
    >>> check_image_on_grid(np.ones((4, 4)), name="moving", shape=(4, 8))
    Traceback (most recent call last):
    ValueError: moving has shape (4, 4), expected the grid (4, 8): resample, crop or pad it
    """
    image = np.asarray(image)
    if image.shape != tuple(shape):
        raise ValueError(
            f"{name} has shape {image.shape}, expected the grid {tuple(shape)}: "
            "resample, crop or pad it"
        )
    return np.asarray(check_image(image, name=name), dtype=np.float32)


def check_pair(moving, fixed, *, names=("moving", "fixed")):
    """Return both images unchanged if they can be registered to each other.

    Raises
    ------
    ValueError
        If the shapes differ, if both are the same image, or as :func:`check_image` for either.
    """
    shapes = np.shape(moving), np.shape(fixed)
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{names[0]} has shape {shapes[0]} and {names[1]} has shape {shapes[1]}, expected the "
            "same shape. Use vxmlib.preprocess.resample (or crop_or_pad) to bring both to one grid."
        )
    if np.array_equal(moving, fixed):
        raise ValueError(
            f"{names[0]} and {names[1]} are the same image, so the best displacement is zero and "
            "there is nothing to learn. Choose two different subjects."
        )
    return tuple(
        check_image(image, name=name) for image, name in zip((moving, fixed), names, strict=True)
    )


def check_mask(mask, shape):
    """Return a boolean mask if it lies on the grid and is not empty; None is returned as None."""
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise ValueError(
            f"mask: found dtype {mask.dtype}, expected bool. Use, for example, image > 0."
        )
    if mask.shape != tuple(shape):
        raise ValueError(f"mask: found grid {mask.shape}, expected {tuple(shape)}.")
    if not mask.any():
        raise ValueError("mask: found no voxel that is True, expected at least one.")
    return mask


def fitting_shape(shape, multiple=MULTIPLE):
    """Return the smallest shape that contains `shape` and has sizes divisible by `multiple`.

    Examples
    --------
    >>> fitting_shape((155, 160, 1))
    (160, 160, 16)
    """
    return tuple(int(-(-n // multiple)) * multiple for n in shape)


def _check_sides(shape, name):
    if all(n > 0 and n % MULTIPLE == 0 for n in shape):
        return
    raise ValueError(
        f"{name}: shape {tuple(shape)} does not fit; the network halves every side four times, so "
        f"each has to be a multiple of {MULTIPLE}. Use vxmlib.preprocess.crop_or_pad, which makes "
        f"it {fitting_shape(shape)}."
    )


def doubts(image, affine, name):
    """Return what may be wrong with a scan although it can be read, in sentences.

    Parameters
    ----------
    image : (*vol) ndarray
        Intensities.
    affine : (4, 4) array_like
        Voxel index -> RAS mm.
    name : str
        Name of the scan in the sentences.

    Returns
    -------
    list of str

    Examples
    --------
    >>> doubts(np.array([[[1.0, 0.0]]]), np.diag([1.0, 1.0, 2.0, 1.0]), "a.nii")
    []
    """
    found = []
    if np.allclose(affine, np.eye(4)):
        found.append(
            f"{name}: its affine is the identity, which programs write when they do not know the "
            "position and the voxel size. Check both."
        )
    if (below := 100 * float((np.asarray(image) < 0).mean())) >= _MANY_BELOW:
        found.append(
            f"{name}: {below:.0f} % of the intensities are below 0, which counts as background. If "
            "the scan was standardised (z-scores), take the original scan."
        )
    return found


def check_finite(image, name):
    """Raise a ValueError that names the array if it contains NaN or infinite values."""
    wrong = int(image.size - np.isfinite(image).sum())
    if wrong:
        raise ValueError(
            f"{name}: {wrong} of {image.size} voxels are NaN or infinite. Find out where they "
            "come from; numpy.nan_to_num would only hide them."
        )
