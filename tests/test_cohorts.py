"""Every data set behind one type, and a clear error for everything that is not one."""

import dataclasses
import gzip
import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest

from vxmlib import cohorts, fetch, metrics, nifti, preprocess
from vxmlib.sources import labels, lpba40, malf, own, simulate, template

FEW = {"train": 2, "validation": 1, "test": 2}


@pytest.fixture(scope="module")
def mni():
    return cohorts.load("mni", spacing=2.0, people=FEW)


# What every cohort promises


def check_promises(cohort, subjects):
    assert set(subjects) <= set(cohort.subjects)
    for subject in subjects:
        image, labels = cohort.image(subject), cohort.labels(subject)
        assert image.shape == labels.shape == cohort.shape
        assert image.dtype == np.float32
        assert labels.dtype == np.int16
        assert cohort.image(subject) is image
        for array in (image, labels):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
        assert image.min() == 0
        assert image.max() == 1
        assert cohort.brain(subject).dtype == bool
        assert 0.1 < cohort.brain(subject).mean() < 0.6
        assert set(np.unique(labels)) - {0} <= set(cohort.structures)
    assert cohort.unlabelled == ()
    assert cohort.licence
    assert cohort.credit
    assert len(cohort.shape) == cohort.ndim
    assert all(n % 16 == 0 for n in cohort.shape)


def test_simulated_people_keep_the_promises(mni):
    check_promises(mni, mni.subjects)
    assert mni.simulated
    assert mni.plane == "coronal, y = -8 mm (MNI)"
    assert len(mni.structures) == 23
    assert {part: len(ids) for part, ids in mni.split.items()} == FEW


def test_the_default_is_55_people_in_2d_at_1_mm():
    cohort = cohorts.load("mni")
    assert cohort.shape == (160, 160)
    assert cohort.spacing == 1.0
    assert [len(ids) for ids in cohort.split.values()] == [40, 5, 10]


def test_volumes_have_all_thirty_structures():
    cohort = cohorts.load("mni", ndim=3, people=FEW)
    assert cohort.shape == (80, 96, 80)
    assert cohort.spacing == 2.0
    assert cohort.plane is None
    check_promises(cohort, ["test-00"])
    assert set(np.unique(cohort.labels("test-00"))) - {0} == set(cohort.structures)
    assert len(cohort.structures) == 30


def test_a_person_is_the_same_whatever_the_number_of_people(mni):
    more = cohorts.load("mni", spacing=2.0, people={"train": 9, "validation": 3, "test": 4})
    for subject in mni.subjects:
        np.testing.assert_array_equal(more.image(subject), mni.image(subject))


def test_a_change_to_the_structures_of_one_cohort_does_not_reach_the_next():
    cohorts.load("mni", ndim=3, people=FEW).structures.pop(17)
    assert cohorts.load("mni", ndim=3, people=FEW).structures[17] == "Left Hippocampus"


def test_no_table_is_handed_out_that_others_hold():
    for table in (labels.structures, lpba40.structures, malf.matrices, fetch.registry):
        table().clear()
        assert table()
    malf.matrices()["1000"][:] = 0
    assert malf.matrices()["1000"][3, 3] == 1


def test_people_differ_from_each_other_and_from_seed_to_seed(mni):
    other = cohorts.load("mni", spacing=2.0, people=FEW, seed=1)
    images = [c.image(subject) for c in (mni, other) for subject in c.subjects]
    maps = [c.labels(subject) for c in (mni, other) for subject in c.subjects]
    for one, two in itertools.combinations(range(len(images)), 2):
        assert np.abs(images[one] - images[two]).mean() > 0.01
        assert (maps[one] != maps[two]).mean() > 0.02


def test_threads_that_ask_at_once_get_the_same_person(tiny_cohort):
    class Slow:
        asked = 0

        def person(self, subject):
            self.asked += 1
            time.sleep(0.1)
            return tiny_cohort.source.person(subject)

    cohort = dataclasses.replace(tiny_cohort, source=Slow(), _kept={})
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(cohort.image, ["blob-0"] * 4))
    assert cohort.source.asked == 1
    assert all(image is found[0] for image in found)


@pytest.mark.parametrize(
    ("people", "expected"),
    [(55, [40, 5, 10]), (11, [7, 2, 2]), (6, [2, 2, 2]), (110, [80, 10, 20])],
)
def test_a_total_of_people_is_divided_in_proportion(people, expected):
    cohort = cohorts.load("mni", people=people)
    assert [len(ids) for ids in cohort.split.values()] == expected


