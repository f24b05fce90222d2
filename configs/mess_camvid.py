"""MESS on CamVid: DeepLabV3+ on ResNet-18 from scratch with four exits, 16 heads behind each early one.

Command:  python -m jaxseg.train --config=configs/mess_camvid.py --workdir=W --config.data.dir=CAMVID_FOLDER
          (with --config.data.name=camvid_drives --config.eval.split=test: fit on two drives, test on the third)
Hardware: 2 CPU cores.  Time: not measured.  mIoU: not measured.

The first stage is configs/camvid_deeplabv3plus_resnet18.py, sized for minutes on a CPU: with a GPU give
phases.main.steps=30000, mess.stage_2.steps=10000 and model.width=1.
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "camvid"
    config.data.height_px, config.data.width_px = 192, 256
    config.data.augment.scale_min, config.data.augment.scale_max = 0.5, 1.5
    config.model.name, config.model.width = "deeplabv3plus_resnet18", 0.5
    # About 1 / sqrt(frequency in train), mean 1.
    config.loss.class_weights = (0.34, 0.29, 1.42, 0.25, 0.66, 0.45, 1.30, 1.32, 0.58, 1.76, 2.60)
    config.phases.main = defaults.phase(
        450, name="adamw", learning_rate=4e-3, weight_decay=1e-4, warm_up_steps=50
    )
    config.mess.num_exits, config.mess.label_stride = 4, 2
    config.mess.stage_2 = defaults.stage(
        150, name="adamw", learning_rate=4e-3, weight_decay=1e-4, warm_up_steps=20
    )
    config.eval.every_steps, config.checkpoint.every_steps = 450, 225
    return config
