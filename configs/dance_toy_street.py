"""After DANCE on the evidence network, toy_street: smaller and fewer simple images, narrower ASPP branches.

Command:  python -m jaxseg.train --config=configs/dance_toy_street.py --workdir=runs/dance
Hardware: 2 CPU cores.  Time: not measured.  Val mIoU: not measured.

configs/quickstart.py with slimmed data. Its 1300 steps are 7.4 plain epochs of 175 batches; so many slimmed ones
are about 1230 steps (7 epochs: 1160; 8: 1327), and what is to be compared at equal epochs takes so many.
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
    config.loss.per_image = True
    config.phases.main = defaults.phase(
        1300, name="adamw", learning_rate=5e-3, weight_decay=1e-4, warm_up_steps=50
    )
    config.dance.data.measure = "spatial_information"
    config.dance.data.ratios, config.dance.data.edges = (0.5, 0.75, 1.0), (1 / 3, 2 / 3)
    config.dance.data.tau_drop, config.dance.data.w_min = 0.2, 0.5
    config.dance.network.share, config.dance.network.l1 = 0.5, 1e-4
    return config
