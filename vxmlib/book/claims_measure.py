"""Run the small experiments with voxelmorph and Keras that the claims need, by topic.

The function of each topic returns, for each of its claims, the numbers and texts that the rule
and the sentence of the claim use. :func:`ledger` adds the results of lessons and committed
records. Of the modules about claims, only this one needs TensorFlow.
"""

import contextlib
import io
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np

from vxmlib import cohorts, metrics, models, pairs, records, warp
from vxmlib.backend import tf, vxm
from vxmlib.book import claims, claims_records
from vxmlib.book.errors import error_of, kind_of_error
from vxmlib.experiments import runs
from vxmlib.experiments.settings import Settings
from vxmlib.methods import loops


@dataclass
class Bench:
    """What all experiments share: two validation subjects, a model, and a temporary folder."""

    people: cohorts.Cohort
    folder: Path

    def __post_init__(self):
        self.first, self.second = self.people.split["validation"][:2]
        self.a, self.b = (self.people.image(k) for k in (self.first, self.second))
        self.batch = [image[None, ..., None] for image in (self.a, self.b)]
        self.zeros = np.zeros((1, *self.people.shape, self.people.ndim), "float32")
        train = self.people.split["train"]
        self.data = pairs.pair_dataset(self.people, train, batch_size=1, seed=0)
        self.model = models.build(self.people.shape, learning_rate=1e-3)

    def generator(self):
        """Return voxelmorph's generator of pairs, which reads files of the training subjects."""
        files = [str(self.folder / f"{name}.npy") for name in self.people.split["train"]]
        for name, file in zip(self.people.split["train"], files, strict=True):
            np.save(file, self.people.image(name))
        np.random.seed(0)  # noqa: NPY002 - voxelmorph draws from the global generator
        return vxm.generators.scan_to_scan(files)

    def ramp(self):
        """Return a displacement whose first component has a slope of 1 along the first axis."""
        field = np.zeros_like(self.zeros[0])
        field[..., 0] = np.indices(self.people.shape)[0]
        return field


def ledger(settings):
    """Measure the numbers of all claims, and return the claims with their verdicts.

    Parameters
    ----------
    settings : Settings
        Settings of the training run whose network the experiments use. The records of the lessons
        are read from the output folder of the build.

    Returns
    -------
    vxmlib.book.claims.Ledger
    """
    people, real = runs.load_cohort(settings), record("08_real")
    run = runs.run(settings, people)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(people, Path(folder))
        numbers = interface(bench) | losses(bench) | labels(bench, run) | jacobian(bench, run)
        numbers |= files(bench) | given_up(bench)
    numbers |= claims_records.all_of_lam() | claims_records.trainings(real)
    numbers |= claims_records.papers(real)
    numbers |= claims_records.loops(record("15_steps"), record("16_situations"))
    return claims.Ledger(numbers)


def record(lesson):
    """Return the metrics that a lesson of this build recorded."""
    return records.read(runs.output_folder() / lesson / "record.json")["metrics"]


# -- the interface -----------------------------------------------------------------------------


def interface(bench):
    """Measure the claims about `compile`, generators and `fit()`."""
    import keras  # Keras 3; if imported before TensorFlow, it would prevent the use of Keras 2

    dice, plan = record("04_dice"), Settings(profile="full")
    return {
        "interface": {
            "before": dice["dice_identity"],
            "after": dice["dice"],
            "steps": record("03_fit")["steps"],
        },
        "compile": _without_compile(bench),
        "steps": {
            "steps": plan.steps,
            "batch": plan.batch_size,
            "paper_steps": claims_records.PAPER_STEPS,
        },
        "fit_generator": {
            "keras_2": "has" if hasattr(tf.keras.Model, "fit_generator") else "lacks",
            "keras_3": "has" if hasattr(keras.Model, "fit_generator") else "lacks",
        },
        **_generator(bench),
        **_history(bench),
        "plain_generator": _with_fit(bench),
    }


