"""After ItNet (2101.08685) on toy_street: a block of 64 channels in a loop of 8 passes, every answer trained.

Command:  python -m jaxseg.train --config=configs/itnet_toy_street.py --workdir=runs/itnet
          python -m jaxseg.evaluate --workdir=runs/itnet --mode=anytime
Hardware: 1 CPU core.  Time: 392 s.  Val mIoU: 0.623 (the last of eight answers, one seed).

46 thousand parameters, 120 MMACs for 8 passes at 256x192. Data, class weights and schedule are those of
configs/quickstart.py.
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "toy_street"
    config.data.batch_size = 4
    config.data.augment.scale_min, config.data.augment.scale_max = 1.0, 1.0
    config.data.augment.color_jitter = 0.0
    config.model.name, config.model.width = "itnet", 1.0
    config.model.dropout = 0.0
    config.itnet.iterations = 8
    config.loss.class_weights = (0.55, 0.55, 1.0, 0.45, 0.8, 0.65, 1.3, 1.2, 0.7, 1.7, 1.7)
    config.phases.main = defaults.phase(
        1300, name="adamw", learning_rate=5e-3, weight_decay=1e-4, warm_up_steps=50
    )
    return config
