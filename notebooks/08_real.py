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
# # Register real brains in 3D: one table, the same pairs for everyone
#
# | | |
# |---|---|
# | **You will** | read how VoxelMorph was trained on fifteen real people, and compare it with classical tools on ten others |
# | **You will learn** | what augmentation gives, what to choose on validation people, and which columns a comparison needs |
# | **You need** | [lesson 5](04_dice.ipynb), [lesson 6](05_jacobian.ipynb) and [lesson 8](07_weights.ipynb) |
# | **In → out** | records and weights of long runs → tables with paired differences; live, some pairs again |
# | **Not here** | the trainings themselves: each takes an hour or more on a processor; `make full` repeats them |
# | **Time** | 25 minutes |

# %% [markdown]
# Everything so far was small enough to run while you read. This page has the size at which one
# reports: volumes, real people, manual labels. All its runs together took hours. Their records and
# weights are in the repository, each with its settings, commit and seconds; `config/real.yaml`
# states all of them, and `make full` makes them anew.

# %% tags=["parameters"]
cohort = "mni"  # of the build; the tables always show the real people of `malf`
profile = "quick"
seed = 0
root = None
download = False

# %%
from vxmlib.experiments import recording, runs
from vxmlib.sources import malf
from vxmlib.experiments.settings import read_parameters
from vxmlib.experiments.results import Comparison, results_folder

settings = read_parameters(globals())
live = bool(malf.available() or download) and settings.profile != "smoke"
folder = results_folder()
plan = folder.parent / "config" / "real.yaml"
results = Comparison(folder / "malf", plan)
print("trained: ", ", ".join(results.training))
print("measured:", ", ".join(results.test))
print("missing: ", ", ".join(results.missing) or "nothing")

# %% [markdown]
# ## Who, and on which grid
#
# `malf` has fifteen people to train with, five to choose on, and ten to report on. The grid has
# voxels of 2 mm, 80 × 96 × 80 of them. Everyone was aligned affinely to the template
# ([lesson 2](01_data.ipynb)), so "identity" means: after affine alignment. The ten make 90 ordered
# pairs. Labels were drawn by hand: 23 structures inside the brain, and the cortical parcels,
# which we keep apart.

# %%
print(malf.CREDIT)
print("Terms:", malf.LICENCE)

# %% [markdown]
# ## Make more people of fifteen
#
# The papers trained on thousands of scans {cite}`balakrishnan2019tmi`. With fifteen, a network
# may learn these fifteen. So every image that training draws is changed at random: mirrored or
# not, tilted a little, and bent by a smooth diffeomorphism. Here is one person of this build, as
# the network might see it, and with two to four times as much of everything:

# %%
usual = results.plan["ablation"]["runs"]["all"].augment
strong = results.plan["ablation"]["runs"]["all, strong"].augment
print(usual)

# %% [markdown]
# Two draws of each:

# %% mystnb={"image": {"alt": "One brain slice five times: as it is, two random draws of the mild changes, and two of the strong ones; all still look like brains."}, "figure": {"caption": "One person, two draws of the augmentation that was used, and two of the strong one.", "name": "fig-09-augment"}}
import numpy as np
import pandas as pd

from vxmlib.book import figures

generator = np.random.default_rng(seed)
people = runs.load_cohort(settings)
image = people.image(people.split["train"][0])
changes = (usual, usual, strong, strong)
drawn = [change(image, generator, people.affine) for change in changes]
titles = ["as it is", "used", "used", "strong", "strong"]
figures.people([image, *drawn], titles);

# %% [markdown]
# No label is needed for it. A head is mirrored by a reflection about its midplane, x = 0 in the
# scan's affine. Reversing the array (`image[::-1]`) is something else: it reflects about the middle
# of the grid, which is not the midplane here, so that a reversed head lies beside its place. If you
# mirror labels for a supervised loss, "Left" and "Right" have to change places in the label map
# (`vxmlib.axes.mirror_labels` does both).
#
# ## What each part of it gives
#
# A training in 3D takes an hour or more, too long to repeat with several seeds. So the parts are
# compared on the coronal slices of the same people: trainings of one length that differ in the
# augmentation alone, each from several seeds. Dice and folding are those of the validation people
# at the end, the loss that of the training people:

