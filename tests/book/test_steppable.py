"""Pictures to step through: what the HTML says, and that a browser's keys move through it."""

import base64
import fcntl
import io
import json
import os
import select
import subprocess
from html.parser import HTMLParser

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from scipy.ndimage import gaussian_filter

from tools import pdf
from vxmlib import warp
from vxmlib.book import figures, steppable

matplotlib.use("Agg")

ARROW_LEFT, ARROW_RIGHT, TAB = ("ArrowLeft", 37), ("ArrowRight", 39), ("Tab", 9)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def frame(value, words="A square.", caption="", size=(2, 1)):
    return steppable.Step(value, plt.figure(figsize=size), words, caption)


def three(name="registration", **options):
    frames = [
        frame("0.01", "A jagged grid.", "12 folds"),
        frame("0.1", "A bent grid.", "1 fold"),
        frame("1", "A straight grid.", "0 folds"),
    ]
    return steppable.steps(frames, name=name, **options)


class Fragment(HTMLParser):
    """The elements of a fragment with their attributes, and its words."""

    def __init__(self, shown):
        super().__init__()
        self.elements, self.words = [], ""
        self.feed(shown._repr_html_())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data

    def all(self, tag):
        return [attrs for found, attrs in self.elements if found == tag]


def pictures(fragment):
    for image in fragment.all("img"):
        kind, data = image["src"].split(",")
        assert kind == "data:image/png;base64"
        yield Image.open(io.BytesIO(base64.b64decode(data)))


# -- what the HTML says --------------------------------------------------------------------------


def test_each_picture_has_one_labelled_button_of_one_group():
    page = Fragment(three())
    buttons = page.all("input")
    assert [button["type"] for button in buttons] == ["radio"] * 3
    assert len({button["name"] for button in buttons}) == 1
    assert [label["for"] for label in page.all("label")] == [button["id"] for button in buttons]
    assert len(page.all("fieldset")) == len(page.all("legend")) == 1
    assert "Choose λ" in page.words


@pytest.mark.parametrize(("start", "number"), [(None, 0), ("0.1", 1), ("1", 2)])
def test_one_button_is_checked_at_first(start, number):
    buttons = Fragment(three(start=start)).all("input")
    assert [k for k, button in enumerate(buttons) if "checked" in button] == [number]


def test_each_picture_has_its_words_and_its_numbers():
    page = Fragment(three())
    assert [image["alt"] for image in page.all("img")] == [
        "A jagged grid.",
        "A bent grid.",
        "A straight grid.",
    ]
    captions = [part["id"] for part in page.all("p")]
    assert [button["aria-describedby"] for button in page.all("input")] == captions
    assert "λ = 0.1: 1 fold" in page.words


def test_nothing_is_loaded_and_nothing_is_run():
    html = three()._repr_html_()
    for word in ("<script", "http", "url(", "@import", "transition", "animation"):
        assert word not in html


def test_pictures_have_the_size_that_the_page_reserves():
    page = Fragment(three())
    sizes = {picture.size for picture in pictures(page)}
    assert sizes == {(220, 110)}
    assert {(image["width"], image["height"]) for image in page.all("img")} == {("220", "110")}


def test_two_groups_share_no_identifier():
    both = Fragment(three("first")), Fragment(three("first-1"))
    ids = [attrs["id"] for page in both for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids)) == 12
    assert both[0].all("input")[0]["name"] != both[1].all("input")[0]["name"]


def test_text_cannot_become_markup():
    nasty = '"><b onclick="x">&'
    page = Fragment(steppable.steps([frame(nasty, nasty, nasty)], name="a", label=nasty))
    assert not page.all("b")
    assert page.all("img")[0]["alt"] == nasty
    assert page.words.count(nasty) == 5  # legend, label, and below the picture three times


def test_a_notebook_without_html_reads_the_words():
    assert repr(three()).splitlines()[2] == "  λ = 0.1: A bent grid. 1 fold"


def test_figures_are_not_shown_once_more():
    three()
    assert not plt.get_fignums()


