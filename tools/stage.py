"""Put executed lessons, pages and settings into one folder that Jupyter Book can render."""

import ast
import base64
import copy
import datetime
import importlib.metadata
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2
import nbformat
import yaml
from PIL import Image

import vxmlib
from tools import package, pages, plain, record_table
from vxmlib import records

LARGE_IMAGE = 120_000  # bytes
#: Largest size of a figure on a page, in bytes.
HEAVY_IMAGE = 150_000
#: Picture that other sites show beside a link to the book.
PREVIEW = "_images/05_jacobian-front.png"
#: Folder of the staged book with the notebooks that readers can download.
DOWNLOADS = "downloads"


@dataclass(frozen=True)
class Run:
    """The run of the lessons that a book shows."""

    cohort: str
    profile: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folders, such as "mni-quick"."""
        return f"{self.cohort}-{self.profile}"


class StageError(ValueError):
    """The book cannot be staged; the message names the file and the problem."""


def stage_book(root: Path, build: Path, run: Run, lessons: Mapping[str, dict]) -> Path:
    """Stage the book of one run in the folder ``build/site/<run>`` and return this folder.

    The folder is replaced only after all pages were prepared.

    Parameters
    ----------
    root : Path
        Folder of the book.
    build : Path
        Folder for all outputs, with the executed lessons and their products.
    run : Run
        The run to show.
    lessons : dict
        Lessons and their plans, from :func:`tools.book.lessons`.

    Raises
    ------
    StageError
        If the lessons differ from those of ``_toc.yml``, a lesson is not executed, a page has no
        entry in ``config/book.yaml``, or a page uses a number that no record of this build has.
    """
    site = build / "site" / run.name
    site.parent.mkdir(parents=True, exist_ok=True)
    check_toc(root / "_toc.yml", lessons)
    page_plans = pages.plans(root)
    check_shows(root / "_toc.yml", page_plans)
    home = repository(os.environ, root / "_config.yml")
    values = {"build": build_facts(root, run)}
    values["records"] = read_records(build / "products" / run.name)
    values["package_map"] = vxmlib.__doc__.partition("\n\n")[2]
    if (root / "results").is_dir():
        values["table_of_record"] = record_table.markdown(root)
    if (root / "CITATION.cff").exists():
        year = yaml.safe_load((root / "_config.yml").read_text(encoding="utf8"))["copyright"]
        values["citation"] = pages.citation(root / "CITATION.cff", year, home)
    check_pages(root / "book", values)
    secrets = private_paths(root, os.environ)
    with tempfile.TemporaryDirectory(dir=site.parent, prefix=".stage-") as scratch:
        fresh = Path(scratch)
        (fresh / "notebooks").mkdir()
        (fresh / DOWNLOADS).mkdir()
        for lesson in lessons:
            source = build / "executed" / run.name / f"{lesson}.ipynb"
            if not source.exists():
                raise StageError(f"{lesson}: not executed yet, no {source}; run `make book`")
            notebook = publishable(nbformat.read(source, as_version=4), secrets)
            downloadable(notebook, home, fresh / DOWNLOADS / f"{lesson}.ipynb")
            dress(notebook, page_plans.get(f"notebooks/{lesson}", {}).get("search", []))
            nbformat.write(notebook, fresh / "notebooks" / f"{lesson}.ipynb")
        copy_pages(root, fresh)
        products = build / "products" / run.name
        described = describe(root, products, values["build"], page_plans, lessons, home)
        for page in (fresh / "book").glob("*.md"):
            words = page_plans.get(f"book/{page.stem}", {}).get("search", [])
            page.write_text(pages.with_index(page.read_text(encoding="utf8"), words), "utf8")
        copy_pictures(build / "products" / run.name, fresh / "book" / "pictures")
        package.draw(fresh / "book" / "pictures" / "package.svg")
        config = settings(root / "_config.yml", values, home)
        config["sphinx"]["config"].setdefault("html_context", {})["vxm_pages"] = described
        (fresh / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False))
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(fresh, site)
    return site


def check_toc(path: Path, lessons: Mapping[str, dict]) -> None:
    """Raise an error if ``_toc.yml`` and ``config/book.yaml`` list different lessons."""
    listed = [
        page.partition("/")[2] for page in pages.listed(path) if page.startswith("notebooks/")
    ]
    if listed != list(lessons):
        raise StageError(f"{path}: lists lessons {listed}, but config/book.yaml {list(lessons)}")


def check_shows(toc: Path, page_plans: Mapping[str, dict]) -> None:
    """Raise an error if ``config/book.yaml`` does not say where the numbers of a page come from."""
    if missing := [page for page in pages.listed(toc) if page not in page_plans]:
        raise StageError(f"config/book.yaml, pages: no entry for {', '.join(missing)}")


def downloadable(notebook, home: Mapping | None, path: Path) -> None:
    """Write the plain notebook, with its outputs, for the download button."""
    plain_notebook = copy.deepcopy(notebook)
    plain_notebook.cells.insert(0, plain.install_cell(home["url"] if home else ""))
    nbformat.write(plain_notebook, path)


def dress(notebook, words: list[str]) -> None:
    """Add to a plain notebook what only the book shows: admonitions, terms, index, image widths."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = plain.dress(cell.source)
        elif width := figure_width(cell):
            cell.metadata.setdefault("mystnb", {}).setdefault("image", {})["width"] = f"{width}px"
    first = next((cell for cell in notebook.cells if cell.source.startswith("# ")), None)
    if first is not None and first.cell_type == "markdown":
        first.source = pages.with_index(first.source, words)


