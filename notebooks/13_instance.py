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
# # Improve one pair: instance optimisation and repeated passes
#
# | | |
# |---|---|
# | **You will** | improve a network's displacement for one pair, by minimising the training loss and by applying the network again |
# | **You will learn** | by how much each method raises Dice, what it costs in time and folding, and when to stop |
# | **You need** | [Dice](04_dice.ipynb), [the Jacobian](05_jacobian.ipynb) and the model of [Compile and fit](03_fit.ipynb), which this page trains if it is missing |
# | **In → out** | one pair and its displacement → a better displacement for this pair |
# | **Not here** | training: the weights of the network stay as they are |
# | **Time** | 20 minutes |

# %% [markdown]
# A network predicts a displacement in one [pass](../book/glossary.md#pass), from what it has
# learned on other subjects. A classical method such as SyN ([Avants et al.
# 2008](https://doi.org/10.1016/j.media.2007.06.004)) instead optimises the displacement of each
# pair, which takes longer. Two methods lie between these extremes:
#
# - *Instance optimisation* starts from the network's displacement and minimises the training loss
#   for this pair alone ([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538)).
# - *Repeated passes* apply the same network again, to correct what remains misaligned after the
#   first displacement ([Zhao et al. 2019](https://arxiv.org/abs/1907.12353)).

# %% [markdown]
# ## Set the parameters
#
# The parameters select the training run whose displacements this page improves.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
run = runs.run(settings)
print(run.title, "-", run.history["step"].iloc[-1], "training steps")

# %% [markdown]
# ## Look at the result first
#
# The repository contains the results of a [comparison in 3D](08_real.ipynb), with instance
# optimisation of two networks and a second pass of one of them. The base network is the U-Net with
# strided convolutions of the [2018 paper](https://doi.org/10.1109/CVPR.2018.00964), trained with
# λ = 1. The wide network has more filters and was trained with λ = 2. Both were trained with NCC
# for 3000 steps, on 15 real subjects with voxels of 2 mm.

# %%
from vxmlib.experiments.results import Comparison, results_folder

folder = results_folder()
real = Comparison(folder / "malf", folder.parent / "config" / "real.yaml")

# %% [markdown]
# The next cell lists the seven methods of the table.

# %%
names = {"identity": "affine alignment only", "ncc": "base network"}
names |= {"ncc-instance": "base network, optimised", "ncc-wide": "wide network"}
names |= {"wide-twice": "wide network, two passes"}
names |= {"wide-instance": "wide network, optimised", "syn-mattes": "SyN, mutual information"}

# %% [markdown]
# The table shows means over the 90 ordered pairs of the ten test subjects.

# %%
columns = {"dice": "Dice", "folding_percent_brain": "folded, % of the brain"}
columns |= {"seconds": "seconds per pair"}
table = real.summary().loc[list(names), list(columns)]
table.rename(index=names, columns=columns).round(3)

# %% tags=["remove-input"]
from IPython.display import Markdown

from vxmlib.experiments.statistics import interval_text

asked = {"base": ("ncc-instance", "ncc"), "wide": ("wide-instance", "ncc-wide")}
asked |= {"passes": ("wide-twice", "ncc-wide"), "syn": ("wide-instance", "syn-mattes")}
gap = {name: interval_text(row) for name, row in real.differences(asked).iterrows()}
Markdown(f"""
For the base network, the gain in Dice from instance optimisation is {gap["base"]}. The range in
brackets is the 95 percent interval over subjects. For the wide network, the gain is {gap["wide"]}
from instance optimisation and {gap["passes"]} from a second pass.
""")

# %% tags=["remove-input"]
times = table["seconds"]["syn-mattes"] / table["seconds"]["wide-instance"]
folds = table["folding_percent_brain"][["ncc-wide", "wide-instance", "wide-twice"]]
Markdown(f"""
The Dice of the optimised wide network minus that of SyN is {gap["syn"]}. SyN takes {times:.0f}
times as long as this network, but in this time it registers the pair in both directions. SyN's
displacements do not fold. The wide network folds {folds.iloc[0]:.2f} % of the brain before the
optimisation and {folds.iloc[1]:.2f} % after it. After two passes, {folds.iloc[2]:.2f} % is folded.
The optimisation thus raises Dice more than a second pass, but it also causes more folding.
""")

