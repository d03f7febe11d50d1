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
# # Run the authors' 2018 weights
#
# | | |
# |---|---|
# | **You will** | rebuild the network of the 2018 paper, load the four weight files that the authors released, and register the authors' two released scans |
# | **You will learn** | how to load old weights safely, how to prove that a displacement is read correctly, and which published numbers a result may be compared with |
# | **You need** | [Dice](04_dice.ipynb) and [the Jacobian](05_jacobian.ipynb) |
# | **In → out** | two scans with voxels of 1 mm and four weight files → a table of Dice and folding |
# | **Not here** | training, because the authors have already trained these networks |
# | **Time** | 15 minutes |

# %% [markdown]
# A reproduction has two parts that can fail: the training and the evaluation. With the authors' own
# weights, we test the evaluation alone. If our evaluation finds no large gain in Dice with weights
# that are known to work, then the evaluation is wrong, and further training cannot correct this
# error.

# %% [markdown]
# ## Set the parameters
#
# This page always uses the authors' two scans. With `download = True`, the cells below download the
# scans and the weights (60 MB) from the authors' public repository and check the hash of each file.

# %% tags=["parameters"]
cohort = "mni"  # of the build; this page always shows the authors' two scans
profile = "quick"
seed = 0
root = None
download = False

# %%
from vxmlib.experiments.settings import read_parameters
from vxmlib.sources import vxm2018

settings = read_parameters(globals())
live = bool(vxm2018.available() or download) and settings.profile != "smoke"
print(vxm2018.CREDIT)
print("Terms:", vxm2018.LICENCE)

# %% [markdown]
# The results of this page are stored in the repository as a record, so the page can be built
# without the scans. The next cell reads the record.

# %%
import pandas as pd

from vxmlib.experiments.results import committed_record

record = committed_record("vxm2018/record.json")
recorded = record["metrics"]
results = pd.DataFrame(recorded["rows"])

# %% tags=["remove-input"]
from IPython.display import Markdown

again = "does not have the scans, so it skips the cells that need them."
if live:
    again = "has the scans, so it repeats every registration and compares Dice with the record."
Markdown(f"""
> **Note: Which numbers this page shows**
>
> Tables and figures show recorded results, computed on {record["created"][:10]} with a CPU
> ({record["device"].replace("CPU: ", "")}). This build {again}
""")

# %% [markdown]
# ## Look at the result first
#
# The authors released weights of two networks. Network 2 has more filters in its last layers than
# network 1, and one more convolution. Each network was trained once with local normalised
# cross-correlation (NCC) and once with the mean squared error (MSE), which gives four weight files.
#
# The two scans are called "test" and "subject 1", and each scan is registered to the other. Dice is
# averaged over the 30 structures that the authors evaluated in their journal paper ([Balakrishnan
# et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)). The next cell gives the methods readable
# names and averages the recorded measures over both directions.

# %%
names = {"identity": "before registration"}
names |= {"vm1_cc": "network 1, NCC", "vm1_l2": "network 1, MSE"}
names |= {"vm2_cc": "network 2, NCC", "vm2_l2": "network 2, MSE"}
means = results.groupby("weights")[["dice_mean", "folding_percent_brain"]].mean()
directions = results.pivot(index="weights", columns="moving", values="dice_mean")

# %% [markdown]
# The table shows the mean Dice over both directions, the Dice of each direction, and the mean
# percentage of the brain that is folded.

# %%
columns = {"dice_mean": "Dice", "test": "test to subject 1", "subject_1": "subject 1 to test"}
columns |= {"folding_percent_brain": "folded, % of the brain"}
table = means.join(directions).loc[list(names), list(columns)]
table.rename(index=names, columns=columns).round(3)

# %% tags=["remove-input"]
before, cc, l2 = (means.loc[name, "dice_mean"] for name in ("identity", "vm2_cc", "vm2_l2"))
Markdown(f"""
The mean Dice is {before:.3f} before registration. Network 2 trained with NCC raises it to {cc:.3f},
and network 2 trained with MSE raises it to {l2:.3f}. All four networks raise Dice in both
directions.
""")

# %% [markdown]
# The cost of these gains is folding: a few percent of the brain voxels have a Jacobian determinant
# of zero or less. The networks predict the displacement directly and do not integrate a
# [velocity](../book/glossary.md#velocity), so only the smoothness loss counteracts folds.

# %% [markdown]
# ## Rebuild the network
#
# The authors trained these networks with their code of 2018. The last release of voxelmorph for
# TensorFlow, version 0.2, contains newer code, whose class `VxmDense` builds a different network.
# The next cell builds both networks on a small grid. The size of the grid does not matter for this
# comparison, because a convolution has the same number of weights on every grid.

