"""Integer DeepLabV3 on ResNet-50 (Yang et al., 2011.14504, the authors' deeplab/), ADE20K.

Command:  python -m jaxseg.train --config=configs/integer_deeplabv3_resnet50_ade20k.py --workdir=W
              --config.data.dir=ADE20K_FOLDER
          Add --config.model.pretrained=RESNET50.pth (torchvision's names) to start from ImageNet, as the authors do;
          their network is the pre-activation one with output stride 16, ours torchvision's.
Hardware: not run at this size (a GPU is needed); two steps at a small size are in the tests.  Time: not measured.
Val mIoU: not measured; no figure of the paper is known to us.
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "ade20k"
    config.data.batch_size = 8
    config.data.height_px, config.data.width_px = 512, 512
    config.data.augment.scale_min, config.data.augment.scale_max = 1.0, 1.0
    config.data.augment.color_jitter = 0.0
    config.model.name, config.model.width = "deeplabv3_resnet50", 1.0
    config.model.output_stride = 16
    config.integer.preset = "paper"
    config.phases.main = defaults.phase(
        150000,
        learning_rate=2.0**-4,
        momentum=0.0,
        weight_decay=1e-5,
        schedule="halving",
        halve_at=(1 / 3, 2 / 3),
    )
    config.eval.every_steps, config.checkpoint.every_steps = 5000, 1000
    config.eval.batch_size = 1
    return config
