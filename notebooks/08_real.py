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
# | **You will learn** | which columns a fair comparison needs, and how to read a difference with its interval |
# | **You need** | [Dice](04_dice.ipynb) and [the Jacobian](05_jacobian.ipynb) |
# | **In → out** | committed records and weights of long training runs → tables, figures and a live check |
# | **Not here** | the training runs themselves, which take an hour or more each; `make full` repeats them |
# | **Time** | 20 minutes |

# %% [markdown]
# ## Set the parameters
#
# The parameters name the build. The tables always show the real subjects of `malf`.

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
# Every method registered the same ordered pairs of ten test subjects at 2 mm. The networks are the
# strided U-Net of the 2018 paper, trained on fifteen other subjects of
# `malf` for 3000 steps, without any label. The "base
# network" has the paper's smaller size, and the "wide network" has twice the filters or more.

# %%
table = results.summary()
columns = {"dice": "Dice", "folding_percent_brain": "folded, %"}
columns |= {"surface_mm": "surface, mm", "seconds": "seconds"}
shown = table[list(columns)].rename(columns=columns, index=results.titles)
shown.round({"Dice": 3, "folded, %": 2, "surface, mm": 2, "seconds": 2})

# %% [markdown]
# *Dice* is the mean over 23 structures and then over pairs. *Folded* is the share of brain voxels
# whose Jacobian determinant is 0 or less. *Surface* is the 95th percentile of the
# [distance between the surfaces](../book/glossary.md#surface-distance) of a structure. *Seconds* are
# the median for one registration, from a run in which all methods took turns on two processor cores.
# The figure sets Dice against these seconds.

# %% mystnb={"image": {"alt": "Dice against seconds for a pair on a logarithmic axis, one marker for each method. The networks alone lie on the left below one second, instance optimisation and demons in the middle, and SyN on the right; instance optimisation is highest."}, "figure": {"caption": "Dice on the test pairs against the seconds for one registration. The dashed line is the affine alignment alone.", "name": "fig-real-seconds"}}
from vxmlib.book import figures

figures.dice_by_seconds(table.rename(index=results.titles), before=results.title("identity"));

# %% tags=["remove-cell"]
from IPython.display import Markdown

better = table.loc[["syn-cc", "syn-mattes"], "dice"].idxmax()
syn, best, reference = results.title(better).replace(",", " with"), table.loc["wide-instance"], table.loc[better]
gain, times = table["dice"] - table.loc["identity", "dice"], table["seconds"] / table.loc["ncc", "seconds"]

# %% tags=["remove-input"]
Markdown(f"""
**The networks alone are fast, but their overlap is lower than that of the best classical
setting.** The base network raises Dice by {gain["ncc"]:.3f} over the affine alignment, and the
wide network in two passes by {gain["wide-twice"]:.3f}. {syn} raises it by {gain[better]:.3f}, and
demons raise it by {gain["demons"]:.3f}.
""")

# %% tags=["remove-input"]
Markdown(f"""
{syn} takes {times[better]:.0f} times as long as the base network, and demons take
{times["demons"]:.0f} times as long.
""")

# %% [markdown]
# One run of SyN gives both directions of a pair, so its factor is half if both are needed.

# %% tags=["remove-input"]
Markdown(f"""
**Instance optimisation takes the networks past SyN in Dice, at the price of folds.** A few steps
of [instance optimisation](13_instance.ipynb) after the wide network reach a Dice of
{best["dice"]:.3f} in {best["seconds"]:.1f} seconds. They leave {best["folding_percent_brain"]:.2f}
% of the brain folded, and SyN leaves {reference["folding_percent_brain"]:.2f} %.
""")

# %% [markdown]
# **The comparison is not neutral.** The networks had to be trained first, for about an hour or more, and
# fifteen subjects are few. Each network was trained once, so the table has no spread over seeds. For
# SyN we quote the setting that is better on these test pairs, which favours SyN. Other classical tools,
# such as NiftyReg and greedy, are not in the table.

