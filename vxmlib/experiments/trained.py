"""Load the trained networks of the comparison, and register with them."""

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
    """Return the file with the weights of a training run in the folder of results."""
    return Path(results) / "weights" / f"{name}.h5"


def register_by(results, name: str, network: str, *, count: int = 1, mirror_affine=None):
    """Load a trained network, and return a function that registers with it.

    Parameters
    ----------
    results : path
        The folder of results.
    name : str
        Name of the training run.
    network : str
        Class of the network, as a name of :data:`vxmlib.networks.NETWORKS`.
    count : int
        Number of passes, see :mod:`vxmlib.methods.passes`.
    mirror_affine : (4, 4) array_like, optional
        Voxel index -> RAS mm of the grid. If given, each pass is averaged with that of the
        mirrored pair, see :func:`vxmlib.methods.passes.mirror_averaged`.

    Returns
    -------
    callable
        ``register(moving, fixed)`` returns a displacement ``(*vol, nd)`` in voxels.
    """
    model = models.load(weights_file(results, name), network=network_class(network))
    register = partial(models.register, model)
    if mirror_affine is not None:
        register = passes.mirror_averaged(register, mirror_affine)
    return passes.repeated(register, count)


def provenance(plan: dict, name: str, results) -> dict:
    """Return everything that the measurements of a trained network depend on.

    Returns
    -------
    dict
        The seed, the settings of the training, and the SHA-256 hash of the weights.

    Raises
    ------
    PlanError
        If the plan has no such training run, or its weights do not exist.
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
    """Load the network of a method, and return a function that registers in all its passes.

    The network is compiled by registering one pair, so that later timings exclude the compilation.
    """
    name = method["training"]
    kind = training(plan, name).network
    register = register_by(results, name, kind, **_repetition(method, people))
    register(*_two_images(people))
    return register


def _repetition(method, people):
    """Return how often a method applies its network, as arguments of :func:`register_by`."""
    affine = people.affine if method.get("mirror") else None
    return {"count": method.get("passes", 1), "mirror_affine": affine}


def optimiser(plan: dict, method: dict, people) -> InstanceOptimiser:
    """Return the optimiser of a method, compiled, with the image loss of the method's training."""
    options = {key: value for key, value in method["instance"].items() if key != "steps"}
    image_loss = training(plan, method["training"]).image_loss
    optimise = InstanceOptimiser(people.shape, image_loss=image_loss, **options)
    optimise(warp.identity(people.shape), *_two_images(people), steps=1)
    return optimise


def _two_images(people):
    return [people.image(subject) for subject in people.split["train"][:2]]


def again(comparison, name: str, *, pairs: int, people) -> pd.DataFrame:
    """Register some test pairs with the committed weights, and compare Dice with the record.

    Parameters
    ----------
    comparison : vxmlib.experiments.results.Comparison
    name : str
        A method that uses a network without instance optimisation, in one or more passes.
    pairs : int
        Number of unordered pairs; both directions of each are measured.
    people : Cohort
        The cohort of the plan.

    Returns
    -------
    pandas.DataFrame
        One row for each ordered pair: ``moving``, ``fixed``, ``dice``, ``recorded`` (Dice in the
        record) and ``difference`` (``dice`` minus ``recorded``).

    Raises
    ------
    ValueError
        If the plan has no such method, the method uses no network, or it uses instance
        optimisation.
    """
    method = comparison.plan["methods"].get(name, {})
    if "training" not in method or "instance" in method:
        raise ValueError(
            f"name: found {name!r}, expected a method with a network and without instance "
            "optimisation"
        )
    network = comparison.training[method["training"]]["parameters"]["network"]
    options = _repetition(method, people)
    register = register_by(comparison.folder, method["training"], network, **options)
    rows = []
    for two in compare.unordered(people.split["test"])[:pairs]:
        rows += compare.measure_pair(people, None, *two, compare.one_way(register))
    pair = ["moving", "fixed"]
    recorded = comparison.pairs(name)[[*pair, "dice"]].rename(columns={"dice": "recorded"})
    table = pd.DataFrame(rows)[[*pair, "dice"]]
    table = table.merge(recorded, on=pair, how="left", validate="one_to_one")
    return table.assign(difference=table["dice"] - table["recorded"])