def figure_width(cell) -> int | None:
    """Return the width of a cell's figure on the page in CSS pixels; None without a figure."""
    for output in cell.get("outputs", ()):
        if "image/png" in output.get("data", {}):
            given = output.get("metadata", {}).get("image/png", {}).get("width")
            png = base64.b64decode(output["data"]["image/png"])
            return int(given or Image.open(io.BytesIO(png)).width)
    return None


def describe(
    root: Path, products: Path, facts: Mapping, page_plans: Mapping, lessons: Mapping, home
) -> dict[str, dict]:
    """Return the footer and description of each page for the templates in ``book/_templates``."""
    described = {}
    for page, plan in page_plans.items():
        folder, name = page.split("/")
        lesson = lessons.get(name, {}) if folder == "notebooks" else {}
        stored = [f"results/{part}" for part in lesson.get("results", [])]
        shows = plan["shows"]
        if "record" in shows and repeats_record(root, products / name, stored):
            shows = [word for word in shows if word != "live"]
        suffix = "py" if folder == "notebooks" else "md"
        text = (root / f"{page}.{suffix}").read_text(encoding="utf8")
        text = re.sub(r"^# ?", "", text, flags=re.MULTILINE) if suffix == "py" else text
        described[page] = {
            "footer": pages.footer(shows, facts, stored, pages.source_line(page, home)),
            "description": pages.description(text),
        }
    return described


def repeats_record(root: Path, product: Path, folders: list[str]) -> bool:
    """Return whether a lesson's record equals a committed one.

    In this case the lesson lacked the scans and did not measure anything.
    """
    record = product / "record.json"
    committed = [path for folder in folders for path in (root / folder).rglob("*.json")]
    return record.exists() and record.read_bytes() in [path.read_bytes() for path in committed]


def copy_pages(root: Path, site: Path) -> None:
    """Copy the pages that are not lessons, and the files that pages load.

    Scripts in ``_mathjax`` go to a folder from which no page loads them twice.
    """
    shutil.copytree(
        root / "book",
        site / "book",
        ignore=shutil.ignore_patterns("_static", "_mathjax", "_templates"),
    )
    shutil.copy(root / "_toc.yml", site / "_toc.yml")
    targets = {"_static": "_static", "_templates": "_templates", "_mathjax": "extra/mathjax"}
    for folder, target in targets.items():
        if (root / "book" / folder).exists():
            shutil.copytree(root / "book" / folder, site / target)


