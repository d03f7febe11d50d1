"""The viewer of the report: its volumes read back, and its controls in a browser."""

import base64
import gzip
import json
import re

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec

from tools.pdf import FLAGS, PdfError, find_browser
from vxmlib.scans import report, viewer
from vxmlib.scans.mapping import Mapping

AFFINE = from_matvec(np.diag([2.0, 2.0, 2.0]), [-20.0, -24.0, -20.0])


def ball(radius):
    index = np.moveaxis(np.indices((20, 24, 20)), 0, -1) - [9.5, 11.5, 9.5]
    return np.clip(1.2 - np.linalg.norm(index, axis=-1) / radius, 0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def volumes():
    names = ("fixed", "aligned", "registered", "checkerboard")
    images = {name: ball(6 + number) for number, name in enumerate(names)}
    inside = ball(7) > 0
    images["labels"] = inside * 2
    images["growth"] = np.where(inside, -0.52, 0.0)
    images["distance"] = np.where(inside, 3.337, 0.0)
    return images


def test_the_volumes_are_in_the_page(volumes):
    page = viewer.fragment(volumes, AFFINE)
    listed = json.loads(re.search(r"const volumes = (\[.*\]);", page)[1])
    assert [each["name"] for each in listed] == list(volumes)
    for each in listed:
        image = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(each["base64"])))
        np.testing.assert_allclose(image.affine, AFFINE)
        scale = 255 if each["colormap"] == "gray" else 1
        np.testing.assert_allclose(
            image.get_fdata(), scale * volumes[each["name"]], atol=0.6 if scale > 1 else 0.006
        )


def test_only_what_exists_can_be_chosen(volumes):
    without = {name: volumes[name] for name in volumes if name not in ("labels", "growth")}
    for given in (volumes, without):
        page = viewer.fragment(given, AFFINE)
        for name in ("fixed", "labels", "warped labels", "growth", "distance"):
            assert (f'value="{name}"' in page) == (name in given)


def test_the_page_loads_nothing_from_elsewhere(volumes):
    page = viewer.fragment(volumes, AFFINE)
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)


def test_the_grid_of_the_viewer_holds_the_brain_and_is_straight():
    turned = from_matvec([[0, -2.1, 0], [1.8, 0, 0.4], [-0.5, 0, 1.9]], [5, 60, -40])
    image = ball(8)
    shape, affine = viewer.grid_around(image, turned)
    points = apply_affine(turned, np.argwhere(image > 0))
    index = apply_affine(np.linalg.inv(affine), points)
    assert (index >= 2).all() and (index <= np.array(shape) - 2).all()
    np.testing.assert_allclose(affine[:3, :3], viewer.SPACING * np.eye(3))


def test_growth_and_distance_are_those_of_the_displacement_without_the_affine_part():
    field = np.zeros((20, 24, 20, 3), np.float32)
    field[..., 0] = 0.1 * (np.arange(20) - 9.5)[:, None, None]  # stretches by a tenth
    after = from_matvec(1.3 * np.eye(3), [40, 0, 0])  # would be a growth of 2.2, and 40 mm
    mapping = Mapping(np.eye(4), field, AFFINE, after)
    image = ball(6)
    images = {"fixed": image, "aligned": image, "warped": image, "affine": AFFINE}
    shown, affine = report._volumes(images, mapping)
    inside = tuple(np.argwhere(shown["fixed"] > 0.9).T)
    np.testing.assert_allclose(shown["growth"][inside], np.log2(1.1), atol=1e-3)
    away = apply_affine(affine, np.argwhere(shown["fixed"] > 0.9))[:, 0] + 1.0
    np.testing.assert_allclose(shown["distance"][inside], 1.3 * 0.1 * np.abs(away), atol=1e-2)


@pytest.fixture
def opened(volumes, tmp_path):
    """The viewer in a browser with WebGL in software."""
    playwright = pytest.importorskip("playwright.sync_api", reason="`make browser` adds it")
    (tmp_path / "page.html").write_text(viewer.fragment(volumes, AFFINE), encoding="utf-8")
    software = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    flags = [flag for flag in FLAGS if flag != "--disable-gpu"] + software
    try:
        path = find_browser()
    except PdfError as error:
        pytest.skip(str(error))
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=flags)
        page = browser.new_page(viewport={"width": 400, "height": 400})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_selector("#viewer.ready", timeout=60_000)
        yield page
        browser.close()
    assert not errors


def picture(page):
    return page.locator("canvas").screenshot()


def test_the_controls_change_the_picture(opened):
    seen = [picture(opened)]
    for name, value in (
        ("image", "registered"),
        ("overlay", "growth"),
        ("planes", "sliceTypeRender"),
    ):
        opened.locator(f"input[name={name}][value={value}]").check()
        opened.wait_for_timeout(300)
        seen.append(picture(opened))
    assert len(set(seen)) == 4
    assert opened.locator("#fade").is_disabled()


def test_the_keyboard_is_enough_to_fade(opened):
    opened.locator("input[name=image][value=fixed]").focus()
    for _ in range(3):
        opened.keyboard.press("ArrowDown")
    assert opened.locator("input[value=fade]").is_checked()
    before = picture(opened)
    opened.locator("#fade").focus()
    opened.keyboard.press("End")
    opened.wait_for_timeout(300)
    assert picture(opened) != before
