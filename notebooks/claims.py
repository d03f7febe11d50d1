# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Execute the claims
#
# | | |
# |---|---|
# | **You will** | take what is commonly said about reproducing VoxelMorph, sentence by sentence, and run it |
# | **You will learn** | which of it holds, which holds with a condition, and which does not |
# | **You need** | all lessons before; each row names its own |
# | **In → out** | the records of this build, committed records, and small tests → a ledger with verdicts |
# | **Not here** | opinions: a verdict is computed from a measurement, and changes with it |
# | **Time** | 20 minutes |

# %% [markdown]
# This book began with a tutorial on reproducing VoxelMorph. Its advice was: configure model,
# losses and data rightly, let `fit()` train, evaluate Dice and the Jacobian, and write loops of
# your own only in few situations. Much of that is right; some is wrong, and by reading one cannot
# tell which. So here each claim is executed. The whole ledger stands at the end, and on
# [a page of its own](../book/claims.md).

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0
int_steps = 0
spacing = 2.0
learning_rate = 0.001
schedule = "cosine"

# %%
from vxmlib import records
from vxmlib.book import claims
from vxmlib.experiments import recording, runs
from vxmlib.experiments.results import committed_record, results_folder
from vxmlib.experiments.settings import Settings, read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
ledger = claims.Ledger()
print(len(ledger.claims), "claims to answer")

# %% [markdown]
# What other lessons measured is in their records. Each answer is printed where it is found. A
# number that is missing stops the page.

# %%
import re


def measured(lesson):
    path = runs.output_folder() / lesson / "record.json"
    return records.read(path)["metrics"]


def answer(name, found, *, holds):
    if re.search(r"\bnan\b", found):
        raise claims.ClaimError(f"{name}: found {found!r}, expected numbers")
    print(f"{ledger.add(name, found, holds=holds).upper()}: {found}")


# %% [markdown]
# Two people to test with, whom no network has seen, as images and as the batch that a network
# takes:

# %%
import numpy as np

first, second = people.split["validation"][:2]
a, b = people.image(first), people.image(second)
batch = [image[None, ..., None] for image in (a, b)]
flat = np.zeros((1, *people.shape, people.ndim), "float32")

# %% [markdown]
# (claims-interface)=
# ## The interface
#
# The main thesis: it is enough to understand what `fit()` takes and gives.

# %%
lesson5, lesson4 = measured("04_dice"), measured("03_fit")
found = f"Dice {lesson5['dice_identity']:.3f} to {lesson5['dice']:.3f} on test pairs"
found += f" in {lesson4['steps']} steps of fit()"
answer("interface", found, holds=lesson5["dice_gain"] > 0.05)

# %% [markdown]
# A model that was not compiled:

# %%
from vxmlib.backend import tf, vxm

raw = vxm.networks.VxmDense(people.shape, int_steps=0)
error = claims.error_of(lambda: raw.fit(batch, [batch[1], flat], verbose=0))
answer("compile", f"without: {error.split('/')[0]}", holds="compile" in error)

# %% [markdown]
# What voxelmorph's own generator gives, from files of this build's people:

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
files = [str(folder / f"{name}.npy") for name in people.split["train"]]
for name, file in zip(people.split["train"], files, strict=True):
    np.save(file, people.image(name))
np.random.seed(seed)  # noqa: NPY002 - voxelmorph draws from the global generator
generator = vxm.generators.scan_to_scan(files)

# %% [markdown]
# One batch of it:

# %%
(moving, fixed), (target, zero) = next(generator)
fits = (target == fixed).all() and not zero.any() and zero.shape == flat.shape
found = f"{moving.shape}, {fixed.shape}; {target.shape}, {zero.shape}"
answer("generator", found, holds=bool(fits))

# %% [markdown]
# What `fit()` returns and prints:

# %%
import contextlib
import io

from vxmlib import models, pairs

data = pairs.pair_dataset(people, people.split["train"], batch_size=1, seed=0)
model = models.build(people.shape, learning_rate=1e-3)
with contextlib.redirect_stdout(io.StringIO()) as printed:
    history = model.fit(data, epochs=3, steps_per_epoch=2, verbose=2).history

# %% [markdown]
# Three epochs of two steps:

# %%
curves = {"loss", "image_loss", "smoothness_loss"} <= set(history)
answer("history", f"{', '.join(history)}, a value an epoch", holds=curves)
lines = [line for line in printed.getvalue().splitlines() if "loss" in line]
answer("verbose", f"{len(lines)} lines for 3 epochs", holds=len(lines) == 3)

