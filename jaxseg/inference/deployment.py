"""How a deployed multi-exit model answers: what `deploy` chose, as the model's card holds it, and what runs then."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxseg.arch import Arch
from jaxseg.errors import UserError, unknown_name
from jaxseg.inference import multi_exit
from jaxseg.inference.exits import Policy, thresholds
from jaxseg.inference.predictor import make_predict
from jaxseg.inference.search import ANYTIME, FINAL, INPUT, SETTINGS
from jaxseg.types import Array


@dataclass(frozen=True)
class Routing:
    """What is asked of a multi-exit network.

    setting: 'final' (the last head answers), 'input' (each image leaves where it is sure enough) or 'anytime'; a
             network cut behind an exit ('budgeted') is 'final', since that exit is its last head.
    pixel, image: thresholds of the early exits, for 'input'.
    policy:  how sure an exit is.
    """

    setting: str = FINAL
    pixel: tuple[float, ...] = ()
    image: tuple[float, ...] = ()
    policy: Policy = field(default_factory=Policy)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any], arch: Arch) -> "Routing":
        """From a card; {} is the plain answer.

        Raises:
            UserError: not what `to_dict` gives, or not of this network.
        """
        try:
            routing = cls(
                setting=str(record.get("setting", FINAL)),
                pixel=tuple(float(x) for x in record.get("pixel", ())),
                image=tuple(float(x) for x in record.get("image", ())),
                policy=Policy(**record.get("policy", {})),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError("deployment of the model", got=error) from error
        if routing.setting not in SETTINGS:
            raise unknown_name("setting of the deployment", routing.setting, SETTINGS)
        wanted = len(arch.exits) if routing.setting == INPUT else 0
        if routing.setting == INPUT and (len(routing.pixel), len(routing.image)) != (wanted,) * 2:
            raise UserError(
                "thresholds of the deployment",
                got=f"{len(routing.pixel)} and {len(routing.image)}",
                expected=f"{wanted}, one per early exit",
            )
        if routing.setting in (INPUT, ANYTIME) and not arch.exits:
            raise UserError(
                "setting of the deployment", got=routing.setting, expected="a network with exits"
            )
        return routing


Answers = Callable[[Any, Array], tuple[np.ndarray, np.ndarray]]


def make_answers(
    arch: Arch, mean: tuple[float, ...], std: tuple[float, ...], routing: Routing
) -> Answers:
    """(variables on the device, image uint8 [B, H, W, 3]) -> (label map uint8 [B, H, W], exit taken int32 [B]).

    One image at a time is one compiled program with conditions; more run in segments, see `multi_exit`.
    """
    if routing.setting != INPUT:
        predict = make_predict(arch, mean, std)
        last = len(arch.exits)

        def plain(variables: Any, image: Array) -> tuple[np.ndarray, np.ndarray]:
            labels = np.asarray(predict(variables, image))
            return labels, np.full(len(labels), last, np.int32)

        return plain
    segments = multi_exit.cut(arch, mean, std, routing.policy)
    limits = thresholds(routing.pixel, routing.image)
    one, many = multi_exit.answer_one(segments), multi_exit.answer_many(segments)

    def routed(variables: Any, image: Array) -> tuple[np.ndarray, np.ndarray]:
        answer = (one if image.shape[0] == 1 else many)(variables, jnp.asarray(image), limits)
        return np.asarray(answer.labels), np.asarray(answer.taken)

    return routed
