"""The first run: quarter-width DeepLabV3+ on ResNet-18, toy_street (embedded, made on first use).

Command:  make train
          (python -m jaxseg.train --config=configs/quickstart.py --workdir=runs/quickstart)
Hardware: 2 CPU cores.  Time: not measured.  Val mIoU: not measured.
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "toy_street"
    config.data.height_px, config.data.width_px = 96, 128
    config.model.name, config.model.width = "deeplabv3plus_resnet18", 0.25
    config.phases.main = defaults.phase(
        1000, name="adamw", learning_rate=2e-3, weight_decay=1e-4, warm_up_steps=50
    )
    return config
