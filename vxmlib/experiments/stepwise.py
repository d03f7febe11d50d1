"""Measure a registration after each step of an instance optimisation, or after each pass."""

import time

from vxmlib import metrics
from vxmlib.experiments import compare
from vxmlib.methods import passes


def each_step(people, register, optimise, moving, fixed, *, steps, every):
    """Measure an instance optimisation that starts from the displacement of a network.

    Parameters
    ----------
    people : Cohort
    register : callable
        ``register(moving, fixed)`` returns the displacement of the network.
    optimise : vxmlib.methods.instance.InstanceOptimiser
    moving, fixed : str
        Ids of the two subjects.
    steps, every : int
        Number of steps, and number of steps from one measurement to the next.

    Returns
    -------
    list of dict
        ``step`` (0 before the first step), ``dice``, ``folding_percent_brain`` (see
        :func:`measure`) and ``seconds`` since the start of the network.
    """
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
    """Register a pair with a network in ``count`` passes, and measure each pass.

    Yields
    ------
    dict
        ``pass`` (from 1), ``seconds`` of this pass alone, ``dice`` and ``folding_percent_brain``
        (see :func:`measure`).
    """
    fields = passes.passes(register, people.image(moving), people.image(fixed), count=count)
    for number in range(1, count + 1):
        began = time.perf_counter()
        field = next(fields)
        seconds = time.perf_counter() - began
        yield {"pass": number, "seconds": seconds, **measure(people, moving, fixed, field)}


def measure(people, moving, fixed, displacement):
    """Return the mean Dice of the core structures and the folding in percent of the fixed brain."""
    core = compare.core(people.structures)
    measures = metrics.measure_displacement(people, moving, fixed, displacement, structures=core)
    return {name: measures[name] for name in ("dice", "folding_percent_brain")}
