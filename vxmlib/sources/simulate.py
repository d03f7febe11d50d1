"""Simulate subjects by deforming the MNI template at random, so that the true warp is known.

A subject is the template after a random deformation, imaged by a simulated scanner with random
tissue contrast, blur, bias field and noise.  The deformation is the flow of a stationary velocity
field v, which is smooth on two scales and has a small affine part.  The subject shows at x what
the template shows at ``exp(v)(x)``; ``exp(-v)`` is the inverse.

Simulated subjects lack part of the variation of real ones, because their anatomy is that of the
deformed template.  No sulcus is added or missing, there are no lesions and no atrophy beyond what a
smooth flow can produce, and the cortex is as smooth as in the average of 152 heads.  In 2D the flow
stays in the plane, which does not hold for any pair of real slices.  Two simulated subjects can
therefore be matched almost exactly, unlike real subjects.
"""

import functools

import numpy as np
from scipy import ndimage

from vxmlib import augment, checks, nifti, preprocess, warp
from vxmlib.cohorts import PARTS, Cohort
from vxmlib.sources import labels as structure_labels
from vxmlib.sources import template

# Velocity by ndim: Gaussian width of a scale (mm) -> standard deviation of each component (mm per
# unit time).  Chosen so that two subjects overlap as affinely aligned subjects do (Dice 0.5 to
# 0.65).
SCALES = {2: {20.0: 1.1, 7.0: 1.1}, 3: {20.0: 1.3, 7.0: 1.1}}
SLOPE = 0.015  # standard deviation of the linear part: 1.5 % stretch or shear, 0.9 degrees
SHIFT_MM = 0.7  # standard deviation of the shift along each axis
LATTICE_MM = 4  # spacing of the lattice on which the velocity is drawn
INTEGRATION_MM = {2: 1.0, 3: 2.0}  # by ndim: voxel size of the finest grid for the integration
DEFAULT_PEOPLE = {"train": 40, "validation": 5, "test": 10}
SMALLEST_AREA = 20  # mm2 in the coronal plane; in 2D, smaller structures are not evaluated

# Label -> brightness in a T1 scan, where white matter is 1.  The brightness of voxels without a
# label comes from the template alone.
TISSUE = {2: 1.00, 3: 0.66, 4: 0.22, 7: 0.95, 8: 0.64, 10: 0.82, 11: 0.69, 12: 0.74, 13: 0.88}
TISSUE |= {14: 0.22, 15: 0.22, 16: 0.90, 17: 0.67, 18: 0.67, 24: 0.22, 28: 0.86, 31: 0.40}
TISSUE |= {41: 1.00, 42: 0.66, 43: 0.22, 46: 0.95, 47: 0.64, 49: 0.82, 50: 0.69, 51: 0.74}
TISSUE |= {52: 0.88, 53: 0.67, 54: 0.67, 60: 0.86, 63: 0.40}
# Template intensity -> brightness, to stretch the contrast of an average to that of a single scan.
CURVE = ([0, 2500, 4000, 5850, 7250, 8400], [0.15, 0.20, 0.38, 0.66, 0.98, 1.06])
SHARPENING = 1.5  # the average of 152 heads has blurred sulci; this much detail is added back
RIM_MM = 4.0  # width of the rim that skull stripping leaves around the labelled brain