# %%
tried = results.ablation()
kinds = ["none", "flip", "affine", "bend", "all", "all, strong", "all, both ways"]
kinds += ["flip, the array reversed", "all, the array reversed"]
parts = tried.loc[kinds]
short = {"dice_sd": "± seeds", "folding_percent_brain": "folded, %"}
parts[["loss", "dice", *short]].rename(columns=short).round(4)

# %% tags=["remove-cell"]
from vxmlib.book import glue

gains = parts["dice"] - parts.loc["none", "dice"]
single = gains[["flip", "affine", "bend"]]
glue.glue(
    short_steps=int(parts["steps"].iloc[0]),
    seeds=int(parts["seeds"].iloc[0]),
    all_gain=gains["all"],
    strong_gain=gains["all, strong"],
    both_gain=gains["all, both ways"] - gains["all"],
    best_part=single.idxmax(),
    best_part_gain=single.max(),
    worst_part=single.idxmin(),
    worst_part_gain=single.min(),
    spread=parts["dice_sd"].max(),
    reversed_flip=gains["flip, the array reversed"] - gains["flip"],
    reversed_all=gains["all, the array reversed"] - gains["all"],
)

# %% [markdown]
# After {glue:text}`short_steps` steps the augmentation changes Dice by {glue:text}`all_gain:+.3f`,
# the strong one by {glue:text}`strong_gain:+.3f`. Of the parts alone {glue:text}`best_part` changes
# it by {glue:text}`best_part_gain:+.3f`, {glue:text}`worst_part` by
# {glue:text}`worst_part_gain:+.3f`. Both directions of each pair in one batch, in place of as many
# other pairs, change it by {glue:text}`both_gain:+.3f`. Over {glue:text}`seeds` seeds the SD is up
# to {glue:text}`spread:.3f`; read no difference that is smaller. In 3D all parts were used
# together, decided before this table was there.
#
# Reversing the array instead of mirroring the head changes Dice by
# {glue:text}`reversed_flip:+.3f` when it is the only augmentation, and by
# {glue:text}`reversed_all:+.3f` together with the other parts. The trainings in 3D on this page
# were made with the array reversed, before this was noticed. What that costs in 3D was not
# measured.
#
# ## What else was tried
#
# The learning rate and its course, the size of the network, more steps, and λ: again trainings on
# slices from several seeds, with all of the augmentation. Each changes one thing; only "all, λ of
# 2, the wide network" changes two.

# %%
others = tried.drop(index=kinds)
change = (others - tried.loc["all"])[["dice", "folding_percent_brain"]]
change = change.assign(loss=others["loss"], steps=others["steps"].astype(int))
change.rename(columns=short).round(4)

# %% [markdown]
# Dice and folding here are differences to the row "all" of the table before; Dice alone does not
# tell which setting is better, since most of what raises it also folds more. (The loss of another λ
# is another loss.) All runs:

# %% mystnb={"image": {"alt": "Two panels with one line for each training on slices: Dice of the validation people, and folding in percent of the brain, each a dot with a bar for the spread over seeds; a dashed line marks the run with all of the augmentation."}, "figure": {"caption": "All trainings on slices: means over seeds with their SD. Dashed: all of the augmentation, at the usual settings.", "name": "fig-09-tried"}}
figures.dots_of_runs(
    tried,
    {"dice": "dice_sd", "folding_percent_brain": "folding_sd"},
    ["Dice", "folding, % of brain"],
    reference="all",
);

# %% tags=["remove-cell"]
def against_all(name):
    """The change of one run, and whether the seeds of either spread as far."""
    apart = tried.loc[name, "dice"] - tried.loc["all", "dice"]
    spread = max(tried.loc[[name, "all"], "dice_sd"])
    folds = tried.loc[name, "folding_percent_brain"]
    verdict = "within the seeds' SD" if abs(apart) <= spread else "beyond the seeds' SD"
    return f"{apart:+.3f} ({verdict}), with {folds:.2f} % of the brain folded"