def test_an_affine_says_where_a_pixel_of_the_slice_is(mni):
    index = np.argwhere(mni.labels("test-00") == 12).mean(axis=0)  # left putamen
    x, y, z = nib.affines.apply_affine(mni.affine, [index[0], 0, index[1]])
    assert -35 < x < -18
    assert y == template.PLANE_MM
    assert -12 < z < 15


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "ixi"},
            "found 'ixi', expected one of: mni, malf, vxm2018, lpba40, oasis",
        ),
        ({"name": "mni", "ndim": 4}, "ndim: found 4"),
        ({"name": "mni", "spacing": 3.0}, r"spacing: found 3 .*Use 1.0 or 2.0"),
        ({"name": "mni", "spacing": 4.0}, r"spacing: found 4 .*multiples of 16"),
        ({"name": "mni", "spacing": "1"}, "spacing: found '1'"),
        ({"name": "mni", "spacing": -1.0}, "spacing: found -1.0, expected a finite number above 0"),
        ({"name": "mni", "seed": -1}, "seed: found -1"),
        ({"name": "mni", "seed": 1.5}, "seed: found 1.5"),
        ({"name": "mni", "root": "x"}, "root='x': cohort 'mni' has no such option; it takes ndim"),
        (
            {"name": "malf", "root": "x"},
            "root='x': cohort 'malf' has no such option; it takes",
        ),
        ({"name": "malf", "people": 10}, "people=10: cohort 'malf' has no such option"),
        ({"name": "mni", "labels": "manual"}, "labels='manual': cohort 'mni' has no such option"),
        (
            {"name": "malf", "labels": "mine"},
            "labels: found 'mine', expected one of: freesurfer, manual",
        ),
        ({"name": "mni", "align": "affine"}, "align='affine': cohort 'mni' has no such option"),
        ({"name": "mni", "people": 5}, "people: found 5, expected a whole number of at least 6"),
        (
            {"name": "mni", "people": {"train": 3}},
            "people: found the keys train, expected train, val",
        ),
        ({"name": "mni", "people": FEW | {"test": 0}}, r"people\['test'\]: found 0"),
        ({"name": "own"}, "needs a folder of NIfTI files"),
        ({"name": "own", "root": "/nowhere"}, "'/nowhere' is not a folder"),
        ({"name": "vxm2018", "ndim": 2}, "ndim: found 2, expected one of: 3"),
        ({"name": "vxm2018", "spacing": 2.0}, "spacing: found 2.0, expected one of: 1.0"),
    ],
)
def test_load_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        cohorts.load(**arguments)


def test_an_unknown_subject_and_the_truth_of_real_people(mni, tiny_cohort):
    with pytest.raises(ValueError, match=r"no subject 'test-99'; it has train-00, train-01"):
        mni.image("test-99")
    with pytest.raises(ValueError, match="'tiny' has real subjects"):
        tiny_cohort.true_displacement("blob-0")
    with pytest.raises(ValueError, match="'tiny' has real subjects"):
        tiny_cohort.true_pair_displacement("blob-0", "blob-1")