# %% [markdown]
# An "epoch" of as many steps as there are people: how many of them does that generator show?

# %%
drawn = [next(generator)[0] for _ in files]
moved = {moving.tobytes() for moving, _ in drawn}
shown = {image.tobytes() for two in drawn for image in two}
found = f"of {len(files)} people {len(moved)} as moving, {len(shown)} at all"
answer("epoch", f"{found}: it draws at random", holds=len(moved) == len(files))

# %% [markdown]
# Whether the profile `full` of this book trains as long; old code calls another method:

# %%
import keras

full = Settings(profile="full")
found = f"profile full: {full.steps} steps of {full.batch_size} pair, cut into"
found += f" {full.epochs} epochs only for the records"
answer("steps", found, holds=full.steps * full.batch_size == 150_000)
has = {"tf-keras": tf.keras.Model, "Keras 3": keras.Model}
has = {name: hasattr(each, "fit_generator") for name, each in has.items()}
found = ", ".join(f"{name}: {'yes' if it else 'no'}" for name, it in has.items())
answer("fit_generator", found, holds=all(has.values()))

# %% [markdown]
# The same generator in `fit()`, for voxelmorph's own model and losses: with the default of seven
# integration steps, with none, and with seven from a `tf.data.Dataset` of static shapes:


# %%
def takes(int_steps, batches):
    plain = vxm.networks.VxmDense(people.shape, int_steps=int_steps)
    own = [vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss]
    plain.compile("adam", loss=own, loss_weights=[1, 1])
    return claims.error_of(lambda: plain.fit(batches, steps_per_epoch=1, verbose=0))


# %% [markdown]
# By error:

# %%
last_shape = models.field_shape(models.build(people.shape, int_steps=7))
half = np.zeros((1, *last_shape, people.ndim), "float32")
halves = ((x, [y[0], half]) for x, y in generator)
static = data.map(lambda x, y: (x, (y[0], tf.constant(half))))
tried = {"seven steps": (7, halves), "none": (0, generator)}
tried["seven, static shapes"] = (7, static)
errors = {name: takes(*told) for name, told in tried.items()}
found = "; ".join(
    f"{k}: {v.split(':')[0] or 'it trained'}" for k, v in errors.items()
)
answer("plain_generator", found, holds=not errors["seven steps"])
print(errors["seven steps"][:150])

# %% [markdown]
# (claims-losses)=
# ## Losses and targets
#
# Which losses there are, and what Grad does with its target:

# %%
names = [n for n in dir(vxm.losses) if isinstance(getattr(vxm.losses, n), type)]
found = f"voxelmorph 0.2 has {', '.join(names)}"
answer("determinant_loss", found, holds="JacobianDeterminant" in names)
grad = vxm.losses.Grad("l2").loss
field = tf.random.stateless_normal(flat.shape, seed=(0, 0))
full, tiny = (float(grad(t, field)[0]) for t in (flat, flat[:, :1, :1, :1]))
found = f"Grad is {full:.4f} with it and {tiny:.4f} with another target"
shaped = claims.error_of(
    lambda: model.train_on_batch(batch, [batch[1], np.full((1, 1, 1, 2), 9.0)])
)
found += f"; a batch with another target: {shaped.split(':')[0] or 'Keras trains'}"
answer("zero_target", found, holds=full != tiny or bool(shaped))

# %% [markdown]
# And the expression that is often printed for it:

# %%
wrong = np.zeros_like(flat.shape)
found = f"an array of shape {wrong.shape}: like the tuple, not of its shape"
answer("zeros_like", found, holds=wrong.shape == flat.shape)

# %% [markdown]
# NCC of a brain with itself, shifted further and further, over the image and in the brain:

# %%
from vxmlib import metrics

brain = people.brain(first)
moved = {n: np.roll(a, n, axis=0) for n in (0, 1, 2, 4)}
over, within = (
    [metrics.local_ncc(a, other, mask=mask) for other in moved.values()]
    for mask in (None, brain)
)
found = f"shifted by {', '.join(map(str, moved))} voxels: over the image"
found += f" {', '.join(f'{x:.2f}' for x in over)}; in the brain"
found += f" {', '.join(f'{x:.2f}' for x in within)}"
answer("ncc", found, holds=bool(np.all(np.diff(within) < 0)))

# %% [markdown]
# In the brain, of an image with its own negative; and of the pair with other intensities:

# %%
value = metrics.local_ncc(a.max() - a, a, mask=brain)
answer("contrast", f"an image with its negative: {value:.2f}", holds=value > 0.9)
ncc = vxm.losses.NCC().loss
values = [
    float(np.mean(ncc(*(tf.constant(change(x)) for x in batch))))
    for change in (lambda x: x, lambda x: 1e-4 * x, lambda x: x + 1000)
]
found = f"the loss of a pair {values[0]:.3f}; times 0.0001 {values[1]:.3f}"
found += f"; plus 1000 {values[2]:.3g}"
answer("scale", found, holds=bool(np.allclose(values, values[0], atol=0.01)))

# %% [markdown]
# Grad of a field with one slope of 1:

# %%
ramp = np.zeros_like(flat)
ramp[0, ..., 0] = np.indices(people.shape)[0]
slope = float(grad(None, tf.constant(ramp))[0])
found = f"one slope of 1: Grad says {slope:.3f}, the paper's sum 1"
answer("grad", found, holds=abs(slope - 1) < 1e-6)

# %% [markdown]
# (claims-lam)=
# ## λ and folding
#
# From the committed grid of [lesson 10](06_choose.ipynb), real people, means over seeds:

# %%
import pandas as pd

tables = results_folder() / "lambda" / "tables"


def grid_of(image_loss, int_steps=0):
    asked = f"cohort == 'malf' and image_loss == '{image_loss}'"
    asked += f" and int_steps == {int_steps}"
    return [
        pd.read_csv(tables / f"{name}.csv").query(asked).set_index("lam")["mean"]
        for name in ("folding", "dice")
    ]


folds, overlap = grid_of("ncc")
pd.DataFrame({"folding, %": folds, "Dice": overlap}).T.round(3)

# %% [markdown]
# The recommended λ, and the remedy:

# %%
found = f"{folds[0.01]:.1f} % of the brain fold at 0.01, {folds[1]:.2f} % at 1"
found += f"; Dice {overlap[0.01]:.3f} and {overlap[1]:.3f}"
answer("key", found, holds=folds[0.01] < 1 and overlap[0.01] >= overlap[1])
calm = folds.index[folds < 1].min()
found = f"{folds[0.01]:.1f} % at 0.01, {folds[0.1]:.1f} % at 0.1: below 5 %"
found += f", but below 1 % only from {calm:g} on"
answer("remedy", found, holds=folds[0.1] < 1)

# %% [markdown]
# Whether fewer folds are better, and where Dice is best:

# %%
fewest = folds.idxmin()
found = f"fewest at λ = {fewest:g}, Dice {overlap[fewest]:.3f}"
found += f"; best Dice {overlap.max():.3f}"
answer("fewer", found, holds=overlap[fewest] >= overlap.max())
best = overlap.idxmax()
found = f"best of the grid at {best:g}: {overlap[best]:.4f}; at 1 {overlap[1]:.4f}"
answer("fig7", found, holds=0.5 <= best <= 2)
_, with_mse = grid_of("mse")
best = with_mse.idxmax()
found = f"best of the grid at {best:g}: {with_mse[best]:.4f}"
answer("fig7_mse", found, holds=0.01 <= best <= 0.05)

# %% [markdown]
# λ = 0 against λ = 1 differ by an interval over people, of the pairs of the grid:


# %%
from vxmlib.experiments import statistics, sweep


def sided(difference):
    """Whether it is above 0; None when its interval holds 0, which is no verdict."""
    low, high = difference["low"], difference["high"]
    return bool(low > 0) if low > 0 or high < 0 else None


def told(difference):
    text = statistics.interval_text(difference)
    undecided = sided(difference) is None
    return text + (": 0 is in it, so undecided" if undecided else "")


# %% [markdown]
# Each pair's mean over seeds:

# %%
lambda_pairs = sweep.by_pair(results_folder() / "lambda" / "malf")
ncc_runs = lambda_pairs.query(
    "image_loss == 'ncc' and int_steps == 0 and split == 'validation'"
)
one, none = (ncc_runs[ncc_runs["lam"] == lam] for lam in (1, 0))
gap = statistics.paired_difference(one, none)
found = f"at 0 {overlap[0]:.3f}, at 1 {overlap[1]:.3f}: {told(gap)}"
answer("fig7_zero", found, holds=sided(gap))

# %% [markdown]
# An integrated model folds next to nothing at any λ ([lesson 11](11_diffeomorphic.ipynb)). Are
# they all smooth enough, then?

# %%
flow_folds, flow_dice = grid_of("ncc", int_steps=7)
few = flow_folds.index[flow_folds < 0.1]
pd.DataFrame({"folding, %": flow_folds, "Dice": flow_dice}).T.round(3)

# %% [markdown]
# Of those that fold under a thousandth of the brain, the extremes:

