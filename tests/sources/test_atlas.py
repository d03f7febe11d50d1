"""An atlas as one more subject: known answers, its labels, and what is refused."""

import dataclasses
import hashlib

import numpy as np
import pytest

from vxmlib import cohorts, fetch, metrics, nifti, warp
from vxmlib.experiments import compare
from vxmlib.sources import simulate, template, vxm2018
from vxmlib.sources.atlas import ATLAS, with_atlas

FEW = {"train": 2, "validation": 1, "test": 2}


@pytest.fixture(scope="module")
def people():
    return cohorts.load("mni", spacing=2.0, people=FEW)


@pytest.fixture
def saved(people, tmp_path):
    """Write an atlas as a NIfTI file on the grid of the cohort; return its path."""

    def save(image, labels=None, affine=people.affine):
        path = tmp_path / "mine.nii.gz"
        nifti.write(path, np.asarray(image)[:, None], affine)
        if labels is not None:
            nifti.write(tmp_path / "mine_seg.nii.gz", labels[:, None], affine)
        return path

    return save


def test_an_atlas_that_equals_a_subject_overlaps_it_completely(people, saved):
    first, second = people.split["test"]
    joined = with_atlas(people, saved(people.image(first), people.labels(first)))
    table = metrics.evaluate_pairs(joined, [(first, ATLAS), (second, ATLAS)], "identity")
    before = metrics.evaluate_pairs(people, [(second, first)], "identity")
    assert (table[table["moving"] == first]["dice"] == 1).all()
    assert table[table["moving"] == second]["dice"].tolist() == before["dice"].tolist()
    np.testing.assert_array_equal(joined.image(ATLAS), people.image(first))


def test_the_template_deformed_by_the_true_displacement_is_the_subject(people):
    joined = with_atlas(people)
    for subject in people.split["test"]:
        truth = joined.true_displacement(subject)
        deformed = warp.warp_labels(joined.labels(ATLAS), truth)
        np.testing.assert_array_equal(deformed, joined.labels(subject))
        to_atlas = joined.true_pair_displacement(subject, ATLAS)
        np.testing.assert_array_equal(to_atlas, people.source.flow(subject, inverse=True))
        pair = [(subject, ATLAS)]
        reached = metrics.evaluate_pairs(joined, pair, lambda *_, u=to_atlas: u)["dice"].mean()
        assert reached > metrics.evaluate_pairs(joined, pair, "identity")["dice"].mean() + 0.1
    assert not joined.true_displacement(ATLAS).any()


def test_the_other_subjects_and_the_grid_stay(people):
    joined = with_atlas(people)
    assert joined.split == people.split | {"atlas": (ATLAS,)}
    assert (joined.shape, joined.structures) == (people.shape, people.structures)
    assert joined.image("test-00") is people.image("test-00")
    assert ATLAS not in people.subjects
    with pytest.raises(ValueError, match="'mni' already has a subject 'atlas'"):
        with_atlas(joined)


@pytest.mark.parametrize(("ndim", "count"), [(2, 23), (3, 30)])
def test_the_template_has_every_structure(ndim, count):
    joined = with_atlas(cohorts.load("mni", ndim=ndim, spacing=2.0, people=FEW))
    image, labels = joined.image(ATLAS), joined.labels(ATLAS)
    assert set(np.unique(labels)) - {0} == set(joined.structures)
    assert len(joined.structures) == count
    assert image.max() == 1 and image.dtype == np.float32
    assert (image[labels > 0] > 0).all()  # the ventricles too, which are 0 in the template's file
    assert not image[0].any() and not image[-1].any()


def test_the_template_lies_where_its_file_says(people):
    """A voxel of the slice shows the intensity that the file has at the same place in mm."""
    image, affine = nifti.read_image(template.brain_path())
    fine = with_atlas(cohorts.load("mni", spacing=1.0, people=FEW))
    pixels = np.array([[40, 70], [81, 100], [120, 60]])
    millimetres = fine.affine @ [pixels[:, 0], np.zeros(3), pixels[:, 1], np.ones(3)]
    voxels = (np.linalg.inv(affine) @ millimetres)[:3].round().astype(int)
    expected, found = image[tuple(voxels)], fine.image(ATLAS)[tuple(pixels.T)]
    np.testing.assert_allclose(found / found[0], expected / expected[0], rtol=1e-5)


@pytest.mark.mirror
def test_real_subjects_have_23_core_structures_in_common_with_the_template():
    joined = with_atlas(cohorts.load("malf", ndim=3, spacing=2.0))
    present = set(np.unique(joined.labels(ATLAS))) - {0}
    assert present == set(joined.structures) and len(present) == 27
    assert len(compare.core({label: joined.structures[label] for label in present})) == 23
    parcels = with_atlas(cohorts.load("malf", ndim=3, spacing=2.0, labels="manual"))
    assert parcels.unlabelled == (ATLAS,)  # other numbers, other names


