"""Train, choose and compare on real people in 3D, by ``config/real.yaml``: lesson 9's long runs.

    python -m tools.real train ncc          # goes on where it was stopped
    python -m tools.real ablate             # the short trainings on slices
    python -m tools.real measure ncc        # on the test people, both ways; --part asks for others
    python -m tools.real watch ncc-instance # step by step, on validation people
    python -m tools.real times              # all methods by turns in one process
    python -m tools.real all                # everything that is missing: `make full`

Records, and the weights that a method uses, go to ``results/malf``; the rest to ``_build/real``.
"""

import argparse
import os
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import yaml

from vxmlib import baselines, cohorts, compare, metrics, models, recipe, records, training, warp
from vxmlib.augment import Augmentation
from vxmlib.backend import device_summary, set_seed
from vxmlib.instance import InstanceOptimiser
from vxmlib.networks import NETWORKS

CODE = Path(__file__).resolve().parent.parent
RESULTS = CODE / "results" / "malf"
#: Pairs that are watched step by step, and pairs that are timed.
WATCHED, TIMED = 6, 3
_MODEL = ("image_loss", "lam", "int_steps", "learning_rate", "features")


class RealError(ValueError):
    """A name or an entry of the file that means nothing; the message says what there is."""


def load_plan(path: Path = CODE / "config" / "real.yaml") -> dict:
    """The file, with each training's own settings over the common ones.

    Raises
    ------
    RealError
        A training sets something that the common part does not have.
    """
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    common, ablation = plan.pop("training"), plan.get("ablation", {"training": {}, "runs": {}})
    for told, base in (
        (plan["trainings"], common),
        (ablation["runs"], common | ablation["training"]),
    ):
        for name, own in told.items():
            if unknown := set(own) - set(common):
                raise RealError(f"{path}, training {name}: unknown {', '.join(sorted(unknown))}")
            told[name] = base | own
    return plan


def entry(plan: dict, part: str, name: str) -> dict:
    """One training or method.

    Raises
    ------
    RealError
        There is none of that name.
    """
    if name not in plan[part]:
        raise RealError(f"{part}: found {name!r}, expected one of: {', '.join(plan[part])}")
    return plan[part][name] or {}


def load_people(plan: dict, **more) -> cohorts.Cohort:
    """The people of the file."""
    told = plan["people"]
    return cohorts.load(told["cohort"], ndim=told["ndim"], spacing=told["spacing"], **more)


def build(settings: dict, shape):
    """The compiled, untrained model of a training, from its seed."""
    set_seed(settings["seed"])
    chosen = {key: settings[key] for key in _MODEL}
    return models.build(shape, network=NETWORKS[settings["network"]], **chosen)


def train(plan: dict, name: str, folder: Path, results: Path) -> None:
    """Train, or go on; then write the weights and the record of the training."""
    settings = entry(plan, "trainings", name)
    model, history = fit(settings, load_people(plan), folder / name)
    used = any((told or {}).get("training") == name for told in plan["methods"].values())
    models.save(model, (results / "weights" if used else folder / name) / f"{name}.h5")
    record = _provenance(plan, f"train {name}", settings, float(history["seconds"].sum()))
    columns = [c for c in history.columns if c not in ("epoch", "lr")]
    last = history.iloc[-1]
    record["metrics"] = {
        "steps": int(last["step"]),
        "weights": int(model.count_params()),
        "validation_dice": float(last["val_dice"]),
        "validation_folding_percent": float(last["val_folding_percent"]),
        "history": {c: history[c].round(6).tolist() for c in columns},
    }
    records.write(results / "training" / f"{name}.json", record)


