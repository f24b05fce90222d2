"""Your own images: quarter-width DeepLabV3+ on ResNet-18 on a folder of images and label maps, any classes.

Command:  python -m jaxseg.train --config=configs/folder.py --config.data.dir=FOLDER --workdir=W
          FOLDER holds images/<split>/ and labels/<split>/ (README, 'Your own images').
Hardware: any.  Time: depends on the data.  Val mIoU: not measured (a starting point, not a recipe).

Worth changing first: phases.main.steps, model.width, the crop's size, and loss.class_weights as
`python -m jaxseg.data stats` prints them.
"""

from jaxseg import defaults


def get_config():
    config = defaults.get_config()
    config.data.name = "folder"
    config.data.batch_size = 4
    config.phases.main = defaults.phase(
        1000, name="adamw", learning_rate=3e-3, weight_decay=1e-4, warm_up_steps=50
    )
    return config
