"""Importing it makes torchvision, timm and segmentation_models_pytorch importable beside any build of torch."""

import sys
import warnings

import torch


def _declare_operators() -> torch.library.Library:
    """Declares the two compiled operators that `import torchvision` looks up.

    Its own come compiled against one build of torch and do not load beside another, such as the one for CPUs
    only. Nothing here calls them.
    """
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of other people's imports
    try:
        import torchvision
    except RuntimeError:
        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        OPERATORS = _declare_operators()
        import torchvision  # noqa: F401
    import segmentation_models_pytorch  # noqa: F401
    import timm  # noqa: F401