# %%
found = f"integrated, λ from {few.min():g} to {few.max():g}: at most"
found += f" {flow_folds[few].max():.3f} % folded, Dice {flow_dice[few].min():.3f}"
found += f" to {flow_dice[few].max():.3f}"
answer("smooth", found, holds=bool(np.ptp(flow_dice[few]) < 0.01))

# %% [markdown]
# (claims-trainings)=
# ## Claims that need trainings
#
# On learning rate, capacity and the loss. Trainings of one length on slices of real people, three
# seeds of each, and the long ones in 3D, from the record of [lesson 9](08_real.ipynb):

# %%
lesson9 = measured("08_real")
trained = pd.DataFrame(lesson9["ablation"]).astype(float)
rates = ["all, a third of the rate", "all", "all, three times the rate"]
sizes = ["all, the smallest network", "all", "all, twice the filters"]
tried = trained.reindex(columns=[*rates, sizes[0], sizes[2]])
tried.loc[["dice", "dice_sd", "folding_percent_brain", "folding_sd"]].T.round(3)

# %% [markdown]
# By rate, and by size; a difference counts that is larger than the SDs over seeds:

# %%
noise = tried.loc["folding_sd"].max()
slow, usual, fast = tried.loc["folding_percent_brain", rates]
found = f"{slow:.2f}, {usual:.2f}, {fast:.2f} % of the brain"
found += f" at a third, once, three times the rate, SD {noise:.2f}"
answer("rate", found, holds=bool(usual - slow > noise and fast - usual > noise))
little, usual, much = tried.loc["folding_percent_brain", sizes]
found = f"{little:.2f}, {usual:.2f}, {much:.2f} % of the brain"
found += f" with the smallest, the usual, twice the filters, SD {noise:.2f}"
answer("capacity", found, holds=bool(little - usual > noise and usual - much > noise))
_, usual, much = tried.loc["dice", sizes]
spread = tried.loc["dice_sd", "all"]
found = f"Dice {usual:.3f} to {much:.3f}, SD over seeds {spread:.3f}"
answer("doubled", found, holds=much - usual > spread)

# %% [markdown]
# One long training in 3D, by its loss and by what the validation people say:

# %%
course = pd.DataFrame(lesson9["course"]["augmented"]).set_index("step")
loss, fold = course["loss"], course["val_folding_percent"]
found = f"from step {course.index[0]} to {course.index[-1]} it falls from"
found += f" {loss.iloc[0]:.3f} to {loss.iloc[-1]:.3f}, while folding goes from"
found += f" {fold.iloc[0]:.2f} to {fold.iloc[-1]:.2f} % of the brain"
answer("loss", found, holds=bool(fold.iloc[-1] < 1.5 * fold.iloc[0]))

# %% [markdown]
# (claims-dice)=
# ## Dice and labels
#
# One registration to test with: the two people, by a network of the usual λ that did not see them.

# %% tags=["hide-output"]
from vxmlib import warp

run = runs.run(settings, people)

# %% [markdown]
# Its displacement carries integer labels, by nearest neighbour:

# %%
u = run.register(a, b)
labels, target = people.labels(first), people.labels(second)
nearest = warp.warp_labels(labels, u)
rounded = np.rint(warp.warp_image(labels.astype("float32"), u)).astype(int)
new, invented = (len(np.setdiff1d(x, labels)) for x in (nearest, rounded))
found = f"{new} new numbers; linear interpolation of numbers invents {invented}"
answer("nearest", found, holds=new == 0)

# %% [markdown]
# One-hot maps, warped by nearest neighbour and linearly:

# %%
numbers = np.unique(labels)
maps = [labels == k for k in numbers]
hot = numbers[np.argmax([warp.warp_labels(m, u) for m in maps], axis=0)]
other = int((hot != nearest).sum())
answer("one_hot", f"{other} voxels differ from warping integers", holds=other > 0)
soft = [warp.warp_image(m.astype("float32"), u) for m in maps]
soft = numbers[np.argmax(soft, axis=0)]
scores = [metrics.mean_dice(x, target, people.structures) for x in (nearest, soft)]
found = f"Dice {scores[1]:.4f} with one-hot maps warped linearly"
found += f", {scores[0]:.4f} with nearest labels"
answer("mandatory", found, holds=scores[1] < scores[0] - 0.005)

# %% [markdown]
# What counts, and what the ± is over:

# %%
more = metrics.mean_dice(nearest, target, [0, *people.structures])
found = f"with it {more:.3f}, without {scores[0]:.3f}"
answer("background", found, holds=more > scores[0])
empty = float(vxm.py.utils.dice(labels, target, labels=[998])[0])
found = f"voxelmorph's function says {empty:.0f}; others NaN, or leave it out"
answer("empty", found, holds=empty == 1)
pooled, over_pairs = lesson5["dice_sd_pooled"], lesson5["dice_sd_pairs"]
found = f"± {over_pairs:.3f} over pairs, {pooled:.3f} over pairs and structures"
answer("spread", found, holds=pooled < 1.1 * over_pairs)

# %% [markdown]
# The same network, on the same two people, with intensities from 0 to 255:

# %%
with contextlib.redirect_stdout(io.StringIO()):  # Keras' progress bar
    bright = run.model.register(*(255 * image for image in batch))[0]
carried = warp.warp_labels(labels, bright)
score = metrics.mean_dice(carried, target, people.structures)
found = f"Dice {scores[0]:.3f} with intensities from 0 to 1"
found += f", {score:.3f} from 0 to 255"
answer("same_result", found, holds=abs(score - scores[0]) < 0.01)

# %% [markdown]
# (claims-jacobian)=
# ## The Jacobian
#
# A grid that is turned inside out everywhere, and the field of lesson 6:

# %%
mirrored = -2 * ramp[0]  # x becomes -x
inverted = metrics.folding(mirrored).percent
flattened = metrics.folding(-ramp[0]).percent  # x becomes 0
lesson6 = measured("05_jacobian")
found = f"a mirrored grid folds {inverted:.0f} %, a flattened one (det J = 0)"
found += f" {flattened:.0f} %; lesson 6 has"
found += f" {lesson6['folding_percent']:.3f} % of all voxels,"
found += f" {lesson6['folding_percent_brain']:.3f} % of the brain"
answer("folding", found, holds=inverted == flattened == 100)

# %% [markdown]
# An evaluator that adds 3 to the determinant before it counts
# ([lesson 15](definitions.ipynb)), on that same grid:

# %%
determinant = metrics.jacobian_determinant(mirrored)
counted = 100 * np.mean(np.clip(determinant + 3, 1e-9, 1e9) <= 0)
found = f"{counted:.0f} % of a grid that folds to {inverted:.0f} %"
found += ": it adds 3 and clips first"
answer("learn2reg", found, holds=counted == inverted)

# %% [markdown]
# What can be measured of the pair without a label:

# %%
inside = people.brain(second)
before, after = (
    metrics.local_ncc(x, b, mask=inside) for x in (a, warp.warp_image(a, u))
)
back = metrics.inverse_consistency(u, run.register(b, a), inside)
found = f"also: NCC in the brain {before:.2f} to {after:.2f}"
found += f", there and back {back:.2f} voxels"
answer("unlabelled", found, holds=not (after > before + 0.05 and back > 0))

# %% [markdown]
# What the second output of a model that integrates is, and what a colour map says:

# %%
lesson11 = measured("11_diffeomorphic")
found = f"the second has shape {last_shape}, a velocity; enlarged it gives"
found += f" Dice {lesson11['wrong_dice']:.3f}"
found += f", the displacement {lesson11['right_dice']:.3f}; a larger one 'folds'"
found += f" {lesson11['wrong_folding_percent']:.2f} % in place of"
found += f" {lesson11['right_folding_percent']:.2f} %"
answer("predict", found, holds=last_shape == people.shape)

import matplotlib.pyplot as plt

red, _, blue, _ = plt.cm.RdBu(0.0)
found = f"the low end is {'red' if red > blue else 'blue'}"
found += "; det J = 1, not 0, is no change"
answer("colours", found, holds=bool(blue > red))

# %% [markdown]
# (claims-files)=
# ## Files and arguments
#
# A compiled and trained model in the old format, read again:

# %%
model.save(folder / "vxm.h5")
again = vxm.networks.VxmDense.load(folder / "vxm.h5").get_weights()
equal = all((x == y).all() for x, y in zip(model.get_weights(), again, strict=True))
error = claims.error_of(lambda: tf.keras.models.load_model(folder / "vxm.h5"))
found = f"VxmDense.load: {'equal' if equal else 'other'} weights"
found += f"; Keras' load_model: {error.split(':')[0] or 'reads it'}"
answer("save", found, holds=equal)

# %% [markdown]
# The next cell does the same in Keras' own format, with a compiled model. Loading a model file from
# a stranger with `load_model` can run code that the file holds, so use weights only from people you
# trust.

