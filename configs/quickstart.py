"""The first run: quarter-width DeepLabV3+ on ResNet-18, toy_street (embedded, made on first use).

Command:  make train
          (python -m jaxseg.train --config=configs/quickstart.py --workdir=runs/quickstart)
Hardware: 2 CPU cores.  Time: 5 min 33 s with data, evaluation and pictures, 5 min 1 s of it training.
Val mIoU: 0.654, test 0.637 (seed 0 with the random weights of commit 2549230, last checkpoint;
results/toy_street.json).

From scratch in a few minutes nothing may be wasted: whole images (the image pooling of the ASPP sees what it will
see later), no augmentation but flips, no dropout, and weights of about 1 / sqrt(frequency), without which the rare
classes have not begun to be learnt when the time is over.
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
    return config
