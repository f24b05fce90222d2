"""Tests against torch: run by `make parity`, not by `make test`; without torch they fail, they are not skipped."""

import torch

import benchmarks.torch_libraries  # noqa: F401  (before anything imports torchvision)

# Two threads that wait for each other in a depthwise convolution take 20 times as long as one, beside other work.
torch.set_num_threads(1)