smooth, wide = tried.loc["all, λ of 2"], tried.loc["all, the wide network"]
both = tried.loc["all, λ of 2, the wide network"]
glue.glue(
    usual_folds=tried.loc["all", "folding_percent_brain"],
    slow=against_all("all, a third of the rate"),
    fast=against_all("all, three times the rate"),
    constant=against_all("all, constant rate"),
    smallest=against_all("all, the smallest network"),
    second=against_all("all, the second network"),
    doubled=against_all("all, twice the filters"),
    longer=against_all("all, twice the steps"),
    wide_first=against_all("all, the wide network"),
    smooth=against_all("all, λ of 2"),
    wide=against_all("all, λ of 2, the wide network"),
    lam_cost_usual=smooth["dice"] - tried.loc["all", "dice"],
    lam_cost_wide=both["dice"] - wide["dice"],
    folds_smooth=smooth["folding_percent_brain"],
    folds_wide_first=wide["folding_percent_brain"],
    folds_wide_smooth=both["folding_percent_brain"],
)

# %% [markdown]
# Changes of Dice, against {glue:text}`usual_folds:.2f` % folded with the usual settings:
#
# - a third of the learning rate: {glue:text}`slow`
# - three times the rate: {glue:text}`fast`
# - the same rate to the end, no cosine: {glue:text}`constant`
# - the smallest network: {glue:text}`smallest`
# - the 2018 paper's second network, with more at full size: {glue:text}`second`
# - twice the filters of that second network: {glue:text}`doubled`
# - twice the steps: {glue:text}`longer`
# - twice the filters of the usual network, four times in its last layer at half size (the wide
#   network): {glue:text}`wide_first`
# - twice the λ: {glue:text}`smooth`
# - the wide network and twice the λ: {glue:text}`wide`
#
# Size and λ were crossed, two by two. The wide network brings its Dice at either λ, and at the usual
# one it brings folds: {glue:text}`folds_wide_first:.2f` instead of {glue:text}`usual_folds:.2f` % of
# the brain. Twice the λ changes Dice by {glue:text}`lam_cost_usual:+.3f` with the usual network and
# by {glue:text}`lam_cost_wide:+.3f` with the wide one, and leaves {glue:text}`folds_smooth:.2f` and
# {glue:text}`folds_wide_smooth:.2f` % folded. So the two changes together have more Dice and fewer
# folds than the row "all"; either alone has only one of these.
#
# ## The long trainings
#
# Of the long trainings in 3D three are compared here: with augmentation, without, and the wide
# network at twice the λ:

# %%
names = {"ncc": "augmented", "ncc-none": "not augmented", "ncc-wide": "wide"}
long = {word: results.history(name) for name, word in names.items()}

# %% [markdown]
# What the validation people say during these trainings:

# %% mystnb={"image": {"alt": "Two panels against the training step for three long trainings. Dice of the validation people rises steeply and flattens; folding of the brain rises and levels off below one percent. The wide network begins with the lowest Dice and ends with the highest, and its folding stays near a third of a percent."}, "figure": {"caption": "Dice and folding of the validation people during the trainings in 3D; the wide network was augmented, too, and had twice the λ.", "name": "fig-09-training"}}
figures.steps_of(
    long, ["val_dice", "val_folding_percent"], ["Dice", "folding, % of brain"]
);

# %% tags=["remove-cell"]
trained = results.trainings()
glue.glue(
    long_steps=int(trained.loc["ncc", "steps"]),
    hours=trained.loc["ncc", "seconds"] / 3600,
    hours_wide=trained.loc["ncc-wide", "seconds"] / 3600,
    weights=int(trained.loc["ncc", "weights"]),
    weights_wide=int(trained.loc["ncc-wide", "weights"]),
    lam_ncc=trained.loc["ncc", "lam"],
    lam_mse=trained.loc["mse", "lam"],
    lam_integrated=trained.loc["ncc-integrated", "lam"],
    lam_wide=trained.loc["ncc-wide", "lam"],
    **{
        f"{key}_{part}": float(table[column].iloc[-1])
        for part, table in zip(("usual", "plain", "wide"), long.values(), strict=True)
        for key, column in (
            ("dice", "val_dice"),
            ("folds", "val_folding_percent"),
            ("loss", "loss"),
        )
    },
)