def test_without_mirror_and_network_the_real_cohorts_fail_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("VXMLIB_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("VXMLIB_MIRROR", raising=False)
    monkeypatch.setattr(fetch, "BASE_URL", "http://127.0.0.1:9/")
    for name in ("malf", "vxm2018"):
        with pytest.raises(fetch.FetchError, match="Check the network, or set VXMLIB_MIRROR"):
            cohorts.load(name)


# Pairs


def test_pairs_are_all_ordered_pairs_in_an_order_that_the_seed_fixes():
    ids = ["a", "b", "c", "d"]
    pairs = cohorts.ordered_pairs(ids)
    assert sorted(pairs) == list(itertools.permutations(ids, 2))
    assert cohorts.ordered_pairs(ids, limit=5) == pairs[:5]
    assert cohorts.ordered_pairs(ids, seed=1) != pairs
    assert cohorts.ordered_pairs(ids, limit=99) == pairs


def test_pairs_need_two_people_and_a_sensible_limit():
    with pytest.raises(ValueError, match="at least two subjects"):
        cohorts.ordered_pairs(["a", "a"])
    with pytest.raises(ValueError, match="limit: found 0"):
        cohorts.ordered_pairs(["a", "b"], limit=0)


# Your own folder

OWN = {"spacing": 2.0}


@pytest.fixture(scope="module")
def head():
    """One simulated head at 4 mm: intensities as a scanner stores them, labels, affine."""
    shape, affine = template.grid(4.0)
    brightness, labels = simulate.anatomy(3, 2.0)
    fine = template.grid(2.0)[1]
    image = preprocess.resample(brightness, fine, shape, affine, keep_background=True)
    return 900 * image, preprocess.resample(labels, fine, shape, affine, labels=True), affine


@pytest.fixture
def folder(tmp_path, head):
    """The same head three times: as it is; turned over and moved; lying on its side, padded."""
    image, labels, affine = head
    moved = nib.affines.from_matvec(np.eye(3), [30.0, -55.0, 210.0]) @ affine
    flipped = nib.affines.from_matvec(np.diag([-1.0, 1.0, -1.0]), [39.0, 0.0, 39.0])
    padded = nib.affines.from_matvec(np.eye(3), [-3.0, 0.0, -2.0])
    for name, stored, where in [
        ("a", (image, labels), affine),
        ("b", (image[::-1, :, ::-1], labels[::-1, :, ::-1]), moved @ flipped),
        ("c", tuple(np.pad(x, ((3, 0), (0, 5), (2, 1))) for x in (image, labels)), moved @ padded),
    ]:
        if name == "c":
            stored = tuple(x.transpose(1, 2, 0) for x in stored)
            where = where @ np.eye(4)[:, [1, 2, 0, 3]]
        nifti.write(tmp_path / f"{name}.nii.gz", stored[0].astype(np.int16), where)
        nifti.write(tmp_path / f"{name}_seg.nii.gz", stored[1], where)
    return tmp_path


def test_orientation_position_and_shape_of_the_files_do_not_matter(folder):
    cohort = cohorts.load("own", root=folder, ndim=3, **OWN)
    check_promises(cohort, ["a", "b", "c"])
    assert not cohort.simulated
    assert cohort.structures[17] == "Left Hippocampus"
    for other in "bc":
        np.testing.assert_allclose(cohort.image(other), cohort.image("a"), atol=0.02)
        agreement = metrics.dice(cohort.labels(other), cohort.labels("a"), cohort.structures)
        assert min(agreement.values()) > 0.9
    left = np.argwhere(cohort.labels("b") == 17).mean(axis=0)
    assert left[0] < 40  # the first axis runs to the Right


def test_own_scans_in_2d_are_cut_at_the_same_plane(folder):
    cohort = cohorts.load("own", root=folder)
    check_promises(cohort, ["a"])
    assert cohort.shape == (160, 160)


def test_scans_in_mni_space_can_be_taken_as_they_are(folder, head):
    for name in "bc":
        for path in folder.glob(f"{name}*"):
            path.rename(path.with_name(f"far_{path.name}"))
    with pytest.raises(ValueError, match=r"far_b\.nii\.gz: its brain lies outside"):
        cohorts.load("own", root=folder, align="none", **OWN)
    for path in folder.glob("far_*"):
        path.unlink()
    nifti.write(folder / "z.nii.gz", head[0], head[2])
    cohort = cohorts.load("own", root=folder, align="none", **OWN)
    np.testing.assert_allclose(cohort.image("a"), cohort.image("z"), atol=0.01)
    with pytest.raises(ValueError, match="align: found 'rigid'"):
        cohorts.load("own", root=folder, align="rigid")


def test_an_affine_alignment_is_computed_once_and_kept(folder, monkeypatch, tmp_path):
    asked = []

    def pretend(image, affine):
        asked.append(image.shape)
        return own.align.centring(image, affine)

    monkeypatch.setattr(own.align, "affine_to_template", pretend)
    monkeypatch.setenv("VXMLIB_CACHE", str(tmp_path / "cache"))
    first = cohorts.load("own", root=folder, align="affine", **OWN)
    again = cohorts.load("own", root=folder, align="affine", **OWN)
    assert len(asked) == 3
    np.testing.assert_array_equal(first.image("b"), again.image("b"))
    plain = cohorts.load("own", root=folder, **OWN)
    np.testing.assert_allclose(first.image("b"), plain.image("b"), atol=1e-3)


def test_label_maps_may_lie_in_a_folder_and_have_names_of_their_own(folder):
    (folder / "labels").mkdir()
    (folder / "a_seg.nii.gz").rename(folder / "labels" / "a.nii.gz")
    (folder / "b_seg.nii.gz").unlink()
    (folder / "labels.csv").write_text("number,name\n17,seahorse, left\n")
    cohort = cohorts.load("own", root=folder, **OWN)
    assert cohort.structures[17] == "seahorse, left"
    assert cohort.structures[53] == "Right Hippocampus"
    assert (cohort.labels("a") == 17).any()
    assert cohort.unlabelled == ("b",)
    with pytest.raises(ValueError, match=r"'b' of cohort 'own' has no label map.*b_seg\.nii\.gz"):
        cohort.labels("b")


@pytest.mark.parametrize("damage", ["empty", "cut off", "NaN", "not invertible", "no matrix"])
def test_a_damaged_kept_alignment_is_computed_again(folder, monkeypatch, tmp_path, damage):
    monkeypatch.setattr(own.align, "affine_to_template", own.align.centring)
    monkeypatch.setenv("VXMLIB_CACHE", str(tmp_path / "cache"))
    first = cohorts.load("own", root=folder, align="affine", **OWN)
    kept = sorted((tmp_path / "cache" / "own_affines").iterdir())
    assert len(kept) == 3
    for path in kept:
        text = path.read_text()
        if damage == "not invertible":
            np.savetxt(path, np.diag([1.0, 0.0, 1.0, 1.0]))
            continue
        replaced = {"empty": "", "cut off": text[:-30], "no matrix": "1 2\n3\n"}
        path.write_text(replaced.get(damage, "nan " + text.split(" ", 1)[1]))
    again = cohorts.load("own", root=folder, align="affine", **OWN)
    np.testing.assert_array_equal(again.image("b"), first.image("b"))
    for path in kept:
        assert np.linalg.det(np.loadtxt(path)) == 1


def test_another_version_of_ants_computes_alignments_again(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(own.align, "affine_to_template", own.align.centring)
    monkeypatch.setenv("VXMLIB_CACHE", str(tmp_path / "cache"))
    for number, version in enumerate(("0.5", "0.5", "0.6")):
        monkeypatch.setattr(own.metadata, "version", lambda name, version=version: version)
        cohorts.load("own", root=folder, align="affine", **OWN)
        kept = list((tmp_path / "cache" / "own_affines").iterdir())
        assert len(kept) == (3, 3, 6)[number]


def test_a_scan_that_ants_cannot_represent_is_named(folder, head, monkeypatch, tmp_path):
    monkeypatch.setenv("VXMLIB_CACHE", str(tmp_path / "cache"))
    sheared = head[2] @ np.array([[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    nifti.write(folder / "a.nii.gz", head[0].astype(np.int16), sheared)
    nifti.write(folder / "a_seg.nii.gz", head[1], sheared)
    with pytest.raises(ValueError, match=r"a\.nii\.gz: affine: .*shear"):
        cohorts.load("own", root=folder, align="affine", **OWN)


def test_hidden_files_are_not_scans(folder):
    expected = own.find(folder)
    (folder / "labels").mkdir()
    for name in ("._a.nii.gz", "._a_seg.nii.gz", "labels/._a.nii.gz", ".DS_Store", ".x.nii"):
        (folder / name).write_bytes(b"\0\5\x16\7")  # as macOS writes beside a file
    assert own.find(folder) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.nii.gz", "b.NII.GZ", "b_SEG.nii", "c.mgz", "c_dseg.mgz"], {"a": 0, "b": 1, "c": 1}),
        (
            ["sub-01_T1w.nii.gz", "sub-01_dseg.nii.gz", "sub-02_T1w.nii", "sub-02_T1w_labels.nii"],
            {"sub-01_T1w": 1, "sub-02_T1w": 1},
        ),
        (["a.img", "a.hdr", "b.mgh", "labels/b.mgz", "labels/a_label.nii"], {"a": 1, "b": 1}),
        (["x.y.nii", "x.y_seg.nii", "mask.nii"], {"mask": 0, "x.y": 1}),
    ],
)
def test_names_of_scans_and_label_maps(tmp_path, names, expected):
    (tmp_path / "labels").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b"")
    found = own.find(tmp_path)
    assert {name: int(labels is not None) for name, (_, labels) in found.items()} == expected


@pytest.mark.parametrize("name", ["a_mask.nii.gz", "a_brainmask.nii", "sub-01_brain_mask.mgz"])
def test_masks_are_left_out_with_a_warning(tmp_path, name):
    for scan in ("a.nii", "b.nii", name):
        (tmp_path / scan).write_bytes(b"")
    with pytest.warns(UserWarning, match=f"{name}: left out, because its name is that of a mask"):
        assert set(own.find(tmp_path)) == {"a", "b"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.nii", "b.nii", "a_seg.nii", "a_dseg.nii"], r"a_seg\.nii: a_dseg\.nii has the same"),
        (
            ["a.nii", "b.nii", "a_seg.nii", "labels/a.nii"],
            r"labels/a\.nii: a_seg\.nii has the same",
        ),
        (
            ["s_T1w.nii", "s_T2w.nii", "s_dseg.nii"],
            r"s_dseg\.nii: a label map for s_T1w and s_T2w; expected one scan",
        ),
        (["s_T1w.nii", "s.nii", "s_T1w_seg.nii", "s_seg.nii"], ""),
        (["a.nii", "b.nii", "folder.nii/"], r"folder\.nii: found a folder"),
        (["a.nii", "b.nii", "link.nii@"], r"link\.nii: found a link to a file that does not exist"),
    ],
)
def test_names_that_contradict_each_other_are_refused(tmp_path, names, message):
    (tmp_path / "labels").mkdir()
    for name in names:
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        elif name.endswith("@"):
            (tmp_path / name[:-1]).symlink_to(tmp_path / "gone.nii")
        else:
            (tmp_path / name).write_bytes(b"")
    if not message:
        assert all(labels for _, labels in own.find(tmp_path).values())
        return
    with pytest.raises(ValueError, match=message):
        own.find(tmp_path)


def test_what_may_be_wrong_with_a_scan_is_a_warning(folder):
    image, affine = nifti.read_image(folder / "b.nii.gz")
    (folder / "d.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes())
    with pytest.warns(UserWarning, match=r"d\.nii\.gz: the same file as a\.nii\.gz"):
        cohorts.load("own", root=folder, **OWN)
    (folder / "d.nii.gz").unlink()
    nifti.write(folder / "b.nii.gz", np.where(image > 0, image, -1), affine)
    with pytest.warns(UserWarning, match=r"b\.nii\.gz: \d+ % of the intensities are below 0"):
        cohorts.load("own", root=folder, **OWN)


def test_tissue_labels_do_not_get_the_names_of_structures(folder):
    for name in "abc":
        path = folder / f"{name}_seg.nii.gz"
        labels, affine = nifti.read_labels(path)
        nifti.write(path, np.clip(labels, 0, 3), affine)
    named = cohorts.load("own", root=folder, **OWN).structures
    assert named == {label: f"label {label}" for label in named} and set(named) == {2, 3}
    (folder / "labels.csv").write_text("2,grey matter\n")
    assert cohorts.load("own", root=folder, **OWN).structures == {2: "grey matter", 3: "label 3"}


NAMED = {17: "seahorse, left", 53: "Hippocampus à droite"}


@pytest.mark.parametrize("separator", [",", ";", "\t", " , "])
@pytest.mark.parametrize("heading", ["number,name\n", ""])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_labels_csv_is_read_as_programs_write_it(tmp_path, separator, heading, encoding):
    rows = f'17{separator}seahorse, left\r\n\r\n53{separator}"Hippocampus à droite"\r\n'
    (tmp_path / "labels.csv").write_bytes((heading + rows).encode(encoding))
    assert own._named(tmp_path / "labels.csv") == NAMED


@pytest.mark.parametrize(
    ("row", "name"),
    [("17;Left;", "Left"), ("17,Left,,", "Left"), ('17,"a ""b"" c"', 'a "b" c')],
)
def test_empty_columns_and_doubled_quotes_are_no_part_of_a_name(tmp_path, row, name):
    (tmp_path / "labels.csv").write_text(row)
    assert own._named(tmp_path / "labels.csv") == {17: name}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("17,Hippocampus à droite".encode("latin-1"), r".*not UTF-8.*Save it as 'CSV UTF-8'"),
        ("17,seahorse".encode("utf-16"), r".*not UTF-8.*Save it as 'CSV UTF-8'"),
        (b"17,left\n53 right\n", r"found the row '53 right', expected rows of number,name"),
        (b"number,name\n17,\n", r"found the row '17,', expected rows of number,name"),
        (b"17,\n53,right\n", r"found the row '17,', expected rows of number,name"),
        (b'17,""\n53,right\n', r"found the row '17,\"\"', expected rows of number,name"),
        (b"number,name\n", "found no row with a number and a name"),
        (b"", "found no row with a number and a name"),
    ],
)
def test_labels_csv_of_another_form_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"labels\.csv: {message}"):
        own._named(tmp_path / "labels.csv")


