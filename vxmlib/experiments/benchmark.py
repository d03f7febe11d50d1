"""Train, measure and time the methods of ``config/real.yaml`` on real subjects in 3D.

Each task (a training run, a measurement, ...) writes one record. A task does nothing if its record
exists and was made with the current settings and weights. Records and trained weights go to the
folder ``results``; checkpoints and unfinished measurements go to ``folder``.
"""

import hashlib
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from vxmlib import cohorts, metrics, models, records, training
from vxmlib.backend import device_summary
from vxmlib.experiments import compare, runs, stepwise, trained
from vxmlib.experiments import plan as plans
from vxmlib.experiments.plan import PlanError, training_parameters
from vxmlib.experiments.settings import Settings
from vxmlib.methods import baselines
from vxmlib.sources.atlas import TEMPLATE

#: Number of unordered pairs that :func:`watch` measures, and that :func:`times` times.
WATCHED, TIMED = 6, 3
#: About how many times a training run registers the validation subjects.
LOOKS = 6
#: Errors after which :func:`make_all` continues with the next task.
FAILURES = (ValueError, OSError, RuntimeError, ImportError)


def load_people(plan: dict, *, atlas: str | None = None, **options) -> cohorts.Cohort:
    """Open the cohort of the plan or of one of its parts on slices.

    With ``atlas="template"``, the atlas is an additional subject. Further options go to
    :func:`vxmlib.experiments.runs.load_cohort`.
    """
    return runs.load_cohort(Settings(profile="full", atlas=atlas, **plan["people"]), **options)


def train(plan: dict, name: str, folder: Path, results: Path) -> None:
    """Train a network of the plan, or resume its training; write its weights and its record."""
    settings, file = plans.training(plan, name), results / "training" / f"{name}.json"
    weights = trained.weights_file(results, name)
    parameters = {"people": plan["people"], **training_parameters(settings)}
    if weights.exists() and _is_made(file, parameters):
        return
    run = fit(settings, load_people(plan, atlas=settings.atlas), folder / name)
    models.save(run.model, weights)
    record = _record(f"train {name}", parameters, run.history["seconds"].sum())
    columns = [c for c in run.history.columns if c not in ("epoch", "lr")]
    last = run.history.iloc[-1]
    record["metrics"] = {
        "steps": int(last["step"]),
        "weights": int(run.model.count_params()),
        "validation_dice": float(last["val_dice"]),
        "validation_folding_percent": float(last["val_folding_percent"]),
        "history": {c: run.history[c].round(6).tolist() for c in columns},
    }
    records.write(file, record)