# %% [markdown]
# The settings of both methods were chosen on validation subjects, and the results were measured
# once on the test subjects. The rest of the page shows how the methods work, mostly on slices. The
# results on slices are computed again in each build of the book.

# %% [markdown]
# ## Optimise one pair with voxelmorph
#
# We use three validation pairs to choose the number of steps. The next cell registers the first
# pair with the network.

# %%
from vxmlib import cohorts

pairs = cohorts.ordered_pairs(people.split["validation"], limit=3)
moving, fixed = (people.image(subject) for subject in pairs[0])
start = run.register(moving, fixed)

# %% [markdown]
# voxelmorph's model for instance optimisation is `InstanceDense`. It has no U-Net. Its only weights
# are the field itself, so `fit()` changes the field of one pair. With `int_steps=0` the field is
# the displacement, and it must have the size of the image. This requires `int_resolution=1`,
# because the default creates a field of half the size. If the sizes differ, voxelmorph only prints
# a warning.

# %% tags=["remove-stderr", "hide-output"]
from vxmlib.backend import tf, vxm

instance = vxm.networks.InstanceDense(people.shape, int_steps=0, int_resolution=1)

# %% [markdown]
# The model multiplies its weights by `mult`, which is 1000, to obtain the field. The initial
# weights are random and give displacements of many voxels.

# %%
layer, mult = instance.references.flow_layer, instance.references.mult
print(f"random start: up to {mult * abs(layer.get_weights()[0]).max():.0f} voxels")

# %% [markdown]
# You therefore have to set the starting field. The method `set_flow` is meant for this, but it
# fails, because it passes an array where Keras expects a list.

# %%
import textwrap

try:
    instance.set_flow(start)
except ValueError as error:
    print(textwrap.fill(f"set_flow: {str(error).split('. ')[0]}", 70))

# %% [markdown]
# The next cell therefore sets the weights of the layer directly.

# %%
layer.set_weights([start / mult])

# %% [markdown]
# The model is compiled and fitted as in a training run, but the data set contains only one pair. In
# each step, Adam changes a weight by about the learning rate. A learning rate of 1e-4, multiplied
# by `mult`, thus changes the displacement by about a tenth of a voxel.

# %% tags=["hide-output"]
ncc, smooth = vxm.losses.NCC().loss, vxm.losses.Grad("l2").loss
adam = tf.keras.optimizers.Adam(1e-4)
instance.compile(adam, loss=[ncc, smooth], loss_weights=[1, settings.lam])

# %% [markdown]
# The pair is the only batch, so each of the 40 epochs is one step.

# %% tags=["hide-output"]
batch = [image[None, ..., None] for image in (moving, fixed)]
zeros = start[None] * 0
fitted = instance.fit(batch[0], [batch[1], zeros], epochs=40, verbose=0)

# %% [markdown]
# The function `score` warps the labels and returns the mean Dice and the folded part of the brain.

# %% tags=["remove-stderr"]
import pandas as pd

from vxmlib import metrics, warp


def score(displacement, pair):
    labels = warp.warp_labels(people.labels(pair[0]), displacement)
    dice = metrics.mean_dice(labels, people.labels(pair[1]), people.structures)
    return dice, metrics.folding(displacement, people.brain(pair[1])).percent_in_mask


# %% [markdown]
# `get_registration_model` returns a model whose output is the displacement. The table compares Dice
# and folding before and after the 40 steps.

# %%
by_voxelmorph = instance.get_registration_model()(batch[0])[0].numpy()
rows = {"network": score(start, pairs[0]), "after 40 steps": score(by_voxelmorph, pairs[0])}
pd.DataFrame(rows, index=["Dice", "folded, % of the brain"]).T.round(3)

# %% [markdown]
# With voxelmorph's default, `int_steps=7`, the weights are a
# [velocity](../book/glossary.md#velocity). Such a model cannot start from the displacement of a
# network without integration. If your network integrates, keep `int_steps=7` and start from its
# velocity. If you optimise the network's displacement instead, the result is no longer the integral
# of a velocity and may fold.

