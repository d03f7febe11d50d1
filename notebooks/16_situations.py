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
# # Decide whether you need a training loop
#
# | | |
# |---|---|
# | **You will** | try the four situations for which training loops are written, and measure each beside `fit()` |
# | **You will learn** | the least that each situation needs, and what it gained here |
# | **You need** | [the training step three ways](15_steps.ipynb) |
# | **In → out** | training subjects → short training runs of equal length, scored on validation pairs |
# | **Not here** | better registration: one seed and few steps cannot rank these ideas |
# | **Time** | 25 minutes |

# %% [markdown]
# Almost nobody needs a custom training loop. The table lists what people want from one, and the
# least that it needs.
#
# | You want | The least it needs |
# |---|---|
# | clipped gradients, frozen layers | an argument of the optimiser, a property of the layer |
# | a learning-rate schedule, monitoring, pictures during training | a callback |
# | a λ that changes, by a plan or by a rule | a loss that reads a variable, and a callback |
# | two training stages | `compile` and `fit()`, twice |
# | several contrasts in step | a `tf.data.Dataset` |
# | the gradient of each loss term | a `tf.GradientTape`, for one batch |
# | a discriminator, or another second network | a custom `train_step` |
# | networks or optimisers that alternate in ways that `train_step` cannot express | a loop |
# | research on the training step itself | a loop |

# %% tags=["remove-input"]
from time import perf_counter

from IPython.display import Markdown, display

began = perf_counter()
result = display(Markdown("The result will stand here when the page has run."), display_id=True)

# %% [markdown]
# ## Set the parameters
#
# The data are slices with voxels of 2 mm, so that a dozen training runs take a few minutes.

# %% tags=["parameters"]
cohort = "mni"
profile = "quick"
seed = 0
root = None
image_loss = "ncc"
lam = 1.0
spacing = 2.0
learning_rate = 0.001

