"""Several devices: `fit()` on two virtual ones gives the losses of one, in a process of its own."""

import json
import subprocess
import sys

import pytest

CODE = """
import json, sys
from vxmlib.backend import set_seed, tf
from vxmlib import cohorts, models, pairs

processor = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
both = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
people = cohorts.load("mni", ndim=2, spacing=2.0)


def losses(strategy):
    with strategy.scope():
        set_seed(0)
        model = models.build(people.shape, features="small", learning_rate=1e-3)
    data = pairs.pair_dataset(people, people.split["train"][:4], batch_size=4, seed=0)
    return model.fit(data, steps_per_epoch=1, epochs=6, verbose=0).history


one = losses(tf.distribute.OneDeviceStrategy("CPU:0"))
print(json.dumps({"devices": both.num_replicas_in_sync, "one": one, "two": losses(both)}))
"""


@pytest.fixture(scope="module")
def histories():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_two_devices_train_to_the_losses_of_one(histories):
    assert histories["devices"] == 2
    for name in ("loss", "image_loss", "smoothness_loss"):
        assert histories["two"][name] == pytest.approx(
            histories["one"][name], rel=1e-4, abs=1e-9
        ), name


def test_the_losses_change_from_step_to_step(histories):
    assert len(set(histories["one"]["loss"])) == 6
