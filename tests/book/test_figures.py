"""Figures: orientation, shared scales, and folds painted where they are."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from vxmlib.book import figures

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def image():
    return np.linspace(0, 1, 12 * 10, dtype="float32").reshape(12, 10)


def test_view_puts_superior_up_and_right_to_the_right():
    corner = np.zeros((4, 3))
    corner[3, 2] = 1  # rightmost, most superior
    assert figures.view(corner)[2, 3] == 1


def test_view_cuts_a_volume_through_the_middle():
    volume = np.zeros((4, 5, 3))
    volume[:, 2] = 1
    assert (figures.view(volume) == 1).all()


def test_in_plane_keeps_the_x_and_z_components():
    field = np.stack([np.full((4, 5, 3), k) for k in (1, 2, 3)], -1)
    assert figures.in_plane(field).shape == (4, 3, 2)
    assert figures.in_plane(field)[0, 0].tolist() == [1, 3]


def test_differences_before_and_after_share_one_scale(image):
    fig = figures.registration(image, image[::-1], image, np.zeros((12, 10, 2)))
    differences = [ax.images[0] for ax in fig.axes if "−" in ax.get_title()]
    assert {shown.get_clim() for shown in differences} == {(-1, 1)}


def test_a_grid_line_is_drawn_where_the_field_points():
    field = np.zeros((12, 10, 2))
    field[..., 0] = 2.0
    _, ax = plt.subplots()
    figures.draw_grid(ax, field, every=4)
    x, z = ax.lines[1].get_data()  # the line of x = 4
    assert np.allclose(x, 6) and np.allclose(z, np.arange(10))


def test_maps_in_brain_hide_the_rest_and_leave_unknown_maps_empty(image):
    brain = image > 0.3
    maps = [2 * image, image, np.full(image.shape, np.nan)]
    fig = figures.maps_in_brain(image, maps, brain, ["a", "b", "c", "d"], label="mm")
    drawn = [ax for ax in fig.axes if ax.get_title()]
    assert [len(ax.images) for ax in drawn] == [1, 1, 1, 0]
    shown = drawn[1].images[0]
    assert shown.get_clim() == (0, pytest.approx(np.percentile(2 * image[brain], 99)))
    assert (np.ma.getmaskarray(shown.get_array()) == ~figures.view(brain)).all()
    assert [ax.get_ylabel() for ax in fig.axes if ax.get_ylabel()] == ["mm", "mm"]


def test_folds_are_painted_and_counted():
    det = np.ones((12, 10))
    det[3, 4] = -0.5
    det[0, 0] = -1  # outside the brain: neither painted nor counted
    brain = np.zeros((12, 10), bool)
    brain[2:8, 2:8] = True
    fig = figures.determinant_maps([det], [brain], ["a"])
    painted = fig.axes[0].images[1]
    assert "1 folded" in fig.axes[0].get_title()
    assert np.argwhere(~painted.get_array().mask).tolist() == [[4, 3]]
    assert painted.cmap(0)[:3] == pytest.approx(to_rgb(figures.FOLD_COLOUR))


def test_two_answers_paint_folds_and_carry_lines(image):
    still, mirrored = (np.zeros((*image.shape, 2)) for _ in range(2))
    mirrored[..., 0] = -2 * np.arange(image.shape[0])[:, None]  # x becomes -x: all folds
    brain = np.ones(image.shape, bool)
    fig = figures.two_answers(image, image, [still, mirrored], brain, ["none", "all"])
    for ax, share in zip(fig.axes[2:], (0.0, 1.0), strict=True):
        folds = ax.get_images()[-1].get_array()
        assert (~np.ma.getmaskarray(folds)).mean() == share
    lines = fig.axes[2].collections[0].get_paths()  # of the field that moves nothing: straight
    drawn = [path.vertices[:, 0] for path in lines if len(path.vertices)]
    assert len(drawn) > 1 and all(np.ptp(x) == 0 for x in drawn)


def test_log_det_is_centred_at_no_change():
    fig = figures.determinant_maps([np.ones((4, 4))], [np.ones((4, 4), bool)], ["a"])
    assert fig.axes[0].images[0].norm(0.0) == pytest.approx(0.5)


def tidy(shift):
    rows = [
        {"moving": m, "fixed": "f", "structure": s, "dice": base + shift}
        for m in "ab"
        for s, base in (("big", 0.7), ("small", 0.4))
    ]
    return pd.DataFrame(rows)


def test_boxes_put_the_best_structure_on_top():
    fig = figures.boxes_by_structure(tidy(0.0), tidy(0.1))
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ["small", "big"]


def test_methods_are_drawn_by_their_seconds_and_their_folding():
    dice = {"identity": 0.6, "net": 0.7, "SyN": 0.8, "not measured": None}
    table = pd.DataFrame({"dice": dice, "seconds": {"identity": 0.0, "net": 1.0, "SyN": 50.0}})
    table["folding_percent_brain"] = pd.Series({"identity": 0.0, "net": 0.5, "SyN": 0.0})
    kinds = {"identity": "affine only", "net": "learned", "SyN": "classical"}
    left, right = figures.dice_by_cost(table, kinds).axes
    for ax, values in ((left, [1.0, 50.0]), (right, [0.5, 0.0])):
        identity, *points = ax.get_lines()
        assert set(identity.get_ydata()) == {0.6}
        assert [p.get_label() for p in points] == ["net", "SyN"]
        assert [p.get_xdata()[0] for p in points] == values
        assert [p.get_ydata()[0] for p in points] == [0.7, 0.8]
        assert points[0].get_color() != points[1].get_color()
    assert (left.get_xscale(), right.get_xscale()) == ("log", "symlog")
    new = {"identity": "unaligned"}
    renamed = {new.get(name, name): kind for name, kind in kinds.items()}
    ax = figures.dice_by_cost(table.rename(index=new), renamed, before="unaligned").axes[0]
    line, *points = ax.get_lines()
    assert set(line.get_ydata()) == {0.6} and len(points) == 2


def test_more_curves_than_styles_are_all_drawn():
    names = [f"method {n}" for n in range(15)]
    table = pd.DataFrame({"dice": 0.7, "seconds": 1.0, "folding_percent_brain": 0.1}, index=names)
    kinds = dict.fromkeys(names, "learned")
    _, labels = figures.dice_by_cost(table, kinds).axes[0].get_legend_handles_labels()
    assert labels == names
    curves = {name: pd.DataFrame({"dice": [0.6, 0.7]}) for name in names}
    _, labels = figures.steps_of(curves, ["dice"], ["Dice"]).axes[0].get_legend_handles_labels()
    assert labels == names


def test_steps_are_whole_numbers_on_the_axis():
    few = pd.DataFrame({"dice": [0.5, 0.6, 0.7]}, index=[1, 2, 3])
    ticks = figures.steps_of({"a": few}, ["dice"], ["Dice"]).axes[0].get_xticks()
    assert all(tick == round(tick) for tick in ticks) and {1, 2, 3} <= set(ticks)
    few.index = [0.1, 0.2, 0.3]  # seconds
    ticks = figures.steps_of({"a": few}, ["dice"], ["Dice"]).axes[0].get_xticks()
    assert sum(0.1 <= tick <= 0.3 for tick in ticks) > 2


def test_runs_stand_in_order_with_their_sd_and_the_reference():
    table = pd.DataFrame({"dice": [0.6, 0.7], "sd": [0.01, 0.02]}, index=["plain", "wide"])
    (ax,) = figures.dots_of_runs(table, {"dice": "sd"}, ["Dice"], reference="plain").axes
    dashed, points, *_ = ax.get_lines()
    assert set(dashed.get_xdata()) == {0.6}
    assert list(points.get_xdata()) == [0.6, 0.7]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["plain", "wide"]
    assert ax.yaxis_inverted()
    bars = ax.collections[0].get_segments()
    assert np.allclose([bar[1, 0] - bar[0, 0] for bar in bars], [0.02, 0.04])


def test_pairs_are_drawn_before_against_after():
    fig = figures.dice_by_pair(tidy(0.0), tidy(0.1))
    x, y = fig.axes[0].lines[1].get_data()
    assert np.allclose(y - x, 0.1)


def test_histogram_is_in_percent_of_the_brain():
    det = np.ones((10, 10))
    fig = figures.determinant_histogram([det], [np.ones((10, 10), bool)], ["a"])
    assert fig.axes[0].lines[0].get_ydata().sum() == pytest.approx(100)


@pytest.fixture
def lambda_table():
    """Curves of two losses with and without integration, λ = 0 among them."""
    rows = [
        (loss, int_steps, lam, 0.6 + lam / 100, 0.59 + lam / 100, 0.63 + lam / 100)
        for loss, lams in (("ncc", (0, 0.1, 1, 5)), ("mse", (0, 0.01, 0.1)))
        for int_steps in (0, 7)
        for lam in lams
    ]
    return pd.DataFrame(rows, columns=["image_loss", "int_steps", "lam", "mean", "low", "high"])


def test_lambda_curves_show_each_lam_and_the_spread(lambda_table):
    fig = figures.lambda_curves(lambda_table, lambda_table, identity=0.5)
    dice, _, folding, _ = fig.axes
    assert [label.get_text() for label in dice.get_xticklabels()] == ["0", "0.1", "1", "5"]
    line = dice.containers[0].lines[0]
    assert line.get_xdata().tolist() == [0, 0.1, 1, 5]
    bars = dice.containers[0].lines[2][0].get_segments()
    assert bars[0][:, 1] == pytest.approx([0.59, 0.63])
    assert folding.get_ylabel() == "folding, % of brain"
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert names == ["before registration", "without integration", "with integration"]


def test_lambda_curves_draw_single_runs_and_one_network_over_them(lambda_table):
    points = pd.DataFrame(
        {"image_loss": "ncc", "lam": [1.0], "dice_mean": [0.7], "folding_percent_brain": [0.1]}
    )
    fig = figures.lambda_curves(
        lambda_table, lambda_table, identity=0.5, points=points, hyper=points.assign(dice_mean=0.6)
    )
    drawn = {line.get_label(): line for line in fig.axes[0].lines}
    assert drawn["this build"].get_ydata().tolist() == [0.7]
    assert drawn["one network for all λ"].get_ydata().tolist() == [0.6]


def test_lambda_shape_puts_every_best_at_zero(lambda_table):
    ours = {"mni": lambda_table[lambda_table["int_steps"] == 0]}
    paper = pd.DataFrame(
        {"image_loss": ["ncc", "ncc", "mse"], "lam": [0, 1, 0.01], "dice": [0.68, 0.74, 0.7]}
    )
    fig = figures.lambda_shape(ours, paper)
    for ax in fig.axes:
        for line in ax.lines:
            assert max(line.get_ydata()) == 0
    assert fig.axes[0].lines[1].get_ydata() == pytest.approx([-0.06, 0.0])