def test_a_plain_tuple_and_a_number_will_do():
    page = Fragment(steppable.steps([(0.5, plt.figure(), "A square.")], name="a", start=0.5))
    assert page.words.strip().endswith("λ = 0.5")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (list, "frames: found none, expected at least one"),
        (lambda: [frame("1"), frame("1")], "frames: found the value '1' twice"),
        (
            lambda: [frame("1"), frame("2", " ")],
            "frames: found no description for '2', expected a text",
        ),
        (lambda: [frame("1"), frame("2", None)], "frames: found no description for '2'"),
        (lambda: [("1", "figure.png", "A square.")], "frames: found str as the figure of '1'"),
        (lambda: [("1", plt.figure())], r"frames: found tuple .*, expected \(value, figure, text"),
        (
            lambda: [frame("1"), frame("2", size=(1, 1))],
            "frames: found figures of 220 × 110 and 110 × 110 pixels, expected one size",
        ),
    ],
)
def test_a_wrong_frame_is_named(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        steppable.steps(make(), name="a")


def test_a_start_that_is_no_value_is_named():
    with pytest.raises(ValueError, match=r"start: found '7', expected one of 0\.01, 0\.1, 1\."):
        three(start="7")


@pytest.mark.parametrize("name", ["", "1a", "a b", "a--b", "a-", 'a"'])
def test_a_name_that_is_no_identifier_is_named(name):
    with pytest.raises(ValueError, match=r"name: found .*, expected letters and digits"):
        three(name)


# -- registrations -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registrations():
    """Steps of one pair of noisy discs under fields of three roughnesses; the first folds."""
    rng = np.random.default_rng(0)
    x, z = np.meshgrid(*map(np.arange, (48, 40)), indexing="ij")
    disc = np.hypot((x - 24) / 20, (z - 20) / 16) < 1
    image = (disc * (0.5 + 0.4 * gaussian_filter(rng.normal(size=disc.shape), 2))).astype("float32")
    noise = rng.normal(size=(48, 40, 2))
    frames = []
    for value, sigma in (("0.01", 1.5), ("0.1", 4.0), ("1", 8.0)):
        field = np.stack([gaussian_filter(noise[..., k], sigma) for k in range(2)], -1)
        field = (1.5 * field / field.std()).astype("float32")
        warped = warp.warp_image(image, field)
        frames.append(steppable.registration_step(value, warped, image, field, disc, more="a"))
    yield frames
    plt.close("all")


def test_the_numbers_of_a_registration_are_those_of_the_field():
    image = np.ones((10, 10), "float32")
    mask = np.zeros((10, 10), bool)
    mask[2:8, 2:8] = True
    field = np.zeros((10, 10, 2), "float32")
    field[:, :, 0] = -2.0 * np.arange(10)[:, None]  # a mirror: det J = −1 everywhere
    step = steppable.registration_step("0.1", image, image, field, mask, more="Dice 0.71")
    assert step.caption.startswith("Dice 0.71, 36 folded voxels in the brain (100.000 %)")
    assert "36 folded voxels marked" in step.text
    kept = steppable.registration_step("1", image, image, 0 * field, mask)
    assert kept.caption.endswith("(0.000 %), SD of log det J 0.000")
    assert "log det J from 0.00 to 0.00, with 0 folded voxels marked" in kept.text


def test_a_volume_is_described_by_its_middle_slice_and_counted_as_a_whole():
    image = np.ones((8, 9, 8), "float32")
    field = np.zeros((8, 9, 8, 3), "float32")
    field[:, :3, :, 0] = -2.0 * np.arange(8)[:, None, None]  # folds, but not in the middle
    step = steppable.registration_step("1", image, image, field, image > 0)
    assert not step.caption.startswith("0 folded")
    assert "0 folded voxels marked" in step.text


def test_panels_and_scales_are_the_same_in_every_frame(registrations):
    def layout(step):
        step.figure.canvas.draw()
        return [
            (ax.get_position().bounds, ax.get_xlim(), [i.get_clim() for i in ax.images[:1]])
            for ax in step.figure.axes
        ]

    assert layout(registrations[0]) == layout(registrations[1]) == layout(registrations[2])


def test_frames_are_light_and_folds_keep_their_colour(registrations):
    fold = 255 * np.array(to_rgb(figures.FOLD_COLOUR))
    page = Fragment(steppable.steps(registrations, name="a"))
    for picture, image in zip(pictures(page), page.all("img"), strict=True):
        assert len(image["src"]) < 80_000  # 60 kB as base64
        pixels = np.array(picture.convert("RGB"), float)
        assert (abs(pixels - fold).max(-1) < 4).sum() > 100  # the key, if nothing folds


# -- in a browser --------------------------------------------------------------------------------


class Browser:
    """A headless Chromium, driven over a pipe by its DevTools protocol."""

    def __init__(self, program, home):
        # The browser reads descriptor 3 and writes descriptor 4; ours must not be those.
        read_in, self._commands = map(_high, os.pipe())
        self._answers, write_out = map(_high, os.pipe())
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += [f"--user-data-dir={home}", "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            ["sh", "-c", 'exec "$@"', "sh", program, *options],
            preexec_fn=lambda: (os.dup2(read_in, 3), os.dup2(write_out, 4)),
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_in)
        os.close(write_out)
        self._count, self._rest, self._session = 0, b"", None
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        answer = self.do("Target.attachToTarget", targetId=target, flatten=True)
        self._session = answer["sessionId"]
        self.do("Emulation.setFocusEmulationEnabled", enabled=True)

    def do(self, method, **parameters):
        self._count += 1
        command = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                assert select.select([self._answers], [], [], 60)[0], f"no answer to {method}"
                more = os.read(self._answers, 1 << 16)
                assert more, "the browser has gone"
                self._rest += more
            line, self._rest = self._rest.split(b"\0", 1)
            answer = json.loads(line)
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def ask(self, expression):
        options = {"returnByValue": True, "awaitPromise": True}
        answer = self.do("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, path, width):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.do("Emulation.setDeviceMetricsOverride", **size)
        self.do("Page.navigate", url=path.as_uri())
        self.ask(
            "new Promise(done => {const look = () => location.href != 'about:blank' && "
            "document.readyState == 'complete' ? done() : setTimeout(look, 20); look()})"
        )

    def press(self, key):
        name, code = key
        for event in ("rawKeyDown", "keyUp"):
            options = {"key": name, "code": name, "windowsVirtualKeyCode": code}
            self.do("Input.dispatchKeyEvent", type=event, **options)

    def shown(self):
        """The captions of the pictures that can be seen."""
        return self.ask(
            "[...document.querySelectorAll('.vxm-steps img')]"
            ".filter(image => image.checkVisibility({visibilityProperty: true}))"
            ".map(image => image.parentNode.innerText.trim())"
        )

    def close(self):
        self._session = None
        self.do("Browser.close")
        self._process.wait(20)
        os.close(self._commands)
        os.close(self._answers)


def _high(descriptor):
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return copy


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    try:
        program = pdf.find_browser()
    except pdf.PdfError as error:
        pytest.skip(str(error))
    window = Browser(program, tmp_path_factory.mktemp("browser"))
    yield window
    window.close()


@pytest.fixture
def page(tmp_path, root):
    """Two groups on one page with the book's own style, the second after a link."""
    style = (root / "book" / "_static" / "book.css").read_text(encoding="utf8")
    path = tmp_path / "page.html"
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf8">'
        '<meta name="viewport" content="width=device-width"><title>Steps</title>'
        f'<style>{style}</style><article class="bd-article">'
        f'<div class="cell_output"><div class="output text_html">{three("one").html}</div></div>'
        f'<a href="#" id="link">A link</a>{three("two", start="1").html}</article></html>',
        encoding="utf8",
    )
    return path


def test_keys_alone_move_through_the_pictures(browser, page):
    browser.open(page, width=1280)
    assert browser.shown() == ["λ = 0.01: 12 folds", "λ = 1: 0 folds"]
    browser.press(TAB)
    assert browser.ask("document.activeElement.id") == "one--1"
    ring = "getComputedStyle(document.activeElement)"
    assert browser.ask(f"{ring}.outlineStyle + ' ' + {ring}.outlineWidth") == "solid 3px"
    browser.press(ARROW_RIGHT)
    assert browser.shown() == ["λ = 0.1: 1 fold", "λ = 1: 0 folds"]
    browser.press(ARROW_RIGHT)
    browser.press(ARROW_RIGHT)  # around to the first
    assert browser.shown()[0] == "λ = 0.01: 12 folds"
    browser.press(TAB)
    assert browser.ask("document.activeElement.id") == "link"
    browser.press(TAB)
    browser.press(ARROW_LEFT)
    assert browser.shown() == ["λ = 0.01: 12 folds", "λ = 0.1: 1 fold"]


def test_a_screen_reader_hears_group_choice_and_numbers(browser, page):
    browser.open(page, width=1280)
    browser.do("Accessibility.enable")
    tree = browser.do("Accessibility.getFullAXTree")["nodes"]
    heard = [
        [node.get(part, {}).get("value") for part in ("role", "name", "description")]
        for node in tree
    ]
    assert ["group", "Choose λ", None] in [[*node[:2], None] for node in heard]
    assert ["radio", "0.1", "λ = 0.1: 1 fold"] in heard
    images = [name for role, name, _ in heard if role in ("image", "img")]
    assert images == ["A jagged grid.", "A straight grid."]  # those that are shown


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_does_not_scroll_sideways_nor_jump(browser, page, width):
    browser.open(page, width=width)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask(
        "[...document.querySelectorAll('.text_html, .vxm-steps')].every(part => "
        "part.scrollWidth <= part.clientWidth)"
    )
    long = "document.getElementById('one--2--says').append(' and many more words'.repeat(30))"
    browser.ask(long)
    place = "document.getElementById('link').getBoundingClientRect().top"
    before = browser.ask(place)
    browser.press(TAB)
    browser.press(ARROW_RIGHT)
    assert browser.ask(place) == before


def test_a_print_has_every_picture(browser, page):
    browser.open(page, width=1280)
    browser.do("Emulation.setEmulatedMedia", media="print")
    try:
        assert len(browser.shown()) == 6
        assert browser.ask(
            "[...document.querySelectorAll('.vxm-steps input')].every(one => "
            "!one.checkVisibility())"
        )
    finally:
        browser.do("Emulation.setEmulatedMedia", media="")


def test_every_picture_is_there_where_buttons_are_taken_away(browser, page):
    # A viewer that cleans what it shows (of a repository, of a mail) drops the form's controls.
    browser.open(page, width=1280)
    browser.ask("document.querySelectorAll('.vxm-steps input').forEach(one => one.remove())")
    assert len(browser.shown()) == 6
