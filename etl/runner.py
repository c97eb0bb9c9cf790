"""Units of work over Dask; nothing else in the project knows Dask."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

U = TypeVar("U")
IN_FLIGHT_PER_THREAD = 4


def run(
    work: Callable[[U], dict[str, Any]], units: Sequence[U], *, workers: int = 0, scheduler: str | None = None
) -> Iterator[tuple[U, dict[str, Any] | None]]:
    """Run `work` on each unit and yield (unit, report) as they end; the report is None for a unit that
    killed its workers. A bounded number is in flight, so a million units never sit in the scheduler.

    `scheduler` is the address of a running cluster; without one `workers` processes are started here.
    """
    if not units:
        return
    from distributed import Client, LocalCluster

    if scheduler:
        with Client(scheduler) as client:
            yield from _stream(client, work, units)
        return
    import dask

    with dask.config.set({"distributed.worker.daemon": True, "distributed.admin.tick.limit": "60s"}), LocalCluster(
        n_workers=max(1, workers), threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as cluster, Client(cluster) as client:
        print(f"dask dashboard: {cluster.dashboard_link}", file=sys.stderr)
        yield from _stream(client, work, units)


def _stream(client: Any, work: Callable[[U], dict[str, Any]], units: Sequence[U]) -> Iterator[Any]:
    from distributed import KilledWorker, as_completed

    waiting = iter(units)
    limit = max(2, IN_FLIGHT_PER_THREAD * sum(client.nthreads().values()))
    of: dict[str, U] = {}

    def submit(unit: U) -> Any:
        future = client.submit(work, unit, pure=False, retries=0)
        of[future.key] = unit
        return future

    pool = as_completed([submit(u) for _, u in zip(range(limit), waiting, strict=False)])
    for future in pool:
        unit = of.pop(future.key)
        try:
            report = future.result()
        except KilledWorker:
            report = None
        yield unit, report
        following = next(waiting, None)
        if following is not None:
            pool.add(submit(following))