def _without_compile(bench):
    raw = vxm.networks.VxmDense(bench.people.shape, int_steps=0)
    error = error_of(lambda: raw.fit(bench.batch, [bench.batch[1], bench.zeros], verbose=0))
    return {"error": error.partition(":")[0], "asks_to_compile": "compile" in error}


def _generator(bench):
    """Check what voxelmorph's generator yields, and count the images of one epoch."""
    generator = bench.generator()
    (_, fixed), (target, zero) = next(generator)
    images = len(bench.people.split["train"])
    drawn = [next(generator)[0] for _ in range(images)]
    shown = {image.tobytes() for pair in drawn for image in pair}
    return {
        "generator": {
            "target_is_fixed": bool((target == fixed).all()),
            "zero_field": not zero.any(),
            "zeros": str(zero.shape),
            "field": str(bench.zeros.shape),
        },
        "epoch": {
            "images": images,
            "moving": len({moving.tobytes() for moving, _ in drawn}),
            "shown": len(shown),
        },
    }


def _history(bench, epochs=3):
    """Train for a few short epochs, and check what `fit()` prints and returns."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        history = bench.model.fit(bench.data, epochs=epochs, steps_per_epoch=2, verbose=2).history
    lines = [line for line in printed.getvalue().splitlines() if "loss" in line]
    per_epoch = all(len(values) == epochs for values in history.values())
    return {
        "history": {"names": ", ".join(history), "per_epoch": per_epoch},
        "verbose": {"lines": len(lines), "epochs": epochs},
    }


def _with_fit(bench):
    """Return the errors that the generator raises in `fit()`, with and without integration."""
    shape = models.field_shape(models.build(bench.people.shape, int_steps=7))
    half = np.zeros((1, *shape, bench.people.ndim), "float32")
    generator = bench.generator()
    halves = ((x, [y[0], half]) for x, y in generator)
    static = bench.data.map(lambda x, y: (x, (y[0], tf.constant(half))))
    return {
        "seven": _fit_error(bench, 7, halves),
        "none": _fit_error(bench, 0, generator),
        "static": _fit_error(bench, 7, static),
    }


def _fit_error(bench, int_steps, batches):
    plain = vxm.networks.VxmDense(bench.people.shape, int_steps=int_steps)
    both = [vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss]
    plain.compile("adam", loss=both, loss_weights=[1, 1])
    return kind_of_error(lambda: plain.fit(batches, steps_per_epoch=1, verbose=0))


# -- losses ------------------------------------------------------------------------------------


def losses(bench):
    """Measure the claims about voxelmorph's losses and their targets."""
    names = [n for n in dir(vxm.losses) if isinstance(getattr(vxm.losses, n), type)]
    negative = bench.a.max() - bench.a
    brain = bench.people.brain(bench.first)
    return {
        "determinant_loss": {"names": ", ".join(names)},
        "zero_target": _targets(bench),
        "ncc": _shifted(bench),
        "contrast": {"value": metrics.local_ncc(negative, bench.a, mask=brain)},
        "scale": _scaled(bench),
        "grad": {"slope": _grad(None, bench.ramp()[None]), "paper": 1.0},
    }


def _grad(target, field):
    return float(vxm.losses.Grad("l2").loss(target, tf.constant(field))[0])


def _targets(bench):
    """Compute Grad with second targets of two shapes, and train a step with the unusual one."""
    field = np.random.default_rng(0).standard_normal(bench.zeros.shape).astype("float32")
    other = np.full((1, *[1] * bench.people.ndim, bench.people.ndim), 9.0, "float32")
    step = [bench.batch[1], other]
    error = kind_of_error(lambda: bench.model.train_on_batch(bench.batch, step))
    return {"full": _grad(bench.zeros, field), "tiny": _grad(other, field), "error": error}