# %% [markdown]
# ## Use a smoother optimiser
#
# This book's class `InstanceOptimiser` minimises the same loss from the same starting displacement.
# It differs from `InstanceDense` in three ways:
#
# - It corrects the displacement on a grid of half the resolution, so that each step is smooth.
# - It is compiled only once for all images of the same size.
# - It stops with a clear error if the loss is no longer finite.
#
# The learning rate is given in voxels per step. The table shows the loss and the running time at
# four of the 40 steps.

# %%
from vxmlib.methods.instance import InstanceOptimiser

options = {"image_loss": settings.image_loss, "learning_rate": 0.1}
optimise = InstanceOptimiser(people.shape, lam=settings.lam, **options)
refined, history = optimise(start, moving, fixed, steps=40)
history.iloc[[0, 1, 20, 39]][["step", "loss", "seconds"]].round(3)

# %% [markdown]
# The time is measured from the start. Most of it is spent on the first step, which includes the
# compilation. The next table compares the two optimisers after 40 steps on this pair.

# %%
rows = {"network": score(start, pairs[0]), "InstanceDense": score(by_voxelmorph, pairs[0])}
rows["InstanceOptimiser"] = score(refined, pairs[0])
pd.DataFrame(rows, index=["Dice", "folded, % of the brain"]).T.round(3)

# %% [markdown]
# ## Choose the number of steps
#
# Adam minimises the loss, so a falling loss does not show how many steps are useful. We use Dice
# for this choice, because Dice is computed from labels, which the loss does not use. The function
# `watched` records Dice and folding at every fifth step.

# %%
def watched(pair, begin, optimise, steps=60):
    rows = {}

    def watch(step, displacement):
        if step % 5 == 0:
            rows[step] = score(displacement, pair)

    images = [people.image(subject) for subject in pair]
    optimise(begin, *images, steps=steps, watch=watch)
    return pd.DataFrame(rows, index=["Dice", "folded, %"]).T.rename_axis("step")


# %% [markdown]
# The function `mean_of` averages Dice and folding over the three validation pairs.

# %%
nothing = start * 0
by_network = {pair: run.register(*map(people.image, pair)) for pair in pairs}


def mean_of(starts, optimise=optimise):
    tables = [watched(pair, begin, optimise) for pair, begin in starts.items()]
    return pd.concat(tables).groupby(level="step").mean()


# %% [markdown]
# The next cell optimises each pair twice: from the network's displacement and from no displacement.

# %%
from_network = mean_of(by_network)
from_nothing = mean_of(dict.fromkeys(pairs, nothing))

# %% [markdown]
# The figure shows Dice and folding for both starting points.

# %% mystnb={"image": {"alt": "Two panels against the optimisation step. The left panel shows Dice. The curve that starts from the network begins high and rises further. The curve that starts from no displacement begins low, rises and stays below the other curve. The right panel shows folding in percent of the brain for both starting points."}, "figure": {"caption": "Dice and folding during the optimisation, from the network's displacement and from no displacement. Values are means over three validation pairs of this build.", "name": "fig-instance-steps"}}
from vxmlib.book import figures

curves = {"from the network": from_network, "from no displacement": from_nothing}
figures.steps_of(curves, ["Dice", "folded, %"], ["Dice", "folded, % of the brain"]);

# %% [markdown]
# Once the Dice curve is flat, more steps gain little. Our rule therefore chooses the first recorded
# step whose Dice is at most `0.002` below the best Dice.

# %%
near_best = from_network["Dice"] >= from_network["Dice"].max() - 0.002
chosen = max(5, int(near_best.idxmax()))
print(chosen, "steps")

# %% tags=["remove-input"]
dice = from_network["Dice"]
Markdown(f"""
From the network's displacement, the chosen steps raise Dice from {dice.iloc[0]:.3f} to
{dice[chosen]:.3f}. From no displacement, Dice is {from_nothing["Dice"].iloc[-1]:.3f} after
{from_nothing.index[-1]} steps.
""")

# %% [markdown]
# ## Compare the methods on test pairs
#
# The next cell defines the five methods. SyN uses its correlation metric at three resolutions.

