"""The machine and the version: what every record says of where it was measured."""

import functools
import os
import platform
import stat
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxseg.errors import UserError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "opencv-python-headless")
EXTENSIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Of x86, by Linux's names: what decides how quick float32 and bfloat16 are, and against whom."""


def visible_cpus() -> int:
    """CPUs that this process may use; bits of a CPU run depend on it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_name() -> str:
    """Kind and number of the devices, such as '1x NVIDIA H100' or '1x cpu (2 CPUs)'."""
    devices = jax.devices()
    kind = devices[0].device_kind
    note = f" ({visible_cpus()} CPUs)" if devices[0].platform == "cpu" else ""
    return f"{len(devices)}x {kind}{note}"


@functools.cache
def cpu_name(info: Path = Path("/proc/cpuinfo")) -> str:
    """Model of the CPU and those of `EXTENSIONS` that it has, such as 'AMD EPYC (family 26, model 2; avx2, avx512f)'.

    Clouds shorten names, so family and model are told too. The architecture alone, such as 'arm64', where the system
    does not say more.

    Args:
        info: where Linux describes the CPUs; the first one stands for all.
    """
    told: dict[str, str] = {}
    try:
        with info.open(errors="replace") as lines:
            for line in lines:
                key, separator, value = line.partition(":")
                if not separator and told:
                    break
                told[key.strip()] = value.strip()
    except OSError:
        pass
    if not told.get("model name"):
        return platform.processor() or platform.machine()
    notes = [f"family {told['cpu family']}, model {told['model']}"] if "cpu family" in told else []
    has = told.get("flags", "").split()
    notes += [", ".join(extensions)] if (extensions := [x for x in EXTENSIONS if x in has]) else []
    return told["model name"] + (f" ({'; '.join(notes)})" if notes else "")


def version() -> str:
    """The installed version of jaxseg, or 'source' when run from a tree that is not installed."""
    try:
        return metadata.version("jaxseg")
    except metadata.PackageNotFoundError:
        return "source"


def commit() -> str | None:
    """Commit of the source tree, with '+changes' when it is not clean; None outside git."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None


def provenance() -> dict[str, Any]:
    """Device, CPU and number of CPUs, versions and commit, for records."""
    return {
        "device": device_name(),
        "cpu": cpu_name(),
        "cpus": visible_cpus(),
        "jaxseg": version(),
        "commit": commit(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def use_compilation_cache(folder: Path) -> None:
    """Keeps compiled programs between runs in a private folder.

    Whoever can write there can run code in this process, so it is made 0700 and refused otherwise.

    Raises:
        UserError: others can write to the folder, or it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.stat().st_mode
    except OSError as error:
        raise UserError(f"cannot make compilation cache {folder}", got=error.strerror) from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(
            f"compilation cache {folder} can be written by others",
            got=oct(stat.S_IMODE(mode)),
            expected="0o700",
            do=f"chmod 700 {folder}",
        )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
