"""`python -m jaxseg.train --config=configs/X.py --workdir=W [--config.a.b=value ...]`; resumes by itself."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jaxseg import build, cli, processes, runtime
from jaxseg.training import run
from jaxseg.training.workdir import has_begun

COMMAND = cli.Command(
    "train",
    "Trains a network. The same command goes on where it stopped.",
    (
        cli.Flag("config", "a config file, such as configs/quickstart.py", required=True),
        cli.Flag("workdir", "the run's folder, made if it is not there", required=True),
        cli.Flag("distributed", "several processes: auto, or RANK/COUNT@HOST:PORT; see launch/"),
        cli.Flag("heartbeat-s", "after so long a silent process is given up", default="100"),
    ),
    config_help="replaces a value of the config",
)


def main(argv: Sequence[str]) -> None:
    """Parses, builds, trains."""
    args = cli.parse(COMMAND, argv)
    processes.join(args["distributed"] or "", cli.whole(args, "heartbeat_s"))
    config = cli.override(cli.load_config(args["config"]), argv)
    runtime.use_compilation_cache(build.cache_folder(config) / "xla")
    workdir = Path(args["workdir"])
    plan = build.training_plan(config, name=Path(args["config"]).stem, resuming=has_begun(workdir))
    record = run.train(workdir, plan)
    if processes.is_first():
        print(
            f"done: step {record['step']}, {record['wall_s']:.0f} s; model in {workdir / 'model'}"
        )


if __name__ == "__main__":
    sys.exit(cli.run(main))
