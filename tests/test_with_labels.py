"""Labels in training: maps that follow their images, the model, its files, and early errors."""

from dataclasses import replace

import numpy as np
import pytest

from vxmlib import augment, axes, losses, metrics, models, pairs, training, warp
from vxmlib.backend import set_seed, tf, vxm
from vxmlib.experiments import runs
from vxmlib.experiments.plan import training_parameters
from vxmlib.experiments.settings import Settings
from vxmlib.networks import network_class

SHAPE = (32, 32)
OBSERVED = (3, 1)
STILL = {"flip": None, "affine": 0, "shift": 0, "bend": 0}


def first_batch(cohort, **options):
    ids = cohort.split["train"]
    options = {"batch_size": 2, "seed": 1, "observed": OBSERVED} | options
    return next(iter(pairs.pair_dataset(cohort, ids, **options)))


def one_hot(labels, observed=OBSERVED):
    """The maps of one subject, one voxel at a time."""
    maps = np.zeros((*(n // 2 for n in labels.shape), len(observed)))
    for place in np.ndindex(maps.shape[:-1]):
        for channel, label in enumerate(observed):
            maps[(*place, channel)] = labels[tuple(2 * k for k in place)] == label
    return maps


def who(cohort, image):
    return next(i for i in cohort.subjects if np.array_equal(cohort.image(i), image))


# -- batches -------------------------------------------------------------------------------------


def test_each_image_comes_with_the_maps_of_its_subject(tiny_cohort):
    (moving, fixed, moving_maps), (target, zero, fixed_maps) = first_batch(tiny_cohort)
    assert moving_maps.shape == fixed_maps.shape == (2, 16, 16, 2)
    assert np.array_equal(fixed, target)
    assert zero.shape == (2, 32, 32, 2)
    for images, maps in ((moving, moving_maps), (fixed, fixed_maps)):
        for image, each in zip(images.numpy()[..., 0], maps.numpy(), strict=True):
            assert np.array_equal(each, one_hot(tiny_cohort.labels(who(tiny_cohort, image))))
    assert 0 < fixed_maps.numpy().mean() < 0.2


def test_shapes_are_static_also_with_bidir(tiny_cohort):
    ids = tiny_cohort.split["train"]
    data = pairs.pair_dataset(
        tiny_cohort, ids, batch_size=3, seed=0, observed=[2], bidir=True, field_shape=(8, 8)
    )
    inputs, targets = data.element_spec
    assert [tuple(each.shape) for each in inputs] == [(3, 32, 32, 1)] * 2 + [(3, 16, 16, 1)]
    assert [tuple(each.shape) for each in targets][2:] == [(3, 8, 8, 2), (3, 16, 16, 1)]


def test_listed_pairs_have_maps_even_if_no_subject_has_the_structure(tiny_cohort, monkeypatch):
    data = pairs.listed_pairs(tiny_cohort, [("blob-0", "blob-3")], observed=OBSERVED)
    (_, _, moving_maps), (_, _, fixed_maps) = next(iter(data))
    assert np.array_equal(moving_maps[0], one_hot(tiny_cohort.labels("blob-0")))
    assert np.array_equal(fixed_maps[0], one_hot(tiny_cohort.labels("blob-3")))
    monkeypatch.setitem(tiny_cohort.structures, 9, "rare disc")
    data = pairs.listed_pairs(tiny_cohort, [("blob-0", "blob-3")], observed=[9])
    assert not next(iter(data))[0][2].numpy().any()


def test_the_same_change_acts_on_images_and_labels(tiny_cohort):
    """The change is repeated from the random stream of the step, which labels leave as it is."""
    change = augment.Augmentation(flip="array", bend=3.0)
    plain_images = first_batch(tiny_cohort, augment=change, observed=None)[0]
    (moving, fixed, moving_maps), (_, _, fixed_maps) = first_batch(tiny_cohort, augment=change)
    assert np.array_equal(moving, plain_images[0])
    assert np.array_equal(fixed, plain_images[1])
    ids = tiny_cohort.split["train"]
    rng, reflections = np.random.default_rng((1, 0, 1)), 0
    for row, places in enumerate(pairs.draw_pairs(len(ids), 2, seed=1, step=0)):
        for place, images, maps in zip(
            places, (moving, fixed), (moving_maps, fixed_maps), strict=True
        ):
            field, reflected = change.draw(SHAPE, rng, tiny_cohort.affine)
            labels = tiny_cohort.labels(ids[place])
            if reflected:  # by hand: left (1) and right (2) change places
                labels = np.choose(labels, [0, 2, 1, 3]).astype(np.int16)
            image = warp.warp_image(tiny_cohort.image(ids[place]), field)
            assert np.array_equal(images[row, ..., 0], image)
            assert np.array_equal(maps[row], one_hot(warp.warp_labels(labels, field)))
            reflections += reflected
    assert 0 < reflections < 4


def test_a_reflected_left_structure_is_labelled_right(tiny_cohort):
    """The left disc lies at small x, and so does every map that is labelled left."""
    change = augment.Augmentation(**STILL | {"flip": "array"})
    x = np.arange(16)[:, None]
    flipped = 0
    for step in range(6):
        (moving, _, maps), _ = first_batch(
            tiny_cohort, augment=change, observed=[1, 2], start_step=step
        )
        for image, each in zip(moving.numpy()[..., 0], maps.numpy(), strict=True):
            left, right = ((x * each[..., k]).sum() / each[..., k].sum() for k in (0, 1))
            assert left < right
            flipped += not any(
                np.array_equal(image, tiny_cohort.image(i)) for i in "blob-0 blob-1 blob-2".split()
            )
    assert 0 < flipped < 12


def test_both_ways_exchange_the_maps_as_well(tiny_cohort):
    (moving, fixed, moving_maps), (_, _, fixed_maps) = first_batch(tiny_cohort, both_ways=True)
    assert np.array_equal(moving[0], fixed[1])
    assert np.array_equal(moving_maps[0], fixed_maps[1])
    assert np.array_equal(moving_maps[1], fixed_maps[0])


# -- errors before training ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        ([], "observed: found [], expected at least one label"),
        ([1, 1], "observed: found [1, 1], expected at least one label, and each only once"),
        ([1, 17], "observed: found 17, which the cohort does not have; expected labels of its"),
    ],
)
def test_wrong_structures_are_named(tiny_cohort, observed, message):
    with pytest.raises(ValueError) as error:
        first_batch(tiny_cohort, observed=observed)
    assert message in str(error.value)


def test_a_structure_that_no_training_subject_has(tiny_cohort, monkeypatch):
    monkeypatch.setitem(tiny_cohort.structures, 9, "rare disc")
    with pytest.raises(ValueError, match=r"found 9 \(rare disc\), which none of 3 training subj"):
        first_batch(tiny_cohort, observed=[1, 9])


def test_subjects_without_label_maps(tiny_cohort):
    with pytest.raises(ValueError, match=r"found 2 of 3 subjects without .* \(blob-0, blob-2\)"):
        first_batch(replace(tiny_cohort, unlabelled=("blob-0", "blob-2", "blob-5")))


def test_an_atlas_has_no_labels(tiny_cohort):
    with pytest.raises(ValueError, match="observed: found an atlas"):
        first_batch(tiny_cohort, atlas=tiny_cohort.image("blob-4"))


def test_a_reflection_needs_both_sides(tiny_cohort):
    lame = replace(tiny_cohort, structures={1: "left disc", 3: "upper disc"})
    with pytest.raises(ValueError, match="'left disc' has no partner 'right disc'"):
        first_batch(lame, augment=augment.Augmentation())
    first_batch(lame, augment=augment.Augmentation(flip=None))


@pytest.mark.parametrize(("count", "weight"), [(0, 1.0), (2, -0.5), (2, float("nan"))])
def test_a_model_with_labels_that_make_no_sense(count, weight):
    with pytest.raises(ValueError, match="weight: found" if count else "count: found 0"):
        models.with_labels(models.build(SHAPE, features="small"), count, weight=weight)


def test_structures_and_maps_of_the_model_have_to_match(tiny_cohort, tmp_path):
    model = models.build(SHAPE, features="small")
    labelled = models.with_labels(model, 2, weight=1.0)
    options = {"run_dir": tmp_path / "run", "epochs": 1, "steps_per_epoch": 1}
    for wrong, observed in ((model, [1]), (labelled, None), (labelled, [1, 2, 3])):
        with pytest.raises(ValueError, match=r"observed: found .*, expected \d labels"):
            training.fit(
                wrong, tiny_cohort, tiny_cohort.split["train"], observed=observed, **options
            )
    assert not (tmp_path / "run").exists()


# -- the model -----------------------------------------------------------------------------------


def build(network="vxm", **options):
    """A model whose displacement is about a voxel long."""
    set_seed(0)
    model = models.build(SHAPE, features="small", network=network_class(network), **options)
    layer = next(each for each in model.layers if each.name.endswith("flow"))
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(0, 0.3, weight.shape) for weight in layer.get_weights()])
    return model


