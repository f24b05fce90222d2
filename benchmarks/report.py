"""`python -m benchmarks.report [--check]`: the tables and pictures of the documents, from `results/` alone.

A document says where a table goes, `<!-- table: NAME -->` and `<!-- end -->` on lines of their own; what lies between
is written here. `--check` writes nothing and ends with status 1 when a document and `results/` disagree.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "docs/reliability.md", "docs/methods/mess.md")
PLACE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

Record = dict[str, Any]


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def percent(values: Any) -> str:
    """Mean of fractions in per cent, and the range where there are several."""
    values = 100 * np.atleast_1d(np.asarray(values, float))
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{values.mean():.1f} ({values.min():.1f} to {values.max():.1f})"


def rows_of(record: Record, arm: str) -> list[Record]:
    """The rows of an arm, by seed."""
    return sorted((r for r in record["rows"] if r["arm"] == arm), key=lambda r: r["seed"])


# --- Faults ---

FAULTS = {
    "kill_9_around_a_save": "`kill -9` within 0.15 s of the start of a save, again and again",
    "sigterm": "SIGTERM at any moment from compilation to the end",
    "sigint": "SIGINT likewise",
    "sigterm_twice": "SIGTERM, and a second one at once",
    "bit_flipped": "one bit of the newest checkpoint flipped",
    "file_cut": "a file of the newest checkpoint cut",
    "file_gone": "a file of the newest checkpoint removed",
    "disk_full": "the disk (a small tmpfs) fills up during saves; then there is room again",
    "worker_killed": "`kill -9` of a process that makes batches",
    "parent_of_workers_killed": "`kill -9` of a run whose batches other processes make",
    "data_removed": "the prepared data removed in the middle of a run",
    "two_runs_in_one_folder": "a second run in the folder of one that is not over",
    "one_of_two_stopped": "SIGTERM to one of two processes of a run",
    "one_of_two_killed": "`kill -9` of one of two processes",
    "one_of_two_frozen": "one of two processes stopped without a word (SIGSTOP)",
}
COUNTED = {
    "newest_complete_step_restored": "newest complete step restored",
    "as_documented": "ended as documented",
    "went_on": "went on",
    "found_damaged": "damage found",
    "status_1": "status 1",
    "status_2": "status 2",
    "status_0_or_2": "status 0 or 2",
    "one_line": "one line on stderr",
    "workers_gone": "no worker left",
    "same_state": "same final state",
}


def chaos(record: Record) -> str:
    """Fault, how often, what happened."""
    rows = []
    for row in sorted(record["rows"], key=lambda r: list(FAULTS).index(r["arm"])):
        tries, happened = row.get("kills", row["tries"]), []
        for key, words in COUNTED.items():
            if key in row:
                # Of several kills in one run there is one final state.
                of = tries if key == "newest_complete_step_restored" and "kills" in row else None
                happened.append(f"{words} {row[key]}/{of or row['tries']}")
        if "seconds_to_end" in row:
            happened.append(f"ended after at most {max(row['seconds_to_end']):.1f} s")
        rows.append([FAULTS[row["arm"]], str(tries), "; ".join(happened)])
    return table(["what was done", "times", "what happened"], rows)


def soak(record: Record) -> str:
    """One long row."""
    row = record["rows"][0]
    told = [
        ["kills and restarts", f"{row['cycles']} ({row['kill_9']} `kill -9`, {row['sigterm']} SIGTERM)"],
        ["saved steps lost", str(row["saved_steps_lost"])],
        ["state at the end that of an undisturbed run", "yes" if row["same_state_at_the_end"] else "NO"],
        ["processes, shared memory left", f"{row['processes_left']}, {row['shared_memory_left']}"],
        [
            "size of the folder after 5 cycles, at the end",
            f"{row['folder_bytes_after_5'] / 1e6:.1f} MB, {row['folder_bytes_at_the_end'] / 1e6:.1f} MB",
        ],
    ]  # fmt: skip
    return table(["soak", f"{row['steps']} steps"], told)


# --- MESS ---

STAGES = {
    "plain": "(i) the plain network",
    "all_at_once": "(ii) all exits at once, one sum",
    "round_robin": "(iii) one exit a step (eq. 2)",
    "frozen_plain": "(iv) heads on the frozen (i)",
    "frozen_round_robin": "(v) heads on the frozen (iii)",
}


def _exits(row: Record) -> dict[str, float]:
    return row["miou"] if "miou" in row else {"final": row["test_miou"]}


def mess_stages(record: Record) -> str:
    """Table 5: test mIoU of every exit."""
    names = list(_exits(rows_of(record, "round_robin")[0]))
    rows = []
    for arm, words in STAGES.items():
        found = [_exits(r) for r in rows_of(record, arm)]
        if found:
            cells = [percent([f[n] for f in found]) if n in found[0] else "" for n in names]
            rows.append([words, *cells])
    heads = [f"exit {n.replace('_', ' ')}" if n != "final" else "final answer" for n in names]
    return table([f"test mIoU in %, {_seeds(record)}", *heads], rows)


def mess_losses(record: Record) -> str:
    """Table 6, and the paired differences to PFD."""
    names = [n for n in _exits(rows_of(record, "pfd")[0]) if n != "final"]
    best = {r["seed"]: _exits(r) for r in rows_of(record, "pfd")}
    rows = []
    for arm in ("ce", "kd", "ce+kd", "pfd"):
        found = rows_of(record, arm)
        cells = []
        for n in names:
            cell = percent([_exits(r)[n] for r in found])
            if arm != "pfd":
                less = [
                    100 * (best[r["seed"]][n] - _exits(r)[n]) for r in found if r["seed"] in best
                ]
                cell += (
                    f"; PFD {np.mean(less):+.2f} ({sum(x > 0 for x in less)} of {len(less)} seeds)"
                )
            cells.append(cell)
        rows.append([arm.upper(), *cells])
    heads = [f"exit {n.replace('_', ' ')}" for n in names]
    return table([f"test mIoU in %, {_seeds(record)}", *heads], rows)


def _seeds(record: Record) -> str:
    count = len({r["seed"] for r in record["rows"]})
    return f"mean of {count} seeds (lowest to highest)" if count > 1 else "1 seed"


def mess(record: Record) -> str:
    """What exits buy, with controls: test mIoU and measured latency as a ratio to the plain network."""
    gains = rows_of(record, "gain")
    rows = [["plain network", percent([g["plain"]["test"] for g in gains]), "1"]]

    def add(words: str, parts: list[Record | None], key: str = "test_miou") -> None:
        parts = [p for p in parts if p]
        if parts:
            ratios = [p["ratio_measured"] for p in parts]
            ratio = f"{np.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            rows.append([words, percent([p[key] for p in parts]), ratio])

    add("final answer of the network with exits", [
        {"test_miou": g["final_test_miou"], "ratio_measured": 1.0} for g in gains
    ])  # fmt: skip
    for points in ("0.1", "1.0"):
        found = [g[points] for g in gains if "input" in g[points]]
        allowed = f"{points} points below plain on calib"
        add(f"input-dependent, {allowed}", [f["input"] for f in found])
        for key, words in {"random": "random routing", "oracle": "oracle routing"}.items():
            if found:
                values = [f[f"{key}_test_miou"] for f in found]
                rows.append([f"-- {words}, same shares", percent(values), "as above"])
        add("-- best static exit that is as quick", [f["static"] for f in found])
        add(f"quickest static exit, {allowed}", [f["cheapest_static"] for f in found])
    for arm in sorted({k for g in gains for k in g if k.startswith("narrow_")}, reverse=True):
        add(f"plain network of width {arm[7:]}, from scratch", [g[arm] for g in gains if arm in g])
    head = [f"toy_street, {_seeds(record)}", "test mIoU in %", "latency / plain, measured in turn"]
    return table(head, rows)


def mess_ways(record: Record) -> str:
    """Ratios to the final answer alone."""
    row = rows_of(record, "batches")[0]
    rows = []
    for name in row["batch_1"]["ratio_to_final_only"]:
        cells = [f"{row[f'batch_{n}']['ratio_to_final_only'][name]:.2f}" for n in (1, 8)]
        rows.append([name.replace("_", " "), *cells])
    share = f"{row['macs_share_first_exit']:.2f}"
    rows.append(["share of MACs up to the first exit, lightest head", share, share])
    return table(["time / final answer only", "batch 1", "batch 8"], rows)


def mess_cores(record: Record) -> str:
    """One checkpoint on one core and on two."""
    row = rows_of(record, "cores")[0]
    rows = []
    for count in (1, 2):
        found = row[f"cores_{count}"]
        chosen = found["chosen"]
        rows.append([
            f"{count} core{'s' if count > 1 else ''}",
            f"{chosen['setting']}: {'; '.join(chosen['heads'])}",
            f"{found['ratio_promised']:.3f}",
            f"{found['ratio_measured']:.3f}",
            f"{100 * found['off_by']:+.1f} %",
        ])  # fmt: skip
    head = ["deployed for", "chosen", "promised / final only", "measured", "off by"]
    return table(head, rows)


def scan_blocks(record: Record) -> str:
    """Time, compilation and memory of equal blocks."""
    rows = []
    for row in sorted(record["rows"], key=lambda r: int(r["arm"].split("_")[0])):
        for way in ("written_out", "scan", "scan_remat"):
            x = row[way]
            numbers = [
                f"{x['step_ms']:.0f} ms",
                f"{x['compile_s']:.1f} s",
                f"{x['temp_mb']:.0f} MB",
            ]
            rows.append([row["arm"].replace("_", " "), way.replace("_", " "), *numbers])
    return table(["", "", "step", "compilation", "temporary memory"], rows)


TABLES: dict[str, tuple[str, Callable[[Record], str]]] = {
    "chaos": ("chaos", chaos),
    "soak": ("soak", soak),
    "mess_stages": ("mess_stages", mess_stages),
    "mess_losses": ("mess_losses", mess_losses),
    "mess": ("mess", mess),
    "mess_ways": ("mess_ways", mess_ways),
    "mess_cores": ("mess_ways", mess_cores),
    "scan_blocks": ("scan_blocks", scan_blocks),
}
"""Name in a document -> (record under results/, what writes the table)."""


NOT_MEASURED = "Not measured yet (`python -m benchmarks.run {}`).\n"
"""What stands in the place of a table whose record is missing."""


def load(name: str) -> Record:
    """results/NAME.json."""
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def filled(text: str) -> str:
    """A document with all of its tables written anew."""

    def write(found: re.Match[str]) -> str:
        record, make = TABLES[found[2]]
        exists = (ROOT / "results" / f"{record}.json").exists()
        body = make(load(record)) if exists else NOT_MEASURED.format(record)
        return found[1] + body + found[4]

    return PLACE.sub(write, text)


def main() -> int:
    """Writes, or checks; 1 when a check fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args().check
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        old = path.read_text()
        new = filled(old)
        if new != old:
            stale.append(name)
            if not check:
                path.write_text(new)
    if not check:
        from benchmarks import pictures

        pictures.draw_all()
    for name in stale:
        print(f"{name}: {'differs from results/' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
