"""Train, choose and compare on real people in 3D, by ``config/real.yaml``: lesson 9's long runs.

    python -m tools.real train ncc          # goes on where it was stopped
    python -m tools.real measure ncc        # on the test people, both ways; --part asks for others
    python -m tools.real all                # everything that is missing: `make full`

Records, and the weights that a method uses, go to ``results/malf``; the rest to ``_build/real``.
"""

import argparse
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import yaml

from vxmlib import baselines, cohorts, compare, models, recipe, records, training
from vxmlib.augment import Augmentation
from vxmlib.backend import device_summary, set_seed, vxm
from vxmlib.instance import InstanceOptimiser
from vxmlib.networks import StridedVxmDense

CODE = Path(__file__).resolve().parent.parent
RESULTS = CODE / "results" / "malf"
NETWORKS = {"strided": StridedVxmDense, "vxm": vxm.networks.VxmDense}
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
    common = plan.pop("training")
    for name, own in plan["trainings"].items():
        if unknown := set(own) - set(common):
            raise RealError(f"{path}, training {name}: unknown {', '.join(sorted(unknown))}")
        plan["trainings"][name] = common | own
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
    settings, people = entry(plan, "trainings", name), load_people(plan)
    model = build(settings, people.shape)
    watched = cohorts.ordered_pairs(people.split["validation"])
    history = training.fit(
        model,
        people,
        people.split["train"],
        run_dir=folder / name,
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
    settings = entry(plan, "trainings", told["training"])
    network = NETWORKS[settings["network"]]
    model = models.load(results / "weights" / f"{told['training']}.h5", network=network)
    register = partial(models.register, model)
    if "instance" in told:
        register = _refined(register, people.shape, settings["image_loss"], told["instance"])
    first = people.split["train"][:2]  # compiled before anything is timed
    register(people.image(first[0]), people.image(first[1]))
    return compare.one_way(register)


def measure(plan: dict, name: str, part: str, folder: Path, results: Path) -> None:
    """Measure a method on all ordered pairs of one part of the people; write its record."""
    people, parcels = load_people(plan), load_people(plan, labels="manual")
    both = method(plan, name, people, results)
    rows = compare.measure_all(
        people, parcels, pairs_of(people, part), both, file=folder / f"{part}-{name}.jsonl"
    )
    seconds = sum(row["seconds"] for row in rows) / 2
    record = _provenance(plan, f"measure {name}", entry(plan, "methods", name), seconds)
    record["metrics"] = {"split": part, **compare.summary(rows), "rows": rows}
    record["baselines"] = baselines.versions()
    records.write(results / part / f"{name}.json", record)


def pairs_of(people, part: str) -> list[tuple[str, str]]:
    """Each two people of a part once; of "repeats", each person's two scans."""
    if part == "repeats":
        return list(zip(people.split["validation"], people.split["repeats"], strict=True))
    return compare.unordered(people.split[part])


def _refined(register, shape, image_loss, told):
    options = {key: told[key] for key in ("learning_rate", "lam")}
    optimise = InstanceOptimiser(shape, image_loss=image_loss, **options)

    def refine(moving, fixed):
        return optimise(register(moving, fixed), moving, fixed, steps=told["steps"])[0]

    return refine


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
    parser.add_argument("command", choices=["train", "measure", "all"])
    parser.add_argument("name", nargs="?", help="a training or a method of config/real.yaml")
    parser.add_argument("--part", default="test", choices=["validation", "test", "repeats"])
    parser.add_argument("--build", type=Path, default=CODE / "_build" / "real")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    plan = load_plan()
    try:
        if options.command == "train":
            train(plan, options.name, options.build, options.results)
        elif options.command == "measure":
            measure(plan, options.name, options.part, options.build, options.results)
        else:
            make_all(plan, options.build, options.results)
    except (ValueError, OSError) as error:
        parser.exit(1, f"ERROR: {error}\n")


def make_all(plan: dict, folder: Path, results: Path) -> None:
    """Everything whose record is not there; a method that cannot run leaves the others."""
    for name in plan["trainings"]:
        if not (results / "training" / f"{name}.json").exists():
            train(plan, name, folder, results)
    for name in plan["methods"]:
        if not (results / "test" / f"{name}.json").exists():
            try:
                measure(plan, name, "test", folder, results)
            except baselines.BaselineMissing as error:
                print(f"{name}: left out: {error}", flush=True)


if __name__ == "__main__":
    main()
