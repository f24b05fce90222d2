"""Tables of faults and of the soak."""

from benchmarks.report.markdown import Record, table

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
    "one_line_of_it": "told in one line",
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
