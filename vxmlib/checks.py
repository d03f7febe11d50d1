"""Guard arguments: each function returns an argument that fits, and refuses any other.

A message names the argument or file, what was found, what is expected and how to correct it.
"""

import math
import numbers

import numpy as np

MULTIPLE = 16  # the U-Net halves the grid four times
#: An image whose intensities span less than this is not normalised to [0, 1].
SPAN = 0.05


def check_whole(name, value, *, least=0, most=None):
    """Return a whole number as an int; True and 1.0 are none.

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
    """Return a finite real number as a float; True is none.

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
    """Return the choice that equals the value; True and 1.0 are not the choice 1.

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
    """Return an affine as a float64 array, or say what is wrong with it.

    Parameters
    ----------
    affine : array_like
        4 x 4, voxel index -> RAS mm; finite and invertible.
    ndim : {2, 3}
        2 for the affine of a plane, 3 x 3.
    name : str
        Argument or file name for the message.

    Raises
    ------
    ValueError
        Another shape, NaN or infinite entries, or an axis without a direction or a length.
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
    """Return a grid that a U-Net can halve four times as a tuple of int.

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
    """Return `displacement` as an array of floats, or say what is wrong with it.

    Parameters
    ----------
    displacement : array_like
        Expected ``(*vol, nd)`` with ``nd`` = 2 or 3 = number of grid axes, finite, in voxels.
    shape : sequence of int, optional
        The grid ``(*vol)`` it has to be defined on.
    name : str
        What to call it in the message.

    Raises
    ------
    ValueError
        Wrong number of axes or components, another grid, NaN or infinite entries.
    """
    field = np.asarray(displacement)
    grid = field.shape[:-1]
    if len(grid) not in (2, 3) or field.shape[-1] != len(grid):
        raise ValueError(
            f"{name}: expected shape (*vol, nd), for example (160, 160, 2) or (80, 96, 80, 3), "
            f"found {field.shape}. Drop the batch axis with field[0]; there is one component "
            "for each axis of the grid, and it comes last."
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
    # The extremes are finite exactly when every entry is, and need no array of flags.
    if field.size and not (np.isfinite(field.min()) and np.isfinite(field.max())):
        raise ValueError(
            f"{name}: found NaN or infinite entries, expected finite voxels. The model that made "
            "it has diverged: lower the learning rate and check that images lie in [0, 1]."
        )
    return field


def check_labels(labels, *, shape=None, name="labels", least=None, most=None):
    """Return `labels` as an integer array (booleans become 0 and 1), or say what is wrong.

    Parameters
    ----------
    labels : array_like
        Label map ``(*vol)`` of an integer or boolean type.
    shape : sequence of int, optional
        The grid it has to be defined on.
    name : str
        Argument or file name for the message.
    least : int, optional
        Smallest label that is allowed; 0 for a label map that was read from a file.
    most : int, optional
        Largest label that is allowed.

    Raises
    ------
    ValueError
        Not of an integer type, on another grid, or a label below ``least`` or above ``most``.
    """
    array = np.asarray(labels)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"{name}: expected an integer label map, found dtype {array.dtype}. If every value is "
            "a whole number use labels.astype('int16'); values between two labels come from "
            "linear interpolation, which must not be used on label maps."
        )
    if shape is not None and array.shape != tuple(shape):
        raise ValueError(
            f"{name}: found grid {array.shape}, expected {tuple(shape)}. Both maps have to be "
            "resampled to one grid (nearest neighbour) before they are compared or warped."
        )
    if least is not None and array.size and array.min() < least:
        raise ValueError(
            f"{name}: found label {array.min()}, expected 0 (background) and above. The file "
            "may be an intensity image, or may have been read into too small a type."
        )
    if most is not None and array.size and array.max() > most:
        raise ValueError(
            f"{name}: found label {array.max()}, expected at most {most}. Renumber the label map."
        )
    return array


def check_image(image, *, name="image"):
    """Return `image` as it is if the network can take it, or say what is wrong with it.

    Parameters
    ----------
    image : (*vol) ndarray
        2-D or 3-D, real numbers in [0, 1] that span at least `SPAN`, every side a multiple of 16.
    name : str
        Argument or file name for the message.

    Raises
    ------
    ValueError
        Anything else; the message says what was found, what is expected and how to correct it.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or not np.issubdtype(image.dtype, np.number):
        raise ValueError(
            f"{name}: expected a 2-D or 3-D array of numbers, found shape {image.shape} of "
            f"{image.dtype}. Batch and channel axes are added at the model's door."
        )
    _check_sides(image.shape, name)
    check_finite(image, name)
    low, high = float(image.min()), float(image.max())
    if low == high:
        raise ValueError(
            f"{name}: every voxel is {low:g}; there is nothing to register. Look at the scan; it "
            "may be empty, or sampled outside of its field of view."
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
    """Refuse an image that a model of this grid cannot take.

    Parameters
    ----------
    image : array, (*vol)
    name : str
        What the error calls the image.
    shape : tuple of int
        The grid it must have.

    Returns
    -------
    ndarray, (*vol), float32

    Raises
    ------
    ValueError
        If the shape differs, or a value is not finite or outside [0, 1], or all are equal.

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
    """Return both images if they can be registered to each other, or say what is wrong.

    Raises
    ------
    ValueError
        As `check_image` for either, of unequal shape, or twice the same image.
    """
    shapes = np.shape(moving), np.shape(fixed)
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{names[0]} has shape {shapes[0]} and {names[1]} has shape {shapes[1]}; a pair has "
            "one shape. Resample both to one grid (vxmlib.preprocess.resample) or crop_or_pad."
        )
    if np.array_equal(moving, fixed):
        raise ValueError(
            f"{names[0]} and {names[1]} are the same image: their best displacement is zero, and "
            "there is nothing to learn. Choose two different subjects."
        )
    return tuple(
        check_image(image, name=name) for image, name in zip((moving, fixed), names, strict=True)
    )


def check_mask(mask, shape):
    """A boolean mask of the grid with at least one voxel, or None."""
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise ValueError(f"mask: found dtype {mask.dtype}, expected bool; write image > 0.")
    if mask.shape != tuple(shape):
        raise ValueError(f"mask: found grid {mask.shape}, expected {tuple(shape)}.")
    if not mask.any():
        raise ValueError("mask: found no voxel in it, expected at least one.")
    return mask


def fitting_shape(shape, multiple=MULTIPLE):
    """Return the smallest shape of multiples of 16 that holds `shape`.

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


def check_finite(image, name):
    """Refuse an array with NaN or infinite values."""
    wrong = int(image.size - np.isfinite(image).sum())
    if wrong:
        raise ValueError(
            f"{name}: {wrong} of {image.size} voxels are NaN or infinite. Find out where they "
            "come from; numpy.nan_to_num hides them at 0."
        )
