"""Augment training images by random reflections, linear maps, shifts and deformations."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from vxmlib import axes, warp
from vxmlib.checks import check_choice, check_number

#: Spacing, in voxels of the image, of the lattice on which a velocity is drawn and of the lattice
#: on which it is integrated.
_LATTICE, _INTEGRATION = 8, 4
#: Ways to exchange left and right: reflect about the anatomical midplane x = 0, or reverse the
#: array about the middle of its grid, as most augmentation code does.
FLIPS = ("midplane", "array")


@dataclass(frozen=True)
class Augmentation:
    """Random change of an image that keeps its anatomy plausible.

    The linear map, the translation and the smooth deformation are drawn as one stationary velocity,
    which is integrated. The resulting displacement includes the reflection, so the image is
    interpolated only once.

    Parameters
    ----------
    flip : {"midplane", "array"} or None
        How to exchange left and right, which is done with a probability of one half; None never
        does it. "midplane" reflects about the plane x = 0 of the image's affine. "array" reverses
        the first axis, which reflects about the middle of the grid, so the result is misplaced
        where this is not the midplane.
    affine : float
        Standard deviation (SD) of the entries of the random matrix of the linear velocity, which
        acts about the middle of the grid; 0 leaves it out. The resulting map is approximately the
        identity plus this matrix.
    shift : float
        SD in voxels of the random translation along each axis; 0 leaves it out.
    bend : float
        SD in voxels of each component of the smooth random velocity; 0 leaves it out. Because the
        velocity is integrated, the deformation is a diffeomorphism.
    width : float
        SD in voxels of the Gaussian filter that smooths this velocity.

    Raises
    ------
    ValueError
        If ``flip`` is unknown, ``affine``, ``shift`` or ``bend`` is negative, or ``width`` is not
        above 0.

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
        """Augment one image.

        Parameters
        ----------
        image : (*vol) float32 ndarray
            Intensities in [0, 1]; each size divisible by 8.
        generator : numpy.random.Generator
            The only source of randomness: the same state results in the same change.
        affine : (4, 4) array_like
            Voxel index -> RAS mm of the image, which determines the midplane. In 2D, the pixel
            ``(i, k)`` has the index ``(i, 0, k)``.

        Returns
        -------
        (*vol) float32 ndarray
            Augmented image, in [0, 1]; `image` itself if nothing was changed.
        """
        change, _ = self.draw(image.shape, generator, affine)
        return image if change is None else warp.warp_image(image, change)

    def draw(self, shape, generator, affine):
        """Draw one random change, which can be applied to an image and to its label map.

        Parameters
        ----------
        shape : tuple of int
            Grid ``(*vol)``; each size divisible by 8.
        generator, affine
            As for :meth:`__call__`.

        Returns
        -------
        displacement : (*vol, nd) float32 ndarray or None
            In voxels, pointing into the unchanged image, including the reflection; None if nothing
            is changed.
        reflected : bool
            Whether left and right are exchanged; the label map then also needs
            :func:`vxmlib.axes.exchange_sides`.
        """
        flipped = self.flip is not None and generator.random() < 0.5
        bent = bool(self.affine or self.shift or self.bend)
        if not flipped and not bent:
            return None, False
        field = self.displacement(shape, generator) if bent else warp.identity(shape)
        return (self._reflected(field, affine) if flipped else field), flipped

    def _reflected(self, field, affine):
        """Return the displacement from each voxel x to the reflection of ``x + field(x)``."""
        shape = field.shape[:-1]
        if self.flip == "midplane":
            matrix = axes.mirror_matrix(affine, len(shape))
        else:
            matrix = np.eye(len(shape) + 1)
            matrix[0, 0], matrix[0, -1] = -1, shape[0] - 1
        index = np.moveaxis(np.indices(shape, dtype=np.float32), 0, -1)
        return (index + field) @ matrix[:-1, :-1].T + matrix[:-1, -1] - index

    def displacement(self, shape, generator):
        """Draw the displacement without the reflection: (*shape, nd) float32, in voxels."""
        lattice = tuple(size // _LATTICE for size in shape)
        velocity = self._velocity(lattice, generator)
        factor = _LATTICE // _INTEGRATION
        coarse = upsample(velocity / _INTEGRATION, factor)
        flow = warp.exponential(coarse)
        return (upsample(flow, _INTEGRATION) * _INTEGRATION).astype(np.float32)

    def _velocity(self, lattice, generator):
        """Draw a velocity on the lattice, in voxels: linear part, translation and smooth part."""
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
        Standard deviation, in voxels, of the Gaussian filter that smooths white noise.  The field
        is periodic, so its standard deviation is the same at the border.

    Returns
    -------
    (*shape) float64 ndarray
    """
    white = generator.standard_normal(shape)
    kept = (4 * np.pi * width**2) ** (-len(shape) / 4)  # SD of filtered white noise
    return ndimage.gaussian_filter(white, width, mode="wrap") / kept


def upsample(field, factor):
    """Interpolate a field with cubic splines to voxels that are `factor` times smaller.

    Parameters
    ----------
    field : (*vol, n) ndarray
    factor : float
        Ratio of the voxel sizes; each size times `factor` must be a whole number.

    Returns
    -------
    (*vol * factor, n) ndarray
        The field over the same field of view; its values are not scaled.
    """
    if factor == 1:
        return field
    for axis, size in enumerate(field.shape[:-1]):
        weights = ndimage.zoom(np.eye(size), (factor, 1), order=3, mode="nearest", grid_mode=True)
        field = np.moveaxis(np.tensordot(weights, field, axes=(1, axis)), 0, axis)
    return field