# %% [markdown]
# ## Know the subjects and the grid
#
# The data set `malf` has 30 real subjects: fifteen to train with, five to choose settings on
# (validation), and ten to report on (test). The grid has 80 × 96 × 80 voxels of 2 mm. Every scan was
# aligned affinely to the template ([the data](01_data.ipynb)), so "affine alignment only" is the
# score before registration. The labels were drawn by hand. The 23 structures lie inside the brain,
# and the parcels of the cortex are scored apart.

# %%
from vxmlib.sources import malf

print(malf.CREDIT)
print("Terms:", malf.LICENCE)

# %% [markdown]
# ## See how the networks were trained
#
# All networks are the strided U-Net of the
# [2018 paper](https://doi.org/10.1109/CVPR.2018.00964), built anew in `vxmlib.networks.strided`.
# It halves the resolution in its first convolution, so a training step on a processor is cheaper
# than one of voxelmorph's own `VxmDense`. The trainings used `compile()` and `fit()` as in
# [Compile and fit](03_fit.ipynb).

# %%
trainings = results.trainings().rename(index=results.titles, columns={"lam": "λ"})
trainings["hours"] = (trainings["seconds"] / 3600).round(1)
trainings[["λ", "hours", "weights"]]

# %% tags=["remove-input"]
base = results.training["ncc"]["parameters"]
Markdown(f"""
Each training had {trainings["steps"].iloc[0]} steps of one pair, drawn from the fifteen training
subjects. Adam began at a learning rate of {base["learning_rate"]:g}, which a cosine schedule
lowered to zero.
""")

# %% [markdown]
# Except for the MSE run, the image loss is NCC in windows of nine voxels a side. The hours are those
# of two cores that also did other work.

# %% [markdown]
# λ was not searched in 3D. The base network's λ = 1 and the integrated network's λ = 0.1 were chosen
# on slices of the validation subjects ([Choose λ](06_choose.ipynb)). The MSE run has the papers'
# λ = 0.01, although the slices favour a larger one. The wide network's λ = 2 comes from
# [the trainings on slices](ablations.ipynb#cross-size-and-smoothness).
#
# ### Augment fifteen subjects
#
# A network may memorise fifteen subjects. Therefore every training image is changed at random: left
# and right are exchanged in half of the draws, and the image is tilted, shifted and bent a little
# by a smooth diffeomorphism. No label is needed. The next cell draws three changed versions of one
# subject of this build.

# %%
import numpy as np

from vxmlib.experiments import runs

people = runs.load_cohort(settings)
image = people.image(people.split["train"][0])
generator = np.random.default_rng(seed)
augment = results.plan["ablation"]["runs"]["all"].augment
drawn = [augment(image, generator, people.affine) for _ in range(3)]

# %% [markdown]
# The figure shows the subject as it is and the three draws.

# %% mystnb={"image": {"alt": "One brain slice four times: the original and three random draws, slightly tilted, shifted, bent or mirrored; all look like brains."}, "figure": {"caption": "One subject and three draws of the augmentation that the trainings on slices used.", "name": "fig-real-augment"}}
figures.people([image, *drawn], ["original", "draw 1", "draw 2", "draw 3"], columns=4);

# %% [markdown]
# > **Warning: The 3D networks saw reversed arrays**
# >
# > The trainings in 3D exchanged left and right by reversing the array, which puts the head beside
# > its place. On slices this lowers Dice ([Ablations](ablations.ipynb#mirror-the-head-instead-of-reversing-the-array)).
# > Its cost in 3D has not been measured yet.

# %% [markdown]
# ## Watch the validation subjects during training
#
# The loss on training pairs cannot tell which network is better, because augmentation makes the
# training images harder. The figure therefore shows Dice and folding of the validation subjects.

