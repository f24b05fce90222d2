"""Integer training (2011.14504; our preset integer_only) on CamVid: DeepLabV3+ on ResNet-18 from scratch.

Command:  python -m jaxseg.train --config=configs/integer_camvid.py --workdir=W --config.data.dir=CAMVID_FOLDER
          (--config.integer.preset= for floats on the same schedule; with --config.data.name=camvid_drives
          --config.eval.split=test: fit on two drives, test on the third)
Hardware: 2 CPU cores.  Time: 10 min of training beside other work.  Test mIoU: 0.251 on camvid_drives (floats by AdamW
0.247; seed 0, last checkpoint, results/int8_accuracy.json); on camvid's val not measured.

Data and network are those of configs/camvid_deeplabv3plus_resnet18.py, sized for minutes on a CPU: with a GPU give
phases.main.steps=30000 and model.width=1.
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "camvid"
    config.data.height_px, config.data.width_px = 192, 256
    config.data.mean, config.data.std = (128 / 255,) * 3, (64 / 255,) * 3
    config.data.augment.scale_min, config.data.augment.scale_max = 0.5, 1.5
    config.model.name, config.model.width = "deeplabv3plus_resnet18", 0.5
    config.model.dropout = 0.0
    # About 1 / sqrt(frequency in train), mean 1.
    config.loss.class_weights = (0.34, 0.29, 1.42, 0.25, 0.66, 0.45, 1.30, 1.32, 0.58, 1.76, 2.60)
    config.integer.preset = "integer_only"
    config.phases.main = defaults.phase(
        450,
        learning_rate=2.0**-3,
        momentum=0.875,
        weight_decay=0.0,
        schedule="halving",
        halve_at=(0.5, 0.7, 0.85, 0.95),
    )
    config.eval.every_steps, config.checkpoint.every_steps = 450, 225
    return config
