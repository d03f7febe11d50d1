"""Custom training loops equal fit() step by step, and stop with good weights kept."""

import numpy as np
import pytest

from vxmlib import backend, models, pairs, warp
from vxmlib.backend import tf, vxm
from vxmlib.methods import loops

SHAPE = (32, 32)
STEPS = 50


@pytest.fixture(scope="module")
def batches(tiny_cohort):
    def made():
        return pairs.pair_dataset(tiny_cohort, tiny_cohort.split["train"], batch_size=1, seed=0)

    return made


def built(tiny_cohort, **options):
    backend.set_seed(0)
    return models.build(tiny_cohort.shape, learning_rate=1e-3, features="small", **options)


def fitted(model, data):
    """Losses of single steps: an epoch of one step each."""
    history = model.fit(data, epochs=STEPS, steps_per_epoch=1, verbose=0)
    return np.array([history.history[name] for name in ("loss", "image_loss", "smoothness_loss")])


@pytest.fixture(scope="module")
def by_fit(tiny_cohort, batches):
    return fitted(built(tiny_cohort), batches())


class OwnStep(vxm.networks.VxmDense):
    """The step that the lesson 15_steps writes out."""

    def train_step(self, batch):
        inputs, targets = batch
        with tf.GradientTape() as tape:
            outputs = self(inputs, training=True)
            loss = self.compute_loss(inputs, targets, outputs)
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        return self.compute_metrics(inputs, targets, outputs, None)


def test_an_own_train_step_gives_the_losses_of_fit(tiny_cohort, batches, by_fit):
    found = fitted(built(tiny_cohort, network=OwnStep), batches())
    np.testing.assert_allclose(found, by_fit, rtol=1e-5)


def test_a_bare_loop_gives_the_losses_of_fit(tiny_cohort, batches, by_fit):
    model = built(tiny_cohort)
    history = loops.train(model, batches(), loops.compiled_terms(model), steps=STEPS)
    found = history[["loss", "image_loss", "smoothness_loss"]].to_numpy().T
    np.testing.assert_allclose(found, by_fit, rtol=1e-5)
    assert history["step"].tolist() == list(range(1, STEPS + 1))


def test_only_the_named_variables_change(tiny_cohort, batches):
    model = built(tiny_cohort)
    before = model.get_weights()
    flow = model.get_layer("vxm_dense_flow").trainable_variables
    loops.train(model, batches(), loops.compiled_terms(model), steps=2, variables=flow)
    changed = [(a != b).any() for a, b in zip(before, model.get_weights(), strict=True)]
    names = [variable.name for variable in model.weights]
    assert {name for name, c in zip(names, changed, strict=True) if c} == {v.name for v in flow}


def test_nan_stops_the_loop_and_the_weights_kept_before_load(tiny_cohort, batches, tmp_path):
    model = built(tiny_cohort)
    poison, usual = tf.Variable(0.0), loops.compiled_terms(model)

    def objective(inputs, targets, outputs):
        terms = usual(inputs, targets, outputs)
        return {**terms, "loss": terms["loss"] + poison}

    def after(step, logs, outputs):
        if step == 5:
            poison.assign(np.nan)

    path = tmp_path / "kept.h5"
    with pytest.raises(loops.LoopStopped, match=r"step 6: the loss became nan; .*step 4 .*kept"):
        loops.train(model, batches(), objective, steps=10, after=after, keep=path, keep_every=2)
    kept = models.load(path)
    assert all(np.isfinite(weight).all() for weight in kept.get_weights())
    image = tiny_cohort.image(tiny_cohort.split["train"][0])
    assert np.isfinite(models.register(kept, image, image)).all()


def test_a_field_beyond_any_index_stops_the_loop_too(tiny_cohort, batches):
    model = built(tiny_cohort)
    flow = model.get_layer("vxm_dense_flow")
    flow.set_weights([weight + 1e30 for weight in flow.get_weights()])
    with pytest.raises(loops.LoopStopped, match=r"step 1: the (loss became|displacement is no)"):
        loops.train(model, batches(), loops.compiled_terms(model), steps=2)


