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
# # Run the authors' own weights: the 2018 network on the authors' scans
#
# | | |
# |---|---|
# | **You will** | rebuild the CVPR 2018 network, load the authors' four weight files, and register their two scans |
# | **You will learn** | to open old weights, to prove that they are read rightly, and what a figure may be compared with |
# | **You need** | [lesson 5](04_dice.ipynb) and [lesson 6](05_jacobian.ipynb) |
# | **In → out** | two scans of 1 mm and four weight files → a table of Dice, folding and seconds |
# | **Not here** | training: these networks were trained by the authors |
# | **Time** | 15 minutes |

# %% [markdown]
# Before one trains anything: does the evaluation give the authors' level when the authors' own
# network does the work? If not, the fault is in the evaluation, and no training would mend it.
#
# The scans and weights are fetched from their public address and checked by hash. This page runs
# when they are at hand; with `download` set it fetches them (60 MB). Otherwise it shows the
# committed record of the same cells and says so.

# %% tags=["parameters"]
cohort = "mni"  # of the build; this page always shows the authors' two scans
profile = "quick"
seed = 0
root = None
download = False

# %%
from vxmlib import cohorts, metrics
from vxmlib.experiments import recording
from vxmlib.experiments.results import committed_record
from vxmlib.networks import cvpr2018
from vxmlib.sources import vxm2018
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
at_hand = vxm2018.available() or download
live = bool(at_hand) and settings.profile != "smoke"
print("live" if live else "from the committed record")
print(vxm2018.CREDIT)
print("Terms:", vxm2018.LICENCE)

# %% [markdown]
# ## Rebuild the network
#
# The authors' files hold weights for a network that today's `VxmDense` does not build: its
# encoder halves the size by strided convolutions, without pooling, and one more convolution at
# half the size comes before the last upsampling. Twelve Keras layers with weights, in the order
# of the paper's Fig. 3 {cite}`balakrishnan2018cvpr`:

# %%
network = cvpr2018.build("vm2", (32, 32, 32))
for layer in network.layers:
    if layer.weights:
        print(f"{layer.name:11} {layer.output_shape[1:]}")

# %% [markdown]
# A convolution has no size of its own, so a small grid shows the same layers as the full one of
# 160 × 192 × 224. The sizes go down to a sixteenth and come back. That is why every side has to
# be divisible by 16. There is no transformer layer and no integration: the output *is* the
# displacement, in voxels.

# %% [markdown]
# ## Load the weights, in the order of the layers
#
# The four files are of two networks, 1 and 2, each trained with local correlation (`cc`) and with
# squared error (`l2`).

# %%
import pandas as pd

counts = {name: cvpr2018.build(name).count_params() for name in cvpr2018.DECODER}
pd.Series(counts, name="weights")

# %% [markdown]
# Names of layers are of no use for reading (`conv3d_245` says how many layers its session had
# made before), so the reader goes by order, and compares every shape: a file of another
# architecture is refused by name instead of being loaded in part.

# %%
from vxmlib import fetch
from vxmlib.models import ModelFileError

if live:
    one = fetch.fetch(cvpr2018.WEIGHTS["vm1_cc"])
    try:
        cvpr2018.load("vm2_cc", path=one)
    except ModelFileError as error:
        print(str(error).split("models/")[1])
else:
    print("not run: the files are not at hand")

# %% [markdown]
# ## Register both ways
#
# Two people, so two ordered pairs. Dice is measured on the 30 structures of the papers.

# %%
if live:
    people = cohorts.load("vxm2018")
    pairs = cohorts.ordered_pairs(people.split["test"])
    tables = {"identity": metrics.evaluate_pairs(people, pairs, "identity")}
    for name in cvpr2018.WEIGHTS:
        model = cvpr2018.load(name)
        tables[name] = metrics.evaluate_pairs(
            people,
            pairs,
            lambda m, f, model=model: cvpr2018.register(model, m, f),
        )
else:
    record = committed_record("vxm2018/record.json")

# %% tags=["remove-cell"]
measures = ["dice_mean", "dice_sd_pooled", "folds", "folding_percent"]
measures += ["folding_percent_brain", "sd_log_jacobian", "seconds"]
if live:
    rows = [
        {"weights": name, "moving": m, "fixed": f}
        | {key: metrics.summary(part)[key] for key in measures}
        for name, table in tables.items()
        for (m, f), part in table.groupby(["moving", "fixed"], sort=False)
    ]
    structures = [
        {"weights": name, "structure": structure, "dice": float(part.mean())}
        for name, table in tables.items()
        for structure, part in table.groupby("structure", sort=False)["dice"]
    ]

