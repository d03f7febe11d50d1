"""Show pictures that a reader steps through on a static page, without kernel, script or network.

The page gets a group of radio buttons, one for each picture, and style rules that show only the
picture of the chosen button. Therefore the arrow keys work, and a screen reader reads the group,
the choice and its numbers. Where the style rules do not apply, in a plain viewer or on paper, all
pictures follow one another.
"""

import base64
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

import jinja2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from vxmlib import metrics
from vxmlib.book import figures

DPI = 110
COLOURS = 256  # size of the palette that all pictures of one group share

_STYLE = """
.vxm-steps { display: grid; grid-template-columns: repeat(var(--steps), minmax(0, 1fr));
  min-width: 0; max-width: 40rem; margin: 0 auto; padding: 6px; border: 0; text-align: center; }
.vxm-steps > legend { float: none; width: auto; margin: 0 auto 0.5rem; padding: 0;
  font-size: 1rem; font-weight: 600; }
.vxm-steps::before { content: ""; grid-area: 1 / 1 / 2 / -1; align-self: center; height: 0;
  margin: 0 calc(50% / var(--steps)); border-top: 2px solid; opacity: 0.5; }
.vxm-steps > input { grid-area: 1 / var(--step); justify-self: center; z-index: 1;
  width: 1.5rem; height: 1.5rem; margin: 0; cursor: pointer;
  accent-color: var(--pst-color-primary, #1f5fa8); }
.vxm-steps > input:focus-visible { outline: 3px solid currentColor; outline-offset: 2px;
  border-radius: 50%; }
.vxm-steps > label { grid-area: 2 / var(--step); margin: 0; padding: 0.25rem 1px;
  cursor: pointer; overflow-wrap: anywhere; }
.vxm-steps > input:checked + label { font-weight: 700; text-decoration: underline; }
.vxm-steps > div { grid-area: 3 / 1 / 4 / -1; display: grid;
  grid-template-columns: minmax(0, 1fr); }
.vxm-steps img { display: block; max-width: 100%; height: auto; margin: 0.25rem auto;
  padding: 0 !important; background: white !important; }
.vxm-steps p { margin: 0.25rem 0 0; overflow-wrap: break-word; text-wrap: balance; }
@media (max-width: 600px) { .vxm-steps > label { font-size: 0.8125rem; } }
.text_html.text_html:has(> .vxm-steps) { color: inherit !important;
  background: none !important; padding: 0 !important; }
@media screen {
  .vxm-steps > input ~ div > div { grid-area: 1 / 1; visibility: hidden; }
}
@media print {
  .vxm-steps { display: block; max-width: none; }
  .vxm-steps > :not(div), .vxm-steps::before { display: none; }
  .vxm-steps > div { display: block; }
  .vxm-steps > div > div { break-inside: avoid; margin-bottom: 1rem; }
}
"""


_PAGE = jinja2.Template(
    "<style>"
    + _STYLE
    + """@media screen {
{% for _ in shown %}
#{{ name }}--{{ loop.index }}:checked ~ div > div:nth-child({{ loop.index }}) {
  visibility: visible; }
{% endfor %}
}</style>
<fieldset class="vxm-steps" style="--steps: {{ shown | length }}">
<legend>Choose {{ label }}</legend>
{% for frame, _ in shown %}
{% set id = name ~ "--" ~ loop.index %}
<input type="radio" name="{{ name }}--step" id="{{ id }}" style="--step: {{ loop.index }}"
  aria-describedby="{{ id }}--says"{{ " checked" if frame.value == start }}>
<label for="{{ id }}" style="--step: {{ loop.index }}">{{ frame.value }}</label>
{% endfor %}
<div>
{% for frame, picture in shown %}
<div><img src="data:image/png;base64,{{ picture }}"
  width="{{ size[0] }}" height="{{ size[1] }}" alt="{{ frame.text }}">
<p id="{{ name }}--{{ loop.index }}--says"><strong>{{ label }} = {{ frame.value }}</strong>
  {{- ": " ~ frame.caption if frame.caption }}</p></div>
{% endfor %}
</div>
</fieldset>""",
    autoescape=True,
    trim_blocks=True,
)


