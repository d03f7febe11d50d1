"""Draw the figures of the book from arrays and tables with Matplotlib.

Images are drawn as coronal slices in neurological convention: superior is up, and the subject's
right is on the right, because the first array axis runs to the Right and the last to Superior. A
3D array is cut through the middle of its second axis. Panels that are compared share one grey
scale or one colour bar, and no information is given by colour alone.
"""

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vxmlib import metrics, warp

#: Colour of folded voxels (det J ≤ 0) in every figure.
FOLD_COLOUR = "#d7007f"
BEFORE, AFTER = "#8a8a8a", "#1f5fa8"
EDGE_COLOUR = "#00b8d4"  # edges of the fixed image, drawn on another image
LINE_COLOUR = "#f2c14e"  # lines on a grey image
_KIND_COLOURS = (BEFORE, "#b2560d", AFTER, "#6a3d9a", "#2c7a3f")
_WITH_MARKERS = ("-o", "--s", ":^", "-.v")
LOG_DET_LIMIT = 1.5  # the colour scale of log det J ends here on both sides of 0


def view(array: np.ndarray) -> np.ndarray:
    """Return the coronal slice of an array, ``(z, x)``, for ``imshow(origin="lower")``.

    Parameters
    ----------
    array : ndarray, ``(x, z)`` or ``(x, y, z)``
        A slice is used as it is. A volume is cut through the middle of ``y``.

    Examples
    --------
    >>> view(np.zeros((4, 6, 5))).shape
    (5, 4)
    """
    plane = array if array.ndim == 2 else array[:, array.shape[1] // 2]
    return plane.T


def in_plane(displacement: np.ndarray) -> np.ndarray:
    """Return the x and z components of a displacement in the drawn slice, ``(x, z, 2)``, in voxels.

    Parameters
    ----------
    displacement : ndarray, ``(x, z, 2)`` or ``(x, y, z, 3)``
        Displacement in voxels.
    """
    if displacement.shape[-1] == 2:
        return displacement
    return displacement[:, displacement.shape[1] // 2, :, ::2]


def _image(ax, array, *, title=None, vmax=1.0, vmin=0.0, cmap="gray"):
    # No smoothing: it triples the size of the file, which costs colours when the page reduces it.
    shown = ax.imshow(
        view(array), cmap=cmap, vmin=vmin, vmax=vmax, origin="lower", interpolation="nearest"
    )
    ax.set_axis_off()
    if title:
        ax.set_title(title, fontsize=10)
    return shown


def _mark_right(ax) -> None:
    """Mark the right side with the letter R."""
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
    """Draw one slice of each subject on one grey scale, with the outlines of labels if given.

    Parameters
    ----------
    images : list of ndarray, ``(*vol)``
        Images in [0, 1].
    titles : list of str
        One title for each image.
    labels : list of ndarray, optional
        Label maps on the grids of the images. Each structure is outlined.
    columns : int
        Number of panels in a row.
    side : bool
        Whether to mark the right side. Use False if an image is not in RAS order.
    """
    rows = -(-len(images) // columns)
    wide = min(8.0 / columns, 2.7)  # width of a panel in inches; few columns give larger panels
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
    """Draw the two images of a pair and their difference before registration."""
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
    """Draw a registered pair: the images, the differences before and after, and the deformed grid.

    Parameters
    ----------
    moving, fixed, warped : ndarray, ``(*vol)``
        Images in [0, 1].
    displacement : ndarray, ``(*vol, nd)``
        Pull displacement in voxels on the fixed grid.
    every : int
        Spacing of the grid lines in voxels.
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
    """Draw where the lines of the fixed grid land in the moving image, within the drawn slice.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes to draw on.
    displacement : ndarray, ``(*vol, nd)``
        Pull displacement in voxels on the fixed grid.
    every : int
        Spacing of the grid lines in voxels.
    """
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
    """Draw deformed grids side by side at one scale."""
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
    """Draw one registration as one frame of a series: images, deformed grid and log det J.

    The layout depends only on the shape of the images and on `width`, and the colour scales are
    fixed. So nothing moves when frames of one pair replace each other in
    :func:`vxmlib.book.steppable.steps`.

    Parameters
    ----------
    warped, fixed : ndarray, ``(*vol)``
        Images in [0, 1] on the fixed grid.
    displacement : ndarray, ``(*vol, nd)``
        Pull displacement in voxels on the fixed grid.
    mask : ndarray of bool, ``(*vol)``
        Brain of the fixed image, inside which log det J is drawn and folded voxels are counted.
    title : str
        Title above all panels, in one line.
    outline : ndarray, ``(*vol)``, optional
        Label map or mask of the fixed image whose edges are drawn on the warped image; by default
        `mask`.
    every : int
        Spacing of the grid lines in voxels.
    width : float
        Width in inches. The height follows from the shape of the images.
    """
    rows, columns = view(fixed).shape
    wide = 0.41 * width  # width of a panel in inches
    tall = wide * rows / columns
    top, between, bottom = 0.58, 0.30, 0.36  # room for titles and the legend, in inches
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
    bar.text(0, 1.12, "tissue\nshrinks", transform=bar.transAxes, fontsize=8, va="bottom")
    bar.text(0, -0.12, "tissue\ngrows", transform=bar.transAxes, fontsize=8, va="top")
    key = [
        Line2D([], [], color=EDGE_COLOUR, label="edges of the fixed image"),
        Patch(facecolor=FOLD_COLOUR, label="folded: det J ≤ 0"),
    ]
    fig.legend(handles=key, loc="lower center", frameon=False, ncols=2, fontsize=9)
    fig.suptitle(title, fontsize=11, x=0.425, y=1 - 0.06 / height, va="top")
    return fig


def curves(history, columns, *, ylabel, x="step") -> Figure:
    """Plot columns of a training history against the optimiser step.

    Parameters
    ----------
    history : pandas.DataFrame
        One row for each epoch.
    columns : dict of str to str
        Column of ``history`` -> its name in the legend.
    ylabel : str
        Label of the y axis, with its unit.
    x : str
        Column of ``history`` for the x axis.
    """
    fig, ax = plt.subplots(figsize=(6.4, 3.0), layout="constrained")
    for (column, name), style in zip(columns.items(), cycle(("-", "--", ":", "-.")), strict=False):
        ax.plot(history[x], history[column], style, marker=".", label=name)
    ax.set(xlabel="optimiser step" if x == "step" else x, ylabel=ylabel)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return fig


def convergence(history) -> Figure:
    """Plot the losses, and Dice and folding of the validation pairs, against the optimiser step.

    Parameters
    ----------
    history : pandas.DataFrame
        One row for each epoch, with the columns ``step``, ``loss``, ``val_loss``, ``val_dice`` and
        ``val_folding_percent``.
    """
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
    """Draw box plots of Dice before and after registration, one row for each structure.

    The structure with the highest median after registration is on top.

    Parameters
    ----------
    before, after : pandas.DataFrame
        Tidy tables of :func:`vxmlib.metrics.evaluate_pairs` over the same pairs.
    names : two str
        Names of the two tables in the legend.
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
    """Plot columns of several tables against their index, with one panel for each column.

    Parameters
    ----------
    curves : dict of str to pandas.DataFrame
        Name in the legend -> table, indexed by the step or by another quantity.
    columns, ylabels : list of str
        Columns to draw, and the labels of their y axes.
    xlabel : str
        Label of the x axis: the quantity in the index.
    points : dict of str to pandas.Series, optional
        Name in the legend -> a single result. The series has a value for each column, and its
        ``name`` is the position on the x axis.
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
    """Return the spacing for about a dozen markers, because more of them would hide the line."""
    return max(1, len(table) // 12)


def dots_by_structure(before, after, *, names=("before", "after")) -> Figure:
    """Draw the Dice of each structure as two dots that a line joins: before and after.

    Parameters
    ----------
    before, after : pandas.DataFrame
        Columns ``structure`` and ``dice``, one row for each structure.
    names : two str
        Names of the two tables in the legend.
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
    """Draw means over seeds with their SD: one row for each run, one panel for each measure.

    Parameters
    ----------
    table : pandas.DataFrame
        One row for each run, the first on top. The index holds the names that readers see, and
        the columns are those that ``columns`` lists.
    columns : dict of str to str
        Column of the means -> column of the SD.
    labels : list of str
        Label of the axis of each panel.
    reference : str
        The run with which the others are compared. A dashed line marks its mean.
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


def dice_by_cost(table, kinds, *, before="identity") -> Figure:
    """Plot Dice against the seconds for a pair (left) and against folding (right).

    Each method has one marker and each kind of method one colour. Folding is logarithmic above
    0.001 % and linear below.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns ``dice``, ``seconds`` and ``folding_percent_brain``, indexed by the names of the
        methods that readers see. A method that lacks one of the values is left out.
    kinds : mapping of str to str
        Kind of each method, such as "classical".
    before : str
        The method that stands for "before registration". It is drawn as a line, if the table has
        it.
    """
    columns = {"seconds": "seconds per pair", "folding_percent_brain": "folded, % of the brain"}
    fig, axes = plt.subplots(1, 2, figsize=(6.2, 5.6), sharey=True, layout="constrained")
    measured = table.drop(index=before, errors="ignore").dropna(subset=["dice", *columns])
    colours = dict(zip(dict.fromkeys(kinds.values()), cycle(_KIND_COLOURS), strict=False))
    for ax, (column, label) in zip(axes, columns.items(), strict=True):
        if before in table.index:
            ax.axhline(table.loc[before, "dice"], ls="--", color="0.5")
        for (name, row), marker in zip(measured.iterrows(), cycle("osD^vPX<>*ph"), strict=False):
            style = {"marker": marker, "ms": 8, "color": colours[kinds[name]], "ls": ""}
            ax.plot(row[column], row["dice"], label=name, **style)
        ax.set(xlabel=label)
        ax.grid(alpha=0.3)
    axes[0].set(xscale="log", ylabel="Dice")
    axes[1].set_xscale("symlog", linthresh=1e-3)
    ticks = (0, 0.001, 0.01, 0.1, 1, 10, 100)
    axes[1].set_xticks(ticks, map(str, ticks))
    axes[1].set_xlim(-3e-4, 2 * max(measured["folding_percent_brain"].max(), 1e-3))
    if before in table.index:
        place = (0.02, table.loc[before, "dice"])
        axes[0].annotate(before, place, xycoords=("axes fraction", "data"), va="bottom")
    fig.legend(
        *axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower left", ncols=2
    )
    return fig


def dice_by_pair(before, after) -> Figure:
    """Plot the mean Dice of each pair after registration against that before.

    Pairs on the diagonal gain nothing.

    Parameters
    ----------
    before, after : pandas.DataFrame
        Tidy tables of :func:`vxmlib.metrics.evaluate_pairs` over the same pairs.
    """
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
    """Draw one image with the outlines of several label maps, cropped to the outlined structures.

    Parameters
    ----------
    image : ndarray, ``(*vol)``
        Image that is drawn in each panel.
    label_maps : list of ndarray of int, ``(*vol)``
        One label map for each panel.
    titles : list of str
        One title for each panel.
    which : dict of int to str
        Label -> name of each structure to outline. A left and a right structure of the same name
        share a colour.
    margin : int
        Margin around the structures in voxels.
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
    """Draw one pair and the images warped by two displacements, with grid lines and folded voxels.

    Parameters
    ----------
    moving, fixed : ndarray, ``(*vol)``
        Images in [0, 1].
    displacements : two ndarrays, ``(*vol, nd)``
        Pull displacements in voxels on the fixed grid.
    brain : ndarray of bool, ``(*vol)``
        Brain of the fixed image, inside which folded voxels are coloured.
    titles : two str
        Titles of the two warped images.
    """
    # Two rows, so that each panel has half the width of a phone's screen.
    fig, axes = plt.subplots(2, 2, figsize=(6.4, 6.9), layout="constrained")
    _image(axes[0, 0], moving, title="moving")
    _image(axes[0, 1], fixed, title="fixed")
    _mark_right(axes[0, 0])
    for ax, field, title in zip(axes[1], displacements, titles, strict=True):
        _image(ax, warp.warp_image(moving, field), title=title)
        _carried_lines(ax, field, every=6)
        folded = view((metrics.jacobian_determinant(field) <= 0) & brain)
        painted = np.ma.masked_where(~folded, np.ones(folded.shape))
        ax.imshow(
            painted,
            cmap=ListedColormap([FOLD_COLOUR]),
            origin="lower",
            interpolation="nearest",
            zorder=3,
        )
    handles = [
        Line2D([], [], color=LINE_COLOUR, label="lines, straight in the moving image"),
        Patch(facecolor=FOLD_COLOUR, label="folded: det J ≤ 0"),
    ]
    fig.legend(handles=handles, loc="outside lower center", frameon=False, ncols=2, fontsize=9)
    return fig


def _carried_lines(ax, displacement, *, every) -> None:
    """Draw straight lines of the moving image after warping: where x + u(x) crosses them."""
    field = in_plane(displacement)
    places = np.indices(field.shape[:2]).astype(float) + np.moveaxis(field, -1, 0)
    for place, size in zip(places, field.shape[:2], strict=True):
        levels = np.arange(0, size, every)
        ax.contour(view(place), levels=levels, colors=LINE_COLOUR, linewidths=0.6)


def maps_in_brain(image, maps, brain, titles, *, label) -> Figure:
    """Draw an image and three maps of the same quantity, each with its own colour bar.

    Parameters
    ----------
    image : ndarray, ``(*vol)``
        Image in [0, 1].
    maps : three ndarrays, ``(*vol)``
        Values of at least 0. Each colour bar ends at the 99th percentile inside the brain. A map
        without finite values is left empty.
    brain : ndarray of bool, ``(*vol)``
        Brain mask. Voxels outside are light grey.
    titles : four str
        Titles of the image and the maps.
    label : str
        Label of the colour bars, with the unit.
    """
    fig, axes = plt.subplots(2, 2, figsize=(7.2, 6.4), layout="constrained")
    _image(axes[0, 0], image, title=titles[0])
    _mark_right(axes[0, 0])
    colours = plt.get_cmap("cividis").with_extremes(bad="0.88")
    for ax, values, title in zip(list(axes.flat)[1:], maps, titles[1:], strict=True):
        ax.set_axis_off()
        ax.set_title(title, fontsize=10)
        if not np.isfinite(values[brain]).any():
            continue
        shown = ax.imshow(
            view(np.where(brain, values, np.nan)),
            cmap=colours,
            vmin=0,
            vmax=np.percentile(values[brain], 99),
            origin="lower",
            interpolation="nearest",
        )
        fig.colorbar(shown, ax=ax, shrink=0.85, extend="max", label=label)
    return fig


def determinant_maps(determinants, brains, titles) -> Figure:
    """Draw maps of log det J, centred at 0, with folded voxels in :data:`FOLD_COLOUR`.

    log det J is undefined where det J ≤ 0, so these voxels have a separate colour, and the title
    of the panel counts them. The displacement is a pull. Where log det J is above 0 (orange), a
    voxel of the fixed grid covers more of the moving image, so moving tissue shrinks. Where it is
    below 0 (purple), moving tissue grows.

    Parameters
    ----------
    determinants : list of ndarray, ``(*vol)``
        Jacobian determinants, dimensionless.
    brains : list of ndarray of bool, ``(*vol)``
        Brain masks. Voxels outside the brain are light grey.
    titles : list of str
        One title for each panel.
    """
    count = len(determinants)
    fig, axes = plt.subplots(
        1, count, figsize=(3.3 * count + 0.8, 3.3), squeeze=False, layout="constrained"
    )
    for ax, det, brain, title in zip(axes[0], determinants, brains, titles, strict=True):
        shown, folded = draw_log_determinant(ax, det, brain)
        ax.set_title(f"{title}\n{folded} folded brain voxels in the slice", fontsize=10)
    bar = fig.colorbar(shown, ax=axes, shrink=0.8, extend="both", label="log det J")
    bar.ax.set_title("tissue\nshrinks", fontsize=8)
    bar.ax.set_xlabel("tissue\ngrows", fontsize=8, labelpad=10)
    handles = [Patch(facecolor=FOLD_COLOUR, label="folded: det J ≤ 0")]
    fig.legend(handles=handles, loc="outside lower center", frameon=False)
    return fig


def draw_log_determinant(ax, determinant, brain):
    """Draw a map of log det J; return its image, for a colour bar, and the number of folded voxels.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes to draw on.
    determinant : ndarray, ``(*vol)``
        Jacobian determinant, dimensionless.
    brain : ndarray of bool, ``(*vol)``
        Brain mask. Folded voxels are drawn and counted inside it, and only in the drawn slice.
    """
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
    """Plot histograms of det J in the brain; values to the left of the line at 0 are folded.

    Parameters
    ----------
    determinants : list of ndarray, ``(*vol)``
        Jacobian determinants, dimensionless.
    brains : list of ndarray of bool, ``(*vol)``
        Brain masks.
    titles : list of str
        Names in the legend.
    """
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
    """Plot Dice and folding against λ, with one column of panels for each image loss.

    Runs with and without integration have separate lines. Bars reach from the lowest to the
    highest seed.

    Parameters
    ----------
    dice, folding : pandas.DataFrame
        Curves of one cohort, from :func:`vxmlib.experiments.sweep.curve`.
    identity : float
        Dice before registration.
    points : pandas.DataFrame, optional
        Single runs to draw over the curves, with the columns ``image_loss``, ``lam``,
        ``dice_mean`` and ``folding_percent_brain``.
    hyper : pandas.DataFrame, optional
        Results of one network for all λ, with the same columns as `points`. The optional columns
        ``as_long_dice`` and ``as_long_folding`` hold results of plain networks that were trained
        for as many steps; missing values are not drawn.
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
            column[0].plot(
                long["lam"], long["as_long_dice"], "gD", label="plain network, as many steps"
            )
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
    """Draw the means over seeds with and without integration, with bars from lowest to highest."""
    looks = {
        0: ("-", "o", AFTER, "without integration"),
        7: ("--", "s", "#b35806", "with integration"),
    }
    for int_steps, part in table.groupby("int_steps"):
        style, marker, colour, name = looks.get(int_steps, ("-", "^", "0.3", f"{int_steps} steps"))
        spread = [part["mean"] - part["low"], part["high"] - part["mean"]]
        ax.errorbar(
            part["lam"], part["mean"], yerr=spread, ls=style, marker=marker, color=colour,
            ms=4, capsize=2, label=name,
        )  # fmt: skip


def _lambda_axis(ax, lams) -> None:
    """Make a logarithmic x axis with room for λ = 0, and a tick at each λ."""
    lams = np.unique(lams)
    ax.set_xscale("symlog", linthresh=lams[lams > 0].min(), linscale=0.5)
    ax.set_xticks(lams, [f"{lam:g}" for lam in lams], fontsize=8, rotation=45)
    ax.set_xticks([], minor=True)
    ax.grid(alpha=0.3)


def lambda_shape(ours, paper) -> Figure:
    """Plot Dice relative to the best value of each curve against λ: our cohorts and the paper.

    Parameters
    ----------
    ours : dict of str to pandas.DataFrame
        Name of a cohort in the legend -> its curve of Dice without integration, for all losses.
    paper : pandas.DataFrame
        The paper's Fig. 7, with the columns ``image_loss``, ``lam`` and ``dice``.
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
    axes[0].set_ylabel("Dice minus the best")
    axes[0].legend(frameon=False, fontsize=8)
    return fig
