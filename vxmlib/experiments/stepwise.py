"""Look at a registration as it proceeds: after each step of an optimisation, after each pass."""

import time

from vxmlib import metrics, warp
from vxmlib.experiments import compare
from vxmlib.methods import passes


def each_step(people, register, optimise, moving, fixed, *, steps, every):
    """Dice, folding and seconds after some steps of an optimisation, from the network's field."""
    measures_of, by_step = measures_function(people, moving, fixed), {}

    def look(step, field):
        if step % every == 0:
            by_step[step] = measures_of(field)

    images = people.image(moving), people.image(fixed)
    began = time.perf_counter()
    start = register(*images)
    passed = time.perf_counter() - began
    _, history = optimise(start, *images, steps=steps, watch=look)
    seconds = [0.0, *history["seconds"]]
    return [
        {"step": step, **measures, "seconds": passed + seconds[step]}
        for step, measures in by_step.items()
    ]


def each_pass(people, register, moving, fixed, count):
    """Dice and folding after each pass, and the seconds that this pass took."""
    measures_of = measures_function(people, moving, fixed)
    fields = passes.passes(register, people.image(moving), people.image(fixed), count=count)
    for number in range(1, count + 1):
        began = time.perf_counter()
        field = next(fields)
        yield {"pass": number, "seconds": time.perf_counter() - began} | measures_of(field)


def measures_function(people, moving, fixed):
    """A function of a pair's displacement: Dice of the core structures, and folding."""
    names, brain = compare.core(people.structures), people.brain(fixed)
    target, labels = people.labels(fixed), people.labels(moving)

    def measures_of(field):
        dice = metrics.mean_dice(warp.warp_labels(labels, field), target, names)
        folds = metrics.folding(field, brain).percent_in_mask
        return {"dice": dice, "folding_percent_brain": folds}

    return measures_of