@pytest.mark.parametrize("int_steps", [0, 5])
def test_it_is_voxelmorphs_model(tiny_cohort, int_steps):
    model = build(int_steps=int_steps)
    theirs = vxm.networks.VxmDenseSemiSupervisedSeg(
        SHAPE, 2, nb_unet_features=[list(x) for x in models.FEATURES["small"]], int_steps=int_steps
    )
    theirs.set_weights(model.get_weights())
    ours = models.with_labels(model, 2, weight=0.5)
    inputs = first_batch(tiny_cohort)[0]
    for mine, other in zip(ours(inputs), theirs(inputs), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
    fixed, moving = (tiny_cohort.image(i) for i in ("blob-0", "blob-1"))
    np.testing.assert_allclose(
        models.register(theirs, moving, fixed), models.register(ours, moving, fixed), atol=1e-5
    )


@pytest.mark.parametrize("options", [{}, {"int_steps": 5}])
@pytest.mark.parametrize("network", ["vxm", "strided"])
def test_maps_are_warped_by_half_the_displacement_at_half_the_size(tiny_cohort, network, options):
    model = build(network, **options)
    labelled = models.with_labels(model, 2, weight=1.0)
    (moving, fixed, maps), _ = first_batch(tiny_cohort)
    warped = labelled([moving, fixed, maps])[-1][0].numpy()
    field = models.register(model, moving[0, ..., 0].numpy(), fixed[0, ..., 0].numpy())
    grid = np.linspace(0, 31, 16)  # the corners of both grids coincide
    places = np.stack(np.meshgrid(grid, grid, indexing="ij"))
    at = [warp._sample(np.ascontiguousarray(part), places) for part in np.moveaxis(field, -1, 0)]
    half = np.stack(at, axis=-1) / 2
    assert np.abs(half).mean() > 0.1
    for channel in range(2):
        expected = warp.warp_image(maps[0, ..., channel].numpy(), half)
        np.testing.assert_allclose(warped[..., channel], expected, atol=2e-4)


def test_the_loss_is_that_of_the_model_and_the_weighted_dice(tiny_cohort):
    model = build(lam=0.7)
    labelled = models.with_labels(model, 2, weight=0.3)
    inputs, targets = first_batch(tiny_cohort)
    image, field, maps = labelled(inputs)
    found = labelled.evaluate(inputs, targets, verbose=0, return_dict=True)
    dice = np.mean(
        [
            2 * (a * b).sum() / (a + b).sum()
            for one, other in zip(maps.numpy(), targets[-1].numpy(), strict=True)
            for a, b in zip(np.moveaxis(one, -1, 0), np.moveaxis(other, -1, 0), strict=True)
        ]
    )
    assert found["labels_loss"] == pytest.approx(-dice, abs=1e-5)
    ncc = float(tf.reduce_mean(losses.image_loss("ncc")(inputs[1], image)))
    grad = float(tf.reduce_mean(vxm.losses.Grad("l2").loss(None, field)))
    assert found["loss"] == pytest.approx(ncc + 0.7 * grad - 0.3 * dice, abs=1e-5)


@pytest.mark.parametrize("network", ["vxm", "strided"])
def test_the_file_of_a_run_holds_the_plain_network(tiny_cohort, tmp_path, network):
    model = build(network)
    before = [weight.copy() for weight in model.get_weights()]
    labelled = models.with_labels(model, 2, weight=1.0)
    ids = tiny_cohort.split["train"]
    options = {"observed": OBSERVED, "epochs": 1, "steps_per_epoch": 2, "verbose": 0}
    watch = training.RegistrationMonitor(tiny_cohort, [("blob-4", "blob-5")])
    history = training.fit(
        labelled,
        tiny_cohort,
        ids,
        run_dir=tmp_path,
        validation=[("blob-4", "blob-5")],
        callbacks=[watch],
        **options,
    )
    assert {"labels_loss", "val_labels_loss", "val_dice"} <= set(history)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(before, model.get_weights(), strict=True))
    loaded = models.load(tmp_path / "last.h5", network=network_class(network))
    pair = tiny_cohort.image("blob-4"), tiny_cohort.image("blob-5")
    field = models.register(loaded, *pair)
    assert np.array_equal(field, models.register(model, *pair))
    assert np.array_equal(field, models.register(labelled, *pair))
    found = metrics.summary(
        metrics.evaluate_pairs(tiny_cohort, [("blob-4", "blob-5")], lambda *_: field)
    )
    assert history["val_dice"].item() == pytest.approx(found["dice_mean"])