def test_few_scans_are_all_in_every_part_and_more_are_divided(folder, head):
    with pytest.warns(UserWarning, match="found 3 scans, expected at least 6 to divide them"):
        few = cohorts.load("own", root=folder, **OWN)
    assert set(few.split.values()) == {("a", "b", "c")}
    for k in range(7):
        nifti.write(folder / f"more{k}.nii", head[0] + k, head[2])
    cohort = cohorts.load("own", root=folder, **OWN)
    assert [len(cohort.split[part]) for part in ("train", "validation", "test")] == [6, 2, 2]
    assert sorted(cohort.subjects) == sorted(["a", "b", "c"] + [f"more{k}" for k in range(7)])
    assert set(cohort.split["test"]) <= {"a", "b", "c"}  # labelled scans are tested first
    again = cohorts.load("own", root=folder, **OWN)
    assert again.split == cohort.split


def spoil(folder, what):
    """Break the folder in one way; returns what the message has to say."""
    b = folder / "b.nii.gz"
    image, affine = nifti.read_image(b)
    labels, _ = nifti.read_labels(folder / "b_seg.nii.gz")
    if what == "nothing there":
        for path in folder.iterdir():
            path.unlink()
        return "holds no scans"
    if what == "one scan":
        for path in [*folder.glob("b*"), *folder.glob("c*")]:
            path.unlink()
        return r"one scan only \(a\.nii\.gz\)"
    if what == "half downloaded":
        b.write_bytes(b.read_bytes()[:3000])
        return r"b\.nii\.gz"
    if what == "not a NIfTI":
        b.write_bytes(gzip.compress(b"<html>please log in</html>"))
        return r"b\.nii\.gz"
    if what == "NaN":
        image[0, 0, :2] = np.nan
        nifti.write(b, image, affine)
        return r"b\.nii\.gz: 2 of 76800 voxels are NaN"
    if what == "constant":
        nifti.write(b, np.full_like(image, 3), affine)
        return r"b\.nii\.gz: intensities from 3 to 3"
    if what == "a series":
        nib.save(nib.Nifti1Image(np.stack([image] * 2, -1), affine), b)
        return r"b\.nii\.gz: expected one volume"
    if what == "a slice":
        nib.save(nib.Nifti1Image(image[20], affine), b)
        return r"b\.nii\.gz: found shape \(48, 40\), expected a volume of three axes"
    if what == "labels of another shape":
        nifti.write(folder / "b_seg.nii.gz", labels[1:], affine)
        return r"b_seg\.nii\.gz: found grid \(39, 48, 40\)"
    if what == "labels of another place":
        affine[0, 3] += 4
        nifti.write(folder / "b_seg.nii.gz", labels, affine)
        return r"b_seg\.nii\.gz: its affine .* differs"
    if what == "labels that are not whole numbers":
        nifti.write(folder / "b_seg.nii.gz", labels + np.float32(0.5), affine)
        return r"b_seg\.nii\.gz"
    if what == "negative labels":
        nifti.write(folder / "b_seg.nii.gz", -labels, affine)
        return r"b_seg\.nii\.gz: found label -"
    if what == "a label too large":
        nifti.write(folder / "b_seg.nii.gz", labels.astype(np.int32) * 1000, affine)
        return r"b_seg\.nii\.gz: found label 63000"
    if what == "no position":
        nib.save(nib.Nifti1Image(image, None), b)
        return r"b\.nii\.gz: found no position"
    if what == "only background":
        nifti.write(folder / "b_seg.nii.gz", 0 * labels, affine)
        return r"b_seg\.nii\.gz: found only the label 0"
    if what == "labels without a scan":
        b.unlink()
        return r"b_seg\.nii\.gz: a label map without its scan"
    if what == "a name twice":
        nifti.write(folder / "b.nii", image, affine)
        return r"b\.nii\.gz: b\.nii has the same name"
    raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    [
        "nothing there",
        "one scan",
        "half downloaded",
        "not a NIfTI",
        "NaN",
        "constant",
        "a series",
        "a slice",
        "labels of another shape",
        "labels of another place",
        "labels that are not whole numbers",
        "negative labels",
        "a label too large",
        "no position",
        "only background",
        "labels without a scan",
        "a name twice",
    ],
)
def test_a_spoilt_folder_is_refused_by_the_name_of_the_file(folder, what):
    message = spoil(folder, what)
    with pytest.raises(ValueError, match=message):
        cohorts.load("own", root=folder, **OWN)