# %%
from vxmlib.backend import tf, vxm
from vxmlib.networks import cvpr2018

stock = vxm.networks.VxmDense((32, 32, 32), int_steps=0)
rebuilt = cvpr2018.build("vm2", (32, 32, 32))

# %% [markdown]
# For each network, the next table gives the number of convolutions, of layers that halve the size
# of the grid (strided convolutions or max-pooling), and of weights.

# %%
def kinds(model):
    conv = [x for x in model.layers if isinstance(x, tf.keras.layers.Conv3D)]
    pool = [x for x in model.layers if isinstance(x, tf.keras.layers.MaxPooling3D)]
    strided = sum(max(layer.strides) > 1 for layer in conv)
    return [len(conv), strided, len(pool), model.count_params()]


rows = ["convolutions", "strided convolutions", "max-pooling layers", "weights"]
pd.DataFrame({"network of 2018": kinds(rebuilt), "VxmDense": kinds(stock)}, index=rows)

# %% [markdown]
# The network of 2018 halves the size of the grid with strided convolutions, whereas `VxmDense` uses
# max-pooling. The numbers of filters differ as well, so the networks have different numbers of
# weights. `VxmDense` therefore cannot load the released files.
#
# The module `vxmlib.networks.cvpr2018` rebuilds the network from Keras layers, in the order given
# in Fig. 3 of [Balakrishnan et al. 2018](https://doi.org/10.1109/CVPR.2018.00964). The next cell
# lists the layers that have weights, with the grid size and the number of channels of each output.

# %%
for layer in rebuilt.layers:
    if layer.weights:
        print(f"{layer.name:11} {layer.output_shape[1:]}")

# %% [markdown]
# The network reduces each side length of the grid to a sixteenth and then restores the full length,
# so every side length must be divisible by 16. The last layer, `flow`, gives the displacement in
# voxels.

# %% [markdown]
# ## Load the weights in the order of the layers
#
# Keras numbers layers in the order of their creation, so a name such as `conv3d_245` does not say
# where the layer belongs in the network. Our function `cvpr2018.load` therefore ignores the names.
# It reads the weight arrays in the order of the file and checks that the shape of each array fits
# the rebuilt network.
#
# The function must reject the weights of another network, because a network with only some correct
# weights would run without an error but register badly. To test this, the next cell saves the
# weights of network 1, which network 2 must reject.

# %%
import tempfile
from pathlib import Path

from vxmlib.models import ModelFileError

file = Path(tempfile.mkdtemp()) / "network1.h5"
cvpr2018.build("vm1", (32, 32, 32)).save_weights(file)

# %% [markdown]
# The next cell tries to load this file as network 2 and prints the reason for the rejection.

# %%
try:
    cvpr2018.load("vm2_cc", path=file, shape=(32, 32, 32))
except ModelFileError as error:
    print(error.args[0].partition(": ")[2])

# %% [markdown]
# ## Register both ways
#
# The next two cells run only if the scans and the weight files are available. The first cell
# measures Dice in both directions before registration (the identity).

# %%
from functools import partial

from vxmlib import cohorts, metrics

if live:
    people = cohorts.load("vxm2018")
    pairs = cohorts.ordered_pairs(people.split["test"])
    tables = {"identity": metrics.evaluate_pairs(people, pairs, "identity")}

# %% [markdown]
# The second cell loads each of the four networks and registers the scans in both directions.

# %%
if live:
    for name in cvpr2018.WEIGHTS:
        method = partial(cvpr2018.register, cvpr2018.load(name))
        tables[name] = metrics.evaluate_pairs(people, pairs, method)

# %% tags=["remove-cell"]
measures = ["dice_mean", "dice_sd_pooled", "folds", "folding_percent"]
measures += ["folding_percent_brain", "sd_log_jacobian", "seconds"]
fresh = []
if live:
    fresh = [
        {"weights": name, "moving": m, "fixed": f}
        | {key: metrics.summary(part)[key] for key in measures}
        for name, scored in tables.items()
        for (m, f), part in scored.groupby(["moving", "fixed"], sort=False)
    ]

# %% tags=["remove-cell"]
from vxmlib.experiments import recording

if live:
    structures = [
        {"weights": name, "structure": structure, "dice": float(part.mean())}
        for name, scored in tables.items()
        for structure, part in scored.groupby("structure", sort=False)["dice"]
    ]
    voxels = {"all": int(people.image("test").size), "brain": int(people.brain("test").sum())}
    seconds = sum(row["seconds"] for row in fresh)
    found = {"rows": fresh, "structures": structures, "voxels": voxels}
    record = recording.make_record("07_weights", settings, people, seconds=seconds, **found)

