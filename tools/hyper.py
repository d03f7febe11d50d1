"""Train one HyperMorph network for all λ of a grid and write its curve as one record.

It takes more steps than a run of the grid, and more steps alone raise Dice. So one plain network,
of the image loss's usual λ, is trained for as many, and stands in the record as ``as_long``.

    python -m tools.hyper --cohort malf --image-loss ncc

The record goes to ``results/lambda/<cohort>/hyper/<image loss>.json``.
"""

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path

from vxmlib import models, pairs, records, training
from vxmlib.backend import device_summary, set_seed
from vxmlib.experiments import runs, sweep
from vxmlib.experiments.settings import Settings
from vxmlib.networks import hyper

CODE = Path(__file__).resolve().parent.parent
#: Steps that are timed, for each of the two networks, by turns.
TIMED = 40


def build(settings: Settings, shape, plan, *, layers: int, units: int):
    """The network that takes λ, untrained, from the seed."""
    set_seed(settings.seed)
    return hyper.build(
        shape,
        image_loss=settings.image_loss,
        int_steps=settings.int_steps,
        learning_rate=plan.learning_rate,
        hyper_layers=layers,
        hyper_units=units,
        seed=settings.seed,
    )


def train(model, settings: Settings, people, plan, run_dir: Path):
    """Train as a plain run does, with λ drawn anew for each pair; return the history."""
    return training.fit(
        model,
        people,
        people.split["train"],
        run_dir=run_dir,
        epochs=plan.epochs,
        steps_per_epoch=plan.steps_per_epoch,
        seed=settings.seed,
        callbacks=runs.callbacks(plan),
    )


def measure(people, register, lam) -> dict:
    """One row of a curve: a method on the validation pairs."""
    summary = runs.measure(register, people, runs.pairs_of(people, "validation"))
    return {"lam": lam} | {name: summary[name] for name in sweep.MEASURES}


def curve(model, people, lams) -> list[dict]:
    """Measure the network on the validation pairs at each λ."""
    return [
        measure(people, lambda m, f, lam=lam: hyper.register(model, m, f, lam), lam) for lam in lams
    ]


def step_seconds(models, people, rounds: int = 4) -> list[float]:
    """Seconds of one training step of each model: the best of some rounds, by turns.

    The models are trained a little further by it.
    """
    data = pairs.pair_dataset(people, people.split["train"], batch_size=1, seed=0)
    for model in models:  # the first step traces the graph
        model.fit(data, steps_per_epoch=1, verbose=0)
    best = [float("inf")] * len(models)
    for _ in range(rounds):
        for place, model in enumerate(models):
            began = time.perf_counter()
            model.fit(data, steps_per_epoch=TIMED // rounds, verbose=0)
            best[place] = min(best[place], (time.perf_counter() - began) / (TIMED // rounds))
    return best


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", default="mni")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--image-loss", default="ncc")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--times", type=int, default=4, help="steps, in those of a plain run")
    parser.add_argument("--layers", type=int, default=4, help="dense layers that λ goes through")
    parser.add_argument("--units", type=int, default=32, help="units in each")
    parser.add_argument("--results", type=Path, default=CODE / "results" / "lambda")
    options = parser.parse_args()
    points = sweep.points(
        CODE / "config" / "lambda.yaml", "wide", cohort=options.cohort, profile=options.profile
    )
    plain = [s for s in points.values() if s.image_loss == options.image_loss and not s.int_steps]
    settings = replace(plain[0], seed=options.seed, lam=1.0)
    # A checkpoint of this network is large, so there are few of them: a quarter of the epochs,
    # each four times as long.
    usual = settings.plan
    epochs = max(1, options.times * usual.epochs // 4)
    plan = replace(usual, epochs=epochs, steps_per_epoch=4 * usual.steps_per_epoch)
    people = runs.load_cohort(settings)
    base = runs.runs_folder()
    name = f"hyper-{options.times}-{options.layers}-{options.units}-{settings.name}"
    model = build(settings, people.shape, plan, layers=options.layers, units=options.units)
    history = train(model, settings, people, plan, base / name)
    record = records.provenance(
        "hypermorph",
        cohort=settings.cohort,
        profile=settings.profile,
        seed=settings.seed,
        parameters={**asdict(settings), **asdict(plan), "lam": None}
        | {"hyper_layers": options.layers, "hyper_units": options.units},
        seconds=float(history["seconds"].sum()),
        device=device_summary(),
    )
    measured = curve(model, people, sorted({s.lam for s in plain}))
    usual_lam = replace(settings, lam=hyper.MIDDLE[settings.image_loss])
    single = runs.build_model(usual_lam, people.shape)
    train(single, usual_lam, people, plan, base / f"as-long-{options.times}-{usual_lam.name}")
    as_long = measure(people, lambda m, f: models.register(single, m, f), usual_lam.lam)
    each = step_seconds([model, runs.build_model(settings, people.shape)], people)
    record["metrics"] = {
        "split": "validation",
        "curve": measured,
        "as_long": as_long,
        "steps": plan.epochs * plan.steps_per_epoch,
        "step_seconds": each[0],
        "plain_steps": usual.epochs * usual.steps_per_epoch,
        "plain_step_seconds": each[1],
    }
    path = options.results / settings.cohort / "hyper" / f"{settings.image_loss}.json"
    records.write(path, record)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
