"""Integer FCN-8s on VGG-16 (Yang et al., 2011.14504, the flavour of the authors' fcn/), VOC 2012
augmented (ours; the code selects the plain list, its comment says augmented).

Command:  python -m jaxseg.train --config=configs/integer_fcn8s_vgg16_voc2012.py --workdir=W
              --config.data.dir=VOC2012_FOLDER
          Add --config.model.pretrained=VGG16.pth (torchvision's names) to start from ImageNet, as the authors do.
Hardware: not run at this size (a GPU is needed); two steps at a small size are in the tests.  Time: not measured.
Val mIoU: not measured; no figure of the paper is known to us.
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name, config.data.train_split = "voc2012", "trainaug"
    config.data.batch_size = 8
    config.data.height_px, config.data.width_px = 512, 512
    config.data.augment.scale_min, config.data.augment.scale_max = 1.0, 1.0
    config.data.augment.color_jitter = 0.0
    # (pixel - mean) / 63.75 - 1 of pixels up to 255, the means those of the published VGG.
    config.data.mean, config.data.std = (0.735, 0.708, 0.658), (0.25, 0.25, 0.25)
    config.model.name, config.model.width, config.model.dropout = "fcn8s_vgg16", 1.0, 0.5
    config.integer.preset = "paper"
    config.phases.main = defaults.phase(
        30000,
        learning_rate=2.0**-4,
        momentum=0.0,
        weight_decay=0.0,
        schedule="halving",
        halve_at=(1 / 3, 2 / 3),
    )
    config.eval.every_steps, config.checkpoint.every_steps = 5000, 1000
    config.eval.batch_size = 1
    return config