# %% tags=["remove-input"]
seen = "This build did not run these cells, because it does not have the scans."
if live:
    apart = max(abs(pd.DataFrame(fresh)["dice_mean"] - results["dice_mean"]))
    seen = f"""This build ran these cells. They give {len(fresh)} mean Dice values, one for each
method and direction. The largest difference between these values and the record is {apart:.4f}."""
Markdown(seen)

# %% [markdown]
# ## Prove that the displacement is read correctly
#
# A displacement has three components, but the weight file does not state which component belongs to
# which axis. The code of 2018 had an option named "xy". In other software, such as
# `numpy.meshgrid`, this name means that the first two axes are exchanged. Only a test can show
# which order is used here, so the next cell reads one predicted displacement in three ways.

# %%
if live:
    moving, fixed = pairs[0]
    model = cvpr2018.load("vm2_cc")
    field = cvpr2018.register(model, people.image(moving), people.image(fixed))
    ways = {"identity": 0 * field, "ij": field, "negated": -field}
    ways["swapped"] = field[..., [1, 0, 2]]

# %% tags=["remove-cell"]
if live:
    record["metrics"]["readings"] = {
        way: metrics.evaluate_pairs(people, [pairs[0]], lambda *_, u=u: u)["dice"].mean()
        for way, u in ways.items()
    }
recording.keep_record("07_weights", record)

# %% [markdown]
# A wrong reading should give a lower Dice than the correct one. The next table therefore shows the
# recorded Dice of each reading.

# %%
labels = {"identity": "no displacement", "ij": "unchanged"}
labels |= {"swapped": "first two axes exchanged", "negated": "sign reversed"}
readings = pd.Series(recorded["readings"]).loc[list(labels)]
readings.rename(labels).to_frame("Dice").round(3)

# %% tags=["remove-input"]
gain = readings["ij"] - readings["identity"]
lost = 100 * (readings["ij"] - readings["swapped"]) / gain
Markdown(f"""
The unchanged displacement gives the highest Dice, so this reading is correct. With the sign
reversed, Dice falls below the value before registration. With the first two axes exchanged,
{lost:.0f} % of the gain in Dice is lost.
""")

# %% [markdown]
# Neither mistake produces an error message. Exchanging the axes is more dangerous than reversing
# the sign: Dice is still higher than before registration, so the result looks like that of a poor
# network.

# %% [markdown]
# ## Look at each structure
#
# A mean over structures can hide a structure whose Dice falls. The figure therefore shows the Dice
# of each structure before and after registration by network 2 trained with NCC, averaged over both
# directions.

# %% mystnb={"image": {"alt": "Each of thirty brain structures has two dots joined by a line. The open dot is Dice before registration, and the filled dot is Dice with the 2018 network. The filled dot lies to the right of the open dot in every row."}, "figure": {"caption": "Dice of each structure before registration, and after registration by network 2 trained with NCC (released weights), averaged over both directions.", "name": "fig-weights-structures"}}
from vxmlib.book import figures

by_weights = pd.DataFrame(recorded["structures"]).groupby("weights")
old, new = (by_weights.get_group(name) for name in ("identity", "vm2_cc"))
figures.dots_by_structure(old, new, names=("before registration", names["vm2_cc"]));

# %% tags=["remove-input"]
gains = new.set_index("structure")["dice"] - old.set_index("structure")["dice"]
rises = "all" if (gains > 0).all() else f"{(gains > 0).sum()} of"
Markdown(f"""
Dice rises in {rises} {len(gains)} structures. The gain is largest for the {gains.idxmax()}
({gains.max():+.2f}) and smallest for the {gains.idxmin()} ({gains.min():+.2f}).
""")

# %% [markdown]
# ## Name the denominator of a folding percentage
#
# The same number of folded voxels can give different percentages, because authors divide it by
# different numbers of voxels. The next cell reads the results of the journal paper from a file of
# the package. The cell then collects the number of folded voxels of network 2 trained with NCC,
# averaged over both directions, and three possible denominators.

# %%
from importlib import resources

paper = pd.read_csv(resources.files("vxmlib") / "data" / "paper_tables.csv")
folds = results.query("weights == 'vm2_cc'")["folds"].mean()
voxels = recorded["voxels"]
of = {"the whole grid": voxels["all"], "the brain": voxels["brain"]}
of["the number in the paper"] = 5_200_000

# %% [markdown]
# The next table gives the number of folded voxels as a percentage of each denominator.

# %%
shares = pd.DataFrame({"million voxels": of, "folded, %": of}).astype(float)
shares["million voxels"] /= 1e6
shares["folded, %"] = 100 * folds / shares["folded, %"]
shares.round(2)

