# Build graph of the book: source -> notebook -> papermill -> records -> pages -> HTML.
#
# `make book` runs it through `python -m tools.book build`, which sets the options below. To run it
# directly:
#   snakemake --directory _build --cores 2 [--config cohort=malf profile=quick seed=0]
# All outputs are written to that directory; `--dry-run` shows what would run, and why.
import shlex
import sys
from pathlib import Path

from vxmlib import files
from vxmlib.experiments import dependencies, sweep

CODE = Path(workflow.basedir)
ROOT = Path(config.get("root", CODE))  # the folder of the book; tests use another one
RUN = {
    "cohort": str(config.get("cohort", "mni")),
    "profile": str(config.get("profile", "quick")),
    "seed": str(config.get("seed", 0)),
    "own": str(config.get("own") or ""),
}
NAME = f"{RUN['cohort']}-{RUN['profile']}"
LESSONS = files.read_yaml(ROOT / "config" / "book.yaml", schema="book")["lessons"]
HTML = "html" if NAME == "mni-quick" else f"html-{NAME}"

# Files that every lesson depends on, besides its source, its modules and other lessons.
SHARED = [ROOT / "requirements.lock"] if (ROOT / "requirements.lock").exists() else []
if RUN["own"]:
    own = ROOT / Path(RUN["own"]).expanduser()  # relative to ROOT, where lessons run
    scans = [*own.glob("*"), *own.glob("labels/*")]
    SHARED += [path for path in scans if path.is_file()]
# Files that only the pages depend on. The diagram of the package is drawn from all modules.
PAGES = [path for path in (ROOT / "book").rglob("*") if path.is_file()]
PAGES += [ROOT / name for name in ("_config.yml", "_toc.yml", "config/book.yaml")]
PAGES += [
    CODE / "tools" / f"{name}.py"
    for name in ("stage", "pages", "plain", "render", "record_table", "package")
]
PAGES += [CODE / "pyproject.toml", *(CODE / "vxmlib").rglob("*.py")]


def sources(lesson):
    """Return the lesson's source, the files of vxmlib that it uses, and those of all lessons."""
    source = ROOT / "notebooks" / f"{lesson}.py"
    used = dependencies.of_lesson(source, RUN["cohort"])
    return sorted(str(path) for path in [source, *used, *SHARED])


def executed(lesson):
    return f"executed/{NAME}/{lesson}.ipynb"


def products(lesson):
    names = (LESSONS[lesson] or {}).get("products", [])
    return [f"products/{NAME}/{lesson}/{name}" for name in names]


def tool(step, **options):
    """Return the beginning of a shell command that runs one step of tools.book."""
    options = {"root": ROOT, "build": Path.cwd(), **RUN, **options}
    words = [sys.executable, "-m", "tools.book", step]
    words += [f"--{key}={value}" for key, value in options.items()]
    return f"cd {shlex.quote(str(CODE))} && {shlex.join(words)}"


LESSON = tool("lesson")
GRID = str(config.get("grid", "wide"))  # the grid that the target `lambda` runs


def grid_points(name):
    path = ROOT / "config" / "lambda.yaml"
    return sweep.points(
        path, name, cohort=RUN["cohort"], profile=RUN["profile"], root=RUN["own"] or None
    )


def grid_records(name):
    return [f"lambda/{name}-{NAME}/{run}.json" for run in grid_points(name)]


def shown_grids(plan):
    """Return the grids whose runs a lesson shows.

    Smoke runs train faster than a kernel starts, so the λ lesson trains them itself.
    """
    return [] if RUN["profile"] == "smoke" else plan.get("grids", [])


def committed(folder):
    """Return the committed records, tables and weights in one folder of results/."""
    files = (ROOT / "results" / folder).rglob("*")
    return sorted(str(path) for path in files if path.suffix in (".json", ".csv", ".h5"))


rule book:
    input:
        f"{HTML}/index.html",


rule lessons:
    input:
        [executed(lesson) for lesson in LESSONS],


for position, (lesson, plan) in enumerate(LESSONS.items()):
    plan = plan or {}
    cores = plan.get("threads", 1)

    rule:
        name:
            f"lesson_{lesson}"
        input:
            sources(lesson),
            [executed(need) for need in plan.get("needs", [])],
            [product for need in plan.get("needs", []) for product in products(need)],
            [record for name in shown_grids(plan) for record in grid_records(name)],
            [record for folder in plan.get("results", []) for record in committed(folder)],
            [str(ROOT / path) for path in plan.get("reads", [])],
        output:
            executed(lesson),
            products(lesson),
        params:
            **RUN,
            lesson=lesson,
        priority: len(LESSONS) - position
        threads: (lambda wildcards: workflow.cores) if cores == "all" else cores
        shell:
            LESSON + " --threads={threads} {params.lesson}"


# The λ grids: one job per run, which executes the λ lesson with the parameters of the run.
rule lambda:
    input:
        lambda wildcards: grid_records(GRID),


rule lambda_run:
    input:
        lambda wildcards: sources("06_lambda"),
    output:
        "lambda/{grid}-" + NAME + "/{run}.json",
    params:
        settings=lambda wildcards: repr(grid_points(wildcards.grid).get(wildcards.run)),
        **RUN,
    threads: 1
    shell:
        tool("point") + " --grid={wildcards.grid} --threads={threads} {wildcards.run}"


rule html:
    input:
        [executed(lesson) for lesson in LESSONS],
        [product for lesson in LESSONS for product in products(lesson)],
        sorted(map(str, PAGES)),
    output:
        f"{HTML}/index.html",
    params:
        **RUN,
    shell:
        tool("stage") + " && " + tool("render", html=HTML)
