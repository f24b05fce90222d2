"""The head first on a frozen backbone, then everything: phases at work.

Command:  python -m jaxseg.train --config=configs/two_phases_toy_street.py --workdir=W
Hardware: 1 CPU core.  Time: 126 s.  Val mIoU: 0.352 (one seed; an example, not a recipe).
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.height_px, config.data.width_px = 96, 128
    config.phases.order = ("head_first", "main")
    config.phases.head_first = defaults.phase(
        200, trainable=("head",), name="adamw", learning_rate=2e-3
    )
    config.phases.main = defaults.phase(
        800, name="adamw", learning_rate=2e-3, warm_up_steps=50, backbone_multiplier=0.5
    )
    return config