# The real brains


@pytest.mark.mirror
def test_real_slices_keep_the_promises():
    cohort = cohorts.load("malf")
    check_promises(cohort, ["1000", "1107"])
    assert cohort.shape == (160, 160)
    assert "OASIS" in cohort.credit
    assert "Neuromorphometrics" in cohort.credit
    assert "CC BY-NC" in cohort.licence
    assert not cohort.simulated
    assert len(cohort.structures) == 21
    assert set(np.unique(cohort.labels("1107"))) - {0} == set(cohort.structures)
    overlap = metrics.dice(cohort.labels("1000"), cohort.labels("1107"), cohort.structures)
    assert 0.45 < np.mean(list(overlap.values())) < 0.75


@pytest.mark.mirror
def test_real_volumes_keep_the_promises_and_left_is_left():
    cohort = cohorts.load("malf", ndim=3)
    check_promises(cohort, ["1036"])
    assert cohort.shape == (80, 96, 80)
    labels = cohort.labels("1036")
    assert set(np.unique(labels)) - {0} == set(cohort.structures)
    assert len(cohort.structures) == 27
    for left, right in ((2, 41), (17, 53), (8, 47)):
        middle = [np.argwhere(labels == k)[:, 0].mean() for k in (left, right)]
        assert middle[0] < 40 < middle[1]


