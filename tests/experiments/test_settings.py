"""A lesson's parameters: what passes, and that everything else stops before any work."""

from dataclasses import replace

import numpy as np
import pytest

from vxmlib import records
from vxmlib.augment import Augmentation
from vxmlib.experiments import sweep
from vxmlib.experiments.settings import PROFILES, Settings, read_parameters


def test_what_is_not_given_comes_from_the_profile():
    settings = Settings()
    assert {name: getattr(settings, name) for name in PROFILES["quick"]} == PROFILES["quick"]
    assert settings.steps == 25 * 40


def test_what_is_given_replaces_the_profiles():
    settings = Settings(spacing=2.0, learning_rate=1e-3, schedule="cosine")
    assert (settings.spacing, settings.learning_rate) == (2.0, 1e-3)
    assert settings.schedule == "cosine"
    assert settings.steps == Settings().steps
    assert settings.name == "mni-quick-2mm-rate0.001-cosine-ncc-lam1-int0-seed0"


def test_a_changed_copy_keeps_what_was_given():
    settings = replace(Settings(spacing=2.0, epochs=3), lam=0.5)
    assert (settings.spacing, settings.epochs, settings.lam) == (2.0, 3, 0.5)


def test_full_profile_has_the_papers_step_count():
    assert Settings(profile="full").steps == 150_000
    assert Settings(profile="full").ndim == 3


def test_the_parameters_of_a_record_are_those_of_the_committed_records(root):
    folder = root / "results" / "lambda" / "malf"
    for name, settings in sweep.points(
        root / "config" / "lambda.yaml", "wide", cohort="malf"
    ).items():
        assert records.read(folder / f"{name}.json")["parameters"] == settings.parameters


def test_an_augmentation_may_be_a_mapping():
    values = {"flip": None, "affine": 0, "shift": 1.0, "bend": 0, "width": 8.0}
    assert Settings(augment=values).augment == Augmentation(**values)
    with pytest.raises(ValueError, match="flip: found True"):
        Settings(augment=values | {"flip": True})
    with pytest.raises(ValueError, match="augment: found 'flipp', expected one of: flip, affine"):
        Settings(augment={"flipp": "array"})


PROBABILISTIC = {"image_loss": "mse", "lam": 10, "int_steps": 7, "image_sigma": 0.02}


def test_a_probabilistic_run_has_a_name_of_its_own():
    settings = Settings(**PROBABILISTIC)
    assert settings.name == "mni-quick-mse-lam10-int7-sigma0.02-seed0"
    assert replace(settings, image_sigma=None).name == "mni-quick-mse-lam10-int7-seed0"
    assert "image_sigma" not in settings.parameters


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_sigma": 0}, "image_sigma: found 0, expected a finite number above 0"),
        ({"image_loss": "ncc"}, "image_loss: found 'ncc', expected 'mse' with image_sigma"),
        ({"network": "strided"}, "network: found 'strided', expected 'vxm' with image_sigma"),
        ({"precision": "mixed_bfloat16"}, "precision: found 'mixed_bfloat16', expected 'float32'"),
        ({"lam": 0}, "lam: found 0, expected a number above 0 with image_sigma"),
        ({"int_steps": 0}, "int_steps: found 0, expected a number above 0 with image_sigma"),
    ],
)
def test_a_probabilistic_run_allows_only_what_it_can_do(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**PROBABILISTIC | wrong)


def test_both_ways_is_a_truth_value():
    with pytest.raises(ValueError, match="both_ways: found 'no', expected True or False"):
        Settings(both_ways="no")


def test_the_atlas_is_in_a_name_and_a_record_only_if_there_is_one():
    without, with_it = Settings(), Settings(atlas="template")
    assert with_it.name == "mni-quick-atlas-ncc-lam1-int0-seed0"
    assert with_it.parameters == without.parameters | {"atlas": "template"}
    assert "atlas" not in without.parameters


@pytest.mark.parametrize("atlas", [True, False, ""])
def test_an_atlas_is_a_name_or_a_path(atlas):
    with pytest.raises(ValueError, match=f"atlas: found {atlas!r}, expected 'template', the path"):
        Settings(atlas=atlas)


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
        ({"spacing": 0}, "spacing: found 0, expected a finite number above 0"),
        ({"spacing": "2"}, "spacing: found '2'"),
        ({"learning_rate": float("nan")}, "learning_rate: found nan"),
        ({"epochs": 0}, "epochs: found 0, expected a whole number of at least 1"),
        ({"batch_size": 2.0}, "batch_size: found 2.0"),
        ({"ndim": 4}, "ndim: found 4, expected one of: 2, 3"),
        ({"network": "unet"}, "network: found 'unet', expected one of: strided, vxm"),
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


def test_a_module_of_a_parameters_name_is_no_parameter():
    import vxmlib.pairs

    assert read_parameters({"pairs": vxmlib.pairs}).pairs == PROFILES["quick"]["pairs"]


def test_cells_with_magics_do_not_disturb():
    cells = history("%matplotlib inline", "seed = 1", "# Parameters\nseed = 3\n")
    assert read_parameters({"seed": 3, "In": cells}).seed == 3
