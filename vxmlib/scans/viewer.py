"""Show registered volumes in a web page that can be turned, with NiiVue and without a network."""

import base64
import gzip
import html
import json
from importlib import resources

import nibabel as nib
import numpy as np

#: Voxel size of the volumes in the page, in mm; smaller voxels would make the page much larger.
SPACING = 2.0
_CHOICES = {
    "image": {
        "fixed": "fixed",
        "aligned": "moving, aligned",
        "registered": "moving, registered",
        "fade": "fade from fixed to registered",
        "checkerboard": "checkerboard",
    },
    "overlay": {
        "none": "none",
        "labels": "labels of the fixed scan",
        "warped labels": "warped labels",
        "growth": "growth (Jacobian determinant)",
        "distance": "distance (displacement)",
    },
    "planes": {
        "sliceTypeMultiplanar": "planes and head",
        "sliceTypeAxial": "axial",
        "sliceTypeCoronal": "coronal",
        "sliceTypeSagittal": "sagittal",
        "sliceTypeRender": "head",
    },
}
_LOOKS = {
    "labels": {"colormap": "random", "cal_min": 0.5},
    "warped labels": {"colormap": "random", "cal_min": 0.5},
    # Base-2 logarithm of the determinant: 1 where the volume doubles, -1 where it halves.
    "growth": {"colormap": "warm", "colormapNegative": "winter", "cal_min": 0.1, "cal_max": 1.5},
    "distance": {"colormap": "viridis", "cal_min": 0.5, "cal_max": 12.0},
}


def fragment(volumes, affine):
    """Return the viewer as a part of a web page, with the volumes and NiiVue in it.

    Parameters
    ----------
    volumes : dict of str to (*vol) ndarray
        ``"fixed"``, ``"aligned"``, ``"registered"`` and ``"checkerboard"``: images in [0, 1].
        Optional: ``"labels"`` and ``"warped labels"``; ``"growth"``, the base-2 logarithm of the
        Jacobian determinant; ``"distance"``, the length of the displacement in mm.
    affine : (4, 4) array_like
        Voxel index -> RAS mm of all volumes.

    Returns
    -------
    str
        HTML. It is about 2 MB larger than the volumes.
    """
    listed = [
        {"name": name, "base64": _packed(volume, affine, name), "opacity": 0}
        | _LOOKS.get(name, {"colormap": "gray", "cal_min": 0, "cal_max": 255})
        for name, volume in volumes.items()
    ]
    there = {"none", "fade", *volumes}
    groups = "".join(
        _group(name, {k: v for k, v in choices.items() if name == "planes" or k in there})
        for name, choices in _CHOICES.items()
    )
    return f"""<section id="viewer" aria-label="Viewer">
<div><canvas width="900" height="600" tabindex="0" aria-label="The registered scans in three planes
 and as a head. Drag to move the cross or to turn the head."></canvas></div>
<p role="status">Loading …</p>
{groups}
<label>fade <input id="fade" type="range" min="0" max="100" value="50" disabled></label>
</section>
<script>{_file("data/niivue/niivue.umd.js")}</script>
<script>const volumes = {json.dumps(listed)};
{_file("data/niivue/viewer.js")}</script>"""


def frame(page, *, title, height=640):
    """Return a page as a frame of another page or of a notebook.

    Parameters
    ----------
    page : str
        A whole page, such as the content of ``report.html``.
    title : str
        Accessible name of the frame.
    height : int
        Height in pixels.

    Returns
    -------
    str
        HTML, for ``IPython.display.HTML``.

    Examples
    --------
    >>> frame("<p>a</p>", title="A page")
    '<div><iframe srcdoc="&lt;p&gt;a&lt;/p&gt;" title="A page" width="100%" ...></iframe></div>'
    """
    return (
        f'<div><iframe srcdoc="{html.escape(page)}" title="{html.escape(title)}" width="100%" '
        f'height="{height}"></iframe></div>'
    )


def grid_around(image, affine):
    """Return a small grid around a brain, with axes along RAS and voxels of :data:`SPACING` mm.

    Parameters
    ----------
    image : (i, j, k) ndarray
        Background 0.
    affine : (4, 4) array_like
        Voxel index -> RAS mm.

    Returns
    -------
    shape : tuple of int
    affine : (4, 4) float64 ndarray
        Voxel index -> RAS mm of the grid, which reaches 6 mm beyond the voxels above 0.

    Examples
    --------
    >>> image = np.zeros((30, 30, 30))
    >>> image[10:20, 10:20, 10:21] = 1
    >>> shape, affine = grid_around(image, np.diag([-1.0, 1.0, 1.0, 1.0]))
    >>> shape, affine[:3, 3].tolist()
    ((11, 11, 11), [-25.0, 4.0, 4.0])
    """
    points = nib.affines.apply_affine(affine, np.argwhere(image > 0))
    first, last = points.min(axis=0) - 6, points.max(axis=0) + 6
    shape = tuple(int(n) for n in np.ceil((last - first) / SPACING))
    return shape, nib.affines.from_matvec(SPACING * np.eye(3), first)


def _packed(volume, affine, name):
    """Return a volume as a gzipped NIfTI file in base64."""
    if name in ("growth", "distance"):
        volume = np.round(volume, 2).astype(np.float32)
    elif "labels" in name:
        volume = volume.astype(np.int16 if volume.max() < 2**15 else np.int32)
    else:
        volume = np.round(255 * np.clip(volume, 0, 1)).astype(np.uint8)
    content = nib.Nifti1Image(volume, affine).to_bytes()
    return base64.b64encode(gzip.compress(content, mtime=0)).decode("ascii")


def _group(name, choices):
    items = "".join(
        f'<label><input type="radio" name="{name}" value="{html.escape(value)}"'
        f"{' checked' if number == 0 else ''}> {html.escape(text)}</label> "
        for number, (value, text) in enumerate(choices.items())
    )
    return f"<fieldset><legend>{_LEGENDS[name]}</legend>{items}</fieldset>\n"


_LEGENDS = {"image": "Image", "overlay": "On top", "planes": "View"}


def _file(path):
    return (resources.files("vxmlib") / path).read_text(encoding="utf-8")