# %% [markdown]
# After {glue:text}`long_steps` steps the loss on the training people is {glue:text}`loss_usual:.3f`
# with augmentation and {glue:text}`loss_plain:.3f` without: the loss says which images were harder,
# not which network is better. On the validation people, which neither trained with, Dice is
# {glue:text}`dice_usual:.4f` and {glue:text}`dice_plain:.4f` (over 27 structures, with white matter
# and cortex as wholes; the tables below have 23), folding {glue:text}`folds_usual:.2f` and
# {glue:text}`folds_plain:.2f` % of the brain. The wide network ends at {glue:text}`dice_wide:.4f`,
# with {glue:text}`folds_wide:.2f` % folded. One seed of each.
#
# The usual network is the smaller one of the 2018 paper, built anew (`vxmlib.networks.strided`), with
# {glue:text}`weights` weights; the 2019 paper's has twice the filters at full size, our wide one
# {glue:text}`weights_wide` weights, most of them below full size. The convolutions of all of these
# stride from the first on, which makes a step on a processor cheaper than one of voxelmorph's own
# `VxmDense`. The usual training took {glue:text}`hours:.1f` hours on two cores that also had other
# work, that of the wide network {glue:text}`hours_wide:.1f`. λ was not searched in 3D. With NCC it
# is {glue:text}`lam_ncc:g`, with integration {glue:text}`lam_integrated:g`, as
# [lesson 10](06_choose.ipynb) chose them on the validation people's slices; with MSE it is the
# papers' {glue:text}`lam_mse:g`, where that lesson would take a little more; for the wide network
# {glue:text}`lam_wide:g`, by the slices above.
#
# ## The same network, again
#
# A trained network answers once, with what it learnt about pairs that were aligned affinely. It can
# be asked again: warp the moving image by the answer, register what is left with the same weights,
# and compose, $u \leftarrow u_2 + u \circ (\mathrm{id} + u_2)$, so that the moving image is still
# interpolated once. {cite:t}`zhao2019cascade` call this shared-weight cascading; it needs no
# training. Here is where each pass ends on the validation people, by the 23 structures that the
# tables below have, too:

# %%
passes = results.passes()
pd.concat(passes, names=["training"]).rename(columns=short).round(3)

# %% [markdown]
# Only the seconds are those of one pass, from the second on with a warp and a composition. As
# curves:

# %% mystnb={"image": {"alt": "Two panels against the number of passes, one curve each for the usual, the wide and the integrated network. Dice of the wide network rises at the second pass, stays at the third and falls a little at the fourth; that of the others hardly changes at the second and then falls. Folding falls somewhat for the usual and the wide network and leaves zero for the integrated one."}, "figure": {"caption": "Dice and folding of the validation people when one network registers a pair once, twice, three and four times.", "name": "fig-09-passes"}}
words = {"ncc": "usual", "ncc-wide": "wide", "ncc-integrated": "integrated"}
figures.steps_of(
    {words[name]: told for name, told in passes.items()},
    ["dice", "folding_percent_brain"],
    ["Dice", "folding, % of brain"],
    xlabel="passes",
);

# %% tags=["remove-cell"]
more = {words[name]: told["dice"].diff() for name, told in passes.items()}
folded = {words[name]: told["folding_percent_brain"] for name, told in passes.items()}
glue.glue(
    pass_wide_2=more["wide"][2],
    pass_wide_3=more["wide"][3],
    pass_wide_4=more["wide"][4],
    pass_usual_2=more["usual"][2],
    pass_usual_3=more["usual"][3],
    pass_integrated_2=more["integrated"][2],
    pass_folds_wide_1=folded["wide"][1],
    pass_folds_wide_2=folded["wide"][2],
    pass_folds_integrated_4=folded["integrated"][4],
)

# %% [markdown]
# The second pass gives the wide network {glue:text}`pass_wide_2:+.4f` Dice, the third
# {glue:text}`pass_wide_3:+.4f`, the fourth {glue:text}`pass_wide_4:+.4f`; folding is
# {glue:text}`pass_folds_wide_1:.3f` % of the brain after one pass and
# {glue:text}`pass_folds_wide_2:.3f` % after two. So two passes enter the table below.
#
# It is no rule. The second pass changes the usual network's Dice by {glue:text}`pass_usual_2:+.4f`,
# the third by {glue:text}`pass_usual_3:+.4f`; the two networks differ in λ and in size, so they
# cannot tell which of these matters. The second pass of the integrated one changes
# {glue:text}`pass_integrated_2:+.4f`, and its fourth leaves folds in
# {glue:text}`pass_folds_integrated_4:.3f` % of the brain, where a single pass has none. Nothing
# holds the passes together: a network was trained to make one displacement smooth, from where the
# affine alignment ends. More passes are no loop that converges.
#
# ## The test people, once
#
# Every method registers the same images of the same 90 pairs. SyN finds both directions at once;
# every other method registers each by itself. How long SyN and demons may look is ours to say:
# iterations at voxels of 8, 4 and 2 mm.

