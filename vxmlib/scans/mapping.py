"""Map positions of the fixed scan to the moving scan, and sample the moving scan there."""

from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from scipy import ndimage

from vxmlib import warp
from vxmlib.checks import check_affine, check_displacement

#: Distance in mm below which the inverse of a point counts as found.
CLOSE_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Mapping:
    """A map from positions of the fixed scan to positions of the moving scan, both in RAS mm.

    A position of the fixed scan is mapped by a matrix to the space of the network, moved there by
    the displacement, and mapped by a second matrix to the moving scan.

    Attributes
    ----------
    before : (4, 4) float64 ndarray
        RAS mm of the fixed scan -> RAS mm of the network's space.
    displacement : (*vol, 3) ndarray
        Displacement in voxels on the network's grid. Outside of this grid, it has the value of the
        nearest edge voxel.
    affine : (4, 4) float64 ndarray
        Voxel index of the network's grid -> RAS mm of the network's space.
    after : (4, 4) float64 ndarray
        RAS mm of the network's space -> RAS mm of the moving scan.

    Raises
    ------
    ValueError
        If a matrix or the displacement is invalid.

    Examples
    --------
    A shift by one voxel of 2 mm, in scans that both lie in the space of the network:

    >>> grid = np.diag([2.0, 2.0, 2.0, 1.0])
    >>> shift = np.full((8, 8, 8, 3), [1.0, 0.0, 0.0])
    >>> mapping = Mapping(np.eye(4), shift, grid, np.eye(4))
    >>> mapping([[4.0, 4.0, 4.0]]).tolist()
    [[6.0, 4.0, 4.0]]
    >>> mapping.inverse()([[6.0, 4.0, 4.0]]).tolist()
    [[4.0, 4.0, 4.0]]
    """

    before: np.ndarray
    displacement: np.ndarray
    affine: np.ndarray
    after: np.ndarray

    def __post_init__(self):
        for name in ("before", "affine", "after"):
            object.__setattr__(self, name, check_affine(getattr(self, name), name=name))
        field = check_displacement(self.displacement)
        if field.shape[-1] != 3:
            raise ValueError(
                f"displacement: found shape {field.shape}, expected a 3-D field (x, y, z, 3)"
            )
        components = np.ascontiguousarray(np.moveaxis(field, -1, 0))
        object.__setattr__(self, "_components", components)

    @property
    def linear(self):
        """The map without the displacement: (4, 4), RAS mm of the fixed -> of the moving scan."""
        return self.after @ self.before

    def __call__(self, points):
        """Map positions of the fixed scan to the moving scan.

        Parameters
        ----------
        points : (n, 3) or (*vol, 3) array_like
            Positions in RAS mm of the fixed scan.

        Returns
        -------
        (n, 3) or (*vol, 3) float64 ndarray
            Positions in RAS mm of the moving scan.
        """
        index = apply_affine(np.linalg.inv(self.affine) @ self.before, points)
        return apply_affine(self.after @ self.affine, index + self._moves(index))

    def _moves(self, index):
        """Interpolate the displacement, in voxels, at voxel positions of the network's grid."""
        last = np.array(self.displacement.shape[:3]) - 1
        where = np.moveaxis(np.clip(index, 0, last), -1, 0)
        moves = [ndimage.map_coordinates(c, where, order=1) for c in self._components]
        return np.stack(moves, axis=-1)

    def inverse(self):
        """Return the inverse map, from the moving scan to the fixed scan.

        Returns
        -------
        Mapping
            With the displacement inverted on the same grid (:func:`vxmlib.warp.inverse`). Where the
            displacement folds, no inverse exists, and the result is only the last approximation.
        """
        backward = warp.inverse(self.displacement)
        to_network, to_fixed = np.linalg.inv(self.after), np.linalg.inv(self.before)
        return Mapping(to_network, backward, self.affine, to_fixed)

    def invert_points(self, points, *, iterations=200):
        """Find the positions of the fixed scan that are mapped to given positions.

        The result is more accurate than that of :meth:`inverse`, which interpolates the inverse
        displacement between voxels.

        Parameters
        ----------
        points : (n, 3) array_like
            Positions in RAS mm of the moving scan, for example landmarks.
        iterations : int
            Largest number of steps of the fixed-point iteration.

        Returns
        -------
        points : (n, 3) float64 ndarray
            Positions in RAS mm of the fixed scan.
        error : (n,) float64 ndarray
            Distance in mm between each given position and the position to which its result is
            mapped. It is above :data:`CLOSE_MM` where the iteration did not converge, because the
            displacement stretches by more than a factor of four. Where the displacement folds,
            several positions are mapped to a given one, and the result is one of them.
        """
        points = np.asarray(points, np.float64)
        target = apply_affine(np.linalg.inv(self.after @ self.affine), points)
        index = target.copy()
        for _ in range(iterations):
            step = target - self._moves(index) - index
            index = index + step / 2  # half a step, which converges for twice the stretch
            if np.abs(step).max(initial=0) < 1e-6:
                break
        found = apply_affine(np.linalg.inv(self.before) @ self.affine, index)
        return found, np.linalg.norm(self(found) - points, axis=-1)

    def on_grid(self, shape, affine):
        """Compute the map as one displacement on a grid of the fixed scan.

        Parameters
        ----------
        shape : tuple of int
            Shape of the grid, for example that of the fixed scan.
        affine : (4, 4) array_like
            Voxel index of the grid -> RAS mm of the fixed scan.

        Returns
        -------
        (*shape, 3) float32 ndarray
            Displacement in voxels of this grid. :func:`vxmlib.nifti.write_displacement` writes it
            for ITK, ANTs and 3D Slicer; it includes both matrices.
        """
        affine = check_affine(affine)
        field = np.empty((*shape, 3), np.float32)
        to_grid = np.linalg.inv(affine)[:3, :3].T

        def fill(rows):
            points = apply_affine(affine, _indices(rows, shape))
            field[rows] = (self(points) - points) @ to_grid

        warp.each_slab(shape, fill)
        return field


