"""Run the commands behind `make book` and `make lambda`: the builds and their single steps.

``build`` and ``grid`` run the Snakemake workflow (Snakefile). ``lesson``, ``point``, ``stage`` and
``render`` are its steps, and ``notebooks`` writes the .ipynb files of the lessons.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from vxmlib import files
from vxmlib.experiments.settings import Settings

CODE = Path(__file__).resolve().parent.parent
#: Seconds that Snakemake, lessons and kernels get to end before they are killed.
GRACE = 20


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks λ shows a question mark
    options = _parser().parse_args(arguments)
    options.root, options.build = Path(options.root).resolve(), Path(options.build).resolve()
    _handle_signals(signal.default_int_handler)
    try:
        options.run(options)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"\nERROR: {error}\n", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Finished results are kept.", file=sys.stderr, flush=True)
        return 130
    return 0


def lessons(root: Path) -> dict[str, dict]:
    """Return the lessons of ``config/book.yaml`` in their order, each with its plan.

    Raises
    ------
    ValueError
        If an entry does not match the schema of the file, a lesson has no source, or a lesson
        needs one that does not come before it.
    """
    path = root / "config" / "book.yaml"
    plans = files.read_yaml(path, schema="book")["lessons"]
    plans = {name: plan or {} for name, plan in plans.items()}
    for position, (name, plan) in enumerate(plans.items()):
        if not (root / "notebooks" / f"{name}.py").exists():
            raise ValueError(f"{path}: lesson {name!r} has no source notebooks/{name}.py")
        for need in plan.get("needs", []):
            if need not in list(plans)[:position]:
                raise ValueError(
                    f"{path}: lesson {name!r} needs {need!r}, which is no earlier lesson"
                )
    return plans


def choose(root: Path, wanted: str) -> list[str]:
    """Return the lessons that a text names by number or name; all lessons for an empty text.

    Examples of such texts are "04 05", "4,5", "dice" and "04_dice".

    Raises
    ------
    ValueError
        If a lesson does not exist. The message names the existing ones.
    """
    known = list(lessons(root))
    chosen = []
    for word in wanted.replace(",", " ").split():
        number = word.zfill(2) + "_" if word.isdigit() else None
        match = [name for name in known if word in (name, name.lstrip("0123456789_"))]
        match += [name for name in known if number and name.startswith(number)]
        if not match:
            raise ValueError(f"LESSONS: found {word!r}, expected some of: {', '.join(known)}")
        chosen += match
    return chosen or known


def build(options) -> None:
    """Bring the book, or some of its lessons, up to date with Snakemake."""
    start = time.monotonic()
    scans = options.own or None
    Settings(cohort=options.cohort, profile=options.profile, seed=options.seed, root=scans)
    chosen = choose(options.root, options.lessons)
    whole = not options.lessons.strip()
    run = f"{options.cohort}-{options.profile}"
    html = "html" if run == "mni-quick" else f"html-{run}"
    targets = [f"{html}/index.html"] if whole else [f"executed/{run}/{x}.ipynb" for x in chosen]
    options.build.mkdir(parents=True, exist_ok=True)
    print(
        f"Book: {len(chosen)} lessons, cohort {options.cohort}, profile {options.profile}, "
        f"seed {options.seed}, {options.cores} cores",
        flush=True,
    )
    with only_one(options.build) as lock:
        status = _snakemake(options, lock, targets)
    if status:
        raise RuntimeError("the book was not built; the messages above say why")
    front = options.build / (f"{html}/index.html" if whole else f"executed/{run}")
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    print(f"\nUp to date after {minutes}:{seconds:02d}.")
    print(f"Front page: {front}" if whole else f"Executed lessons: {front}", flush=True)


def grid(options) -> None:
    """Run the missing training runs of a λ grid with Snakemake."""
    from tools.grid import folder, points

    start = time.monotonic()
    known = points(options.root, options.grid, options.cohort, options.profile, options.own)
    target = folder(options.build, options.grid, options.cohort, options.profile)
    finished = sum((target / f"{name}.json").exists() for name in known)
    options.build.mkdir(parents=True, exist_ok=True)
    print(
        f"λ grid {options.grid}: {len(known)} runs, {finished} of them finished; cohort "
        f"{options.cohort}, profile {options.profile}, {options.cores} cores",
        flush=True,
    )
    with only_one(options.build) as lock:
        status = _snakemake(options, lock, ["lambda"], "--keep-going")
    if status:
        raise RuntimeError("some runs did not finish; the messages above say why")
    minutes, seconds = divmod(int(time.monotonic() - start), 60)
    print(f"\nUp to date after {minutes}:{seconds:02d}.\nRecords: {target}", flush=True)


def point(options) -> None:
    """Run one point of a λ grid."""
    from tools.grid import folder, points, run_point

    known = points(options.root, options.grid, options.cohort, options.profile, options.own)
    if options.name not in known:
        raise ValueError(f"no run {options.name!r} in grid {options.grid}; see config/lambda.yaml")
    target = folder(options.build, options.grid, options.cohort, options.profile)
    run_point(
        known[options.name],
        target / f"{options.name}.json",
        root=options.root,
        build=options.build,
        threads=options.threads,
        label=_label(known, options.name),
    )


def _label(known: dict[str, Settings], name: str) -> str:
    """Return the start of the progress lines of one point."""
    point, number = known[name], list(known).index(name) + 1
    what = f"{point.image_loss} λ={point.lam:g} int{point.int_steps} seed{point.seed}"
    return f"[{number}/{len(known)}] {point.cohort} {what:24}"


def _snakemake(options, lock: int, targets: list[str], *more: str) -> int:
    names = ("cohort", "profile", "seed", "own", "grid")
    config = {name: getattr(options, name) for name in names if hasattr(options, name)}
    config["root"] = options.root
    command = [sys.executable, "-m", "snakemake", *targets, "--snakefile", CODE / "Snakefile"]
    command += ["--directory", options.build, "--cores", options.cores]
    command += ["--rerun-incomplete", "--nolock", "--quiet", "all", *more]
    command += ["--config", *(f"{name}={value}" for name, value in config.items())]
    # Snakemake runs in a separate session, so that Ctrl-C reaches it only once, through this
    # process. It holds the lock, too, so that the folder stays locked if this process is killed.
    process = subprocess.Popen(
        [str(word) for word in command], cwd=CODE, start_new_session=True, pass_fds=[lock]
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        _end(process)
        raise


def _handle_signals(handler) -> None:
    """Handle SIGTERM and a closed terminal like Ctrl-C; signals that are ignored stay ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _end(process: subprocess.Popen) -> None:
    """End Snakemake and all processes that it started; return when none of them is left."""
    _handle_signals(signal.SIG_IGN)  # nothing may interrupt this
    if process.poll() is None:
        snakemake = psutil.Process(process.pid)
        family = [snakemake, *snakemake.children(recursive=True)]
        os.killpg(process.pid, signal.SIGTERM)  # not the kernels, which the lessons shut down
        for child in psutil.wait_procs(family, timeout=GRACE)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(family)


