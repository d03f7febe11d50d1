"""Numbers for the prose: plain Python values only."""

import numpy as np
import pytest

from vxmlib.book import glue


@pytest.fixture
def glued(monkeypatch):
    import myst_nb

    seen = {}
    monkeypatch.setattr(myst_nb, "glue", lambda name, value, display: seen.update({name: value}))
    return seen


def test_numpy_scalars_become_python_numbers(glued):
    glue.glue(a=np.float32(0.5), b=np.int64(3), c="text")
    assert glued == {"a": 0.5, "b": 3, "c": "text"}
    assert [type(v) for v in glued.values()] == [float, int, str]


def test_arrays_are_refused(glued):
    with pytest.raises(TypeError, match="glue dice: found ndarray"):
        glue.glue(dice=np.zeros(3))
