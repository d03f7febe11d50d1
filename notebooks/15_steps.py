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
# # Leave `fit()` only for a reason
#
# | | |
# |---|---|
# | **You will** | see what `fit()` does already, write the same step yourself twice, and use such a loop in four situations |
# | **You will learn** | which situations need a loop, what one gives up by it, and what it gained here |
# | **You need** | [lesson 4](03_fit.ipynb) and [lesson 6](05_jacobian.ipynb) |
# | **In → out** | the people of lesson 4 → eleven trainings of one length, side by side |
# | **Not here** | several machines; better registration: these trainings are short on purpose |
# | **Time** | 30 minutes |

# %% [markdown]
# "I need my own training loop" is often said before `fit()` was asked. A loop of one's own can do
# anything, and forgets everything that `fit()` does unasked: resuming, logging, stopping when the
# loss is no number, several devices. So: ask `fit()` first.

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
from functools import partial

from vxmlib import backend, metrics, models, pairs
from vxmlib.experiments import recording, runs
from vxmlib.methods import loops
from vxmlib.experiments.settings import read_parameters

settings = read_parameters(globals())
people = runs.load_cohort(settings)
steps = max(settings.steps // 4, 6)
print(steps, "steps a training, a quarter of those of lesson 4")

# %% [markdown]
# They are the people of lesson 4 on the grid of [lesson 7](06_lambda.ipynb), which has a quarter of
# the voxels: eleven trainings cost no more than three. Every training starts from the same weights
# and sees the same pairs in the same order:


# %%
def fresh(**options):
    backend.set_seed(settings.seed)
    rate = options.pop("learning_rate", settings.learning_rate)
    options = {"image_loss": settings.image_loss, "lam": settings.lam} | options
    return models.build(people.shape, learning_rate=rate, **options)


def data():
    ids = people.split["train"]
    return pairs.pair_dataset(people, ids, batch_size=1, seed=settings.seed)


# %% [markdown]
# ## Ask `fit()` first
#
# Four wishes for which loops get written. Clipping gradients is an argument of the optimiser;
# freezing is a property of a layer (set it, then compile); a schedule is a callback; and so is
# watching the Jacobian of validation pairs while training.

# %%
from vxmlib import training
from vxmlib.backend import tf, vxm

model = fresh()
encoder = [
    layer for layer in model.layers if "enc_conv" in layer.name and layer.weights
]
for layer in encoder:  # 2: frozen
    layer.trainable = False
limit = 0.01
optimizer = tf.keras.optimizers.SGD(1.0, clipnorm=limit)  # 1: clipped
model.compile(optimizer, loss=model.loss, loss_weights=[1.0, settings.lam])

# %% [markdown]
# Plain descent at a rate of 1 takes the place of Adam here, because then a step is as long as its
# gradient, and one can see whether it was clipped. The other two are callbacks:

# %%
falling = tf.keras.callbacks.LearningRateScheduler(  # 3: scheduled
    lambda epoch, rate: rate / 2 if epoch > 1 else rate
)
few = runs.validation_pairs(people)[:2]
monitor = training.RegistrationMonitor(people, few)  # 4: watched

# %% [markdown]
# All four at once. The first epoch is a single step, and its length is kept:

# %%
import numpy as np

start = [weight.numpy() for weight in model.weights]
options = {"callbacks": [falling, monitor], "verbose": 0}
model.fit(data(), steps_per_epoch=1, **options)
now = [weight.numpy() for weight in model.weights]
step_lengths = [np.linalg.norm(b - a) for a, b in zip(start, now, strict=True)]
history = model.fit(data(), epochs=3, initial_epoch=1, steps_per_epoch=5, **options)

# %% [markdown]
# Did it freeze, clip, follow the schedule and look at the field?

# %%
import pandas as pd

end = {weight.name: weight.numpy() for weight in model.weights}
frozen = [(a == end[w.name]).all() for a, w in zip(start, model.weights, strict=True)]
same = all(
    f for f, w in zip(frozen, model.weights, strict=True) if "enc_conv" in w.name
)
clipped = max(step_lengths) <= 1.001 * limit
print(f"encoder unchanged: {same}; longest step of a weight: {max(step_lengths):.4f}")
watched_columns = list(history.history)
columns = ["lr", "loss", "val_dice", "val_folding_percent"]
pd.DataFrame(history.history)[columns].round(4)

# %% [markdown]
# None of the four needed a loop. `clipnorm` limits each weight tensor by itself, as the longest
# step shows, `global_clipnorm` all of them together. (Adam divides a gradient by its usual size, so
# under Adam clipping does little until a gradient is unusual.)
#
# ## Write the step yourself, and get the same numbers
#
# Between `fit()` and a bare loop lies a third way: keep `fit()`, replace its `train_step`. It is
# four lines (`vxmlib.methods.loops.OwnStep`):
#
# ```python
# with tf.GradientTape() as tape:
#     outputs = self(inputs, training=True)
#     loss = self.compute_loss(inputs, targets, outputs)
# self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
# ```
#
# The last line may be written as `tape.gradient` and `apply_gradients`, to change a gradient on its
# way. Then whoever trains in 16 bits has to scale the loss and unscale the gradient, too
# (`get_scaled_loss`, `get_unscaled_gradients`), which `minimize` does unasked.
#
# The bare loop (`vxmlib.methods.loops.train`) has these lines, its own `for`, and its own guards.
# If all three are right, they give the same losses, step by step. Here is each for some steps:

# %%
count = min(50, 2 * steps)
curves, clocks = {}, {}
for name, network in {
    "fit": {},
    "own train_step": {"network": loops.OwnStep},
}.items():
    model, clocks[name] = fresh(**network), loops.Clock()
    told = model.fit(data(), epochs=count, steps_per_epoch=1, verbose=0)
    curves[name] = np.array(told.history["loss"])
    more = {"steps_per_epoch": count, "callbacks": [clocks[name]]}
    model.fit(data(), verbose=0, **more)

# %% [markdown]
# And the bare loop:

# %%
model, clock = fresh(), loops.Clock()
terms = loops.compiled_terms(model)
told = loops.train(model, data(), terms, steps=count, after=clock.after)
curves["bare loop"], clocks["bare loop"] = told["loss"].to_numpy(), clock

# %% [markdown]
# Side by side:

# %%
bridge = pd.DataFrame(
    {
        name: {
            "last loss": found[-1],
            "largest difference from fit": np.abs(found / curves["fit"] - 1).max(),
            "ms a step": 1000 * clocks[name].seconds(),
        }
        for name, found in curves.items()
    }
).T
bridge.round({"last loss": 6, "ms a step": 1})

# %% tags=["remove-cell"]
from vxmlib.book import glue

glue.glue(
    count=count,
    apart=f"{bridge['largest difference from fit'].max():.0e}".replace("0e+00", "0"),
    share=100 * bridge.loc["bare loop", "ms a step"] / bridge.loc["fit", "ms a step"],
)

# %% [markdown]
# Over {glue:text}`count` steps the largest relative difference is {glue:text}`apart`; a test of
# this project holds it below 1e-5. A step of the bare loop took
# {glue:text}`share:.0f` % of the time of one in `fit()`.
#
# What left with `fit()`: resuming from a checkpoint, `tf.distribute`, mixed precision with its loss
# scaling, callbacks, the progress log. Each would have to be written, and tested, again.
#
# ## The yardstick
#
# `fit()` for as many steps as everything below, measured on the validation people:

# %%
results = {}
watched = runs.pairs_of(people, "validation")


def measured(name, register):
    found = recording.measure(register, people, watched)
    keys = ["dice_mean", "folding_percent_brain", "sd_log_jacobian"]
    results[name] = {key: found[key] for key in keys}
    return pd.Series(results[name]).round(4)


# %% [markdown]
# Each attempt is a loop with another objective, and is measured alike:


# %%
def attempt(name, model, objective, **options):
    told = loops.train(model, data(), objective, steps=steps, **options)
    measured(name, partial(models.register, model))
    return told


# %% [markdown]
# Before, and with `fit()`:

# %%
model = fresh()
model.fit(data(), steps_per_epoch=steps, verbose=0)
measured("identity", "identity")
measured("fit()", partial(models.register, model))

# %% [markdown]
# ## Situation 1: the objective changes while it trains
#
# **A curriculum**, from small deformations to large ones: start stiff, with ten times λ, and let
# it go down to λ over the first half of the steps. An objective is traced once, so a number that
# changes later has to be a `tf.Variable`.

# %%
stiffness = tf.Variable(10 * settings.lam)


def loosen(step, logs, outputs):
    used = float(stiffness)
    left = max(0.0, 1 - 2 * step / steps)
    stiffness.assign(settings.lam * 10**left)
    lengths = tf.norm(outputs[-1], axis=-1) if outputs else [np.nan]
    return {"lam": used, "length": float(tf.reduce_mean(lengths))}


# %% [markdown]
# The loop calls it after each step, with what the model gave:

# %%
model = fresh()
terms = loops.compiled_terms(model, lam=stiffness)
loosened = attempt("curriculum", model, terms, after=loosen)

# %% [markdown]
# Do deformations grow as it loosens? The mean length of each training pair's displacement:

# %% mystnb={"image": {"alt": "Two panels against the step: lambda, which falls by a straight line on a logarithmic axis over the first half and then stays; and the mean length of each training pair's displacement, which rises."}, "figure": {"caption": "The curriculum: λ, and how far it lets the voxels of each training pair move.", "name": "fig-12-curriculum"}}
from vxmlib.book import figures

curves = {"training pair": loosened.set_index("step")}
labels = ["λ", "mean length, voxels"]
figures.steps_of(curves, ["lam", "length"], labels);
# %% [markdown]
# Did that need a loop? A loss may read the variable, and a callback may set it:

# %%
model = fresh()
stiffness.assign(10 * settings.lam)
image_term, smooth_term = model.loss
model.compile(
    tf.keras.optimizers.Adam(settings.learning_rate),
    loss=[image_term, lambda t, u: stiffness * smooth_term(t, u)],
)
schedule = tf.keras.callbacks.LambdaCallback(
    on_batch_end=lambda batch, logs: loosen(batch + 1, logs, None)
)
model.fit(data(), steps_per_epoch=steps, callbacks=[schedule], verbose=0)
measured("curriculum, fit()", partial(models.register, model))

# %% tags=["remove-cell"]
glue.glue(
    by_loop=results["curriculum"]["dice_mean"],
    by_fit=results["curriculum, fit()"]["dice_mean"],
    short_moves=loosened["length"].iloc[: steps // 4].mean(),
    long_moves=loosened["length"].iloc[-steps // 4 :].mean(),
)

# %% [markdown]
# It did not: Dice is {glue:text}`by_loop:.4f` by the loop and {glue:text}`by_fit:.4f` by `fit()`.
# The voxels moved {glue:text}`short_moves:.2f` on average in the first quarter of the steps and
# {glue:text}`long_moves:.2f` in the last.
#
# %% [markdown]
# **A λ that adapts to a folding budget.** Start at a tenth of λ; after each step look at the
# field, raise λ when more folds than the budget allows, and lower it when less does. (A callback
# sees no field of the training pair, but could ask for a validation pair's every few steps.)

# %%
start = {"start": settings.lam / 10, "rate": 1.03, "memory": 0.8}
budget = loops.FoldingBudget(percent=0.05, **start)


def watch_folding(step, logs, outputs):
    folds = metrics.folding(outputs[-1][0].numpy())
    return {"lam": budget.update(folds.percent), "folding": folds.percent}


# %% [markdown]
# What it returns joins the history:

# %%
model = fresh()
terms = loops.compiled_terms(model, lam=budget.lam)
adapted = attempt("λ by a budget", model, terms, after=watch_folding)
adapted[["step", "lam", "folding"]].tail(1)

# %% [markdown]
# Over the steps:

# %% mystnb={"image": {"alt": "Two panels against the step: the weight lambda, which rises while folding is above the budget and falls while it is below, and the percentage of folded voxels of each training pair."}, "figure": {"caption": "λ and the folding of each training pair while λ adapts.", "name": "fig-12-budget"}}
curves = {"training pair": adapted.set_index("step")}
figures.steps_of(curves, ["lam", "folding"], ["λ", "folding, %"]);
# %% [markdown]
# **A discriminator in place of NCC.** It learns to tell a warped image from a good one (the fixed
# image with some of the moving one mixed in), patch by patch, and the network is paid for deceiving
# it {cite}`fan2019adversarial`. Two networks with two optimisers in one step: more than a loss can
# say, so a `train_step` at least. With a loop it is a second function, called after the update. Its
# λ is another one, because a cross-entropy weighs otherwise than NCC.

# %%
model = fresh()
rival = loops.AdversarialSimilarity(people.shape)
roles = {"second": rival.learn, "after": rival.after}
contest = attempt("discriminator", model, rival.objective, **roles)

# %% [markdown]
# The losses of both; $2 \ln 2$ is what a discriminator loses that guesses:

# %% mystnb={"image": {"alt": "Two panels against the step: the loss of the discriminator, which falls below that of guessing, and of the registration network, which rises as the discriminator learns."}, "figure": {"caption": "Two networks against each other: the discriminator's loss, and what the registration network pays for being found out.", "name": "fig-12-contest"}}
losses_of = ["discriminator_loss", "image_loss"]
titles = ["discriminator", "registration network"]
figures.steps_of(
    {"training pair": contest.set_index("step")}, losses_of, titles
);
# %% tags=["remove-cell"]
glue.glue(
    first_guess=contest["discriminator_loss"].iloc[0],
    last_guess=contest["discriminator_loss"].iloc[-20:].mean(),
    rival_dice=results["discriminator"]["dice_mean"],
    unmoved=results["identity"]["dice_mean"],
    by_ncc=results["fit()"]["dice_mean"],
    rival_folds=results["discriminator"]["folding_percent_brain"],
    folds_by_ncc=results["fit()"]["folding_percent_brain"],
)

# %% [markdown]
# The discriminator's loss goes from {glue:text}`first_guess:.2f` to {glue:text}`last_guess:.2f`. With
# no similarity measure at all, Dice goes from {glue:text}`unmoved:.3f` to
# {glue:text}`rival_dice:.3f`, with {glue:text}`rival_folds:.2f` % of the brain folded; NCC reaches
# {glue:text}`by_ncc:.3f` in as many steps, with {glue:text}`folds_by_ncc:.2f` %. What it costs is a
# second network to train, and a contest to watch.

# %% [markdown]
# ## Situation 2: gradients under control
#
# How strong is each term's gradient? `fit()` sees only their sum. With a tape:

# %%
batch, model = next(iter(data())), fresh()
norms = {"untrained": loops.gradient_norms(model, batch)}
model.fit(data(), steps_per_epoch=steps, verbose=0)
norms[f"after {steps} steps"] = loops.gradient_norms(model, batch)
pd.DataFrame(norms).T

# %% [markdown]
# An untrained network moves nothing, so the smoothness has no gradient to speak of; only when
# there is a deformation does λ begin to matter. This needed a tape for one batch, not a loop to
# train by.
#
# **Two stages**: everything, stiff, for half of the steps; then the encoder frozen, and only the
# rest trained at λ. (With Keras that is `compile` and `fit` twice, as freezing above; with a loop
# the optimiser and its memory stay.)

# %%
model = fresh()
half = steps // 2
stiff = loops.compiled_terms(model, lam=10 * settings.lam)
loops.train(model, data(), stiff, steps=half)
rest = [v for v in model.trainable_variables if "enc_conv" not in v.name]
usual = loops.compiled_terms(model)
loops.train(model, data(), usual, steps=steps - half, variables=rest)
measured("two stages", partial(models.register, model))

# %% [markdown]
# ## Situation 3: data that must stay in step
#
# Two contrasts of each person: T1, and a second one that we simulate by inverting intensities
# inside the head. The network sees both of both people; the loss compares the moving T1 with the
# fixed *second* contrast. Our NCC counts a negative correlation as none and cannot do it; mutual
# information can. (A correlation that is squared with its sign lost could, for contrasts that are
# each other's negative; not for a T2.) λ stays as it is, though it was chosen for NCC.


# %%
def second(image):
    return tf.where(image > 0.02, 1.02 - image, 0.0)


def both(inputs, targets):
    moving, fixed = (tf.concat([x, second(x)], -1) for x in inputs)
    return (moving, fixed), (second(inputs[1]), targets[1])


two = partial(vxm.networks.VxmDense, src_feats=2, trg_feats=2)

# %% [markdown]
# The pair is drawn once and both contrasts are made from it, so they cannot fall out of step; with
# files one would read both by the same index. First with NCC, then with mutual information:

# %% tags=["remove-output"]
from vxmlib import losses

information = vxm.losses.MutualInformation(nb_bins=16).loss
correlation = losses.image_loss("ncc")

# %% [markdown]
# The objective, with either of them:


# %%
def across(similarity):
    def objective(inputs, targets, outputs):
        image = tf.reduce_mean(similarity(targets[0], outputs[0][..., :1]))
        smooth = tf.reduce_mean(vxm.losses.Grad("l2").loss(None, outputs[1]))
        return {"loss": image + settings.lam * smooth, "image_loss": image}

    return objective


# %% [markdown]
# `models.register` takes one contrast, so this model is asked by hand:


# %%
def register_two(model):
    field = tf.keras.Model(model.inputs, model.references.pos_flow)

    def register(moving, fixed):
        images = [tf.constant(x[None, ..., None]) for x in (moving, fixed)]
        inputs = [tf.concat([x, second(x)], -1) for x in images]
        return field(inputs, training=False)[0].numpy()

    return register


# %% [markdown]
# Both losses in turn:

# %% tags=["remove-stderr"]
for name, loss in {"NCC": correlation, "MI": information}.items():
    model = fresh(network=two)
    told = loops.train(model, data().map(both), across(loss), steps=steps)
    measured(f"two contrasts, {name}", register_two(model))

# %% [markdown]
# And could `fit()` have taken this? Yes: the network takes two channels as it is, the data set
# does the rest, and mutual information is a loss like any other. What is said to need a loop
# often needs a `tf.data.Dataset`. An epoch of one step each, to compare the losses:

# %%
model = fresh(network=two)
model.compile(
    tf.keras.optimizers.Adam(settings.learning_rate),
    loss=[lambda y, p: information(y, p[..., :1]), model.loss[-1]],
    loss_weights=[1.0, settings.lam],
)
history = model.fit(
    data().map(both), epochs=steps, steps_per_epoch=1, verbose=0
).history
measured("two contrasts, MI, fit()", register_two(model))

# %% tags=["remove-cell"]
drift = np.abs(np.array(history["loss"]) / told["loss"].to_numpy() - 1)
glue.glue(
    wrong_contrast=results["two contrasts, NCC"]["dice_mean"],
    right_contrast=results["two contrasts, MI"]["dice_mean"],
    right_by_fit=results["two contrasts, MI, fit()"]["dice_mean"],
    early=f"{drift[:10].max():.0e}",
    late=f"{drift.max():.0e}",
    rounding=abs(
        results["two contrasts, MI"]["dice_mean"]
        - results["two contrasts, MI, fit()"]["dice_mean"]
    ),
)

# %% [markdown]
# With NCC the network goes where the contrasts mislead it, to a Dice of
# {glue:text}`wrong_contrast:.3f`, below {glue:text}`unmoved:.3f` without any registration. With mutual
# information it is {glue:text}`right_contrast:.3f` by the loop and {glue:text}`right_by_fit:.3f` by
# `fit()`. These two are the same training: over the first ten steps their losses differ by
# {glue:text}`early` at most. Then rounding grows, to {glue:text}`late`, since sums are formed in
# another order. So {glue:text}`rounding:.3f` of Dice is what *nothing* makes; read no smaller
# difference as a finding.

# %% [markdown]
# ## Situation 4: look inside while it trains
#
# The field of one validation pair every few steps, as a film. (A callback could have taken the
# same pictures.)

# %%
first, last = watched[0]
moving, fixed = people.image(first), people.image(last)

# %% [markdown]
# Six steps are kept:

# %%
frames = sorted({1, *np.linspace(1, steps, 6).astype(int).tolist()})
film = {}


def look(step, logs, outputs):
    if step in frames:
        film[step] = models.register(model, moving, fixed)


model = fresh()
terms = loops.compiled_terms(model)
told = loops.train(model, data(), terms, steps=steps, after=look)

# %% [markdown]
# The film:

# %% mystnb={"figure": {"caption": "One validation pair while the network trains: choose a step with the mouse, or with Tab and the arrow keys.", "name": "fig-12-film"}}
from vxmlib import warp
from vxmlib.book import steppable

brain = people.brain(last)
steppable.steps(
    [
        steppable.registration_step(
            str(step), warp.warp_image(moving, u), fixed, u, brain, label="step"
        )
        for step, u in film.items()
    ],
    name="film",
    label="step",
    start=str(frames[-1]),
)

# %% [markdown]
# ## What it gained
#
# All of them, {glue:text}`steps` steps each, on the validation pairs:

# %%
table = pd.DataFrame(results).T
names = ["Dice", "folding, % of brain", "SD log det J"]
table.set_axis(names, axis=1).round(3)

# %% tags=["remove-cell"]
fitted = table.loc["fit()", "dice_mean"]
others = table.drop(index=["identity", "fit()"])
glue.glue(
    steps=steps,
    fit_dice=fitted,
    best=others["dice_mean"].idxmax(),
    best_gain=others["dice_mean"].max() - fitted,
    n_better=int((others["dice_mean"] > fitted).sum()),
    n_others=len(others),
)

# %% tags=["remove-cell"]
dices = table["dice_mean"].astype(float)
recording.keep_record(
    "15_steps",
    recording.make_record(
        "15_steps",
        settings,
        people,
        seconds=steps * clocks["fit"].seconds(),
        steps=steps,
        inside_fit={
            "clipping": bool(clipped),
            "freezing": bool(same),
            "monitoring": "val_folding_percent" in watched_columns,
            "λ by the step": bool(
                abs(dices["curriculum"] - dices["curriculum, fit()"]) < 0.005
            ),
        },
        bridge={name: row.to_dict() for name, row in bridge.iterrows()},
        methods={name: row.to_dict() for name, row in table.astype(float).iterrows()},
        rounding=abs(dices["two contrasts, MI"] - dices["two contrasts, MI, fit()"]),
    ),
)

# %% [markdown]
# `fit()` reaches {glue:text}`fit_dice:.3f`. Of the {glue:text}`n_others` others
# {glue:text}`n_better` lie above it, the best being "{glue:text}`best`"
# ({glue:text}`best_gain:+.3f`). These are short trainings of one seed, so a difference of a
# hundredth is no finding; what the table does show is what each idea costs in folding.

# %% [markdown]
# ## When it breaks
#
# A loop without guards runs on with NaN until morning. `loops.train` stops, and says where the
# last good weights are. A learning rate of ten thousand shows it:

# %%
import tempfile
from pathlib import Path

model = fresh(learning_rate=1e4)
kept = Path(tempfile.mkdtemp()) / "kept.h5"
try:
    terms = loops.compiled_terms(model)
    loops.train(model, data(), terms, steps=20, keep=kept, keep_every=1)
    print("it went through")
except loops.LoopStopped as reason:
    print(str(reason).replace(str(kept.parent), "FOLDER"))

# %% [markdown]
# ## On your own
#
# **Exercise 1.** Which of the four situations did *not* need a loop here?

# %% [markdown]
# :::{admonition} Answer
# :class: dropdown
# None of them strictly did. The least that each needs:
#
# | what | the least it needs |
# |---|---|
# | clipping, freezing | an argument of the optimiser, a property of a layer |
# | a schedule, the Jacobian, the film | a callback |
# | a curriculum, a λ by a rule | a loss that reads a variable, and a callback |
# | two stages | `compile` and `fit`, twice |
# | two contrasts | a `tf.data.Dataset` |
# | gradients by term | a tape, for one batch |
# | a discriminator | a `train_step` |
#
# A loop gains when several of these meet, or when it must stop and say why.
# :::
#
# **Exercise 2.** How often did the budget change its mind?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
turns = np.diff(np.sign(adapted["lam"].diff().dropna())) != 0
print(int(turns.sum()), "times; at the end λ =", round(float(budget.lam), 3))

# %% [markdown]
# ## What you take along
#
# - Ask `fit()` first: arguments, callbacks, `tf.data`, then `train_step`, then a loop.
# - A loop that should equal `fit()` can be tested against it, step by step.
# - Keep weights that were checked to be finite, and stop with a message.
# - Compare with `fit()` at the same number of steps, by Dice and folding.
