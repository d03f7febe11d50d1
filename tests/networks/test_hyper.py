"""One network for every λ: what h means, how it is drawn, and what the network makes of it."""

import math
import types

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from vxmlib import losses, models, training
from vxmlib.backend import set_seed, tf, vxm
from vxmlib.networks import hyper

SHAPE = (32, 32)
IDS = ["p0", "p1", "p2"]


def person(name):
    """An image of smooth noise in [0, 1], another for each name."""
    rng = np.random.default_rng(int(name[1:]))
    image = ndimage.gaussian_filter(rng.random(SHAPE), 2).astype(np.float32)
    return (image - image.min()) / np.ptp(image)


COHORT = types.SimpleNamespace(shape=SHAPE, image=person)
PAIR = person("p0"), person("p1")


def new_model(**options):
    set_seed(5)
    small = {"features": "small", "hyper_layers": 2, "hyper_units": 8, "learning_rate": 1e-3}
    return hyper.build(SHAPE, **small | options)


def make_field(model):
    """Give it weights that make a displacement of a voxel or so, another for each h."""
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.2, weight.shape) for weight in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def model():
    """A model whose field is not zero."""
    return make_field(new_model())


class Traced:
    """A model whose training step is traced once for all tests, with a draw that can be forced."""

    def __init__(self):
        self.told, self.h_at_least, self._draw = [], tf.Variable(0.0), hyper.draw
        self.model = new_model(seed=3, oversample=0.25)
        variables = self.model.weights + self.model.optimizer.variables
        self.first = [(variable, variable.numpy()) for variable in variables]

    def draw(self, count, **options):
        self.told.append(options)
        return tf.maximum(self._draw(count, **options), self.h_at_least)

    def train(self, run_dir, *, epochs=2, **changed):
        """Train from the beginning, or from where the run of that folder is."""
        for variable, value in self.first:
            variable.assign(value)
        self.h_at_least.assign(changed.pop("h_at_least", 0.0))
        settings = {"steps_per_epoch": 3, "batch_size": 2, "seed": 1, "verbose": 0}
        settings["validation"] = [("p0", "p1")]
        return training.fit(
            self.model, COHORT, IDS, run_dir=run_dir, epochs=epochs, **settings | changed
        )


@pytest.fixture(scope="module")
def traced():
    made = Traced()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hyper, "draw", made.draw)
        yield made


@pytest.fixture(scope="module")
def whole(traced, tmp_path_factory):
    """An uninterrupted run: its history, folder and final weights."""
    folder = tmp_path_factory.mktemp("whole")
    return traced.train(folder), folder, traced.model.get_weights()


@pytest.mark.parametrize(
    ("lam", "middle", "h"),
    [
        (0, 1, 0),
        (1, 1, 0.5),
        (3, 1, 0.75),
        (0.01, 0.01, 0.5),
        (0.03, 0.01, 0.75),
        (math.inf, 1, 1),
        (math.inf, 0.01, 1),
    ],
)
def test_h_and_lambda_are_each_others_inverse(lam, middle, h):
    assert hyper.h_of(lam, middle) == pytest.approx(h)
    assert hyper.lam_of(h, middle) == pytest.approx(lam)


@pytest.mark.parametrize("lam", [-0.1, -math.inf, math.nan, "1", None, True])
def test_no_other_lambda(lam, model):
    with pytest.raises(ValueError, match=r"lam: found .*, expected a finite number of at least 0"):
        hyper.h_of(lam)
    with pytest.raises(ValueError, match=r"lam: found .*, expected a finite number of at least 0"):
        hyper.register(model, *PAIR, lam)


@pytest.mark.parametrize("h", [-0.1, 1.1, math.inf, math.nan, "1", None, True])
def test_no_other_h(h):
    with pytest.raises(ValueError, match=r"h: found .*, expected a finite number .* of at most 1"):
        hyper.lam_of(h)


def test_a_draw_depends_on_seed_and_step():
    first = hyper.draw(4, seed=1, step=2)
    assert first.shape == (4, 1) and first.dtype == tf.float32
    np.testing.assert_array_equal(first, hyper.draw(4, seed=1, step=tf.Variable(2, dtype="int64")))
    for other in (hyper.draw(4, seed=2, step=2), hyper.draw(4, seed=1, step=3)):
        assert not np.isin(other, first).any()


@pytest.mark.parametrize(("oversample", "ends"), [(0.0, 0.0), (0.4, 0.2), (1.0, 0.5)])
def test_draws_are_uniform_but_for_the_end_points(oversample, ends):
    drawn = hyper.draw(20_000, seed=0, step=0, oversample=oversample).numpy()
    assert np.mean(drawn == 0) == pytest.approx(ends, abs=0.01)
    assert np.mean(drawn == 1) == pytest.approx(ends, abs=0.01)
    between = drawn[(drawn > 0) & (drawn < 1)]
    share = (1 - oversample) / 10
    counts, _ = np.histogram(between, bins=10, range=(0, 1))
    np.testing.assert_allclose(counts / drawn.size, share, atol=0.01)


