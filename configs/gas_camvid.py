"""After GAS on CamVid 480x360: 14 cells searched, then trained.

Command:  python -m jaxseg.bench --config=configs/gas_camvid.py --table=T.json --height=360 --width=480
              --config.data.dir=CAMVID_FOLDER
          python -m jaxseg.train --config=configs/gas_camvid.py --workdir=W --config.data.dir=CAMVID_FOLDER
              --config.gas.latency=T.json
          (with --config.data.name=camvid_drives --config.eval.split=test: fit on two drives, test on the third)
          (DDRNet-23-slim in the same trainer: --config.model.name=ddrnet_23_slim --config.model.output_stride=8
              --config.gas.search.steps=0)
Hardware: a GPU is needed.  Time: not measured.  mIoU: not measured.

The paper's search: 150 epochs, batches of 16 crops of 240x320, SGD and Adam at its rates (recalled). Training
afterwards is that of the project's other CamVid configs, with the same crops.
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "camvid"
    config.data.height_px, config.data.width_px = 240, 320
    config.data.batch_size = 16
    config.data.augment.scale_min, config.data.augment.scale_max = 0.5, 2.0
    config.model.name = "gas"
    config.gas.cells = 14
    config.gas.search.steps = 3450
    # About 1 / sqrt(frequency in train), mean 1.
    config.loss.class_weights = (0.34, 0.29, 1.42, 0.25, 0.66, 0.45, 1.30, 1.32, 0.58, 1.76, 2.60)
    config.phases.main = defaults.phase(
        6000, name="adamw", learning_rate=3e-3, weight_decay=1e-2, warm_up_steps=200
    )
    config.eval.every_steps = 1000
    return config
