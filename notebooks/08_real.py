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
# # Register real brains in 3D
#
# | | |
# |---|---|
# | **You will** | compare VoxelMorph's networks with SyN and demons on the same pairs of real subjects |
# | **You will learn** | which measures a fair comparison needs, and how to interpret a difference with its confidence interval |
# | **You need** | [Dice](04_dice.ipynb) and [the Jacobian](05_jacobian.ipynb) |
# | **In → out** | committed records and weights of long training runs → tables, figures and some repeated registrations |
# | **Not here** | the training runs themselves, which take an hour or more each (`make full` repeats them) |
# | **Time** | 20 minutes |

# %% [markdown]
# ## Set the parameters
#
# The parameters select the data of the augmentation example on this page. They do not change the
# tables, which always show results for the real subjects of the data set `malf`, described below.
# With `download = True`, the page also downloads the scans of `malf` and repeats some
# registrations. The second cell checks the parameters and opens the committed records.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
download = False

# %%
from vxmlib.experiments.results import Comparison, results_folder
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
folder = results_folder()
results = Comparison(folder / "malf", folder.parent / "config" / "real.yaml")

# %% [markdown]
# ## Read the result first
#
# Every method registered all ordered pairs of ten test subjects at 2 mm. All networks are versions
# of the strided U-Net of the [2018 paper](https://doi.org/10.1109/CVPR.2018.00964), trained for
# 3000 steps on fifteen other subjects of `malf`. The training loss uses no labels; what labels add
# is measured in [Train with labels](12_labels.ipynb). The "base network" is the smaller network of
# the paper. The "wide network" has twice as many filters as the base network in most layers.
#
# Classical SyN was run with two similarity measures, local correlation and mutual information. A
# network with "two passes" registers the pair, and then registers the warped image to the fixed
# image. [Instance optimisation](../book/glossary.md#instance-optimisation) starts from the
# network's displacement and minimises the loss for one pair. The network with an "integrated
# velocity" predicts a velocity field and integrates it to obtain the displacement. The next table
# compares all methods.

# %%
table = results.summary()
columns = {"dice": "Dice", "folding_percent_brain": "folded, %"}
columns |= {"surface_mm": "surface, mm", "seconds": "seconds"}
shown = results.under_kinds(table)[list(columns)].rename(columns=columns, index=results.titles)
shown.style.format(precision=2, na_rep="").format("{:.3f}", subset="Dice", na_rep="")

# %% [markdown]
# *Dice* is averaged over 23 structures and then over pairs. *Folded* is the percentage of brain
# voxels whose Jacobian determinant is 0 or less. *Surface* is the 95th percentile of the [distance
# between the surfaces](../book/glossary.md#surface-distance) of a structure, averaged like Dice. A
# lower surface distance is better. The column *seconds* gives the median time of one registration,
# measured while all methods took turns on two CPU cores. The figure plots Dice against this time and
# against folding.

# %% mystnb={"image": {"alt": "Two panels plot Dice, with one marker for each method and one colour for each kind of method. Left, against seconds per pair on a logarithmic axis: the networks alone are below one second, instance optimisation and demons take longer, and SyN takes longest. Right, against folding: classical methods and the integrated network fold least, and instance optimisation folds more but has the highest Dice."}, "figure": {"caption": "Mean Dice of the test pairs against the time for one registration (left) and against folding (right). Colours stand for kinds of methods. The dashed line marks the Dice after affine alignment alone.", "name": "fig-real-cost"}}
from vxmlib.book import figures

kind_of = {results.title(name): results.kind(name) for name in table.index}
named = table.rename(index=results.titles)
figures.dice_by_cost(named, kind_of, before=results.title("identity"));

# %% tags=["remove-cell"]
from IPython.display import Markdown

better = table.loc[["syn-cc", "syn-mattes"], "dice"].idxmax()
syn, best, reference = results.title(better).replace(",", " with"), table.loc["wide-instance"], table.loc[better]
gain, times = table["dice"] - table.loc["identity", "dice"], table["seconds"] / table.loc["ncc", "seconds"]

