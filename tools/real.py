"""Train, choose and compare on real people in 3D, by ``config/real.yaml``: lesson 9's long runs.

    python -m tools.real train ncc          # goes on where it was stopped
    python -m tools.real ablate             # the short trainings on slices
    python -m tools.real measure ncc        # on the test people, both ways; --part asks for others
    python -m tools.real watch ncc-instance # step by step, on validation people
    python -m tools.real repeat             # pass by pass, on validation people
    python -m tools.real times              # all methods by turns in one process
    python -m tools.real all                # everything: `make full`

What has its record, by the settings and weights of now, is not made again. Records, and the weights
that a method uses, go to ``results/malf``; the rest to ``_build/real``.
"""

import argparse
import hashlib
import json
import os
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from vxmlib import cohorts, files, metrics, models, records, training, warp
from vxmlib.augment import Augmentation
from vxmlib.backend import device_summary, set_seed
from vxmlib.experiments import compare, runs
from vxmlib.experiments.settings import SCHEDULES
from vxmlib.methods import baselines, passes
from vxmlib.methods.instance import InstanceOptimiser
from vxmlib.networks import NETWORKS, network_class

CODE = Path(__file__).resolve().parent.parent
RESULTS = CODE / "results" / "malf"
#: Pairs that are watched step by step, and pairs that are timed.
WATCHED, TIMED = 6, 3
COMMANDS = ("train", "ablate", "measure", "watch", "repeat", "times", "all")
_MODEL = ("image_loss", "lam", "int_steps", "learning_rate", "features")
_METHOD = {"baseline", "metric", "iterations", "training", "passes", "instance"}
#: What one entry that cannot be made may raise, while the others go on.
_FAILURES = (ValueError, OSError, RuntimeError, ImportError)


class RealError(ValueError):
    """A name or an entry of the file that means nothing; the message says what there is."""


def load_plan(path: Path = CODE / "config" / "real.yaml") -> dict:
    """The file, with each training's own settings over the common ones.

    Raises
    ------
    RealError
        An entry that stands there twice, or sets what does not exist; it is named.
    """
    plan = files.read_yaml(path, RealError)
    common, ablation = plan.pop("training"), plan.get("ablation", {"training": {}, "runs": {}})
    for told, base in (
        (plan["trainings"], common),
        (ablation["runs"], common | ablation["training"]),
    ):
        for name, own in told.items():
            if unknown := set(own or {}) - set(common):
                raise RealError(f"{path}, training {name}: unknown {', '.join(sorted(unknown))}")
            told[name] = base | (own or {})
            _one_of(f"{path}, training {name}", told[name], "schedule", SCHEDULES)
            _one_of(f"{path}, training {name}", told[name], "network", NETWORKS)
    _check_methods(plan, path)
    _check_repeat(plan, path)
    return plan


def _check_methods(plan, path):
    """Refuse a method that would quietly become another one."""
    methods, few = plan.setdefault("methods", {}), plan.setdefault("few", {})
    if both := methods.keys() & few.keys():
        raise RealError(
            f"{path}: {', '.join(both)} under methods and under few, expected under one"
        )
    for name, told in _methods(plan).items():
        where, told = f"{path}, method {name}", told or {}
        if unknown := set(told) - _METHOD:
            raise RealError(f"{where}: unknown {', '.join(sorted(unknown))}")
        if told and ("baseline" in told) == ("training" in told):
            raise RealError(f"{where}: found {told}, expected a baseline or a training")
        _one_of(where, told, "baseline", ("syn", "demons"))
        _one_of(where, told, "training", plan["trainings"])
        if "passes" in told and "training" not in told:
            raise RealError(f"{where}: found passes, expected them with a training only")
        _check_passes(where, told)
    for name in plan.get("retest", []):
        _one_of(f"{path}, retest", {"method": name}, "method", methods)


