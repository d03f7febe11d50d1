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
# # Train with labels
#
# | | |
# |---|---|
# | **You will** | train voxelmorph's semi-supervised model with label maps of some structures, and measure these structures and others on subjects without labels |
# | **You will learn** | what the Dice loss adds, what it costs in folding and in the other structures, and how to weigh it |
# | **You need** | [Compile and fit](03_fit.ipynb), [Dice](04_dice.ipynb) and [the Jacobian](05_jacobian.ipynb); a cohort with label maps |
# | **In → out** | images and label maps of the training subjects → a network that registers images alone |
# | **Not here** | segmentation: the network does not predict labels |
# | **Time** | 20 minutes |

# %% [markdown]
# VoxelMorph needs no labels to train. If the training subjects nevertheless have label maps, the
# loss can use them. The journal paper ([Balakrishnan et al.
# 2019](https://doi.org/10.1109/TMI.2019.2897538)) calls this auxiliary segmentation. The labels
# appear only in the loss, and the network still sees only the two images. A new pair is therefore
# registered without labels.
#
# Training labels rarely cover all structures of interest. We call the structures in the loss
# *observed* and the others *left out*, and measure both.

# %% [markdown]
# ## Set the parameters
#
# The parameter `label_weight` is the weight of the Dice loss. The slices have voxels of 2 mm, so
# that all training runs of this page together take about a minute and a half. The learning rate
# decreases to zero (`schedule`), so that the two runs compared below differ less by chance.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0
label_weight = 0.3
spacing = 2.0
learning_rate = 0.001
schedule = "cosine"

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
print(len(people.structures), "structures on a grid of", people.shape, "voxels")

# %% [markdown]
# ## See the result first
#
# The repository contains the results of short training runs on coronal slices of 15 real subjects.
# The network is the strided U-Net of the [2018 paper](https://doi.org/10.1109/CVPR.2018.00964),
# trained with NCC and λ = 1 for 1000 steps. The structures were divided into two groups:
#
# - The first group consists of white matter, cortex, lateral ventricle, thalamus, putamen and
#   hippocampus.
# - The second group consists of caudate, pallidum, amygdala, ventral DC and third ventricle.
#
# A structure with two sides has both sides in the same group. Most structures of the second group
# touch one of the first, so a change of one group can affect the other.
# The next cell reads the Dice of both groups for each validation pair.

# %%
from vxmlib.experiments.results import Comparison, results_folder

folder = results_folder()
real = Comparison(folder / "malf", folder.parent / "config" / "real.yaml")
grid = real.labels()
without = grid[grid["run"] == "without labels"]

# %% [markdown]
# The function `change` compares runs with labels to runs without labels, on the same pairs and
# structures. Its result has a 95 percent interval, from a bootstrap over the validation subjects.

# %%
from vxmlib.experiments.statistics import interval_text, paired_difference


def change(rows):
    same = without[without["group"].isin(rows["group"])]
    difference = paired_difference(rows, same)
    return {"Dice": f"{rows['dice'].mean():.3f}", "change": interval_text(difference)}


# %% [markdown]
# The table shows the runs that observed one group and left out the other. For the two smaller
# weights, each group was observed in three runs and left out in three others, so every structure is
# counted in both roles. For the largest weight, only the first group was observed. Its two rows
# average other structures than the rows above, so compare their changes, but not their Dice.

# %%
import pandas as pd

one_group = grid[grid["observed_groups"] == 1]
roles = {True: "observed", False: "left out"}
table = {
    (weight, roles[role]): change(rows)
    for (weight, role), rows in one_group.groupby(["weight", "observed"])
}
table = pd.DataFrame(table).T.rename_axis(["weight of Dice loss", "structures"])
table.sort_index(ascending=[True, False])

# %% tags=["remove-input"]
from IPython.display import Markdown

(least, middle, most), changes = sorted(one_group["weight"].unique()), table["change"]
Markdown(f"""
With the weight {least:g}, the Dice of observed structures rises by {changes[least, "observed"]},
and that of left-out structures changes by {changes[least, "left out"]}. The range in brackets is
the 95 percent interval over subjects.

With the weight {middle:g}, the Dice of left-out structures changes by
{changes[middle, "left out"]}. With the weight {most:g}, it changes by {changes[most, "left out"]},
and even the observed structures are not aligned measurably better than without labels:
{changes[most, "observed"]}.
""")

# %% [markdown]
# The next table shows the runs in which all structures were observed.