@pytest.mark.parametrize(("image_loss", "middle"), [("ncc", 1.0), ("mse", 0.01)])
def test_the_loss_is_that_of_h_for_each_pair(model, image_loss, middle):
    if image_loss == "mse":
        model = make_field(new_model(image_loss=image_loss))
    moving, fixed = (np.stack([person(name) for name in names]) for names in (IDS, IDS[::-1]))
    moving, fixed = (tf.constant(images[..., None]) for images in (moving[:2], fixed[:2]))
    for lam in (0.1, 1, math.inf):
        h = tf.constant([[hyper.h_of(lam, middle)], [0.2]])
        warped, field = model([moving, fixed, h])
        targets = [fixed, tf.zeros_like(field)]
        total = model.compute_loss([moving, fixed, h], targets, [warped, field])
        by_hand = [
            (1 - h[k, 0]) * image_term(image_loss, fixed[k], warped[k])
            + h[k, 0] * middle * smoothness_term(field[k])
            for k in range(2)
        ]
        np.testing.assert_allclose(total, np.mean(by_hand), rtol=1e-5, atol=1e-7)


def image_term(name, fixed, warped):
    if name == "ncc":
        return losses.LocalNCC().loss(fixed[None], warped[None]).numpy()[0]
    return np.mean((fixed.numpy() - warped.numpy()) ** 2)


def smoothness_term(field):
    term = np.mean([np.mean(np.diff(field.numpy(), axis=axis) ** 2) for axis in (0, 1)])
    assert term > 1e-3
    return term


def test_convolutions_begin_with_the_spread_of_a_plain_model(traced):
    first = {variable.ref(): value for variable, value in traced.first}
    layers = [each for each in traced.model.layers if hasattr(each, "hyperkernel")]
    assert len(layers) == sum(map(len, models.FEATURES["small"]))
    kernels = [first[layer.hyperkernel[1].ref()] for layer in layers]
    for layer, kernel in zip(layers, kernels, strict=True):
        channels = layer.hyperkernel[3][-2]
        assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * channels)), rel=0.2)
    assert len({kernel[0] for kernel in kernels}) == len(kernels)


def test_h_is_drawn_by_the_models_seed_and_the_optimisers_step(whole, traced):
    assert len(traced.told) == 1  # traced once
    told = traced.told[0]
    assert told["seed"] == 3 and told["oversample"] == 0.25
    assert told["step"] is traced.model.optimizer.iterations


def test_history_has_the_weighted_losses(whole):
    history = whole[0]
    assert history["step"].tolist() == [3, 6]
    for prefix in ("", "val_"):
        np.testing.assert_allclose(
            history[f"{prefix}loss"],
            history[f"{prefix}image_loss"] + history[f"{prefix}smoothness_loss"],
            rtol=1e-5,
        )


def test_validation_is_at_one_half(whole):
    last = hyper.load(whole[1] / "last.h5")
    moving, fixed = (image[None, ..., None] for image in PAIR)
    warped, field = last([moving, fixed, np.float32([[0.5]])])
    ncc = losses.LocalNCC().loss(fixed, warped).numpy()[0]
    grad = vxm.losses.Grad("l2").loss(None, field).numpy()[0]
    row = whole[0].iloc[-1]
    np.testing.assert_allclose(row["val_image_loss"], 0.5 * ncc, rtol=1e-4)
    np.testing.assert_allclose(row["val_smoothness_loss"], 0.5 * grad, rtol=1e-3, atol=1e-9)


