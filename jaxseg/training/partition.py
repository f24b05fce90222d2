"""Which parts of a network a phase trains.

Variables are flat: one top-level entry per block, head or exit. A phase names the trained ones by glob
patterns ('*', 'head', 'block_1?', ...); the rest gets no gradient, no decay, no EMA and runs its batch
norm in eval mode. So splitting a tree is splitting a dict, and an optimiser only ever sees what it trains.
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from jaxseg.errors import UserError

Tree = dict[str, object]


def is_trainable(name: str, patterns: Sequence[str]) -> bool:
    """Whether the top-level entry `name` matches one of `patterns`."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def frozen_names(names: Iterable[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """The names that no pattern matches, sorted.

    Raises:
        UserError: a pattern matches nothing (a typing mistake would silently train nothing).
    """
    names = sorted(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(
                "a phase's `trainable` matches no part of the network",
                got=repr(pattern),
                expected=f"a glob over {names[0]} .. {', '.join(names[-3:])}",
            )
    return tuple(name for name in names if not is_trainable(name, patterns))


def split(tree: Mapping[str, object], patterns: Sequence[str]) -> tuple[Tree, Tree]:
    """(trained, frozen): the two halves of a tree with one top-level entry per part."""
    trained = {k: v for k, v in tree.items() if is_trainable(k, patterns)}
    return trained, {k: v for k, v in tree.items() if k not in trained}


def merge(trained: Mapping[str, object], frozen: Mapping[str, object]) -> Tree:
    """The inverse of `split`."""
    return {**trained, **frozen}