# %% tags=["remove-cell"]
if live:
    voxels = {
        "all": int(people.image("test").size),
        "brain": int(people.brain("test").sum()),
    }
    record = recording.make_record(
        "07_weights",
        settings,
        people,
        seconds=float(sum(table["seconds"].sum() for table in tables.values())),
        rows=rows,
        structures=structures,
        voxels=voxels,
    )
found = record["metrics"]
told = f"commit {record['commit'][:7]}, {record['created'][:10]}"

# %%
rows = pd.DataFrame(found["rows"])
rows["pair"] = rows.pop("moving") + " → " + rows.pop("fixed")
rows.pivot(index="weights", columns="pair", values="dice_mean").round(4)

# %% [markdown]
# `identity` is the overlap before registration. Each of the four networks was trained on other
# people's scans, and each gains in both directions.

# %%
short = {"dice_sd_pooled": "SD pooled", "folds": "folds"}
short |= {"folding_percent": "% of all", "folding_percent_brain": "% of brain"}
short |= {"seconds": "seconds"}
by_pair = rows[rows["weights"] != "identity"].set_index(["weights", "pair"])
by_pair[list(short)].rename(columns=short).astype({"folds": int}).round(3)

# %% tags=["remove-cell"]
from vxmlib.book import glue

paired = rows.set_index(["weights", "pair"])
best = rows.loc[rows["dice_mean"].idxmax()]
cc, l2 = (rows[rows["weights"] == n] for n in ("vm2_cc", "vm2_l2"))
voxels = found["voxels"]
glue.glue(
    before=rows.loc[rows["weights"] == "identity", "dice_mean"].mean(),
    cc=cc["dice_mean"].mean(),
    l2=l2["dice_mean"].mean(),
    cc_folds=cc["folding_percent"].mean(),
    cc_brain=cc["folding_percent_brain"].mean(),
    cc_paper=100 * cc["folds"].mean() / 5.2e6,
    sd=rows.loc[rows["weights"] != "identity", "dice_sd_pooled"].mean(),
    brain_share=100 * voxels["brain"] / voxels["all"],
    brain_voxels=voxels["brain"] / 1e6,
    best=best["weights"],
    best_dice=best["dice_mean"],
    told=told,
    where="by this very build" if live else "by the committed record",
)

# %% [markdown]
# Measured {glue:text}`where` ({glue:text}`told`): Dice {glue:text}`before:.3f` before,
# {glue:text}`cc:.3f` with network 2 and correlation, {glue:text}`l2:.3f` with network 2 and
# squared error.
#
# ## Name the denominator
#
# The same folds can be told in three ways. Of *all* voxels of the grid
# {glue:text}`cc_folds:.2f` % fold with `vm2_cc`. The brain is only {glue:text}`brain_share:.0f` %
# of the grid ({glue:text}`brain_voxels:.1f` million voxels), and of *the brain*
# {glue:text}`cc_brain:.2f` % fold. The paper counts folds in non-background voxels and divides by
# "5.2 million brain voxels" {cite}`balakrishnan2019tmi`; by that number the same count would be
# {glue:text}`cc_paper:.2f` %. None is wrong; a percentage without its denominator is.

# %% [markdown]
# ## Look at each structure

# %% mystnb={"image": {"alt": "Two dots joined by a line for each structure: Dice before registration as an open dot, and with the 2018 network as a filled one, which lies further to the right in nearly every row."}, "figure": {"caption": "Dice by structure over both directions: before, and by network 2 trained with correlation.", "name": "fig-08-boxes"}}
from vxmlib.book import figures

with_weights = pd.DataFrame(found["structures"]).groupby("weights").get_group
before, after = with_weights("identity"), with_weights("vm2_cc")
figures.dots_by_structure(before, after, names=("before", "vm2_cc"));

# %% tags=["remove-cell"]
gains = after.set_index("structure")["dice"] - before.set_index("structure")["dice"]
glue.glue(
    n_structures=len(gains),
    n_gained=int((gains > 0).sum()),
    most=gains.idxmax(),
    least=gains.idxmin(),
    most_gain=gains.max(),
    least_gain=gains.min(),
)

# %% [markdown]
# {glue:text}`n_gained` of {glue:text}`n_structures` structures gained, the most
# {glue:text}`most` ({glue:text}`most_gain:+.2f`), the least {glue:text}`least`
# ({glue:text}`least_gain:+.2f`).

