"""The plan of the comparison on real people in 3D, read from ``config/real.yaml`` and checked."""

from dataclasses import asdict

from vxmlib import files
from vxmlib.experiments.settings import Settings

#: What the record of a training says of it.
TRAINING = (
    "network features image_loss lam int_steps learning_rate schedule epochs steps_per_epoch "
    "batch_size both_ways augment seed"
).split()


class PlanError(ValueError):
    """A name or an entry of the file that means nothing; the message says what there is."""


def load_plan(path) -> dict:
    """Read the file; every training in it becomes one :class:`Settings`.

    Parameters
    ----------
    path : path
        A file like ``config/real.yaml``; its schema is ``vxmlib/data/schemas/real.yaml``.

    Returns
    -------
    dict
        The entries of the file, an empty one where the file has none. ``trainings``, and the
        ``runs`` of ``ablation``, map names to Settings. ``titles`` maps names of methods,
        trainings and runs to the names for readers; the settings do not hold them, so a title
        can change without making a record out of date.

    Raises
    ------
    PlanError
        An entry that the schema does not allow, that stands there twice, or that names a training
        or method that there is not, or one title of two methods; the file and the entry are
        named.
    """
    plan = files.read_yaml(path, PlanError, schema="real")
    common = plan.pop("training")
    plan["trainings"] = _trainings(plan["people"], common, plan["trainings"])
    if ablation := plan.get("ablation"):
        common = common | ablation["training"]
        ablation["runs"] = _trainings(ablation["people"], common, ablation["runs"])
    for part in ("methods", "few"):
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
    """Refuse a name that refers to nothing, or to two things."""
    if both := plan["methods"].keys() & plan["few"].keys():
        raise PlanError(
            f"{path}: found {', '.join(both)} under methods and under few, expected under one"
        )
    named = {f"repeat.trainings[{i}]": x for i, x in enumerate(plan["repeat"]["trainings"])}
    named |= {
        f"{part}.{name}.training": entry["training"]
        for part in ("methods", "few")
        for name, entry in plan[part].items()
        if "training" in entry
    }
    for place, name in named.items():
        _known(f"{path}, {place}", name, plan["trainings"])
    for number, name in enumerate(plan["retest"]):
        _known(f"{path}, retest[{number}]", name, plan["methods"])
    _check_titles(plan, path)


def _check_titles(plan, path):
    """Refuse a title of nothing, and one title of two names."""
    runs = plan.get("ablation", {}).get("runs", {})
    named, first = all_methods(plan) | plan["trainings"] | runs, {}
    for name, title in plan["titles"].items():
        _known(f"{path}, titles", name, named)
        if title in first:
            raise PlanError(
                f"{path}, titles: found {title!r} for {first[title]} and for {name}, expected "
                "another title for each"
            )
        first[title] = name


def _known(where, name, known):
    if name not in known:
        raise PlanError(f"{where}: found {name!r}, expected one of: {', '.join(known)}")


def training(plan: dict, name: str) -> Settings:
    """The settings of one training.

    Raises
    ------
    PlanError
        There is none of that name.
    """
    _known("trainings", name, plan["trainings"])
    return plan["trainings"][name]


def all_methods(plan: dict) -> dict:
    """The methods of all pairs and those of few."""
    return plan["methods"] | plan["few"]


def method(plan: dict, name: str) -> dict:
    """The entry of one method, of all pairs or of few.

    Raises
    ------
    PlanError
        There is none of that name.
    """
    _known("methods", name, all_methods(plan))
    return all_methods(plan)[name]


def training_parameters(settings: Settings) -> dict:
    """What the record of a training says of it, besides its subjects.

    The precision stands there only where it is not float32, which the earlier records have.
    """
    precision = {} if settings.precision == "float32" else {"precision": settings.precision}
    return {name: asdict(settings)[name] for name in TRAINING} | precision