# %% tags=["remove-input"]
Markdown(f"""
**The networks alone are fast, but their Dice is lower than that of the best classical method.**
Compared with affine alignment alone, the base network raises Dice by {gain["ncc"]:.3f}, and the
wide network with two passes raises it by {gain["wide-twice"]:.3f}. {syn} raises Dice by
{gain[better]:.3f}, and demons raise it by {gain["demons"]:.3f}.
""")

# %% tags=["remove-input"]
Markdown(f"""
For one registration, {syn} takes {times[better]:.0f} times as long as the base network, and demons
take {times["demons"]:.0f} times as long as this network.
""")

# %% [markdown]
# One run of SyN registers a pair in both directions, but one run of a network in only one
# direction. If both directions are needed, the ratio for SyN is therefore half as large.

# %% tags=["remove-input"]
Markdown(f"""
**With instance optimisation, the networks have a higher Dice than SyN, but they leave folds.** The
wide network followed by a few steps of [instance optimisation](13_instance.ipynb) reaches a Dice
of {best["dice"]:.3f} and takes {best["seconds"]:.1f} seconds per pair. This combination leaves
{best["folding_percent_brain"]:.2f} % of the brain folded, whereas {syn} leaves
{reference["folding_percent_brain"]:.2f} %.
""")

# %% [markdown]
# **The comparison has limits:**
#
# - The times do not include training, which took an hour or more for each network.
# - The networks were trained on only fifteen subjects.
# - Each network was trained once, so the table shows no spread over seeds.
# - The better SyN setting was chosen on these test pairs, which favours SyN.
# - Other classical tools, such as NiftyReg and greedy, were not run.

# %% [markdown]
# ## Know the subjects and the grid
#
# The data set `malf` has 30 real subjects. Fifteen are used for training, five for choosing
# settings (validation subjects), and ten for reporting results (test subjects). The grid has 80 ×
# 96 × 80 voxels of 2 mm. Every scan was aligned affinely to the template ([the
# data](01_data.ipynb)), so the row "affine alignment only" shows the measures before deformable
# registration.
#
# The labels were drawn by hand. Dice is averaged over 23 structures, which do not include cerebral
# white matter or the cortex. The labels divide the cortex into small regions, called parcels,
# whose Dice is reported separately. The next cell prints the source and the terms of use.

# %%
from vxmlib.sources import malf

print(malf.CREDIT)
print("Terms:", malf.LICENCE)

# %% [markdown]
# ## See how the networks were trained
#
# The strided U-Net of the 2018 paper is implemented in `vxmlib.networks.strided`. This network
# halves the resolution in its first convolution, so a training step on a CPU takes less time than
# with voxelmorph's own `VxmDense`. The training runs used `compile()` and `fit()` as in [Compile
# and fit](03_fit.ipynb). The next table lists the weight λ of the smoothness loss, the training
# time in hours and the number of network weights.

# %%
trainings = results.trainings().rename(index=results.titles, columns={"lam": "λ"})
trainings["hours"] = (trainings["seconds"] / 3600).round(1)
trainings[["λ", "hours", "weights"]]

# %% tags=["remove-input"]
base = results.training["ncc"]["parameters"]
Markdown(f"""
Each training run has {trainings["steps"].iloc[0]} steps. Each step uses one pair that is drawn at
random from the fifteen training subjects. The optimiser Adam starts with a learning rate of
{base["learning_rate"]:g}, which a cosine schedule lowers to zero.
""")

# %% [markdown]
# The image loss is NCC in windows of nine voxels per side, except in the run with MSE.
#
# The training times are only approximate, because the two CPU cores also ran other programs.

# %% [markdown]
# We did not search for the best λ in 3D. The base network (λ = 1) and the network with an
# integrated velocity (λ = 0.1) use values that were chosen on slices of the validation subjects
# ([Choose λ](06_choose.ipynb)). The MSE run uses the papers' λ = 0.01, although a larger value
# gave a higher Dice on the slices. The wide network's λ = 2 was chosen by [training runs on
# slices](ablations.ipynb#cross-size-and-smoothness).
#
# ### Augment fifteen subjects
#
# A network may memorise a training set of fifteen subjects. To reduce this risk, augmentation
# changes every training image at random and needs no labels. It exchanges left and right in half
# of the images, tilts and shifts each image, and deforms it slightly by a smooth diffeomorphism.
# The next cell draws three augmented versions of one image.

