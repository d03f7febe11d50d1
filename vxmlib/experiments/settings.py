"""Define and check the settings from which every run is built and trained.

A lesson reads its settings from its parameter cell (:func:`read_parameters`). Each point of a λ
grid and each training of ``config/real.yaml`` also has its settings. The profile supplies the
values that are not given. A wrong value raises an error at once, before any training.
"""

import ast
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from vxmlib import checks
from vxmlib.augment import Augmentation
from vxmlib.networks import NETWORKS, PRECISIONS

COHORTS = ("mni", "malf", "own")
IMAGE_LOSSES = ("ncc", "mse")
SCHEDULES = ("constant", "cosine")

#: Values by profile. ``smoke`` tests that a page runs, ``quick`` makes what the book shows, and
#: ``full`` trains in 3D at 1 mm on a GPU, with the VoxelMorph paper's 150 000 steps of one pair
#: (arXiv:1809.05231, section V-A).
PROFILES = {
    "smoke": {
        "ndim": 2,
        "spacing": 2.0,
        "people": {"train": 5, "validation": 2, "test": 3},
        "epochs": 2,
        "steps_per_epoch": 3,
        "learning_rate": 1e-3,
        "pairs": 3,
    },
    "quick": {
        "ndim": 2,
        "spacing": 1.0,
        "people": {"train": 40, "validation": 5, "test": 10},
        "epochs": 25,
        "steps_per_epoch": 40,
        "learning_rate": 5e-4,
        "pairs": 30,
    },
    "full": {
        "ndim": 3,
        "spacing": 1.0,
        "people": {"train": 100, "validation": 10, "test": 20},
        "epochs": 1500,
        "steps_per_epoch": 100,
        "learning_rate": 1e-4,
        "pairs": 90,
    },
}
#: Settings that the parameter cell of a lesson may contain.
PARAMETERS = (
    "cohort profile seed lam image_loss int_steps root spacing learning_rate schedule atlas "
    "label_weight".split()
)
#: Settings that the lessons leave at their defaults and that their records do not contain.
_NETWORK = ("network", "features", "augment", "both_ways", "precision", "image_sigma")
#: Settings that names and records contain only if the run trains with labels.
_LABELS = ("label_weight", "observed")