def test_a_number_with_another_name_is_not_compared(people):
    label = 17
    renamed = dataclasses.replace(people, structures=people.structures | {label: "my structure"})
    assert label in np.unique(with_atlas(people).labels(ATLAS))
    assert label not in np.unique(with_atlas(renamed).labels(ATLAS))


def test_without_labels_all_but_dice_is_measured(people, saved):
    joined = with_atlas(people, saved(people.image("test-00")))
    with pytest.raises(ValueError, match=r"'atlas' of cohort 'mni' has no label map.*with _seg"):
        joined.labels(ATLAS)
    table = metrics.evaluate_pairs(joined, [("test-01", ATLAS)], "identity")
    assert table["dice"].isna().all() and (table["folds"] == 0).all()
    with pytest.raises(ValueError, match="one from a file, whose true displacement is unknown"):
        joined.true_pair_displacement("test-00", ATLAS)


def test_intensities_are_normalised_only_if_they_need_it(people, saved):
    image = people.image("test-00")
    scaled = with_atlas(people, saved(500 * image)).image(ATLAS)
    assert scaled.max() == 1
    kept = with_atlas(people, saved(0.5 * image)).image(ATLAS)
    np.testing.assert_allclose(kept, 0.5 * image, rtol=1e-6)
    inside = (image > 0) & (scaled < 1)
    ratios = scaled[inside] / image[inside]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("shape", r"mine\.nii\.gz: found shape \(80, 64\), expected .*\(80, 80\).*resample"),
        ("affine", r"mine\.nii\.gz: found the affine .*, expected that of cohort 'mni'.*resample"),
        ("constant", r"mine\.nii\.gz: every voxel is 0\.5"),
        ("nan", r"mine\.nii\.gz: .*(NaN|finite)"),
        ("labels", r"mine_seg\.nii\.gz: found shape \(80, 64\)"),
    ],
)
def test_an_atlas_that_cannot_be_used_is_refused_by_name(people, saved, change, complaint):
    image, labels, affine = people.image("test-00").copy(), None, people.affine
    if change == "shape":
        image = image[:, :64]
    if change == "affine":
        affine = affine + np.eye(4, k=3)  # 1 mm to the right
    if change == "constant":
        image[:] = 0.5
    if change == "nan":
        image[40, 40] = np.nan
    if change == "labels":
        labels = people.labels("test-00")[:, :64]
    with pytest.raises(ValueError, match=complaint):
        with_atlas(people, saved(image, labels, affine))


def test_the_template_is_refused_on_another_grid(tiny_cohort):
    with pytest.raises(ValueError, match=r"'tiny' is not on the grid of the MNI template"):
        with_atlas(tiny_cohort)


def test_a_file_that_does_not_exist_is_named(people, tmp_path):
    for name in ("none.nii.gz", "none.npz"):
        with pytest.raises(FileNotFoundError, match="none"):
            with_atlas(people, tmp_path / name)


def test_the_authors_file_is_read_as_released(tmp_path, monkeypatch):
    shape = (16, 32, 48)
    grid = np.indices(shape).sum(axis=0)
    file = tmp_path / vxm2018.ATLAS
    file.parent.mkdir(parents=True)
    np.savez(file, vol=(grid / grid.max() * 0.9), seg=(grid % 3).astype("f4"))
    content = file.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # git hash-object
    monkeypatch.setattr(fetch, "registry", lambda: {vxm2018.ATLAS: blob})
    monkeypatch.setenv("VXMLIB_MIRROR", str(tmp_path))
    scans = dataclasses.replace(
        cohorts.load("mni", people=FEW), name="vxm2018", ndim=3, shape=shape, structures={2: "two"}
    )
    joined = with_atlas(scans, fetch.fetch(vxm2018.ATLAS))
    assert joined.image(ATLAS).dtype == np.float32
    assert joined.image(ATLAS).max() == pytest.approx(0.9)  # in [0, 1]: not normalised again
    np.testing.assert_array_equal(joined.labels(ATLAS), np.where(grid % 3 == 2, 2, 0))
    with pytest.raises(ValueError, match=r"atlas_norm_3d\.npz: found shape \(16, 32, 48\), expect"):
        with_atlas(cohorts.load("mni", people=FEW), fetch.fetch(vxm2018.ATLAS))
    file.write_bytes(content[:-20])
    with pytest.raises(fetch.FetchError, match=r"atlas_norm_3d\.npz has the wrong content"):
        fetch.fetch(vxm2018.ATLAS)


@pytest.mark.mirror
def test_the_authors_atlas_is_not_in_the_mirror():
    with pytest.raises(fetch.FetchError, match=r"has no file .*atlas_norm_3d\.npz"):
        fetch.fetch(vxm2018.ATLAS)


def test_the_atlas_is_the_anatomy_of_the_simulation(people):
    labels = simulate.anatomy(2, 2.0)[1]
    kept = np.isin(labels, list(people.structures))
    np.testing.assert_array_equal(with_atlas(people).labels(ATLAS), np.where(kept, labels, 0))
