"""pyproject.toml, requirements.lock, environment.yml and this very environment say the same."""

import re
import shutil
import subprocess
import sys
from importlib import metadata

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)\s*(?:;\s*(.*?))?\s*\\?$", re.MULTILINE)


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf8"))["project"]


@pytest.fixture(scope="module")
def pins(root):
    """(name, version, marker) of every pin of the lock file."""
    return PIN.findall((root / "requirements.lock").read_text(encoding="utf8"))


def wanted(project):
    """What `make book` and `make test` need: pyproject.toml without its extra for a GPU."""
    extras = [needs for name, needs in project["optional-dependencies"].items() if name != "gpu"]
    return [Requirement(need) for need in sum(extras, project["dependencies"])]


def applies(marker, python):
    """Whether a marker holds for a Python on a common Linux machine."""
    machine = {"python_version": python, "python_full_version": f"{python}.9"}
    machine |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    machine |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    return not marker or Marker(str(marker)).evaluate(machine)


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_one_fitting_pin_for_each_requirement(project, pins, python):
    for need in wanted(project):
        if not applies(need.marker, python):
            continue
        name = canonicalize_name(need.name)
        locked = [v for n, v, m in pins if canonicalize_name(n) == name and applies(m, python)]
        assert len(locked) == 1, f"{need.name} on Python {python}: {locked}"
        assert need.specifier.contains(locked[0], prereleases=True), f"{need}: locked {locked[0]}"


def test_every_pin_of_the_lock_has_a_hash(root, pins):
    text = (root / "requirements.lock").read_text(encoding="utf8")
    entries = [entry for entry in re.split(r"\n(?=\S)", text.strip()) if not entry.startswith("#")]
    assert len(entries) == len(pins) > 100
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)


def test_the_lock_can_build_the_package_itself(root, pins):
    # `make env` installs it without build isolation, so its build tool must be in the lock.
    text = (root / "pyproject.toml").read_text(encoding="utf8")
    (need,) = map(Requirement, tomllib.loads(text)["build-system"]["requires"])
    versions = [v for n, v, m in pins if n == need.name and all(applies(m, p) for p in PYTHONS)]
    assert [need.specifier.contains(version) for version in versions] == [True]


def test_the_exact_pins_of_the_old_line_are_stated(project):
    # Later voxelmorph and neurite have no TensorFlow; a range would take them.
    stated = {need.name: str(need.specifier) for need in wanted(project)}
    assert stated["voxelmorph"] == stated["neurite"] == "==0.2"
    assert stated["tensorflow"] == stated["tf-keras"]
    assert f"tensorflow[and-cuda]{stated['tensorflow']}" in project["optional-dependencies"]["gpu"]


def test_the_cluster_lock_has_the_plugin_alone_and_the_other_lock_what_it_needs(root, pins):
    # It is installed without its dependencies, so they must be there already; numpy is the one
    # whose version it asks more of than antspyx allows.
    text = (root / "requirements-cluster.lock").read_text(encoding="utf8")
    cluster = {name: version for name, version, _ in PIN.findall(text)}
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf8"))
    stated = [Requirement(need) for need in project["dependency-groups"]["cluster"]]
    assert {need.name for need in stated} == set(cluster)
    assert all(need.specifier.contains(cluster[need.name]) for need in stated)
    assert text.count("--hash=sha256:") >= len(cluster)
    for name in cluster:
        try:
            needs = map(Requirement, metadata.requires(name))
        except metadata.PackageNotFoundError:
            pytest.skip("no SLURM plugin in this environment: `make cluster` adds it")
        for need in needs:
            if need.name in cluster:
                continue
            versions = [v for n, v, m in pins if n == need.name and applies(m, "3.11")]
            assert len(versions) == 1, need
            assert need.name == "numpy" or need.specifier.contains(versions[0]), need


def test_conda_installs_the_lock_on_a_python_we_support(root, project):
    plan = yaml.safe_load((root / "environment.yml").read_text(encoding="utf8"))
    python, pip, packages = plan["dependencies"]
    assert packages == {"pip": ["--requirement requirements.lock"]}
    assert pip == "pip"
    assert python.removeprefix("python=") in PYTHONS
    assert plan["name"] == project["name"]


def test_everyone_names_the_same_pythons(root, project):
    supported = SpecifierSet(project["requires-python"])
    tried = [f"3.{minor}" for minor in range(8, 17)]
    assert tuple(python for python in tried if supported.contains(python)) == PYTHONS
    makefile = (root / "Makefile").read_text(encoding="utf8")
    first, last = (python.replace(".", ", ") for python in (PYTHONS[0], PYTHONS[-1]))
    assert f"({first}) <= sys.version_info[:2] <= ({last})" in makefile
    jobs = yaml.safe_load((root / ".github/workflows/ci.yml").read_text(encoding="utf8"))["jobs"]
    run = {
        step["with"]["python-version"]
        for step in jobs["book"]["steps"]
        if "with" in step and "python-version" in step["with"]
    }
    assert run | set(jobs["tests"]["strategy"]["matrix"]["python"]) == set(PYTHONS)


@pytest.mark.lock
def test_this_environment_is_the_lock(project, pins):
    for need in wanted(project):
        if need.marker and not need.marker.evaluate():
            continue
        name = canonicalize_name(need.name)
        locked = [v for n, v, m in pins if canonicalize_name(n) == name]
        assert metadata.version(need.name) in locked, "run `make env`"


def test_make_refuses_to_empty_the_folder_behind_a_linked_environment(root, tmp_path):
    kept = tmp_path / "elsewhere" / "thesis.txt"
    kept.parent.mkdir()
    kept.write_text("words")
    (tmp_path / ".venv").symlink_to(kept.parent)
    (tmp_path / "requirements.lock").touch()
    command = ["make", "--file", str(root / "Makefile"), "env", f"PYTHON={sys.executable}"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode != 0
    assert f"ERROR: .venv is a symbolic link to {kept.parent}" in run.stderr
    assert kept.read_text() == "words"


def test_git_ignores_an_environment_that_is_a_link(root, tmp_path):
    shutil.copy(root / ".gitignore", tmp_path)
    (tmp_path / ".venv").symlink_to(root)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    status = ["git", "status", "--porcelain"]
    run = subprocess.run(status, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["??", ".gitignore"]