# %%
from vxmlib.methods import baselines

for name, told in results.plan["methods"].items():
    if told.get("baseline") == "syn":
        print(f"{name:10s} {told['metric']:6s} {told['iterations']}")
usual_demons = baselines.demons.__kwdefaults__
print("demons           ", list(usual_demons["iterations"]))

# %% [markdown]
# With correlation none are at 2 mm, where one takes so long that 90 pairs were out of reach; what
# that costs SyN is measured [further below](sec-09-fine). Now the table:

# %%
table = results.summary()
overlap = {"dice": "Dice", "dice_sd_pooled": "± pooled"}
overlap |= {"dice_sd_pairs": "± pairs", "surface_mm": "95 % surface, mm"}
table[list(overlap)].rename(columns=overlap).round(3)

# %% [markdown]
# Dice is the mean over 23 structures, then over pairs. *± pooled* is the spread over pairs and
# structures, the one that the papers print; *± pairs* is that of the pairs' means. The distance is
# the 95th percentile between the surfaces of a structure, in millimetres.
#
# The cortical parcels are a harder test: thin, folded otherwise in everyone, and bounded by
# convention as much as by what an image shows. So they have a table of their own:

# %%
parcels = pd.DataFrame(
    {
        name: results.pairs(name)["dice_cortex"].agg(["mean", "std"])
        for name in results.test
    }
).T.set_axis(["Dice, cortex", "± pairs"], axis=1)
nothing = parcels.loc["identity", "Dice, cortex"]
parcels.assign(gain=parcels["Dice, cortex"] - nothing).round(3)

# %% [markdown]
# Folding and smoothness, of the same displacements:

# %%
regular = {"folds": "folds", "folding_percent": "% of all"}
regular |= {"folding_percent_brain": "% of brain", "sd_log_jacobian": "SD log det J"}
regular |= {"inverse_consistency_mm": "there and back, mm"}
table[list(regular)].rename(columns=regular).round(3)

# %% [markdown]
# Folds are voxels with a determinant of 0 or less, a mean over pairs; their percentage needs its
# denominator. The SD of log det J leaves them out. The last column is how far a point ends from
# where it began when it goes there by one field and back by the other. SyN's two fields are made
# as inverses of each other, so for SyN it is next to nothing by construction.

# %%
cost = {"seconds": "seconds", "training_hours": "hours of training"}
table[list(cost)].rename(columns=cost).round(2)

# %% [markdown]
# Seconds are those of one registration, from a run of its own in which all methods registered the
# same pairs by turns, on two cores. SyN gives the other direction along with it, so for both the
# factor is half. Hours are those of a machine that did other work besides.

# %% mystnb={"image": {"alt": "Dice against seconds for a pair, on a logarithmic axis, one labelled marker a method. The networks lie at the left, below a second; instance optimisation and demons in between; SyN at the right."}, "figure": {"caption": "What a second buys: Dice on the test pairs against seconds for one registration.", "name": "fig-09-seconds"}}
figures.dice_by_seconds(table);

# %% tags=["remove-cell"]
seconds = table["seconds"]
times, share = seconds / seconds["ncc"], 100 * seconds["ncc-instance"] / seconds
gains = table["dice"] - table.loc["identity", "dice"]
glue.glue(
    gain=gains["ncc"],
    folding=table.loc["ncc", "folding_percent_brain"],
    gain_wide=gains["ncc-wide"],
    folding_wide=table.loc["ncc-wide", "folding_percent_brain"],
    gain_twice=gains["wide-twice"],
    folding_twice=table.loc["wide-twice", "folding_percent_brain"],
    times_twice=seconds["syn-mattes"] / seconds["wide-twice"],
    times_cc=times["syn-cc"],
    times_mattes=times["syn-mattes"],
    times_demons=times["demons"],
    share_cc=share["syn-cc"],
    share_mattes=share["syn-mattes"],
    share_demons=share["demons"],
)

