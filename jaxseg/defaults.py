"""Every setting there is, with its default. A config file starts from here and lists what differs.

    from jaxseg import defaults

    def get_config():
        config = defaults.get_config()
        config.data.name = 'camvid'
        ...
        return config

On the command line every value can be overridden: `--config.data.batch_size=4`.
"""

from typing import Any

from ml_collections import ConfigDict

INTEGER_WIDTHS = (
    *("image", "weights", "biases", "activations", "maps", "logits"),  # of the network
    *("errors", "conv_errors"),  # of gradients of maps, of convolutions' results
    *("normalised", "norm_params", "norm_stats", "norm_errors", "reciprocal"),  # of norms
    *("gradients", "momentum", "stored"),  # of updates
)
"""`methods.integer.WIDTHS`, which this file does not import: reading a config needs no JAX."""


def phase(steps: int, **changes: Any) -> ConfigDict:
    """The settings of one phase; `changes` replace values of the phase or of its optimiser."""
    # Globs over the network's parts ('block_00' .., 'head', 'aux_0'); the rest is frozen.
    return stage(steps, {"trainable": ("*",)}, **changes)


def stage(steps: int, more: dict[str, Any] | None = None, /, **changes: Any) -> ConfigDict:
    """As `phase`, where a method says what is trained."""
    settings = ConfigDict(
        {
            "steps": steps,
            **(more or {}),
            "optim": {
                "name": "sgd",  # sgd | adamw
                "learning_rate": 0.01,
                "momentum": 0.9,  # beta1 for adamw
                "nesterov": False,
                "beta2": 0.999,
                "weight_decay": 1e-4,  # never on norms and biases
                "clip_norm": 0.0,  # 0 = off
                "backbone_multiplier": 1.0,
                "schedule": "poly",  # poly | cosine | constant | halving
                "power": 0.9,
                "warm_up_steps": 0,
                "end_frac": 0.0,
                "halve_at": (
                    0.1,
                    0.4,
                    0.7,
                ),  # fractions of the phase at which `halving` halves the rate
            },
        }
    )
    settings.lock()
    settings.optim.lock()
    for key, value in changes.items():
        setattr(settings if key in settings else settings.optim, key, value)
    return settings