# %%
names = {"ncc": "augmented", "ncc-none": "not augmented", "ncc-wide": "wide"}
courses = {word: results.history(name) for name, word in names.items()}
lines = {results.title(name): courses[word] for name, word in names.items()}

# %% mystnb={"image": {"alt": "Two panels against the training step for three networks. Dice of the validation subjects rises steeply and flattens; folding rises and levels off below one percent of the brain. The wide network begins with the lowest Dice and ends with the highest, and it folds least."}, "figure": {"caption": "Dice and folding of the validation subjects during training in 3D, one seed each. The wide network was augmented, too, and has λ = 2.", "name": "fig-real-training"}}
measures = ["val_dice", "val_folding_percent"]
figures.steps_of(lines, measures, ["Dice", "folding, % of brain"]);

# %% tags=["remove-input"]
end = {word: course.iloc[-1] for word, course in courses.items()}
Markdown(f"""
At the end, the loss is lower without augmentation ({end["not augmented"]["loss"]:.3f}) than with
it ({end["augmented"]["loss"]:.3f}). The validation subjects do not follow the loss: their Dice is
{end["augmented"]["val_dice"]:.3f} with augmentation and {end["not augmented"]["val_dice"]:.3f}
without.
""")

# %% [markdown]
# These values are means over 27 structures, with white matter and cortex as wholes, so they differ
# from the tables with 23.
#
# The validation subjects also decided how often a network registers a pair. A
# [second pass](13_instance.ipynb) registers what the first has left, with the same weights, and the
# two displacements are composed.

# %% tags=["remove-input"]
passes = results.passes()
second = {name: by_pass["dice"].diff()[2] for name, by_pass in passes.items()}
Markdown(f"""
A second pass changes the wide network's Dice by {second["ncc-wide"]:+.3f} and the base network's
by {second["ncc"]:+.3f}, so only the wide network has two passes in the table.
[Ablations](ablations.ipynb#repeat-the-passes) lists every pass.
""")

# %% [markdown]
# ## Compare methods pair by pair
#
# The spread over pairs is large, but all methods registered the same pairs, so their *differences*
# spread much less. Pairs share subjects and are not independent. The interval is therefore a
# bootstrap over subjects, as in [Choose λ](06_choose.ipynb).

# %%
better = table.loc[["syn-cc", "syn-mattes"], "dice"].idxmax()
asked = [("ncc", other) for other in ("identity", better, "demons", "mse", "ncc-none")]
asked += [("ncc-integrated", "ncc"), ("ncc-wide", "ncc"), ("wide-twice", "ncc-wide")]
asked += [("wide-twice", better), ("wide-twice", "demons"), ("ncc-instance", better)]
asked += [("wide-instance", better), ("wide-instance", "ncc-instance")]
compared = results.differences({pair: pair for pair in asked})

# %% [markdown]
# A difference is "undecided" when its interval holds 0: other subjects might reverse it.

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
The interval is over the ten test subjects. The lead of instance optimisation over SyN is small:
{statistics.interval_text(wide)}. The integrated network is compared at its own λ, after the same
number of steps. Its difference to the base network, {integrated["difference"]:+.3f}, is the price
of a field without folds here.
""")

# %% [markdown]
# Overlap of the 23 structures is only one measure. The next cell asks for the verdict against SyN on
# three measures. The cortical parcels are thin and differ between subjects, and their borders
# follow convention as much as the image.

# %%
words = {"dice": "Dice", "dice_cortex": "Dice, cortex", "surface_mm": "surface distance"}
pairs = {name: (name, better) for name in ("ncc", "wide-twice", "ncc-instance", "wide-instance")}
verdicts = {
    word: results.differences(pairs, measure).apply(statistics.verdict, axis=1)
    for measure, word in words.items()
}
pd.DataFrame(verdicts).rename(index=results.titles)

# %% [markdown]
# A lower surface distance is better, so "higher" is worse in the last column.

# %% tags=["remove-input"]
cortex, back = table["dice_cortex"], table["inverse_consistency_mm"]
Markdown(f"""
On the cortex the optimised networks lose their lead: SyN has {cortex[better]:.3f}, and the wide
network with optimisation has {cortex["wide-instance"]:.3f}.
""")

# %% tags=["remove-input"]
Markdown(f"""
A network registers each direction by itself. After two passes, a point that goes there and back
ends {back["wide-twice"]:.1f} mm from its start. With SyN it ends {back[better]:.2f} mm away,
because its two fields are inverse by construction.
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
# A reference that stops early flatters the method that is compared with it. The table's SyN with
# correlation makes no iterations at 2 mm, because one takes so long that 90 pairs were out of reach.
# The next cell lists the iterations at voxels of 8, 4 and 2 mm, with a longer search for a few pairs.

