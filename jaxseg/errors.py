"""What can go wrong: a user's mistake is one line that says what, got, expected and what to do.

`cli.py` turns it into exit status 2, a failed run into status 1, an interrupted one into 128 + the signal's number.
"""

import difflib
from collections.abc import Iterable

MAX_SHOWN = 4000
"""Characters of one part of a message: enough for a list of files."""


class UserError(ValueError):
    """Raised for mistakes in configs, names, paths, types and data; never for our own bugs.

    `str(error)` is one line: "<what>: got <got>; expected <expected>; <do>".
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, do: str = ""):
        head = what if got is None else f"{what}: got {got}"
        parts = [head, f"expected {expected}" if expected is not None else "", do]
        super().__init__("; ".join(one_line(str(part)) for part in parts if part))


def short(value: object) -> str:
    """The beginning of a value's repr, for messages about values that came from outside."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def one_line(text: str) -> str:
    """Whitespace becomes a space; what a terminal would obey is spelt out; what nobody would read is left out."""
    text = " ".join(text[: 2 * MAX_SHOWN].split())
    shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


class RunFailed(RuntimeError):
    """A run that cannot go on through nobody's typing mistake, such as a loss that is no number; status 1."""


class Interrupted(RuntimeError):
    """A run that was told to stop by a signal, after it saved; status 128 + the signal's number, as in a shell."""

    def __init__(self, number: int):
        super().__init__("interrupted; the same command goes on from the last checkpoint")
        self.status = 128 + number


def unknown_name(what: str, name: object, valid: Iterable[str]) -> UserError:
    """The error for a name that is not one of `valid`, with the nearest valid name as advice."""
    valid = sorted(valid)
    near = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    return UserError(
        f"unknown {what}",
        got=repr(name),
        expected="one of " + ", ".join(valid),
        do=f"did you mean {near[0]!r}?" if near else "",
    )