# %%
import numpy as np

from vxmlib.experiments import runs

people = runs.load_cohort(settings)
image = people.image(people.split["train"][0])
generator = np.random.default_rng(seed)
augment = results.plan["ablation"]["runs"]["all"].augment
drawn = [augment(image, generator, people.affine) for _ in range(3)]

# %% [markdown]
# The figure shows the original image and the three augmented versions.

# %% mystnb={"image": {"alt": "One brain slice four times: the original and three augmented versions, which are slightly tilted, shifted, bent or mirrored. All four look like brains."}, "figure": {"caption": "One subject, and three randomly augmented versions of it, as in the training runs on slices that mirror the head at random.", "name": "fig-real-augment"}}
figures.people([image, *drawn], ["original", "draw 1", "draw 2", "draw 3"], columns=4);

# %% [markdown]
# > **Warning: The compared networks were trained with reversed arrays**
# >
# > The figure shows the augmentation that mirrors the head about its midplane. The networks in the
# > comparison were trained with an earlier version, which exchanged left and right by reversing the
# > array. Reversing also shifts the head sideways. On slices, reversing gives a lower Dice than
# > mirroring ([Ablations](ablations.ipynb#mirror-the-head-instead-of-reversing-the-array)).

# %% tags=["remove-input"]
dice = {name: results.training[name]["metrics"]["validation_dice"] for name in results.training}
Markdown(f"""
The base network and the wide network were each trained once more, with two changes at once: the
head was mirrored about its midplane, and the convolutions used bfloat16. On the validation
subjects, Dice changes from {dice["ncc"]:.3f} to {dice["base"]:.3f} for the base network, and from
{dice["ncc-wide"]:.3f} to {dice["wide"]:.3f} for the wide one.
""")

# %% tags=["remove-input"]
folds = {name: results.training[name]["metrics"]["validation_folding_percent"] for name in dice}
Markdown(f"""
voxelmorph's own `VxmDense` was trained with the same changes, for as many steps, at λ = 1. Its first and
last layers work at full resolution, so a step takes longer. Its validation Dice is
{dice["dense"]:.3f} with {folds["dense"]:.2f} % of the brain folded. The new base network reaches
{dice["base"]:.3f} with {folds["base"]:.2f} %, and the new wide network, at λ = 2, {dice["wide"]:.3f}
with {folds["wide"]:.2f} %. The test subjects were not registered with these three networks.
""")

# %% [markdown]
# ## Watch the validation subjects during training
#
# The training loss does not show whether augmentation improves a network, because augmentation
# makes the training images harder to register. The figure therefore shows Dice and folding of the
# validation subjects.

# %% mystnb={"image": {"alt": "Two panels show Dice and folding of the validation subjects against the training step for three networks. Dice rises steeply and then flattens. Folding levels off below one percent. The wide network begins with the lowest Dice, but ends with the highest Dice and the least folding."}, "figure": {"caption": "Dice and folding of the validation subjects during training in 3D, one seed per network. The wide network was trained with augmentation and with λ = 2.", "name": "fig-real-training"}}
names = {"ncc": "augmented", "ncc-none": "not augmented", "ncc-wide": "wide"}
courses = {word: results.history(name) for name, word in names.items()}
lines = {results.title(name): courses[word] for name, word in names.items()}
measures = ["val_dice", "val_folding_percent"]
figures.steps_of(lines, measures, ["Dice", "folding, % of brain"]);

# %% tags=["remove-input"]
end = {word: course.iloc[-1] for word, course in courses.items()}
Markdown(f"""
The final training loss is {end["not augmented"]["loss"]:.3f} without augmentation and
{end["augmented"]["loss"]:.3f} with augmentation. The lower loss does not mean a higher Dice: the
validation Dice is {end["not augmented"]["val_dice"]:.3f} without augmentation and
{end["augmented"]["val_dice"]:.3f} with augmentation.
""")