def test_an_interrupted_run_with_labels_goes_on_as_the_unbroken_one(tiny_cohort, tmp_path):
    ids = tiny_cohort.split["train"]

    def train(folder, epochs, observed=OBSERVED):
        labelled = models.with_labels(build(learning_rate=1e-3), 2, weight=1.0)
        training.fit(
            labelled,
            tiny_cohort,
            ids,
            run_dir=tmp_path / folder,
            epochs=epochs,
            steps_per_epoch=2,
            observed=observed,
            verbose=0,
        )
        return labelled.get_weights()

    train("broken", 1)
    for one, other in zip(train("broken", 2), train("whole", 2), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    with pytest.raises(training.RunFolderError, match=r"observed \(found \[3, 1\], expected \[1,"):
        train("whole", 3, observed=(1, 3))


def test_training_on_a_labelled_structure_raises_its_dice(tiny_cohort):
    """Images without contrast tell the network nothing of a disc; its labels do."""
    model = models.build(SHAPE, features="small", learning_rate=1e-2, lam=0.01)
    labelled = models.with_labels(model, 2, weight=5.0)
    data = pairs.pair_dataset(
        tiny_cohort, ["blob-0", "blob-1"], batch_size=2, seed=0, observed=OBSERVED
    )
    history = labelled.fit(data, steps_per_epoch=40, epochs=2, verbose=0).history["labels_loss"]
    assert history[-1] < history[0] - 0.05


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"label_weight": -1}, "label_weight: found -1, expected a finite number of at least 0"),
        ({"label_weight": 1, "observed": []}, "observed: found [], expected a list of at least"),
        ({"label_weight": 1, "observed": [2, 2]}, "observed: found [2, 2], expected a list"),
        ({"label_weight": 1, "observed": 17}, "observed: found 17, expected a list"),
        ({"label_weight": 1, "observed": ["a"]}, "observed: found 'a', expected a whole number"),
        ({"observed": [17]}, "observed: found [17] with label_weight 0, which uses no labels"),
    ],
)
def test_settings_that_make_no_sense(wrong, named):
    with pytest.raises(ValueError) as error:
        Settings(**wrong)
    assert named in str(error.value)


