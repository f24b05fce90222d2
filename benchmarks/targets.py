"""What speed was to be: the questions of experiments and their tables in documents name the same numbers."""

TRAIN = 1.2
"""A training step by one of torch."""

INFER = 1.0
"""An inference by one of torch in its fastest layout and dtype."""

KERNEL_GRADIENT = 1.0
"""The gradient of a convolution's kernel by torch's."""

REAL = 1.05
"""A training step on real data by one on a batch that lies ready."""

WAIT = 0.05
"""Share of a training step on real data that is spent waiting for data."""

INT8 = {"resnet18": (3.0, 4.0), "effnetlite0": (1.5, 2.0), "itnet": (1.5, 2.0)}
"""How much quicker int8 networks are to be than the fastest alternative: floor and aim. ItNet's are ours."""