# %%
both_groups = grid[grid["observed_groups"] == 2]
all_seen = {weight: change(rows) for weight, rows in both_groups.groupby("weight")}
pd.DataFrame(all_seen).T.rename_axis("weight of Dice loss")

# %% [markdown]
# If all structures are observed, none of these changes can be distinguished from zero. The values
# are means over three seeds and the 20 ordered pairs of the five validation subjects, so the
# intervals are rough. The test subjects were not used.
#
# These results hold for our setting: slices at 2 mm, 15 training subjects and 1000 steps. With so
# few subjects, a network may overfit to their label maps, so labels may help more with more training
# subjects.

# %% [markdown]
# ## Add Dice to the loss
#
# The loss of a training pair becomes
#
# $$\text{image loss} + \lambda \cdot \text{Grad} + w \cdot \text{Dice loss},$$
#
# where $w$ is the weight of the labels. The labels of a structure are given as a map that is 1
# inside the structure and 0 elsewhere. The map of the moving subject is warped with *linear*
# interpolation, because nearest-neighbour interpolation has no gradient. `vxm.losses.Dice` is minus
# the mean Dice of the warped and the fixed maps, so it lies between −1 and 0.
#
# On this page, the structures of the first group above are observed, and all others are left out. If
# a cohort has other structures, every second one is observed.

# %%
names = {
    label: name.removeprefix("Left ").removeprefix("Right ")
    for label, name in people.structures.items()
}
first_group = {"Cerebral White Matter", "Cerebral Cortex", "Lateral Ventricle"}
first_group |= {"Thalamus", "Putamen", "Hippocampus"}
kinds = list(dict.fromkeys(names.values()))
chosen = [kind for kind in kinds if kind in first_group] or kinds[::2]
observed = [label for label, kind in names.items() if kind in chosen]
print(len(observed), "labels observed,", len(names) - len(observed), "left out")

# %% [markdown]
# ## Train voxelmorph's model
#
# `VxmDenseSemiSupervisedSeg` is a `VxmDense` with one more input and one more output. The argument
# `nb_labels` is the number of observed labels, where left and right count separately.

# %% tags=["hide-output"]
from vxmlib.backend import set_seed, tf, vxm
from vxmlib.models import FEATURES

set_seed(settings.seed)
options = {"nb_unet_features": FEATURES["vxm2"], "int_steps": 0}
model = vxm.networks.VxmDenseSemiSupervisedSeg(people.shape, len(observed), **options)

# %% [markdown]
# The next cell prints the shapes of its inputs and outputs, without the batch axis.

# %%
print("inputs: ", [tuple(each.shape[1:]) for each in model.inputs])
print("outputs:", [tuple(each.shape[1:]) for each in model.outputs])

# %% [markdown]
# The third input takes the maps of the moving subject. It leads only to the layer that warps them, and
# not to the U-Net. The third output is the warped maps. Both have half the resolution of the image (`seg_resolution=2`), to save memory. The model reduces
# the displacement to this grid and halves its values. (Along an axis of 80 voxels,
# the maps keep the voxels 0, 2, …, 78, but the reduced displacement is sampled evenly from 0 to 79.
# The positions differ by at most one voxel. The displacement is smooth, so this hardly matters.)
#
# The function `one_hot` makes the maps of one subject. It keeps every second voxel along each axis
# and compares it with each observed label.

# %%
import numpy as np


def one_hot(subject):
    labels = people.labels(subject)
    half = labels[(slice(None, None, 2),) * labels.ndim]
    return (half[..., None] == observed).astype("float32")


# %% [markdown]
# The generator yields inputs and targets for `fit()`. The target of the third output is the maps of
# the fixed subject.

# %%
zeros = np.zeros((1, *people.shape, people.ndim), "float32")


def pairs_with_maps(subjects):
    generator = np.random.default_rng(settings.seed)
    while True:
        pair = generator.choice(subjects, 2, replace=False)
        moving, fixed = (people.image(subject)[None, ..., None] for subject in pair)
        moving_maps, fixed_maps = (one_hot(subject)[None] for subject in pair)
        yield (moving, fixed, moving_maps), (fixed, zeros, fixed_maps)


# %% [markdown]
# The layer that rescales the displacement needs arrays of known shape, but Keras cannot know the
# shapes of what a Python generator yields. The next cell therefore declares the shapes in a `tf.data.Dataset`.

# %%
def specs(arrays):
    return tuple(tf.TensorSpec(array.shape, tf.float32) for array in arrays)


inputs, targets = next(pairs_with_maps(people.split["train"]))
data = tf.data.Dataset.from_generator(
    lambda: pairs_with_maps(people.split["train"]),
    output_signature=(specs(inputs), specs(targets)),
)