class Step(NamedTuple):
    """One picture of :func:`steps`.

    Attributes
    ----------
    value : str
        Label of the radio button, such as "0.1".
    figure : matplotlib.figure.Figure
        The picture.
    text : str
        Description of the picture for readers who cannot see it (alt text).
    caption : str
        Numbers that are printed below the picture.
    """

    value: str
    figure: Figure
    text: str
    caption: str = ""


class Steps:
    """Pictures to step through, as HTML, or as text where HTML cannot be shown.

    Attributes
    ----------
    html : str
        HTML fragment that a notebook or page shows.
    """

    def __init__(self, html: str, text: str):
        self.html = html
        self._text = text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self._text


def steps(frames: Sequence, *, name: str, label: str = "λ", start: str | None = None) -> Steps:
    """Show pictures of one size in one place, one at a time, with a radio button for each.

    Call this function in the last line of a cell. It closes the figures, so that the notebook does
    not show them a second time.

    Parameters
    ----------
    frames : sequence of Step or tuple
        Pictures in the order of their values: ``(value, figure, text)`` or
        ``(value, figure, text, caption)``, see :class:`Step`. All figures must have the same size.
        About seven buttons fit side by side on a phone.
    name : str
        Prefix of the identifiers in the HTML, different for each group of a page. It consists of
        letters and digits, which single hyphens may join, and starts with a letter.
    label : str
        Name of the quantity that the values belong to.
    start : str, optional
        Value that is shown first; by default that of the first frame.

    Returns
    -------
    Steps
        Object that a notebook shows as pictures with buttons.

    Raises
    ------
    ValueError
        If there are no frames, a value occurs twice, a frame lacks a figure or a description, the
        figures differ in size, `start` is not one of the values, or `name` is not valid.

    Examples
    --------
    >>> flat, bent = plt.figure(figsize=(1, 1)), plt.figure(figsize=(1, 1))
    >>> steps([("1", flat, "A straight grid."), ("0.1", bent, "A bent grid.")], name="grids")
    λ: 2 pictures to choose from
      λ = 1: A straight grid.
      λ = 0.1: A bent grid.
    """
    frames = _check_frames(frames)
    values = [frame.value for frame in frames]
    start = values[0] if start is None else str(start)
    if start not in values:
        raise ValueError(f"start: found {start!r}, expected one of {', '.join(values)}.")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*", name):
        raise ValueError(
            f"name: found {name!r}, expected letters and digits joined by single hyphens, "
            "a letter first."
        )
    pictures, size = _pictures([frame.figure for frame in frames])
    shown = list(zip(frames, pictures, strict=True))
    html = _PAGE.render(name=name, label=label, start=start, shown=shown, size=size)
    lines = [f"{label}: {len(frames)} pictures to choose from"]
    lines += [
        f"  {label} = {frame.value}: {' '.join(filter(None, (frame.text, frame.caption)))}"
        for frame in frames
    ]
    return Steps(html, "\n".join(lines))