def fit(settings: Settings, people, folder: Path) -> runs.Run:
    """Train with these settings, or resume, and register the validation subjects at intervals."""
    watched = runs.pairs_of(people, "validation")
    every = max(1, settings.epochs // LOOKS)
    monitor = training.RegistrationMonitor(people, watched, every=every)
    return runs.train(settings, people, folder, monitors=[monitor])


def ablate(plan: dict, folder: Path, results: Path, part: str = "ablation") -> None:
    """Train the missing runs of a part on slices, each with every seed; write one record of all.

    A row of an earlier record is kept, with the commit that made it, if the settings of its run,
    the subjects and the groups have not changed. If the part has groups of structures, each run is
    also measured on every validation pair, see :func:`by_group`.

    Parameters
    ----------
    part : str
        One of :data:`vxmlib.experiments.plan.ON_SLICES`; also the name of the record.

    Raises
    ------
    PlanError
        If the plan has no such part.
    """
    if part not in plans.ON_SLICES or part not in plan:
        some = ", ".join(each for each in plans.ON_SLICES if each in plan)
        raise PlanError(f"ablate: found {part!r}, expected one of: {some}")
    planned, file = plan[part], results / f"{part}.json"
    groups = planned.get("groups", {})
    parameters = {
        "people": planned["people"],
        "runs": {name: training_parameters(run) for name, run in planned["runs"].items()},
        "seeds": planned["seeds"],
    } | ({"groups": groups} if groups else {})
    if _is_made(file, parameters):
        return
    people, rows = load_people(planned), _earlier_rows(file, parameters)
    asked = [(name, seed) for name in planned["runs"] for seed in planned["seeds"]]
    for name, seed in asked:
        if (name, seed) not in rows:
            settings = replace(planned["runs"][name], seed=seed)
            run = fit(settings, people, folder / part / f"{name.replace(', ', '-')}-{seed}")
            rows[name, seed] = _last_row(name, seed, run.history)
            if groups:
                rows[name, seed]["pairs"] = by_group(run.register, people, groups)
    rows = [rows[each] for each in asked]
    command = "ablate" if part == "ablation" else f"ablate {part}"
    record = _record(command, parameters, sum(row["seconds"] for row in rows))
    record["metrics"] = {"split": "validation", "rows": rows}
    if groups:
        record["metrics"]["identity"] = by_group("identity", people, groups)
    records.write(file, record)


def by_group(method, people, groups: dict) -> list[dict]:
    """Measure a method on the ordered validation pairs, with the mean Dice of groups of structures.

    Parameters
    ----------
    method : "identity" or callable
        See :func:`vxmlib.metrics.evaluate_pairs`.
    people : Cohort
    groups : dict of str to list of int
        Name of the group -> labels of its structures.

    Returns
    -------
    list of dict
        One row for each pair: ``moving``, ``fixed``, ``folding_percent_brain``, and the mean Dice
        of each group by its name.
    """
    table = metrics.evaluate_pairs(people, runs.pairs_of(people, "validation"), method)
    each = table.groupby(["moving", "fixed"], sort=False)
    result = each[["folding_percent_brain"]].first()
    for name, labels in groups.items():
        part = table[table["label"].isin(labels)]
        result[name] = part.groupby(["moving", "fixed"], sort=False)["dice"].mean()
    return result.round(5).reset_index().to_dict("records")


def _earlier_rows(file, parameters):
    """Return the rows of an earlier record whose settings, subjects and groups are the same."""
    if not file.exists():
        return {}
    record = records.read(file)
    earlier, now = record["parameters"], parameters["runs"]
    return {
        (row["run"], row["seed"]): {"commit": record["commit"]} | row
        for row in record["metrics"]["rows"]
        if earlier["runs"][row["run"]] == now.get(row["run"])
        and all(earlier.get(key) == parameters.get(key) for key in ("people", "groups"))
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


def registration(plan: dict, name: str, people, results: Path):
    """Return a method of the plan as a function that registers both directions of a pair.

    It is the argument ``method`` of :func:`vxmlib.experiments.compare.measure_pair`.
    """
    method = plans.method(plan, name)
    if method.get("baseline") == "syn":
        return compare.both_at_once(_baseline(method, people, baselines.syn_both))
    return compare.one_way(one_direction(plan, method, people, results))


def one_direction(plan: dict, method: dict, people, results: Path):
    """Return a method, given by its entry, as a function that registers one direction of a pair."""
    if "baseline" in method:
        registrations = {
            "syn": baselines.syn,
            "greedy": baselines.greedy,
            "demons": baselines.demons,
        }
        return _baseline(method, people, registrations[method["baseline"]])
    if not method:
        return baselines.identity
    register = trained.network(plan, method, people, results)
    if "instance" not in method:
        return register
    optimise, steps = trained.optimiser(plan, method, people), method["instance"]["steps"]

    def refined(moving, fixed):
        return optimise(register(moving, fixed), moving, fixed, steps=steps)[0]

    return refined


def _baseline(method, people, register):
    options = {key: value for key, value in method.items() if key != "baseline"}
    return partial(register, affine=people.affine, **options)


def measure(plan: dict, name: str, part: str, folder: Path, results: Path) -> None:
    """Measure a method on the pairs of one part; write its record.

    Both directions of a pair are measured, but only one in part "atlas". An interrupted measurement
    continues with the missing pairs. See :func:`pairs_of` for the parts.
    """
    parameters, both_ways = measured_parameters(plan, name, results, part), part != "atlas"
    file = results / part / f"{name}.json"
    if _is_made(file, parameters):
        return
    if both_ways:
        people, parcels = load_people(plan), load_people(plan, labels="manual")
        method = registration(plan, name, people, results)
    else:
        people, parcels = load_people(plan, atlas=TEMPLATE), None
        method = one_direction(plan, plans.method(plan, name, part), people, results)
    # The key excludes rows of an interrupted call with another λ or other weights.
    key = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:8]
    begun = folder / f"{part}-{name}-{key}.jsonl"
    pairs = pairs_of(people, part)
    rows = compare.measure_all(people, parcels, pairs, method, both_ways=both_ways, file=begun)
    # One run of SyN registers both directions; both rows contain the seconds of this one run.
    rows_a_run = 2 if both_ways and parameters.get("baseline") == "syn" else 1
    seconds = sum(row["seconds"] for row in rows) / rows_a_run
    record = _record(f"measure {name}", parameters, seconds)
    record["metrics"] = {"split": part, **compare.summary(rows), "rows": rows}
    record["baselines"] = baselines.versions()
    records.write(file, record)
    begun.unlink()


def measured_parameters(plan: dict, name: str, results: Path, part: str = "test") -> dict:
    """Return everything that the measurements of a method on one part depend on.

    These are the subjects, the atlas in part "atlas", the method's entry in the plan and, if the
    method uses a network, the settings of its training and the hash of its weights.

    Raises
    ------
    PlanError
        If the plan has no such method, or the weights of its network do not exist.
    """
    parameters = {"people": plan["people"], **plans.method(plan, name, part)}
    if part == "atlas":
        parameters["atlas"] = TEMPLATE
    if "training" in parameters:
        parameters |= trained.provenance(plan, parameters["training"], results)
    return parameters


def watch(plan: dict, name: str, results: Path, *, steps: int = 20, every: int = 1) -> None:
    """Measure an instance optimisation step by step on validation pairs; write the record.

    The optimisation takes ``steps`` steps, whatever the method's number of steps. It is measured
    before the first step and then after every ``every`` steps.

    Raises
    ------
    PlanError
        If the method has no instance optimisation, or the weights of its network do not exist.
    """
    method, file = plans.method(plan, name), results / "instance" / f"{name}.json"
    if "instance" not in method:
        some = [key for key, each in plan["methods"].items() if "instance" in each]
        raise PlanError(
            f"watch: found {name!r}, a method without instance optimisation, expected one of: "
            f"{', '.join(some)}"
        )
    parameters = measured_parameters(plan, name, results)
    if _is_made(file, parameters):
        return
    people = load_people(plan)
    methods = (
        trained.network(plan, method, people, results),
        trained.optimiser(plan, method, people),
    )
    rows = [
        {"moving": moving, "fixed": fixed, **row}
        for moving, fixed in compare.unordered(people.split["validation"])[:WATCHED]
        for row in stepwise.each_step(people, *methods, moving, fixed, steps=steps, every=every)
    ]
    spent = sum(row["seconds"] for row in rows if row["step"] == steps)
    record = _record(f"watch {name}", parameters, spent)
    record["metrics"] = {"split": "validation", "rows": rows}
    records.write(file, record)


def repeat(plan: dict, results: Path) -> None:
    """Register the validation pairs in several passes, measure each pass; write the record.

    The entry ``repeat`` of the plan gives the trained networks and the number of passes.

    Raises
    ------
    PlanError
        If the entry names no training, or the weights of a network do not exist.
    """
    names, count = plan["repeat"]["trainings"], plan["repeat"]["passes"]
    if not names:
        raise PlanError(
            "repeat: found no trainings under `repeat` in the plan, expected at least one; name "
            "the trainings in config/real.yaml"
        )
    by = {name: trained.provenance(plan, name, results) for name in names}
    parameters = {"people": plan["people"], "passes": count, "trainings": by}
    file = results / "passes.json"
    if _is_made(file, parameters):
        return
    people = load_people(plan)
    networks = {name: trained.network(plan, {"training": name}, people, results) for name in names}
    rows = [
        {"training": name, "moving": moving, "fixed": fixed, **row}
        for moving, fixed in cohorts.ordered_pairs(people.split["validation"])
        for name, register in networks.items()
        for row in stepwise.each_pass(people, register, moving, fixed, count)
    ]
    record = _record("repeat", parameters, sum(row["seconds"] for row in rows))
    record["metrics"] = {"split": "validation", "rows": rows}
    records.write(file, record)


def times(plan: dict, results: Path) -> None:
    """Time the methods on a few test pairs; write the record.

    All methods that have a record on the test subjects are timed. They take turns: each pair is
    registered by every method before the next pair.
    """
    parameters = timed_parameters(plan, results)
    if _is_made(results / "times.json", parameters):
        return
    people, rows = load_people(plan), []
    names = [name for name in parameters if name != "people"]
    methods = {name: registration(plan, name, people, results) for name in names}
    for moving, fixed in pairs_of(people, "few"):
        for name, both in methods.items():
            seconds = both(people.image(moving), people.image(fixed))[2]
            rows.append({"method": name, "moving": moving, "fixed": fixed, "seconds": seconds})
            print(f"{name} {moving} {fixed}: {seconds:.2f} s", flush=True)
    record = _record("times", parameters, sum(row["seconds"] for row in rows))
    record["metrics"] = {"split": "test", "rows": rows, "cores": os.cpu_count()}
    record["baselines"] = baselines.versions()
    records.write(results / "times.json", record)


def timed_parameters(plan: dict, results: Path) -> dict:
    """Return the subjects and the plan's entries of the methods measured on the test subjects."""
    return {"people": plan["people"]} | {
        name: method
        for name, method in plan["methods"].items()
        if (results / "test" / f"{name}.json").exists()
    }


def pairs_of(people, part: str) -> list[tuple[str, str]]:
    """Return the pairs of ids of one part, each pair in one order only.

    Part "validation" or "test" has all pairs of its subjects, "few" the test pairs that are timed,
    "repeats" the two scans of each validation subject, and "atlas" each test subject and the atlas.
    """
    if part == "atlas":
        return runs.pairs_of(people, "test")
    if part == "repeats":
        return list(zip(people.split["validation"], people.split["repeats"], strict=True))
    if part == "few":
        return compare.unordered(people.split["test"])[:TIMED]
    return compare.unordered(people.split[part])


def make_all(plan: dict, folder: Path, results: Path) -> None:
    """Make every record that is missing or out of date; a task that fails does not stop the others.

    Raises
    ------
    PlanError
        After all tasks, if some of them failed; the message names these.
    """
    failed = []
    for what, work in _everything(plan, folder, results):
        try:
            work()
        except FAILURES as error:
            print(f"{what}: failed: {error}", flush=True)
            failed.append(what)
    if failed:
        raise PlanError(f"failed: {', '.join(failed)}; the reasons are printed above")


def _everything(plan, folder, results):
    """Yield the name and the function of each task; each function checks its own record."""
    for name in plan["trainings"]:
        yield f"train {name}", partial(train, plan, name, folder, results)
    for part in plans.ON_SLICES:
        if part in plan:
            yield f"ablate {part}", partial(ablate, plan, folder, results, part)
    asked = [("test", name) for name in plan["methods"]] + [("few", name) for name in plan["few"]]
    asked += [(part, name) for name in plan["retest"] for part in ("validation", "repeats")]
    asked += [("atlas", name) for name in plan["atlas"]]
    for part, name in asked:
        yield f"measure {name} ({part})", partial(measure, plan, name, part, folder, results)
    for name, method in plan["methods"].items():
        if "instance" in method:
            yield f"watch {name}", partial(watch, plan, name, results)
    if plan["repeat"]["trainings"]:
        yield "repeat", partial(repeat, plan, results)
    yield "times", partial(times, plan, results)


def _is_made(file, parameters):
    """Return whether a record with these parameters exists, and report it if so."""
    there = file.exists() and records.read(file)["parameters"] == parameters
    if there:
        print(f"already made, see {file}", flush=True)
    return there


def _record(run, parameters, seconds):
    """Return a record without its metrics."""
    return records.provenance(
        run,
        cohort=parameters["people"]["cohort"],
        profile="full",
        seed=parameters.get("seed", 0),
        parameters=parameters,
        seconds=float(seconds),
        device=device_summary(),
    )
