"""The λ grid on a SLURM cluster: the profile by a dry run, and a real one on a cluster of one."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec

import pytest
import yaml

pytestmark = [
    pytest.mark.skipif(
        sys.version_info < (3, 11), reason="the SLURM plugin needs Snakemake 9: Python 3.11"
    ),
    pytest.mark.skipif(
        not find_spec("snakemake_executor_plugin_slurm"),
        reason="no SLURM plugin in this environment: `make cluster` adds it",
    ),
]
DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
GRID = {"seeds": [0], "runs": [{"image_loss": "ncc", "lam": [0.5, 1], "int_steps": [0]}]}


@pytest.fixture
def book(root, tmp_path):
    """The real book with a grid of two runs; call it for a run of Snakemake with the profile."""
    copy = tmp_path / "book"
    for name in ("config", "notebooks", "vxmlib"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    plan = yaml.safe_load((root / "config" / "lambda.yaml").read_text(encoding="utf8"))
    plan["grids"] = dict.fromkeys(plan["grids"], GRID)
    (copy / "config" / "lambda.yaml").write_text(yaml.safe_dump(plan), encoding="utf8")

    def run(*options, environment=os.environ):
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
        command += ["--directory", str(tmp_path / "out")]
        command += ["--profile", str(copy / "config" / "slurm"), *options]
        command += ["--config", f"root={copy}", "profile=smoke", "--", "lambda"]
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, timeout=600
        )
        return done.returncode, done.stdout + done.stderr

    run.root, run.out = copy, tmp_path / "out"
    return run


@pytest.fixture
def cluster(root, tmp_path):
    """A SLURM cluster of this machine; the environment in which its commands work."""
    missing = [name for name in DAEMONS if not shutil.which(name, path=PATH)]
    if missing:
        pytest.skip(f"no SLURM here ({', '.join(missing)}): apt install slurm-wlm munge")
    scripts, folder = root / "tools" / "slurm", tmp_path / "slurm"
    started = subprocess.run(
        [scripts / "start.sh", folder], capture_output=True, text=True, timeout=120
    )
    assert started.returncode == 0, started.stderr
    settings = dict(re.findall(r"(\w+)='([^']*)'", started.stdout))
    yield {**os.environ, **settings, "PATH": f"{settings['PATH']}:{os.environ['PATH']}"}
    subprocess.run([scripts / "stop.sh", folder], check=True, timeout=120)
    assert not list(folder.glob("*.pid"))


def test_a_dry_run_with_the_profile_lists_each_run_with_its_resources(book):
    status, output = book("--dry-run")
    assert status == 0, output
    assert sorted(re.findall(r"wildcards: .*-lam([\d.]+)-", output)) == ["0.5", "1"]
    assert output.count("threads: 4") == 2
    asked = re.findall(r"^rule lambda_run:.*?resources: (.*?)$", output, re.M | re.S)
    assert len(asked) == 2
    for line in asked:
        assert {"gpu=1", "runtime=1440", "mem_mb=16000"} <= set(line.split(", "))


@pytest.mark.book
def test_a_grid_runs_through_the_plugin_and_is_not_run_again(book, cluster):
    profile = book.root / "config" / "slurm" / "config.yaml"
    text = profile.read_text(encoding="utf8")
    # As a user fills it in; the cluster's default is another partition.
    filled = text.replace('# slurm_partition: "PARTITION"', 'slurm_partition: "gpu"')
    filled = filled.replace("# slurm-status-command: squeue", "slurm-status-command: squeue")
    profile.write_text(filled, encoding="utf8")
    often = ("--slurm-init-seconds-before-status-checks", "2")
    status, output = book(*often, environment=cluster)
    logs = [path.read_text() for path in (book.out / ".snakemake/slurm_logs").rglob("*.log")]
    assert status == 0, "\n".join([output, *logs])
    records = sorted(path.name for path in book.out.glob("lambda/*-mni-smoke/*.json"))
    assert [re.search(r"-lam([\d.]+)-", name)[1] for name in records] == ["0.5", "1"]
    # Each job asked the cluster for what the profile says; the cluster still knows.
    show = ["scontrol", "--oneliner", "show", "job"]
    jobs = subprocess.run(show, env=cluster, capture_output=True, text=True).stdout.splitlines()
    assert len(jobs) == 2
    wanted = {"JobState=COMPLETED", "Partition=gpu", "TimeLimit=1-00:00:00"}
    wanted |= {"TresPerJob=gres:gpu:1", "MinMemoryNode=16000M", "CPUs/Task=4"}
    for job in jobs:
        assert wanted <= set(job.split()), job
    status, output = book("--dry-run", environment=cluster)
    assert status == 0 and "Nothing to be done" in output, output
