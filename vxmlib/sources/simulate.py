"""Simulate subjects by deforming the MNI template at random, so that the true warp is known.

A subject is the template, deformed, then scanned by a scanner of its own: tissue contrast, blur,
bias field, noise.  The deformation is the flow of a stationary velocity field v, smooth on two
scales plus a small affine part; the subject shows the template at ``exp(v)(x)``, and ``exp(-v)``
leads back.

What such subjects lack: their anatomy is the template's, bent.  No sulcus is added or missing, no
lesion, no atrophy that a smooth flow cannot produce, and the cortex is as smooth as the average
of 152 heads.  In 2D the flow stays in the plane, which no real pair of slices does.  So two of
them can be matched almost exactly, and real subjects cannot.
"""

import functools

import numpy as np
from scipy import ndimage

from vxmlib import augment, checks, nifti, preprocess, warp
from vxmlib.cohorts import PARTS, Cohort
from vxmlib.sources import labels as structure_labels
from vxmlib.sources import template

# The velocity: Gaussian width of a scale (mm) -> standard deviation of each component (mm).
# Chosen so that the overlap of two subjects is that of affinely aligned ones (Dice 0.5 to 0.65).
SCALES = {2: {20.0: 1.1, 7.0: 1.1}, 3: {20.0: 1.3, 7.0: 1.1}}
SLOPE = 0.015  # of the affine part: 1.5 % stretch or shear, 0.9 degrees
SHIFT_MM = 0.7
LATTICE_MM = 4  # the velocity is drawn on a lattice this coarse
INTEGRATION_MM = {2: 1.0, 3: 2.0}  # the finest grid the flow is integrated on
DEFAULT_PEOPLE = {"train": 40, "validation": 5, "test": 10}
SMALLEST_AREA = 20  # mm2 of a structure in the coronal plane that is worth evaluating in 2D

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
    """Return the template as a subject before any scanner: brightness and structures.

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
        The evaluated structures (`vxmlib.sources.labels.fold_freesurfer`); read-only.
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
    template_part = np.interp(raw + SHARPENING * detail, *CURVE)
    table = np.zeros(max(TISSUE) + 1)
    table[list(TISSUE)] = list(TISSUE.values())
    sulci = np.maximum(template_part - 0.3, 0.15)  # unlabelled voxels are mostly fluid
    drawn = ndimage.gaussian_filter(np.where(labels > 0, table[labels], sulci), 0.6 / spacing)
    near = ndimage.distance_transform_edt(labels == 0, sampling=spacing) <= RIM_MM
    brain = ndimage.binary_fill_holes((raw > 1000) & near | (labels > 0))  # ventricles are 0 in raw
    return np.where(brain, (template_part + drawn) / 2, 0).astype(np.float32)


def displacement(seed, *, ndim=3, spacing=1.0, inverse=False):
    """Return the flow that makes a subject of the template, or the flow back.

    Parameters
    ----------
    seed : int or sequence of int
        Names the subject: the same numbers, the same subject, at every spacing.
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
    """A linear velocity about the middle of the grid, and a shift."""
    ndim = len(lattice)
    slope = SLOPE * generator.standard_normal((ndim, ndim))
    shift = SHIFT_MM * generator.standard_normal(ndim)
    middle = (np.array(lattice) - 1) / 2
    position = (np.moveaxis(np.indices(lattice), 0, -1) - middle) * LATTICE_MM
    return position @ slope.T + shift


def scan(brightness, seed, *, spacing=1.0):
    """Take a subject's T1 scan: contrast, blur, bias field and noise of one scanner.

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
    """Makes the subjects of `mni`, each from (seed, part of the split, number)."""

    def __init__(self, ndim, spacing, seed):
        self.ndim, self.spacing, self.seed = ndim, spacing, seed

    def flow(self, subject, *, inverse):
        """Return the flow from the template to a subject, or the flow back."""
        person = [*self._seed(subject), 0]
        return displacement(person, ndim=self.ndim, spacing=self.spacing, inverse=inverse)

    def person(self, subject):
        """Return image and label map."""
        brightness, labels = anatomy(self.ndim, self.spacing)
        flow = self.flow(subject, inverse=False)
        scanner = [*self._seed(subject), 1]
        image = scan(warp.warp_image(brightness, flow), scanner, spacing=self.spacing)
        return preprocess.normalise(image), warp.warp_labels(labels, flow)

    def _seed(self, subject):
        part, number = subject.rsplit("-", 1)
        return self.seed, PARTS.index(part), int(number)


def _counts(people):
    """How many subjects to simulate for each part."""
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
    """Labels whose area in the template's coronal plane is worth evaluating."""
    labels, areas = np.unique(anatomy(2, 1.0)[1], return_counts=True)
    return {int(n) for n, area in zip(labels, areas, strict=True) if area >= SMALLEST_AREA}


def crossing(structures, ndim):
    """Keep the structures that a 2-D cohort's plane crosses."""
    if ndim == 3:
        return structures
    return {label: name for label, name in structures.items() if label in _in_plane()}
