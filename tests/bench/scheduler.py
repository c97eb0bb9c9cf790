"""What the scheduler costs: `python tests/bench/scheduler.py [TASKS] [WORKERS]` runs trivial units of work.

A scheduler and workers in processes of their own; prints, as the work goes on, the tasks that the scheduler knows, its
memory, and the CPU time of scheduler, client and workers for each task.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from etl import runner, store


def main() -> None:
    """Print a line for each tenth of the work."""
    tasks, workers = (int(a) for a in (*sys.argv[1:3], *("100000", "2")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "scheduler.json"
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
                   "--no-dashboard", "--scheduler-file", str(file)]  # fmt: skip
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": place}
        scheduler = subprocess.Popen(command, **quiet)
        while not file.exists() or not file.read_text():
            time.sleep(0.1)
        command = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads",
                   "1", "--no-nanny", "--no-dashboard", "--local-directory", place]  # fmt: skip
        others = [subprocess.Popen(command, **quiet) for _ in range(workers)]
        try:
            measure(tasks, file, [scheduler, *others])
        finally:
            for process in (*others, scheduler):
                process.kill()
                process.wait()


def measure(tasks: int, file: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """Runs the tasks, watching."""
    watched = [psutil.Process(p.pid) for p in processes]
    with runner.pool(0, json.loads(file.read_text())["address"]) as pool:
        pool._client.wait_for_workers(len(processes) - 1)
        before = cpu(watched)
        began = time.perf_counter()
        for done, _ in enumerate(pool.map(store.digest, range(tasks)), 1):
            if done % max(1, tasks // 10) == 0:
                known = pool._client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
                parts = [1000 * (b - a) / done for a, b in zip(before, cpu(watched), strict=True)]
                memory = watched[0].memory_info().rss / 2**20
                print(f"{done:8} done, {known:3} known to the scheduler, {memory:.0f} MB; "
                      f"ms of CPU a task: scheduler {parts[0]:.2f}, client {parts[-1]:.2f}, workers "
                      f"{sum(parts[1:-1]):.2f}; {1000 * (time.perf_counter() - began) / done:.2f} ms wall", flush=True)


def cpu(watched: list[psutil.Process]) -> list[float]:
    """CPU seconds of the processes, and of this one."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return [*(sum(p.cpu_times()[:2]) for p in watched), own.ru_utime + own.ru_stime]


if __name__ == "__main__":
    main()