# %% [markdown]
# This difference in Dice is small, and each network was trained once, so the difference may be due
# to the seed. The training runs on slices have several seeds and show a larger gain from
# augmentation ([Ablations](ablations.ipynb#compare-the-parts-of-the-augmentation)).
#
# The Dice values in the figure are means over 27 structures, which include white matter and
# cortex. They therefore differ from those in tables with 23 structures.
#
# The validation subjects were also used to choose the number of passes. In a [second
# pass](13_instance.ipynb), the same network registers the warped image to the fixed image, and the
# two displacements are composed.

# %% tags=["remove-input"]
passes = results.passes()
second = {name: by_pass["dice"].diff()[2] for name, by_pass in passes.items()}
Markdown(f"""
A second pass raises the validation Dice of the wide network by {second["ncc-wide"]:.3f} and that
of the base network by {second["ncc"]:.3f}. The gain is larger for the wide network, so only this
network was run with two passes on the test subjects. All passes are listed in
[Ablations](ablations.ipynb#repeat-the-passes).
""")

# %% [markdown]
# ## Compare methods pair by pair
#
# Dice varies widely between pairs, but all methods registered the same pairs, so the *differences*
# between methods usually vary less. Pairs that share a subject are not independent, so the
# confidence intervals are computed by a bootstrap over subjects, as in [Choose
# λ](06_choose.ipynb). The next cell computes differences and intervals.

# %%
better = table.loc[["syn-cc", "syn-mattes"], "dice"].idxmax()
asked = [("ncc", other) for other in ("identity", better, "demons", "mse", "ncc-none")]
asked += [("ncc-integrated", "ncc"), ("ncc-wide", "ncc"), ("wide-twice", "ncc-wide")]
asked += [("wide-twice", better), ("wide-twice", "demons"), ("ncc-instance", better)]
asked += [("wide-instance", better), ("wide-instance", "ncc-instance")]
compared = results.differences({pair: pair for pair in asked})

# %% [markdown]
# The next table gives each difference with its interval. A difference is called "undecided" if its
# interval contains 0, because its sign might be different for other subjects.

# %%
import pandas as pd

from vxmlib.experiments import statistics

signed = "{:+.3f}".format
shown = pd.DataFrame({"Dice is": compared.apply(statistics.verdict, axis=1)})
shown["difference"] = compared["difference"].map(signed)
shown["95 % interval"] = compared["low"].map(signed) + " to " + compared["high"].map(signed)
shown.rename(index=results.titles).rename_axis(["method", "compared with"])

# %% tags=["remove-input"]
integrated, wide = compared.loc[("ncc-integrated", "ncc")], compared.loc[("wide-instance", better)]
Markdown(f"""
The intervals reflect the choice of test subjects, not the choice of seed. The Dice of the wide
network with instance optimisation differs from that of SyN by only
{statistics.interval_text(wide)}.

The network with an integrated velocity has a lower Dice than the base network, by
{-integrated["difference"]:.3f}. These two networks also have different λ, so the difference may
not be due to the integration alone.
""")

# %% [markdown]
# Dice of the 23 structures is only one measure. The next cell therefore also compares the networks
# with SyN by the Dice of the cortical parcels and by the surface distance. The parcels are thin
# and differ between subjects, so they are harder to align than the 23 structures. The borders of
# the parcels depend on a labelling convention as much as on the image.

# %%
words = {"dice": "Dice", "dice_cortex": "Dice, cortex", "surface_mm": "surface distance"}
pairs = {name: (name, better) for name in ("ncc", "wide-twice", "ncc-instance", "wide-instance")}
verdicts = {
    word: results.differences(pairs, measure).apply(statistics.verdict, axis=1)
    for measure, word in words.items()
}
pd.DataFrame(verdicts).rename(index=results.titles)

# %% [markdown]
# Each entry compares a network with SyN. A lower surface distance is better, so "higher" means
# worse in the last column.

# %% tags=["remove-input"]
cortex, back = table["dice_cortex"], table["inverse_consistency_mm"]
Markdown(f"""
On the cortical parcels, the networks with instance optimisation have no higher Dice than SyN. The
Dice of the parcels is {cortex[better]:.3f} with SyN and {cortex["wide-instance"]:.3f} with the
wide network and instance optimisation.
""")