def test_weights_that_are_no_numbers_at_the_end_are_not_returned(tiny_cohort, batches):
    """The last update is seen by no loss."""
    model = built(tiny_cohort)
    usual = loops.compiled_terms(model)
    optimizer = tf.keras.optimizers.SGD(float("inf"))
    with pytest.raises(loops.LoopStopped, match=r"step 1: weights became NaN or infinite"):
        loops.train(model, batches(), usual, steps=1, optimizer=optimizer)


def test_an_optimiser_that_scales_the_loss_is_refused(tiny_cohort, batches):
    scaled = tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.Adam())
    model = built(tiny_cohort)
    with pytest.raises(ValueError, match="optimizer: found a LossScaleOptimizer"):
        loops.train(model, batches(), loops.compiled_terms(model), steps=1, optimizer=scaled)


def test_without_a_file_the_message_says_that_nothing_was_kept(tiny_cohort, batches):
    def objective(inputs, targets, outputs):
        return {"loss": tf.reduce_mean(outputs[0]) * np.inf}

    with pytest.raises(loops.LoopStopped, match=r"step 1: .* no weights were kept"):
        loops.train(built(tiny_cohort), batches(), objective, steps=2)


def test_batches_that_run_out_are_an_error(tiny_cohort, batches):
    model = built(tiny_cohort)
    with pytest.raises(loops.LoopStopped, match="step 3: the batches ran out, expected 9"):
        loops.train(model, batches().take(2), loops.compiled_terms(model), steps=9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps: found 0, expected a whole number of at least 1"),
        ({"steps": 1, "variables": []}, "variables: found none, expected at least one"),
    ],
)
def test_nothing_to_train_is_an_error(tiny_cohort, batches, wrong, message):
    model = built(tiny_cohort)
    with pytest.raises(ValueError, match=message):
        loops.train(model, batches(), loops.compiled_terms(model), **wrong)


def test_lam_may_be_a_variable_that_changes(tiny_cohort, batches):
    model, lam = built(tiny_cohort), tf.Variable(0.0)
    inputs, targets = next(iter(batches()))
    outputs = (targets[0] * 0.5, tf.random.stateless_normal((1, *SHAPE, 2), seed=(1, 2)))
    objective = loops.compiled_terms(model, lam=lam)
    first = {name: float(v) for name, v in objective(inputs, targets, outputs).items()}
    assert first["loss"] == pytest.approx(first["image_loss"])
    lam.assign(3.0)
    loss = float(objective(inputs, targets, outputs)["loss"])
    assert loss == pytest.approx(first["image_loss"] + 3 * first["smoothness_loss"])


def test_gradient_norms_are_those_of_each_term(tiny_cohort, batches):
    model, batch = built(tiny_cohort), next(iter(batches()))
    found = loops.gradient_norms(model, batch)
    with tf.GradientTape() as tape:
        smooth = tf.reduce_mean(model.loss[-1](None, model(batch[0])[-1]))
    gradients = [g.numpy().ravel() for g in tape.gradient(smooth, model.trainable_variables)]
    assert found["smoothness_loss"] == pytest.approx(np.linalg.norm(np.concatenate(gradients)))
    assert found["image_loss"] > 100 * found["smoothness_loss"]  # it moves nothing yet


def test_a_clock_gives_the_median_of_the_steps():
    clock = loops.Clock()
    clock.times = [0.0, 1.0, 3.0, 4.0]
    assert clock.seconds() == 1
    clock.after(5, {}, None)
    assert len(clock.times) == 5


# --- λ by a budget --------------------------------------------------------------------------


def test_lam_rises_while_too_much_folds_and_falls_else():
    budget = loops.FoldingBudget(percent=1.0, start=1.0, rate=2.0, memory=0.0)
    assert [budget.update(folds) for folds in (5, 5, 0, 1)] == [2, 4, 2, 1]
    assert float(budget.lam) == 1


def test_a_single_outlier_is_smoothed_away():
    budget = loops.FoldingBudget(percent=1.0, start=1.0, rate=2.0, memory=0.9)
    assert [budget.update(folds) for folds in (0, 5, 0)] == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("folds", [100.0, 0.0])
