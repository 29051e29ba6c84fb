"""The runtime of a Ray cluster: a client of its driver process, which is started again when it ends.

Nothing here imports ray: a driver that has lost its cluster ends its whole process.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog

from weighbridge.errors import UnavailableError
from weighbridge.runtimes import wire
from weighbridge.runtimes.base import FetchStatus, NodeInfo, ReplicaSpec, ReplicaStatus, Weights
from weighbridge.runtimes.ray.child import DriverChild
from weighbridge.runtimes.ray.options import RayOptions
from weighbridge.runtimes.ray.wire import AWAY_CODE, NODE_LOST_CODE

log = structlog.get_logger()

CALL_TIMEOUT_S = 10.0
START_WAIT_S = 2.0
"""A call waits so long for a driver that is being started, then says so."""
START_DELAY_MIN_S = 0.5
START_DELAY_MAX_S = 10.0
AWAY_MAX_S = 15.0
"""A driver to which the cluster has not answered for so long is replaced: it may know a head that is gone."""


class RayRuntime:
    """Starts its driver with the first call. `close` ends the driver; the replicas go on.

    `epoch_of` is the caller's lease, if it has one: with it goes all that changes something, and where there
    is none a list changes nothing (D5).
    """

    def __init__(
        self,
        options: RayOptions,
        monotonic: Callable[[], float],
        epoch_of: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._options = options
        self._monotonic = monotonic
        self._epoch_of = epoch_of
        self._driver: DriverChild | None = None
        self._starting: asyncio.Task[None] | None = None
        self._start_delay_s = 0.0
        self._refusal = UnavailableError("The Ray driver is being started.")
        self._away_since_s: float | None = None

    async def launch(self, spec: ReplicaSpec) -> None:
        """Raises InvalidError for a malformed spec, LimitError when there is no room that it may take."""
        wire.check_spec(spec)
        await self._call(wire.Launch(spec, self._epoch()))

    async def list(self, selector: Mapping[str, str]) -> Sequence[ReplicaStatus]:
        return (await self._call(wire.List(dict(selector), self._epoch()))).replicas

    async def stop(self, name: str, grace_s: float) -> None:
        await self._call(wire.Stop(name, grace_s, self._epoch()))

    async def forget(self, name: str) -> None:
        await self._call(wire.Forget(name, self._epoch()))

    async def logs(self, name: str, tail_bytes: int) -> str:
        """At most 1 MiB of it; 64 KiB once the replica has ended."""
        return (await self._call(wire.Logs(name, tail_bytes))).text

    async def capacity(self) -> Sequence[NodeInfo]:
        return (await self._call(wire.Capacity())).nodes

    async def fetch(self, weights: Weights, nodes: Sequence[str]) -> Sequence[FetchStatus]:
        """How far the nodes are with a version, of those that live; with the first call they begin to pull it."""
        return (await self._call(wire.Fetch(weights, nodes, self._epoch()))).fetches

    async def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._driver is not None:
            await self._driver.close()
            self._driver = None

    def _epoch(self) -> int:
        return self._epoch_of() or 0

    async def _call(self, request: wire.Request) -> wire.Reply:
        driver = await self._connected()
        try:
            reply = await driver.call(request, CALL_TIMEOUT_S)
        except UnavailableError:
            self._note_away(driver)
            raise
        if reply.error_code == NODE_LOST_CODE:
            self._replace(driver, reply.error_message)
        elif reply.error_code == AWAY_CODE:
            self._note_away(driver)
        else:
            self._away_since_s = None
        wire.raise_refusal(reply)
        return reply

    def _note_away(self, driver: DriverChild) -> None:
        now_s = self._monotonic()
        if self._away_since_s is None:
            self._away_since_s = now_s
        away_s = now_s - self._away_since_s
        if away_s >= AWAY_MAX_S:
            self._replace(driver, f"The cluster has not answered it for {away_s:.1f} s.")

    def _replace(self, driver: DriverChild, reason: str) -> None:
        if self._driver is driver:
            log.warning("ray.driver_replaced", reason=reason)
            self._away_since_s = None
            self._begin_start()

    async def _connected(self) -> DriverChild:
        if self._driver is not None and self._driver.alive and self._starting is None:
            return self._driver
        if self._starting is None:
            self._begin_start()
        assert self._starting is not None
        await asyncio.wait({self._starting}, timeout=START_WAIT_S)
        if self._driver is None or not self._driver.alive:
            raise self._refusal
        return self._driver

    def _begin_start(self) -> None:
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(), name="ray driver start")

    async def _start(self) -> None:
        """Replace the driver; try until one has connected."""
        try:
            if self._driver is not None:
                driver, self._driver = self._driver, None
                await driver.close()
            while self._driver is None:
                await asyncio.sleep(self._start_delay_s)
                try:
                    self._driver = await DriverChild.start(self._options)
                    self._start_delay_s = 0.0
                except UnavailableError as error:
                    self._refusal = error
                    doubled_s = max(START_DELAY_MIN_S, self._start_delay_s * 2)
                    self._start_delay_s = min(START_DELAY_MAX_S, doubled_s)
                    log.warning("ray.not_connected", code=error.code, reason=error.message)
        finally:
            self._starting = None
