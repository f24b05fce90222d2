"""x"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "toy_street"
    config.data.batch_size = 8
    config.data.height_px, config.data.width_px = 96, 128
    config.data.augment.scale_min, config.data.augment.scale_max = 1.0, 1.0
    config.data.augment.color_jitter = 0.0
    config.model.name, config.model.width = "deeplabv3plus_resnet18", 0.25
    config.model.dropout = 0.0
    config.loss.class_weights = (0.55, 0.55, 1.0, 0.45, 0.8, 0.65, 1.3, 1.2, 0.7, 1.7, 1.7)
    config.integer.preset = "integer_only"
    config.phases.main = defaults.phase(
        400,
        learning_rate=2.0**-4,
        momentum=0.875,
        weight_decay=0.0,
        schedule="halving",
        halve_at=(0.5, 0.7, 0.85, 0.95),
    )
    return config