def copy_pictures(products: Path, target: Path) -> None:
    """Copy the pictures that lessons make for other pages, as ``<lesson>-<name>.png``."""
    target.mkdir(parents=True, exist_ok=True)
    for picture in products.glob("*/*.png"):
        fewer = slim(picture.read_bytes())
        (target / f"{picture.parent.name}-{picture.name}").write_bytes(fewer)


# -- numbers -------------------------------------------------------------------------------------


def read_records(products: Path) -> dict[str, dict]:
    """Return the metrics of each lesson by its name without number: ``{"dice": {…}}``."""
    paths = sorted(products.glob("*/record.json"))
    return {path.parent.name.lstrip("0123456789_"): records.read(path)["metrics"] for path in paths}


def build_facts(root: Path, run: Run) -> dict:
    """Return the run, the date and the versions of this build."""
    commit = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return {
        "cohort": run.cohort,
        "profile": run.profile,
        "seed": run.seed,
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "version": importlib.metadata.version("vxmlib"),
        "commit": commit.stdout.strip() or "no commit",
        "cores": os.cpu_count(),
    }


def check_pages(folder: Path, values: Mapping) -> None:
    """Evaluate each ``{{ … }}`` of the pages, and raise an error that names a missing number."""
    engine = jinja2.Environment(undefined=jinja2.StrictUndefined)
    for page in sorted(folder.rglob("*.md")):
        for number, line in enumerate(page.read_text(encoding="utf8").splitlines(), start=1):
            for expression in re.findall(r"\{\{.+?\}\}", re.sub(r"`[^`]*`", "", line)):
                try:
                    engine.from_string(expression).render(values)
                except (jinja2.TemplateError, TypeError, ValueError) as error:
                    raise StageError(
                        f"{page}, line {number}: {expression}: {error}; the records of this "
                        f"build have: {', '.join(sorted(values))}"
                    ) from None


# -- settings ------------------------------------------------------------------------------------


def repository(environment: Mapping[str, str], config: Path) -> dict | None:
    """Return where the source of the book is published; None if this is not known.

    The environment variable ``BOOK_REPOSITORY_URL`` has priority over the setting
    ``repository: url`` of ``_config.yml``. If both are empty, the variables of GitHub Actions are
    used. ``BOOK_REPOSITORY_BRANCH`` names the branch, which is "main" by default.
    """
    url = environment.get("BOOK_REPOSITORY_URL", "") or plain.repository(config)
    server, name = environment.get("GITHUB_SERVER_URL"), environment.get("GITHUB_REPOSITORY")
    if not url and server and name:
        url = f"{server}/{name}"
    if not url:
        return None
    branch = environment.get("BOOK_REPOSITORY_BRANCH", "main")
    return {"url": url.rstrip("/"), "branch": branch, "path_to_book": ""}


