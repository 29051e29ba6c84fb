"""The reconciler loop: pass after pass, on a wake-up or a timer, with back-off after a failure."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from weighbridge.control.wake import Wake
from weighbridge.errors import StaleError, UnavailableError

log = structlog.get_logger()

BACKOFF_FIRST_S = 0.2
BACKOFF_MAX_S = 10.0


@dataclass(frozen=True, slots=True)
class Loop:
    """`reconcile` makes one pass and returns how long the world may be left alone, in seconds at most."""

    name: str
    reconcile: Callable[[], Awaitable[float]]
    wake: Wake
    period_max_s: float = 5.0

    async def run(self) -> None:
        """Run until cancelled. A pass that fails is logged and made again; nothing it did is assumed."""
        failures = 0
        while True:
            try:
                pause_s = min(await self.reconcile(), self.period_max_s)
                failures = 0
            except StaleError as error:
                # Somebody else wrote first: read again, at once.
                log.debug("reconcile.stale", reconciler=self.name, reason=error.message)
                failures += 1
                pause_s = self._backoff_s(failures) if failures > 1 else 0.0
            except UnavailableError as error:
                failures += 1
                pause_s = self._backoff_s(failures)
                log.warning("reconcile.unavailable", reconciler=self.name, reason=error.message)
            except Exception:
                failures += 1
                pause_s = self._backoff_s(failures)
                log.exception("reconcile.failed", reconciler=self.name, failures=failures)
            await self.wake.wait(self.name, pause_s)

    def _backoff_s(self, failures: int) -> float:
        """Never longer than the pause after a pass that went well."""
        return min(backoff_s(failures), self.period_max_s)


def backoff_s(failures: int) -> float:
    """0.2, 0.4, 0.8 … 10 s."""
    return float(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 16)))
