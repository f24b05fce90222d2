"""DeepLabV3+ on ResNet-18 from scratch, CamVid 480x360; sized for 30 minutes on 2 CPU cores.

Command:  python -m jaxseg.train --config=configs/camvid_deeplabv3plus_resnet18.py --workdir=W
              --config.data.dir=CAMVID_FOLDER                            (literature protocol, evaluates on val)
          ... --config.data.name=camvid_drives --config.eval.split=test  (fit on two drives, test on the third)
          Both with their record: python -m benchmarks.run camvid --data=CAMVID_FOLDER
Hardware: 2 CPU cores, busy with other work.  Time: 10 and 13 min.
mIoU: val 0.321 (camvid, 10 min), test 0.251 (camvid_drives), seed 0, last checkpoint (results/camvid.json).

The schedule is cut to the machine, not to the task: with a GPU give phases.main.steps=30000 and model.width=1.
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
    config.eval.every_steps, config.checkpoint.every_steps = 450, 225
    return config
