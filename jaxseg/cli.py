"""The command line: flags, configs, and the one place that turns mistakes into one line and status 2."""

import contextlib
import errno
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxseg import output, processes
from jaxseg.errors import Interrupted, RunFailed, UserError, short, unknown_name

OK, FAILED, MISTAKE, INTERRUPTED, UNHEARD = 0, 1, 2, 130, 141


@dataclass(frozen=True)
class Flag:
    """One flag of a command. `choices` limits it; a `switch` is on when named."""

    name: str
    help: str
    default: str | None = None
    required: bool = False
    choices: tuple[str, ...] = ()
    switch: bool = False


@dataclass(frozen=True)
class Command:
    """A command's name, purpose and flags; `config_help` is None where it takes no --config."""

    name: str
    purpose: str
    flags: tuple[Flag, ...]
    config_help: str | None = None

    def usage(self) -> str:
        """The text of --help."""
        lines = [f"usage: python -m jaxseg.{self.name} [flags]", "", self.purpose, ""]
        rows = [
            (
                f"--{f.name}" + ("" if f.switch else "=" + ("|".join(f.choices) or f.name.upper())),
                f.help + (" (required)" if f.required else f" [{f.default}]" if f.default else ""),
            )
            for f in self.flags
        ]
        if self.config_help:
            rows.append(("--config.a.b=VALUE", self.config_help))
        wide = max(len(left) for left, _ in rows)
        return "\n".join(lines + [f"  {left:<{wide}}  {right}" for left, right in rows])


def whole(args: dict, name: str, default: int | None = None) -> int:
    """The flag `name` of what `parse` gave as a whole number above 0."""
    text = args[name] or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--{name}", got=repr(text), expected="a whole number, 1 or more")
    return int(text)


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None) -> int:
    """Calls `main(arguments)` and returns the exit status.

    0 success, 2 a user's mistake (one line on stderr), 1 a failure (one line where it is a known kind, a
    traceback where it is a bug), 130 by Ctrl-C, 143 by SIGTERM, 129 by a closed terminal; 141, as in a shell, where
    nobody reads the output any more (`| head`), of all commands but a training run, which goes on.
    """
    try:
        status, together = main(sys.argv[1:] if argv is None else argv) or OK, True
        sys.stdout.flush()
    except UserError as error:
        _tell(f"error: {error}")
        status, together = MISTAKE, False
    except RunFailed as error:
        _tell(f"error: {error}")
        status, together = FAILED, False
    except Interrupted as stop:  # all processes of a run stop at the same step
        _tell(str(stop))
        status, together = stop.status, True
    except KeyboardInterrupt:  # outside a training run: nothing to save
        _tell("interrupted")
        status, together = INTERRUPTED, False
    except Exception as error:
        status, together = _failure(error), False
    return processes.leave(status, together=together)


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone; the status says it, too
        print(text, file=sys.stderr, flush=True)


def _failure(error: Exception) -> int:
    """The status after what nobody foresaw; a line on stderr, and a traceback if it is a bug."""
    if isinstance(error, BrokenPipeError) and not output.is_heard():
        output.drop_output()
        return UNHEARD
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        output.drop_output()  # it may be what was printed
        where = short(error.filename) if error.filename is not None else "output"
        _tell(f"error: {where}: {error.strerror}; make room, then the same command again")
        return FAILED
    if isinstance(error, OSError) and error.filename is not None:
        # A path too long, a folder that may not be searched: nobody asks before every `is_dir`.
        _tell(f"error: {UserError(f'cannot use {short(error.filename)}', got=error.strerror)}")
        return MISTAKE
    _tell("".join(traceback.format_exception(error)).rstrip())
    _tell("error: this is a bug in jaxseg, please report it")
    return FAILED


