"""The trained networks of the comparison: where their weights lie, and how they register."""

import hashlib
from functools import partial
from pathlib import Path

import pandas as pd

from vxmlib import models, warp
from vxmlib.experiments import compare
from vxmlib.experiments.plan import PlanError, training, training_parameters
from vxmlib.methods import passes
from vxmlib.methods.instance import InstanceOptimiser
from vxmlib.networks import network_class


def weights_file(results, name: str) -> Path:
    """The weights of a training in the folder of results."""
    return Path(results) / "weights" / f"{name}.h5"


def register_by(results, name: str, network: str, *, count: int = 1):
    """The registration by a trained network.

    Parameters
    ----------
    results : path
        The folder of results.
    name : str
        The training.
    network : str
        A name of :data:`vxmlib.networks.NETWORKS`.
    count : int
        Passes, see :mod:`vxmlib.methods.passes`.

    Returns
    -------
    callable
        ``register(moving, fixed)`` gives a displacement.
    """
    model = models.load(weights_file(results, name), network=network_class(network))
    return passes.repeated(partial(models.register, model), count)


def provenance(plan: dict, name: str, results) -> dict:
    """All that the figures of a training's network depend on: its settings and its weights.

    Raises
    ------
    PlanError
        The training has left no weights.
    """
    settings, weights = training(plan, name), weights_file(results, name)
    if not weights.exists():
        raise PlanError(f"{weights}: no such file; run `python -m tools.real train {name}`")
    return {
        "seed": settings.seed,
        "training_settings": training_parameters(settings),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def network(plan: dict, method: dict, people, results: Path):
    """The registration by a method's network, in all its passes, compiled: its pairs are timed."""
    name, count = method["training"], method.get("passes", 1)
    kind = training(plan, name).network
    register = register_by(results, name, kind, count=count)
    register(*_two_images(people))
    return register


def optimiser(plan: dict, method: dict, people) -> InstanceOptimiser:
    """The optimiser of a method, with the image loss of its training; compiled."""
    options = {key: method["instance"][key] for key in ("learning_rate", "lam")}
    image_loss = training(plan, method["training"]).image_loss
    optimise = InstanceOptimiser(people.shape, image_loss=image_loss, **options)
    optimise(warp.identity(people.shape), *_two_images(people), steps=1)
    return optimise


def _two_images(people):
    return [people.image(subject) for subject in people.split["train"][:2]]


def again(comparison, name: str, *, pairs: int, people) -> pd.DataFrame:
    """Register some test pairs with the committed weights, and compare with the record.

    Parameters
    ----------
    comparison : vxmlib.experiments.results.Comparison
    name : str
        A method that is a network alone, in one pass or several.
    pairs : int
        How many unordered pairs; both directions of each are measured.
    people : Cohort
        The subjects of the plan.

    Returns
    -------
    pandas.DataFrame
        ``moving``, ``fixed``, ``dice``, ``recorded``, ``difference``.

    Raises
    ------
    ValueError
        A method that is something else.
    """
    method = comparison.plan["methods"].get(name, {})
    if "training" not in method or "instance" in method:
        raise ValueError(f"name: found {name!r}, expected a method that is a network alone")
    network = comparison.training[method["training"]]["parameters"]["network"]
    count = method.get("passes", 1)
    register = register_by(comparison.folder, method["training"], network, count=count)
    rows = []
    for two in compare.unordered(people.split["test"])[:pairs]:
        rows += compare.measure_pair(people, None, *two, compare.one_way(register))
    pair = ["moving", "fixed"]
    recorded = comparison.pairs(name)[[*pair, "dice"]].rename(columns={"dice": "recorded"})
    table = pd.DataFrame(rows)[[*pair, "dice"]]
    table = table.merge(recorded, on=pair, how="left", validate="one_to_one")
    return table.assign(difference=table["dice"] - table["recorded"])