# %%
from vxmlib.experiments import runs
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
steps = max(settings.steps // 4, 6)
print(steps, "steps for each training run")

# %% [markdown]
# All runs train the stock VxmDense. They start from the same weights and see the same pairs in the
# same order.

# %%
from vxmlib import backend, models, pairs
from vxmlib.backend import tf, vxm

described = {"image_loss": settings.image_loss, "learning_rate": settings.learning_rate}


# %%
def fresh(lam=settings.lam, seed=settings.seed, **options):
    backend.set_seed(seed)
    return models.build(people.shape, lam=lam, **(described | options))


# %%
def data(seed=settings.seed, **options):
    ids = people.split["train"]
    return pairs.pair_dataset(people, ids, batch_size=1, seed=seed, **options)


# %% [markdown]
# `measure` scores a trained model on all validation pairs.

# %%
from functools import partial

from vxmlib.experiments import recording

watched = runs.pairs_of(people, "validation")
results = {}


# %%
def measure(name, register):
    scores = recording.measure(register, people, watched)
    keys = ["dice_mean", "folding_percent_brain", "sd_log_jacobian"]
    results[name] = {key: scores[key] for key in keys}
    print(f"{name}: Dice {scores['dice_mean']:.3f}")


# %% [markdown]
# ## Train the reference with `fit()`
#
# The reference is `fit()` for the same number of steps. We train it with three seeds, because their
# range shows how large a difference has to be before it means anything.

# %%
measure("identity", "identity")
for name, number in {"fit()": 0, "fit(), second seed": 1, "fit(), third seed": 2}.items():
    model = fresh(seed=settings.seed + number)
    model.fit(data(settings.seed + number), steps_per_epoch=steps, verbose=0)
    measure(name, partial(models.register, model))

# %% tags=["remove-input"]
fitted = [row["dice_mean"] for name, row in results.items() if name.startswith("fit()")]
reference, seed_range = fitted[0], max(fitted) - min(fitted)
Markdown(f"""
The three Dice values span a range of {seed_range:.3f}. A difference from `fit()` below that is no
finding.
""")

# %% [markdown]
# ## Situation 1: the objective changes during training
#
# ### A curriculum for λ
#
# A [curriculum](../book/glossary.md#curriculum) begins with an easier task. Here λ starts at ten
# times its value, so that only stiff deformations are allowed, and falls during the first half of
# the steps. A loss is traced once, so a number that changes later has to be a `tf.Variable`.

# %%
stiffness = tf.Variable(10 * settings.lam)


def loosen(step):
    left = max(0.0, 1 - 2 * step / steps)
    stiffness.assign(settings.lam * 10**left)


# %% [markdown]
# With `fit()`, the smoothness loss reads the variable and a callback changes it after each step.

# %%
model = fresh()
image_term, smooth_term = model.loss
adam = tf.keras.optimizers.Adam(settings.learning_rate)
model.compile(adam, loss=[image_term, lambda t, u: stiffness * smooth_term(t, u)])

# %%
schedule = tf.keras.callbacks.LambdaCallback(on_batch_end=lambda batch, logs: loosen(batch + 1))
model.fit(data(), steps_per_epoch=steps, callbacks=[schedule], verbose=0)
measure("curriculum, fit()", partial(models.register, model))

# %% [markdown]
# The loop of the last lesson does the same. It calls `after` when a step is done.

# %%
from vxmlib.methods import loops

model = fresh()
stiffness.assign(10 * settings.lam)
terms = loops.compiled_terms(model, lam=stiffness)
loops.train(model, data(), terms, steps=steps, after=lambda step, *_: loosen(step))
measure("curriculum, loop", partial(models.register, model))

# %% [markdown]
# **Could `fit()` do it?** Yes, with the same result up to rounding.
#
# ### A λ that follows a folding budget
#
# Here λ starts at a tenth of its value. After each step it rises when more of the field folds than
# the budget allows, and falls when less does. `loops.FoldingBudget` holds the variable and the
# rule, and smooths the folding over the last steps.

# %%
from vxmlib import metrics

rule = {"start": settings.lam / 10, "rate": 1.03, "memory": 0.8}
budget = loops.FoldingBudget(percent=0.05, **rule)


# %%
def follow(step, logs, outputs):
    folding = metrics.folding(outputs[-1][0].numpy()).percent
    return {"λ": budget.update(folding), "folding": folding}


# %% [markdown]
# The values that `follow` returns become columns of the loop's table. λ falls first, because the
# untrained network folds nothing.

# %%
model = fresh()
terms = loops.compiled_terms(model, lam=budget.lam)
adapted = loops.train(model, data(), terms, steps=steps, after=follow).set_index("step")
measure("λ by a folding budget, loop", partial(models.register, model))

# %% mystnb={"image": {"alt": "Two panels against the training step: the weight lambda, which rises while folding is above the budget and falls while it is below, and the percentage of folded voxels of each training pair."}, "figure": {"caption": "λ and the folded share of each training pair's field while λ follows the budget.", "name": "fig-situations-budget"}}
from vxmlib.book import figures

labels = ["λ", "folded, % of all voxels"]
figures.steps_of({"training pair": adapted}, ["λ", "folding"], labels);

# %% [markdown]
# **Could `fit()` do it?** Nearly. A callback does not see the field of the training pair, but it can
# register a validation pair every few steps and change the variable by the same rule.
#
# ### A discriminator in place of NCC
#
# A [discriminator](../book/glossary.md#discriminator) learns to separate warped images from good
# ones, and the registration network learns to deceive it
# ([Fan et al. 2019](https://doi.org/10.1016/j.media.2019.101545)). A good image is here the fixed
# image with some of the moving one mixed in. `loops.AdversarialSimilarity` holds the second network
# and its optimiser. Its λ is a setting of its own, because its loss has another scale than NCC.

# %%
model = fresh()
rival = loops.AdversarialSimilarity(people.shape)
roles = {"second": rival.learn, "after": rival.after}
contest = loops.train(model, data(), rival.objective, steps=steps, **roles)
measure("discriminator, loop", partial(models.register, model))

# %% tags=["remove-input"]
judged = contest["discriminator_loss"]
against = results["discriminator, loop"]
Markdown(f"""
The discriminator's loss went from {judged.iloc[0]:.2f} to {judged.iloc[-20:].mean():.2f}; a
discriminator that guesses has a loss of $2 \\ln 2$. Dice went from
{results["identity"]["dice_mean"]:.3f} to {against["dice_mean"]:.3f} without any similarity measure,
and {against["folding_percent_brain"]:.2f} % of the brain folded.
""")

# %% [markdown]
# **Could `fit()` do it?** Yes, with a `train_step` that updates both networks. Two optimisers are
# more than a loss function can express.
#
# ## Situation 2: gradients under control
#
# ### The gradient of each loss term
#
# `fit()` uses only the gradient of the weighted sum. A tape gives the gradient of each term, here
# without its weight, for one batch.

# %%
import pandas as pd

batch, model = next(iter(data())), fresh()
norms = {"untrained": loops.gradient_norms(model, batch)}
model.fit(data(), steps_per_epoch=steps, verbose=0)
norms["trained"] = loops.gradient_norms(model, batch)

# %%
columns = {"image_loss": "image loss", "smoothness_loss": "smoothness"}
pd.DataFrame(norms).T.rename(columns=columns)

# %% [markdown]
# The untrained network moves almost nothing, so the smoothness term has almost no gradient. λ
# begins to matter when there is a deformation. **Could `fit()` do it?** The measurement needs a tape
# for one batch and no loop.
#
# ### Two stages
#
# The first stage trains all weights with ten times λ. The second stage freezes the encoder and
# trains the rest with λ. With Keras, that is `compile` and `fit()`, twice.

# %%
half = steps // 2
model = fresh(lam=10 * settings.lam)
model.fit(data(), steps_per_epoch=half, verbose=0);

# %%
for layer in model.layers:
    layer.trainable = "enc_conv" not in layer.name
adam = tf.keras.optimizers.Adam(settings.learning_rate)
model.compile(adam, loss=model.loss, loss_weights=[1.0, settings.lam])
model.fit(data(start_step=half), steps_per_epoch=steps - half, verbose=0)
measure("two stages, fit()", partial(models.register, model))

# %% [markdown]
# **Could `fit()` do it?** Yes, as this section shows. A loop (`loops.train(..., variables=...)`)
# would also keep the optimiser's running averages between the stages.
#
# ## Situation 3: two contrasts in step
#
# Some studies have two contrasts of each subject, such as T1 and T2. We simulate the second one by
# inverting the intensities inside the head. The network receives both contrasts of both subjects,
# and the loss compares the warped first contrast with the fixed *second* one. Both are made from
# the same drawn pair, so they cannot fall out of step. With files, read both by the same index.

# %%
def second(image):
    return tf.where(image > 0.02, 1.02 - image, 0.0)


# %%
def both(inputs, targets):
    moving, fixed = (tf.concat([x, second(x)], -1) for x in inputs)
    return (moving, fixed), (second(inputs[1]), targets[1])


# %% [markdown]
# VxmDense accepts several channels. Its warped image has both, and the loss takes the first.

# %%
def across(similarity):
    def image_term(fixed, warped):
        return similarity(fixed, warped[..., :1])

    backend.set_seed(settings.seed)
    model = vxm.networks.VxmDense(people.shape, int_steps=0, src_feats=2, trg_feats=2)
    smooth_term = vxm.losses.Grad("l2").loss
    adam = tf.keras.optimizers.Adam(settings.learning_rate)
    model.compile(adam, loss=[image_term, smooth_term], loss_weights=[1.0, settings.lam])
    return model


# %% [markdown]
# `models.register` takes images of one contrast, so this network needs a register function.

# %%
def register_both(model):
    field = tf.keras.Model(model.inputs, model.references.pos_flow)

    def register(moving, fixed):
        images = [tf.constant(x[None, ..., None]) for x in (moving, fixed)]
        inputs = [tf.concat([x, second(x)], -1) for x in images]
        return field(inputs, training=False)[0].numpy()

    return register


# %% [markdown]
# Our NCC counts a negative correlation as none, so we also train with voxelmorph's
# [mutual information](../book/glossary.md#mutual-information). λ stays as it is, although it was
# chosen for NCC.

# %% tags=["remove-output"]
from vxmlib import losses

tf.get_logger().setLevel("ERROR")  # neurite's mutual information calls a deprecated function
correlation = losses.LocalNCC().loss
information = vxm.losses.MutualInformation(nb_bins=16).loss

# %%
for name, similarity in {"NCC": correlation, "mutual information": information}.items():
    model = across(similarity)
    model.fit(data().map(both), steps_per_epoch=steps, verbose=0)
    measure(f"two contrasts, {name}, fit()", register_both(model))

# %% [markdown]
# The same training run with mutual information, written as a loop:

# %%
model = across(information)
terms = loops.compiled_terms(model)
loops.train(model, data().map(both), terms, steps=steps)
measure("two contrasts, mutual information, loop", register_both(model))

# %% tags=["remove-input"]
dice = {name: row["dice_mean"] for name, row in results.items()}
ncc = dice["two contrasts, NCC, fit()"]
by_fit, by_loop = (dice[f"two contrasts, mutual information, {way}"] for way in ("fit()", "loop"))
rounding = abs(by_loop - by_fit)
Markdown(f"""
With NCC, Dice is {ncc:.3f}, compared with {dice["identity"]:.3f} before registration. With mutual
information it is {by_fit:.3f} by `fit()` and {by_loop:.3f} by the loop.
""")

# %% tags=["remove-input"]
Markdown(f"""
The last two are the same training run with sums formed in another order. Rounding alone made a
difference of {rounding:.3f} in Dice, so a difference of that size is no finding either.
""")

# %% [markdown]
# **Could `fit()` do it?** Yes. The network takes the channels, the data set keeps them in step, and
# mutual information is a loss like any other.
#
# ## Situation 4: look inside during training
#
# A callback can register a validation pair at any step. This one keeps six of its displacements.

# %%
import numpy as np

moving, fixed = watched[0]
images = people.image(moving), people.image(fixed)
kept = sorted({1, *np.linspace(1, steps, 6).astype(int).tolist()})
film = {}


# %%
class Look(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 in kept:
            film[batch + 1] = models.register(self.model, *images)


# %%
fresh().fit(data(), steps_per_epoch=steps, callbacks=[Look()], verbose=0);

# %% [markdown]
# Each displacement that was kept becomes one frame of a film.

# %% mystnb={"figure": {"caption": "One validation pair while the network trains. Choose a step with the mouse, or with Tab and the arrow keys.", "name": "fig-situations-film"}}
from vxmlib import warp
from vxmlib.book import steppable

frames = []
for step, u in film.items():
    drawn = warp.warp_image(images[0], u), images[1], u, people.brain(fixed)
    frames.append(steppable.registration_step(str(step), *drawn, label="step"))
steppable.steps(frames, name="film", label="step", start=str(kept[-1]))

# %% [markdown]
# **Could `fit()` do it?** Yes, as this section shows. A custom `train_step` is needed only for
# values of the training batch itself, such as the activations of a layer.
#
# ## Compare what each variant gained
#
# The table scores every variant on the same validation pairs.

# %%
table = pd.DataFrame(results).T.astype(float)
headings = ["Dice", "folded, % of the brain", "SD of log det J"]
table.set_axis(headings, axis=1).round(3)

# %% tags=["remove-input"]
others = table.drop(index=[name for name in table.index if name.startswith(("identity", "fit()"))])
gain = others["dice_mean"] - reference
noise = max(seed_range, rounding)
above = list(gain.index[gain > noise])

# %% tags=["remove-input"]
beyond = f"These exceed `fit()` by more than that: {'; '.join(above)}." if above else (
    "No variant exceeds `fit()` by more than that."
)
Markdown(f"""
Every trained row is the stock VxmDense after {steps} steps on slices of {settings.spacing:g} mm,
with {len(people.split["train"])} training subjects. `fit()` reaches a Dice of {reference:.3f}, and
its three seeds span a range of {seed_range:.3f}. {beyond} Each variant was trained once and briefly, so even a
larger difference would be a hint and no ranking.
""")

# %% tags=["remove-cell"]
result.update(Markdown(f"""
**Result.** In training runs of {steps} steps, `fit()` reached a Dice of {reference:.3f}, and
three seeds of it span a range of {seed_range:.3f}. {beyond} Every variant except the folding budget and the discriminator
ran inside `fit()`, and those two need no more than a callback and a custom `train_step`.
"""))

# %% tags=["remove-cell"]
keys = {"curriculum, loop": "curriculum", "λ by a folding budget, loop": "λ by a budget"}
keys |= {"discriminator, loop": "discriminator", "two stages, fit()": "two stages"}
keys |= {"two contrasts, mutual information, loop": "two contrasts, MI"}
keys |= {"two contrasts, mutual information, fit()": "two contrasts, MI, fit()"}
keys |= {"two contrasts, NCC, fit()": "two contrasts, NCC"}

# %% tags=["remove-cell"]
same = abs(dice["curriculum, loop"] - dice["curriculum, fit()"]) < 0.005
numbers = {"steps": steps, "rounding": rounding, "seed_range": seed_range}
numbers["methods"] = table.rename(index=keys).to_dict("index")
numbers["inside_fit"] = {"λ by the step": bool(same)}

# %% tags=["remove-cell"]
spent = perf_counter() - began
record = recording.make_record("16_situations", settings, people, seconds=spent, **numbers)
recording.keep_record("16_situations", record)

# %% [markdown]
# ## See how a loop fails
#
# A loop without guards continues with NaN until its last step. `loops.train` stops and says where
# the last good weights are. A learning rate of ten thousand shows it.

# %%
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
model = fresh(learning_rate=1e4)
terms = loops.compiled_terms(model)

# %%
try:
    loops.train(model, data(), terms, steps=20, keep=folder / "kept.h5", keep_every=1)
except loops.LoopStopped as reason:
    print(str(reason).replace(str(folder), "FOLDER"))

# %% [markdown]
# ## Exercises
#
# **Exercise 1.** Which variants of this page really needed a loop?

# %% [markdown]
# <details><summary>Answer</summary>
#
# None of them. The curriculum, the two stages, the two contrasts and the film ran inside `fit()`. A
# callback can follow a folding budget on validation pairs, and a `train_step` can train a
# discriminator. A loop becomes simpler when several of these wishes meet.
#
# </details>
#
# **Exercise 2.** How often did λ change its direction while it followed the budget?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
turns = np.diff(np.sign(adapted["λ"].diff().dropna())) != 0
print(int(turns.sum()), "times; at the end λ =", round(float(budget.lam), 3))

# %% [markdown]
# ## Summary
#
# - Arguments of the optimiser, callbacks, `tf.data` and `train_step` come first.
# - A loop is needed when two networks or optimisers alternate in ways that `train_step` cannot
#   express, or for research on the step itself.
# - Compare every variant with `fit()` at the same number of steps, by Dice and folding.
# - Train the reference with several seeds before you believe a gain.
# - Guard a loop: stop at NaN with a message, and keep weights that were checked.
#
# **Read on:** [Fan et al. 2019](https://doi.org/10.1016/j.media.2019.101545) train a registration
# network with a discriminator.