# %%
from functools import partial

from vxmlib.methods import baselines


def refine(begin, m, f, steps):
    return optimise(begin, m, f, steps=steps)[0]


methods = {
    "identity": "identity",
    "network": run.register,
    "network, refined": lambda m, f: refine(run.register(m, f), m, f, chosen),
    "nothing, 60 steps": lambda m, f: refine(nothing, m, f, 60),
    "SyN": partial(baselines.syn, iterations=(100, 70, 50)),
}

# %% [markdown]
# All methods register the same six ordered pairs of test subjects. SyN is left out if its package
# is not installed.

# %%
few = cohorts.ordered_pairs(people.split["test"], limit=6)
tables = {}
for name, method in methods.items():
    try:
        tables[name] = metrics.evaluate_pairs(people, few, method)
    except baselines.BaselineMissing as error:
        print(f"{name} is missing: {error}")

# %% [markdown]
# The table shows means over the six pairs.

# %%
summary = pd.DataFrame({name: metrics.summary(t) for name, t in tables.items()}).T
words = {"dice_mean": "Dice", "folding_percent_brain": "folded, % of the brain"}
words |= {"seconds": "seconds per pair"}
rows = {"identity": "before registration", "network": "network (VxmDense)"}
rows |= {"network, refined": f"network, {chosen} steps", "nothing, 60 steps": "60 steps from zero"}
summary[list(words)].astype(float).rename(index=rows, columns=words).round(3)

# %% tags=["remove-cell"]
from vxmlib.experiments import recording

kept = ["dice_mean", "folding_percent_brain", "sd_log_jacobian", "seconds"]
recording.write_record(
    "13_instance",
    run,
    people,
    pairs=len(few),
    steps=chosen,
    methods=summary[kept].astype(float).T.to_dict(),
)

# %% tags=["remove-input"]
plain, better = summary.loc["network"], summary.loc["network, refined"]
Markdown(f"""
The {chosen} steps of optimisation raise the Dice of the network by
{better["dice_mean"] - plain["dice_mean"]:.3f} and take {better["seconds"] - plain["seconds"]:.2f}
seconds per pair. The network is the `VxmDense` of [Compile and fit](03_fit.ipynb), trained for
{run.history["step"].iloc[-1]} steps on {len(people.split["train"])} subjects.
""")

# %% tags=["remove-input"]
against = "SyN is not installed here, so the table has no row for it."
if "SyN" in tables:
    syn = summary.loc["SyN"]
    factor = syn["seconds"] / better["seconds"]
    against = f"SyN reaches a Dice of {syn['dice_mean']:.3f}. It takes {factor:.0f} times as long "
    against += "as the network followed by the optimisation."
if people.simulated:
    against += """ The subjects are simulated and the deformations between them are smooth, so the
ranking of the methods may be different on real subjects."""
Markdown(against)

# %% [markdown]
# ## See what the steps cost in 3D
#
# In 3D, we recorded more steps than we use, to see how Dice and folding change later. The stored
# record contains six validation pairs of real subjects. Each optimisation starts from the
# displacement of the base network. A step takes longer in 3D than on slices, so the optimiser takes
# fewer and larger steps. The next cell prints the settings of the comparison.

# %%
from vxmlib.experiments.results import committed_record

watched_3d = committed_record("malf/instance/ncc-instance.json")
instance_3d = watched_3d["parameters"]["instance"]
print("{steps} steps, learning rate {learning_rate} voxels, λ = {lam:g}".format(**instance_3d))

# %% [markdown]
# The table shows every fourth step and the step at which the comparison stops, as means over the
# pairs.

# %%
measures = ["dice", "folding_percent_brain", "seconds"]
rows_3d = pd.DataFrame(watched_3d["metrics"]["rows"])
steps_3d = rows_3d.groupby("step")[measures].mean()
some = sorted({*steps_3d.index[::4], instance_3d["steps"]})
steps_3d.loc[some].rename(columns=columns | {"seconds": "seconds"}).round(3)

# %% [markdown]
# The next cell reads the results of SyN on the same six pairs. SyN with correlation was run without
# iterations at full resolution, which would take too long.

