"""One table for all methods: known answers for a shift, both ways, and going on after a stop."""

import json
import types

import numpy as np
import pytest

from vxmlib.experiments import compare

SHAPE = (20, 24, 28)
NAMES = {3: "Left Cerebral Cortex", 17: "Left Hippocampus", 53: "Right Hippocampus"}


def box(at, size=6):
    return tuple(slice(a, a + size) for a in at)


def person(shift):
    """Two boxes in a brain; a person's lie ``shift`` voxels further along the first axis."""
    labels = np.zeros(SHAPE, np.int16)
    labels[box((4 + shift, 4, 4))] = 17
    labels[box((4 + shift, 14, 14))] = 53
    return labels


@pytest.fixture
def people():
    labels = {"a": person(0), "b": person(2)}
    image = np.ones(SHAPE, np.float32)
    return types.SimpleNamespace(
        structures=NAMES,
        unlabelled=(),
        spacing=2.0,
        image=lambda _: image,
        labels=labels.__getitem__,
        brain=lambda _: image > 0,
    )


def shift(by):
    return np.broadcast_to(np.float32([by, 0, 0]), (*SHAPE, 3))


def known(a, b):
    """The displacement of a onto b, and back; each in voxels."""
    return shift(-2.0), shift(2.0)


def still(a, b):
    return shift(0.0)


def test_the_identity_scores_what_arithmetic_says(people):
    there, back = compare.measure_pair(people, None, "a", "b", compare.one_way(still))
    # 6 voxels wide, 2 of them off: 4 / 6 in common. The surfaces are 2 voxels, 4 mm, apart.
    for row in (there, back):
        assert row["dice"] == pytest.approx(4 / 6)
        assert row["surface_mm"] == pytest.approx(4.0)
        assert row["inverse_consistency_mm"] == row["length_mm"] == 0
        assert row["folds"] == 0
        assert set(row["structures"]) == {"Left Hippocampus", "Right Hippocampus"}
    assert (there["moving"], there["fixed"], back["moving"], back["fixed"]) == ("a", "b", "b", "a")
    assert np.isnan(there["dice_cortex"])


def test_the_known_shift_scores_one_both_ways(people):
    rows = compare.measure_pair(people, None, "a", "b", compare.both_at_once(known))
    assert [row["dice"] for row in rows] == [1.0, 1.0]
    assert [row["surface_mm"] for row in rows] == [0.0, 0.0]
    assert [row["length_mm"] for row in rows] == pytest.approx([4.0, 4.0])  # two voxels of 2 mm


def test_what_is_left_after_there_and_back_is_in_mm(people):
    def inconsistent(a, b):
        return shift(-2.0), shift(0.5)

    rows = compare.measure_pair(people, None, "a", "b", compare.both_at_once(inconsistent))
    assert [row["inverse_consistency_mm"] for row in rows] == pytest.approx([3.0, 3.0])


def test_one_direction_has_one_row_and_no_inverse_consistency(people, tmp_path):
    people.labels = {name: person(k) for k, name in enumerate("abc")}.__getitem__
    asked = []

    def method(moving, fixed):
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return shift(-1.0)

    options = {"both_ways": False, "file": tmp_path / "rows.jsonl", "say": lambda _: None}
    pairs = [("a", "b"), ("c", "b")]
    with pytest.raises(KeyboardInterrupt):
        compare.measure_all(people, None, pairs, method, **options)
    first, second = compare.measure_all(people, None, pairs, method, **options)
    assert len(asked) == 3  # the first pair was there
    assert [(row["moving"], row["fixed"]) for row in (first, second)] == pairs
    # One voxel to the right brings a onto b; it moves c, which lies one too far, to two too far.
    assert (first["dice"], second["dice"]) == (1.0, pytest.approx(4 / 6))
    assert first["length_mm"] == pytest.approx(2.0) and first["seconds"] >= 0
    assert all(np.isnan(row["inverse_consistency_mm"]) for row in (first, second))
    assert compare.summary([first, second])["dice"] == pytest.approx(5 / 6)