def settings(path: Path, values: Mapping, home: dict | None) -> dict:
    """Return the settings in ``_config.yml`` with the numbers, labels and repository of a build."""
    config = yaml.safe_load(path.read_text(encoding="utf8"))
    facts = values["build"]
    config.setdefault("parse", {})["myst_substitutions"] = dict(values)
    html = config.setdefault("html", {})
    sphinx = config.setdefault("sphinx", {}).setdefault("config", {})
    context = sphinx.setdefault("html_context", {})
    context["vxm_footer"] = f"<p>{pages.run_label(facts).capitalize()}.</p>"
    if html.get("baseurl"):
        context["vxm_picture"] = f"{html['baseurl'].rstrip('/')}/{PREVIEW}"
    if facts["profile"] == "smoke":
        html["announcement"] = (
            "A smoke build only shows that the pages run. Its numbers have no meaning."
        )
    config["repository"] = {"url": ""}
    # Colab and Binder open notebooks on GitHub, and the theme does not accept unknown hosts.
    if home and home["url"].startswith("https://github.com/"):
        config["repository"] = home
        html |= {"use_repository_button": True, "use_issues_button": True}
        config["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
        config["launch_buttons"]["binderhub_url"] = "https://mybinder.org"
    return config


# -- what may be published -----------------------------------------------------------------------


def private_paths(root: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the paths of this machine and their replacements on a page, longest path first."""
    named = {
        str(root): ".",
        environment.get("VXMLIB_MIRROR", ""): "$VXMLIB_MIRROR",
        environment.get("VXMLIB_CACHE", ""): "$VXMLIB_CACHE",
        sys.base_prefix: "<python>",
        tempfile.gettempdir(): "<temporary>",
        str(Path.home()): "~",
    }
    usable = {path: word for path, word in named.items() if len(path) > 1}
    return dict(sorted(usable.items(), key=lambda item: -len(item[0])))


def publishable(notebook, paths: Mapping[str, str]):
    """Remove from an executed notebook what readers do not need or should not see.

    This is papermill's metadata (which has environment variables and paths), the times of cells,
    paths of this machine in outputs, and injected parameters that equal the defaults. Large figures
    are made smaller. The notebook is changed in place.
    """
    notebook.metadata.pop("papermill", None)
    notebook.cells = [cell for cell in notebook.cells if not _repeats_defaults(cell, notebook)]
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", ()):
            for key in ("text", "traceback"):
                if key in output:
                    output[key] = _hide(output[key], paths)
            data = output.get("data", {})
            if "image/png" in data:
                fewer = slim(base64.b64decode(data["image/png"]))
                data["image/png"] = base64.b64encode(fewer).decode()
            for kind in data:
                if not kind.startswith("image/") or kind == "image/svg+xml":
                    data[kind] = _hide(data[kind], paths)
    return notebook


def slim(png: bytes) -> bytes:
    """Reduce the colours of a large PNG until it is no larger than :data:`HEAVY_IMAGE`.

    It keeps as many colours as possible, at most 256. A figure that is too large with 32 colours
    is scaled down. A PNG of at most :data:`LARGE_IMAGE` bytes is returned unchanged.
    """
    if len(png) <= LARGE_IMAGE:
        return png
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for scale in (1.0, 0.8, 0.65, 0.5):
        size = [round(scale * side) for side in image.size]
        scaled = image if scale == 1 else image.resize(size, Image.Resampling.LANCZOS)
        for colours in (256, 128, 64, 32):
            # Without the refinement (kmeans), the greys of a scan use all colours, and none is
            # left for the colour bar.
            reduced = scaled.quantize(colours, kmeans=3, dither=Image.Dither.NONE)
            written = io.BytesIO()
            reduced.save(written, "PNG", optimize=True)
            if len(written.getvalue()) <= HEAVY_IMAGE:
                return written.getvalue()
    return written.getvalue()


def _hide(value, paths: Mapping[str, str]):
    if isinstance(value, str):
        for path, word in paths.items():
            # Replace only complete names: "/root" must not change "/rootless".
            value = re.sub(re.escape(path) + r"(?![\w-]|\.\w)", lambda _, word=word: word, value)
        return value
    if isinstance(value, Mapping):
        return {key: _hide(inner, paths) for key, inner in value.items()}
    return [_hide(inner, paths) for inner in value] if isinstance(value, list) else value


def _repeats_defaults(cell, notebook) -> bool:
    if "injected-parameters" not in cell.metadata.get("tags", ()):
        return False
    defaults = {}
    for other in notebook.cells:
        if "parameters" in other.metadata.get("tags", ()):
            defaults = _constants(other.source)
    return all(
        name in defaults and defaults[name] == value
        for name, value in _constants(cell.source).items()
    )


def _constants(source: str) -> dict:
    return {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
    }