# %%
same = rows_3d[["moving", "fixed"]].drop_duplicates()
syn_3d = {}
for key, name in {"cc": "SyN, correlation", "mattes": "SyN, mutual information"}.items():
    result = committed_record(f"malf/validation/syn-{key}.json")["metrics"]["rows"]
    syn_3d[name] = same.merge(pd.DataFrame(result))[measures].mean()
points = {name: row[measures[:2]].rename(row["seconds"]) for name, row in syn_3d.items()}

# %% [markdown]
# The figure shows Dice and folding of the optimisation as curves, and those of SyN as markers.

# %% mystnb={"image": {"alt": "Two panels against the running time in 3D. The Dice of the optimisation rises steeply within the first seconds and then stays nearly level. The two markers of SyN lie far to the right. The folding of the optimisation, in percent of the brain, first falls a little, then rises above its first value, and falls again slowly. Folding is zero for SyN."}, "figure": {"caption": "Dice and folding in 3D of instance optimisation, starting from the base network's displacement, and of SyN with two metrics. Values are means over six validation pairs of real subjects.", "name": "fig-instance-3d"}}
curve = {"network, optimised": steps_3d.set_index("seconds")}
labels = ["Dice", "folded, % of the brain"]
figures.steps_of(curve, measures[:2], labels, xlabel="seconds", points=points);

# %% tags=["remove-input"]
used, peak = instance_3d["steps"], steps_3d["folding_percent_brain"].idxmax()
part = steps_3d["folding_percent_brain"]
Markdown(f"""
The comparison uses {used} steps. These steps raise Dice from {steps_3d["dice"][0]:.3f} to
{steps_3d["dice"][used]:.3f}. Folding is {part[0]:.2f} % of the brain before and {part[used]:.2f} %
after these steps. Later steps raise Dice only slightly, whereas folding increases to a maximum of
{part[peak]:.2f} % at step {peak}.
""")

# %% [markdown]
# The number of steps, the learning rate and λ were chosen on three of these six pairs. The
# optimiser uses λ = 2, whereas the base network was trained with λ = 1. The journal paper reports a
# smaller gain from instance optimisation on other data, where Dice rises from 0.774 to 0.786 with
# NCC ([Balakrishnan et al. 2019](https://doi.org/10.1109/TMI.2019.2897538), Table II).

# %% [markdown]
# ## Apply the same network again
#
# A repeated pass needs no optimisation. The moving image is warped by the first displacement $u$,
# and the network registers the warped image to the fixed image. The resulting displacement $u_2$ is
# composed with the first:
#
# $$u \leftarrow u_2 + u \circ (\mathrm{id} + u_2)$$
#
# The last term is the value of $u$ at the point to which $u_2$ points. The composed displacement is
# applied to the original moving image, so the result is interpolated only once. voxelmorph's layer
# `ComposeTransform` computes this formula.

# %%
warped = vxm.layers.SpatialTransformer()([batch[0], start[None]])
second = run.register(warped[0, ..., 0].numpy(), fixed)
both = vxm.layers.ComposeTransform()([start[None], second[None]])[0].numpy()

# %% [markdown]
# This book's function `passes` repeats these three lines of code any number of times. It
# interpolates in float64 and yields the displacement after each pass. The next cell compares its
# second pass with the layer.

# %%
from vxmlib.methods.passes import passes

after = list(passes(run.register, moving, fixed, count=4))
print(f"largest difference from the layer: {abs(after[1] - both).max():.0e} voxels")
each = {f"pass {n}": score(u, pairs[0]) for n, u in enumerate(after, start=1)}
pd.DataFrame(each, index=["Dice", "folded, % of the brain"]).T.round(3)

# %% [markdown]
# [Zhao et al. 2019](https://arxiv.org/abs/1907.12353) call repeated passes shared-weight cascading.
# They also train several networks together as one cascade, which is a different method.
#
# The repository also contains results for up to four passes in 3D, measured on all ordered pairs of
# the validation subjects. They include a third network, which integrates a
# [velocity](../book/glossary.md#velocity) and was trained with λ = 0.1.

