"""Random augmentation of training images: they are mirrored, tilted, shifted and bent."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from vxmlib import axes, warp
from vxmlib.checks import check_choice, check_number

#: Voxels of the image to one of the lattice on which bends are drawn, and of that on which they
#: are integrated.
_LATTICE, _INTEGRATION = 8, 4
#: Ways to exchange left and right: a reflection about the anatomical midplane x = 0, or the array
#: reversed about the middle of its grid, which most augmentation code does.
FLIPS = ("midplane", "array")


@dataclass(frozen=True)
class Augmentation:
    """A random change of one image that keeps its anatomy plausible.

    Everything that is drawn is one displacement, so that the image is interpolated once.

    Parameters
    ----------
    flip : {"midplane", "array"} or None
        Exchange left and right in half of the draws. "midplane" reflects about the plane x = 0
        of the image's affine. "array" reverses the first axis, which reflects about the middle of
        the grid: off the midplane by the distance between the two.
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
        An unknown flip, or a number that is out of range.

    Examples
    --------
    >>> image = np.linspace(0, 1, 32 * 32, dtype="float32").reshape(32, 32)
    >>> unchanged = Augmentation(flip=None, affine=0, shift=0, bend=0)
    >>> bool((unchanged(image, np.random.default_rng(0), np.eye(4)) == image).all())
    True
    """

    flip: str | None = "midplane"
    affine: float = 0.03
    shift: float = 1.0
    bend: float = 2.0
    width: float = 8.0

    def __post_init__(self):
        check_choice("flip", self.flip, (*FLIPS, None))
        for name in ("affine", "shift", "bend"):
            check_number(name, getattr(self, name), least=0)
        check_number("width", self.width, above=0)

    def __call__(self, image, generator, affine):
        """Change one image.

        Parameters
        ----------
        image : (*vol) float32 ndarray
            In [0, 1]; each size divisible by 8.
        generator : numpy.random.Generator
            The only source of randomness: the same state gives the same change.
        affine : (4, 4) array_like
            Voxel index -> RAS mm of the image; it says where the midplane is. In 2D for the
            index ``(i, 0, k)`` of a pixel ``(i, k)``.

        Returns
        -------
        (*vol) float32 ndarray
            In [0, 1], background 0.
        """
        flipped = self.flip is not None and generator.random() < 0.5
        bent = bool(self.affine or self.shift or self.bend)
        if not flipped and not bent:
            return image
        field = self.displacement(image.shape, generator) if bent else warp.identity(image.shape)
        return warp.warp_image(image, self._reflected(field, affine) if flipped else field)

    def _reflected(self, field, affine):
        """The displacement that looks the mirrored image up where ``field`` points."""
        shape = field.shape[:-1]
        if self.flip == "midplane":
            matrix = axes.mirror_matrix(affine, len(shape))
        else:
            matrix = np.eye(len(shape) + 1)
            matrix[0, 0], matrix[0, -1] = -1, shape[0] - 1
        index = np.moveaxis(np.indices(shape, dtype=np.float32), 0, -1)
        return (index + field) @ matrix[:-1, :-1].T + matrix[:-1, -1] - index

    def displacement(self, shape, generator):
        """Draw the displacement alone: (*shape, nd) float32 in voxels."""
        lattice = tuple(size // _LATTICE for size in shape)
        velocity = self._velocity(lattice, generator)
        factor = _LATTICE // _INTEGRATION
        coarse = upsample(velocity / _INTEGRATION, factor)
        flow = warp.exponential(coarse)
        return (upsample(flow, _INTEGRATION) * _INTEGRATION).astype(np.float32)

    def _velocity(self, lattice, generator):
        """A random velocity on the lattice, in voxels of the image: linear part and bend."""
        nd = len(lattice)
        slope = self.affine * generator.standard_normal((nd, nd))
        middle = (np.array(lattice) - 1) / 2
        position = (np.moveaxis(np.indices(lattice), 0, -1) - middle) * _LATTICE
        velocity = position @ slope.T + self.shift * generator.standard_normal(nd)
        for axis in range(nd):
            field = unit_field(generator, lattice, self.width / _LATTICE)
            velocity[..., axis] += self.bend * field
        return velocity


def unit_field(generator, shape, width):
    """Draw a Gaussian random field of mean 0 and standard deviation 1.

    Parameters
    ----------
    generator : numpy.random.Generator
    shape : tuple of int
    width : float
        Standard deviation in voxels of the Gaussian that smooths white noise.  The field is
        periodic, so that its spread is the same at the border.

    Returns
    -------
    (*shape) float64 ndarray
    """
    white = generator.standard_normal(shape)
    kept = (4 * np.pi * width**2) ** (-len(shape) / 4)  # what the filter leaves of white noise
    return ndimage.gaussian_filter(white, width, mode="wrap") / kept


def upsample(field, factor):
    """Interpolate a field by cubic splines to voxels `factor` times smaller, axis by axis.

    Parameters
    ----------
    field : (*vol, n) ndarray
    factor : float
        The field of view stays; ``vol * factor`` has to be whole.

    Returns
    -------
    (*vol * factor, n) ndarray
        The values are not scaled.
    """
    if factor == 1:
        return field
    for axis, size in enumerate(field.shape[:-1]):
        weights = ndimage.zoom(np.eye(size), (factor, 1), order=3, mode="nearest", grid_mode=True)
        field = np.moveaxis(np.tensordot(weights, field, axes=(1, axis)), 0, axis)
    return field
