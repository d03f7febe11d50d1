"""Make people from the MNI template by random diffeomorphisms, so that the true warp is known.

A person is the template, deformed, then scanned by a scanner of its own: tissue contrast, blur,
bias field, noise.  The deformation is the flow of a stationary velocity field v, smooth on two
scales plus a small affine part; the person shows the template at ``exp(v)(x)``, and ``exp(-v)``
leads back.

What such people lack: their anatomy is the template's, bent.  No sulcus is added or missing, no
lesion, no atrophy that a smooth flow cannot produce, and the cortex is as smooth as the average
of 152 heads.  In 2D the flow stays in the plane, which no real pair of slices does.  So two of
them can be matched almost exactly, and real people cannot.
"""

import functools

import numpy as np
from scipy import ndimage

from vxmlib import labels as structure_labels
from vxmlib import nifti, preprocess, template, warp

# The velocity: Gaussian width of a scale (mm) -> standard deviation of each component (mm).
# Chosen so that the overlap of two people is that of affinely aligned ones (Dice 0.5 to 0.65).
SCALES = {2: {20.0: 1.1, 7.0: 1.1}, 3: {20.0: 1.3, 7.0: 1.1}}
SLOPE = 0.015  # of the affine part: 1.5 % stretch or shear, 0.9 degrees
SHIFT_MM = 0.7
LATTICE_MM = 4  # the velocity is drawn on a lattice this coarse
INTEGRATION_MM = {2: 1.0, 3: 2.0}  # the finest grid the flow is integrated on
SQUARINGS = 6  # the first step is exp(v / 64), a small part of a voxel

# Brightness in a T1 scan: white matter 1; voxels without a label follow the template alone.
TISSUE = {2: 1.00, 3: 0.66, 4: 0.22, 7: 0.95, 8: 0.64, 10: 0.82, 11: 0.69, 12: 0.74, 13: 0.88}
TISSUE |= {14: 0.22, 15: 0.22, 16: 0.90, 17: 0.67, 18: 0.67, 24: 0.22, 28: 0.86, 31: 0.40}
TISSUE |= {41: 1.00, 42: 0.66, 43: 0.22, 46: 0.95, 47: 0.64, 49: 0.82, 50: 0.69, 51: 0.74}
TISSUE |= {52: 0.88, 53: 0.67, 54: 0.67, 60: 0.86, 63: 0.40}
# The template's own values, stretched from an average's contrast to a single scan's.
CURVE = ([0, 2500, 4000, 5850, 7250, 8400], [0.15, 0.20, 0.38, 0.66, 0.98, 1.06])
SHARPENING = 1.5  # the average of 152 heads has blurred sulci; this much detail is added back
RIM_MM = 4.0  # skull stripping leaves this much around the labelled brain


@functools.cache
def anatomy(ndim=3, spacing=1.0):
    """Return the template as a person before any scanner: brightness and structures.

    Parameters
    ----------
    ndim : {2, 3}
        2 gives the coronal plane ``template.PLANE_MM``.
    spacing : float
        Voxel size in mm.

    Returns
    -------
    brightness : (*vol) float32 ndarray
        White matter near 1, background 0; read-only.
    labels : (*vol) int16 ndarray
        The evaluated structures (`vxmlib.labels.fold_freesurfer`); read-only.
    """
    shape, affine = template.grid(spacing) if ndim == 3 else template.plane(spacing)
    raw = preprocess.resample(*nifti.read_image(template.brain_path()), shape, affine)
    atlas, atlas_affine = nifti.read_labels(template.atlas_path())
    atlas = preprocess.resample(atlas, atlas_affine, shape, affine, labels=True)
    right = affine[0, 3] + spacing * np.arange(shape[0]) > 0
    labels = structure_labels.fold_freesurfer(atlas, right.reshape(-1, 1, 1))
    brightness = _brightness(raw, labels, spacing)
    if ndim == 2:
        brightness, labels = brightness[:, 0], labels[:, 0]
    brightness.setflags(write=False)
    labels.setflags(write=False)
    return brightness, labels


