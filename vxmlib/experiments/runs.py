"""Train one model from its settings in one call, as the lesson on compile and fit does by steps.

One function each loads the cohort of a run, builds its model and trains it.

A run lives in a folder whose name tells its parameters and ends in a fingerprint of everything
that could change its result. So a finished run is found again, an interrupted one goes on,
and after a change of the code or the data it is a new run.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pooch

from vxmlib import cohorts, models, training
from vxmlib.backend import set_seed
from vxmlib.experiments import dependencies
from vxmlib.experiments.settings import Settings
from vxmlib.networks import NETWORKS, network_class
from vxmlib.networks.precision import layers_in

#: Validation pairs that are registered after each epoch.
VALIDATION_PAIRS = 6


@dataclass(frozen=True)
class Run:
    """A finished run: the trained ``model``, its ``history`` (one row an epoch), its ``folder``."""

    settings: Settings
    model: object
    history: pd.DataFrame
    folder: Path

    @property
    def title(self) -> str:
        """What sets the run apart, for a table or a figure: "NCC, λ = 1", or "..., integrated"."""
        integrated = ", integrated" if self.settings.int_steps else ""
        return f"{self.settings.image_loss.upper()}, λ = {self.settings.lam:g}{integrated}"

    def register(self, moving, fixed):
        """Displacement ``(*vol, nd)`` in voxels that warps ``moving`` onto ``fixed``."""
        return models.register(self.model, moving, fixed)


def load_cohort(settings: Settings, **options) -> cohorts.Cohort:
    """The subjects of a run.

    The subjects are the data set and stay the same for every ``settings.seed``, so that two
    seeds differ in the training alone. Further options go to :func:`vxmlib.cohorts.load`.

    Examples
    --------
    >>> load_cohort(Settings(profile="smoke")).shape
    (80, 80)
    """
    return cohorts.load(
        settings.cohort,
        ndim=settings.ndim,
        spacing=settings.spacing,
        root=settings.root,
        people=settings.people if settings.cohort == "mni" else None,
        **options,
    )


def output_folder() -> Path:
    """Where records go: ``VXMLIB_OUTPUT``, or the user's cache folder."""
    return Path(os.environ.get("VXMLIB_OUTPUT") or pooch.os_cache("vxmlib") / "output")


def runs_folder() -> Path:
    """Where runs are kept: ``VXMLIB_RUNS``, or ``runs`` in the output folder."""
    return Path(os.environ.get("VXMLIB_RUNS") or output_folder() / "runs")


def run_folder(settings: Settings) -> Path:
    """The folder of one run."""
    return runs_folder() / f"{settings.name}-{fingerprint(settings)}"


def fingerprint(settings: Settings) -> str:
    """Eight hexadecimal digits of all that a run's result depends on."""
    digest = hashlib.sha256(repr(settings).encode())
    network = NETWORKS[settings.network].partition(":")[0]
    used = dependencies.modules(__name__, cohorts.SOURCES[settings.cohort], network)
    for file in dependencies.files(used):
        digest.update(file.read_bytes())
    digest.update(dependencies.versions(used).encode())
    if settings.root is not None:  # by name, size and time: hashing gigabytes would take minutes
        for file in sorted(Path(settings.root).expanduser().rglob("*.nii*")):
            digest.update(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:8]


def build_model(settings: Settings, shape):
    """The compiled, untrained model of a run, from the run's seed."""
    set_seed(settings.seed)
    with layers_in(settings.precision):
        return models.build(
            shape,
            image_loss=settings.image_loss,
            lam=settings.lam,
            int_steps=settings.int_steps,
            learning_rate=settings.learning_rate,
            features=settings.features,
            network=network_class(settings.network),
        )


def validation_pairs(people: cohorts.Cohort) -> list[tuple[str, str]]:
    """The ordered pairs of validation subjects that every run watches."""
    return cohorts.ordered_pairs(people.split["validation"], limit=VALIDATION_PAIRS)


def pairs_of(people: cohorts.Cohort, part: str) -> list[tuple[str, str]]:
    """All ordered pairs of one part of the cohort, such as "validation".

    Raises
    ------
    ValueError
        The cohort has no such part.

    Examples
    --------
    >>> people = load_cohort(Settings(profile="smoke"))
    >>> pairs_of(people, "validation")[0]
    ('validation-00', 'validation-01')
    >>> pairs_of(people, "all")
    Traceback (most recent call last):
    ...
    ValueError: part: found 'all', expected one of: train, validation, test
    """
    if part not in people.split:
        raise ValueError(f"part: found {part!r}, expected one of: {', '.join(people.split)}")
    return cohorts.ordered_pairs(people.split[part])


def callbacks(settings: Settings) -> list:
    """What Keras' fit() does for the learning rate: nothing, or a fall along half a cosine.

    At a constant rate a short training ends wherever its last zigzag was. A rate that falls to
    nothing ends nearer to the middle, so that runs differ by their parameters, not by luck.
    """
    if settings.schedule == "constant":
        return []
    return [training.cosine_schedule(settings.learning_rate, settings.epochs)]


def run(settings: Settings, people: cohorts.Cohort | None = None) -> Run:
    """Train by the settings, or find the run that did.

    Parameters
    ----------
    settings : Settings
        What to train.
    people : Cohort, optional
        The cohort, when it is loaded already.

    Returns
    -------
    Run
        With the weights of the last step: the number of steps is part of the recipe.
    """
    people = people or load_cohort(settings)
    watched = validation_pairs(people)
    monitor = training.RegistrationMonitor(people, watched)
    return train(settings, people, run_folder(settings), monitors=[monitor], validation=watched)


def train(settings: Settings, people, folder, *, model=None, monitors=(), validation=None) -> Run:
    """Train in a folder, or go on there.

    Parameters
    ----------
    settings : Settings
    people : Cohort
    folder : path
        See ``run_dir`` of :func:`vxmlib.training.fit`.
    model : compiled model, optional
        In place of that of :func:`build_model`.
    monitors : sequence of tf.keras.callbacks.Callback
        What looks at validation subjects during the training.
    validation : sequence of (moving id, fixed id), optional
        Pairs on which the loss is computed after each epoch.

    Returns
    -------
    Run
    """
    model = model or build_model(settings, people.shape)
    history = training.fit(
        model,
        people,
        people.split["train"],
        run_dir=folder,
        epochs=settings.epochs,
        steps_per_epoch=settings.steps_per_epoch,
        batch_size=settings.batch_size,
        seed=settings.seed,
        augment=settings.augment,
        both_ways=settings.both_ways,
        validation=validation,
        callbacks=[*monitors, *callbacks(settings)],
        more_settings=_course(settings),
    )
    return Run(settings, model, history, Path(folder))


def _course(settings):
    """How the rate runs: it is in a callback, where a resumed training would not see it change."""
    if settings.schedule == "constant":
        return {"schedule": "constant"}
    return {"schedule": settings.schedule, "schedule_epochs": settings.epochs}


def grid_folder(name: str, settings: Settings) -> Path:
    """Where `make lambda` (or the book's build) leaves the records of a grid."""
    base = Path(os.environ.get("VXMLIB_GRIDS") or output_folder() / "lambda")
    return base / f"{name}-{settings.cohort}-{settings.profile}"