def parse(command: Command, argv: Sequence[str]) -> dict[str, Any]:
    """The flags of `command`; `--config.*` overrides are left for `override`.

    Returns:
        {flag name with '_': value}.

    Raises:
        UserError: an unknown, repeated-positional, missing or wrong flag.
    """
    if any(arg in ("--help", "-h", "-help") for arg in argv):
        print(command.usage(), flush=True)
        raise SystemExit(OK)
    own, _ = split_overrides(argv)
    values = flags.FlagValues()
    for flag in command.flags:
        if flag.switch:
            flags.DEFINE_boolean(flag.name, False, flag.help, flag_values=values)
        elif flag.choices:
            flags.DEFINE_enum(flag.name, flag.default, flag.choices, flag.help, flag_values=values)
        else:
            flags.DEFINE_string(flag.name, flag.default, flag.help, flag_values=values)
    try:
        rest = values([command.name, *own])
    except flags.UnrecognizedFlagError as error:
        raise unknown_name("flag", error.flagname, [f.name for f in command.flags]) from error
    except flags.Error as error:
        raise UserError(f"flag of {command.name}", got=error) from error
    if len(rest) > 1:
        raise UserError(
            f"argument of {command.name}", got=repr(rest[1]), expected="flags only, --name=value"
        )
    for flag in command.flags:
        if flag.required and not getattr(values, flag.name):
            raise UserError(f"--{flag.name} is missing", do=flag.help)
    return {f.name.replace("-", "_"): getattr(values, f.name) for f in command.flags}


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(other arguments, `--config.a.b=value` arguments); a value may also follow as its own argument."""
    own: list[str] = []
    overrides: list[str] = []
    waiting = False
    for arg in argv:
        is_override = arg.startswith(("--config.", "-config."))
        value_of_previous = waiting and not arg.startswith("-")
        (overrides if is_override or value_of_previous else own).append(arg)
        waiting = is_override and "=" not in arg
    return own, overrides


def load_config(path: str) -> ConfigDict:
    """Runs `get_config()` of a Python config file. A config file is code: run only those you trust.

    Raises:
        UserError: no such file, not Python, no get_config, or a key that does not exist.
    """
    file = Path(path)
    if not file.is_file():
        near = unknown_name("config", path, [str(p) for p in _configs_beside(file)])
        raise near if _configs_beside(file) else UserError("no such config", got=repr(path))
    spec = importlib.util.spec_from_file_location("jaxseg_config", file)
    if spec is None or spec.loader is None:
        raise UserError("config", got=repr(path), expected="a Python file ending in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"config {path} line {error.lineno}", got=error.msg) from error
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line = f" line {frames[-1].lineno}" if frames else ""
        raise UserError(f"config {path}{line}", got=_first_line(error)) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"config {path}: get_config() gave", got=type(config), expected=ConfigDict)
    return config


def override(config: ConfigDict, argv: Sequence[str], *, only: str = "") -> ConfigDict:
    """`config` with the `--config.*` arguments applied.

    Args:
        config: not changed.
        argv: all arguments; those that are no overrides are ignored.
        only: said to the user where a key is unknown because the command takes some sections only.

    Raises:
        UserError: unknown key (with the nearest), or a value of another type.
    """
    _, overrides = split_overrides(argv)
    config = config.copy_and_resolve_references()
    valid = flat_keys(config)
    sections = {key.rsplit(".", n)[0] for key in valid for n in range(1, key.count(".") + 1)}
    for arg in overrides:
        key = arg.lstrip("-").split("=", 1)[0].removeprefix("config.")
        if key in sections and arg.startswith("-"):
            raise UserError(
                f"config.{key} is a section",
                expected=f"--config.{key}.<key>=value",
                do="name a key",
            )
        if arg.startswith("-") and key not in valid:
            error = unknown_name("config key", key, valid)
            near = str(error).rpartition("; ")[2] if "did you mean" in str(error) else ""
            hint = near or "see jaxseg/defaults.py for every key"
            raise UserError(
                "unknown config key", got=repr(key), do="; ".join(filter(None, [only, hint]))
            )
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, lock_config=True, sys_argv=["jaxseg", *overrides]
        )
        values(["jaxseg", *overrides])
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            "config value", got=_first_line(error), do=_type_hint(config, error)
        ) from error
    return values["config"].value


def flat_keys(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """{'data.batch_size': 8, ...} in the config's order."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= flat_keys(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def to_plain(config: ConfigDict) -> dict[str, Any]:
    """JSON values (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))


def from_plain(values: dict[str, Any]) -> ConfigDict:
    """The inverse: lists become tuples again, since ConfigDict cannot override lists."""

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: restore(v) for k, v in value.items()}
        return tuple(restore(v) for v in value) if isinstance(value, list) else value

    return ConfigDict(restore(values))


def _configs_beside(file: Path) -> list[Path]:
    folder = file.parent if file.parent.is_dir() else Path("configs")
    return sorted(folder.glob("*.py"))


def _first_line(error: BaseException) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return f"{type(error).__name__}: {' '.join(text.split())}"


def _type_hint(config: ConfigDict, error: Exception) -> str:
    """The type that the key in an absl error message should have."""
    key = str(error).partition("flag --config.")[2].partition("=")[0]
    value = flat_keys(config).get(key)
    return f"expected {type(value).__name__}, such as {value!r}" if value is not None else ""