def test_records_name_labels_only_of_runs_that_use_them():
    without, with_them = Settings(), Settings(label_weight=0.5, observed=[17, 53])
    for record in (without.parameters, training_parameters(without)):
        assert not {"label_weight", "observed"} & set(record)
    for record in (with_them.parameters, training_parameters(with_them)):
        assert (record["label_weight"], record["observed"]) == (0.5, [17, 53])
    assert without.name == "mni-quick-ncc-lam1-int0-seed0"
    assert with_them.name == "mni-quick-ncc-lam1-int0-labels0.5-seed0"
    assert runs.fingerprint(with_them) != runs.fingerprint(replace(with_them, observed=(17,)))


def test_a_run_with_labels_trains_and_registers_without_them(tmp_path, monkeypatch):
    monkeypatch.setenv("VXMLIB_OUTPUT", str(tmp_path))
    settings = Settings(profile="smoke", label_weight=0.5, features="small", observed=[17, 53])
    people = runs.load_cohort(settings)
    run = runs.run(settings, people)
    assert "val_labels_loss" in run.history
    assert type(run.model) is vxm.networks.VxmDense
    moving, fixed = (people.image(subject) for subject in people.split["test"][:2])
    unlabelled = replace(people, unlabelled=people.split["test"])
    assert run.register(moving, fixed).shape == (*unlabelled.shape, 2)


def test_sides_are_exchanged_in_place():
    labels = np.array([[1, 2], [3, 0]], np.int16)
    names = {1: "left disc", 2: "right disc", 3: "upper disc"}
    found = axes.exchange_sides(labels, names)
    assert found.tolist() == [[2, 1], [3, 0]]
    assert found.dtype == np.int16
    assert np.array_equal(axes.exchange_sides(found, names), labels)