# %%
searches = results.plan["methods"] | results.plan["few"]
for name in ("syn-cc", "syn-cc-fine", "syn-mattes"):
    print(f"{results.title(name):32}", searches[name]["iterations"])

# %% [markdown]
# The longer search was measured on the pairs that were timed. The table shows all of these methods on
# these pairs.

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
Over these {len(fine)} ordered pairs the longer search changes the Dice of SyN with correlation by
{longer - few["syn-cc"]["dice"]:+.3f}, and it takes {fine["seconds"].mean() / 60:.1f} minutes for a
pair beside other work. It then matches mutual information ({few["syn-mattes"]["dice"]:.3f}).
""")

# %% [markdown]
# These are too few subjects for an interval.

# %% [markdown]
# ## Look at each structure
#
# A mean hides the structures that gain and those that lose. The figure compares SyN with the wide
# network and instance optimisation.

# %% mystnb={"image": {"alt": "Two dots joined by a line for each of 23 structures: Dice by SyN as an open dot and by the wide network with instance optimisation as a filled one."}, "figure": {"caption": "Dice of each structure, means over the test pairs: SyN at the better of its settings, and the wide network with instance optimisation.", "name": "fig-real-structures"}}
figures.dots_by_structure(
    results.by_structure(better),
    results.by_structure("wide-instance"),
    names=("SyN", "wide network + instance optimisation"),
);

# %% tags=["remove-input"]
both = [results.by_structure(name).set_index("structure")["dice"] for name in (better, "wide-instance")]
ahead = both[0].index[both[0] > both[1]]
Markdown(f"""
SyN has the higher mean in {len(ahead)} of {len(both[0])} structures: {", ".join(ahead)}.
""")

# %% [markdown]
# These are differences of means without intervals.
# %% [markdown]
# ## Compare a scan with its rescan
#
# The five validation subjects were scanned twice. Between two scans of one subject there is almost
# nothing to register, so a method that still moves a lot invents anatomy.

# %%
retest = results.retest().astype(float).rename(index=results.titles)
lengths = {"same person, mm": "same subject, mm", "other person, mm": "other subject, mm"}
lengths |= {"Dice, same person": "Dice, same subject"}
retest[list(lengths)].rename(columns=lengths).round(3)

# %% [markdown]
# Millimetres are the mean length of the displacement in the brain. Some of it is real, because each
# scan was aligned by itself.

# %% tags=["remove-input"]
moved = results.retest()["same person, mm"]
Markdown(f"""
The wide network in two passes moves a rescan by {moved["wide-twice"]:.2f} mm, SyN by
{moved[better]:.2f} mm, and the wide network with optimisation by {moved["wide-instance"]:.2f} mm.
""")

# %% [markdown]
# A network answers with the displacement that subjects usually need. Only a method that optimises
# this pair finds out that the pair needs almost none.

# %% tags=["remove-input"]
agree = results.retest()["Dice, same person"]
Markdown(f"""
The labels of both scans were drawn by hand, and they agree to a Dice of {agree["identity"]:.3f}
before any registration. There was little to gain, and a method that moves more can lose more.
""")

# %% [markdown]
# ## Register some pairs again with the committed weights
#
# The weights lie in `results/malf/weights`. `models.load` reads them, and `models.register` predicts a
# displacement. Where the scans are available, the next cell registers three test pairs in both
# directions and fails if a Dice differs from its record by `0.005` or more.

# %%
from vxmlib import cohorts
from vxmlib.experiments import trained

live = bool(malf.available() or download) and settings.profile != "smoke"
if live:
    malf.fetch_all()
    real = cohorts.load("malf", ndim=3, spacing=2.0)

# %% [markdown]
# `trained.again` loads a network, registers the pairs, and puts each Dice beside the recorded one.

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
# The journal paper's Table III also registers scan to scan, with 30 structures that FreeSurfer
# labelled ([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)). The next cell
# prints its Dice.

# %%
from importlib import resources

paper = pd.read_csv(resources.files("vxmlib") / "data" / "paper_tables.csv")
paper = paper[paper["table"] == "III"].set_index("method")["dice"]
pd.DataFrame({"Dice": paper, "gain": paper - paper["affine"]})

# %% [markdown]
# The levels of Dice cannot be compared, because the paper has other subjects and structures, automatic
# labels, voxels of 1 mm and thousands of training scans. The gain over the affine alignment can be
# compared loosely.

# %% tags=["remove-input"]
theirs = paper - paper["affine"]
Markdown(f"""
The single network with NCC gains {theirs["VoxelMorph (CC)"]:.3f} there and {gain["ncc"]:.3f} here.
The larger network gains {theirs["VoxelMorph (CC), doubled filters"]:.3f} there, which is as much
as SyN, and {gain["ncc-wide"]:.3f} here, which is less.
""")

# %% [markdown]
# Other data give other orders. In a comparison of fourteen classical tools, the ranking depended on
# the labels and the measure ([Klein et al. 2009](https://doi.org/10.1016/j.neuroimage.2008.12.037)).
# On the LUMIR challenge, with thousands of training scans, VoxelMorph is above SyN in Dice and
# folds more ([results of LUMIR](https://github.com/JHU-MedImage-Reg/LUMIR_L2R)). Learn2Reg ranks
# methods by overlap, distance, smoothness and time together
# ([Hering et al. 2023](https://doi.org/10.1109/TMI.2022.3213983)). At voxels of 1 mm, which was not
# run here, memory and time grow eightfold (`spacing: 1.0` in `config/real.yaml`).

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** In how many of the pairs does each network have a higher Dice than SyN?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
other = results.pairs(better)["dice"]
for name in ("ncc", "ncc-wide", "wide-twice", "ncc-instance", "wide-instance"):
    above = int((results.pairs(name)["dice"] > other).sum())
    print(f"{results.title(name):36} {above} of {len(other)}")

# %% [markdown]
# **Exercise 2.** Does the base network fold where SyN fails? Correlate, over pairs, the network's folds
# with the Dice of SyN.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
print(f"r = {np.corrcoef(results.pairs('ncc')['folds'], other)[0, 1]:+.2f}")

# %% [markdown]
# ## Summary
#
# - On these pairs the networks alone are much faster than SyN with mutual information but overlap
#   less. Instance optimisation reverses the order of Dice, and it leaves folds.
# - Register the same pairs with every method, and choose every setting on other subjects.
# - Report paired differences with an interval over subjects, and say "undecided" where it holds 0.
# - Time all methods in one run on one machine.
# - Report folding, surface distance and consistency beside overlap.
# - Let the classical tool finish its search, and try more than one setting.
#
# **Read on:** [Klein et al. 2009](https://doi.org/10.1016/j.neuroimage.2008.12.037) compare fourteen
# tools on four sets of labelled brains. [Refine one pair](13_instance.ipynb) shows how instance
# optimisation works.