# %% tags=["remove-input"]
Markdown(f"""
A network registers each direction separately, so the two displacements need not be inverses of
each other. If the wide network with two passes maps a point forward and back, the point ends
{back["wide-twice"]:.1f} mm from its original position, on average over the brain. With SyN, this
mean distance is {back[better]:.2f} mm, because its two displacements are inverses by construction.
""")

# %% tags=["remove-cell"]
from vxmlib.experiments import recording

named = {
    "NCC minus identity": ("ncc", "identity"),
    "NCC minus SyN": ("ncc", better),
    "wide minus NCC": ("ncc-wide", "ncc"),
    "wide minus SyN": ("ncc-wide", better),
    "twice minus wide": ("wide-twice", "ncc-wide"),
    "twice minus SyN": ("wide-twice", better),
    "twice minus demons": ("wide-twice", "demons"),
    "wide, instance minus SyN": ("wide-instance", better),
    "wide, instance minus instance": ("wide-instance", "ncc-instance"),
    "instance minus SyN": ("ncc-instance", better),
    "NCC minus demons": ("ncc", "demons"),
    "instance minus demons": ("ncc-instance", "demons"),
    "instance minus NCC": ("ncc-instance", "ncc"),
    "NCC minus MSE": ("ncc", "mse"),
    "integrated minus NCC": ("ncc-integrated", "ncc"),
    "augmented minus not": ("ncc", "ncc-none"),
}

# %% tags=["remove-cell"]
kept = ["loss", "val_dice", "val_folding_percent"]
record = recording.make_record(
    "08_real",
    settings,
    people,
    seconds=float(table["seconds"].sum()),
    pairs=int(table["pairs"].iloc[0]),
    methods={name: row.to_dict() for name, row in table.astype(float).iterrows()},
    differences=results.differences(named).to_dict("index"),
    ablation=results.ablation().to_dict("index"),
    course={w: c[kept].reset_index().to_dict("list") for w, c in courses.items()},
    passes={name: by_pass["dice"].tolist() for name, by_pass in passes.items()},
    syn=better,
    syn_iterations=results.plan["methods"][better]["iterations"],
)
recording.keep_record("08_real", record)

# %% [markdown]
# ## Give SyN a longer search
#
# If a reference method stops its search too early, other methods look too good in comparison. In
# the first table, SyN with correlation makes no iterations at 2 mm, because these iterations are
# slow and registering 90 pairs would take too long. A longer search was therefore run for only a
# few pairs. The next cell lists the number of iterations of each search at voxels of 8, 4 and 2
# mm.

# %%
searches = results.plan["methods"] | results.plan["few"]
for name in ("syn-cc", "syn-cc-fine", "syn-mattes"):
    print(f"{results.title(name):32}", searches[name]["iterations"])

# %% [markdown]
# The next table compares the longer search with other methods on these few pairs. The times in the
# first table were measured on the same pairs.

# %%
fine = results.pairs("syn-cc-fine", "few")
others = ("syn-cc", "syn-mattes", "ncc", "wide-twice", "wide-instance")
by_method = {name: fine[["moving", "fixed"]].merge(results.pairs(name)) for name in others}
measured = ["dice", "surface_mm", "folding_percent_brain"]
few = {name: rows[measured].mean() for name, rows in ({"syn-cc-fine": fine} | by_method).items()}
pd.DataFrame(few).T.rename(index=results.titles, columns=columns).round(3)

# %% tags=["remove-input"]
longer = few["syn-cc-fine"]["dice"]
Markdown(f"""
On average over these {len(fine)} ordered pairs, the longer search raises the Dice of SyN with
correlation by {longer - few["syn-cc"]["dice"]:.3f} to {longer:.3f}. The Dice of SyN with mutual
information is {few["syn-mattes"]["dice"]:.3f}. The longer search takes
{fine["seconds"].mean() / 60:.1f} minutes per pair on a machine that also ran other programs.
""")

# %% [markdown]
# These pairs come from too few subjects for an interval, so the table cannot rank methods with
# similar Dice.

