"""MESS on the evidence network: four exits, 16 heads behind each early one, toy_street.

Command:  python -m jaxseg.train --config=configs/mess_toy_street.py --workdir=runs/mess
Hardware: 1 CPU core.  Time: 516 s.  Val mIoU: 0.641 (the final answer, one seed); test, with controls and shorter:
docs/methods/mess.md.

The first stage is configs/quickstart.py, with one early exit learning along in each step; the second trains the heads
of all designs on what is then frozen.
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "toy_street"
    config.data.batch_size = 4
    config.data.augment.scale_min, config.data.augment.scale_max = 1.0, 1.0
    config.data.augment.color_jitter = 0.0
    config.model.name, config.model.width = "deeplabv3plus_resnet18", 0.25
    config.model.dropout = 0.0
    config.loss.class_weights = (0.55, 0.55, 1.0, 0.45, 0.8, 0.65, 1.3, 1.2, 0.7, 1.7, 1.7)
    config.phases.main = defaults.phase(
        1300, name="adamw", learning_rate=5e-3, weight_decay=1e-4, warm_up_steps=50
    )
    config.mess.num_exits, config.mess.label_stride = 4, 2
    config.mess.stage_2 = defaults.stage(
        300, name="adamw", learning_rate=5e-3, weight_decay=1e-4, warm_up_steps=20
    )
    return config
