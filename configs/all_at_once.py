"""All methods in one run, on toy_street: cells, exits, slimming of data and network, integers.

Command:  python -m jaxseg.train --config=configs/gas_toy_street.py --workdir=runs/gas      (the cells; by hand without)
          python -m jaxseg.train --config=configs/all_at_once.py --workdir=runs/all --config.gas.genotype=runs/gas
          python -m jaxseg.deploy --workdir=runs/all --output=runs/all_deployed --max-latency-ms=MS
          python -m jaxseg.deploy --workdir=runs/all --output=runs/all_int8 --setting=final --numbers=int8
Hardware: 1 CPU core.  Time: 319 s, half of it compiling, and 139 s for the search (means of 3 seeds).
Test mIoU: 0.401 (0.393 to 0.409; the plain network of the same skeleton 0.446); rows: docs/together.md.

In the one order that there is: exits learn all at once on integer grids while simple images are trained on smaller and
channels go by eights; then the heads go on, beside others. Integers need plain SGD at rates that are powers of two.
"""

from jaxseg import defaults

RATES = {
    "learning_rate": 2.0**-3,
    "momentum": 0.875,
    "weight_decay": 0.0,
    "schedule": "halving",
    "halve_at": (0.5, 0.7, 0.85, 0.95),
}


def get_config():
    config = defaults.get_config()
    config.data.name = "toy_street"
    config.data.batch_size = 8
    config.data.mean, config.data.std = (128 / 255,) * 3, (64 / 255,) * 3
    config.data.augment.scale_min, config.data.augment.scale_max = 1.0, 1.0
    config.data.augment.color_jitter = 0.0
    config.model.name = "gas"
    config.model.dropout = 0.0
    config.gas.cells = 6
    config.loss.class_weights = (0.55, 0.55, 1.0, 0.45, 0.8, 0.65, 1.3, 1.2, 0.7, 1.7, 1.7)
    config.mess.num_exits, config.mess.label_stride = 3, 2
    config.mess.stage_1 = "sum"
    config.mess.heads.reductions, config.mess.heads.extra_blocks = (1, 2), (0, 1)
    config.mess.heads.go_on = True
    config.mess.stage_2 = defaults.stage(150, **RATES)
    config.dance.data.measure, config.dance.data.rank = "spatial_information", "global"
    config.dance.data.ratios, config.dance.data.edges = (0.75, 1.0), (0.5,)
    config.dance.data.w_min = 0.5
    config.dance.network.share, config.dance.network.l1 = 0.2, 1e-4
    config.dance.network.events, config.dance.network.scope = 1, "all"
    config.dance.network.multiple = 8
    config.integer.preset = "integer_only"
    config.phases.main = defaults.phase(600, **RATES)
    config.eval.every_steps = 0
    return config