@dataclass(frozen=True)
class Settings:
    """Checked settings of one run: data, network, loss and training.

    Parameters
    ----------
    cohort : {"mni", "malf", "own"}
        Simulated subjects, real subjects that are downloaded, or the scans in a folder of yours
        (``root``).
    profile : {"smoke", "quick", "full"}
        Amount of work. It supplies every parameter below that is None, see :data:`PROFILES`.
    seed : int
        Seed of all random numbers of the run, at least 0.
    lam : float
        λ, the weight of the smoothness term, finite and at least 0.
    image_loss : {"ncc", "mse"}
        The similarity term of the loss.
    int_steps : int
        Integration steps of the velocity, at least 0; with 0, the network predicts the displacement
        itself.
    root : str or None
        Folder of NIfTI files; required for ``cohort="own"``, None for all other cohorts.
    schedule : {"constant", "cosine"}
        Learning-rate schedule; "cosine" decreases the rate towards 0 at the end of the last epoch.
    batch_size : int
        Number of pairs per step, at least 1.
    spacing, learning_rate : float, optional
        Voxel size in mm, and learning rate of Adam; both above 0.
    ndim : {2, 3}, optional
        2 for coronal slices, 3 for volumes.
    people : mapping, optional
        Number of ``train``, ``validation`` and ``test`` subjects of the simulated cohort. Real
        cohorts have their own split.
    epochs, steps_per_epoch : int, optional
        Number of epochs, and of optimiser steps in each; both at least 1.
    pairs : int, optional
        Number of ordered test pairs that a lesson evaluates, at least 1.
    network : {"vxm", "strided"}
        voxelmorph's VxmDense, or :class:`vxmlib.networks.strided.StridedVxmDense`.
    features : str
        Number of filters in each convolution, as a name of :data:`vxmlib.models.FEATURES`.
    augment : Augmentation or mapping, optional
        Random augmentation of the training images, or a mapping with the arguments of
        :class:`vxmlib.augment.Augmentation`. None: no augmentation.
    both_ways : bool
        Whether to train on both directions of each pair, see :func:`vxmlib.pairs.pair_dataset`.
    precision : {"float32", "mixed_bfloat16"}
        Precision of the convolutions, see :mod:`vxmlib.networks.precision`.
    atlas : str, optional
        Fixed image of all training pairs: "template" or the path of a file, see
        :func:`vxmlib.sources.atlas.with_atlas`. None: pairs of subjects.
    image_sigma : float, optional
        Makes the network probabilistic, see :func:`vxmlib.networks.probabilistic.build`; then
        ``lam`` is ``prior_lambda``. It requires ``image_loss="mse"``, the network "vxm" in float32,
        and ``lam`` and ``int_steps`` above 0.
    label_weight : float
        Weight of the Dice loss of the observed structures, see
        :func:`vxmlib.models.with_labels`; at least 0. With 0, the run uses no labels.
    observed : sequence of int, optional
        Labels of the observed structures; None with a ``label_weight`` above 0 stands for all
        structures of the cohort.

    Raises
    ------
    ValueError
        If a value is invalid. The message names the parameter, the value and what was expected.

    Examples
    --------
    >>> settings = Settings(lam=0.5)
    >>> settings.name, settings.epochs
    ('mni-quick-ncc-lam0.5-int0-seed0', 25)
    >>> Settings(lam=-1)
    Traceback (most recent call last):
    ...
    ValueError: lam: found -1, expected a finite number of at least 0
    """

    cohort: str = "mni"
    profile: str = "quick"
    seed: int = 0
    lam: float = 1.0
    image_loss: str = "ncc"
    int_steps: int = 0
    root: str | None = None
    schedule: str = "constant"
    batch_size: int = 1
    spacing: float | None = None
    learning_rate: float | None = None
    ndim: int | None = None
    people: Mapping[str, int] | None = None
    epochs: int | None = None
    steps_per_epoch: int | None = None
    pairs: int | None = None
    network: str = "vxm"
    features: str = "vxm2"
    augment: Augmentation | None = None
    both_ways: bool = False
    precision: str = "float32"
    atlas: str | None = None
    image_sigma: float | None = None
    label_weight: float = 0.0
    observed: tuple[int, ...] | None = None

    def __post_init__(self):
        checks.check_choice("profile", self.profile, PROFILES)
        for name, value in PROFILES[self.profile].items():
            if getattr(self, name) is None:
                self._set(name, value)
        for name, choices in (
            ("cohort", COHORTS),
            ("image_loss", IMAGE_LOSSES),
            ("schedule", SCHEDULES),
            ("network", NETWORKS),
            ("precision", PRECISIONS),
            ("ndim", (2, 3)),
        ):
            checks.check_choice(name, getattr(self, name), choices)
        for name in ("seed", "int_steps"):
            checks.check_whole(name, getattr(self, name))
        for name in ("epochs", "steps_per_epoch", "batch_size", "pairs"):
            checks.check_whole(name, getattr(self, name), least=1)
        # 1 (in the YAML of a grid) and 1.0 (in a lesson's parameters) have to name the same run.
        self._set("lam", checks.check_number("lam", self.lam, least=0))
        for name in ("spacing", "learning_rate"):
            self._set(name, checks.check_number(name, getattr(self, name), above=0))
        if not isinstance(self.both_ways, bool):
            raise ValueError(f"both_ways: found {self.both_ways!r}, expected True or False")
        self._set("label_weight", checks.check_number("label_weight", self.label_weight, least=0))
        if self.observed is not None:
            self._check_observed()
        if isinstance(self.augment, Mapping):
            known = [each.name for each in fields(Augmentation)]
            for name in self.augment:
                checks.check_choice("augment", name, known)
            self._set("augment", Augmentation(**self.augment))
        if not (self.atlas is None or (isinstance(self.atlas, str) and self.atlas)):
            raise ValueError(
                f"atlas: found {self.atlas!r}, expected 'template', the path of a file, or None"
            )
        if self.image_sigma is not None:
            self._check_probabilistic()
        if (self.cohort == "own") != (self.root is not None):
            raise ValueError(
                f"root: found {self.root!r} with cohort {self.cohort!r}; "
                'cohort "own" needs root, a folder of NIfTI files, and no other cohort takes one'
            )

    def _check_probabilistic(self):
        self._set("image_sigma", checks.check_number("image_sigma", self.image_sigma, above=0))
        for name, needed in (("image_loss", "mse"), ("network", "vxm"), ("precision", "float32")):
            if getattr(self, name) != needed:
                raise ValueError(
                    f"{name}: found {getattr(self, name)!r}, expected {needed!r} with image_sigma"
                )
        for name in ("lam", "int_steps"):
            if not getattr(self, name):
                raise ValueError(f"{name}: found 0, expected a number above 0 with image_sigma")

    def _set(self, name, value):
        object.__setattr__(self, name, value)

    def _check_observed(self):
        labels = self.observed
        if not isinstance(labels, list | tuple) or not labels or len(set(labels)) < len(labels):
            raise ValueError(
                f"observed: found {labels!r}, expected a list of at least one label, without "
                "duplicates"
            )
        if not self.label_weight:
            raise ValueError(
                f"observed: found {labels!r} with label_weight 0, which uses no labels; set "
                "label_weight above 0, or leave observed out"
            )
        self._set("observed", tuple(checks.check_whole("observed", x, least=1) for x in labels))

    @property
    def labels(self) -> dict:
        """Settings of a run that trains with labels, as a record contains them; otherwise empty."""
        if not self.label_weight:
            return {}
        observed = None if self.observed is None else list(self.observed)
        return {"label_weight": self.label_weight, "observed": observed}

    @property
    def steps(self) -> int:
        """Number of optimiser steps of the run."""
        return self.epochs * self.steps_per_epoch

    @property
    def name(self) -> str:
        """Short name of the run, made from its main parameters; valid as a file name.

        It contains the voxel size and the learning rate only if they differ from those of the
        profile, the schedule only if it is not constant, and the atlas and the weight of labels
        only if they are used.
        """
        usual = PROFILES[self.profile]
        size = "" if self.spacing == usual["spacing"] else f"-{self.spacing:g}mm"
        rate = (
            "" if self.learning_rate == usual["learning_rate"] else f"-rate{self.learning_rate:g}"
        )
        schedule = "" if self.schedule == "constant" else f"-{self.schedule}"
        noise = "" if self.image_sigma is None else f"-sigma{self.image_sigma:g}"
        labels = f"-labels{self.label_weight:g}" if self.label_weight else ""
        atlas = "" if self.atlas is None else "-atlas"
        return (
            f"{self.cohort}-{self.profile}{size}{rate}{schedule}{atlas}-{self.image_loss}"
            f"-lam{self.lam:g}-int{self.int_steps}{noise}{labels}-seed{self.seed}"
        )

    @property
    def parameters(self) -> dict:
        """Settings that the record of a lesson or of a λ run contains.

        The atlas and the settings of labels are included only if they are used: earlier records do
        not contain them.
        """
        left_out = _NETWORK + _LABELS + (() if self.atlas else ("atlas",))
        used = {name: value for name, value in asdict(self).items() if name not in left_out}
        return used | self.labels


