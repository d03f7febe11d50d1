"""Networks are looked up by name, and their names are known without TensorFlow."""

import subprocess
import sys

import pytest

from vxmlib.backend import vxm
from vxmlib.networks import NETWORKS, network_class
from vxmlib.networks.strided import StridedVxmDense


def test_each_name_gives_its_class():
    classes = {name: network_class(name) for name in NETWORKS}
    assert classes == {"strided": StridedVxmDense, "vxm": vxm.networks.VxmDense}


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="network: found 'unet', expected one of: strided, vxm"):
        network_class("unet")


def test_the_names_are_known_without_tensorflow():
    code = "import sys, vxmlib.networks; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
