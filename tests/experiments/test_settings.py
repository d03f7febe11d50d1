"""A lesson's parameters: what passes, and that everything else stops before any work."""

import numpy as np
import pytest

from vxmlib.experiments.settings import PROFILES, Settings, read_parameters


def test_defaults_run_as_they_are():
    settings = Settings()
    assert settings.plan == PROFILES["quick"]
    assert settings.plan.steps == settings.plan.epochs * settings.plan.steps_per_epoch


def test_what_settings_name_replaces_the_profiles():
    settings = Settings(spacing=2.0, learning_rate=1e-3, schedule="cosine")
    assert (settings.plan.spacing, settings.plan.learning_rate) == (2.0, 1e-3)
    assert settings.plan.schedule == "cosine"
    assert settings.plan.steps == PROFILES["quick"].steps
    assert settings.name == "mni-quick-2mm-rate0.001-cosine-ncc-lam1-int0-seed0"


def test_full_profile_has_the_papers_step_count():
    assert PROFILES["full"].steps == 150_000
    assert PROFILES["full"].ndim == 3


@pytest.mark.parametrize("lam", [0, 0.5, np.float32(2), 10])
def test_lam_takes_any_number_from_zero(lam):
    assert Settings(lam=lam).lam == lam


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"lam": -0.1}, "lam: found -0.1"),
        ({"lam": float("nan")}, "lam: found nan"),
        ({"lam": float("inf")}, "lam: found inf"),
        ({"lam": "much"}, "lam: found 'much'"),
        ({"lam": True}, "lam: found True"),
        ({"cohort": "oasis3"}, "cohort: found 'oasis3', expected one of: mni, malf, own"),
        ({"profile": "fast"}, "profile: found 'fast'"),
        ({"image_loss": "nmi"}, "image_loss: found 'nmi'"),
        ({"seed": -1}, "seed: found -1"),
        ({"seed": 1.5}, "seed: found 1.5"),
        ({"int_steps": "7"}, "int_steps: found '7'"),
        ({"spacing": 0}, "spacing: found 0, expected a number above 0"),
        ({"spacing": "2"}, "spacing: found '2'"),
        ({"learning_rate": float("nan")}, "learning_rate: found nan"),
        ({"schedule": "step"}, "schedule: found 'step', expected one of: constant, cosine"),
        ({"cohort": "own"}, "needs root"),
        ({"root": "scans"}, "no other cohort takes one"),
    ],
)
def test_a_wrong_value_is_named(wrong, named):
    with pytest.raises(ValueError) as error:
        Settings(**wrong)
    assert named in str(error.value)


def test_names_tell_runs_apart():
    runs = [Settings(lam=lam, seed=seed) for lam in (0.01, 0.1, 1) for seed in (0, 1)]
    assert len({run.name for run in runs}) == len(runs)


def history(*cells):
    return ["", *cells]


def test_papermills_cell_overrides_the_defaults():
    namespace = {"lam": 0.5, "In": history("lam = 1.0", "# Parameters\nlam = 0.5\n")}
    assert read_parameters(namespace).lam == 0.5


def test_a_misspelt_parameter_is_an_error_that_lists_the_right_ones():
    cells = history("cohort = 'mni'\nlam: float = 1.0", "# Parameters\nlamb = 0.5\n")
    with pytest.raises(ValueError, match=r"'lamb'.*it has: cohort, lam"):
        read_parameters({"cohort": "mni", "lam": 1.0, "lamb": 0.5, "In": cells})


def test_a_parameter_of_another_lesson_is_an_error_too():
    cells = history("cohort = 'mni'", "# Parameters\nlam = 0.5\n")
    with pytest.raises(ValueError, match="'lam'"):
        read_parameters({"cohort": "mni", "lam": 0.5, "In": cells})


def test_cells_with_magics_do_not_disturb():
    cells = history("%matplotlib inline", "seed = 1", "# Parameters\nseed = 3\n")
    assert read_parameters({"seed": 3, "In": cells}).seed == 3
