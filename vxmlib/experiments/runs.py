"""Train a model from its settings in one call, or reuse the training run that exists already.

Separate functions load the cohort of a run, build its model and train it. The lesson on compile and
fit does the same step by step.

Each run has a folder. Its name contains the main parameters and ends in a fingerprint of everything
that could change the result. The same call therefore reuses a finished run and resumes an
interrupted one, but a change of the code or the data starts a new run.
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
from vxmlib.networks import NETWORKS, network_class, probabilistic
from vxmlib.networks.precision import layers_in
from vxmlib.sources.atlas import ATLAS, TEMPLATE, with_atlas

#: Number of validation pairs that are registered after each epoch.
VALIDATION_PAIRS = 6


@dataclass(frozen=True)
class Run:
    """A finished run: its settings, trained model, history (one row per epoch) and folder."""

    settings: Settings
    model: object
    history: pd.DataFrame
    folder: Path

    @property
    def title(self) -> str:
        """Name of the run in tables and figures: "NCC, λ = 1" or "NCC, λ = 1, integrated"."""
        integrated = ", integrated" if self.settings.int_steps else ""
        atlas = ", to the atlas" if self.settings.atlas else ""
        return f"{self.settings.image_loss.upper()}, λ = {self.settings.lam:g}{integrated}{atlas}"

    def register(self, moving, fixed):
        """Return the displacement ``(*vol, nd)`` in voxels that warps ``moving`` onto ``fixed``."""
        return models.register(self.model, moving, fixed)


def load_cohort(settings: Settings, **options) -> cohorts.Cohort:
    """Open the cohort of a run, with the atlas as an additional subject if the run has one.

    The subjects do not depend on ``settings.seed``, so runs with different seeds differ only in
    their training. Further options go to :func:`vxmlib.cohorts.load`.

    Examples
    --------
    >>> load_cohort(Settings(profile="smoke")).shape
    (80, 80)
    """
    people = cohorts.load(
        settings.cohort,
        ndim=settings.ndim,
        spacing=settings.spacing,
        root=settings.root,
        people=settings.people if settings.cohort == "mni" else None,
        **options,
    )
    return with_atlas(people, settings.atlas) if settings.atlas else people


def output_folder() -> Path:
    """Return the folder for records: ``$VXMLIB_OUTPUT``, or one in the user's cache folder."""
    return Path(os.environ.get("VXMLIB_OUTPUT") or pooch.os_cache("vxmlib") / "output")


def runs_folder() -> Path:
    """Return the folder for runs: ``$VXMLIB_RUNS``, or ``runs`` in the output folder."""
    return Path(os.environ.get("VXMLIB_RUNS") or output_folder() / "runs")


def run_folder(settings: Settings) -> Path:
    """Return the folder of one run."""
    return runs_folder() / f"{settings.name}-{fingerprint(settings)}"


def fingerprint(settings: Settings) -> str:
    """Return a hash, of eight hexadecimal digits, of everything that a run's result depends on."""
    digest = hashlib.sha256(repr(settings).encode())
    network = NETWORKS[settings.network].partition(":")[0]
    used = dependencies.modules(__name__, cohorts.SOURCES[settings.cohort], network)
    for file in dependencies.files(used):
        digest.update(file.read_bytes())
    digest.update(dependencies.versions(used).encode())
    for file in _files_of_the_user(settings):  # hashing gigabytes would take minutes
        digest.update(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:8]


def _files_of_the_user(settings):
    """Return the files that a run reads besides those of the package and the downloaded scans."""
    scans = Path(settings.root).expanduser().rglob("*.nii*") if settings.root is not None else ()
    if settings.atlas in (None, TEMPLATE):
        return sorted(scans)
    atlas = Path(settings.atlas).expanduser()
    stem = atlas.name.removesuffix(".gz").removesuffix(".nii")
    return [*sorted(scans), *sorted(path for path in atlas.parent.glob(f"{stem}*"))]


def build_model(settings: Settings, shape):
    """Build and compile the untrained model of a run for images of ``shape``, with its seed.

    Raises
    ------
    ValueError
        If ``shape`` is 3D, its first size is below 48, and the precision is not float32. TensorFlow
        2.21 then computes wrong gradients on CPUs with bfloat16 instructions, because the first
        axis has only two voxels at the coarsest level.
    """
    if settings.precision != "float32" and len(shape) == 3 and shape[0] < 48:
        raise ValueError(
            f"precision: found {settings.precision!r} with images of {shape[0]} voxels along the "
            "first axis, expected at least 48, because TensorFlow computes wrong gradients for "
            "smaller 3D images in this precision; use float32"
        )
    set_seed(settings.seed)
    if settings.image_sigma is not None:
        return probabilistic.build(
            shape,
            prior_lambda=settings.lam,
            image_sigma=settings.image_sigma,
            learning_rate=settings.learning_rate,
            int_steps=settings.int_steps,
            features=settings.features,
        )
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


