"""After DANCE on CamVid: DeepLabV3+ on ResNet-18, data and network slimmed together, from scratch.

Command:  python -m jaxseg.train --config=configs/dance_camvid.py --workdir=W --config.data.dir=CAMVID_FOLDER
          (with --config.data.name=camvid_drives --config.eval.split=test: fit on two drives, test on the third)
Hardware: a GPU is needed.  Time: not measured.  mIoU: not measured.

Images are ranked within drives: over all of CamVid the mean gradient finds the dusk drive and not the simple scenes
(`python -m jaxseg.data stats --config=configs/dance_camvid.py --complexity=spatial_information`). Settings are the
method's own defaults, with channels of all layers in scope.
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "camvid"
    config.data.height_px, config.data.width_px = 352, 480
    config.data.augment.scale_min, config.data.augment.scale_max = 0.5, 1.5
    config.model.name, config.model.width = "deeplabv3plus_resnet18", 0.5
    # About 1 / sqrt(frequency in train), mean 1.
    config.loss.class_weights = (0.34, 0.29, 1.42, 0.25, 0.66, 0.45, 1.30, 1.32, 0.58, 1.76, 2.60)
    config.loss.per_image = True
    config.phases.main = defaults.phase(
        6000, name="adamw", learning_rate=3e-3, weight_decay=1e-2, warm_up_steps=200
    )
    config.dance.data.measure = "spatial_information"
    config.dance.data.ratios, config.dance.data.edges = (0.5, 0.75, 1.0), (1 / 3, 2 / 3)
    config.dance.data.tau_drop, config.dance.data.w_min = 0.2, 0.5
    config.dance.network.scope, config.dance.network.l1 = "all", 1e-4
    config.dance.network.share = 0.3
    return config
