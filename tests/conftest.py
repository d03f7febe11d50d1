"""What the tests share: a tiny cohort, the real scans when they are at hand, caches that vanish."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
NO_MIRROR = "no real scans at hand: neither VXMLIB_MIRROR nor ../shared/mirror"


def pytest_configure(config):
    """Point every cache at a folder that goes away, and find the mirror beside the checkout.

    As variables and before collection, so that doctests and subprocesses have them too.
    """
    config.scratch = tempfile.mkdtemp(prefix="vxmlib-tests-")
    for name in ("VXMLIB_CACHE", "VXMLIB_OUTPUT", "MPLCONFIGDIR"):
        os.environ[name] = str(Path(config.scratch) / name.lower())
    os.environ["MPLBACKEND"] = "agg"
    beside = ROOT.parent / "shared" / "mirror"
    if "VXMLIB_MIRROR" not in os.environ and (beside / "registry.txt").exists():
        os.environ["VXMLIB_MIRROR"] = str(beside)


def pytest_unconfigure(config):
    """Remove the caches."""
    shutil.rmtree(config.scratch, ignore_errors=True)


def pytest_collection_modifyitems(items):
    """Skip what needs real scans when there are none."""
    if not os.environ.get("VXMLIB_MIRROR"):
        for item in items:
            if "mirror" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=NO_MIRROR))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of the real scans; skips without it."""
    if not os.environ.get("VXMLIB_MIRROR"):
        pytest.skip(NO_MIRROR)
    return Path(os.environ["VXMLIB_MIRROR"])


CENTRES = {1: (10, 10), 2: (21, 11), 3: (16, 22)}


class Blobs:
    """Six people of three bright discs each, a little displaced; a cohort's ``source``."""

    def __init__(self, seed: int):
        self.seed = seed

    def person(self, subject: str):
        """Return image (32, 32) float32 in [0, 1] and labels (32, 32) int16 with 0 to 3."""
        rng = np.random.default_rng([self.seed, int(subject.split("-")[1])])
        points = np.stack(np.mgrid[:32, :32], axis=-1)
        labels = np.zeros((32, 32), np.int16)
        image = (np.linalg.norm(points - 15.5, axis=-1) < 14) * 0.3
        for label, centre in CENTRES.items():
            distance = np.linalg.norm(points - (centre + rng.uniform(-2, 2, 2)), axis=-1)
            labels[distance < 4.5] = label
            image = np.maximum(image, (0.4 + 0.2 * label) / (1 + np.exp(2 * (distance - 4.5))))
        return image.astype(np.float32), labels


@pytest.fixture(scope="session")
def tiny_cohort():
    """A cohort of six people on a 32 x 32 grid (1 mm) with three structures; always the same."""
    from vxmlib.cohorts import Cohort

    people = [f"blob-{number}" for number in range(6)]
    return Cohort(
        name="tiny",
        ndim=2,
        shape=(32, 32),
        spacing=1.0,
        affine=np.eye(4),
        plane="coronal",
        split={"train": tuple(people[:3]), "validation": (people[3],), "test": tuple(people[4:])},
        structures={1: "left disc", 2: "right disc", 3: "upper disc"},
        licence="none needed",
        credit="made by the tests",
        simulated=False,
        source=Blobs(seed=0),
    )
