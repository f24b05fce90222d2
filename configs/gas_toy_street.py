"""After GAS on toy_street: cells are searched on small crops, then what was found is trained.

Command:  python -m jaxseg.bench --config=configs/gas_toy_street.py --table=runs/gas_table.json --height=192 --width=256
          python -m jaxseg.train --config=configs/gas_toy_street.py --workdir=runs/gas
              --config.gas.latency=runs/gas_table.json                (without it MACs stand for latency)
Hardware: 2 CPU cores.  Time: search 67 s, training 50 s, compiling included.
Test mIoU: docs/methods/gas.md, made from results/gas.json.

A small network: 6 cells (the paper's have 14), so that a search takes minutes. Chosen on val with seed 100: AdamW for
the weights, with which they learn something in so few steps (SGD at 0.1: the found network scored 12 % inside the
supernet, AdamW 25 %); and a rate of the architecture parameters ten times the paper's, whose search is many times as
long. What is found is trained on whole images: on the crops of the search, maps of 6x8 cells, the outer taps of
dilation 8 and of the ASPP see nothing but padding, and stay random for larger images.
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "toy_street"
    config.data.height_px, config.data.width_px = 192, 256
    config.data.batch_size = 4
    config.data.augment.scale_min, config.data.augment.scale_max = 0.5, 1.0
    config.data.augment.color_jitter = 0.0
    config.model.name = "gas"
    config.model.dropout = 0.0
    config.gas.cells = 6
    config.gas.search.steps = 400
    config.gas.crop_px, config.gas.batch_size = (96, 128), 8
    config.gas.search.optim.name = "adamw"
    config.gas.search.optim.learning_rate = 5e-3
    config.gas.search.optim.weight_decay = 1e-4
    config.gas.search.optim.warm_up_steps = 20
    config.gas.alphas.optim.learning_rate = 1e-2
    config.loss.class_weights = (0.55, 0.55, 1.0, 0.45, 0.8, 0.65, 1.3, 1.2, 0.7, 1.7, 1.7)
    config.phases.main = defaults.phase(
        800, name="adamw", learning_rate=5e-3, weight_decay=1e-4, warm_up_steps=50
    )
    config.eval.every_steps = 400
    return config