def registration_step(
    value, warped, fixed, displacement, mask, *, label="λ", more="", **options
) -> Step:
    """Make a step from one registration, with its picture, its description and its numbers.

    Parameters
    ----------
    value : str
        Value with which the registration was made, such as that of λ.
    warped, fixed, displacement, mask
        Arrays as in :func:`vxmlib.book.figures.registration_frame`.
    label : str
        Name of the quantity that the value belongs to, for the title of the picture.
    more : str
        Text to print before the other numbers, such as "Dice 0.71".
    **options
        ``outline``, ``every`` and ``width`` of :func:`vxmlib.book.figures.registration_frame`.

    Returns
    -------
    Step
        Frame for :func:`steps`.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((16, 16))
    >>> step = registration_step("1", image, image, np.zeros((16, 16, 2)), image > 0)
    >>> step.caption
    '0 folded voxels in the brain (0.000 %), SD of log det J 0.000'
    """
    spread = metrics.sd_log_jacobian(displacement, mask)
    determinant = metrics.jacobian_determinant(displacement)
    folded = (determinant <= 0) & mask
    numbers = (
        f"{_count(folded.sum(), 'folded voxel')} in the brain "
        f"({100 * folded.sum() / mask.sum():.3f} %), SD of log det J {spread:.3f}"
    )
    brain = figures.view(mask)
    difference = abs(figures.view(warped - fixed))[brain].mean()
    shifts = np.hypot(*np.moveaxis(figures.in_plane(displacement), -1, 0)).T[brain]
    seen = figures.view(determinant)[brain]
    logs = np.log(seen[seen > 0]) if (seen > 0).any() else np.full(1, np.nan)
    text = (
        "Four panels of one slice. The first shows the warped moving image with edges of the fixed "
        "image. The second shows the difference, warped minus fixed, with a mean absolute value of "
        f"{difference:.3f} in the brain. The third shows the deformed grid, where points of the "
        f"brain move by up to {shifts.max():.1f} voxels. The fourth shows a map of log det J from "
        f"{_signed(logs.min())} to {_signed(logs.max())}, with "
        f"{_count((seen <= 0).sum(), 'folded voxel')} marked in magenta."
    )
    fig = figures.registration_frame(
        warped, fixed, displacement, mask, f"{label} = {value}", **options
    )
    return Step(str(value), fig, text, ", ".join(filter(None, (more, numbers))))


def _pictures(drawn) -> tuple[list[str], tuple[int, int]]:
    """Return the figures as base64 PNGs with one shared palette, and their size in pixels."""
    images = []
    for fig in drawn:
        written = io.BytesIO()
        fig.savefig(written, format="png", dpi=DPI, facecolor="white")
        plt.close(fig)
        images.append(Image.open(written).convert("RGB"))
    sizes = list(dict.fromkeys(image.size for image in images))
    if len(sizes) > 1:
        pixels = " and ".join(f"{width} × {height}" for width, height in sizes)
        raise ValueError(f"frames: found figures of {pixels} pixels, expected one size.")
    width, height = sizes[0]
    pile = Image.new("RGB", (width, height * len(images)))
    for number, image in enumerate(images):
        pile.paste(image, (0, number * height))
    pile = pile.quantize(COLOURS, dither=Image.Dither.NONE)
    pictures = []
    for number in range(len(images)):
        written = io.BytesIO()
        part = pile.crop((0, number * height, width, (number + 1) * height))
        part.save(written, "PNG", optimize=True)
        pictures.append(base64.b64encode(written.getvalue()).decode())
    return pictures, sizes[0]


def _check_frames(frames) -> list[Step]:
    checked = []
    for frame in frames:
        if not isinstance(frame, tuple | list) or len(frame) not in (3, 4):
            raise ValueError(
                f"frames: found {type(frame).__name__} {frame!r:.60}, expected "
                "(value, figure, text) or (value, figure, text, caption)."
            )
        step = Step(*frame)
        step = step._replace(value=str(step.value))
        if not isinstance(step.figure, Figure):
            raise ValueError(
                f"frames: found {type(step.figure).__name__} as the figure of {step.value!r}, "
                "expected a Matplotlib figure."
            )
        if not (isinstance(step.text, str) and step.text.strip()):
            raise ValueError(
                f"frames: found no description for {step.value!r}, expected a text that says what "
                "its figure shows."
            )
        if step.value in [other.value for other in checked]:
            raise ValueError(f"frames: found the value {step.value!r} twice, expected it once.")
        checked.append(step)
    if not checked:
        raise ValueError("frames: found none, expected at least one (value, figure, text).")
    return checked


def _count(number, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _signed(number: float) -> str:
    return f"{round(float(number), 2) + 0.0:.2f}".replace("-", "−")  # + 0.0 turns −0.00 into 0.00
