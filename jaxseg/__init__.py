"""jaxseg: efficient semantic segmentation in JAX/Flax.

    model = jaxseg.load("runs/quickstart")          # a training folder or a deployed folder
    labels = model(image_uint8)                     # [H, W, 3] -> [H, W]

    module, variables = jaxseg.create("deeplabv3plus_resnet18", num_classes=11)
    outputs = module.apply(variables, image_float)  # [B, H, W, 3] -> Outputs

Importing the package itself is cheap; JAX is imported on first use.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxseg.arch import Arch
    from jaxseg.inference.predictor import Model
    from jaxseg.inference.ways import InputDependent

__version__ = "0.1.0"
__all__ = ["create", "load"]


def load(
    folder: str | Path,
    *,
    window_px: tuple[int, int] = (0, 0),
    window_overlap_frac: float = 1 / 3,
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
) -> "Model | InputDependent":
    """A trained model, ready to be called on uint8 images (see `inference.predictor.Model`).

    It answers as the folder says (`eval.exits`): one that `deploy` made with exits, each image as far as it needs; with
    mode 'budgeted', the part up to that answer; with 'anytime', the last answer (`ways.AnyTime` gives them all).

    Args:
        folder: a training folder (its last weights) or a deployed folder.
        window_px: (height, width) of a sliding window; (0, 0) = the whole image at once.
        window_overlap_frac: of two neighbouring windows, at least, in [0, 1).
        flip: answer with the mean over the image and its mirror image.
        scales: answer with the mean over the image at these scales.

    Raises:
        jaxseg.errors.UserError: no model there, or a damaged one; a value that cannot be.
    """
    from jaxseg.inference.augmented import Mode
    from jaxseg.inference.predictor import Model
    from jaxseg.inference.ways import Way, parts, routed

    model = Model.load(folder, mode=Mode(window_px, window_overlap_frac, flip, scales))
    way = Way.from_dict(model.card.evaluation.get("exits", {}))
    return routed(model, way) or list(parts(model, way).values())[-1]


def create(
    arch: "str | Arch",
    *,
    num_classes: int | None = None,
    seed: int = 0,
    pretrained: str = "",
    **options: Any,
) -> tuple[Any, dict[str, Any]]:
    """A network with random or pretrained weights.

    Args:
        arch: an `Arch`, or a name of the zoo such as 'deeplabv3plus_resnet18'.
        num_classes: K; needed with a name.
        seed: of the random weights.
        pretrained: as `config.model.pretrained`: a known name such as 'efficientnet_lite0', or a path. What was
            loaded and what stays random is logged (logger 'jaxseg', level INFO); `weights.pretrained.start`
            returns it.
        **options: of the named network: width, output_stride, aux, compute, dropout.

    Returns:
        (module, variables): `module.apply(variables, image)` takes a normalised float image
        [B, H, W, 3] and gives `types.Outputs`.

    Raises:
        jaxseg.errors.UserError: unknown name or option, or weights that do not fit.
    """
    import jax

    from jaxseg.errors import UserError
    from jaxseg.models import zoo

    if isinstance(arch, str):
        if num_classes is None:
            raise UserError("create", got=f"name {arch!r} alone", expected="num_classes too")
        arch = zoo.named(arch, num_classes, **options)
    variables = dict(zoo.init(arch, jax.random.PRNGKey(seed)))
    if pretrained:
        import logging

        from jaxseg.weights.pretrained import find, start

        variables, report = start(arch, variables, find(pretrained))
        for line in report.lines():
            logging.getLogger(__name__).info(line)
    return zoo.module(arch), variables
