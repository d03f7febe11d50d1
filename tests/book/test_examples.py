"""The files that pages start from: a scan with a known pose, and the brains of the one page."""

import nibabel as nib
import numpy as np
import pytest

from vxmlib import cohorts, preprocess
from vxmlib.book import examples
from vxmlib.experiments import runs
from vxmlib.experiments.settings import Settings


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return nib.load(examples.scan(Settings(), tmp_path_factory.mktemp("scan")))


def test_it_is_stored_as_scanners_store(scan):
    assert scan.shape == examples.SCANNER_SHAPE
    assert nib.aff2axcodes(scan.affine) == ("P", "L", "I")
    assert scan.get_data_dtype() == np.int16
    assert np.allclose(scan.header.get_zooms(), examples.SCANNER_SPACING)


def test_the_known_pose_brings_it_back(scan):
    people = cohorts.load("mni", ndim=3)
    person = people.image(people.split["train"][0])
    back = preprocess.resample(
        scan.get_fdata(), scan.affine, people.shape, people.affine, matrix=examples.pose()
    )
    brain = person > 0
    assert np.corrcoef(back[brain], person[brain])[0, 1] > 0.97
    unaligned = preprocess.resample(scan.get_fdata(), scan.affine, people.shape, people.affine)
    assert np.corrcoef(unaligned[brain], person[brain])[0, 1] < 0.5


def test_brains_are_the_training_subjects_and_two_test_subjects(tmp_path):
    settings = Settings(profile="smoke")
    brains = np.load(examples.brains(settings, tmp_path / "new"))
    people = runs.load_cohort(settings)
    assert brains["images"].shape == brains["labels"].shape == (5 + 2, *people.shape)
    assert (brains["images"].dtype, brains["labels"].dtype) == (np.float32, np.int16)
    assert np.array_equal(brains["images"][0], people.image(people.split["train"][0]))
    assert np.array_equal(brains["labels"][-1], people.labels(people.split["test"][1]))