@functools.cache
def anatomy(ndim=3, spacing=1.0):
    """Return the brightness and the structures of the template, without the effects of a scanner.

    Parameters
    ----------
    ndim : {2, 3}
        2 for the coronal plane at ``template.PLANE_MM``, 3 for the volume.
    spacing : float
        Voxel size in mm.

    Returns
    -------
    brightness : (*vol) float32 ndarray
        White matter near 1, background 0; read-only.
    labels : (*vol) int16 ndarray
        FreeSurfer's numbers of the evaluated structures (`vxmlib.sources.labels.fold_freesurfer`),
        0 elsewhere; read-only.
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
    """Average the brightness of the template and that of the structures, which have sharp edges."""
    detail = raw - ndimage.gaussian_filter(raw, 2.5 / spacing)
    template_part = np.interp(raw + SHARPENING * detail, *CURVE)
    table = np.zeros(max(TISSUE) + 1)
    table[list(TISSUE)] = list(TISSUE.values())
    sulci = np.maximum(template_part - 0.3, 0.15)  # unlabelled voxels are mostly fluid
    drawn = ndimage.gaussian_filter(np.where(labels > 0, table[labels], sulci), 0.6 / spacing)
    near = ndimage.distance_transform_edt(labels == 0, sampling=spacing) <= RIM_MM
    brain = ndimage.binary_fill_holes((raw > 1000) & near | (labels > 0))  # ventricles are 0 in raw
    return np.where(brain, (template_part + drawn) / 2, 0).astype(np.float32)


def displacement(seed, *, ndim=3, spacing=1.0, inverse=False):
    """Return the displacement that deforms the template into a subject, or its inverse.

    Parameters
    ----------
    seed : int or sequence of int
        Identifies the subject: the same seed makes the same subject at every spacing.
    ndim : {2, 3}
        Number of axes of the grid.
    spacing : float
        Voxel size in mm.
    inverse : bool
        Return ``exp(-v)`` instead of ``exp(v)``.

    Returns
    -------
    (*vol, ndim) float32 ndarray
        Displacement u in voxels, ``ij`` order: subject(x) = template(x + u(x)).
    """
    step = max(spacing, INTEGRATION_MM[ndim])
    velocity = augment.upsample(_velocity_mm(seed, ndim), LATTICE_MM / step) / step
    flow = warp.exponential(-velocity if inverse else velocity)
    return (augment.upsample(flow, step / spacing) * (step / spacing)).astype(np.float32)


def _velocity_mm(seed, ndim):
    """Draw a subject's velocity on the lattice, (*lattice, ndim) in mm per unit time."""
    generator = np.random.default_rng(seed)
    axes = [0, 2] if ndim == 2 else [0, 1, 2]
    lattice = tuple(template.FIELD_OF_VIEW_MM[axis] // LATTICE_MM for axis in axes)
    velocity = _affine_part(generator, lattice)
    for width, deviation in SCALES[ndim].items():
        for axis in range(ndim):
            velocity[..., axis] += deviation * augment.unit_field(
                generator, lattice, width / LATTICE_MM
            )
    return velocity


def _affine_part(generator, lattice):
    """Draw the affine part of a velocity: linear about the middle of the grid, plus a shift."""
    ndim = len(lattice)
    slope = SLOPE * generator.standard_normal((ndim, ndim))
    shift = SHIFT_MM * generator.standard_normal(ndim)
    middle = (np.array(lattice) - 1) / 2
    position = (np.moveaxis(np.indices(lattice), 0, -1) - middle) * LATTICE_MM
    return position @ slope.T + shift


def scan(brightness, seed, *, spacing=1.0):
    """Simulate the T1 scan of a subject, with a scanner's contrast, blur, bias field and noise.

    Parameters
    ----------
    brightness : (*vol) float ndarray
        White matter near 1, background 0.
    seed : int or sequence of int
        Identifies the scanner.
    spacing : float
        Voxel size in mm.

    Returns
    -------
    (*vol) float32 ndarray
        White matter near 1, all brain voxels above 0, background exactly 0 as after
        skull-stripping.
    """
    generator = np.random.default_rng(seed)
    brain = brightness > 0
    gamma = np.exp(0.15 * generator.standard_normal())  # contrast of grey and white matter
    image = np.where(brain, brightness, 0) ** gamma
    image = ndimage.gaussian_filter(image, generator.uniform(0.2, 0.5) / spacing)
    image *= np.exp(0.08 * _bias(generator, brain.shape, spacing))
    noise = generator.uniform(0.010, 0.025) * generator.standard_normal((2, *brain.shape))
    image = np.hypot(image + noise[0], noise[1])  # Rician noise: magnitude of a complex signal
    return np.where(brain, np.maximum(image, 1e-3), 0).astype(np.float32)


def _bias(generator, shape, spacing):
    """Draw a field that varies slowly over the head, with standard deviation 1."""
    coarse = tuple(int(n * spacing) // 16 for n in shape)
    field = augment.unit_field(generator, coarse, width=40 / 16)[..., None]
    return augment.upsample(field, 16 / spacing)[..., 0]


def cohort(*, ndim=2, spacing=None, seed=0, people=None):
    """Build the cohort `mni`; see `vxmlib.cohorts.load`."""
    where, _ = template.space(ndim, spacing)
    counts = _counts(people)
    return Cohort(
        name="mni",
        **where,
        split={part: tuple(f"{part}-{k:02d}" for k in range(counts[part])) for part in PARTS},
        structures=crossing(structure_labels.structures(), where["ndim"]),
        licence=template.LICENCE,
        credit=template.CREDIT,
        simulated=True,
        source=People(where["ndim"], where["spacing"], seed),
    )


class People:
    """The simulated subjects of `mni`; each depends on the seed, its part and its number only."""

    def __init__(self, ndim, spacing, seed):
        self.ndim, self.spacing, self.seed = ndim, spacing, seed

    def flow(self, subject, *, inverse):
        """Return the displacement that deforms the template into a subject, or its inverse."""
        person = [*self._seed(subject), 0]
        return displacement(person, ndim=self.ndim, spacing=self.spacing, inverse=inverse)

    def person(self, subject):
        """Return a subject's image, (*vol) float32 in [0, 1], and label map, (*vol) int16."""
        brightness, labels = anatomy(self.ndim, self.spacing)
        flow = self.flow(subject, inverse=False)
        scanner = [*self._seed(subject), 1]
        image = scan(warp.warp_image(brightness, flow), scanner, spacing=self.spacing)
        return preprocess.normalise(image), warp.warp_labels(labels, flow)

    def _seed(self, subject):
        part, number = subject.rsplit("-", 1)
        return self.seed, PARTS.index(part), int(number)


def _counts(people):
    """Return the number of subjects to simulate for each part."""
    if people is None:
        return DEFAULT_PEOPLE
    if isinstance(people, dict):
        if set(people) != set(PARTS):
            raise ValueError(
                f"people: found the keys {', '.join(map(str, people))}, expected {', '.join(PARTS)}"
            )
        return {
            part: checks.check_whole(f"people[{part!r}]", people[part], least=1) for part in PARTS
        }
    total = checks.check_whole("people", people, least=6)
    share = total / sum(DEFAULT_PEOPLE.values())
    held = {part: max(2, round(share * DEFAULT_PEOPLE[part])) for part in PARTS[1:]}
    return {"train": total - sum(held.values()), **held}


@functools.cache
def _in_plane():
    """Return the labels that cover at least `SMALLEST_AREA` of the template's coronal plane."""
    labels, areas = np.unique(anatomy(2, 1.0)[1], return_counts=True)
    return {int(n) for n, area in zip(labels, areas, strict=True) if area >= SMALLEST_AREA}


def crossing(structures, ndim):
    """Keep the structures that the plane of a 2-D cohort crosses; in 3D, keep all structures."""
    if ndim == 3:
        return structures
    return {label: name for label, name in structures.items() if label in _in_plane()}