# %% [markdown]
# The journal paper counts folds in non-background voxels and divides by 5.2 million "brain voxels"
# ([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)). The brain of a released
# scan has less than half that number of voxels. None of the three percentages is wrong, but
# percentages can be compared only if their denominators agree.
#
# The percentage in the row for the brain differs slightly from the folding in the first table of
# this page. The first table counts only the folds inside each fixed brain, whereas this table
# divides all folds in the image by the number of brain voxels of one scan.

# %% tags=["remove-input"]
ours = shares.loc["the number in the paper", "folded, %"]
theirs = paper.query("table == 'I' and method == 'VoxelMorph (CC)'")["folding_percent"].item()
Markdown(f"""
With the paper's denominator, the folded percentage of network 2 trained with NCC is {ours:.2f} %.
Table I of [Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538) gives {theirs:.3f} %
for the same loss. Two differences may explain why our value is larger: the weights are not the
same, and two scans differ more from each other than a scan differs from an atlas.
""")

# %% [markdown]
# ## Decide what may be compared
#
# The table compares the setting of this page with that of the journal paper.
#
# | | Table I of the paper | This page |
# |---|---|---|
# | scans | 250 test scans | two scans |
# | direction | scan to atlas | scan to scan |
# | weights | those of the journal paper | released in 2018 as `cvpr2018_*.h5` |
# | network code | the authors' code | rebuilt from Keras layers |
# | warping and Dice | the authors' code | `vxmlib` |
# | structures | 30 | the same 30 |
#
# Both evaluations start from an affine alignment, but the two alignments are not equally good. The
# gain over the affine alignment is therefore a better quantity to compare than Dice itself. The
# next cell takes Dice from two tables of the paper ([Balakrishnan et al.
# 2019](https://doi.org/10.1109/TMI.2019.2897538)) and from this page. In Table I, scans are
# registered to an atlas; in Table III, to other scans.

# %%
methods = ["affine", "VoxelMorph (CC)", "VoxelMorph (MSE)"]
dice = paper[paper["method"].isin(methods)].pivot(index="table", columns="method", values="dice")
dice = dice.loc[["I", "III"], methods].set_axis(["affine", "NCC", "MSE"], axis=1)
dice.loc["this page"] = means.loc[["identity", "vm2_cc", "vm2_l2"], "dice_mean"].to_numpy()

# %% [markdown]
# The following table also gives the gains over the affine alignment. The row for this page shows
# network 2, the larger one.

# %%
dice["gain, NCC"] = dice["NCC"] - dice["affine"]
dice["gain, MSE"] = dice["MSE"] - dice["affine"]
dice.index = ["paper, scan to atlas", "paper, scan to scan", "this page, scan to scan"]
dice.round(3)

# %% tags=["remove-input"]
pooled = results.query("weights != 'identity'")["dice_sd_pooled"].mean()
Markdown(f"""
The gain on this page is {cc - before:+.3f} with NCC and {l2 - before:+.3f} with MSE. Both gains are
larger than in the paper, but registration also starts from a lower Dice here, which leaves more
room for a gain.

The differences between our gains and the paper's are smaller than the pooled SD of Dice over
structures and pairs. This SD is {pooled:.2f} here and similar in the paper.
""")

# %% [markdown]
# The comparison supports one conclusion. With weights that are known to work, our evaluation finds
# a gain at least as large as the reported one. The comparison does not reproduce the values of the
# authors' tables, because two scans cannot represent the paper's 250 test scans and because the
# weights differ.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** How many weights does the last layer have? What would the network predict if all
# these weights were zero?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
flow = rebuilt.get_layer("flow")
print(flow.count_params(), "of", rebuilt.count_params(), "weights")

# %% [markdown]
# <details><summary>Answer</summary>
#
# With these weights at zero, the network predicts a displacement of zero everywhere, which is the
# identity. Training in voxelmorph begins close to the identity, because the initial weights of this
# layer are drawn with a very small SD.
#
# </details>
#
# **Exercise 2.** Which of the four networks has the lowest percentage of folded voxels, and what is
# its Dice?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
columns = {"dice_mean": "Dice", "folding_percent_brain": "folded, % of brain"}
trained = means.drop("identity").sort_values("folding_percent_brain")[list(columns)]
print(trained.rename(index=names, columns=columns).round(3).to_string())

# %% [markdown]
# ## Summary
#
# - Before you train, test the evaluation with weights that are known to work.
# - Weights belong to one architecture, so load them in layer order and compare every shape.
# - To test that a displacement is read correctly, exchange its axes and reverse its sign.
# - State the denominator of every folding percentage.
# - Compare Dice directly with a published value only if scans, direction and structures agree.
# - Otherwise compare the gains over affine alignment, and state what differs.
#
# **Read on:** [Balakrishnan et al. 2018](https://doi.org/10.1109/CVPR.2018.00964) describe the
# network. [Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538) report the tables
# with which this page compares its results.
