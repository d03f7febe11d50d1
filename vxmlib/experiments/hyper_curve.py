"""The curve of one HyperMorph network over all λ of a grid, as one record.

The network takes more steps than a run of the grid, and more steps alone raise Dice. So one plain
network, of the image loss's usual λ, is trained for as many, and stands in the record as
``as_long``.
"""

import time
from dataclasses import replace

from vxmlib import pairs, records
from vxmlib.backend import device_summary, set_seed
from vxmlib.experiments import recording, runs, sweep
from vxmlib.experiments.settings import Settings
from vxmlib.networks import hyper

#: Steps that are timed, for each of the two networks, by turns.
TIMED = 40


def make_record(settings: Settings, lams, *, times=4, layers=4, units=32) -> dict:
    """Train one network for all λ, measure it at each, and return the record.

    Parameters
    ----------
    settings : Settings
        Of a plain run of the grid, whatever its λ.
    lams : sequence of float
        Where to measure.
    times : int
        Steps of the training, in those of a plain run.
    layers, units : int
        Dense layers that λ goes through, and units in each.

    Returns
    -------
    dict
        See :func:`vxmlib.experiments.sweep.hyper_curves`, which reads it.
    """
    # A checkpoint of this network is large, so there are few of them: a quarter of the epochs,
    # each four times as long.
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
    """The network that takes λ, untrained, from the seed."""
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
    """The registration by the network at one λ."""
    return lambda moving, fixed: hyper.register(model, moving, fixed, lam)


def measure(people, register, lam) -> dict:
    """One row of a curve: a method on the validation pairs."""
    summary = recording.measure(register, people, runs.pairs_of(people, "validation"))
    return {"lam": lam} | {name: summary[name] for name in sweep.MEASURES}


def step_seconds(networks, people, rounds: int = 4) -> list[float]:
    """Seconds of one training step of each model: the best of some rounds, by turns.

    The models are trained a little further by it.
    """
    data = pairs.pair_dataset(people, people.split["train"], batch_size=1, seed=0)
    for model in networks:  # the first step traces the graph
        model.fit(data, steps_per_epoch=1, verbose=0)
    best = [float("inf")] * len(networks)
    for _ in range(rounds):
        for place, model in enumerate(networks):
            began = time.perf_counter()
            model.fit(data, steps_per_epoch=TIMED // rounds, verbose=0)
            best[place] = min(best[place], (time.perf_counter() - began) / (TIMED // rounds))
    return best
