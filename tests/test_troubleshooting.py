"""Lesson 17: each symptom that users report is made, and each remedy is seen to work.

The classes have the order of the page; in each, one test triggers and one mends.
"""

import os
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from vxmlib import checks, losses, metrics, models, nifti, pairs, preprocess, training, warp
from vxmlib.augment import Augmentation
from vxmlib.backend import tf, versions, vxm
from vxmlib.methods import instance
from vxmlib.networks.strided import StridedVxmDense

SHAPE = (48, 48)


def image(seed, shape=SHAPE):
    values = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 3)
    return ((values - values.min()) / np.ptp(values)).astype(np.float32)


def python(code, **environment):
    """Run code in a Python of its own, without this one's settings for Keras."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    run = [sys.executable, "-c", code]
    return subprocess.run(run, env=kept | environment, capture_output=True, text=True, check=False)


class TestItDoesNotImport:
    def test_symptom(self):
        found = python("import voxelmorph", VXM_BACKEND="tensorflow", NEURITE_BACKEND="tensorflow")
        assert found.returncode
        assert re.search(r"cannot import name 'mean_absolute_error'|getargspec", found.stderr)

    def test_remedy(self):
        found = python("from vxmlib.backend import tf, vxm; print(tf.keras.Model.__module__)")
        assert found.returncode == 0, found.stderr
        assert found.stdout.startswith("tf_keras.")
        assert versions()["voxelmorph"] == versions()["neurite"] == "0.2"


class TestTheOfficialTutorialStops:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "scan.nii.gz"
        nib.save(nib.Nifti1Image(image(0)[..., None], np.eye(4)), path)
        return path

    def test_symptom(self, path):
        with pytest.raises(Exception, match="get_data"):
            vxm.py.utils.load_volfile(str(path))
        assert not hasattr(vxm.losses, "JacobianDeterminant")

    def test_remedy(self, path):
        np.testing.assert_array_equal(nifti.read_image(path)[0][..., 0], image(0))


class TestAnErrorAboutConcatenate:
    def test_symptom(self):
        with pytest.raises(ValueError, match="Concatenate"):
            vxm.networks.VxmDense((100, 100), [[4] * 4, [4] * 6])

    def test_remedy(self):
        padded, offset = preprocess.crop_or_pad(image(0, (100, 100)))
        assert padded.shape == (112, 112) and offset.tolist() == [-6, -6]
        assert models.build(padded.shape, features="small").output_shape[0] == (None, 112, 112, 1)


class TestIntensities:
    def test_symptom(self):
        with pytest.raises(ValueError, match=r"intensities from 0 to 1000, expected \[0, 1\]"):
            checks.check_pair(1000 * image(0), image(1))

    @pytest.mark.parametrize("scale", [1000, 1e-4])
    def test_remedy(self, scale):
        checks.check_pair(preprocess.normalise(scale * image(0)), image(1))


class TestAffineAlignment:
    """The remedy in 3D, a known pose recovered by ANTs: tests/test_align.py."""

    ANGLE = 30

    def after(self, moving):
        optimise = instance.InstanceOptimiser(SHAPE, learning_rate=0.2)
        field, _ = optimise(warp.identity(SHAPE), moving, self.fixed(), steps=60)
        return metrics.local_ncc(warp.warp_image(moving, field), self.fixed(), mask=self.inside())

    def fixed(self):
        return image(1) * self.inside()

    def inside(self):
        return (((np.indices(SHAPE) - 23.5) ** 2).sum(0) < 18**2).astype(np.float32) > 0

    def turned(self, angle, of=None):
        of = self.fixed() if of is None else of
        return np.clip(ndimage.rotate(of, angle, reshape=False, order=1), 0, 1)

    def test_symptom(self):
        assert self.after(self.turned(self.ANGLE)) < self.after(self.turned(2)) - 0.1

    def test_remedy(self):
        back = self.turned(-self.ANGLE, of=self.turned(self.ANGLE))
        assert self.after(back) > self.after(self.turned(self.ANGLE)) + 0.1


class TestPairsOrAtlas:
    def first(self, cohort, **options):
        data = pairs.pair_dataset(cohort, cohort.split["train"], batch_size=2, seed=0, **options)
        return next(iter(data))

    def test_symptom(self, tiny_cohort):
        """(moving, fixed) alone is not a batch: Keras takes the second for the target."""
        (moving, fixed), _ = self.first(tiny_cohort)
        model = models.build(tiny_cohort.shape, features="small")
        with pytest.raises(ValueError, match="expects 2 input"):
            model.train_on_batch(moving, fixed)

    def test_remedy(self, tiny_cohort):
        atlas = tiny_cohort.image(tiny_cohort.split["train"][0])
        for options in ({}, {"atlas": atlas}):
            (moving, fixed), targets = self.first(tiny_cohort, **options)
            np.testing.assert_array_equal(fixed, targets[0])
            assert targets[1].shape == (*moving.shape[:-1], 2)
            assert bool(tf.reduce_all(fixed[0] == fixed[1])) == bool(options)


class TestNcc:
    def loss(self, change):
        two = [tf.constant(change(image(k))[None, ..., None], tf.float32) for k in (0, 1)]
        return float(tf.reduce_mean(losses.image_loss("ncc")(*two)))

    def test_symptom(self):
        assert self.loss(lambda x: 1e-4 * x) == pytest.approx(-1)  # looks constant: perfect
        assert abs(self.loss(lambda x: x + 1000)) > 10  # only rounding is left
        assert np.isnan(self.loss(lambda x: x * np.nan))

    def test_remedy(self):
        assert -1 < self.loss(lambda x: x) < 0
        assert self.loss(lambda x: preprocess.normalise(1e-4 * x)) == pytest.approx(
            self.loss(preprocess.normalise), rel=1e-3
        )


class TestItLearnsNothing:
    def slope(self, one, other):
        one, other = (tf.constant(x[None, ..., None], tf.float32) for x in (one, other))
        field = tf.Variable(tf.zeros((1, *SHAPE, 2)))
        with tf.GradientTape() as tape:
            warped = vxm.layers.SpatialTransformer(indexing="ij")([one, field])
            loss = tf.reduce_mean(losses.image_loss("ncc")(other, warped))
        return float(tf.norm(tape.gradient(loss, field)))

    def test_symptom(self):
        assert self.slope(1e-4 * image(0), 1e-4 * image(1)) == 0
        assert self.slope(image(0), image(0)) < 1e-4 * self.slope(image(0), image(1))

    def test_remedy(self):
        for two, cause in (
            ((1e-4 * image(0), 1e-4 * image(1)), "expected to span"),
            ((image(0), image(0)), "are the same image"),
        ):
            with pytest.raises(ValueError, match=cause):
                checks.check_pair(*two)
        checks.check_pair(image(0), image(1))
        assert self.slope(image(0), image(1)) > 1e-4


class TestTheWarpedImageIsTorn:
    def folds(self, lam):
        optimise = instance.InstanceOptimiser(SHAPE, lam=lam, learning_rate=0.2)
        field, _ = optimise(warp.identity(SHAPE), image(0), image(1), steps=40)
        return metrics.folding(field).percent

    def test_symptom(self):
        assert self.folds(0.01) > 1

    def test_remedy(self):
        assert self.folds(1.0) < 0.25 * self.folds(0.01)


class TestOutOfMemory:
    def gigabytes(self, network, shape):
        return models.outputs_gb(models.build(shape, network=network, features="vxm1"))

    def test_symptom(self):
        assert self.gigabytes(vxm.networks.VxmDense, (160, 192, 224)) > 4

    def test_remedy(self):
        large = self.gigabytes(vxm.networks.VxmDense, (160, 192, 224))
        assert self.gigabytes(vxm.networks.VxmDense, (80, 96, 112)) == pytest.approx(large / 8)
        assert self.gigabytes(StridedVxmDense, (160, 192, 224)) < large / 2


class TestSeveralGpus:
    def test_symptom(self):
        assert not hasattr(tf.keras.utils, "multi_gpu_model")

    # The remedy, training on two devices with the losses of one: tests/test_distribution.py.


class TestHowLong:
    def test_symptom(self, tiny_cohort, tmp_path):
        """An epoch says nothing of the number of steps."""
        runs = {}
        for epochs, steps in ((1, 4), (4, 1)):
            model = models.build(tiny_cohort.shape, features="small", image_loss="mse", lam=0.01)
            where = {"run_dir": tmp_path / str(epochs), "epochs": epochs, "steps_per_epoch": steps}
            runs[epochs] = training.fit(model, tiny_cohort, tiny_cohort.split["train"], **where)
        assert [len(history) for history in runs.values()] == [1, 4]
        assert {int(history["step"].iloc[-1]) for history in runs.values()} == {4}

    def test_remedy(self, tiny_cohort, tmp_path):
        """With a rate of next to 0 nobody gains, and the training ends when its patience does."""
        model = models.build(tiny_cohort.shape, features="small", learning_rate=1e-12)
        few = [tuple(tiny_cohort.split["train"][:2])]
        history = training.fit(
            model,
            tiny_cohort,
            tiny_cohort.split["train"],
            run_dir=tmp_path,
            epochs=9,
            steps_per_epoch=1,
            callbacks=[
                training.RegistrationMonitor(tiny_cohort, few),
                tf.keras.callbacks.EarlyStopping(monitor="val_dice", mode="max", patience=2),
            ],
        )
        assert len(history) == 3

    def test_remedy_for_few_people(self):
        """More people of few: every draw is another image, still in [0, 1]."""
        change, generator = Augmentation(), np.random.default_rng(0)
        drawn = [change(image(0), generator, np.eye(4)) for _ in range(2)]
        assert np.abs(drawn[0] - drawn[1]).max() > 0.05
        assert all(x.min() >= 0 and x.max() <= 1 for x in drawn)


class TestTheFieldHasHalfTheSize:
    @pytest.fixture
    def model(self):
        return models.build(SHAPE, features="small", int_steps=7)

    def test_symptom(self, model):
        batch = [image(k)[None, ..., None] for k in (0, 1)]
        assert model.predict(batch, verbose=0)[1].shape == (1, 24, 24, 2)

    def test_remedy(self, model):
        assert models.register(model, image(0), image(1)).shape == (48, 48, 2)


class TestLabelsThatNobodyDrew:
    LABELS = np.where(np.indices(SHAPE)[0] < 24, 2, 41)
    FIELD = np.full((*SHAPE, 2), 0.5, np.float32)

    def test_symptom(self):
        warped = warp.warp_image(self.LABELS.astype(np.float32), self.FIELD)
        assert 21.5 in warped[2:-2, 2:-2]

    def test_remedy(self):
        assert set(np.unique(warp.warp_labels(self.LABELS, self.FIELD)[2:-2, 2:-2])) == {2, 41}


class TestDice:
    A = np.repeat([0, 2, 2, 41], 12)[:, None] * np.ones((1, 48), int)
    B = np.repeat([0, 2, 41, 41], 12)[:, None] * np.ones((1, 48), int)

    def test_symptom(self):
        theirs = {n: np.mean(vxm.py.utils.dice(self.A, self.B, labels=n)) for n in ((2, 41), (17,))}
        assert theirs[2, 41] == pytest.approx(2 / 3) and theirs[17,] == 0
        assert np.mean(vxm.py.utils.dice(self.A, self.B, labels=[0, 2, 41])) > theirs[2, 41]

    def test_remedy(self):
        named = {2: "one", 41: "other", 17: "absent"}
        shared = metrics.shared_structures(self.A, self.B, named)
        assert metrics.mean_dice(self.A, self.B, shared) == pytest.approx(2 / 3)


class TestTheJacobianLooksWrong:
    FIELD = np.stack([np.indices((16, 16))[0], np.zeros((16, 16))], axis=-1)  # to twice the length

    def test_symptom(self):
        with pytest.raises(ValueError, match="broadcast"):
            vxm.py.utils.jacobian_determinant(self.FIELD[None])
        half = self.FIELD[::2, ::2]  # on half the grid it should be half as long, and is not
        assert vxm.py.utils.jacobian_determinant(half)[4, 4] == 3
        inside_out = metrics.jacobian_determinant(
            -2 * self.FIELD / 16
        )  # x becomes -x, in units of 1
        assert (inside_out > 0.8).all() and (
            metrics.jacobian_determinant(-2 * self.FIELD) < 0
        ).all()

    def test_remedy(self):
        assert vxm.py.utils.jacobian_determinant(self.FIELD)[8, 8] == 2
        assert metrics.jacobian_determinant(self.FIELD)[8, 8] == 2


class TestLandmarksMoveTheWrongWay:
    SHIFT = np.broadcast_to(np.float32([3, 0]), (32, 32, 2))

    def found(self):
        dot = np.zeros((32, 32), np.float32)
        dot[20, 16] = 1
        return np.argwhere(warp.warp_image(dot, self.SHIFT))[0]

    def test_symptom(self):
        assert (self.found() != np.array([20, 16]) + self.SHIFT[20, 16]).any()

    def test_remedy(self):
        moved = np.array([20, 16]) + warp.inverse(self.SHIFT)[20, 16]
        np.testing.assert_allclose(self.found(), moved)


class TestWeightsDoNotLoad:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "model.h5"
        models.save(models.build(SHAPE, features="small"), path)
        return path

    def test_symptom(self, path):
        with pytest.raises((ValueError, TypeError), match="VxmDense"):
            tf.keras.models.load_model(path)
        with pytest.raises(models.ModelFileError, match="holds a VxmDense, expected a Strided"):
            models.load(path, network=StridedVxmDense)

    def test_remedy(self, path):
        assert models.load(path).output_shape[0] == (None, *SHAPE, 1)