# %%
model.save(folder / "vxm.keras")
load = tf.keras.models.load_model
errors = [
    claims.error_of(lambda told=told: load(folder / "vxm.keras", **told))
    for told in ({}, {"compile": False})
]
found = f"load_model: {errors[0].split(':')[0] or 'it reads'}"
found += f"; with compile=False: {errors[1].split(':')[0] or 'it reads'}"
answer("keras_format", found, holds=not errors[0])

# %% [markdown]
# As TensorFlow's SavedModel, and the call for several GPUs that the README still names:

# %% tags=["remove-stderr"]
error = claims.error_of(lambda: model.save(folder / "saved", save_format="tf"))
error = error or claims.error_of(lambda: load(folder / "saved"))
answer("saved_model", f"{error.split(':')[0] or 'it reads'}", holds=not error)
error = claims.error_of(lambda: tf.keras.utils.multi_gpu_model)
found = (
    f"{error.split(':')[0] or 'it is there'}; lesson 18 trains by MirroredStrategy"
)
answer("multi_gpu", found, holds=not error)

# %% [markdown]
# Reading a scan, and an argument:

# %%
import nibabel as nib

scan = str(folder / "scan.nii.gz")
nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), "float32"), np.eye(4)), scan)
error = claims.error_of(lambda: vxm.py.utils.load_volfile(scan))
found = f"with nibabel {nib.__version__}: {error.split(':')[0] or 'it reads'}"
answer("load_volfile", found, holds=not error)
error = claims.error_of(lambda: vxm.layers.SpatialTransformer(indexing="ij"))
answer("indexing", f"in 0.2: {error or 'it does'}", holds=not error)

# %% [markdown]
# What `voxelmorph==0.2` brings along when pip installs it:

# %%
from importlib import metadata

needs = metadata.requires("voxelmorph")
found = f"voxelmorph {metadata.version('voxelmorph')} asks for {', '.join(needs)}"
answer("install", found, holds=any("tensorflow" in name for name in needs))

# %% [markdown]
# Images with a batch axis and no channel axis, to the model and to a layer alone:

# %%
bare = [x[None] for x in (a, b)]
same = np.allclose(raw(bare)[0], raw(batch)[0])
error = claims.error_of(lambda: vxm.layers.SpatialTransformer()([bare[0], flat]))
found = f"the model: {'the same image' if same else 'another image'}"
found += f"; a layer alone: {error.split(':')[0] or 'it runs'}"
answer("channel", found, holds=bool(same))

# %% [markdown]
# (claims-papers)=
# ## The papers
#
# The authors' weights on the authors' scans ([lesson 8](07_weights.ipynb)), beside the table that
# was made with other scans:

# %%
rows = pd.DataFrame(committed_record("vxm2018/record.json")["metrics"]["rows"])
ours = rows.groupby("weights")["dice_mean"].mean()[["vm2_cc", "vm2_l2"]]
paper = pd.read_csv(claims.CLAIMS.with_name("paper_tables.csv"))
table1 = paper[paper["table"] == "I"].set_index("method")["dice"]
theirs = table1[["VoxelMorph (CC)", "VoxelMorph (MSE)"]]
found = f"CC {ours.iloc[0]:.3f} against {theirs.iloc[0]:.3f}"
found += f", MSE {ours.iloc[1]:.3f} against {theirs.iloc[1]:.3f}"
gap = np.abs(ours.to_numpy() - theirs.to_numpy()).max()
answer("weights", found + " (of scans to an atlas)", holds=bool(gap < 0.02))

# %% [markdown]
# Their gain over the affine alignment, and the number of voxels that percentages are of:

# %%
before = rows.loc[rows["weights"] == "identity", "dice_mean"].mean()
gains, their_gains = ours - before, theirs - table1["affine"]
found = f"CC {gains.iloc[0]:+.3f} against {their_gains.iloc[0]:+.3f}"
found += f", MSE {gains.iloc[1]:+.3f} against {their_gains.iloc[1]:+.3f}"
enough = gains.to_numpy() > their_gains.to_numpy() - 0.02
answer("weights_gain", found, holds=bool(enough.all()))
voxels = committed_record("vxm2018/record.json")["metrics"]["voxels"]
found = (
    f"a brain of the authors' own has {voxels['brain'] / 1e6:.1f} million, the grid"
)
found += f" {voxels['all'] / 1e6:.1f}; the table's percentages are of 5.2"
answer("denominator", found, holds=bool(abs(voxels["brain"] / 5.2e6 - 1) < 0.2))

# %% [markdown]
# The journal paper's data sets, as its section V-A lists them {cite}`balakrishnan2019tmi`, and
# the figures of its Table I:

# %%
sets = "OASIS ABIDE ADHD200 MCIC PPMI HABS GSP ADNI Buckner40".split()
found = f"its scans are of {', '.join(sets)}; Table I has Dice"
found += f" {theirs.min():.3f} to {theirs.max():.3f} on those"
answer("lpba40", found, holds="LPBA40" in sets)

# %% [markdown]
# VoxelMorph and SyN on the same pairs of real people ([lesson 9](08_real.ipynb)): the difference in
# Dice to the better of the settings of SyN, with its interval over people, and what folds.

# %%
compared = pd.DataFrame(lesson9["differences"]).astype(float)
real = pd.DataFrame(lesson9["methods"]).astype(float)
folded, of_syn = real.loc["folding_percent_brain"], lesson9["syn"]
plain, refined = compared["NCC minus SyN"], compared["instance minus SyN"]
search = "×".join(map(str, lesson9["syn_iterations"]))
syn = f"Dice against {of_syn} ({search} iterations, {folded[of_syn]:.2f} % folded)"
found = f"{syn}: {told(plain)}; {folded['ncc']:.2f} % folded"
above = sided(plain)
answer("order", found, holds=None if above is None else not above)
answer("above", found, holds=above)
found = f"{syn}: {told(refined)}; {folded['ncc-instance']:.2f} % folded"
answer("instance", found, holds=sided(refined))

# %% [markdown]
# How large are the gains, what does a second pass add, and does a fold mean failure?

# %%
dice, surface = real.loc["dice"], real.loc["surface_mm"]
gains = dice - dice["identity"]
found = f"{gains['ncc']:+.3f} with fifteen people to train with, {gains['ncc-wide']:+.3f}"
found += f" by a wider network, {gains['wide-twice']:+.3f} in two passes of that;"
found += f" {gains['ncc-instance']:+.3f} with instance optimisation"
answer("gain", found, holds=bool(gains[["ncc", "ncc-wide"]].max() > 0.15))
found = f"Dice {dice['ncc']:.3f}, {folded['ncc']:.2f} % folded, 23 structures at 2 mm"
found += f"; a wider network {dice['ncc-wide']:.3f}, {folded['ncc-wide']:.2f} %"
answer("aim", found, holds=bool(dice["ncc"] > 0.74 and folded["ncc"] < 1))
extra = compared["instance minus NCC"]
found = f"{told(extra)}, by a few large steps"
answer("instance_gain", found, holds=bool(extra["low"] < 0.012 < extra["high"]))
second = compared["twice minus wide"]
found = f"second pass of a wider network: {told(second)}; Dice on validation people after"
found += " one to four passes: " + "; ".join(
    f"{name} {', '.join(f'{value:.3f}' for value in after)}"
    for name, after in lesson9["passes"].items()
)
answer("cascade", found, holds=sided(second))
top = dice.idxmax()
found = f"{top} has the highest Dice, {dice[top]:.3f}, and surfaces within"
found += f" {surface[top]:.1f} mm, with {folded[top]:.2f} % folded; the closest"
found += f" surfaces are those of {surface.idxmin()}"
answer("any_fold", found, holds=bool(folded[top] == 0))

# %% [markdown]
# The other trainings:

# %%
losses, whole = compared["NCC minus MSE"], compared["integrated minus NCC"]
near = losses["low"] > -0.01 and losses["high"] < 0.01
answer("mse_ncc", told(losses), holds=bool(near))
found = f"NCC {folded['ncc']:.2f} %, MSE {folded['mse']:.2f} % of the brain"
answer("ncc_folds", found, holds=bool(folded["ncc"] > folded["mse"]))
found = f"Dice {told(whole)}, folding {folded['ncc-integrated']:.4f} %"
kept = whole["high"] > 0 and folded["ncc-integrated"] < 0.01
answer("diffeomorphic", found, holds=bool(kept))

# %% [markdown]
# Time, one network for all λ, and what fifteen people cannot tell:

# %%
seconds = real.loc["seconds", ["syn-cc", "ncc"]].tolist()
found = f"{seconds[1]:.2f} s a registration, SyN {seconds[0]:.0f} s"
found += " for both directions, on two cores"
answer("fast", found, holds=seconds[0] > 10 * seconds[1])
hyper = pd.read_csv(tables / "hyper.csv").query("cohort == 'malf'")
one = hyper.dropna(subset="as_long_dice").iloc[0]
found = f"at λ = {one['lam']:g} {one['dice_mean']:.3f}"
found += f"; alone {one['as_long_dice']:.3f}"
answer("hyper", found, holds=bool(one["as_long_dice"] - one["dice_mean"] < 0.01))
answer("few_scans", "there are fifteen people to train with", holds=None)