def test_the_fixed_brain_is_the_mask_and_going_back_comes_second(people):
    """Doubling x, then a shift: the two orders end elsewhere, and only rows outside b fold."""
    x = np.arange(SHAPE[0], dtype=np.float32)
    brains = {"a": np.ones(SHAPE, bool), "b": np.zeros(SHAPE, bool)}
    brains["b"][:8] = True
    people.brain = brains.__getitem__
    stretch = np.zeros((*SHAPE, 3), np.float32)
    stretch[..., 0] = 0.25 * x[:, None, None]
    stretch[12, ..., 0] += 9  # folds outside of b's brain
    there, _ = compare.measure_pair(
        people, None, "a", "b", compare.both_at_once(lambda *_: (stretch, shift(-1.0)))
    )
    assert there["folds"] > 0
    assert there["folding_percent"] > 0 == there["folding_percent_brain"]
    assert there["length_mm"] == pytest.approx(2 * 0.25 * x[:8].mean())
    # To x + x/4, then one voxel down; the other order would end at x - 1 + (x - 1) / 4.
    left = 2 * np.abs(0.25 * x[:8] - 1).mean()
    assert there["inverse_consistency_mm"] == pytest.approx(left, rel=1e-5)


def test_a_structure_that_one_person_lacks_is_left_out(people):
    labels = {"a": person(0), "b": person(0) * (person(0) != 53)}
    people.labels = labels.__getitem__
    for row in compare.measure_pair(people, None, "a", "b", compare.one_way(still)):
        assert row["structures"] == {"Left Hippocampus": 1.0}
        assert row["dice"] == 1.0


def test_cortical_parcels_come_from_the_manual_labels(people):
    parcels = types.SimpleNamespace(
        structures={48: "Left Hippocampus", 100: "Right ACgG"},
        unlabelled=(),
        labels=lambda name: np.where(people.labels(name) == 17, 100, 48).astype(np.int16),
    )
    rows = compare.measure_pair(people, parcels, "a", "b", compare.both_at_once(known))
    assert rows[0]["dice_cortex"] == 1.0
    rows = compare.measure_pair(people, parcels, "a", "b", compare.one_way(still))
    assert rows[0]["dice_cortex"] == pytest.approx(4 / 6)


@pytest.mark.filterwarnings("error")
def test_people_without_labels_have_all_but_overlap_and_surfaces(people):
    people.unlabelled = ("b",)
    rows = compare.measure_pair(people, None, "a", "b", compare.both_at_once(known))
    for row in rows:
        assert np.isnan(row["dice"]) and np.isnan(row["surface_mm"])
        assert row["structures"] == {}
        assert row["length_mm"] == pytest.approx(4.0)
    assert np.isnan(compare.summary(rows)["dice_sd_pooled"])


def test_people_without_labels_do_not_stop_the_measuring_of_all(people, tmp_path):
    people.unlabelled, both = ("a", "b"), compare.both_at_once(known)
    rows = compare.measure_all(people, None, [("a", "b")], both, file=tmp_path / "rows.jsonl")
    assert [row["moving"] for row in rows] == ["a", "b"]