# %% [markdown]
# The usual network gains {glue:text}`gain:.3f` over the affine alignment, with
# {glue:text}`folding:.2f` % of the brain folded; the wide one {glue:text}`gain_wide:.3f`, with
# {glue:text}`folding_wide:.2f` %, and in two passes {glue:text}`gain_twice:.3f`, with
# {glue:text}`folding_twice:.2f` %. With correlation SyN takes {glue:text}`times_cc:.0f` times as
# long as the usual network, with mutual information {glue:text}`times_mattes:.0f` times, demons
# {glue:text}`times_demons:.0f` times; two passes of the wide network go
# {glue:text}`times_twice:.0f` times into SyN's mutual information. The usual network and instance
# optimisation together take {glue:text}`share_cc:.0f`, {glue:text}`share_mattes:.0f` and
# {glue:text}`share_demons:.0f` % of the time of SyN's two settings and of demons.
#
# ## Differences, paired and with an interval
#
# Two means with a large ± each can still differ surely, because all methods saw the same pairs.
# Pairs share people, so people are drawn, not pairs ([lesson 10](06_choose.ipynb)). SyN is the one
# of the two settings that has the higher Dice on these very pairs, which favours it.

# %%
better = table.loc[["syn-cc", "syn-mattes"], "dice"].idxmax()
compared = results.differences(
    {
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
)
print("SyN:", better)
compared[["difference", "low", "high"]].round(4)

# %% tags=["remove-cell"]
keys = ["loss", "val_dice", "val_folding_percent"]
course = {
    word: told[keys].reset_index().to_dict("list") for word, told in long.items()
}
record = recording.make_record(
    "08_real",
    settings,
    people,
    seconds=float(table["seconds"].sum()),
    pairs=int(table["pairs"].iloc[0]),
    methods={name: row.to_dict() for name, row in table.astype(float).iterrows()},
    differences=compared.to_dict("index"),
    ablation=tried.to_dict("index"),
    course=course,
    passes={name: told["dice"].tolist() for name, told in passes.items()},
    syn=better,
    syn_iterations=results.plan["methods"][better]["iterations"],
)
recording.keep_record("08_real", record)

# %% [markdown]
# An interval that does not hold 0 is a difference larger than other people, drawn from these ten,
# would make it. Seeds are not in it: each network was trained once.

# %% tags=["remove-cell"]
from vxmlib.experiments import statistics


def said(what, method):
    folded = table.loc[method, "folding_percent_brain"]
    text = statistics.interval_text(compared.loc[what])
    return f"{text}, with {folded:.2f} % of the brain folded"


on_cortex = results.differences(
    {"alone": ("ncc", better), "refined": ("ncc-instance", better)}, "dice_cortex"
)
second = table.loc["wide-twice"] - table.loc["ncc-wide"]
glue.glue(
    cortex_alone=statistics.interval_text(on_cortex.loc["alone"]),
    cortex_refined=statistics.interval_text(on_cortex.loc["refined"]),
    to_syn=said("NCC minus SyN", "ncc"),
    refined_to_syn=said("instance minus SyN", "ncc-instance"),
    wide_to_usual=said("wide minus NCC", "ncc-wide"),
    wide_to_syn=statistics.interval_text(compared.loc["wide minus SyN"]),
    twice_to_wide=said("twice minus wide", "wide-twice"),
    twice_to_syn=statistics.interval_text(compared.loc["twice minus SyN"]),
    twice_to_demons=statistics.interval_text(compared.loc["twice minus demons"]),
    twice_surface=second["surface_mm"],
    twice_back=second["inverse_consistency_mm"],
    both_to_syn=said("wide, instance minus SyN", "wide-instance"),
    both_to_refined=statistics.interval_text(compared.loc["wide, instance minus instance"]),
    to_demons=statistics.interval_text(compared.loc["NCC minus demons"]),
    refined_to_demons=statistics.interval_text(compared.loc["instance minus demons"]),
    by_mse=said("NCC minus MSE", "mse"),
    by_flow=said("integrated minus NCC", "ncc-integrated"),
)

# %% [markdown]
# In words:
#
# - The usual network alone, less this SyN: {glue:text}`to_syn`.
# - The usual network with instance optimisation, less SyN: {glue:text}`refined_to_syn`.
# - The wide network, less the usual: {glue:text}`wide_to_usual`; less SyN:
#   {glue:text}`wide_to_syn`.
# - Two passes of the wide network, less one: {glue:text}`twice_to_wide`; less SyN:
#   {glue:text}`twice_to_syn`; less demons: {glue:text}`twice_to_demons`. The second pass changes
#   the surface distance by {glue:text}`twice_surface:+.2f` mm, and the error of going there and
#   back by {glue:text}`twice_back:+.2f` mm: closer to the fixed image, further from a map that can
#   be walked both ways.
# - The wide network with instance optimisation, less SyN: {glue:text}`both_to_syn`; less the usual
#   with instance optimisation: {glue:text}`both_to_refined`.
# - On the cortical parcels, the usual network less SyN: alone {glue:text}`cortex_alone`, with
#   instance optimisation {glue:text}`cortex_refined`.
# - The usual network alone, less demons: {glue:text}`to_demons`.
# - The usual network with instance optimisation, less demons: {glue:text}`refined_to_demons`.
# - With NCC in place of MSE: {glue:text}`by_mse` by MSE.
# - Integrating a velocity, at its own λ, less the plain network: {glue:text}`by_flow`. The first
#   number of that is what a field without folds costs here, at the same number of steps.
#
# (sec-09-fine)=
# ## What a longer search gives SyN
#
# A reference that was kept short flatters what is compared with it. So here is SyN's correlation
# once more, with iterations at 2 mm, too, on the few pairs that were timed, both ways:

# %%
fine = results.pairs("syn-cc-fine", "few")
columns = ["dice", "surface_mm", "folding_percent_brain"]
asked = "identity syn-cc syn-mattes ncc ncc-wide wide-twice".split()
asked += ["ncc-instance", "wide-instance"]
few = {
    name: fine[["moving", "fixed"]].merge(results.pairs(name))[columns].mean()
    for name in asked
}

# %% [markdown]
# Its iterations at 8, 4 and 2 mm, and all of these on the same pairs:

# %%
print(results.plan["few"]["syn-cc-fine"]["iterations"])
few = pd.DataFrame(few | {"syn-cc-fine": fine[columns].mean()}).T
few.round(3)

# %% tags=["remove-cell"]
longest = few.loc["syn-cc-fine", "dice"]
glue.glue(
    fine_pairs=len(fine),
    fine_gain=longest - few.loc["syn-cc", "dice"],
    fine_minutes=fine["seconds"].mean() / 60,
    fine_to_network=few.loc["ncc", "dice"] - longest,
    fine_to_instance=few.loc["ncc-instance", "dice"] - longest,
)

# %% [markdown]
# Over these {glue:text}`fine_pairs` pairs the longer search changes SyN's Dice by
# {glue:text}`fine_gain:+.3f`; it took {glue:text}`fine_minutes:.1f` minutes for one, beside other
# work. The usual network alone, less that: {glue:text}`fine_to_network:+.3f`; with instance
# optimisation: {glue:text}`fine_to_instance:+.3f`. These are too few people for an interval, but
# what a reference gains by being allowed to finish belongs beside the table.
#
# ## Structure by structure
#
# Means over the pairs. The structures that gain most are the ones to look at first:

# %% mystnb={"image": {"alt": "Two dots joined by a line for each of 23 structures: Dice by SyN as an open dot and by the network with instance optimisation as a filled one."}, "figure": {"caption": "Dice by structure on the test pairs: SyN at the better of its settings, and the network with instance optimisation.", "name": "fig-09-structures"}}
figures.dots_by_structure(
    results.by_structure(better),
    results.by_structure("ncc-instance"),
    names=("SyN", "network + instance"),
);

# %% [markdown]
# ## Test and retest
#
# The five validation people were scanned twice. Between two scans of one person there is next to
# nothing to register; a method that still moves a lot invents anatomy.

# %%
retest = results.retest()
retest.astype(float).round(3)

# %% tags=["remove-cell"]
glue.glue(
    same=retest.loc["ncc", "same person, mm"],
    other=retest.loc["ncc", "other person, mm"],
    same_twice=retest.loc["wide-twice", "same person, mm"],
    same_refined=retest.loc["wide-instance", "same person, mm"],
    same_syn=retest.loc[better, "same person, mm"],
    same_before=retest.loc["identity", "Dice, same person"],
    same_after=retest.loc["ncc", "Dice, same person"],
)

# %% [markdown]
# Millimetres are the mean length of the displacement over the brain. The usual network's is
# {glue:text}`same:.2f` mm between a person's two scans and {glue:text}`other:.2f` mm between
# people. Part of the former is real, because the scans were aligned affinely one by one. Dice
# between the two scans is {glue:text}`same_before:.3f` before and {glue:text}`same_after:.3f`
# after: their labels were drawn twice, and that is as far as two drawings agree. There was nothing
# to gain, and a method that moves more has more to lose.
#
# Two passes of the wide network move a person's second scan by {glue:text}`same_twice:.2f` mm, the
# wide network with instance optimisation by {glue:text}`same_refined:.2f` mm, SyN at the better of
# its settings by {glue:text}`same_syn:.2f` mm. A network answers with what people usually need; only
# a method that looks at this pair finds out that it needs next to nothing.
#
# ## Do the committed weights give the committed figures?
#
# Where the scans are at hand, this page registers three test pairs anew, both ways, by the usual
# network and by two passes of the wide one, and stops unless each Dice is the recorded one to
# `0.005`:

# %%
from vxmlib import cohorts
from vxmlib.experiments import trained

if live:
    malf.fetch_all()
    real = cohorts.load("malf", ndim=3, spacing=2.0)
    for name in ("ncc", "wide-twice"):
        again = trained.again(results, name, pairs=3, people=real)
        assert again["difference"].abs().max() < 0.005
        print(name, again.round(4).to_string(index=False), sep="\n")
else:
    print("not run: the scans are not at hand")

# %% [markdown]
# ## Full size
#
# At voxels of 1 mm the grid is eight times as large, and so are memory and time:
# `spacing: 1.0` in `config/real.yaml`. That was *not* run here; on a processor it would take
# eight times the hours above. On a graphics card take `network: vxm`, voxelmorph's own.
#
# ## What may this be compared with?
#
# With the papers' tables only loosely. Their Table III, scan to scan on 30 structures that
# FreeSurfer labelled {cite}`balakrishnan2019tmi`:

# %%
from importlib import resources

paper = pd.read_csv(resources.files("vxmlib") / "data" / "paper_tables.csv")
paper.loc[paper["table"] == "III", ["method", "dice"]].set_index("method")

# %% [markdown]
# Theirs are other people, at half our voxel size, with automatic labels and thousands of scans to
# train with. Levels do not carry over, nor do small gaps. What can be compared is the gain over
# affine alignment, with its interval.
#
# ## On your own
#
# **Exercise 1.** In how many of the pairs is the network better than SyN: the usual one, the wide
# one, the wide one in two passes, and both with instance optimisation?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
other = results.pairs(better)["dice"]
for name in ("ncc", "ncc-wide", "wide-twice", "ncc-instance", "wide-instance"):
    print(name, int((results.pairs(name)["dice"] > other).sum()), "of", len(other))

# %% [markdown]
# **Exercise 2.** Does the network fold where SyN fails? Correlate, over pairs, the folds of the
# network with the Dice of SyN.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
folds = results.pairs("ncc")["folds"]
print(f"r = {np.corrcoef(folds, other)[0, 1]:+.2f}")

# %% [markdown]
# ## What you take along
#
# - The same pairs, the same images, the same labels for every method; choose on others.
# - Print the spread that you mean, and differences paired, with an interval over people.
# - Time all methods in one run on one machine.
# - A larger network brings Dice and folds, a larger λ takes folds away: choose them together.
# - A second pass of a trained network costs no training; validation people say whether it helps.
# - Ask more than one classical tool, at full resolution; which of them leads depends on the images.
# - Overlap without folding, surface and consistency is half a comparison.
# - Keep the records: every figure here can be traced to a file, a command and a commit.
#
# **Read on:** fourteen tools on the same scans {cite}`klein2009`.