def _check_repeat(plan, path):
    where, told = f"{path}, repeat", plan.get("repeat") or {}
    if unknown := set(told) - {"trainings", "passes"}:
        raise RealError(f"{where}: unknown {', '.join(sorted(unknown))}")
    plan["repeat"] = {"trainings": told.get("trainings") or [], "passes": told.get("passes", 1)}
    _check_passes(where, plan["repeat"])
    for name in plan["repeat"]["trainings"]:
        _one_of(where, {"training": name}, "training", plan["trainings"])


def _check_passes(where, told):
    count = told.get("passes", 1)
    if type(count) is not int or count < 1:
        raise RealError(f"{where}: found passes {count!r}, expected a whole number, at least 1")


def _methods(plan):
    """All of them: of all pairs, and of few."""
    return plan["methods"] | plan["few"]


def _one_of(where, told, key, allowed):
    if key in told and told[key] not in allowed:
        raise RealError(
            f"{where}: found {key} {told[key]!r}, expected one of: {', '.join(allowed)}"
        )


def entry(plan: dict, part: str, name: str) -> dict:
    """One training or method (of all pairs, or of few).

    Raises
    ------
    RealError
        There is none of that name.
    """
    known = _methods(plan) if part == "methods" else plan[part]
    if name not in known:
        raise RealError(f"{part}: found {name!r}, expected one of: {', '.join(known)}")
    return known[name] or {}


def load_people(plan: dict, **more) -> cohorts.Cohort:
    """The people of the file."""
    told = plan["people"]
    return cohorts.load(told["cohort"], ndim=told["ndim"], spacing=told["spacing"], **more)


def build(settings: dict, shape):
    """The compiled, untrained model of a training, from its seed."""
    set_seed(settings["seed"])
    chosen = {key: settings[key] for key in _MODEL}
    return models.build(shape, network=network_class(settings["network"]), **chosen)


def train(plan: dict, name: str, folder: Path, results: Path) -> None:
    """Train, or go on; then write the weights and the record of the training."""
    settings, file = entry(plan, "trainings", name), results / "training" / f"{name}.json"
    used = any((told or {}).get("training") == name for told in _methods(plan).values())
    weights = (results / "weights" if used else folder / name) / f"{name}.h5"
    asked = _parameters(plan, settings)
    if weights.exists() and _made(file, asked):
        return
    model, history = fit(settings, load_people(plan), folder / name)
    models.save(model, weights)
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
    records.write(file, record)


def _made(file, asked):
    """Whether the record is there, made with these parameters; then it is said."""
    made = file.exists() and records.read(file)["parameters"] == asked
    if made:
        print(f"made already, see {file}", flush=True)
    return made


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
            *runs.callbacks(SimpleNamespace(**settings)),
        ],
        more_settings=_course(settings),
    )
    return model, history


def _course(settings):
    """How the rate runs: it is in a callback, where a resumed training would not see it change."""
    if settings["schedule"] == "constant":
        return {"schedule": "constant"}
    return {"schedule": settings["schedule"], "schedule_epochs": settings["epochs"]}


def ablate(plan: dict, folder: Path, results: Path) -> None:
    """Train what is missing of the ablation, every run from every seed; write one record of all.

    Rows of an earlier record with the same settings are kept, with the commit that made them.
    """
    told, file = plan["ablation"], results / "ablation.json"
    asked = {"runs": told["runs"], "seeds": told["seeds"]}
    if _made(file, _parameters(told, asked)):
        return
    people, rows = load_people(told), _earlier_rows(told, file)
    for name, settings in told["runs"].items():
        for seed in told["seeds"]:
            if (name, seed) not in rows:
                where = folder / "ablation" / f"{name.replace(', ', '-')}-{seed}"
                rows[name, seed] = _last_row(name, seed, fit(settings, people, where, seed)[1])
    rows = [rows[name, seed] for name in told["runs"] for seed in told["seeds"]]
    spent = sum(row["seconds"] for row in rows)
    record = _provenance(told, "ablate", asked, spent)
    record["metrics"] = {"split": "validation", "rows": rows}
    records.write(file, record)