# %% [markdown]
# ## Look at each structure
#
# A mean over structures does not show which method aligns a given structure better. The figure
# therefore shows the Dice of each structure with SyN and with the wide network followed by
# instance optimisation.

# %% mystnb={"image": {"alt": "For each of 23 structures, an open dot for the Dice of SyN and a filled dot for that of the wide network with instance optimisation, joined by a line."}, "figure": {"caption": "Dice of each structure, averaged over the test pairs, for SyN with the better of its two settings and for the wide network followed by instance optimisation.", "name": "fig-real-structures"}}
figures.dots_by_structure(
    results.by_structure(better),
    results.by_structure("wide-instance"),
    names=("SyN", "wide network + instance optimisation"),
);

# %% tags=["remove-input"]
both = [results.by_structure(name).set_index("structure")["dice"] for name in (better, "wide-instance")]
ahead = both[0].index[both[0] > both[1]]
Markdown(f"""
SyN has a higher mean Dice than the wide network with instance optimisation in {len(ahead)} of
{len(both[0])} structures: {", ".join(ahead)}.
""")

# %% [markdown]
# No intervals were computed for single structures, so a small difference may be due to the choice
# of subjects.

# %% [markdown]
# ## Compare a scan with its rescan
#
# The five validation subjects were scanned twice. The anatomy is the same in both scans of a
# subject, so registration should change almost nothing. A large displacement would indicate
# anatomical differences that do not exist. The next table compares the displacement between two
# scans of one subject with that between scans of different subjects.

# %%
retest = results.retest().astype(float).rename(index=results.titles)
lengths = {"same person, mm": "same subject, mm", "other person, mm": "other subject, mm"}
lengths |= {"Dice, same person": "Dice, same subject"}
retest[list(lengths)].rename(columns=lengths).round(3)

# %% [markdown]
# The columns in millimetres give the mean length of the displacement in the brain. A small
# displacement is justified even between two scans of one subject, because each scan was aligned to
# the template separately.

# %% tags=["remove-input"]
moved = results.retest()["same person, mm"]
Markdown(f"""
On average, the wide network with two passes moves a rescan by {moved["wide-twice"]:.2f} mm, and
SyN moves it by {moved[better]:.2f} mm. The wide network with instance optimisation moves a rescan
by {moved["wide-instance"]:.2f} mm.
""")

# %% [markdown]
# Without instance optimisation, the network probably predicts too large a displacement for a
# rescan because it was trained only on pairs of different subjects. SyN and instance optimisation
# minimise a loss for the given pair, so they can find that a small displacement is sufficient.

# %% tags=["remove-input"]
agree = results.retest()["Dice, same person"]
Markdown(f"""
The labels of both scans were drawn by hand. The Dice between the two label maps is
{agree["identity"]:.3f} before deformable registration. No method raised this Dice noticeably, and
the two networks without instance optimisation lowered it most.
""")

# %% [markdown]
# ## Register some pairs again with the committed weights
#
# The trained weights are stored in `results/malf/weights`. The function `models.load` reads them,
# and `models.register` predicts a displacement. If the scans are available, the next cells
# register three test pairs in both directions. An error is raised if any Dice differs from the
# recorded value by `0.005` or more.

# %%
from vxmlib import cohorts
from vxmlib.experiments import trained

live = bool(malf.available() or download) and settings.profile != "smoke"
if live:
    malf.fetch_all()
    real = cohorts.load("malf", ndim=3, spacing=2.0)

# %% [markdown]
# The function `trained.again` loads a network, registers the pairs, and compares each Dice with
# the recorded value.

# %%
rows = {}
for name in ("ncc", "wide-twice") if live else ():
    again = trained.again(results, name, pairs=3, people=real)
    rows[results.title(name)] = again[["dice", "recorded"]].mean().tolist()
    rows[results.title(name)] += [again["difference"].abs().max()]
heads = ["Dice now", "Dice recorded", "largest difference"]
repeated = pd.DataFrame.from_dict(rows, orient="index", columns=heads)
assert (repeated["largest difference"] < 0.005).all()
repeated.round(4) if live else "not run: the scans are not on this machine"