def _brightness(raw, labels, spacing):
    """Half the template's own brightness, half that of the structures, which have edges."""
    detail = raw - ndimage.gaussian_filter(raw, 2.5 / spacing)
    own = np.interp(raw + SHARPENING * detail, *CURVE)
    table = np.zeros(max(TISSUE) + 1)
    table[list(TISSUE)] = list(TISSUE.values())
    sulci = np.maximum(own - 0.3, 0.15)  # unlabelled voxels are mostly fluid
    drawn = ndimage.gaussian_filter(np.where(labels > 0, table[labels], sulci), 0.6 / spacing)
    near = ndimage.distance_transform_edt(labels == 0, sampling=spacing) <= RIM_MM
    brain = ndimage.binary_fill_holes((raw > 1000) & near | (labels > 0))  # ventricles are 0 in raw
    return np.where(brain, (own + drawn) / 2, 0).astype(np.float32)


def displacement(seed, *, ndim=3, spacing=1.0, inverse=False):
    """Return the flow that makes a person of the template, or the flow back.

    Parameters
    ----------
    seed : int or sequence of int
        Names the person: the same numbers, the same person, at every spacing.
    ndim : {2, 3}
    spacing : float
        Voxel size in mm.
    inverse : bool
        Return ``exp(-v)`` instead of ``exp(v)``.

    Returns
    -------
    (*vol, ndim) float32 ndarray
        In voxels, ``ij`` order: person(x) = template(x + u(x)).
    """
    step = max(spacing, INTEGRATION_MM[ndim])
    velocity = upsample(_velocity_mm(seed, ndim), LATTICE_MM / step) / step
    flow = exponential(-velocity if inverse else velocity)
    return (upsample(flow, step / spacing) * (step / spacing)).astype(np.float32)


def _velocity_mm(seed, ndim):
    """Draw a person's velocity on the lattice, (*lattice, ndim) in mm per unit time."""
    generator = np.random.default_rng(seed)
    axes = [0, 2] if ndim == 2 else [0, 1, 2]
    lattice = tuple(template.FIELD_OF_VIEW_MM[axis] // LATTICE_MM for axis in axes)
    velocity = _affine_part(generator, lattice)
    for width, deviation in SCALES[ndim].items():
        for axis in range(ndim):
            velocity[..., axis] += deviation * unit_field(generator, lattice, width / LATTICE_MM)
    return velocity


def _affine_part(generator, lattice):
    """A linear velocity about the middle of the grid, and a shift."""
    ndim = len(lattice)
    slope = SLOPE * generator.standard_normal((ndim, ndim))
    shift = SHIFT_MM * generator.standard_normal(ndim)
    middle = (np.array(lattice) - 1) / 2
    position = (np.moveaxis(np.indices(lattice), 0, -1) - middle) * LATTICE_MM
    return position @ slope.T + shift


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
        flow = warp.compose(flow, flow)
    return flow


def scan(brightness, seed, *, spacing=1.0):
    """Take a person's T1 scan: contrast, blur, bias field and noise of one scanner.

    Parameters
    ----------
    brightness : (*vol) float ndarray
        White matter near 1, background 0.
    seed : int or sequence of int
        Names the scanner.
    spacing : float
        Voxel size in mm.

    Returns
    -------
    (*vol) float32 ndarray
        White matter near 1, above 0 in the brain; background exactly 0, as skull-stripped.
    """
    generator = np.random.default_rng(seed)
    brain = brightness > 0
    gamma = np.exp(0.15 * generator.standard_normal())  # grey against white matter
    image = np.where(brain, brightness, 0) ** gamma
    image = ndimage.gaussian_filter(image, generator.uniform(0.2, 0.5) / spacing)
    image *= np.exp(0.08 * _bias(generator, brain.shape, spacing))
    noise = generator.uniform(0.010, 0.025) * generator.standard_normal((2, *brain.shape))
    image = np.hypot(image + noise[0], noise[1])  # the length of a complex signal: Rician
    return np.where(brain, np.maximum(image, 1e-3), 0).astype(np.float32)


def _bias(generator, shape, spacing):
    """A slow change over the head, standard deviation 1."""
    coarse = tuple(int(n * spacing) // 16 for n in shape)
    field = unit_field(generator, coarse, width=40 / 16)[..., None]
    return upsample(field, 16 / spacing)[..., 0]
