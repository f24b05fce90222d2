"""After BFCN on toy_street: 1-bit kernels and 2-bit activations, reached by a ladder of bits.

Command:  python -m jaxseg.train --config=configs/bfcn_toy_street.py --workdir=runs/bfcn
          (--config.bfcn.weights=2 for 2/2 bits; --config.bfcn.ladder="()" for training directly)
Hardware: 2 CPU cores.  Time: not measured alone.
Test mIoU: docs/methods/bfcn.md, made from results/bfcn.json, where there are rows.

Quarter-width DeepLabV3+ on ResNet-18, crops of 96x128 px. First block and scores have 8 bits, the image is as it is.
Activations reach up to 4, not the authors' 1: sums of residual blocks lie beyond 1, and cut there even 8/8 bits trained
directly lost most of what floats learn (chosen on val with seed 100 after 240 steps, 2/2 bits directly: 27.6 % with 2,
31.7 % with 4; 8/8 with 4: 33.8 %; floats 35.3 %).
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "toy_street"
    config.data.batch_size = 8
    config.data.height_px, config.data.width_px = 96, 128
    config.data.augment.scale_min, config.data.augment.scale_max = 1.0, 1.0
    config.data.augment.color_jitter = 0.0
    config.model.name, config.model.width = "deeplabv3plus_resnet18", 0.25
    config.model.dropout = 0.0
    config.loss.class_weights = (0.55, 0.55, 1.0, 0.45, 0.8, 0.65, 1.3, 1.2, 0.7, 1.7, 1.7)
    config.bfcn.weights, config.bfcn.activations = 1, 2
    config.bfcn.reach = 4.0
    config.bfcn.ladder = ("32/32", "8/8", "4/4", "2/2")
    config.phases.main = defaults.phase(
        309, name="adamw", learning_rate=5e-3, weight_decay=1e-4, warm_up_steps=50
    )
    config.eval.every_steps = 0
    return config