def _earlier_rows(told, file):
    """Rows of the record, of runs that the file still has with the same settings."""
    if not file.exists():
        return {}
    record = records.read(file)
    runs = record["parameters"]["runs"]
    return {
        (row["run"], row["seed"]): {"commit": record["commit"]} | row
        for row in record["metrics"]["rows"]
        if runs[row["run"]] == told["runs"].get(row["run"])
        and record["parameters"]["people"] == told["people"]
    }


def _last_row(name, seed, history):
    last = history.iloc[-1]
    return {
        "run": name,
        "seed": seed,
        "steps": int(last["step"]),
        "loss": float(last["loss"]),
        "dice": float(last["val_dice"]),
        "folding_percent_brain": float(last["val_folding_percent"]),
        "seconds": float(history["seconds"].sum()),
        "commit": records.commit()[0],
    }


def method(plan: dict, name: str, people, results: Path):
    """A method as :func:`vxmlib.experiments.compare.measure_pair` takes it."""
    told = dict(entry(plan, "methods", name))
    if "baseline" in told:
        options = {key: value for key, value in told.items() if key != "baseline"}
        register = {"syn": baselines.syn_both, "demons": baselines.demons}[told["baseline"]]
        asked = compare.both_at_once if told["baseline"] == "syn" else compare.one_way
        return asked(partial(register, affine=people.affine, **options))
    if not told:
        return compare.one_way(baselines.identity)
    register = network_of(plan, told, people, results)
    if "instance" in told:
        optimise, steps = optimiser_of(plan, told, people), told["instance"]["steps"]

        def refined(moving, fixed):
            return optimise(register(moving, fixed), moving, fixed, steps=steps)[0]

        return compare.one_way(refined)
    return compare.one_way(register)


def network_of(plan: dict, told: dict, people, results: Path):
    """The registration by a trained network, in all its passes, compiled: its pairs are timed."""
    settings = entry(plan, "trainings", told["training"])
    path = results / "weights" / f"{told['training']}.h5"
    model = models.load(path, network=network_class(settings["network"]))
    register = partial(models.register, model)
    register(*_any_two(people))
    return passes.repeated(register, told.get("passes", 1))


def optimiser_of(plan: dict, told: dict, people) -> InstanceOptimiser:
    """The optimiser of a method, with the image loss of its training; compiled."""
    options = {key: told["instance"][key] for key in ("learning_rate", "lam")}
    image_loss = entry(plan, "trainings", told["training"])["image_loss"]
    optimise = InstanceOptimiser(people.shape, image_loss=image_loss, **options)
    optimise(warp.identity(people.shape), *_any_two(people), steps=1)
    return optimise


def measure(plan: dict, name: str, part: str, folder: Path, results: Path) -> None:
    """Measure a method on all ordered pairs of one part of the people; write its record."""
    told, asked = entry(plan, "methods", name), what_measures(plan, name, results)
    file = results / part / f"{name}.json"
    if _made(file, _parameters(plan, asked)):
        return
    people, parcels = load_people(plan), load_people(plan, labels="manual")
    # Rows of an interrupted call with another λ, or by other weights, are none of these.
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    begun = folder / f"{part}-{name}-{key}.jsonl"
    both = method(plan, name, people, results)
    rows = compare.measure_all(people, parcels, pairs_of(people, part), both, file=begun)
    # SyN's seconds are those of one run for both directions, and stand in both rows.
    seconds = sum(row["seconds"] for row in rows) / (2 if told.get("baseline") == "syn" else 1)
    record = _provenance(plan, f"measure {name}", asked, seconds)
    record["metrics"] = {"split": part, **compare.summary(rows), "rows": rows}
    record["baselines"] = baselines.versions()
    records.write(file, record)
    begun.unlink()


def what_measures(plan: dict, name: str, results: Path) -> dict:
    """All that a method's figures depend on: its entry, and its training's settings and weights.

    Raises
    ------
    RealError
        The training of the method has left no weights.
    """
    told = dict(entry(plan, "methods", name))
    if "training" in told:
        told |= _trained(plan, told["training"], results)
    return told


