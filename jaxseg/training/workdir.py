"""The folder of a run: one run at a time uses it, small records are written whole, and what a kill left is mended."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from jaxseg.errors import UserError
from jaxseg.inference.artifact import flatten, mend
from jaxseg.outside import read_object

CONFIG, PROGRESS, RECORD, PRETRAINED = "config.json", "progress.json", "run.json", "pretrained.json"
MODEL, MODEL_BEST = "model", "model_best"
LOCK = ".lock"


class Workdir:
    """A run's folder, held while the object is open.

    Raises:
        UserError: it cannot be made, another run holds it, or it belongs to another config.
    """

    def __init__(self, path: Path, config: dict[str, Any]):
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / LOCK).open("a+")
        except OSError as error:
            raise UserError(f"cannot use --workdir {path}", got=error) from error
        try:
            self._hold()
            self._mend()
            self._check(config)
            self.write(CONFIG, config)
        except BaseException:
            self.close()
            raise

    def read(self, name: str) -> dict[str, Any]:
        """The record, or an empty one where there is none."""
        path = self.path / name
        try:
            return read_object(path) if path.exists() else {}
        except (OSError, UserError) as error:
            raise UserError(
                f"cannot read {path}", got=error, do="remove it, or the whole run"
            ) from error

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Atomic: a reader never sees half a file."""
        path = self.path / name
        fresh = path.with_name(f".{name}.{os.getpid()}")
        try:
            fresh.write_text(json.dumps(record, indent=2) + "\n")
            fresh.replace(path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise UserError(f"cannot write {path}", got=error.strerror) from error

    def close(self) -> None:
        """Lets go of the folder; so does the end of the process, however it comes."""
        self._lock.close()

    def _hold(self) -> None:
        """Two runs in one folder would write over each other's checkpoints."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            raise UserError(
                f"--workdir {self.path} is in use",
                got=f"a run that is not over, process {self._lock.read().strip() or 'unknown'}",
                do="wait for it, stop it, or use another --workdir",
            ) from error
        except OSError:
            return  # a file system without locks
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    def _mend(self) -> None:
        """Nobody else is here, so hidden files with a process's number are what a kill left behind."""
        try:
            for name in (MODEL, MODEL_BEST):
                mend(self.path / name)
            for name in (CONFIG, PROGRESS, RECORD, PRETRAINED):
                for left_over in self.path.glob(f".{name}.*"):
                    left_over.unlink()
        except OSError as error:
            raise UserError(f"cannot use --workdir {self.path}", got=error) from error

    def _check(self, config: dict[str, Any]) -> None:
        """The config there is the same apart from max_steps."""
        if not (self.path / CONFIG).exists():
            return
        old, new = flatten(self.read(CONFIG)), flatten(config)
        keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        keys = [k for k in keys if k != "max_steps"]
        if keys:
            shown = ", ".join(
                f"{k.replace('/', '.')} {old.get(k)!r} -> {new.get(k)!r}" for k in keys[:4]
            )
            raise UserError(
                f"{self.path} was started with another config",
                got=shown + (f" and {len(keys) - 4} more" if len(keys) > 4 else ""),
                expected="the same values (only max_steps may differ on resume)",
                do="use another --workdir",
            )


def has_begun(path: Path) -> bool:
    """Whether a run has saved anything there yet, so that it is resumed."""
    return (path / PROGRESS).exists()
