"""Write the report of a registration as one HTML page, with its pictures in it."""

import base64
import html
import io

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes

from vxmlib import preprocess
from vxmlib.metrics import jacobian_determinant
from vxmlib.scans import viewer

_PLANES = (("sagittal", 0), ("coronal", 1), ("axial", 2))
_SQUARES = 8  # of the checkerboard along the longer side
_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 1rem auto; padding: 0 1rem;
       color: #1b1b1b; background: #fff; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { text-align: left; padding: 0.2rem 1rem 0.2rem 0; vertical-align: top;
         overflow-wrap: anywhere; }
#viewer > div { height: 30rem; max-height: 75vh; }
canvas { width: 100%; height: 100%; }
#viewer:not(.ready) > :not([role=status]) { display: none; }
fieldset { border: 1px solid #999; border-radius: 4px; margin: 0.5rem 0; padding: 0.2rem 0.7rem; }
fieldset label { display: inline-block; padding: 0.3rem 0.8rem 0.3rem 0; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
"""


def page(record, images, mapping):
    """Return the report as a page that needs no other file and no network.

    Parameters
    ----------
    record : dict
        As :func:`vxmlib.scans.outputs.register_files` returns it.
    images : dict
        ``"fixed"``, ``"aligned"`` and ``"warped"``: images on the grid of the fixed scan, before
        and after the registration; ``"affine"``: its voxel index -> RAS mm.

    Returns
    -------
    str
        HTML.
    """
    settings, metrics = record["parameters"], record["metrics"]
    title = f"{_name(settings['moving'])} registered to {_name(settings['fixed'])}"
    parts = [f"<h1>{html.escape(title)}</h1>", *map(_paragraph, record.get("notes", []))]
    parts += [viewer.fragment(*_volumes(images, mapping)), "<h2>Three planes</h2>", _figure(images)]
    parts += ["<h2>Measures</h2>", _table(_measures(metrics))]
    if "dice" in metrics:
        summary = "<summary>Dice of each label</summary>"
        parts.append(f"<details>{summary}{_dice(metrics)}</details>")
    parts += ["<h2>Time</h2>", _table(_seconds(record))]
    parts += ["<h2>Settings</h2>", _table(settings), "<h2>Versions</h2>"]
    parts += [_table({**record["versions"], "commit": record["commit"]}), _paragraph(_MEDICAL)]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


_MEDICAL = "This program is made for research and teaching. It is no medical device."


def _name(path):
    return str(path).replace("\\", "/").rsplit("/", 1)[-1]


def _paragraph(text):
    return f"<p>{html.escape(text)}</p>"


def _measures(metrics):
    rows = {
        "correlation in the brain, affine alignment": f"{metrics['correlation_affine']:.3f}",
        "correlation in the brain, registered": f"{metrics['correlation']:.3f}",
        "local correlation (NCC), affine alignment": f"{metrics['ncc_affine']:.3f}",
        "local correlation (NCC), registered": f"{metrics['ncc']:.3f}",
        "folded voxels of the brain": f"{metrics['folded_voxels']} "
        f"({metrics['folding_percent_brain']:.3f} %)",
    }
    for role, overlap in metrics["overlap"].items():
        rows[f"overlap of the {role} brain with the template"] = f"{overlap:.3f}"
    if "dice" in metrics:
        rows["mean Dice, affine alignment"] = f"{np.mean([*metrics['dice_affine'].values()]):.3f}"
        rows["mean Dice, registered"] = f"{np.mean([*metrics['dice'].values()]):.3f}"
    if "landmark_error_mm" in metrics:
        rows["largest error of inverting a landmark"] = f"{metrics['landmark_error_mm']:.4f} mm"
    return rows


def _seconds(record):
    rows = {step: f"{seconds:.1f} s" for step, seconds in record["metrics"]["seconds"].items()}
    rows["all together"] = f"{record['seconds']:.1f} s"
    return rows | {"largest memory": f"{record['metrics']['memory_gb']:.1f} GB"}


def _table(rows):
    lines = (
        f"<tr><th scope='row'>{html.escape(str(name))}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table>{''.join(lines)}</table>"


def _dice(metrics):
    head = (
        "<tr><th scope='col'>label</th><th scope='col'>affine</th><th scope='col'>registered</th>"
    )
    rows = "".join(
        f"<tr><th scope='row'>{label}</th><td class='number'>{metrics['dice_affine'][label]:.3f}"
        f"</td><td class='number'>{value:.3f}</td></tr>"
        for label, value in metrics["dice"].items()
    )
    return f"<table>{head}</tr>{rows}</table>"


def _figure(images):
    alt = (
        "Three planes through the fixed scan, the aligned and the registered moving scan, and a "
        "checkerboard of the fixed and the registered scan."
    )
    encoded = base64.b64encode(picture(images)).decode("ascii")
    return f'<p><img alt="{alt}" src="data:image/png;base64,{encoded}"></p>'


def picture(images):
    """Draw three planes of the fixed, aligned and registered scans, and of their checkerboard.

    Parameters
    ----------
    images : dict
        As for :func:`page`.

    Returns
    -------
    bytes
        A PNG file.
    """
    from matplotlib.figure import Figure

    shown = {role: _upright(images[role], images["affine"]) for role in _ROLES}
    spacing = shown["fixed"][1]
    scaled = {
        role: preprocess.normalise(np.maximum(image, 0)) for role, (image, _) in shown.items()
    }
    scaled["checkerboard"] = _checkerboard(scaled["fixed"], scaled["warped"])
    brain = np.argwhere(scaled["fixed"] > 0)
    centre = (brain.min(axis=0) + brain.max(axis=0)) // 2
    fig = Figure(figsize=(10, 8), layout="constrained")
    for row, (axes, (plane, axis)) in enumerate(zip(fig.subplots(3, 4), _PLANES, strict=True)):
        others = [other for other in range(3) if other != axis]
        aspect = spacing[others[1]] / spacing[others[0]]
        for ax, (role, image) in zip(axes, scaled.items(), strict=True):
            ax.imshow(
                image.take(centre[axis], axis).T,
                cmap="gray",
                vmin=0,
                vmax=1,
                origin="lower",
                aspect=aspect,
            )
            ax.set(xticks=[], yticks=[], title=_ROLES.get(role, role) if row == 0 else None)
        axes[0].set_ylabel(plane)
    file = io.BytesIO()
    fig.savefig(file, format="png", dpi=150)
    return file.getvalue()


_ROLES = {"fixed": "fixed", "aligned": "moving, aligned", "warped": "moving, registered"}


def _upright(image, affine):
    """Return an image in RAS order, and the voxel sizes of its axes."""
    turned, affine = preprocess.reorient(image, affine)
    return turned, voxel_sizes(affine)


def _volumes(images, mapping):
    """Return the volumes of the viewer and their affine, with large voxels."""
    shape, affine = viewer.grid_around(images["fixed"], images["affine"])
    place = images["affine"], shape, affine
    volumes = {
        name: preprocess.normalise(preprocess.resample(np.maximum(images[role], 0), *place))
        for role, name in (("fixed", "fixed"), ("aligned", "aligned"), ("warped", "registered"))
    }
    volumes["checkerboard"] = _checkerboard(volumes["fixed"], volumes["registered"])
    for name in ("labels", "warped labels"):
        if name in images:
            volumes[name] = preprocess.resample(images[name], *place, labels=True)
    brain = volumes["fixed"] > 0
    field = mapping.on_grid(shape, affine)
    determinant = jacobian_determinant(field) / abs(np.linalg.det(mapping.linear[:3, :3]))
    volumes["growth"] = np.where(brain, np.log2(np.maximum(determinant, 1 / 8)), 0)
    points = apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
    apart = np.linalg.norm(mapping(points) - apply_affine(mapping.linear, points), axis=-1)
    volumes["distance"] = np.where(brain, apart, 0)
    return volumes, affine


def _checkerboard(first, second):
    side = max(first.shape) // _SQUARES
    index = np.indices(first.shape) // side
    return np.where(index.sum(axis=0) % 2 == 0, first, second)
