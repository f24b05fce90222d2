"""One of two processes of a run, each with one device: `python -m tests.training.member RANK PORT FOLDER WHAT MODE`.

WHAT: 'run', or what befalls process 1 on its way: 'term' (a signal), 'kill' (kill -9), 'full' (process 0 cannot save).
"""

import errno
import signal
import sys

import jax

from jaxseg import cli, processes


def main(argv):
    rank, port, folder, what, mode = argv
    jax.config.update("jax_num_cpu_devices", 1)
    processes.join(f"{rank}/2@localhost:{port}", heartbeat_s=10)
    from jaxseg.training import run
    from jaxseg.training.checkpoint import Checkpoints
    from jaxseg.training.parallel import Parallel
    from tests.training.test_interrupt import Signalling
    from tests.training.test_processes import make_plan

    changes = {}
    if rank == "1" and what in ("term", "kill"):
        number = signal.SIGTERM if what == "term" else signal.SIGKILL
        changes["train_split"] = Signalling("train", 12, 3, number)
    if what == "full":

        def save(self, state, journal, scores):
            raise OSError(errno.ENOSPC, "No space left on device", "checkpoints")

        Checkpoints.save = save
    record = run.train(folder, make_plan(mode, Parallel.over(mode, 4), **changes))
    print(f"ended {record['step']} {record['state_digest']}", flush=True)


if __name__ == "__main__":
    sys.exit(cli.run(main))
