"""Every kind of head. A new head is a file with its `KINDS`, and a line here."""

from jaxseg.arch import BlockSpec, HeadArch
from jaxseg.errors import unknown_name
from jaxseg.models.heads import aspp, ddrnet, fcn, linear, lraspp, mess, psp, unet
from jaxseg.models.heads.head import MakeHead, Tap

KINDS: dict[str, MakeHead] = {
    **fcn.KINDS,
    **aspp.KINDS,
    **lraspp.KINDS,
    **unet.KINDS,
    **mess.KINDS,
    **linear.KINDS,
    **psp.KINDS,
    **ddrnet.KINDS,
}


def head_spec(
    name: str, role: str, head: HeadArch, taps: dict[str, Tap], num_classes: int
) -> BlockSpec:
    """The spec of `head` under the top-level name `name`.

    Args:
        name: 'head', 'aux_0', 'exit_0', ..
        role: 'head', 'aux' or 'exit'.
        head: the architecture.
        taps: what it may read: name -> shape.
        num_classes: K.

    Raises:
        UserError: a kind, an input or a number of widths that does not exist.
    """
    if head.kind not in KINDS:
        raise unknown_name("kind of head", head.kind, KINDS)
    for tap in head.inputs:
        if tap not in taps:
            raise unknown_name(f"input of {name}", tap, taps)
    return KINDS[head.kind](name, role, head, [taps[t] for t in head.inputs], num_classes)