def sample(image, image_affine, displacement, affine, *, labels=False):
    """Sample the moving scan at the positions of a displacement, with one interpolation, as ITK.

    Parameters
    ----------
    image : (i, j, k) ndarray
        Intensities or labels of the moving scan.
    image_affine : (4, 4) array_like
        Voxel index of `image` -> RAS mm of the moving scan.
    displacement : (*shape, 3) ndarray
        Displacement in voxels on a grid of the fixed scan, as :meth:`Mapping.on_grid` returns it.
    affine : (4, 4) array_like
        Voxel index of this grid -> RAS mm of the fixed scan.
    labels : bool
        Whether to take the value of the nearest voxel instead of interpolating linearly.

    Returns
    -------
    (*shape) ndarray
        float32, or the type of the label map. It is 0 where the position lies more than half a
        voxel outside of the moving scan.

    Examples
    --------
    >>> scan = np.arange(64.0).reshape(4, 4, 4)
    >>> shift = np.full((4, 4, 4, 3), [1.0, 0.0, 0.0])
    >>> sample(scan, np.eye(4), shift, np.eye(4))[:, 0, 0].tolist()
    [16.0, 32.0, 48.0, 0.0]
    """
    field = check_displacement(displacement)
    to_index = np.linalg.inv(check_affine(image_affine)) @ check_affine(affine)
    image = np.asarray(image) if labels else np.asarray(image, np.float32)
    sampled = np.empty(field.shape[:3], image.dtype)

    def fill(rows):
        index = _indices(rows, sampled.shape) + field[rows].astype(np.float64)
        sampled[rows] = _sampled(image, apply_affine(to_index, index), labels)

    warp.each_slab(sampled.shape, fill)
    return sampled


def _indices(rows, shape):
    """Return the voxel indices (*slab, 3) of some rows of a grid."""
    spans = [np.arange(rows.start, min(rows.stop, shape[0])), *map(np.arange, shape[1:])]
    return np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1)


def _sampled(image, index, labels):
    """Return the values at voxel positions (..., 3), and 0 outside, by ITK's rules."""
    size = np.array(image.shape)
    outside = ((index < -0.5) | (index >= size - 0.5)).any(axis=-1)
    inside = np.moveaxis(np.clip(index, 0, size - 1), -1, 0)
    if labels:  # ITK rounds halves up
        values = image[tuple(np.floor(inside + 0.5).astype(np.intp))]
    else:
        values = ndimage.map_coordinates(image, inside, order=1)
    values[outside] = 0
    return values
