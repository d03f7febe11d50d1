"""The published data sets, on small archives of the documented layout that the tests make."""

import gzip
import itertools
import re
import shutil

import nibabel as nib
import numpy as np
import pytest

from vxmlib import cohorts, metrics, nifti
from vxmlib.sources import lpba40, oasis, template
from vxmlib.sources.own import align

COLOURS = "0 0 0 0"


# -- LPBA40 ----------------------------------------------------------------------------------------

SIZE = (4.0, 4.0, 6.0)  # mm of a voxel to the Right, Anterior, Superior
HIPPOCAMPUS = np.array([-26.0, -12.0, -12.0])  # the left one, from the middle of the brain


def head():
    """A brain of blocks in RAS order: image float32, labels uint8; the left hippocampus shines."""
    shape = (42, 48, 26)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis((index - (np.array(shape) - 1) / 2) * SIZE, -1, 0)
    labels = np.where(x < 0, 101, 102)
    for chosen, left in [(z > 25, 43), (y > 30, 21), (y < -50, 61)]:
        labels[chosen] = np.where(x < 0, left, left + 1)[chosen]
    labels[z < -40] = 181
    labels[(z < -25) & (np.abs(x) < 9) & (np.abs(y) < 9)] = 182
    for side, label in ((1, 165), (-1, 166)):
        middle = HIPPOCAMPUS * [side, 1, 1]
        labels[np.linalg.norm(np.stack([x, y, z], -1) - middle, axis=-1) < 11] = label
    brain = (x / 66) ** 2 + (y / 82) ** 2 + (z / 62) ** 2 < 1
    image = (100 + 40 * (labels == 165)) * brain
    return image.astype(np.float32), (labels * brain).astype(np.uint8)


def store(folder, subject, image, labels, *, ending, order=(0, 1, 2), flip=(1, 1, 1)):
    """Write a person as the archive has one: axes in any order, and a header that does not say."""
    (folder / subject).mkdir(parents=True, exist_ok=True)
    for kind, array in (("skullstripped", image), ("structure.label", labels)):
        turned = array[:: flip[0], :: flip[1], :: flip[2]].transpose(order)[..., None]
        zooms = [SIZE[axis] for axis in order]
        path = folder / subject / f"{subject}.delineation.{kind}{ending}"
        affine = np.diag([*zooms, 1.0])
        if ending.startswith(".nii"):
            nib.save(nib.Nifti1Image(turned, affine), path)
            continue
        plain = path.with_name(path.name.removesuffix(".gz"))
        nib.save(nib.AnalyzeImage(turned.astype(np.int16), affine), plain)
        if ending == ".img.gz":
            path.write_bytes(gzip.compress(plain.read_bytes()))
            plain.unlink()


@pytest.fixture(scope="module")
def lpba_made(tmp_path_factory):
    """Forty people in delineation space; S01, S02 and S03 are one person, stored differently."""
    root = tmp_path_factory.mktemp("lpba")
    folder = root / "LPBA40" / "delineation_space"
    image, labels = head()
    store(folder, "S01", image, labels, ending=".img.gz", flip=(-1, -1, 1))
    for subject in lpba40.SUBJECTS[3:]:
        (folder / subject).mkdir()
        for path in (folder / "S01").iterdir():
            shutil.copy(path, folder / subject / path.name.replace("S01", subject))
    store(folder, "S02", image, labels, ending=".img", order=(0, 2, 1), flip=(1, -1, -1))
    store(folder, "S03", image, labels, ending=".nii.gz", order=(2, 0, 1), flip=(-1, 1, 1))
    (folder / "lpba40.label.xml").write_text("<labels/>")
    return root