def get_config() -> ConfigDict:
    """A complete config: quarter-width DeepLabV3+ on ResNet-18, toy_street."""
    config = ConfigDict(
        {
            "seed": 0,
            "max_steps": 0,  # cut the run short; 0 = none; never rescales a schedule
            "data": {
                # toy_street | folder | camvid | camvid_drives | cityscapes | voc2012
                # ade20k (labels as published: 0, 1..150) | ade20k_shifted (0..149, 255)
                "name": "toy_street",
                "dir": "",  # raw folder in the set's published layout
                "cache_dir": "",  # prepared copies; '' = $JAXSEG_CACHE or ~/.cache/jaxseg
                "decoded_cache": True,  # keep decoded pixels in one memory-mapped file
                "train_split": "train",
                "batch_size": 8,  # over all devices and micro-batches
                "num_workers": 0,  # processes; 0 = threads of this one
                "prefetch": 4,  # batches ready ahead of the step
                "height_px": 192,  # size of the training crops
                "width_px": 256,
                "augment": {
                    "scale_min": 0.75,
                    "scale_max": 1.5,
                    "flip_prob": 0.5,
                    "color_jitter": 0.3,  # strength of brightness, contrast, saturation; 0 = off
                    "blur_prob": 0.0,
                },
                # Of RGB scaled to [0, 1]; ImageNet's by default.
                "mean": (0.485, 0.456, 0.406),
                "std": (0.229, 0.224, 0.225),
            },
            "model": {
                "name": "deeplabv3plus_resnet18",  # <head>_<backbone>, see models/networks.py; or itnet
                # '' = random | efficientnet_lite0 | a .pth, .pt, .safetensors with torch's names | a model of ours
                "pretrained": "",
                "width": 0.25,  # multiplier of all channel counts
                "output_stride": 0,  # 8 | 16 | 32; 0 = the usual one of the network
                "aux": False,  # auxiliary FCN head, training only
                "dropout": 0.1,  # in the heads
                "compute": "float32",  # float32 | bfloat16; weights, logits, loss stay float32
            },
            "loss": {
                # What is minimised: the weighted sum of these; one of weight 0 is not computed.
                "weights": {
                    "cross_entropy": 1.0,
                    "focal": 0.0,
                    "ohem": 0.0,  # cross-entropy of each image's hard pixels
                    "dice": 0.0,
                    "tversky": 0.0,
                    "lovasz": 0.0,  # Lovász-softmax, a surrogate of 1 - IoU
                },
                "ohem": {
                    "threshold": 0.7,  # hard = probability of the true class below it
                    "keep_frac": 0.0625,  # of an image's labelled pixels, kept at the least
                },
                "focal": {"gamma": 2.0},
                "tversky": {"alpha": 0.3, "beta": 0.7},  # of false positives, of misses
                # K numbers, see `python -m jaxseg.data stats`; in cross_entropy, focal and ohem.
                "class_weights": (),
                "label_smoothing": 0.0,  # in cross_entropy
                "per_image": False,  # cross_entropy: mean over an image's pixels first, then over images
                "aux_weight": 0.4,
            },
            "mess": {  # early exits, trained in two stages: the last phase, and one more per exit point
                "num_exits": 0,  # the final answer included; 0 = no early exits
                "blocks": (),  # that early exits follow, such as ('block_02',); () = at even shares of the work
                # round_robin | printed | sum | none (the phase stays as it is) | skip (no such phase: model.pretrained)
                "stage_1": "round_robin",
                "heads": {  # of stage 2: all combinations behind every block
                    "reductions": (1, 2, 4, 8),  # of channels
                    "extra_blocks": (0, 1, 2, 3),
                    "rapid_dilation": (False,),
                    "kinds": ("fcn",),  # fcn, dlb
                    "go_on": False,  # those that stage 1 has trained already start from there
                },
                "loss": "pfd",  # pfd | ce | kd | ce+kd
                "alpha": 0.5,  # share of the labels, the rest is the final answer's
                "normalise": "valid",  # cross-entropy per valid | kept pixel
                "label_stride": 1,  # stage 2 looks at every so many-th row and column of labels
                "stage_2": stage(500),  # for each exit point one such phase
            },
            "itnet": {  # of the network itnet: one block in a loop, with an answer after every pass
                "iterations": 8,  # passes
                "sharing": "weights",  # weights (statistics per pass) | everything | nothing
                "scales": 3,  # maps inside the block
                "reduction": 4,  # of channels inside its bottlenecks
                "exits": (),  # passes whose answers are trained, such as (2, 4, 8); () = all
                "exit_weights": (),  # of their losses, one per exit; () = equal
            },
            "gas": {  # of the network gas: a stack of cells that all differ, searched or given
                "cells": 14,
                # '' = cells by hand | the folder of a search, or of a model: its cells are taken
                "genotype": "",
                # A phase before the others, if it has steps; they train what it finds. Its `optim` is of the weights.
                "search": stage(
                    0,
                    learning_rate=0.025,
                    weight_decay=1e-3,
                    clip_norm=5.0,
                    schedule="cosine",
                    end_frac=0.04,
                ),
                "crop_px": (0, 0),  # of the search; (0, 0) = those of data
                "batch_size": 0,  # of the search; 0 = that of data
                "alphas": stage(  # of the architecture parameters; `steps` are those of the search
                    0,
                    name="adamw",
                    learning_rate=1e-3,
                    momentum=0.5,
                    clip_norm=10.0,
                    schedule="constant",
                ),
                "guide": "graph",  # graph | link | identity | none: how cells are told of those before them
                "sharing": "own",  # own | shared: all normal cells the same, and all that reduce
                "beta": 0.005,  # weight of log(latency); 0 = it does not matter
                "temperatures": (1.0, 0.03),  # of the sampling, first and last
                "latency": "",  # '' = MACs | a table of this device, see `python -m jaxseg.bench --table`
                "any_device": False,  # take a table that was measured elsewhere
            },
            "integer": {  # integer training: every path of numbers on a grid
                "preset": "",  # '' = floating | paper | integer_only | wageubn
                # Bits of a path, 32 = not rounded; -1 = as the preset says.
                "widths": dict.fromkeys(INTEGER_WIDTHS, -1),
                "layers": (),  # other widths for some layers, such as ("head/*:weights=4",)
            },
            "bfcn": {  # after BFCN: few bits in the forward pass, see `methods/bfcn.py`
                "weights": 32,  # bits of kernels, 1 to 8, or 32 = floating
                "activations": 32,  # of what convolutions read
                "ends": 8,  # of both in the first block and in the scores
                "reach": 1.0,  # the largest activation; the authors' is 1
                # Stages before, the last phase again each time: ("32/32", "8/8", "4/4", "2/2"); () = directly.
                "ladder": (),
                "stage": 1 / 3,  # length of each later stage, of the last phase's
            },
            "dance": {  # after DANCE: less is trained on simple images
                "data": {  # see `data/dance.py`; by default a measure alone changes nothing
                    # '' = off | spatial_information | label_boundary | entropy | jpeg
                    "measure": "",
                    "rank": "within_group",  # drives, cities; else the same as global | minmax
                    "ratios": (
                        1.0,
                    ),  # of sides, for images of low to high rank, such as (0.5, 0.75, 1.0)
                    "edges": (),  # of ranks between them, such as (1 / 3, 2 / 3)
                    "tau_drop": 0.0,  # images of lower rank may be dropped, such as 0.2; 0 = off
                    "drop_rule": "linear",  # falling from rank 0 to tau_drop | step: the same for all below it
                    "d_max": 0.5,  # greatest probability of dropping an image
                    "w_min": 1.0,  # weight of the image that counts least, such as 0.5; 1 = off
                    "weight_sign": 1,  # 1: complex images count more | -1: simple ones
                    "warm_epochs": 0,  # first epochs of the run that are as usual
                    "shuffled": False,  # a control: ranks are dealt out to images at random
                },
                "network": {  # channels go while it trains, see `methods/dance.py`
                    "share": 0.0,  # of the channels in scope that are gone at the end; 0 = off
                    "events": 5,  # in which they go
                    "done": 0.5,  # fraction of the phase after which the last has gone
                    "multiple": 1,  # of channels, that layers come to: 8 or 16, by which devices calculate
                    "scope": "multi_scale",  # multi_scale: ASPP and its like | all
                    "l1": 0.0,  # weight of the sum of absolute scales in the loss, such as 1e-4; 0 = off
                    # 0 = at even times | such as 0.1: as soon as so small a share of what would go changed for
                    # 5 looks, and at `done` at the latest
                    "stable": 0.0,
                    "look_every": 0,  # steps from one look to the next; 0 = an epoch
                    "tie": True,  # the share follows from how much the data are slimmed, where they are
                },
            },
            "ema_decay": 0.0,  # average of weights that is evaluated and deployed; 0 = off
            "accumulate": 1,  # micro-batches per update
            "max_skipped": 10,  # updates in a row without a finite loss and gradient, then the run stops
            "parallel": {"mode": "jit"},  # jit | pmap
            "phases": {"order": ("main",), "main": phase(1000)},
            "eval": {
                "split": "val",
                "every_steps": 500,  # 0 = at the end only
                "batch_size": 8,
                "num_pictures": 4,  # fixed images drawn at each evaluation
                # From here on for `evaluate` and `predict`; during training every evaluation is plain.
                "window_px": (0, 0),  # (height, width) of a sliding window; (0, 0) = whole image
                "window_overlap_frac": 1 / 3,  # of neighbouring windows, at least
                "flip": False,  # mean with the mirror image
                "scales": (1.0,),  # mean over scaled images
                "exits": {  # of a multi-exit network or a loop; the mode can be given as --mode
                    "mode": "final",  # final | budgeted | anytime | input | deadline | slim
                    "chosen": (),  # indices of exits, one behind a block; of itnet passes, from 1; () = all
                    "confidence": "top1",  # top1 | entropy
                    "measure": "pixels",  # of an image: share of confident pixels | mean confidence
                    "smooth": True,  # median near borders between labels
                    "pixel": (0.9,),  # confidence of a confident pixel; one, or one per exit
                    "image": (),  # confidence of an image that leaves; one, or one per exit, 2.0 = never
                    "deadline_ms": 0.0,  # of deadline: image to label map, on this device
                },
                "boundary_f1": False,  # `evaluate` only: how well borders are met
                "boundary_tolerance_frac": 0.0075,  # in diagonals of the image
            },
            "checkpoint": {"every_steps": 500, "keep_last": 2, "keep_best": 1},
            "log": {"every_steps": 20, "tensorboard": True},
        }
    )
    # A typing mistake in a config file raises instead of adding a key that nobody reads. Only the phases stay
    # open: their names are the user's.
    config.lock()
    config.phases.unlock()
    config.phases.main.lock()
    return config