def test_rows_are_those_that_the_committed_records_have(root):
    """Three people of blocks with every difficulty, against rows that an earlier version wrote.

    One structure is missing in one person, one is wiped out by every warp, and fields fold.
    """
    x, y, z = np.indices((16, 18, 20))

    def labels(k):
        blocks = 10 + (x + k) // 6 * 6 + y // 7 * 2 + (z + k) // 11
        blocks = np.where((x > 1) & (y > 1 + k) & (z < 18), blocks, 0)
        blocks[9 + k, 9, 9] = 30
        return (blocks * (blocks != 12) if k == 2 else blocks).astype(np.int16)

    def field(k, scale):
        mixed = [a * x + b * y + c * z for a, b, c in ((1, 2, 3), (2, 1, 1), (1, 1, 4))]
        return np.stack([scale * (m % 15 / 8 - k) for m in mixed], axis=-1).astype(np.float32)

    maps = {name: labels(k) for k, name in enumerate("abc")}
    core = {k: f"core {k}" for k in (*range(10, 22), 30)}
    people = types.SimpleNamespace(
        structures={3: "Left Cerebral Cortex"} | core,
        unlabelled=(),
        spacing=1.5,
        image=lambda name: np.ones(x.shape, np.float32),
        labels=maps.__getitem__,
        brain=lambda name: maps[name] > 0,
    )
    parcels = types.SimpleNamespace(
        structures={48: "no parcel"} | {100 + k: f"parcel {k}" for k in range(4)},
        unlabelled=(),
        labels=lambda name: np.where(maps[name] > 0, 100 + maps[name] % 4, 48).astype(np.int16),
    )
    rows = []
    for number, pair in enumerate(compare.unordered("abc"), start=1):
        both = (field(1, 0.5 + number), field(-0.5, 1.0), 2.25)
        rows += compare.measure_pair(people, parcels, *pair, lambda *_, both=both: both)
    file = root / "tests" / "experiments" / "data" / "rows_of_three_people.jsonl"
    expected = [json.loads(line) for line in file.read_text().splitlines()]
    for row, before in zip(rows, expected, strict=True):
        digital = row.pop("digital_folding_percent_brain")  # which earlier records lack
        assert digital >= row["folding_percent_brain"]
        assert list(row) == list(before)
        assert list(row["structures"].items()) == list(before["structures"].items())
        # The logarithm of some processors differs in the last digit.
        log = before.pop("sd_log_jacobian")
        assert row.pop("sd_log_jacobian") == pytest.approx(log, rel=1e-12)
        assert row == before
    assert [type(value) for value in rows[0].values()] == [type(v) for v in expected[0].values()]


def test_all_pairs_are_measured_once_and_a_stopped_measurement_goes_on(people, tmp_path):
    labels = {name: person(k) for k, name in enumerate("abc")}
    people.labels = labels.__getitem__
    asked = []

    def both(a, b):
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return shift(0.0), shift(0.0), 1.0

    file = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        compare.measure_all(
            people, None, compare.unordered("abc"), both, file=file, say=lambda _: None
        )
    rows = compare.measure_all(
        people, None, compare.unordered("abc"), both, file=file, say=lambda _: None
    )
    assert len(asked) == 4  # three pairs, one of them twice
    ways = [row["moving"] + row["fixed"] for row in rows]
    assert ways == ["ab", "ba", "ac", "ca", "bc", "cb"]
    assert len(file.read_text().splitlines()) == 6
    means = compare.summary(rows)
    each = [5 / 6, 5 / 6, 4 / 6, 4 / 6, 5 / 6, 5 / 6]
    assert means["pairs"] == 6
    assert means["dice"] == pytest.approx(np.mean(each))
    assert means["dice_sd_pairs"] == pytest.approx(np.std(each))
    assert means["dice_sd_pooled"] == pytest.approx(np.std(each))
    assert means["seconds"] == 1.0
    assert list(compare.table(rows)["dice"]) == pytest.approx(each)


def test_a_pooled_spread_is_over_structures_too(people):
    rows = [
        dict.fromkeys(compare.MEASURES, 0.5)
        | {"moving": "a", "fixed": "b", "structures": {"x": 0.4, "y": 0.6}}
    ]
    means = compare.summary(rows)
    assert means["dice_sd_pairs"] == 0
    assert means["dice_sd_pooled"] == pytest.approx(0.1)


def test_seconds_of_one_way_are_those_of_one_registration(people, monkeypatch):
    times = iter([10.0, 16.0])
    monkeypatch.setattr(compare, "perf_counter", lambda: next(times))
    assert compare.one_way(still)(None, None)[2] == 3.0


def test_a_structure_that_nobody_has_is_named_before_anything_is_registered(people, tmp_path):
    people.structures = NAMES | {999: "Left Nothing"}
    with pytest.raises(ValueError, match=r"found 999 \(Left Nothing\), which none of 2 subjects"):
        compare.measure_all(
            people, None, [("a", "b")], compare.one_way(still), file=tmp_path / "x.jsonl"
        )
    assert not list(tmp_path.iterdir())