def observed_labels(settings: Settings, people: cohorts.Cohort) -> tuple[int, ...] | None:
    """Return the labels with which a run trains, or None if it trains without labels.

    Examples
    --------
    >>> settings = Settings(profile="smoke", label_weight=0.5)
    >>> len(observed_labels(settings, load_cohort(settings)))
    23
    """
    if not settings.label_weight:
        return None
    return tuple(people.structures) if settings.observed is None else settings.observed


def validation_pairs(people: cohorts.Cohort) -> list[tuple[str, str]]:
    """Return the validation pairs that :func:`run` registers after each epoch."""
    return pairs_of(people, "validation", limit=VALIDATION_PAIRS)


def pairs_of(people: cohorts.Cohort, part: str, limit=None) -> list[tuple[str, str]]:
    """Return pairs of ids in one part of the cohort, such as "validation".

    In a cohort with an atlas, each subject is paired with the atlas. In other cohorts, the pairs
    are all ordered pairs of two subjects in random order, or the first ``limit`` of them.

    Raises
    ------
    ValueError
        If the cohort has no such part.

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
    if ATLAS in people.split:
        return [(subject, ATLAS) for subject in people.split[part]][:limit]
    return cohorts.ordered_pairs(people.split[part], limit=limit)


def callbacks(settings: Settings) -> list:
    """Return the callbacks for the learning rate: none, or a cosine learning-rate schedule.

    At a constant rate, the weights of a short training still fluctuate in its last steps. A rate
    that falls to zero reduces this fluctuation, so that runs differ by their parameters rather
    than by chance.
    """
    if settings.schedule == "constant":
        return []
    return [training.cosine_schedule(settings.learning_rate, settings.epochs)]


def run(settings: Settings, people: cohorts.Cohort | None = None) -> Run:
    """Train with these settings, or reuse the run that did; an interrupted run is resumed.

    Parameters
    ----------
    settings : Settings
        Settings of the run.
    people : Cohort, optional
        The cohort of the run, if it is loaded already, see :func:`load_cohort`.

    Returns
    -------
    Run
        Its model has the weights of the last step, because the number of steps is a setting. It is
        the registration network alone, also if the run trained with labels.
    """
    people = people or load_cohort(settings)
    watched = validation_pairs(people)
    monitor = training.RegistrationMonitor(people, watched)
    return train(settings, people, run_folder(settings), monitors=[monitor], validation=watched)


def train(settings: Settings, people, folder, *, model=None, monitors=(), validation=None) -> Run:
    """Train in a given folder, or resume the run in this folder.

    Parameters
    ----------
    settings : Settings
    people : Cohort
        The cohort of :func:`load_cohort`.
    folder : path
        See ``run_dir`` of :func:`vxmlib.training.fit`.
    model : compiled model, optional
        Model to train instead of that of :func:`build_model`.
    monitors : sequence of tf.keras.callbacks.Callback
        Callbacks that evaluate the validation subjects during the training.
    validation : sequence of (moving id, fixed id), optional
        Pairs on which the loss is computed after each epoch.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If only one of the settings and the cohort has an atlas, or as
        :func:`vxmlib.training.fit`.
    """
    if (settings.atlas is not None) != (ATLAS in people.split):
        raise ValueError(
            f"people: found a cohort with{'out' * (ATLAS not in people.split)} an atlas for "
            f"settings with atlas={settings.atlas!r}; use the cohort of runs.load_cohort(settings)"
        )
    model = model or build_model(settings, people.shape)
    observed = observed_labels(settings, people)
    history = training.fit(
        models.with_labels(model, len(observed), weight=settings.label_weight)
        if observed
        else model,
        people,
        people.split["train"],
        run_dir=folder,
        epochs=settings.epochs,
        steps_per_epoch=settings.steps_per_epoch,
        batch_size=settings.batch_size,
        seed=settings.seed,
        atlas=people.image(ATLAS) if settings.atlas else None,
        augment=settings.augment,
        both_ways=settings.both_ways,
        observed=observed,
        validation=validation,
        callbacks=[*monitors, *callbacks(settings)],
        more_settings=_course(settings),
    )
    return Run(settings, model, history, Path(folder))


def _course(settings):
    """Return the schedule as settings, since :func:`training.fit` does not compare callbacks."""
    if settings.schedule == "constant":
        return {"schedule": "constant"}
    return {"schedule": settings.schedule, "schedule_epochs": settings.epochs}


def grid_folder(name: str, settings: Settings) -> Path:
    """Return the folder in which `make lambda` or the book's build writes the records of a grid.

    It is in ``$VXMLIB_GRIDS``, or in ``lambda`` in the output folder.
    """
    base = Path(os.environ.get("VXMLIB_GRIDS") or output_folder() / "lambda")
    return base / f"{name}-{settings.cohort}-{settings.profile}"