def fit(settings: dict, people, run_dir: Path, seed: int | None = None):
    """Train a model by its settings, or go on; return it with its history."""
    settings = settings if seed is None else settings | {"seed": seed}
    model = build(settings, people.shape)
    watched = cohorts.ordered_pairs(people.split["validation"])
    history = training.fit(
        model,
        people,
        people.split["train"],
        run_dir=run_dir,
        epochs=settings["epochs"],
        steps_per_epoch=settings["steps_per_epoch"],
        batch_size=settings["batch_size"],
        seed=settings["seed"],
        augment=Augmentation(**settings["augment"]) if settings["augment"] else None,
        both_ways=settings["both_ways"],
        callbacks=[
            training.RegistrationMonitor(people, watched, every=max(1, settings["epochs"] // 6)),
            *recipe.callbacks(SimpleNamespace(**settings)),
        ],
    )
    return model, history


def ablate(plan: dict, folder: Path, results: Path) -> None:
    """Train every run of the ablation from every seed, or go on; write one record of all."""
    told, rows = plan["ablation"], []
    people = load_people(told)
    for name, settings in told["runs"].items():
        for seed in told["seeds"]:
            where = folder / "ablation" / f"{name.replace(', ', '-')}-{seed}"
            _, history = fit(settings, people, where, seed)
            last = history.iloc[-1]
            row = {"run": name, "seed": seed, "steps": int(last["step"])}
            row |= {"loss": float(last["loss"]), "dice": float(last["val_dice"])}
            row |= {"folding_percent_brain": float(last["val_folding_percent"])}
            rows.append(row | {"seconds": float(history["seconds"].sum())})
    spent = sum(row["seconds"] for row in rows)
    asked = {"runs": told["runs"], "seeds": told["seeds"]}
    record = _provenance(told, "ablate", asked, spent)
    record["metrics"] = {"split": "validation", "rows": rows}
    records.write(results / "ablation.json", record)


def method(plan: dict, name: str, people, results: Path):
    """A method as :func:`vxmlib.compare.measure_pair` takes it."""
    told = dict(entry(plan, "methods", name))
    if "baseline" in told:
        options = {key: value for key, value in told.items() if key != "baseline"}
        if told["baseline"] == "syn":
            return compare.both_at_once(
                partial(baselines.syn_both, affine=people.affine, **options)
            )
        return compare.one_way(partial(baselines.demons, affine=people.affine, **options))
    if "training" not in told:
        return compare.one_way(baselines.identity)
    register = network_of(plan, told, people, results)
    if "instance" in told:
        optimise, steps = optimiser_of(plan, told, people), told["instance"]["steps"]

        def refined(moving, fixed):
            return optimise(register(moving, fixed), moving, fixed, steps=steps)[0]

        return compare.one_way(refined)
    return compare.one_way(register)


def network_of(plan: dict, told: dict, people, results: Path):
    """The registration by a trained network, compiled, so that its first pair can be timed."""
    settings = entry(plan, "trainings", told["training"])
    path = results / "weights" / f"{told['training']}.h5"
    register = partial(models.register, models.load(path, network=NETWORKS[settings["network"]]))
    register(*_any_two(people))
    return register


def optimiser_of(plan: dict, told: dict, people) -> InstanceOptimiser:
    """The optimiser of a method, with the image loss of its training; compiled."""
    options = {key: told["instance"][key] for key in ("learning_rate", "lam")}
    image_loss = entry(plan, "trainings", told["training"])["image_loss"]
    optimise = InstanceOptimiser(people.shape, image_loss=image_loss, **options)
    optimise(warp.identity(people.shape), *_any_two(people), steps=1)
    return optimise


def measure(plan: dict, name: str, part: str, folder: Path, results: Path) -> None:
    """Measure a method on all ordered pairs of one part of the people; write its record."""
    people, parcels = load_people(plan), load_people(plan, labels="manual")
    both = method(plan, name, people, results)
    rows = compare.measure_all(
        people, parcels, pairs_of(people, part), both, file=folder / f"{part}-{name}.jsonl"
    )
    told = entry(plan, "methods", name)
    # SyN's seconds are those of one run for both directions, and stand in both rows.
    seconds = sum(row["seconds"] for row in rows) / (2 if told.get("baseline") == "syn" else 1)
    record = _provenance(plan, f"measure {name}", told, seconds)
    record["metrics"] = {"split": part, **compare.summary(rows), "rows": rows}
    record["baselines"] = baselines.versions()
    records.write(results / part / f"{name}.json", record)


def watch(plan: dict, name: str, results: Path, *, steps: int = 20, every: int = 1) -> None:
    """Follow an instance optimisation on validation pairs, beyond its usual number of steps."""
    people, told = load_people(plan), entry(plan, "methods", name)
    register, optimise = network_of(plan, told, people, results), optimiser_of(plan, told, people)
    names = compare.core(people.structures)
    rows = []

    for moving, fixed in compare.unordered(people.split["validation"])[:WATCHED]:
        target, own, brain = people.labels(fixed), people.labels(moving), people.brain(fixed)
        seen = []

        def look(step, field, target=target, own=own, brain=brain, seen=seen):
            if step % every == 0:
                dice = metrics.mean_dice(warp.warp_labels(own, field), target, names)
                seen.append((step, dice, metrics.folding(field, brain).percent_in_mask))

        images = people.image(moving), people.image(fixed)
        began = time.perf_counter()
        start = register(*images)
        passed = time.perf_counter() - began
        _, history = optimise(start, *images, steps=steps, watch=look)
        seconds = [0.0, *history["seconds"]]
        rows += [
            {"moving": moving, "fixed": fixed, "step": step, "dice": dice}
            | {"folding_percent_brain": folds, "seconds": passed + seconds[step]}
            for step, dice, folds in seen
        ]
    spent = sum(row["seconds"] for row in rows if row["step"] == steps)
    record = _provenance(plan, f"watch {name}", told, spent)
    record["metrics"] = {"split": "validation", "rows": rows}
    records.write(results / "instance" / f"{name}.json", record)


def times(plan: dict, results: Path) -> None:
    """Time every method that was measured on the same test pairs, pair by pair, by turns."""
    people, rows = load_people(plan), []
    measured = [name for name in plan["methods"] if (results / "test" / f"{name}.json").exists()]
    methods = {name: method(plan, name, people, results) for name in measured}
    for moving, fixed in compare.unordered(people.split["test"])[:TIMED]:
        for name, both in methods.items():
            seconds = both(people.image(moving), people.image(fixed))[2]
            rows.append({"method": name, "moving": moving, "fixed": fixed, "seconds": seconds})
            print(f"{name} {moving} {fixed}: {seconds:.2f} s", flush=True)
    parameters = {name: plan["methods"][name] for name in measured}
    record = _provenance(plan, "times", parameters, sum(row["seconds"] for row in rows))
    record["metrics"] = {"split": "test", "rows": rows, "cores": os.cpu_count()}
    record["baselines"] = baselines.versions()
    records.write(results / "times.json", record)


def pairs_of(people, part: str) -> list[tuple[str, str]]:
    """Each two people of a part once; of "repeats", each person's two scans."""
    if part == "repeats":
        return list(zip(people.split["validation"], people.split["repeats"], strict=True))
    return compare.unordered(people.split[part])


def _any_two(people):
    return [people.image(subject) for subject in people.split["train"][:2]]


def _provenance(plan, run, settings, seconds):
    return records.provenance(
        run,
        cohort=plan["people"]["cohort"],
        profile="full",
        seed=settings.get("seed", 0),
        parameters={"people": plan["people"], **settings},
        seconds=seconds,
        device=device_summary(),
    )


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["train", "ablate", "measure", "watch", "times", "all"])
    parser.add_argument("name", nargs="?", help="a training or a method of config/real.yaml")
    parser.add_argument("--part", default="test", choices=["validation", "test", "repeats"])
    parser.add_argument("--build", type=Path, default=CODE / "_build" / "real")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    plan = load_plan()
    try:
        if options.command == "train":
            train(plan, options.name, options.build, options.results)
        elif options.command == "ablate":
            ablate(plan, options.build, options.results)
        elif options.command == "measure":
            measure(plan, options.name, options.part, options.build, options.results)
        elif options.command == "watch":
            watch(plan, options.name, options.results)
        elif options.command == "times":
            times(plan, options.results)
        else:
            make_all(plan, options.build, options.results)
    except (ValueError, OSError) as error:
        parser.exit(1, f"ERROR: {error}\n")


def make_all(plan: dict, folder: Path, results: Path) -> None:
    """Everything whose record is not there; a method that cannot run leaves the others."""
    for name in plan["trainings"]:
        if not (results / "training" / f"{name}.json").exists():
            train(plan, name, folder, results)
    if "ablation" in plan and not (results / "ablation.json").exists():
        ablate(plan, folder, results)
    asked = [("test", name) for name in plan["methods"]]
    asked += [(part, name) for name in plan.get("retest", []) for part in ("validation", "repeats")]
    for part, name in asked:
        if not (results / part / f"{name}.json").exists():
            try:
                measure(plan, name, part, folder, results)
            except baselines.BaselineMissing as error:
                print(f"{name}: left out: {error}", flush=True)
    for name, told in plan["methods"].items():
        if "instance" in (told or {}) and not (results / "instance" / f"{name}.json").exists():
            watch(plan, name, results)
    if not (results / "times.json").exists():
        times(plan, results)


if __name__ == "__main__":
    main()