# %% [markdown]
# The model is compiled with three losses and three weights. The number of steps is a third of that
# of the two runs in the next section.

# %% tags=["remove-stderr"]
ncc, smooth, overlap = vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss, vxm.losses.Dice().loss
steps = max(1, settings.steps // 3)


def train(model, weights):
    adam = tf.keras.optimizers.Adam(settings.learning_rate)
    model.compile(adam, loss=[ncc, smooth, overlap], loss_weights=weights)
    return model.fit(data, steps_per_epoch=steps, verbose=0).history


history = train(model, [1, settings.lam, settings.label_weight])
print({name.removeprefix("vxm_dense_"): round(value[0], 3) for name, value in history.items()})

# %% [markdown]
# The last value is the Dice loss, as a mean over all training steps, including the first ones. It
# cannot be compared with the Dice of an evaluation, also because the maps are smaller and are
# blurred by linear interpolation. In addition, a structure that neither
# subject has counts as a Dice of 0.
#
# The method `register` needs only the two images.

# %% tags=["remove-output"]
test_pairs = runs.pairs_of(people, "test")
moving, fixed = (people.image(subject)[None, ..., None] for subject in test_pairs[0])
displacement = model.register(moving, fixed)[0]

# %% [markdown]
# The displacement has the size of the image.

# %%
print("displacement:", displacement.shape)

# %% [markdown]
# > **Note: The official script**
# >
# > voxelmorph's script for this model, `train_semisupervised_seg.py`, no longer runs, because it
# > uses two functions and one argument that were removed from TensorFlow:
# >
# > - `model.fit_generator` is now `model.fit`.
# > - `Adam(lr=...)` is now `Adam(learning_rate=...)`.
# > - `multi_gpu_model` was replaced by `tf.distribute`.
# >
# > Its generator, `vxm.generators.semisupervised`, returns maps of the listed labels only, and keeps
# > every second voxel along three axes. It therefore works for volumes, but not for slices. The
# > script weights MSE, Grad and Dice by `1`, `0.01` and `0.01`. These weights do not suit NCC, whose
# > values are much larger than those of MSE.

# %% [markdown]
# ## Train two runs with the book's functions
#
# This book's function `models.with_labels` adds the same layers and the same loss to a model of
# `models.build`, and works for the strided U-Net as well. The model with labels and the plain model
# share their weights. After training, only the plain model is saved, so registration needs no maps.
# `pairs.pair_dataset` adds the maps to its batches. Before training, it checks that some training
# subject has each observed label.
#
# A run uses both functions if `label_weight` is above 0. The setting `observed` lists the labels;
# without this setting, all are observed. The next
# cell trains two runs that differ only in the labels, or loads them if already trained.

# %% tags=["hide-output"]
from dataclasses import replace

plain = runs.run(replace(settings, label_weight=0.0), people)
labelled = runs.run(replace(settings, observed=observed), people)

# %% [markdown]
# The next cell measures Dice and folding on test pairs, before registration and with each network.
# Neither network uses the labels of the test subjects.

# %%
from vxmlib import cohorts, metrics

pairs = cohorts.ordered_pairs(people.split["test"], limit=settings.pairs)
methods = {"before": "identity", "without labels": plain.register}
methods["with labels"] = labelled.register
measured = {name: metrics.evaluate_pairs(people, pairs, each) for name, each in methods.items()}

# %% [markdown]
# The function `by_role` divides a table of measurements into observed and left-out structures.

# %%
def by_role(table):
    role = table["label"].isin(observed)
    return {"observed": table[role], "left out": table[~role]}


rows = {}
for name, each in measured.items():
    rows[name] = {role: part["dice"].mean() for role, part in by_role(each).items()}
    rows[name]["folded, % of the brain"] = metrics.summary(each)["folding_percent_brain"]
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# The next cell computes the change of Dice from labels, with its interval over the test subjects.

# %%
def gain(role):
    after, before = (by_role(measured[name])[role] for name in ("with labels", "without labels"))
    if after.empty or len({*after["moving"], *after["fixed"]}) < 3:
        return "needs at least three test subjects"
    return interval_text(paired_difference(after, before))


gains = {role: gain(role) for role in ("observed", "left out")}
pd.Series(gains, name="change of Dice").to_frame()

# %% tags=["remove-input"]
ours = f"""On the test subjects of this build, the change of Dice from labels is {gains["observed"]}
for observed structures and {gains["left out"]} for those left out. A change whose interval contains
zero cannot be distinguished from zero."""
if people.simulated:
    ours += """ The subjects are simulated: all of them are deformations of one template, so the
images already determine how to align the structures, and labels can add little. Labels of real
subjects contain what an expert saw, which may differ from what the image loss rewards. The result
on real subjects above is therefore the more important one."""
Markdown(ours)

# %% [markdown]
# The figure shows the Dice of each structure with both networks.

# %% mystnb={"image": {"alt": "One row for each structure, sorted by Dice. Two dots joined by a line show the Dice of the network without labels and of the network with labels. Names of left-out structures end in: left out."}, "figure": {"caption": "Dice of each structure on the test pairs of this build, for the networks trained without and with labels.", "name": "fig-labels-structures"}}
from vxmlib.book import figures


def dice_of(name):
    table = measured[name].groupby(["label", "structure"])["dice"].mean().reset_index()
    note = table["label"].isin(observed).map({True: "", False: " (left out)"})
    return table.assign(structure=table["structure"] + note)


few = ("without labels", "with labels")
figures.dots_by_structure(*map(dice_of, few), names=few);

# %% [markdown]
# ## Keep the image loss
#
# Could the labels replace the image loss? The next cell trains voxelmorph's model twice more
# without the image loss: once with this page's λ, and once with a small λ. The weight of the image
# loss is now 0, and that of the Dice loss is 1.
# Both models have the same number of steps as the first model, which used all three losses.

# %% tags=["remove-stderr"]
alone = {}
for smoothness in (settings.lam, 0.01):
    set_seed(settings.seed)
    each = vxm.networks.VxmDenseSemiSupervisedSeg(people.shape, len(observed), **options)
    train(each, [0, smoothness, 1])
    alone[f"Dice loss alone, λ = {smoothness:g}"] = each

# %% [markdown]
# Our function `models.register` also accepts voxelmorph's model. The table compares the models on
# the same test pairs.

# %% tags=["remove-stderr"]
from functools import partial

from vxmlib import models

rows = {"before registration": measured["before"]}
for name, each in {"all three losses": model, **alone}.items():
    rows[name] = metrics.evaluate_pairs(people, pairs, partial(models.register, each))
collapsed = {
    name: {role: part["dice"].mean() for role, part in by_role(each).items()}
    | {"folded, % of the brain": metrics.summary(each)["folding_percent_brain"]}
    for name, each in rows.items()
}
pd.DataFrame(collapsed).T.round(3)

# %% tags=["remove-input"]
(usual, first_alone, second_alone), before = list(collapsed.values())[1:], collapsed["before registration"]
folded = "folded, % of the brain"
Markdown(f"""
With the Dice loss alone and λ = {settings.lam:g}, the Dice of the observed structures rises from
{before["observed"]:.3f} to {first_alone["observed"]:.3f}, and that of the structures left out from
{before["left out"]:.3f} to {first_alone["left out"]:.3f}. With all three losses, the two values are
{usual["observed"]:.3f} and {usual["left out"]:.3f}.

With λ = 0.01, the Dice loss alone reaches {second_alone["observed"]:.3f} and
{second_alone["left out"]:.3f}, but {second_alone[folded]:.3f} % of the brain is folded, compared
with {usual[folded]:.3f} % with all three losses. Each network was trained once, for few steps.
""")

# %% [markdown]
# The Dice loss has a gradient only at the borders of the observed structures, where the maps change
# from 0 to 1. Elsewhere, only the smoothness loss acts. With a large λ, the displacement therefore
# stays small. With a small λ, the borders are moved, but the rest of the image is not aligned and
# the displacement may fold. A user of voxelmorph also reported that training on Dice alone fails
# ([#548](https://github.com/voxelmorph/voxelmorph/issues/548)).
#
# ## Choose the weight
#
# The weight affects observed structures, left-out structures and folding, so it should be chosen by
# all three on validation subjects. The next cells show the runs on real subjects that observed the
# first group, and compare them with the runs without labels.

# %%
first = grid[grid["observed_groups"].eq(1) & grid["run"].str.startswith("first")]
compared = pd.concat([without, first])
by_seed = compared.pivot_table(["dice", "folding_percent_brain"], ["weight", "seed"], "group")
columns = {"observed": ("dice", "first"), "left out": ("dice", "second")}
columns |= {"folding": ("folding_percent_brain", "first")}
by_seed = pd.DataFrame({name: by_seed[key] for name, key in columns.items()})

# %% [markdown]
# Each dot is a mean over seeds, with a bar for the SD over seeds.

# %% mystnb={"image": {"alt": "Three panels with one row for each of four weights of the Dice loss, from zero at the top to the largest. They show the Dice of the observed structures, the Dice of the structures left out and the percentage of the brain that is folded. A dashed line marks the network without labels."}, "figure": {"caption": "Dice of observed and left-out structures, and folding, for four weights of the Dice loss: mean and SD over seeds on validation pairs of real subjects. The dashed line marks training without labels.", "name": "fig-labels-weights"}}
seeds = by_seed.groupby("weight")
shown = seeds.mean().join(seeds.std().add_suffix(", SD"))
shown.index = [f"weight {weight:g}" for weight in shown.index]
panels = {name: f"{name}, SD" for name in columns}
axis = ["Dice, observed", "Dice, left out", "folded, % of brain"]
figures.dots_of_runs(shown, panels, axis, reference="weight 0");

# %% tags=["remove-input"]
folds = shown["folding"]
Markdown(f"""
Without labels, {folds["weight 0"]:.2f} % of the brain is folded, and with the largest weight
{folds.iloc[-1]:.2f} %. We would choose the smallest weight above zero here, but with caution: in the
first table, which contains both groups, only its interval for the observed structures lies above
zero, and only just. In the figure, left-out structures and folding hardly change with this weight.
""")

# %% tags=["remove-cell"]
from vxmlib.experiments import recording

recording.write_record(
    "12_labels",
    labelled,
    people,
    pairs=len(pairs),
    methods={
        name: {role: float(part["dice"].mean()) for role, part in by_role(each).items() if len(part)}
        for name, each in measured.items()
    },
)

# %% [markdown]
# > **Important: Check these three points in your own data**
# >
# > - Keep the labels of validation and test subjects out of training. The split by subject of [the
# >   data lesson](01_data.ipynb) ensures this.
# > - Report left-out structures separately. The mean Dice of observed structures alone does not show
# >   whether the network aligns anything else.
# > - If augmentation mirrors a head, its left structures lie on the right, so the labels of left
# >   and right have to be exchanged. Otherwise, the Dice loss asks for the wrong side.
# >   `pairs.pair_dataset` exchanges them.

# %% [markdown]
# ## Use labels in 3D
#
# The plan of the [comparison in 3D](08_real.ipynb), `config/real.yaml`, accepts
# `label_weight` and `observed` for any training run. The following entry trains the wide network with
# four observed labels, which are the left and the right thalamus (10, 49) and putamen (12, 51):
#
# ```yaml
# trainings:
#   wide-labels: {features: wide, lam: 2.0, label_weight: 0.3, observed: [10, 49, 12, 51]}
# ```
#
# The command `python -m tools.real train wide-labels` then trains it. Without `observed`, all
# structures of the cohort are observed.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** By how much does the Dice loss differ from minus the Dice of the metric, if the
# displacement is zero?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
one, other = people.split["test"][:2]
by_loss = overlap(one_hot(other)[None], tf.constant(one_hot(one)[None]))
seen = {label: people.structures[label] for label in observed}
by_metric = metrics.mean_dice(people.labels(one), people.labels(other), seen)
print(f"Dice loss {by_loss:.3f}, minus the metric {-by_metric:.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# By little. Without a displacement, nothing is blurred, so the difference comes only from the coarser
# grid of the maps. It would also differ if neither subject had one of the structures.
#
# </details>
#
# **Exercise 2.** A head is mirrored about its midplane. What is the Dice of the mirrored and the
# original label map, with and without exchanging the labels of left and right?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
from vxmlib import axes

labels = people.labels(one)
mirrored = axes.mirror_labels(labels, people.affine, people.structures)
# `mirror_labels` exchanges the sides, and a second exchange undoes this.
not_exchanged = axes.exchange_sides(mirrored, people.structures)
for name, each in {"exchanged": mirrored, "not exchanged": not_exchanged}.items():
    print(f"{name}: Dice {metrics.mean_dice(each, labels, people.structures):.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Without the exchange, only structures at the midplane overlap with themselves. A Dice loss on such
# pairs asks the network to move the left hippocampus to the right side.
#
# </details>
#
# ## Summary
#
# - Labels of the training subjects enter only the loss. New pairs are registered without labels.
# - `VxmDenseSemiSupervisedSeg` warps one map for each observed structure at half the resolution, and
#   `vxm.losses.Dice` compares the warped maps with those of the fixed subject.
# - Measure observed and left-out structures separately, and folding as well.
# - Choose the weight of the Dice loss on validation subjects, and keep the image loss.
#
# **Read on:** [Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538) describe training
# with auxiliary segmentation.