@pytest.fixture
def lpba(lpba_made, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(lpba_made, tmp_path / "lpba", copy_function=shutil.copy)


def test_lpba40_has_forty_people_each_in_one_part_and_56_structures(lpba_made):
    cohort = cohorts.load("lpba40", root=lpba_made)
    assert sorted(cohort.subjects) == [f"S{number:02d}" for number in range(1, 41)]
    parts = {part: len(ids) for part, ids in cohort.split.items()}
    assert parts == {"train": 25, "validation": 5, "test": 10}
    assert cohort.split["test"][0] == "S01"
    assert len(cohort.structures) == 56
    assert cohort.structures[21] == "Left Superior Frontal Gyrus"
    assert cohort.structures[166] == "Right Hippocampus"
    assert {181, 182} < set(cohort.structures)
    for label, name in cohort.structures.items():
        if label < 181:  # odd numbers are left, and the next is the same structure of the right
            assert name.startswith("Left " if label % 2 else "Right ")
            assert (
                name.split(" ", 1)[1] == cohort.structures[label - 1 + label % 2].split(" ", 1)[1]
            )
    assert not cohort.simulated
    assert cohort.unlabelled == ()
    assert "LONI" in cohort.licence
    assert "Shattuck" in cohort.credit


@pytest.mark.parametrize("inside", [".", "LPBA40", "LPBA40/delineation_space"])
def test_the_folder_may_be_named_at_each_level(lpba_made, inside):
    assert cohorts.load("lpba40", root=lpba_made / inside).subjects[-1] == "S10"


def test_lpba40_is_laid_onto_the_mni_grid_with_left_at_left(lpba_made):
    cohort = cohorts.load("lpba40", root=lpba_made, ndim=3)
    assert cohort.shape == template.grid(2.0)[0]
    image, labels = cohort.image("S01"), cohort.labels("S01")
    assert image.dtype == np.float32
    assert labels.dtype == np.int16
    assert image.shape == labels.shape == cohort.shape
    assert (image.min(), image.max()) == (0, 1)
    assert set(np.unique(labels)) == set(np.unique(head()[1]))
    # The brain's centre of mass goes onto the template's; the shining ball keeps its distance.
    brain, _ = head()
    reference = nifti.read_image(template.brain_path())
    middle = align._centre_of_mass(*reference)
    affine = np.diag([*SIZE, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(brain.shape) - 1) / 2)
    expected = middle + HIPPOCAMPUS - align._centre_of_mass(brain, affine)
    for found in (labels == 165, image > 0.9):
        place = nib.affines.apply_affine(cohort.affine, np.argwhere(found).mean(axis=0))
        np.testing.assert_allclose(place, expected, atol=1.5)


def test_how_a_person_is_stored_does_not_matter(lpba_made):
    cohort = cohorts.load("lpba40", root=lpba_made, ndim=3)
    for other in ("S02", "S03"):
        np.testing.assert_allclose(cohort.image(other), cohort.image("S01"), atol=0.02)
        assert (cohort.labels(other) == cohort.labels("S01")).mean() > 0.99
        agreement = metrics.dice(cohort.labels(other), cohort.labels("S01"), cohort.structures)
        assert min(agreement[label] for label in (21, 22, 165, 166, 181)) > 0.9


def test_lpba40_in_2d_is_cut_at_the_books_plane(lpba_made):
    cohort = cohorts.load("lpba40", root=lpba_made)
    assert cohort.shape == cohort.image("S01").shape == (160, 160)
    assert "MNI" in cohort.plane
    rows = np.nonzero(np.isin(cohort.labels("S01"), (43, 101)))[0]
    assert 0 < rows.mean() < 80  # left of the middle; the first axis runs to the Right


def test_the_affine_alignment_of_own_scans_is_used(lpba_made, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setenv("VXMLIB_CACHE", str(tmp_path))
    centring = align.centring
    pretend = lambda image, affine: asked.append(1) or centring(image, affine)  # noqa: E731
    monkeypatch.setattr(align, "affine_to_template", pretend)
    for _ in range(2):
        cohort = cohorts.load("lpba40", root=lpba_made, ndim=3, align="affine")
        cohort.image("S01")
    assert len(asked) == 1
    plain = cohorts.load("lpba40", root=lpba_made, ndim=3)
    np.testing.assert_allclose(cohort.image("S01"), plain.image("S01"), atol=1e-3)
    with pytest.raises(ValueError, match="align: found 'none', expected one of: centre, affine"):
        cohorts.load("lpba40", root=lpba_made, align="none")


@pytest.mark.parametrize("flip", list(itertools.product((1, -1), repeat=3)))
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_labels_tell_every_orientation(order, flip):
    labels = head()[1]
    turned = labels[:: flip[0], :: flip[1], :: flip[2]].transpose(order)
    affine = lpba40.directions(turned, [SIZE[axis] for axis in order])
    expected = np.diag(SIZE) @ np.diag(flip) @ np.eye(3)[:, order]
    np.testing.assert_allclose(affine[:3, :3], expected)
    middle = (np.array(turned.shape) - 1) / 2
    np.testing.assert_allclose(nib.affines.apply_affine(affine, middle), 0, atol=1e-9)


def lpba_spoilt(folder, what):
    """Break the archive in one way; returns what the message has to say."""
    s05 = folder / "S05"
    voxels = s05 / "S05.delineation.structure.label.img.gz"
    image, labels = head()
    if what == "a person":
        shutil.rmtree(s05)
        return (
            r"2 of 80 files missing, of 1 of 40 subjects: S05/S05\.delineation\.skullstripped\.img"
        )
    if what == "a file":
        voxels.unlink()
        return r"1 of 80 files missing, of 1 of 40 subjects: S05/S05\.delineation\.structure\.label"
    if what == "a header":
        (s05 / "S05.delineation.skullstripped.hdr").unlink()
        return r"1 of 80 files missing.* S05/S05\.delineation\.skullstripped\.hdr"
    if what == "everyone after S02":
        for number in range(3, 41):
            shutil.rmtree(folder / f"S{number:02d}")
        return r"76 of 80 files missing, of 38 of 40 subjects: S03/.* and 73 more"
    if what == "half a file":
        voxels.write_bytes(voxels.read_bytes()[:500])
        return r"S05\.delineation\.structure\.label\.img\.gz: not a readable"
    if what == "a header of nothing":
        (s05 / "S05.delineation.skullstripped.hdr").write_bytes(b"<html>" * 60)
        return r"S05\.delineation\.skullstripped\.img\.gz: not a readable"
    if what == "labels of another shape":
        store(folder, "S05", image, labels[1:], ending=".img.gz")
        return r"S05\.delineation\.structure\.label\.img\.gz: found grid"
    if what == "labels of another size":
        path = s05 / "S05.delineation.structure.label.hdr"
        header = nib.AnalyzeHeader.from_fileobj(path.open("rb"))
        header.set_zooms((4, 4, 5, 1))
        path.write_bytes(header.binaryblock)
        return r"structure\.label\.img\.gz: its voxels are \[4\.0, 4\.0, 5\.0\] mm, its scan's"
    if what == "other numbers":
        store(folder, "S05", image, np.where(labels == 165, 17, labels), ending=".img.gz")
        return r"structure\.label\.img\.gz: found label 17, expected LPBA40's numbers"
    if what == "no occipital lobe":
        labels[np.isin(labels, (61, 62))] = 101
        store(folder, "S05", image, labels, ending=".img.gz")
        return r"structure\.label\.img\.gz: all structures at one end of an anatomical axis"
    if what == "no head":
        labels[:] = 0
        labels[0], labels[-1] = 21, 22  # left to right as from front to back
        labels[1], labels[-2], labels[5], labels[6] = 61, 62, 181, 43
        store(folder, "S05", image, labels, ending=".img.gz")
        return r"structure\.label\.img\.gz: its structures do not lie as in a head"
    if what == "an empty scan":
        store(folder, "S05", np.zeros_like(image), labels, ending=".img.gz")
        return r"skullstripped\.img\.gz: intensities from 0 to 0"
    raise AssertionError(what)


AT_LOAD = ["a person", "a file", "a header", "everyone after S02"]
AT_READ = [
    "half a file",
    "a header of nothing",
    "labels of another shape",
    "labels of another size",
    "other numbers",
    "no occipital lobe",
    "no head",
    "an empty scan",
]


@pytest.mark.parametrize("what", AT_LOAD)
def test_what_lpba40_lacks_is_named_at_once(lpba, what):
    message = lpba_spoilt(lpba / "LPBA40" / "delineation_space", what)
    with pytest.raises(ValueError, match=message):
        cohorts.load("lpba40", root=lpba)


@pytest.mark.parametrize("what", AT_READ)
def test_what_is_wrong_with_a_person_of_lpba40_is_named_when_read(lpba, what):
    message = lpba_spoilt(lpba / "LPBA40" / "delineation_space", what)
    cohort = cohorts.load("lpba40", root=lpba, ndim=3)
    cohort.image("S04")
    with pytest.raises(ValueError, match=message):
        cohort.image("S05")


# -- neurite-OASIS ---------------------------------------------------------------------------------

SHAPE = (32, 48, 64)  # stored: Left, Inferior, Anterior
LIA = np.array([[-1.0, 0, 0, 80], [0, 0, 1, -120], [0, -1, 0, 97], [0, 0, 0, 1]])
MARK = (5, 9, 50)  # stored voxel of the only label 2: left, high and in front
NAMES = {1: "Left-Cerebral-White-Matter", 2: "Left-Hippocampus", 3: "Brain-Stem"}
IDS = [f"OASIS_OAS1_{number:04d}_MR1" for number in (1, 2, 3, 5, 7, 8)]


def colour_table(names):
    rows = [f"{number}  {name}   {COLOURS}" for number, name in names.items()]
    return "\n".join(["#No. Label Name:  R G B A", f"0  Background  {COLOURS}", *rows, ""])


def volume(number):
    """Image and labels of a person as stored; the marker is brightest."""
    image, labels = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.uint8)
    image[3:-3, 4:-4, 5:-5] = 0.3 + 0.01 * number
    labels[3:-3, 4:-4, 5:-5] = 1
    labels[10:20, 20:30, 20:30] = 3
    labels[MARK], image[MARK] = 2, 1.0
    return image, labels


def save(path, array, affine=LIA):
    nib.save(nib.Nifti1Image(array, affine), path)


@pytest.fixture(scope="module")
def oasis_made(tmp_path_factory):
    """The large archive: volumes and slices of six people."""
    root = tmp_path_factory.mktemp("oasis")
    (root / "subjects.txt").write_text("\n".join(IDS) + "\n")
    for labels, names in (("seg35", NAMES), ("seg24", NAMES), ("seg4", {1: "Cortex", 3: "CSF"})):
        (root / f"{labels}_labels.txt").write_text(colour_table(names))
    for number, subject in enumerate(IDS):
        folder = root / subject
        folder.mkdir()
        image, labels = volume(number)
        tissue = np.where(labels == 2, 3, labels)
        for stem, array in (("norm", image), ("seg35", labels), ("seg4", tissue)):
            save(folder / f"aligned_{stem}.nii.gz", array)
        for stem, array in (("norm", image), ("seg24", labels), ("seg4", tissue)):
            save(folder / f"slice_{stem}.nii.gz", array[..., MARK[2]][..., None])
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The documented archive, in small: its grid, its number of people, its split."""
    monkeypatch.setattr(oasis, "SHAPE", SHAPE)
    monkeypatch.setattr(oasis, "PEOPLE", len(IDS))
    monkeypatch.setattr(oasis, "HELD", {"validation": 1, "test": 2})


@pytest.fixture
def archive(oasis_made, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(oasis_made, tmp_path / "oasis")


def test_the_people_of_oasis_are_divided_by_their_order(oasis_made):
    cohort = cohorts.load("oasis", root=oasis_made, ndim=3)
    assert cohort.split == {
        "train": tuple(IDS[:3]),
        "validation": (IDS[3],),
        "test": tuple(IDS[4:]),
    }
    assert cohorts.load("oasis", root=oasis_made, ndim=3, seed=5).split == cohort.split
    assert cohort.name == "oasis"
    assert not cohort.simulated
    assert cohort.unlabelled == ()
    assert "data use agreement" in cohort.licence
    assert "Marcus" in cohort.credit


def test_volumes_come_back_voxel_by_voxel_turned_to_ras(oasis_made):
    cohort = cohorts.load("oasis", root=oasis_made, ndim=3)
    assert cohort.spacing == 1.0
    assert cohort.plane is None
    assert cohort.structures == {k: name.replace("-", " ") for k, name in NAMES.items()}
    for number, subject in enumerate(IDS):
        stored = volume(number)
        found = cohort.image(subject), cohort.labels(subject)
        assert [array.dtype for array in found] == [np.float32, np.int16]
        for array, original in zip(found, stored, strict=True):
            assert array.shape == cohort.shape == (32, 64, 48)
            np.testing.assert_array_equal(array, original[::-1, ::-1].transpose(0, 2, 1))
    (place,) = np.argwhere(cohort.labels(IDS[0]) == 2)
    assert place.tolist() == [32 - 1 - MARK[0], MARK[2], 48 - 1 - MARK[1]]
    np.testing.assert_allclose(cohort.affine @ [*place, 1], LIA @ [*MARK, 1])
    assert nib.aff2axcodes(cohort.affine) == ("R", "A", "S")


def test_slices_come_back_upright(oasis_made):
    cohort = cohorts.load("oasis", root=oasis_made)
    assert cohort.ndim == 2
    assert cohort.shape == SHAPE[:2]
    assert cohort.plane == "coronal, slice 109 of the aligned volume"
    assert len(cohort.structures) == 3
    (place,) = np.argwhere(cohort.labels(IDS[4]) == 2)
    assert place.tolist() == [32 - 1 - MARK[0], 48 - 1 - MARK[1]]  # to the Right and Superior
    image = cohort.image(IDS[4])
    assert image[tuple(place)] == image.max() == 1
    np.testing.assert_array_equal(image, volume(4)[0][::-1, ::-1, MARK[2]])
    ends = [cohort.affine @ [i, 0, k, 1] for i, k in ((0, 0), (31, 47))]
    np.testing.assert_allclose(ends[0], [-15.5, 0, -23.5, 1])
    np.testing.assert_allclose(ends[1], [15.5, 0, 23.5, 1])


def test_slices_of_two_axes_are_read_too(archive):
    for path in archive.glob("*/slice_*.nii.gz"):
        save(path, nib.load(path).get_fdata().astype(np.float32)[..., 0])
    cohort = cohorts.load("oasis", root=archive)
    np.testing.assert_array_equal(cohort.image(IDS[0]), volume(0)[0][::-1, ::-1, MARK[2]])


def test_the_other_labels_on_request(oasis_made):
    for ndim in (2, 3):
        cohort = cohorts.load("oasis", root=oasis_made, ndim=ndim, labels="seg4")
        assert cohort.structures == {1: "Cortex", 3: "CSF"}
        assert set(np.unique(cohort.labels(IDS[0]))) == {0, 1, 3}


@pytest.mark.parametrize("ndim", [2, 3])
def test_two_millimetres_keep_every_other_voxel(oasis_made, ndim, monkeypatch):
    fine = cohorts.load("oasis", root=oasis_made, ndim=ndim)
    labels = fine.labels(IDS[1])
    monkeypatch.setattr("vxmlib.checks.MULTIPLE", 8)  # the small grid is not one of 32s
    coarse = cohorts.load("oasis", root=oasis_made, ndim=ndim, spacing=2.0)
    assert coarse.shape == tuple(n // 2 for n in fine.shape)
    assert coarse.spacing == 2.0
    np.testing.assert_array_equal(coarse.labels(IDS[1]), labels[(slice(None, None, 2),) * ndim])
    image = coarse.image(IDS[1])
    assert 0 == image.min() < image.max() <= 1
    middle = tuple(n // 2 for n in image.shape)
    assert image[middle] == pytest.approx(0.31, abs=1e-3)
    np.testing.assert_allclose(coarse.affine @ [1, 0, 1, 1], fine.affine @ [2, 0, 2, 1])


def test_rounding_beyond_one_is_cut_off(archive):
    image, _ = volume(0)
    save(archive / IDS[0] / "aligned_norm.nii.gz", image * np.float32(1.00001))
    assert cohorts.load("oasis", root=archive, ndim=3).image(IDS[0]).max() == 1


def oasis_spoilt(root, what):
    """Break the archive in one way; returns what the message has to say."""
    folder = root / IDS[2]
    image, labels = volume(2)
    if what == "a person":
        shutil.rmtree(folder)
        return rf"2 of 12 files missing, of 1 of 6 subjects: {IDS[2]}/aligned_norm\.nii\.gz"
    if what == "a file":
        (folder / "aligned_seg35.nii.gz").unlink()
        return rf"1 of 12 files missing, of 1 of 6 subjects: {IDS[2]}/aligned_seg35\.nii\.gz"
    if what == "volumes":
        for path in root.glob("*/aligned_*"):
            path.unlink()
        return r"12 of 12 files missing.* and 9 more\. It has slice_norm\.nii\.gz: use ndim=2"
    if what == "the end of the list":
        (root / "subjects.txt").write_text("\n".join(IDS[:4]))
        return r"subjects\.txt: lists 4 subjects in 4 lines, expected 6"
    if what == "someone twice":
        (root / "subjects.txt").write_text("\n".join([*IDS[:5], IDS[0]]))
        return r"subjects\.txt: lists 5 subjects in 6 lines"
    if what == "someone too many times":
        (root / "subjects.txt").write_text("\n".join([*IDS, IDS[0]]))
        return r"subjects\.txt: lists 6 subjects in 7 lines"
    if what == "names":
        (root / "seg35_labels.txt").unlink()
        return r"seg35_labels\.txt: missing"
    if what == "names that are none":
        (root / "seg35_labels.txt").write_text("404: Not Found")
        return r"seg35_labels\.txt: expected lines of"
    if what == "labels of another shape":
        save(folder / "aligned_seg35.nii.gz", labels[1:])
        return r"aligned_seg35\.nii\.gz: found grid \(31, 48, 64\), expected \(32, 48, 64\)"
    if what == "an image of another shape":
        save(folder / "aligned_norm.nii.gz", image[:, :, 1:])
        return r"aligned_norm\.nii\.gz: found grid \(32, 48, 63\), expected"
    if what == "labels of another place":
        moved = LIA.copy()
        moved[0, 3] += 4
        save(folder / "aligned_seg35.nii.gz", labels, moved)
        return r"aligned_seg35\.nii\.gz: its affine .* differs from aligned_norm"
    if what == "another space":
        for stem, array in (("norm", image), ("seg35", labels)):
            save(folder / f"aligned_{stem}.nii.gz", array, np.diag([1.0, 1, 1, 1]))
        return r"aligned_norm\.nii\.gz: its axes .* are not those of OASIS_OAS1_0001_MR1"
    if what == "a label without a name":
        labels[0, 0, 0] = 36
        save(folder / "aligned_seg35.nii.gz", labels)
        return r"aligned_seg35\.nii\.gz: found label 36, which is not among the archive's 3 names"
    if what == "intensities up to 255":
        save(folder / "aligned_norm.nii.gz", 255 * image)
        return r"aligned_norm\.nii\.gz: intensities from 0 to 255, expected \[0, 1\]"
    if what == "negative intensities":
        save(folder / "aligned_norm.nii.gz", image - 0.1)
        return r"aligned_norm\.nii\.gz: intensities from -0\.1"
    if what == "NaN":
        image[0, 0, 0] = np.nan
        save(folder / "aligned_norm.nii.gz", image)
        return r"aligned_norm\.nii\.gz: intensities from nan"
    if what == "no background":
        save(folder / "aligned_norm.nii.gz", np.maximum(image, 0.02))
        return r"aligned_norm\.nii\.gz: almost no voxel is 0"
    if what == "half a file":
        path = folder / "aligned_norm.nii.gz"
        path.write_bytes(path.read_bytes()[:300])
        return r"aligned_norm\.nii\.gz: not a readable"
    raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    [
        "a person",
        "a file",
        "volumes",
        "the end of the list",
        "someone twice",
        "someone too many times",
        "names",
        "names that are none",
    ],
)
def test_what_oasis_lacks_is_named_at_once(archive, what):
    message = oasis_spoilt(archive, what)
    with pytest.raises(ValueError, match=message):
        cohorts.load("oasis", root=archive, ndim=3)


@pytest.mark.parametrize(
    "what",
    [
        "labels of another shape",
        "an image of another shape",
        "labels of another place",
        "another space",
        "a label without a name",
        "intensities up to 255",
        "negative intensities",
        "NaN",
        "no background",
        "half a file",
    ],
)
def test_what_is_wrong_with_a_person_of_oasis_is_named_when_read(archive, what):
    message = oasis_spoilt(archive, what)
    cohort = cohorts.load("oasis", root=archive, ndim=3)
    cohort.image(IDS[1])
    with pytest.raises(ValueError, match=message):
        cohort.image(IDS[2])


def test_the_small_archive_has_slices_alone(archive):
    for path in archive.glob("*/aligned_*"):
        path.unlink()
    assert cohorts.load("oasis", root=archive).image(IDS[0]).shape == SHAPE[:2]


def test_voxels_of_another_size_are_refused(archive):
    path = archive / IDS[0] / "aligned_norm.nii.gz"
    save(path, volume(0)[0], np.diag([2.0, 2, 2, 1]))
    with pytest.raises(ValueError, match=r"aligned_norm\.nii\.gz: voxels of \[2\.0, 2\.0, 2\.0\]"):
        cohorts.load("oasis", root=archive, ndim=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "seg35"}, "ndim=2.*found 'seg35', expected one of: seg24, seg4"),
        ({"labels": "seg24", "ndim": 3}, "ndim=3.*found 'seg24', expected one of: seg35, seg4"),
        ({"labels": "manual"}, "labels .*found 'manual'"),
        ({"spacing": 3.0}, "spacing: found 3.0, expected one of: 1.0, 2.0"),
        ({"ndim": 4}, "ndim: found 4"),
        ({"align": "affine"}, "align='affine': cohort 'oasis' has no such option"),
        ({"people": 10}, "people=10: cohort 'oasis' has no such option"),
    ],
)
def test_an_option_that_oasis_does_not_have_is_refused(oasis_made, options, message):
    with pytest.raises(ValueError, match=message):
        cohorts.load("oasis", root=oasis_made, **options)


def test_the_published_archive_has_414_people_on_a_grid_that_the_network_takes(monkeypatch):
    monkeypatch.undo()
    assert oasis.PEOPLE == 414
    assert oasis.SHAPE == (160, 192, 224)
    assert oasis.HELD == {"validation": 20, "test": 20}
    assert all(n % 32 == 0 for n in oasis.SHAPE)  # at 2 mm, too


# -- Both: the folder ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lpba40", "oasis"])
@pytest.mark.parametrize(
    "what", ["nothing given", "not there", "the archive", "other files", "the archive in it"]
)
def test_a_root_that_is_not_the_unpacked_archive_is_refused(tmp_path, name, what):
    root, packed = tmp_path / "data", tmp_path / "data" / f"{name}.v1.0.tar"
    sign = {"lpba40": "S01, S02, S03 and 37 more", "oasis": "subjects.txt"}[name]
    root.mkdir()
    if what == "nothing given":
        root, message = None, f"root: cohort '{name}' needs the folder of its unpacked archive"
    elif what == "not there":
        root = tmp_path / "nowhere"
        message = re.escape(f"root='{root}' is not there.")
    elif what == "the archive":
        packed.write_bytes(b"ustar")
        root, message = packed, r"\.tar' is a file, not a folder\. Unpack the archive"
    elif what == "other files":
        (root / "notes.md").write_text("")
        message = rf"holds notes\.md; expected {sign} in it\. Name the folder"
    else:
        packed.write_bytes(b"ustar")
        message = rf"holds {name}.*; expected {sign} in it\. Unpack {name}\.v1\.0\.tar first"
    with pytest.raises(ValueError, match=message):
        cohorts.load(name, root=root)
