"""Make more people of few: mirror, tilt and bend images at random, as training draws them."""

import math
from dataclasses import dataclass

import numpy as np

from vxmlib import simulate, warp

#: Voxels of the image to one of the lattice on which bends are drawn, and of that on which they
#: are integrated.
_LATTICE, _INTEGRATION = 8, 4


@dataclass(frozen=True)
class Augmentation:
    """A random change of one image; a person stays a plausible person.

    Parameters
    ----------
    flip : bool
        Mirror left and right in half of the draws. The first axis runs from left to right.
    affine : float
        SD of the entries of a random linear map about the middle of the grid, beside the identity.
    shift : float
        SD in voxels of a random translation along each axis.
    bend : float
        SD in voxels of a smooth random velocity, which is integrated: the bend is a
        diffeomorphism.
    width : float
        SD in voxels of the Gaussian that makes it smooth.

    Raises
    ------
    ValueError
        A value that is negative or not finite, or a width of 0.

    Examples
    --------
    >>> image = np.linspace(0, 1, 32 * 32, dtype="float32").reshape(32, 32)
    >>> same = Augmentation(flip=False, affine=0, shift=0, bend=0)
    >>> bool((same(image, np.random.default_rng(0)) == image).all())
    True
    """

    flip: bool = True
    affine: float = 0.03
    shift: float = 1.0
    bend: float = 2.0
    width: float = 8.0

    def __post_init__(self):
        for name in ("affine", "shift", "bend", "width"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: found {value!r}, expected a finite number, at least 0")
        if not self.width:
            raise ValueError("width: found 0, expected a number of voxels above 0")

    def __call__(self, image, generator):
        """Change one image.

        Parameters
        ----------
        image : (*vol) float32 ndarray
            In [0, 1]; each size divisible by 8.
        generator : numpy.random.Generator
            What is random comes from it: the same state, the same change.

        Returns
        -------
        (*vol) float32 ndarray
            In [0, 1], background 0.
        """
        if self.flip and generator.random() < 0.5:
            image = mirror(image)
        if not (self.affine or self.shift or self.bend):
            return image
        return warp.warp_image(image, self.displacement(image.shape, generator))

    def displacement(self, shape, generator):
        """Draw the displacement alone: (*shape, nd) float32 in voxels."""
        lattice = tuple(size // _LATTICE for size in shape)
        velocity = self._velocity(lattice, generator)
        factor = _LATTICE // _INTEGRATION
        coarse = simulate.upsample(velocity / _INTEGRATION, factor)
        flow = simulate.exponential(coarse)
        return (simulate.upsample(flow, _INTEGRATION) * _INTEGRATION).astype(np.float32)

    def _velocity(self, lattice, generator):
        """A random velocity on the lattice, in voxels of the image: linear part and bend."""
        nd = len(lattice)
        slope = self.affine * generator.standard_normal((nd, nd))
        middle = (np.array(lattice) - 1) / 2
        position = (np.moveaxis(np.indices(lattice), 0, -1) - middle) * _LATTICE
        velocity = position @ slope.T + self.shift * generator.standard_normal(nd)
        for axis in range(nd):
            field = simulate.unit_field(generator, lattice, self.width / _LATTICE)
            velocity[..., axis] += self.bend * field
        return velocity


def mirror(image):
    """Swap left and right: the first axis turned round.

    Examples
    --------
    >>> mirror(np.array([[1, 2], [3, 4]])).tolist()
    [[3, 4], [1, 2]]
    """
    return np.ascontiguousarray(image[::-1])


def mirror_labels(labels, structures):
    """Swap left and right in a label map, and the labels of the two sides with them.

    Parameters
    ----------
    labels : (*vol) integer ndarray
    structures : dict
        Label -> name; "Left X" and "Right X" (or "X left", "X right") are the two sides of X.

    Returns
    -------
    (*vol) ndarray of the same type

    Raises
    ------
    ValueError
        A structure of one side has no partner.

    Examples
    --------
    >>> sides = {17: "Left Hippocampus", 53: "Right Hippocampus", 16: "Brain Stem"}
    >>> mirror_labels(np.array([17, 16, 0]), sides).tolist()
    [0, 16, 53]
    """
    labels = np.asarray(labels)
    numbers = {name: label for label, name in structures.items()}
    table = np.arange(max(int(labels.max(initial=0)), *structures) + 1, dtype=labels.dtype)
    for name, label in numbers.items():
        other = _other_side(name)
        if other != name:
            if other not in numbers:
                raise ValueError(
                    f"structures: {name!r} has no partner {other!r}; add it, with its label"
                )
            table[label] = numbers[other]
    return mirror(table[labels])


def _other_side(name):
    words = {"Left": "Right", "Right": "Left", "left": "right", "right": "left"}
    return " ".join(words.get(word, word) for word in name.split(" "))