def _shifted(bench, shifts=(0, 1, 2, 4)):
    """Compute the NCC of an image and its shifted copies, over the image and inside the brain."""
    brain = bench.people.brain(bench.first)
    moved = [np.roll(bench.a, shift, axis=0) for shift in shifts]
    over, inside = (
        [float(metrics.local_ncc(bench.a, other, mask=mask)) for other in moved]
        for mask in (None, brain)
    )
    return {"shift": shifts[-1], "over": over, "inside": inside}


def _scaled(bench):
    """Compute voxelmorph's NCC loss of one pair for scaled and offset intensities."""
    changes = {
        "plain": lambda x: x,
        "mild": lambda x: x / 2,
        "tiny": lambda x: 1e-4 * x,
        "large": lambda x: x + 1000,
    }
    loss = vxm.losses.NCC().loss
    pair = [tf.constant(image, tf.float32) for image in bench.batch]
    return {
        name: float(np.mean(loss(*(change(image) for image in pair))))
        for name, change in changes.items()
    }


# -- labels and the Jacobian -------------------------------------------------------------------


def labels(bench, run):
    """Measure the claims about warping labels and about Dice on one pair of validation subjects."""
    u = run.register(bench.a, bench.b)
    moving, fixed = (bench.people.labels(k) for k in (bench.first, bench.second))
    nearest = warp.warp_labels(moving, u)
    usual = metrics.mean_dice(nearest, fixed, bench.people.structures)
    with_it = metrics.mean_dice(nearest, fixed, [0, *bench.people.structures])
    sd = record("04_dice")
    return {
        **_interpolations(moving, u, nearest, fixed, bench.people.structures),
        "background": {"with_it": with_it, "without": usual},
        "empty": _empty_class(moving, fixed, bench.people.structures),
        "spread": {"pairs": sd["dice_sd_pairs"], "pooled": sd["dice_sd_pooled"]},
        "same_result": {"usual": usual, "bright": _bright(bench, run, moving, fixed)},
    }


def _interpolations(moving, u, nearest, fixed, structures):
    """Warp labels with nearest-neighbour and linear interpolation, as numbers and one-hot maps."""
    rounded = np.rint(warp.warp_image(moving.astype("float32"), u)).astype(int)
    numbers = np.unique(moving)
    maps = [moving == number for number in numbers]
    hot = numbers[np.argmax([warp.warp_labels(each, u) for each in maps], axis=0)]
    soft = [warp.warp_image(each.astype("float32"), u) for each in maps]
    soft = numbers[np.argmax(soft, axis=0)]
    dice = [metrics.mean_dice(each, fixed, structures) for each in (nearest, soft)]
    new = [len(np.setdiff1d(each, moving)) for each in (nearest, rounded)]
    return {
        "nearest": {"nearest": new[0], "linear": new[1]},
        "one_hot": {"different": int((hot != nearest).sum())},
        "mandatory": {"nearest": dice[0], "linear": dice[1]},
    }


def _empty_class(moving, fixed, structures, absent=998):
    """Compute how a label that neither map contains counts in Dice."""
    rules = {"skipped": "skip", "one": "one", "zero": "zero"}
    means = {
        name: float(np.mean([*metrics.dice(moving, fixed, labels, absent=rule).values()]))
        for name, rule in rules.items()
        for labels in [[*structures, absent]]
    }
    theirs = float(vxm.py.utils.dice(moving, fixed, labels=[absent])[0])
    return means | {"voxelmorph": theirs}


def _bright(bench, run, moving, fixed):
    """Compute the Dice of the same network for intensities from 0 to 255."""
    with contextlib.redirect_stdout(io.StringIO()):  # Keras' progress bar
        u = run.model.register(*(255 * image for image in bench.batch))[0]
    return metrics.mean_dice(warp.warp_labels(moving, u), fixed, bench.people.structures)