def test_a_run_goes_on_with_the_h_that_it_would_have_seen(whole, traced, tmp_path):
    history, _, weights = whole
    traced.train(tmp_path, epochs=1)
    continued = traced.train(tmp_path)
    pd.testing.assert_frame_equal(
        continued.drop(columns="seconds"), history.drop(columns="seconds"), rtol=1e-4
    )
    for one, other in zip(traced.model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("changed", [{"seed": 4}, {"oversample": 0.3}, {"middle": 2.0}])
def test_a_folder_of_other_settings_is_refused(whole, traced, monkeypatch, changed):
    for name, value in changed.items():
        monkeypatch.setitem(traced.model.metadata, name, value)
    with pytest.raises(training.RunFolderError, match="other settings: model metadata"):
        traced.train(whole[1])


def test_a_little_training_tells_lambdas_apart(traced, tmp_path):
    traced.train(tmp_path, epochs=1, steps_per_epoch=40)
    weak, strong = (hyper.register(traced.model, *PAIR, lam) for lam in (0.01, 100))
    assert np.abs(weak).max() > 2 * np.abs(strong).max()


def test_smoothness_alone_ends_in_no_field(traced, tmp_path, model):
    class Start(tf.keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.set_weights(model.get_weights())

    before = hyper.register(model, *PAIR, math.inf)
    traced.train(tmp_path, epochs=1, steps_per_epoch=80, h_at_least=1.0, callbacks=[Start()])
    after = hyper.register(traced.model, *PAIR, math.inf)
    assert np.ptp(before, axis=(0, 1)).max() > 0.5
    assert np.ptp(after, axis=(0, 1)).max() < 0.1 * np.ptp(before, axis=(0, 1)).max()


def test_divergence_stops_training(traced, tmp_path):
    class Explode(tf.keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.optimizer.learning_rate.assign(1e30)

    with pytest.raises(training.NonFiniteLoss, match=r"step \d of epoch \d.*learning rate"):
        traced.train(tmp_path, callbacks=[Explode()])


@pytest.mark.parametrize("int_steps", [0, 7])
def test_register_gives_the_field_at_full_resolution_that_the_model_warps_with(model, int_steps):
    if int_steps:
        model = make_field(new_model(int_steps=int_steps))
        assert models.field_shape(model) == (16, 16)
    field = hyper.register(model, *PAIR, lam=3)
    assert field.shape == (*SHAPE, 2) and field.dtype == np.float32
    assert np.ptp(field) > 0.5
    moving, fixed = (image[None, ..., None] for image in PAIR)
    warped, _ = model([moving, fixed, np.float32([[0.75]])])
    np.testing.assert_allclose(
        vxm.layers.SpatialTransformer()([moving, field[None]]), warped, atol=1e-4
    )


def test_a_middle_of_your_own_weighs_the_smoothness():
    model = hyper.build((16, 16), features="small", middle=2, hyper_layers=1, hyper_units=1)
    assert model.get_compile_config()["loss_weights"] == [1.0, 2.0]
    assert model.metadata["middle"] == 2


def test_lambda_is_read_by_the_models_middle(model, monkeypatch):
    at_one = hyper.register(model, *PAIR, 1)
    monkeypatch.setitem(model.metadata, "middle", 0.01)
    np.testing.assert_array_equal(hyper.register(model, *PAIR, 0.01), at_one)
    assert not np.allclose(hyper.register(model, *PAIR, 1), at_one, atol=1e-2)


def test_a_saved_model_comes_back(model, tmp_path):
    path = tmp_path / "model.h5"
    models.save(model, path)
    loaded = hyper.load(path)
    assert type(loaded) is hyper.HyperVxmDense and loaded.metadata == model.metadata
    for lam in (0, 2, math.inf):
        np.testing.assert_array_equal(
            hyper.register(loaded, *PAIR, lam), hyper.register(model, *PAIR, lam)
        )


def test_plain_and_hyper_models_are_not_mistaken_for_each_other(model, tmp_path):
    plain = models.build(SHAPE, features="small")
    with pytest.raises(ValueError, match=r"does not know which λ .* vxmlib\.models\.register"):
        hyper.register(plain, *PAIR, 1)
    models.save(model, tmp_path / "hyper.h5")
    models.save(plain, tmp_path / "plain.h5")
    with pytest.raises(models.ModelFileError, match=r"hyper\.h5 holds a HyperVxmDense, expected"):
        models.load(tmp_path / "hyper.h5")
    with pytest.raises(models.ModelFileError, match=r"holds a VxmDense, expected a HyperVxmDense"):
        hyper.load(tmp_path / "plain.h5")


def test_images_that_do_not_fit_are_named(model):
    moving, fixed = PAIR
    with pytest.raises(ValueError, match=r"moving has shape \(31, 32\), expected the grid"):
        hyper.register(model, moving[1:], fixed, 1)
    with pytest.raises(ValueError, match=r"fixed.*expected \[0, 1\]"):
        hyper.register(model, moving, 2 * fixed, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_loss", "nccc"),
        ("middle", 0),
        ("middle", math.inf),
        ("middle", math.nan),
        ("middle", "1"),
        ("oversample", -0.1),
        ("oversample", 1.1),
        ("oversample", math.nan),
        ("hyper_layers", 0),
        ("hyper_layers", 1.5),
        ("hyper_units", 0),
        ("hyper_units", True),
        ("seed", -1),
        ("seed", None),
        ("features", "vxm3"),
        ("learning_rate", 0),
    ],
)
def test_no_other_option(name, value):
    with pytest.raises(ValueError, match=f"{name}.*found {value!r}"):
        hyper.build(SHAPE, **{name: value})