# %% [markdown]
# ## Know what these numbers may be compared with
#
# Table III of the journal paper also reports results for pairs of scans ([Balakrishnan et al.
# 2019](https://doi.org/10.1109/TMI.2019.2897538)). The Dice in that table is a mean over 30
# structures, labelled by FreeSurfer. The next cell shows this Dice for each method and its gain
# over affine alignment.

# %%
from importlib import resources

paper = pd.read_csv(resources.files("vxmlib") / "data" / "paper_tables.csv")
paper = paper[paper["table"] == "III"].set_index("method")["dice"]
pd.DataFrame({"Dice": paper, "gain": paper - paper["affine"]})

# %% [markdown]
# The Dice values in the paper cannot be compared with those on this page, because the paper uses
# other subjects and structures, automatic labels, voxels of 1 mm and thousands of training scans.
# Only the gains over affine alignment can be compared, and only roughly.

# %% tags=["remove-input"]
theirs = paper - paper["affine"]
doubled = theirs["VoxelMorph (CC), doubled filters"]
Markdown(f"""
The next table compares these gains in Dice for similar methods.

| In the paper | Gain | On this page | Gain |
|---|---|---|---|
| VoxelMorph with NCC | {theirs["VoxelMorph (CC)"]:.3f} | base network | {gain["ncc"]:.3f} |
| VoxelMorph with NCC, doubled filters | {doubled:.3f} | wide network, one pass | {gain["ncc-wide"]:.3f} |
| SyN, correlation | {theirs["ANTs SyN (CC)"]:.3f} | {syn} | {gain[better]:.3f} |
""")

# %% [markdown]
# The ranking of methods depends on the data and the measure. In a comparison of fourteen classical
# tools, the ranking changed with the labels and the measure ([Klein et al.
# 2009](https://doi.org/10.1016/j.neuroimage.2008.12.037)). In the LUMIR challenge, which has
# thousands of training scans, VoxelMorph has a higher Dice than SyN, but also more folds ([results
# of LUMIR](https://github.com/JHU-MedImage-Reg/LUMIR_L2R)). The Learn2Reg challenge ranks methods
# by overlap, distance, smoothness and time together ([Hering et al.
# 2023](https://doi.org/10.1109/TMI.2022.3213983)).
#
# We did not run the comparison with voxels of 1 mm, because memory and time would grow about
# eightfold. To run it at 1 mm, set `spacing: 1.0` in `config/real.yaml`.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** In how many of the test pairs does each network have a higher Dice than SyN?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
other = results.pairs(better)["dice"]
for name in ("ncc", "ncc-wide", "wide-twice", "ncc-instance", "wide-instance"):
    above = int((results.pairs(name)["dice"] > other).sum())
    print(f"{results.title(name):36} {above} of {len(other)}")

# %% [markdown]
# **Exercise 2.** Does the base network cause more folds in pairs for which SyN has a low Dice?
# Compute the correlation, over pairs, between the network's number of folds and the Dice of SyN.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
print(f"r = {np.corrcoef(results.pairs('ncc')['folds'], other)[0, 1]:+.2f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The correlation is negative, so the network tends to cause more folds in pairs for which SyN has
# a lower Dice. Some pairs may be harder to register for both methods, but a correlation does not
# show the cause.
#
# </details>
#
# ## Summary
#
# - On these pairs, the networks alone are much faster than SyN with mutual information, but their
#   Dice is lower.
# - With instance optimisation, the networks have a higher Dice than SyN, but they leave folds.
# - Register the same pairs with every method, and choose every setting on other subjects.
# - Report paired differences with an interval over subjects, and call a difference "undecided" if
#   its interval contains 0.
# - Time all methods in one run on one machine.
# - Report folding, surface distance and inverse consistency in addition to Dice.
# - Give the classical method enough iterations, and try more than one setting.
#
# **Read on:** [Klein et al. 2009](https://doi.org/10.1016/j.neuroimage.2008.12.037) compare
# fourteen tools on four sets of labelled brains. Instance optimisation is explained in [Refine one
# pair](13_instance.ipynb).
