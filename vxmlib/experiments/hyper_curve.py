"""Train one HyperMorph network for all λ of a grid, and measure it at each λ.

The network is trained for more steps than a run of the grid, and more steps alone raise Dice. For
comparison, a plain network with the usual λ of the image loss is therefore trained for the same
number of steps. Its measures are in the record as ``as_long``.
"""

import time
from dataclasses import replace

from vxmlib import pairs, records
from vxmlib.backend import device_summary, set_seed
from vxmlib.experiments import recording, runs, sweep
from vxmlib.experiments.settings import Settings
from vxmlib.networks import hyper

#: Number of training steps over which each of the two networks is timed.
TIMED = 40


def make_record(settings: Settings, lams, *, times=4, layers=4, units=32) -> dict:
    """Train one network for all λ, measure it at each, and return the record.

    Parameters
    ----------
    settings : Settings
        Settings of a plain run of the grid, with any λ.
    lams : sequence of float
        Values of λ at which the network is measured, at least 0.
    times : int
        Number of training steps, as a multiple of those of a plain run.
    layers, units : int
        Number of dense layers that λ passes through, and of units in each.

    Returns
    -------
    dict
        The record, which :func:`vxmlib.experiments.sweep.hyper_curves` reads.
    """
    # A checkpoint of this network is large. To write fewer of them, the training has a quarter of
    # the epochs, each with four times as many steps.
    epochs, steps_per_epoch = max(1, times * settings.epochs // 4), 4 * settings.steps_per_epoch
    long = replace(settings, lam=1.0, epochs=epochs, steps_per_epoch=steps_per_epoch)
    people, folder = runs.load_cohort(settings), runs.runs_folder()
    model = build(long, people.shape, layers=layers, units=units)
    run = runs.train(
        long, people, folder / f"hyper-{times}-{layers}-{units}-{long.name}", model=model
    )
    usual = replace(long, lam=hyper.MIDDLE[settings.image_loss])
    single = runs.train(usual, people, folder / f"as-long-{times}-{usual.name}")
    record = records.provenance(
        "hypermorph",
        cohort=settings.cohort,
        profile=settings.profile,
        seed=settings.seed,
        parameters=long.parameters | {"lam": None, "hyper_layers": layers, "hyper_units": units},
        seconds=float(run.history["seconds"].sum()),
        device=device_summary(),
    )
    curve = [measure(people, at(model, lam), lam) for lam in lams]
    as_long = measure(people, single.register, usual.lam)
    each = step_seconds([model, runs.build_model(settings, people.shape)], people)
    record["metrics"] = {
        "split": "validation",
        "curve": curve,
        "as_long": as_long,
        "steps": long.steps,
        "step_seconds": each[0],
        "plain_steps": settings.steps,
        "plain_step_seconds": each[1],
    }
    return record


def build(settings: Settings, shape, *, layers: int, units: int):
    """Build the untrained network that takes λ as an input, with the seed of the settings."""
    set_seed(settings.seed)
    return hyper.build(
        shape,
        image_loss=settings.image_loss,
        int_steps=settings.int_steps,
        learning_rate=settings.learning_rate,
        hyper_layers=layers,
        hyper_units=units,
        seed=settings.seed,
    )


def at(model, lam):
    """Return a function of (moving, fixed) that registers with the network at one λ."""
    return lambda moving, fixed: hyper.register(model, moving, fixed, lam)


def measure(people, register, lam) -> dict:
    """Measure a method on the validation pairs; return one row of the curve."""
    summary = recording.measure(register, people, runs.pairs_of(people, "validation"))
    return {"lam": lam} | {name: summary[name] for name in sweep.MEASURES}


def step_seconds(networks, people, rounds: int = 4) -> list[float]:
    """Return the seconds of one training step of each model: the best of several rounds.

    The models take turns in each round, and are trained a little further by it.
    """
    data = pairs.pair_dataset(people, people.split["train"], batch_size=1, seed=0)
    for model in networks:  # the first step traces the graph and is not timed
        model.fit(data, steps_per_epoch=1, verbose=0)
    best = [float("inf")] * len(networks)
    for _ in range(rounds):
        for place, model in enumerate(networks):
            began = time.perf_counter()
            model.fit(data, steps_per_epoch=TIMED // rounds, verbose=0)
            best[place] = min(best[place], (time.perf_counter() - began) / (TIMED // rounds))
    return best
