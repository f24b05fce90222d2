"""After DANCE on the evidence network, toy_street: simple images smaller and fewer, and channels gone everywhere.

Command:  python -m jaxseg.train --config=configs/dance_toy_street.py --workdir=runs/dance
Hardware: 2 CPU cores.  Time: 4 min 48 s beside another training, a good part of it compiling 6 programs.
Val mIoU: 0.566, test 0.563, each image at its own size 0.538 (seed 0, last checkpoint; results/dance.json).

configs/quickstart.py slimmed, for 6 epochs, which are 997 batches of those that are left of them (1050 plain ones).
Settings were chosen on calib among those that save 45 % of the training MACs (python -m benchmarks.run dance_settings):
the simpler half of the images at three quarters of their sides, and 31 % of all channels gone within the first fifth,
which is 0.6 coupled to so little slimming of the data. Three sizes from a half on cost more here.
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
        997, name="adamw", learning_rate=5e-3, weight_decay=1e-4, warm_up_steps=50
    )
    config.dance.data.measure = "spatial_information"
    config.dance.data.ratios, config.dance.data.edges = (0.75, 1.0), (0.5,)
    config.dance.data.tau_drop, config.dance.data.w_min = 0.2, 0.5
    config.dance.network.scope, config.dance.network.l1 = "all", 1e-4
    config.dance.network.share, config.dance.network.events, config.dance.network.done = 0.6, 2, 0.2
    return config
