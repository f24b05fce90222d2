"""Integer training (2011.14504; our preset integer_only) on toy_street: quarter-width DeepLabV3+ on ResNet-18.

Command:  python -m jaxseg.train --config=configs/integer_toy_street.py --workdir=runs/integer
          (--config.integer.preset=paper, wageubn, or nothing for floats on the same schedule)
Hardware: 2 CPU cores.  Time: about 2 min beside another run.
Val mIoU: not kept; test mIoU: 0.444, mean of seeds 0 to 2, 0.419 to 0.481 (last checkpoint; results/integer.json).

Crops of 96x128 px, no augmentation but flips, no dropout. Pixels are normalised to whole steps of 1/64, so that an
image is exact in 8 bits.
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "toy_street"
    config.data.batch_size = 8
    config.data.height_px, config.data.width_px = 96, 128
    config.data.mean, config.data.std = (128 / 255,) * 3, (64 / 255,) * 3
    config.data.augment.scale_min, config.data.augment.scale_max = 1.0, 1.0
    config.data.augment.color_jitter = 0.0
    config.model.name, config.model.width = "deeplabv3plus_resnet18", 0.25
    config.model.dropout = 0.0
    config.loss.class_weights = (0.55, 0.55, 1.0, 0.45, 0.8, 0.65, 1.3, 1.2, 0.7, 1.7, 1.7)
    config.integer.preset = "integer_only"
    config.phases.main = defaults.phase(
        600,
        learning_rate=2.0**-3,
        momentum=0.875,
        weight_decay=0.0,
        schedule="halving",
        halve_at=(0.5, 0.7, 0.85, 0.95),
    )
    return config
