"""Units of work over Dask, or one after another in this process; nothing else in the project knows Dask."""

import importlib.util
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from etl.errors import Failure, UsageError

U = TypeVar("U")
R = TypeVar("R")
IN_FLIGHT_PER_THREAD = 4
ASK_EVERY_S = 2.0
LOST = "the Dask scheduler is gone; give the same command again when it is back: what was done is kept"


class Here:
    """Runs units one after another in this process; what a file can break is a child process of it all the same."""

    def map(self, work: Callable[[U], R], units: Iterable[U], *, alone: bool = False) -> Iterator[tuple[U, R | None]]:
        """(unit, result) of each unit, in order."""
        for unit in units:
            yield unit, work(unit)


class Pool:
    """Worker processes that run units, a bounded number at a time."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._limit, self._ask_again = 2, 0.0

    def map(
        self, work: Callable[[U], R], units: Iterable[U], *, alone: bool = False
    ) -> Iterator[tuple[U, R | None]]:
        """(unit, result) of each unit as it ends; None for a unit whose workers died on it each time.

        A bounded number is in flight, so a million units never sit in the scheduler; it follows the workers, which may
        come and go. One at a time if `alone`, so that a unit cannot be blamed for what its neighbour did.
        """
        from distributed import CancelledError, KilledWorker, as_completed

        waiting = iter(units)
        of: dict[str, U] = {}

        def submit(unit: U) -> Any:
            future = self._client.submit(work, unit, pure=False, retries=0)
            of[future.key] = unit
            return future

        pool = as_completed([submit(u) for u in islice(waiting, 1 if alone else self._most())])
        for future in pool:
            unit = of.pop(future.key)
            try:
                result = future.result()
            except KilledWorker:
                result = None
            except CancelledError as error:
                raise Failure(LOST) from error
            yield unit, result
            for following in islice(waiting, max(0, (1 if alone else self._most()) - len(of))):
                pool.add(submit(following))

    def _most(self) -> int:
        """How many units may be in flight with the workers that there are; they are asked for now and then."""
        if time.monotonic() >= self._ask_again:
            try:
                threads = sum(self._client.nthreads().values())
            except OSError as error:  # lost between two results
                raise Failure(LOST) from error
            self._limit = max(2, IN_FLIGHT_PER_THREAD * threads)
            self._ask_again = time.monotonic() + ASK_EVERY_S
        return self._limit


def _connected(address: str) -> Any:
    from distributed import Client

    try:
        return Client(address)
    except (ValueError, OSError) as error:
        cause = f"no Dask scheduler answers there ({error}); its address is as tcp://10.0.0.5:8786"
        raise UsageError(f"--scheduler {address}: {cause}") from error


@contextmanager
def pool(workers: int, scheduler: str | None = None) -> Iterator[Pool]:
    """`workers` processes on this machine, or those of the running cluster at the address `scheduler`."""
    from distributed import Client, LocalCluster

    if scheduler:
        with _connected(scheduler) as client:
            yield Pool(client)
        return
    import dask

    logging.getLogger("distributed").setLevel(logging.ERROR)  # slow goodbyes and restarts are not the user's business
    settings = {"distributed.worker.daemon": True, "distributed.admin.tick.limit": "60s"}
    with dask.config.set(settings), LocalCluster(
        n_workers=max(1, workers), threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as cluster, Client(cluster) as client:
        more = "" if importlib.util.find_spec("bokeh") else " (its pages need `pip install bokeh`)"
        print(f"dask dashboard: {cluster.dashboard_link}{more}", file=sys.stderr)
        yield Pool(client)