def jacobian(bench, run):
    """Measure the claims about folding and about measures that need no labels."""
    mirrored, flattened = -2 * bench.ramp(), -bench.ramp()  # x is mapped to -x, and to 0
    folded = metrics.folding(mirrored).percent
    determinant = metrics.jacobian_determinant(mirrored)
    diffeomorphic, folding = record("11_diffeomorphic"), record("05_jacobian")
    model = models.build(bench.people.shape, features="small", int_steps=7)
    second = model.predict(bench.batch, verbose=0)[1].shape[1:-1]
    red, _, blue, _ = plt.cm.RdBu(0.0)
    return {
        "folding": {
            "mirrored": folded,
            "flattened": metrics.folding(flattened).percent,
            "all_voxels": folding["folding_percent"],
            "brain": folding["folding_percent_brain"],
        },
        "learn2reg": {
            "folded": folded,
            "counted": float(100 * np.mean(np.clip(determinant + 3, 1e-9, 1e9) <= 0)),
        },
        "predict": {
            "second_shape": str(tuple(second)),
            "image_shape": str(tuple(bench.people.shape)),
            "wrong": diffeomorphic["wrong_folding_percent"],
            "right": diffeomorphic["right_folding_percent"],
        },
        "colours": {"low_end": "red" if red > blue else "blue"},
        "unlabelled": _without_labels(bench, run),
    }


def _without_labels(bench, run):
    u, v = run.register(bench.a, bench.b), run.register(bench.b, bench.a)
    inside = bench.people.brain(bench.second)
    before, after = (
        float(metrics.local_ncc(image, bench.b, mask=inside))
        for image in (bench.a, warp.warp_image(bench.a, u))
    )
    back = float(metrics.inverse_consistency(u, v, inside))
    return {"before": before, "after": after, "back": back}


# -- files and arguments -----------------------------------------------------------------------


def files(bench):
    """Measure the claims about saving and loading, arguments and packages."""
    scan = str(bench.folder / "scan.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), "float32"), np.eye(4)), scan)
    needs = [need for need in metadata.requires("voxelmorph") if "extra" not in need]
    indexed = kind_of_error(lambda: vxm.layers.SpatialTransformer(indexing="ij"))
    volume = kind_of_error(lambda: vxm.py.utils.load_volfile(scan))
    gpus = kind_of_error(lambda: tf.keras.utils.multi_gpu_model)
    return {
        **_saved(bench),
        "multi_gpu": {"error": gpus},
        "load_volfile": {"nibabel": nib.__version__, "error": volume},
        "indexing": {"error": indexed},
        "channel": _without_channel(bench),
        "install": {"needs": ", ".join(needs)},
    }


def _saved(bench):
    """Save the trained model in three formats, and load each file."""
    load, paths = tf.keras.models.load_model, {}
    for kind in ("h5", "keras", "saved"):
        paths[kind] = bench.folder / (kind if kind == "saved" else f"vxm.{kind}")
        bench.model.save(paths[kind])
    again = vxm.networks.VxmDense.load(paths["h5"]).get_weights()
    equal = all((x == y).all() for x, y in zip(bench.model.get_weights(), again, strict=True))
    errors = {kind: kind_of_error(lambda p=path: load(p)) for kind, path in paths.items()}
    return {
        "save": {"equal": bool(equal), "keras": errors["h5"]},
        "keras_format": {"keras": errors["keras"], "saved_model": errors["saved"]},
    }


def _without_channel(bench):
    raw = vxm.networks.VxmDense(bench.people.shape, int_steps=0)
    bare = [image[None] for image in (bench.a, bench.b)]
    same = np.allclose(raw(bare)[0], raw(bench.batch)[0])
    layer = vxm.layers.SpatialTransformer()
    return {"same": bool(same), "layer": kind_of_error(lambda: layer([bare[0], bench.zeros]))}


# -- loops -------------------------------------------------------------------------------------


def given_up(bench):
    """Measure the claim about what a custom training loop does not accept."""
    terms = loops.compiled_terms(bench.model)
    scaled = tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.Adam())
    tried = {"callback": {"callbacks": []}, "scaled": {"optimizer": scaled}}
    return {
        "given_up": {
            what: kind_of_error(
                lambda more=more: loops.train(bench.model, bench.data, terms, steps=1, **more)
            )
            for what, more in tried.items()
        }
    }