# %% [markdown]
# (claims-loops)=
# ## When to leave `fit()`
#
# From [lesson 12](15_steps.ipynb): the same step written out, and four wishes to `fit()`.

# %%
lesson12 = measured("15_steps")
apart = max(row["largest difference from fit"] for row in lesson12["bridge"].values())
answer("same_step", f"largest relative difference {apart:.0e}", holds=apart < 1e-5)
ran = [name for name, it in lesson12["inside_fit"].items() if it]
answer("needs_loop", f"inside fit() ran: {', '.join(ran)}", holds=len(ran) < 3)
dices = {name: row["dice_mean"] for name, row in lesson12["methods"].items()}
by_loop, by_fit = (dices[f"curriculum{way}"] for way in ("", ", fit()"))
found = f"a curriculum: Dice {by_loop:.4f} by a loop, {by_fit:.4f} by fit()"
answer("lam_in_fit", found, holds=abs(by_loop - by_fit) > 0.005)

# %% [markdown]
# Two contrasts of each person in step, through a `tf.data.Dataset` into `fit()`:

# %%
own, fitted = (dices[f"two contrasts, MI{way}"] for way in ("", ", fit()"))
found = f"fit() took it: Dice {fitted:.3f}; by a loop {own:.3f}"
found += f"; rounding alone makes {lesson12['rounding']:.3f}"
equal = fitted > dices["identity"] and abs(fitted - own) < 0.03
answer("modalities", found, holds=not equal)

# %% [markdown]
# What the bare loop says to a callback, and to an optimiser that scales the loss for 16 bits:

# %%
from vxmlib.methods import loops

terms = loops.compiled_terms(model)
scaled = tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.Adam())
lost = {
    what: claims.error_of(
        lambda more=more: loops.train(model, data, terms, steps=1, **more)
    )
    for what, more in {
        "a callback": {"callbacks": []},
        "a scaled loss": {"optimizer": scaled},
    }.items()
}
found = "; ".join(f"{k}: {v.split(':')[0] or 'taken'}" for k, v in lost.items())
answer("given_up", found, holds=all(lost.values()))

# %% [markdown]
# And did the other objectives pay, at equal steps? A gain counts that is well above rounding and
# folds no more:

# %%
fitted = lesson12["methods"]["fit()"]
tried = ["curriculum", "λ by a budget", "discriminator"]
rows = {name: lesson12["methods"][name] for name in tried}
better = [
    name
    for name, row in rows.items()
    if row["dice_mean"] > fitted["dice_mean"] + 0.02
    and row["folding_percent_brain"] <= fitted["folding_percent_brain"] + 0.01
]
found = f"fit() {fitted['dice_mean']:.3f}; " + ", ".join(
    f"{name} {row['dice_mean']:.3f} ({row['folding_percent_brain']:.2f} % folded)"
    for name, row in rows.items()
)
answer("gains", found, holds=bool(better))

# %% [markdown]
# ## The ledger

# %%
table = ledger.table()
left = {"text-align": "left", "vertical-align": "top", "padding": "0.2rem 0.5rem"}
table["lesson"] = table["lesson"].str[:2].astype(int)
table.drop(columns="section").style.set_properties(**left)

# %% tags=["remove-cell"]
from vxmlib.book import glue

counts = ledger.counts()
glue.glue(
    total=len(table),
    n_holds=counts["holds"],
    n_condition=counts["holds with a condition"],
    n_fails=counts["does not hold"],
    n_untested=counts["not testable here"],
)
recording.write_record(
    "claims",
    run,
    people,
    counts=counts,
    rows=table.to_dict("records"),
    markdown=ledger.markdown(),
)

# %% [markdown]
# Of {glue:text}`total` claims {glue:text}`n_holds` hold, {glue:text}`n_condition` hold with a
# condition, {glue:text}`n_fails` do not, and {glue:text}`n_untested` cannot be tested here. A
# claim of the list without an answer would have stopped this page.
#
# ## On your own
#
# **Exercise 1.** Which claims hold only with a condition, and which one?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for name, told in ledger.answers.items():
    if told["verdict"] == claims.CONDITION:
        claim = ledger.claims.loc[name]
        print("-", claim["claim"], claim["condition"])

# %% [markdown]
# ## What you take along
#
# - A claim without a number and a place where it was measured is an opinion.
# - Much of what fails, fails silently: a wrong tensor, a weight for another loss, a convention.
# - A difference smaller than its interval is no verdict on either side.
