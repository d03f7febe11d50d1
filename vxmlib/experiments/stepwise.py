"""Look at a registration as it proceeds: after each step of an optimisation, after each pass."""

import time

from vxmlib import metrics
from vxmlib.experiments import compare
from vxmlib.methods import passes


def each_step(people, register, optimise, moving, fixed, *, steps, every):
    """Dice, folding and seconds after some steps of an optimisation, from the network's field."""
    by_step = {}

    def look(step, field):
        if step % every == 0:
            by_step[step] = measure(people, moving, fixed, field)

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
    fields = passes.passes(register, people.image(moving), people.image(fixed), count=count)
    for number in range(1, count + 1):
        began = time.perf_counter()
        field = next(fields)
        seconds = time.perf_counter() - began
        yield {"pass": number, "seconds": seconds, **measure(people, moving, fixed, field)}


def measure(people, moving, fixed, displacement):
    """Dice of the core structures of a pair, and folding in percent of the fixed brain."""
    core = compare.core(people.structures)
    measures = metrics.measure_displacement(people, moving, fixed, displacement, structures=core)
    return {name: measures[name] for name in ("dice", "folding_percent_brain")}