@pytest.mark.mirror
def test_the_slice_is_a_slice_of_the_volume():
    volume = cohorts.load("malf", ndim=3, spacing=1.0)
    plane = cohorts.load("malf")
    row = round(template.PLANE_MM - volume.affine[1, 3])
    cut = volume.labels("1007")[:, row]
    known = np.isin(cut, list(plane.structures))
    np.testing.assert_array_equal(np.where(known, cut, 0), plane.labels("1007"))


@pytest.mark.mirror
def test_the_original_labels_are_there_on_request():
    cohort = cohorts.load("malf", labels="manual")
    assert len(cohort.structures) == 138
    assert cohort.structures[48] == "Left Hippocampus"
    assert cohort.structures[103] == "Left AIns anterior insula"
    assert {60, 173} <= set(np.unique(cohort.labels("1000")))


def test_the_official_split_holds_every_scan_once_and_no_person_in_two_parts():
    ids = [scan for part in malf.SPLIT.values() for scan in part]
    assert len(ids) == len(set(ids)) == 35
    assert [len(malf.SPLIT[part]) for part in ("train", "validation", "test")] == [15, 5, 10]
    people = zip(malf.VALIDATION, malf.REPEATS, strict=True)
    assert all(int(again) - int(first) == 20 for first, again in people)
    assert all(scan.startswith("11") for scan in malf.TEST)


@pytest.mark.mirror
def test_the_released_scans_are_as_released():
    cohort = cohorts.load("vxm2018")
    assert cohort.shape == (160, 192, 224)
    assert cohort.subjects == ("test", "subject_1")
    image, labels = cohort.image("test"), cohort.labels("test")
    assert image.max() == pytest.approx(0.9764706)  # 249 / 255: not normalised again
    assert set(np.unique(labels)) - {0} == set(cohort.structures)
    assert len(cohort.structures) == 30
    assert nib.aff2axcodes(cohort.affine) == ("L", "I", "A")
    world = [
        nib.affines.apply_affine(cohort.affine, np.argwhere(labels == k).mean(0)) for k in (17, 53)
    ]
    assert world[0][0] < world[1][0]  # left hippocampus, right hippocampus
    overlap = metrics.dice(labels, cohort.labels("subject_1"), cohort.structures)
    assert np.mean(list(overlap.values())) == pytest.approx(0.522, abs=5e-4)  # FACTS A
