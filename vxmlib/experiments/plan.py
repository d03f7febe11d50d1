"""Read and check ``config/real.yaml``, the plan of the comparison on real subjects in 3D."""

from dataclasses import asdict

from vxmlib import files
from vxmlib.experiments.settings import Settings

#: Settings that the record of a training run contains.
TRAINING = (
    "network features image_loss lam int_steps learning_rate schedule epochs steps_per_epoch "
    "batch_size both_ways augment seed"
).split()
#: Settings that earlier records do not contain, with the values of these records. A record contains
#: such a setting only if it has another value.
LATER = {"precision": "float32", "image_sigma": None, "atlas": None}
#: Entries of the plan that list methods.
METHODS = ("methods", "few", "atlas")
#: Parts of the plan that compare short training runs on slices.
ON_SLICES = ("ablation", "probabilistic", "labels")


class PlanError(ValueError):
    """An invalid entry of the plan, an unknown name, or a task that cannot be done or failed."""


def load_plan(path) -> dict:
    """Read and check a plan; each training run in it becomes one :class:`Settings`.

    Parameters
    ----------
    path : path
        A file such as ``config/real.yaml``; its schema is ``vxmlib/data/schemas/real.yaml``.

    Returns
    -------
    dict
        The entries of the file. ``trainings``, and the ``runs`` of the parts in :data:`ON_SLICES`,
        map names to Settings, which include the common ``training``. ``titles`` maps names of
        methods, trainings and runs to the names that readers see; the settings do not contain them,
        so a title can change without making a record out of date. If the file lacks ``methods``,
        ``few``, ``atlas``, ``repeat``, ``retest`` or ``titles``, the entry is empty; a part in
        :data:`ON_SLICES` is then missing.

    Raises
    ------
    PlanError
        If the schema does not allow an entry, an entry occurs twice, an entry names an unknown
        training or method, or two names have the same title. The message names the file and the
        entry.
    """
    plan = files.read_yaml(path, PlanError, schema="real")
    common = plan.pop("training")
    plan["trainings"] = _trainings(plan["people"], common, plan["trainings"])
    for compared in (plan[part] for part in ON_SLICES if part in plan):
        shared = common | compared["training"]
        compared["runs"] = _trainings(compared["people"], shared, compared["runs"])
    for part in METHODS:
        plan[part] = {name: entry or {} for name, entry in plan.get(part, {}).items()}
    plan["repeat"] = {"trainings": [], "passes": 1} | (plan.get("repeat") or {})
    plan["repeat"]["trainings"] = plan["repeat"]["trainings"] or []
    plan["retest"] = plan.get("retest") or []
    plan["titles"] = plan.get("titles", {})
    _check_names(plan, path)
    return plan


def _trainings(people, common, entries):
    return {
        name: Settings(profile="full", **people, **common | (entry or {}))
        for name, entry in entries.items()
    }


def _check_names(plan, path):
    """Check that each name refers to exactly one entry of the plan."""
    if both := plan["methods"].keys() & plan["few"].keys():
        raise PlanError(
            f"{path}: found {', '.join(both)} under methods and under few, expected each "
            "method under only one of them"
        )
    named = {f"repeat.trainings[{i}]": x for i, x in enumerate(plan["repeat"]["trainings"])}
    named |= {
        f"{part}.{name}.training": entry["training"]
        for part in METHODS
        for name, entry in plan[part].items()
        if "training" in entry
    }
    for place, name in named.items():
        _known(f"{path}, {place}", name, plan["trainings"])
    for number, name in enumerate(plan["retest"]):
        _known(f"{path}, retest[{number}]", name, plan["methods"])
    _check_titles(plan, path)


def _check_titles(plan, path):
    """Check that each title belongs to one known name, and that no two titles are equal."""
    named, first = all_methods(plan) | plan["atlas"] | plan["trainings"], {}
    for part in ON_SLICES:
        named |= plan.get(part, {}).get("runs", {})
    for name, title in plan["titles"].items():
        _known(f"{path}, titles", name, named)
        if title in first:
            raise PlanError(
                f"{path}, titles: found {title!r} for {first[title]} and for {name}, expected a "
                "different title for each"
            )
        first[title] = name


def _known(where, name, known):
    if name not in known:
        raise PlanError(f"{where}: found {name!r}, expected one of: {', '.join(known)}")


def training(plan: dict, name: str) -> Settings:
    """Return the settings of one training run.

    Raises
    ------
    PlanError
        If the plan has no training run of this name.
    """
    _known("trainings", name, plan["trainings"])
    return plan["trainings"][name]


def all_methods(plan: dict) -> dict:
    """Return the entries of the methods measured on all test pairs and of those on a few."""
    return plan["methods"] | plan["few"]


def method(plan: dict, name: str, part: str = "test") -> dict:
    """Return the entry of one method that is measured on a part, such as "test" or "atlas".

    The methods of part "atlas" have entries of their own. All other parts share the methods that
    are measured on all test pairs or on a few.

    Raises
    ------
    PlanError
        If the plan has no method of this name for this part.
    """
    entries = plan["atlas"] if part == "atlas" else all_methods(plan)
    _known("atlas" if part == "atlas" else "methods", name, entries)
    return entries[name]


def training_parameters(settings: Settings) -> dict:
    """Return the settings that the record of a training run contains, besides its subjects.

    These are :data:`TRAINING`, those of :data:`LATER` that differ from their earlier values, and
    the settings of labels if the run uses labels.
    """
    values = asdict(settings)
    later = [name for name, usual in LATER.items() if values[name] != usual]
    return {name: values[name] for name in (*TRAINING, *later)} | settings.labels
