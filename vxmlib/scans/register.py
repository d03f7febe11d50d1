"""Register two scans in 3D: align both to the template, apply the network, optimise, compose."""

import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from vxmlib import preprocess
from vxmlib.checks import check_choice, check_whole
from vxmlib.methods.instance import InstanceOptimiser
from vxmlib.scans import network
from vxmlib.scans.inputs import InputError, check_different
from vxmlib.scans.mapping import Mapping
from vxmlib.scans.settings import ALIGNMENTS, OPTIMISER, SPACINGS, STEPS
from vxmlib.sources import align, template

_LARGEST_BRAIN = 2600.0  # ml above 5 % of the highest intensity; a head with skull has about 4000
_LEAST_OVERLAP = 0.85  # Dice of the brain masks of scan and template; it is above 0.95 in `malf`
_LEAST_STRETCH = 0.7  # smallest by largest scale of the affine alignment; above 0.78 in `malf`


@dataclass(frozen=True, eq=False)
class Registration:
    """What :func:`register` found.

    Attributes
    ----------
    mapping : Mapping
        From positions of the fixed scan to positions of the moving scan.
    moving, fixed : (*vol) float32 ndarray
        The aligned scans on the network's grid, in [0, 1].
    overlap : dict
        ``"moving"`` and ``"fixed"``: how well each scan fits the template, as returned by
        :func:`vxmlib.sources.align.quality`.
    seconds : dict
        Step -> seconds, in the order of the steps.
    """

    mapping: Mapping
    moving: np.ndarray
    fixed: np.ndarray
    overlap: dict
    seconds: dict = field(default_factory=dict)


def register(
    moving,
    fixed,
    *,
    weights=None,
    spacing=2.0,
    steps=STEPS,
    alignment="affine",
    check=True,
    say=None,
):
    """Register a moving scan to a fixed scan.

    Parameters
    ----------
    moving, fixed : vxmlib.scans.inputs.Scan
        Skull-stripped T1 scans.
    weights : path, optional
        Network to use instead of the one that the package ships.
    spacing : {2.0, 1.0}
        Voxel size in mm at which the pair is optimised. With 1.0, the result of the network at
        2 mm is optimised at 1 mm, which takes more time and memory.
    steps : int
        Number of steps of instance optimisation; 0 for none.
    alignment : {"affine", "centre", "none"}
        How each scan is aligned to the template: by an affine transform, by its centre of mass, or
        not at all because it lies in MNI space.
    check : bool
        Whether to refuse a scan that looks as if it had a skull or were not aligned.
    say : callable, optional
        Called with the name of each step when it begins.

    Returns
    -------
    Registration

    Raises
    ------
    InputError
        If the scans are the same, a scan looks as if it had a skull, a scan cannot be aligned, or
        the weights cannot be used.
    ValueError
        If an option is invalid.
    """
    check_choice("spacing", spacing, SPACINGS)
    check_choice("alignment", alignment, ALIGNMENTS)
    steps = check_whole("steps", steps, least=0)
    check_different(moving, fixed)
    clock = _Clock(say)
    scans = {"moving": moving, "fixed": fixed}
    matrices, overlap = {}, {}
    for role, scan in scans.items():
        with clock.step(f"align the {role} scan"):
            if check:
                _check_stripped(scan)
            matrices[role] = _matrix(scan, alignment)
            overlap[role] = align.quality(scan.image, scan.affine, matrices[role])["after"]
            if check:
                _check_aligned(scan, matrices[role], overlap[role])
    shape, affine = template.grid(2.0)
    images = {role: _placed(scan, matrices[role], 2.0) for role, scan in scans.items()}
    with clock.step("load the network"):
        apply = network.load(weights, shape, affine)
    with clock.step("apply the network"):
        displacement = apply(images["moving"], images["fixed"])
    if spacing != 2.0:
        finer_shape, finer = template.grid(spacing)
        mapping = Mapping(np.eye(4), displacement, affine, np.eye(4))
        displacement, affine = mapping.on_grid(finer_shape, finer), finer
        images = {role: _placed(scan, matrices[role], spacing) for role, scan in scans.items()}
    if steps:
        with clock.step("optimise"):
            optimise = InstanceOptimiser(displacement.shape[:3], **OPTIMISER)
            displacement, _ = optimise(displacement, images["moving"], images["fixed"], steps=steps)
    mapping = Mapping(np.linalg.inv(matrices["fixed"]), displacement, affine, matrices["moving"])
    return Registration(mapping, **images, overlap=overlap, seconds=clock.seconds)


def _matrix(scan, alignment):
    """Return the matrix, template RAS mm -> scan RAS mm, of the chosen alignment."""
    if alignment == "none":
        return np.eye(4)
    how = {"affine": align.affine_by_simpleitk, "centre": align.centring}[alignment]
    return how(scan.image, scan.affine)


def _placed(scan, matrix, spacing):
    """Resample a scan to the template's grid, and scale its intensities to [0, 1]."""
    shape, affine = template.grid(spacing)
    where = {"matrix": matrix, "keep_background": True}
    return preprocess.normalise(
        preprocess.resample(scan.image, scan.affine, shape, affine, **where)
    )


def _check_stripped(scan):
    millilitres = (scan.image > 0.05 * scan.image.max()).sum() * np.prod(scan.spacing) / 1000
    if millilitres > _LARGEST_BRAIN:
        raise InputError(
            f"{scan.path}: found {millilitres:.0f} ml above 5 % of the highest intensity, expected "
            f"a brain without skull, of at most {_LARGEST_BRAIN:.0f} ml. Remove the skull first, "
            "for example with HD-BET, SynthStrip (mri_synthstrip) or ANTs "
            "(antsBrainExtraction.sh)."
        )


def _check_aligned(scan, matrix, overlap):
    scales = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if overlap["mask_dice"] < _LEAST_OVERLAP or scales.min() / scales.max() < _LEAST_STRETCH:
        raise InputError(
            f"{scan.path}: found a poor fit to the template (overlap of the brains: Dice "
            f"{overlap['mask_dice']:.2f}; smallest by largest scale: "
            f"{scales.min() / scales.max():.2f}), expected at least {_LEAST_OVERLAP} and "
            f"{_LEAST_STRETCH}. The scan may have parts of the skull, lack parts of the brain, be "
            "turned by more than 45 degrees, or not be the brain of an adult."
        )


class _Clock:
    """Measures the seconds of each step, and says when a step begins."""

    def __init__(self, say):
        self.seconds, self._say = {}, say or (lambda text: None)

    @contextmanager
    def step(self, name):
        self._say(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
