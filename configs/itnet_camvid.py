"""After ItNet (2101.08685) on CamVid 480x360: a block of 128 channels in a loop of 8 passes, every answer trained.

Command:  python -m jaxseg.train --config=configs/itnet_camvid.py --workdir=W --config.data.dir=CAMVID_FOLDER
          (with --config.data.name=camvid_drives --config.eval.split=test: fit on two drives, test on the third)
          python -m jaxseg.evaluate --workdir=W --mode=anytime
Hardware: one GPU.  Time: not measured.  mIoU: not measured.
On 2 CPU cores (phases.main.steps=700, crops of 192x256 px; results/itnet_camvid.json): 20 min beside other work, val
mIoU 48.3 %, 28.6 % on an unseen drive.

289 thousand parameters (ESPNet: 358), 2.67 GMACs for 8 passes. With a GPU also itnet.iterations=16.
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "camvid"
    config.data.height_px, config.data.width_px = 360, 480
    config.data.augment.scale_min, config.data.augment.scale_max = 0.5, 1.5
    config.model.name, config.model.width = "itnet", 2.0
    config.itnet.iterations, config.itnet.reduction = 8, 2
    # About 1 / sqrt(frequency in train), mean 1.
    config.loss.class_weights = (0.34, 0.29, 1.42, 0.25, 0.66, 0.45, 1.30, 1.32, 0.58, 1.76, 2.60)
    config.phases.main = defaults.phase(
        12000, name="adamw", learning_rate=2e-3, weight_decay=1e-4, warm_up_steps=200
    )
    config.eval.every_steps, config.checkpoint.every_steps = 1000, 500
    return config