# %% [markdown]
# ## Prove that the field is read rightly
#
# A displacement has three components, and nothing in the file says which axis each belongs to.
# The 2018 code used an option "xy", which in other programs swaps the first two axes. So test
# it: read the same field with the first two components swapped, and once with the sign turned.

# %%
if live:
    model = cvpr2018.load("vm2_cc")
    moving, fixed = pairs[0]
    field = cvpr2018.register(model, people.image(moving), people.image(fixed))
    ways = {"identity": 0 * field, "ij": field, "negated": -field}
    ways["swapped"] = field[..., [1, 0, 2]]
    found["readings"] = {
        way: metrics.evaluate_pairs(people, [pairs[0]], lambda *_, u=u: u)[
            "dice"
        ].mean()
        for way, u in ways.items()
    }
pd.Series(found["readings"], name="Dice").round(3)

# %% tags=["remove-cell"]
recording.keep_record("07_weights", record)
readings = found["readings"]
glue.glue(
    **{f"reading_{way}": dice for way, dice in readings.items()},
    lost=100
    * (readings["ij"] - readings["swapped"])
    / (readings["ij"] - readings["identity"]),
)

# %% [markdown]
# Read in the order "ij" the field registers: {glue:text}`reading_ij:.3f`. With two axes swapped
# {glue:text}`lost:.0f` % of the gain is gone, and with the sign turned the result
# ({glue:text}`reading_negated:.3f`) lies below doing nothing at all
# ({glue:text}`reading_identity:.3f`). Note how swapped axes fail: not loudly, but with a Dice
# that still lies above the identity, and that one might take for a poor model's.

# %% [markdown]
# ## What may these figures be compared with?
#
# The paper's Table I, for 250 test scans registered to an atlas, on the same 30 structures
# {cite}`balakrishnan2019tmi`:

# %%
from importlib import resources

paper = pd.read_csv(resources.files("vxmlib") / "data" / "paper_tables.csv")
shown = ["method", "direction", "dice", "dice_sd", "folding_percent"]
paper.loc[paper["table"] == "I", shown].set_index("method")

# %% [markdown]
# Ours is not a row of that table, for three reasons. These are two scans, not 250. They go from
# scan to scan, and those networks learned to go from scan to *atlas*: the fixed image they saw in
# training was always the same. And affine alignment starts elsewhere: {glue:text}`before:.3f`
# here. What may be said: with the authors' weights our evaluation sees a gain of the size that
# they report, on their own scans, with a pooled SD of {glue:text}`sd:.2f` that looks like theirs.
#
# Where the network is reachable, the authors' atlas can be had too, and then the comparison is
# that of the paper, scan to atlas:

# %%
try:
    if not live:
        raise fetch.FetchError("nor are the scans")
    with_atlas = vxm2018.with_atlas(people)
    to_atlas = [(person, "atlas") for person in people.split["test"]]
    table = metrics.evaluate_pairs(
        with_atlas, to_atlas, lambda m, f: cvpr2018.register(model, m, f)
    )
    print(table.groupby("moving")["dice"].mean().round(3).to_string())
except fetch.FetchError:
    print("not run: the atlas is not at hand")

# %% [markdown]
# ## On your own
#
# **Exercise 1.** How many of the weights does the field's own layer have, and what would the
# network predict if all were zero?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
flow = network.get_layer("flow")
print(flow.count_params(), "of", network.count_params(), "weights")

# %% [markdown]
# With zeros it predicts no displacement: the identity. That is where training starts, nearly: the
# layer is drawn with a spread of 1e-5.
#
# **Exercise 2.** Which of the four has the best Dice for its folding? Sort them.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
each = rows[rows["weights"] != "identity"].groupby("weights")
means = each[["dice_mean", "folding_percent_brain"]].mean()
print(means.sort_values("dice_mean").round(3).to_string())

# %% [markdown]
# ## What you take along
#
# - Prove the evaluation with weights that are known to work before training your own.
# - Weights belong to an architecture; compare every shape, and read by order.
# - Test the convention of a field by its result: swap, negate, and see Dice fall.
# - Folding in percent needs its denominator.
# - A figure may stand beside another only with the same pairs, direction and structures.
#
# **Read on:** the paper behind the weights {cite}`balakrishnan2018cvpr`, and its longer sequel
# {cite}`balakrishnan2019tmi`.