def _trained(plan, name, results):
    """What the figures of a training's network depend on."""
    settings, weights = entry(plan, "trainings", name), results / "weights" / f"{name}.h5"
    if not weights.exists():
        raise RealError(f"{weights}: no such file; run `python -m tools.real train {name}`")
    found = {"seed": settings["seed"], "training_settings": settings}
    return found | {"weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}


def watch(plan: dict, name: str, results: Path, *, steps: int = 20, every: int = 1) -> None:
    """Follow an instance optimisation on validation pairs, beyond its usual number of steps."""
    told, file = entry(plan, "methods", name), results / "instance" / f"{name}.json"
    if "instance" not in told:
        some = [key for key, each in plan["methods"].items() if "instance" in (each or {})]
        raise RealError(f"watch: {name!r} optimises nothing, expected one of: {', '.join(some)}")
    asked = what_measures(plan, name, results)
    if _made(file, _parameters(plan, asked)):
        return
    people = load_people(plan)
    register, optimise = network_of(plan, told, people, results), optimiser_of(plan, told, people)
    rows = []
    for moving, fixed in compare.unordered(people.split["validation"])[:WATCHED]:
        seen_of, seen = _looking_at(people, moving, fixed), {}

        def look(step, field, seen_of=seen_of, seen=seen):
            if step % every == 0:
                seen[step] = seen_of(field)

        images = people.image(moving), people.image(fixed)
        began = time.perf_counter()
        start = register(*images)
        passed = time.perf_counter() - began
        _, history = optimise(start, *images, steps=steps, watch=look)
        seconds = [0.0, *history["seconds"]]
        rows += [
            {"moving": moving, "fixed": fixed, "step": step}
            | found
            | {"seconds": passed + seconds[step]}
            for step, found in seen.items()
        ]
    spent = sum(row["seconds"] for row in rows if row["step"] == steps)
    record = _provenance(plan, f"watch {name}", asked, spent)
    record["metrics"] = {"split": "validation", "rows": rows}
    records.write(file, record)


def repeat(plan: dict, results: Path) -> None:
    """Register the validation pairs several times by one network, and look after each pass."""
    told, file = plan["repeat"], results / "passes.json"
    if not told["trainings"]:
        raise RealError("repeat: found no trainings under `repeat` in the file, expected some")
    used = {name: _trained(plan, name, results) for name in told["trainings"]}
    asked = {"passes": told["passes"], "trainings": used}
    if _made(file, _parameters(plan, asked)):
        return
    people = load_people(plan)
    methods = {name: network_of(plan, {"training": name}, people, results) for name in used}
    rows = [
        {"training": name, "moving": moving, "fixed": fixed, **seen}
        for moving, fixed in cohorts.ordered_pairs(people.split["validation"])
        for name, register in methods.items()
        for seen in _each_pass(people, register, moving, fixed, told["passes"])
    ]
    record = _provenance(plan, "repeat", asked, sum(row["seconds"] for row in rows))
    record["metrics"] = {"split": "validation", "rows": rows}
    records.write(file, record)


def _each_pass(people, register, moving, fixed, count):
    """Dice and folding after each pass, and the seconds that this pass took."""
    seen_of = _looking_at(people, moving, fixed)
    fields = passes.passes(register, people.image(moving), people.image(fixed), count=count)
    for number in range(1, count + 1):
        began = time.perf_counter()
        field = next(fields)
        yield {"pass": number, "seconds": time.perf_counter() - began} | seen_of(field)


def _looking_at(people, moving, fixed):
    """A function of a pair's displacement: Dice of the core structures, and folding."""
    names, brain = compare.core(people.structures), people.brain(fixed)
    target, own = people.labels(fixed), people.labels(moving)

    def seen_of(field):
        dice = metrics.mean_dice(warp.warp_labels(own, field), target, names)
        folds = metrics.folding(field, brain).percent_in_mask
        return {"dice": dice, "folding_percent_brain": folds}

    return seen_of


def times(plan: dict, results: Path) -> None:
    """Time every method that was measured on the same test pairs, pair by pair, by turns."""
    people, rows, measured = load_people(plan), [], _measured(plan, results)
    methods = {name: method(plan, name, people, results) for name in measured}
    for moving, fixed in pairs_of(people, "few"):
        for name, both in methods.items():
            seconds = both(people.image(moving), people.image(fixed))[2]
            rows.append({"method": name, "moving": moving, "fixed": fixed, "seconds": seconds})
            print(f"{name} {moving} {fixed}: {seconds:.2f} s", flush=True)
    record = _provenance(plan, "times", measured, sum(row["seconds"] for row in rows))
    record["metrics"] = {"split": "test", "rows": rows, "cores": os.cpu_count()}
    record["baselines"] = baselines.versions()
    records.write(results / "times.json", record)


def _measured(plan, results):
    """The methods that were measured on the test people, as the file has them."""
    return {
        name: told
        for name, told in plan["methods"].items()
        if (results / "test" / f"{name}.json").exists()
    }


def pairs_of(people, part: str) -> list[tuple[str, str]]:
    """Each two people of a part once; of "repeats", a person's two scans; "few": those timed."""
    if part == "repeats":
        return list(zip(people.split["validation"], people.split["repeats"], strict=True))
    if part == "few":
        return compare.unordered(people.split["test"])[:TIMED]
    return compare.unordered(people.split[part])


def _any_two(people):
    return [people.image(subject) for subject in people.split["train"][:2]]


def _parameters(plan, settings):
    return {"people": plan["people"], **settings}


def _provenance(plan, run, settings, seconds):
    return records.provenance(
        run,
        cohort=plan["people"]["cohort"],
        profile="full",
        seed=settings.get("seed", 0),
        parameters=_parameters(plan, settings),
        seconds=seconds,
        device=device_summary(),
    )


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("name", nargs="?", help="a training or a method of config/real.yaml")
    parser.add_argument("--part", default="test", choices=["validation", "test", "repeats", "few"])
    parser.add_argument("--build", type=Path, default=CODE / "_build" / "real")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    try:
        plan = load_plan()
        if options.command == "train":
            train(plan, options.name, options.build, options.results)
        elif options.command == "ablate":
            ablate(plan, options.build, options.results)
        elif options.command == "measure":
            measure(plan, options.name, options.part, options.build, options.results)
        elif options.command == "watch":
            watch(plan, options.name, options.results)
        elif options.command == "repeat":
            repeat(plan, options.results)
        elif options.command == "times":
            times(plan, options.results)
        else:
            make_all(plan, options.build, options.results)
    except _FAILURES as error:
        parser.exit(1, f"ERROR: {error}\n")


def make_all(plan: dict, folder: Path, results: Path) -> None:
    """Everything that is not made yet; what cannot be made leaves the others.

    Raises
    ------
    RealError
        At the end, naming all that could not be made.
    """
    failed = []
    for what, work in _everything(plan, folder, results):
        try:
            work()
        except _FAILURES as error:
            print(f"{what}: left out: {error}", flush=True)
            failed.append(what)
    if not _timed(plan, results):
        times(plan, results)
    if failed:
        raise RealError(f"left out: {', '.join(failed)}; the reasons stand above")


def _everything(plan, folder, results):
    """Each piece of work by its name; each looks itself whether it was done."""
    for name in plan["trainings"]:
        yield f"train {name}", partial(train, plan, name, folder, results)
    if "ablation" in plan:
        yield "ablate", partial(ablate, plan, folder, results)
    asked = [("test", name) for name in plan["methods"]] + [("few", name) for name in plan["few"]]
    asked += [(part, name) for name in plan.get("retest", []) for part in ("validation", "repeats")]
    for part, name in asked:
        yield f"measure {name}", partial(measure, plan, name, part, folder, results)
    for name, told in plan["methods"].items():
        if "instance" in (told or {}):
            yield f"watch {name}", partial(watch, plan, name, results)
    if plan["repeat"]["trainings"]:
        yield "repeat", partial(repeat, plan, results)


def _timed(plan, results):
    """Whether every method that was measured was timed, too, with the settings of now."""
    file, asked = results / "times.json", _parameters(plan, _measured(plan, results))
    return file.exists() and records.read(file)["parameters"] == asked


if __name__ == "__main__":
    main()