def test_lam_that_leaves_its_range_stops_the_loop(tiny_cohort, batches, tmp_path, folds):
    model = built(tiny_cohort)
    budget = loops.FoldingBudget(percent=1.0, start=1.0, least=0.5, most=2.0, rate=1.5)
    with pytest.raises(loops.LoopStopped, match=r"step 2: λ would become .* step 1 are kept"):
        loops.train(
            model,
            batches(),
            loops.compiled_terms(model),
            steps=9,
            after=lambda *_: {"lam": budget.update(folds)},
            keep=tmp_path / "kept.h5",
            keep_every=1,
        )
    models.load(tmp_path / "kept.h5")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start": 0.0}, "start: found 0.0, expected .* at least 0.001 and of at most 1000"),
        ({"most": 0.5}, "start: found 1.0, .* at most 0.5"),
        ({"rate": 1.0}, "rate: found 1.0, .* above 1"),
        ({"memory": 1.0}, "memory: found 1.0, .* at most 0.999"),
        ({"percent": 0.0}, "percent: found 0.0, .* above 0"),
    ],
)
def test_a_budget_without_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        loops.FoldingBudget(**({"percent": 1.0, "start": 1.0} | wrong))


# --- a discriminator --------------------------------------------------------------------------


def test_both_networks_learn(tiny_cohort, batches):
    model, rival = built(tiny_cohort), loops.AdversarialSimilarity(tiny_cohort.shape)
    before = [w.copy() for w in rival.network.get_weights()]
    weights = model.get_weights()
    history = loops.train(
        model, batches(), rival.objective, steps=3, second=rival.learn, after=rival.after
    )
    assert any((a != b).any() for a, b in zip(before, rival.network.get_weights(), strict=True))
    assert any((a != b).any() for a, b in zip(weights, model.get_weights(), strict=True))
    assert history["discriminator_loss"].iloc[0] == pytest.approx(2 * np.log(2), abs=0.1)


def test_without_its_step_the_discriminator_stays_as_it_is(tiny_cohort, batches):
    """Being found out is the network's affair: its gradient must not reach the discriminator."""
    model, rival = built(tiny_cohort), loops.AdversarialSimilarity(tiny_cohort.shape)
    before = [w.copy() for w in rival.network.get_weights()]
    loops.train(model, batches(), rival.objective, steps=2)
    assert all((a == b).all() for a, b in zip(before, rival.network.get_weights(), strict=True))


def test_a_discriminator_in_place_of_a_similarity_registers(tiny_cohort, batches):
    model, rival = built(tiny_cohort), loops.AdversarialSimilarity(tiny_cohort.shape)
    loops.train(model, batches(), rival.objective, steps=150, second=rival.learn)
    one, other = (tiny_cohort.image(name) for name in tiny_cohort.split["train"][:2])
    gains = []
    for moving, fixed in ((one, other), (other, one)):
        warped = warp.warp_image(moving, models.register(model, moving, fixed))
        gains.append(((warped - fixed) ** 2).mean() / ((moving - fixed) ** 2).mean())
    assert np.mean(gains) < 0.8


def test_a_discriminator_that_wins_outright_ends_the_training():
    rival = loops.AdversarialSimilarity(SHAPE, patience=3)
    for _ in range(2):
        rival.after(1, {"discriminator_loss": 0.001}, None)
    rival.after(3, {"discriminator_loss": 0.5}, None)  # not in a row
    for _ in range(2):
        rival.after(4, {"discriminator_loss": 0.001}, None)
    with pytest.raises(loops.LoopStopped, match="sure and right for 3 steps"):
        rival.after(6, {"discriminator_loss": 0.001}, None)


def test_a_discriminator_can_learn_to_win():
    """It sees that (blend, fixed) and (moving, fixed) are not the same thing."""
    generator = np.random.default_rng(0)
    moving, fixed = (generator.random((1, *SHAPE, 1)).astype("f4") for _ in range(2))
    rival = loops.AdversarialSimilarity(SHAPE)
    outputs = (tf.constant(moving), tf.zeros((1, *SHAPE, 2)))
    losses = [float(rival.learn((moving, fixed), outputs)["discriminator_loss"]) for _ in range(60)]
    assert losses[-1] < 0.1 * losses[0]
