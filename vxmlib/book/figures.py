"""Every figure of the book: a function of arrays or tables that returns a Matplotlib figure.

Images are drawn as a reader of scans expects a coronal slice: superior is up, and the
person's right is on the right (the first array axis runs to the Right, the last to Superior).
A 3D array is cut through the middle of its second axis. Panels that are compared share one
grey scale or one colour bar; nothing is told by colour alone.
"""

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vxmlib import metrics, warp

#: Folded voxels (det ≤ 0) have this one colour in every figure, and a title that counts them.
FOLD_COLOUR = "#d7007f"
BEFORE, AFTER = "#8a8a8a", "#1f5fa8"
EDGE_COLOUR = "#00b8d4"  # of the fixed image, drawn on another
LINE_COLOUR = "#f2c14e"  # of lines on a grey image
_WITH_MARKERS = ("-o", "--s", ":^", "-.v")
LOG_DET_LIMIT = 1.5  # the maps' scale ends here on both sides


def view(array: np.ndarray) -> np.ndarray:
    """The coronal slice of an array, transposed so that ``imshow(origin="lower")`` is upright.

    Parameters
    ----------
    array : ndarray, ``(x, z)`` or ``(x, y, z)``
        A slice is taken as it is, a volume through the middle of ``y``.

    Examples
    --------
    >>> view(np.zeros((4, 6, 5))).shape
    (5, 4)
    """
    plane = array if array.ndim == 2 else array[:, array.shape[1] // 2]
    return plane.T


def in_plane(displacement: np.ndarray) -> np.ndarray:
    """The x and z components of a displacement in the shown plane, ``(x, z, 2)``, in voxels."""
    if displacement.shape[-1] == 2:
        return displacement
    return displacement[:, displacement.shape[1] // 2, :, ::2]


def _image(ax, array, *, title=None, vmax=1.0, vmin=0.0, cmap="gray"):
    # Voxels as they are: smoothed ones triple the bytes, and colours then get lost on the page.
    shown = ax.imshow(
        view(array), cmap=cmap, vmin=vmin, vmax=vmax, origin="lower", interpolation="nearest"
    )
    ax.set_axis_off()
    if title:
        ax.set_title(title, fontsize=10)
    return shown


def _mark_right(ax) -> None:
    """Letter the side, so that left and right need no legend elsewhere."""
    ax.text(
        0.97,
        0.04,
        "R",
        transform=ax.transAxes,
        color="white",
        fontsize=9,
        ha="right",
        bbox={"facecolor": "black", "edgecolor": "none", "pad": 1.5},
    )


def _outline(ax, labels, which, colours) -> None:
    for label, colour in zip(which, colours, strict=True):
        mask = view(labels == label)
        if mask.any():
            ax.contour(mask, levels=[0.5], colors=[colour], linewidths=0.9)


def people(images, titles, *, labels=None, columns=5, side=True) -> Figure:
    """A contact sheet: one slice a person, on one grey scale, with label outlines if given.

    Parameters
    ----------
    images : list of ndarray
        Images in [0, 1], ``(*vol)``.
    titles : list of str
        One a person.
    labels : list of ndarray, optional
        Label maps on the images' grids; each structure is outlined.
    columns : int
        People in a row.
    side : bool
        Letter the right side; False where an image is not in RAS order.
    """
    rows = -(-len(images) // columns)
    wide = min(8.0 / columns, 2.7)  # of a panel, in inches: few people are drawn larger
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(wide * columns, (wide + 0.15) * rows),
        squeeze=False,
        layout="constrained",
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for k, (ax, image, title) in enumerate(zip(axes.flat, images, titles, strict=False)):
        _image(ax, image, title=title)
        if labels is not None:
            which = np.unique(labels[k])[1:]
            _outline(ax, labels[k], which, plt.cm.tab20(np.arange(len(which)) % 20))
    if side:
        _mark_right(axes.flat[0])
    return fig


def pair(moving, fixed, *, titles=("moving", "fixed")) -> Figure:
    """Two images of a pair and their difference, before any registration."""
    fig, axes = plt.subplots(1, 3, figsize=(8.2, 3.1), layout="constrained")
    _image(axes[0], moving, title=titles[0])
    _image(axes[1], fixed, title=titles[1])
    difference = _image(
        axes[2], moving - fixed, title="moving − fixed", vmin=-1, vmax=1, cmap="PuOr"
    )
    _mark_right(axes[0])
    fig.colorbar(difference, ax=axes[2], shrink=0.8, label="intensity difference")
    return fig


def registration(moving, fixed, warped, displacement, *, every=5) -> Figure:
    """A registered pair: moving, fixed, warped; both differences on one scale; the grid.

    Parameters
    ----------
    moving, fixed, warped : ndarray, ``(*vol)``
        Images in [0, 1].
    displacement : ndarray, ``(*vol, nd)``
        In voxels, pull, on the fixed grid.
    every : int
        Grid line spacing in voxels.
    """
    fig, axes = plt.subplots(2, 3, figsize=(6.9, 5.4), layout="constrained")
    for ax, image, title in zip(
        axes[0], (moving, fixed, warped), ("moving", "fixed", "warped moving"), strict=True
    ):
        _image(ax, image, title=title)
    _mark_right(axes[0, 0])
    for ax, image, title in zip(
        axes[1], (moving, warped), ("before: moving − fixed", "after: warped − fixed"), strict=False
    ):
        shown = _image(ax, image - fixed, title=title, vmin=-1, vmax=1, cmap="PuOr")
    fig.colorbar(
        shown, ax=axes[1, :2], location="bottom", shrink=0.6, pad=0.04, label="intensity difference"
    )
    draw_grid(axes[1, 2], displacement, every=every)
    axes[1, 2].set_title("deformed grid", fontsize=10)
    return fig


def draw_grid(ax, displacement, *, every=5) -> None:
    """Draw where the lines of the fixed grid land in the moving image (in-plane part)."""
    field = in_plane(displacement)
    x, z = np.meshgrid(*map(np.arange, field.shape[:2]), indexing="ij")
    gx, gz = x + field[..., 0], z + field[..., 1]
    for k in range(0, x.shape[0], every):
        ax.plot(gx[k], gz[k], color="0.25", lw=0.6)
    for k in range(0, x.shape[1], every):
        ax.plot(gx[:, k], gz[:, k], color="0.25", lw=0.6)
    ax.set(aspect="equal", xlim=(0, x.shape[0] - 1), ylim=(0, x.shape[1] - 1))
    ax.set_axis_off()


def deformed_grids(displacements, titles, *, every=5) -> Figure:
    """Deformed grids side by side, at one scale."""
    count = len(displacements)
    fig, axes = plt.subplots(
        1, count, figsize=(3.1 * count, 3.3), squeeze=False, layout="constrained"
    )
    for ax, displacement, title in zip(axes[0], displacements, titles, strict=True):
        draw_grid(ax, displacement, every=every)
        ax.set_title(title, fontsize=10)
    return fig


def registration_frame(
    warped, fixed, displacement, mask, title, *, outline=None, every=4, width=5.0
) -> Figure:
    """One registration in one picture that can take another's place: images, grid, log det J.

    Size, panels and colour scales depend on the shape of the arrays alone, so nothing jumps
    when pictures of one pair follow each other (:func:`vxmlib.book.steppable.steps`).

    Parameters
    ----------
    warped, fixed : ndarray, ``(*vol)``
        Images in [0, 1] on the fixed grid.
    displacement : ndarray, ``(*vol, nd)``
        In voxels, pull, on the fixed grid.
    mask : ndarray of bool, ``(*vol)``
        The fixed image's brain: log det J is drawn, and folds are counted, inside it.
    title : str
        Above all panels, one line.
    outline : ndarray, ``(*vol)``, optional
        Label map or mask of the fixed image whose edges are drawn on the warped one; by
        default `mask`.
    every : int
        Grid line spacing in voxels.
    width : float
        Inches; the height follows from the shape of the images.
    """
    rows, columns = view(fixed).shape
    wide = 0.41 * width  # of a panel, in inches
    tall = wide * rows / columns
    top, between, bottom = 0.58, 0.30, 0.36  # room for titles and the key
    height = top + tall + between + tall + bottom
    fig = plt.figure(figsize=(width, height))
    axes = [
        fig.add_axes((left, low / height, wide / width, tall / height))
        for low in (bottom + tall + between, bottom)
        for left in (0.01, 0.435)
    ]
    edges = np.asarray(mask if outline is None else outline)
    which = np.unique(edges[edges != 0])
    _image(axes[0], warped, title="warped moving")
    _outline(axes[0], edges, which, [EDGE_COLOUR] * len(which))
    _mark_right(axes[0])
    difference = _image(
        axes[1], warped - fixed, title="warped − fixed", vmin=-1, vmax=1, cmap="PuOr"
    )
    draw_grid(axes[2], displacement, every=every)
    axes[2].set_title("deformed grid", fontsize=10)
    log_det, folded = draw_log_determinant(
        axes[3], metrics.jacobian_determinant(displacement), mask
    )
    axes[3].set_title(f"log det J, {folded} folded", fontsize=10)
    fig.colorbar(difference, cax=axes[1].inset_axes((1.03, 0.05, 0.06, 0.9)))
    bar = axes[3].inset_axes((1.03, 0.16, 0.06, 0.68))
    fig.colorbar(log_det, cax=bar, extend="both")
    bar.text(0, 1.12, "moving\nshrinks", transform=bar.transAxes, fontsize=8, va="bottom")
    bar.text(0, -0.12, "moving\ngrows", transform=bar.transAxes, fontsize=8, va="top")
    key = [
        Line2D([], [], color=EDGE_COLOUR, label="edges in the fixed image"),
        Patch(facecolor=FOLD_COLOUR, label="folded: det J ≤ 0"),
    ]
    fig.legend(handles=key, loc="lower center", frameon=False, ncols=2, fontsize=9)
    fig.suptitle(title, fontsize=11, x=0.425, y=1 - 0.06 / height, va="top")
    return fig


def curves(history, columns, *, ylabel, x="step") -> Figure:
    """Columns of a training history against the optimiser step.

    Parameters
    ----------
    history : pandas.DataFrame
        One row an epoch, with the column ``x``.
    columns : dict
        Column of ``history`` -> its name in the legend.
    ylabel : str
        What is drawn, with its unit.
    """
    fig, ax = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
    for (column, name), style in zip(columns.items(), cycle(("-", "--", ":", "-.")), strict=False):
        ax.plot(history[x], history[column], style, marker=".", label=name)
    ax.set(xlabel="optimiser step" if x == "step" else x, ylabel=ylabel)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return fig


def convergence(history) -> Figure:
    """Loss, Dice and folding of the validation pairs against the step, one above the other."""
    fig, axes = plt.subplots(3, 1, figsize=(6.4, 6.2), sharex=True, layout="constrained")
    axes[0].plot(history["step"], history["loss"], "-", marker=".", label="training")
    axes[0].plot(history["step"], history["val_loss"], "--", marker="x", label="validation")
    axes[0].legend(frameon=False)
    axes[0].set_ylabel("total loss")
    axes[1].plot(history["step"], history["val_dice"], "--", marker="x", color=AFTER)
    axes[1].set_ylabel("Dice, validation")
    axes[2].plot(
        history["step"], history["val_folding_percent"], "--", marker="x", color=FOLD_COLOUR
    )
    axes[2].set(ylabel="folding, % of brain", xlabel="optimiser step")
    for ax in axes:
        ax.grid(alpha=0.3)
    return fig


def boxes_by_structure(before, after, *, names=("identity", "VoxelMorph")) -> Figure:
    """Dice by structure as horizontal boxes, before and after, best structure on top.

    Parameters
    ----------
    before, after : pandas.DataFrame
        Tidy tables of :func:`vxmlib.metrics.evaluate_pairs` over the same pairs.
    names : tuple of str
        What the two tables are called in the legend.
    """
    order = after.groupby("structure")["dice"].median().sort_values().index
    fig, ax = plt.subplots(figsize=(7.2, 0.30 * len(order) + 1.4), layout="constrained")
    for table, colour, shift in ((before, BEFORE, -0.19), (after, AFTER, 0.19)):
        data = [table.loc[table["structure"] == name, "dice"] for name in order]
        boxes = ax.boxplot(
            data,
            orientation="horizontal",
            positions=np.arange(len(order)) + shift,
            widths=0.32,
            patch_artist=True,
            flierprops={"markersize": 2},
            medianprops={"color": "black"},
        )
        for box in boxes["boxes"]:
            box.set(facecolor=colour, hatch="//" if table is before else None, alpha=0.85)
    ax.set(yticks=np.arange(len(order)), xlabel="Dice", xlim=(0, 1))
    ax.set_yticklabels(order, fontsize=8)
    ax.grid(axis="x", alpha=0.3)
    handles = [Patch(facecolor=BEFORE, hatch="//"), Patch(facecolor=AFTER)]
    fig.legend(handles, names, frameon=False, loc="outside upper center", ncols=2)
    return fig


def steps_of(curves, columns, ylabels, *, xlabel="step", points=None) -> Figure:
    """Columns of several tables against their index, the step; one panel a column.

    Parameters
    ----------
    curves : dict of str to pandas.DataFrame
        Name to table, indexed by step.
    columns, ylabels : list of str
        What to draw, and what to call it.
    xlabel : str
        What the index is.
    points : dict of str to pandas.Series, optional
        Name to a single result: a value for each column, and its place on the axis as its name.
    """
    legend_rows = -(-(len(curves) + len(points or ())) // 2)
    shape = {"figsize": (6.4, 2.8 + 0.22 * legend_rows), "layout": "constrained", "squeeze": False}
    fig, (axes,) = plt.subplots(1, len(columns), **shape)
    for ax, column, ylabel in zip(axes, columns, ylabels, strict=True):
        for (name, table), style in zip(curves.items(), cycle(_WITH_MARKERS), strict=False):
            ax.plot(table.index, table[column], style, ms=4, markevery=_every(table), label=name)
        for (name, point), marker in zip((points or {}).items(), cycle("DXPp*h"), strict=False):
            ax.plot(point.name, point[column], marker, color="k", label=name)
        ax.set(xlabel=xlabel, ylabel=ylabel)
        if all(table.index.dtype.kind in "iu" for table in curves.values()):
            ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(alpha=0.3)
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(handles, names, frameon=False, loc="outside lower center", ncols=2)
    return fig


def _every(table):
    """Markers at about a dozen points: more of them hide the line."""
    return max(1, len(table) // 12)


def dots_by_structure(before, after, *, names=("before", "after")) -> Figure:
    """Dice of each structure as two dots joined by a line: of few pairs, or means over many.

    Parameters
    ----------
    before, after : pandas.DataFrame
        ``structure`` and ``dice``, one row a structure.
    names : two str
        What the legend calls them.
    """
    both = before.merge(after, on="structure", suffixes=("_before", "_after"))
    both = both.sort_values("dice_after")
    fig, ax = plt.subplots(figsize=(6.4, 0.9 + 0.19 * len(both)), layout="constrained")
    ax.hlines(both["structure"], both["dice_before"], both["dice_after"], color="0.75", lw=2)
    ax.plot(both["dice_before"], both["structure"], "o", mfc="w", mec=BEFORE, label=names[0])
    ax.plot(both["dice_after"], both["structure"], "o", color=AFTER, label=names[1])
    least = both[["dice_before", "dice_after"]].min().min()
    ax.set(xlabel="Dice", xlim=(max(0, least - 0.05), 1), ylim=(-0.8, len(both) - 0.2))
    ax.tick_params(axis="y", labelsize=8)
    ax.grid(axis="x", alpha=0.3)
    fig.legend(frameon=False, loc="outside upper center", ncols=2)
    return fig


def dots_of_runs(table, columns, labels, *, reference) -> Figure:
    """Means over seeds with their SD, one line a run, one panel a column; dashed: one of the runs.

    Parameters
    ----------
    table : pandas.DataFrame
        By run, as readers see it, the first on top: each of ``columns``.
    columns : dict of str to str
        Column of the means -> column of the SD.
    labels : list of str
        What each panel's axis is called.
    reference : str
        The run that the others are compared with.
    """
    size = (6.2, 0.9 + 0.24 * len(table))
    fig, axes = plt.subplots(1, len(columns), figsize=size, sharey=True, layout="constrained")
    for ax, (mean, sd), label in zip(np.atleast_1d(axes), columns.items(), labels, strict=True):
        ax.axvline(table.loc[reference, mean], ls="--", color="0.5")
        ax.errorbar(table[mean], table.index, xerr=table[sd], fmt="o", color=AFTER, capsize=3)
        ax.set_xlabel(label)
        ax.grid(axis="x", alpha=0.3)
    ax.invert_yaxis()
    return fig


def dice_by_seconds(table, *, before="identity") -> Figure:
    """Dice against seconds for a pair, one labelled marker a method; before registration, a line.

    Parameters
    ----------
    table : pandas.DataFrame
        By method, as readers see it: ``dice`` and ``seconds``; a method without either is left
        out.
    before : str
        The method that is drawn as a line, if the table has it.
    """
    fig, ax = plt.subplots(figsize=(6.2, 5.2), layout="constrained")
    if before in table.index:
        ax.axhline(table.loc[before, "dice"], ls="--", color="0.5")
        place = (0.01, table.loc[before, "dice"])
        ax.annotate(before, place, xycoords=("axes fraction", "data"), va="bottom")
    measured = table.drop(index=before, errors="ignore").dropna(subset=["dice", "seconds"])
    for (name, row), marker in zip(measured.iterrows(), cycle("osD^vPX<>*ph"), strict=False):
        ax.plot(row["seconds"], row["dice"], marker, ms=8, label=name)
    ax.set(xscale="log", xlabel="seconds for a pair", ylabel="Dice")
    ax.grid(alpha=0.3)
    fig.legend(frameon=False, loc="outside lower left", ncols=1 if len(measured) < 4 else 2)
    return fig


def dice_by_pair(before, after) -> Figure:
    """Mean Dice of each pair before against after; the diagonal is "nothing gained"."""
    fig, ax = plt.subplots(figsize=(4.2, 4.0), layout="constrained")
    x = before.groupby(["moving", "fixed"])["dice"].mean()
    y = after.groupby(["moving", "fixed"])["dice"].mean()
    low, high = min(x.min(), y.min()) - 0.03, max(x.max(), y.max()) + 0.03
    ax.plot([low, high], [low, high], "--", color="0.5", label="no gain")
    ax.plot(x, y.loc[x.index], "o", color=AFTER, ms=5, label="one pair")
    ax.set(xlabel="mean Dice before", ylabel="mean Dice after", xlim=(low, high), ylim=(low, high))
    ax.set_aspect("equal")
    ax.legend(frameon=False, loc="lower right")
    return fig


def labels_on_image(image, label_maps, titles, which, *, margin=12) -> Figure:
    """One image under the outlines of several label maps, cut to the outlined structures.

    Parameters
    ----------
    image : ndarray, ``(*vol)``
        Drawn in each panel.
    label_maps : list of ndarray of int, ``(*vol)``
        One a panel.
    titles : list of str
        One a panel.
    which : dict
        Label -> name of the structures to outline; left and right of one name share a colour.
    margin : int
        Voxels shown around the structures.
    """
    count = len(label_maps)
    fig, axes = plt.subplots(
        1, count, figsize=(3.0 * count, 3.6), squeeze=False, layout="constrained"
    )
    sides = [name.removeprefix("Left ").removeprefix("Right ") for name in which.values()]
    kinds = list(dict.fromkeys(sides))
    colours = [plt.cm.tab10(kinds.index(side) % 10) for side in sides]
    rows, columns = np.nonzero(view(np.any([np.isin(m, list(which)) for m in label_maps], axis=0)))
    for ax, labels, title in zip(axes[0], label_maps, titles, strict=True):
        _image(ax, image, title=title)
        _outline(ax, labels, which, colours)
        ax.set_xlim(columns.min() - margin, columns.max() + margin)
        ax.set_ylim(rows.min() - margin, rows.max() + margin)
    _mark_right(axes[0, 0])
    handles = [Line2D([], [], color=plt.cm.tab10(k % 10)) for k in range(len(kinds))]
    fig.legend(handles, kinds, loc="outside lower center", ncols=4, frameon=False)
    return fig


def two_answers(moving, fixed, displacements, brain, titles) -> Figure:
    """One pair and two answers: the warped image, a grid warped with it, and its folds painted.

    Parameters
    ----------
    moving, fixed : ndarray, ``(*vol)``
        Images in [0, 1].
    displacements : two ndarrays, ``(*vol, nd)``
        In voxels, pull, on the fixed grid.
    brain : ndarray of bool, ``(*vol)``
        The fixed image's brain: folds are painted inside it.
    titles : two str
        Above the answers.
    """
    # Two rows, so that a phone shows each panel at half its width.
    fig, axes = plt.subplots(2, 2, figsize=(6.4, 6.9), layout="constrained")
    _image(axes[0, 0], moving, title="moving")
    _image(axes[0, 1], fixed, title="fixed")
    _mark_right(axes[0, 0])
    for ax, field, title in zip(axes[1], displacements, titles, strict=True):
        _image(ax, warp.warp_image(moving, field), title=title)
        _carried_lines(ax, field, every=6)
        folded = view((metrics.jacobian_determinant(field) <= 0) & brain)
        painted = np.ma.masked_where(~folded, np.ones(folded.shape))
        ax.imshow(painted, cmap=ListedColormap([FOLD_COLOUR]), origin="lower", zorder=3)
    handles = [
        Line2D([], [], color=LINE_COLOUR, label="straight lines of the moving image"),
        Patch(facecolor=FOLD_COLOUR, label="folded: det J ≤ 0"),
    ]
    fig.legend(handles=handles, loc="outside lower center", frameon=False, ncols=2, fontsize=9)
    return fig


def _carried_lines(ax, displacement, *, every) -> None:
    """Draw what becomes of the moving image's straight lines: where x + u(x) crosses them."""
    field = in_plane(displacement)
    places = np.indices(field.shape[:2]).astype(float) + np.moveaxis(field, -1, 0)
    for place, size in zip(places, field.shape[:2], strict=True):
        levels = np.arange(0, size, every)
        ax.contour(view(place), levels=levels, colors=LINE_COLOUR, linewidths=0.6)


def determinant_maps(determinants, brains, titles) -> Figure:
    """Maps of log det J, centred at 0, with folded voxels in :data:`FOLD_COLOUR`.

    log det has no value where det ≤ 0, so those voxels are painted apart and counted in the
    panel's title. The map is a pull: above 0 (orange) the fixed grid covers more of the moving
    image, so moving tissue shrinks; below 0 (purple) it grows.

    Parameters
    ----------
    determinants : list of ndarray, ``(*vol)``
        Jacobian determinants, dimensionless.
    brains : list of ndarray of bool
        Voxels that count; the rest is left white.
    titles : list of str
        One a panel.
    """
    count = len(determinants)
    fig, axes = plt.subplots(
        1, count, figsize=(3.3 * count + 0.8, 3.3), squeeze=False, layout="constrained"
    )
    for ax, det, brain, title in zip(axes[0], determinants, brains, titles, strict=True):
        shown, folded = draw_log_determinant(ax, det, brain)
        ax.set_title(f"{title}\n{folded} folded brain voxels in the slice", fontsize=10)
    bar = fig.colorbar(shown, ax=axes, shrink=0.8, extend="both", label="log det J")
    bar.ax.set_title("moving\nshrinks", fontsize=8)
    bar.ax.set_xlabel("moving\ngrows", fontsize=8, labelpad=10)
    handles = [Patch(facecolor=FOLD_COLOUR, label="folded: det J ≤ 0")]
    fig.legend(handles=handles, loc="outside lower center", frameon=False)
    return fig


def draw_log_determinant(ax, determinant, brain):
    """Draw a map of log det J; return what a colour bar needs and the folded voxels drawn."""
    folded = (determinant <= 0) & brain
    safe = np.where(brain & ~folded, determinant, 1.0)
    log_det = np.where(brain & ~folded, np.log(safe), np.nan)
    colours = plt.get_cmap("PuOr_r").with_extremes(bad="0.88")
    norm = TwoSlopeNorm(0.0, -LOG_DET_LIMIT, LOG_DET_LIMIT)
    shown = ax.imshow(
        view(log_det), cmap=colours, norm=norm, origin="lower", interpolation="nearest"
    )
    painted = np.ma.masked_where(~view(folded), np.ones(view(folded).shape))
    ax.imshow(painted, cmap=ListedColormap([FOLD_COLOUR]), origin="lower", interpolation="nearest")
    ax.set_axis_off()
    return shown, int(view(folded).sum())


def determinant_histogram(determinants, brains, titles) -> Figure:
    """Histograms of det J in the brain; everything left of the line is folded."""
    fig, ax = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
    bins = np.linspace(-0.5, 3.0, 106)
    for det, brain, title, style in zip(
        determinants, brains, titles, cycle(("-", "--", ":", "-.")), strict=False
    ):
        share, _ = np.histogram(np.clip(det[brain], bins[0], bins[-1]), bins=bins)
        ax.plot(0.5 * (bins[1:] + bins[:-1]), 100 * share / brain.sum(), style, label=title)
    ax.axvline(0, color=FOLD_COLOUR, lw=1)
    ax.annotate(
        "folded",
        (0, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4, -12),
        textcoords="offset points",
        ha="right",
        color=FOLD_COLOUR,
    )
    ax.set(xlabel="det J", ylabel="% of brain voxels (log)", yscale="log")
    ax.legend(frameon=False)
    return fig


def lambda_curves(dice, folding, *, identity, points=None, hyper=None) -> Figure:
    """Dice and folding against λ: one column a loss, one line an integration, bars over seeds.

    Parameters
    ----------
    dice, folding : pandas.DataFrame
        Curves of one cohort, from :func:`vxmlib.experiments.sweep.curve`.
    identity : float
        Dice before registration.
    points : pandas.DataFrame, optional
        Single runs to draw over them: ``image_loss``, ``lam``, ``dice_mean``,
        ``folding_percent_brain``.
    hyper : pandas.DataFrame, optional
        One network for all λ (``image_loss``, ``lam``, ``dice_mean``, ``folding_percent_brain``),
        and, where not missing, a plain one trained for as long (``as_long_dice``,
        ``as_long_folding``).
    """
    losses = sorted(dice["image_loss"].unique(), reverse=True)
    fig, axes = plt.subplots(
        2,
        len(losses),
        figsize=(3.6 * len(losses), 5.4),
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for column, loss in zip(axes.T, losses, strict=True):
        for ax, table in zip(column, (dice, folding), strict=True):
            _seed_curves(ax, table[table["image_loss"] == loss])
            _lambda_axis(ax, dice.loc[dice["image_loss"] == loss, "lam"])
        for extra, style in ((points, "kx"), (hyper, "g-.")):
            if extra is not None:
                part = extra[extra["image_loss"] == loss].sort_values("lam")
                name = "this build" if extra is points else "one network for all λ"
                column[0].plot(part["lam"], part["dice_mean"], style, label=name)
                column[1].plot(part["lam"], part["folding_percent_brain"], style)
        if hyper is not None and "as_long_dice" in hyper:
            long = hyper[hyper["image_loss"] == loss].dropna(subset="as_long_dice")
            column[0].plot(long["lam"], long["as_long_dice"], "gD", label="one λ, as many steps")
            column[1].plot(long["lam"], long["as_long_folding"], "gD")
        column[0].axhline(identity, color=BEFORE, ls=":", label="before registration")
        column[0].set_title(f"{loss.upper()}", fontsize=10)
        column[1].set_yscale("symlog", linthresh=0.01)
        column[1].set_ylim(bottom=0)
        column[1].set_xlabel("λ")
    axes[0, 0].set_ylabel("Dice, validation")
    axes[1, 0].set_ylabel("folding, % of brain")
    handles, names = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    return fig


def _seed_curves(ax, table) -> None:
    """One line for each integration: mean over seeds, bars from the least to the greatest."""
    looks = {
        0: ("-", "o", AFTER, "without integration"),
        7: ("--", "s", "#b35806", "with integration"),
    }
    for int_steps, part in table.groupby("int_steps"):
        style, marker, colour, name = looks.get(int_steps, ("-", "^", "0.3", f"int {int_steps}"))
        spread = [part["mean"] - part["low"], part["high"] - part["mean"]]
        ax.errorbar(
            part["lam"], part["mean"], yerr=spread, ls=style, marker=marker, color=colour,
            ms=4, capsize=2, label=name,
        )  # fmt: skip


def _lambda_axis(ax, lams) -> None:
    """A logarithmic axis that has room for λ = 0, with a tick at each λ."""
    lams = np.unique(lams)
    ax.set_xscale("symlog", linthresh=lams[lams > 0].min(), linscale=0.5)
    ax.set_xticks(lams, [f"{lam:g}" for lam in lams], fontsize=8, rotation=45)
    ax.set_xticks([], minor=True)
    ax.grid(alpha=0.3)


def lambda_shape(ours, paper) -> Figure:
    """Dice below each curve's own best, against λ: ours by cohort, and the paper's Fig. 7.

    Parameters
    ----------
    ours : dict of str to pandas.DataFrame
        Name of a cohort to its curve of Dice without integration, both losses.
    paper : pandas.DataFrame
        ``image_loss``, ``lam``, ``dice``.
    """
    losses = sorted(paper["image_loss"].unique(), reverse=True)
    fig, axes = plt.subplots(
        1, len(losses), figsize=(3.6 * len(losses), 3.3), sharey=True, layout="constrained"
    )
    for ax, loss in zip(axes, losses, strict=True):
        lams = []
        for (name, curve), style in zip(ours.items(), cycle(("-o", "--s")), strict=False):
            part = curve[curve["image_loss"] == loss]
            ax.plot(part["lam"], part["mean"] - part["mean"].max(), style, ms=4, label=name)
            lams += part["lam"].tolist()
        part = paper[paper["image_loss"] == loss]
        ax.plot(part["lam"], part["dice"] - part["dice"].max(), "k:^", ms=5, label="paper, Fig. 7")
        _lambda_axis(ax, lams)
        ax.set(title=loss.upper(), xlabel="λ")
    axes[0].set_ylabel("Dice below the best")
    axes[0].legend(frameon=False, fontsize=8)
    return fig