# %%
by_pass = real.passes()
networks = {"ncc": "base", "ncc-wide": "wide", "ncc-integrated": "integrated"}
by_pass = {word: by_pass[name] for name, word in networks.items()}
dice_of = {f"Dice, {word}": result["dice"] for word, result in by_pass.items()}
pd.DataFrame(dice_of).rename_axis("passes").round(3)

# %% [markdown]
# The figure shows the Dice of this table and the folded part of the brain.

# %% mystnb={"image": {"alt": "Two panels against the number of passes, with one curve each for the base, the wide and the integrated network. The Dice of the wide network rises at the second pass and then stays nearly level. The Dice of the other two networks hardly changes at the second pass and then falls. Folding decreases for the base and the wide network and rises slightly above zero for the integrated one."}, "figure": {"caption": "Dice and folding after one to four passes of the same network. Values are means over validation pairs in 3D.", "name": "fig-instance-passes"}}
figures.steps_of(by_pass, measures[:2], labels, xlabel="passes");

# %% tags=["remove-input"]
more = {word: result["dice"].diff() for word, result in by_pass.items()}
torn = by_pass["integrated"]["folding_percent_brain"]
Markdown(f"""
The second pass changes the Dice of the wide network by {more["wide"][2]:+.4f}, and the third pass
by {more["wide"][3]:+.4f}. For this reason, the comparison on test subjects uses two passes of the
wide network. For the base network, the second pass changes Dice by {more["base"][2]:+.4f}, and the
third pass by {more["base"][3]:+.4f}.
""")

# %% tags=["remove-input"]
Markdown(f"""
The gain from a second pass therefore depends on the network. The base and the wide network differ
in size and in λ, so these results cannot show which of the two differences matters. Further passes
do not raise the Dice of the integrated network. Its folding is {torn[1]:.3f} % of the brain after
one pass and {torn[4]:.3f} % after four.
""")

# %% [markdown]
# > **Warning: Repeated passes need not improve the result**
# >
# > The network was trained to predict *one* smooth displacement for a pair after affine alignment.
# > No loss keeps the composed displacement smooth. Therefore choose the number of passes on
# > validation subjects, by Dice and folding together.

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** What happens if the optimiser uses λ = 0.01 with NCC?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
careless = mean_of(by_network, InstanceOptimiser(people.shape, lam=0.01, **options))
last = {f"λ = {settings.lam:g}": from_network.iloc[-1], "λ = 0.01": careless.iloc[-1]}
print(pd.DataFrame(last).round(3).to_string())

# %% [markdown]
# <details><summary>Answer</summary>
#
# With such a small λ, the optimiser makes the images more similar by folding the displacement, and
# Dice falls. Training with this λ also causes folds, because it minimises the same loss.
#
# </details>
#
# **Exercise 2.** What happens if the learning rate is one voxel per step?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
wide_options = options | {"learning_rate": 1.0}
coarse = mean_of(by_network, InstanceOptimiser(people.shape, lam=settings.lam, **wide_options))
rates = {"a tenth": from_network, "one voxel": coarse}
print(pd.concat(rates, axis=1).iloc[[0, 1, 2, 4, 8, 12]].round(3).to_string())

# %% [markdown]
# <details><summary>Answer</summary>
#
# In each step, Adam changes every displacement by about the learning rate, whatever the size of the
# gradient. With one voxel per step, Dice rises in fewer steps than with a tenth, but more of the
# brain is folded after the first five steps.
#
# </details>
#
# ## Summary
#
# - Instance optimisation minimises the training loss for one pair. The weights of the network do
#   not change.
# - voxelmorph's `InstanceDense` can optimise a pair if you set the starting field yourself.
# - Record Dice and folding at several steps on validation pairs, and use them to choose the number
#   of steps.
# - In 3D, instance optimisation takes one or two seconds per pair and, for the wide network, causes
#   more folding.
# - A second pass needs no further training, but whether it helps depends on the network.
#
# **Read on:** the section on instance-specific optimisation in [Balakrishnan et al.
# 2019](https://doi.org/10.1109/TMI.2019.2897538), and [Zhao et al.
# 2019](https://arxiv.org/abs/1907.12353) on cascades.