@contextlib.contextmanager
def only_one(folder: Path):
    """Lock a folder against a second build; yield the file descriptor of the lock.

    Raises
    ------
    RuntimeError
        If another build holds the lock.
    """
    with contextlib.ExitStack() as held:
        try:
            stream = held.enter_context(files.alone(folder, wait=False))
        except BlockingIOError:
            raise RuntimeError(
                f"another build is running in {folder}; wait until it ends"
            ) from None
        yield stream.fileno()


def lesson(options) -> None:
    """Run one lesson."""
    from tools.lesson import run_lesson

    plans = lessons(options.root)
    parameters = {"cohort": options.cohort, "profile": options.profile, "seed": options.seed}
    if options.own:
        parameters["root"] = options.own
    run = f"{options.cohort}-{options.profile}"
    position = list(plans).index(options.name) + 1
    run_lesson(
        options.root / "notebooks" / f"{options.name}.py",
        options.build / "executed" / run / f"{options.name}.ipynb",
        parameters=parameters,
        products=options.build / "products" / run,
        runs=options.build / "runs",
        expected=plans[options.name].get("products", []),
        threads=options.threads,
        cwd=options.root,
        label=f"[{position}/{len(plans)}] {options.name}",
    )


def stage(options) -> None:
    """Put the executed lessons and the pages into one folder."""
    from tools.stage import Run, stage_book

    run = Run(options.cohort, options.profile, options.seed)
    stage_book(options.root, options.build, run, lessons(options.root))


def render(options) -> None:
    """Render the staged folder as HTML."""
    from tools.render import render_book

    site = options.build / "site" / f"{options.cohort}-{options.profile}"
    render_book(site, options.build / options.html)


def notebooks(options) -> None:
    """Write the .ipynb file of every lesson source."""
    from tools.lesson import write_notebooks

    changed = write_notebooks(options.root / "notebooks")
    print("\n".join(f"wrote {path}" for path in changed) or "every notebook matches its source")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.book", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for run in (build, grid, lesson, point, stage, render, notebooks):
        command = commands.add_parser(run.__name__, help=run.__doc__)
        command.set_defaults(run=run)
        command.add_argument("--root", default=CODE, help="folder of the book")
        command.add_argument("--build", default=CODE / "_build", help="folder for all outputs")
        command.add_argument("--cohort", default="mni")
        command.add_argument("--profile", default="quick")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--own", default="", help='folder of images, for --cohort "own"')
        if run in (build, grid):
            command.add_argument("--cores", type=int, default=os.cpu_count())
        if run is build:
            command.add_argument("--lessons", default="", help="run only these, e.g. '04 05'")
        if run in (grid, point):
            command.add_argument("--grid", default="wide", help="a grid of config/lambda.yaml")
        if run in (lesson, point):
            command.add_argument("name")
            command.add_argument("--threads", type=int, default=1)
        if run is render:
            command.add_argument(
                "--html", default="html", help="name of the output folder in --build"
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())