def read_parameters(namespace: Mapping) -> Settings:
    """Turn a lesson's parameter cell into :class:`Settings`.

    If a lesson does not have a parameter, papermill only prints a warning. A misspelt
    ``-p lamb 0.5`` would therefore train with the default λ. Here it raises an error.

    Parameters
    ----------
    namespace : mapping
        The notebook's ``globals()``. The names in :data:`PARAMETERS` are read from it. The cell
        that papermill injects is searched for in IPython's input history ``In``.

    Returns
    -------
    Settings

    Raises
    ------
    ValueError
        If no earlier cell defines an injected name, or if :class:`Settings` rejects a value.

    Examples
    --------
    >>> read_parameters({"lam": 0.5, "seed": 3}).name
    'mni-quick-ncc-lam0.5-int0-seed3'
    >>> read_parameters({"In": ["", "lam = 1.0", "# Parameters\\nlamb = 0.5\\n"], "lam": 1.0})
    Traceback (most recent call last):
    ...
    ValueError: parameter 'lamb': this lesson has no such parameter; it has: lam
    """
    _refuse_unknown(namespace.get("In", ()))
    return Settings(**{name: namespace[name] for name in PARAMETERS if name in namespace})


def _refuse_unknown(history) -> None:
    known: list[str] = []
    for source in history:
        injected = source.startswith("# Parameters")
        names = _assigned(source)
        for name in names if injected else ():
            if name not in known:
                raise ValueError(
                    f"parameter {name!r}: this lesson has no such parameter; "
                    f"it has: {', '.join(known)}"
                )
        known += [name for name in names if name not in known]


def _assigned(source: str) -> list[str]:
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a cell with an IPython magic assigns no parameter
        return []
    targets = [node.targets for node in body if isinstance(node, ast.Assign)]
    targets += [[node.target] for node in body if isinstance(node, ast.AnnAssign)]
    return [t.id for group in targets for t in group if isinstance(t, ast.Name)]
