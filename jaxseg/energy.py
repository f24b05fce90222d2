"""Energy that the machine itself counts: RAPL of the CPU packages, NVML of the GPUs; nothing is estimated.

Linux lets only root read RAPL (/sys/class/powercap), and virtual machines mostly have none; NVML needs `pynvml`. Where
nothing counts, energy is said to be absent, and why.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

POWERCAP = Path("/sys/class/powercap")


class Counter(NamedTuple):
    """A counter of joules.

    name: of what it counts. read: its value now. wraps_at: joules at which it begins at 0 again; 0 = never.
    """

    name: str
    read: Callable[[], float]
    wraps_at: float = 0.0


def counters(powercap: Path = POWERCAP) -> tuple[list[Counter], str]:
    """What this machine counts, and in words what it does not and why.

    Args:
        powercap: where Linux shows RAPL.
    """
    found, missing = _packages(powercap)
    gpus = _gpus()
    return found + gpus, "" if gpus or found else missing


class Meter:
    """Joules since it was made; to be asked now and then, since counters wrap (a CPU package's after an hour or so)."""

    def __init__(self, powercap: Path = POWERCAP):
        self._counters, self._missing = counters(powercap)
        self._last = [counter.read() for counter in self._counters]
        self._spent = 0.0

    def joules(self) -> float | None:
        """Of all counters together; None where there are none."""
        if not self._counters:
            return None
        for i, counter in enumerate(self._counters):
            now = counter.read()
            step = now - self._last[i]
            self._spent += step + counter.wraps_at if step < 0 else step
            self._last[i] = now
        return self._spent

    def record(self, before: float | None = 0.0) -> dict[str, Any]:
        """JSON values: joules with those of earlier sessions, what they are of, or why there are none.

        Args:
            before: of earlier sessions; None = one of them had no counter, so the sum is not known.
        """
        spent = self.joules()
        known = spent is not None and before is not None
        return {
            "joules": before + spent if known else None,
            "of": [counter.name for counter in self._counters],
            "absent": "" if known else self._missing or "an earlier session had no counter",
        }


def _packages(powercap: Path) -> tuple[list[Counter], str]:
    """CPU packages; their cores and memory are parts of them or beside them and have zones of their own."""
    found: list[Counter] = []
    missing = f"no RAPL under {powercap}"
    for zone in sorted(powercap.glob("intel-rapl:*")):
        if zone.name.count(":") > 1:
            continue
        try:
            name, most = (zone / "name").read_text(), (zone / "max_energy_range_uj").read_text()
            counter = Counter(f"cpu {name.strip()}", _microjoules(zone), int(most) / 1e6)
            counter.read()
        except (OSError, ValueError) as error:
            missing = f"RAPL cannot be read ({getattr(error, 'strerror', None) or error})"
            continue
        found.append(counter)
    return found, missing


def _microjoules(zone: Path) -> Callable[[], float]:
    return lambda: int((zone / "energy_uj").read_text()) / 1e6


def _gpus() -> list[Counter]:
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        found = [Counter(f"gpu {i}", _millijoules(pynvml, h)) for i, h in enumerate(handles)]
        for counter in found:
            counter.read()
    except (
        Exception
    ):  # not installed, no driver, or a card without the counter: pynvml has an error for each
        return []
    return found


def _millijoules(nvml: Any, handle: Any) -> Callable[[], float]:
    return lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
