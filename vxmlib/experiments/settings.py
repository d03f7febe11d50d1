"""What one run of a lesson is asked to do: its parameters, checked, and its profile's plan.

Every lesson has one cell tagged ``parameters``; the next cell turns it into one
:class:`Settings`. A wrong value stops there, in the first second, not after training.
"""

import ast
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

COHORTS = ("mni", "malf", "own")
IMAGE_LOSSES = ("ncc", "mse")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class Plan:
    """How large one run is: the people, the grid and the steps of a profile.

    ``people`` counts train, validation and test people of a simulated cohort; a real cohort
    has its own split. ``spacing`` is in mm. ``pairs`` is how many ordered test pairs a lesson
    evaluates. ``schedule`` says what becomes of the learning rate: "constant", or "cosine" for a
    fall to 0 at the last epoch.
    """

    ndim: int
    spacing: float
    people: Mapping[str, int]
    epochs: int
    steps_per_epoch: int
    batch_size: int
    learning_rate: float
    pairs: int
    schedule: str = "constant"

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch


#: ``smoke`` proves that a page runs, ``quick`` is what the book shows, ``full`` is 3D
#: at 1 mm, with the paper's 150 000 steps of one pair (1809.05231, section V-A), for a GPU.
PROFILES = {
    "smoke": Plan(2, 2.0, {"train": 5, "validation": 2, "test": 3}, 2, 3, 1, 1e-3, 3),
    "quick": Plan(2, 1.0, {"train": 40, "validation": 5, "test": 10}, 25, 40, 1, 5e-4, 30),
    "full": Plan(3, 1.0, {"train": 100, "validation": 10, "test": 20}, 1500, 100, 1, 1e-4, 90),
}


@dataclass(frozen=True)
class Settings:
    """The checked parameters of one run.

    Parameters
    ----------
    cohort : {"mni", "malf", "own"}
        Which people: simulated, real and fetched, or a folder of yours (``root``).
    profile : {"smoke", "quick", "full"}
        How much work; see :data:`PROFILES`.
    seed : int
        Seed of everything random in the run, at least 0.
    lam : float
        λ, the weight of the smoothness term, finite and at least 0.
    image_loss : {"ncc", "mse"}
        The similarity term.
    int_steps : int
        Integration steps of the velocity field; 0 predicts the displacement itself.
    root : str or None
        Folder of NIfTI files, for ``cohort="own"`` only.
    spacing, learning_rate : float or None
        Voxel size in mm and rate of Adam in place of the profile's, above 0.
    schedule : {"constant", "cosine"} or None
        In place of the profile's.

    Raises
    ------
    ValueError
        Names the parameter, what was found, what was expected and how to mend it.

    Examples
    --------
    >>> Settings(lam=0.5).name
    'mni-quick-ncc-lam0.5-int0-seed0'
    >>> Settings(lam=-1)
    Traceback (most recent call last):
    ...
    ValueError: lam: found -1, expected a finite number, at least 0 (for example lam=1.0)
    """

    cohort: str = "mni"
    profile: str = "quick"
    seed: int = 0
    lam: float = 1.0
    image_loss: str = "ncc"
    int_steps: int = 0
    root: str | None = None
    spacing: float | None = None
    learning_rate: float | None = None
    schedule: str | None = None

    def __post_init__(self):
        _one_of("cohort", self.cohort, COHORTS)
        _one_of("profile", self.profile, tuple(PROFILES))
        _one_of("image_loss", self.image_loss, IMAGE_LOSSES)
        _whole("seed", self.seed)
        _whole("int_steps", self.int_steps)
        if not _is_number(self.lam) or not math.isfinite(self.lam) or self.lam < 0:
            raise ValueError(
                f"lam: found {self.lam!r}, expected a finite number, at least 0 "
                "(for example lam=1.0)"
            )
        for name in ("spacing", "learning_rate"):
            _positive_or_none(name, getattr(self, name))
        # 1 and 1.0 are one run: a grid's YAML gives the one, a lesson's parameter the other.
        for name in ("lam", "spacing", "learning_rate"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, float(getattr(self, name)))
        if self.schedule is not None:
            _one_of("schedule", self.schedule, SCHEDULES)
        if (self.cohort == "own") != (self.root is not None):
            raise ValueError(
                f"root: found {self.root!r} with cohort {self.cohort!r}; "
                'cohort "own" needs root, a folder of NIfTI files, and no other cohort takes one'
            )

    @property
    def plan(self) -> Plan:
        """The profile's :class:`Plan`, with what these settings put in its place."""
        names = ("spacing", "learning_rate", "schedule")
        own = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(PROFILES[self.profile], **own)

    @property
    def name(self) -> str:
        """A short name of the run that tells its parameters, fit for a file name."""
        size = "" if self.spacing is None else f"-{self.spacing:g}mm"
        rate = "" if self.learning_rate is None else f"-rate{self.learning_rate:g}"
        schedule = "" if self.schedule is None else f"-{self.schedule}"
        return (
            f"{self.cohort}-{self.profile}{size}{rate}{schedule}-{self.image_loss}"
            f"-lam{self.lam:g}-int{self.int_steps}-seed{self.seed}"
        )


def read_parameters(namespace: Mapping) -> Settings:
    """Turn a lesson's parameter cell into :class:`Settings`.

    papermill warns of a parameter that the lesson does not have, and runs on; so a misspelt
    ``-p lamb 0.5`` would train at the default λ. Here it is an error.

    Parameters
    ----------
    namespace : mapping
        The notebook's ``globals()``. Names of :class:`Settings` fields are read from it; the
        cell that papermill injects is looked up in IPython's input history ``In``.

    Raises
    ------
    ValueError
        For an injected name that no earlier cell defines, or a value that
        :class:`Settings` refuses.

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
    return Settings(**{f.name: namespace[f.name] for f in fields(Settings) if f.name in namespace})


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


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _one_of(name: str, value, known: tuple) -> None:
    if value not in known:
        raise ValueError(f"{name}: found {value!r}, expected one of: {', '.join(known)}")


def _positive_or_none(name: str, value) -> None:
    fits = _is_number(value) and math.isfinite(value) and value > 0
    if value is not None and not fits:
        raise ValueError(
            f"{name}: found {value!r}, expected a number above 0, or None for the profile's"
        )


def _whole(name: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise ValueError(f"{name}: found {value!r}, expected a whole number, at least 0")
