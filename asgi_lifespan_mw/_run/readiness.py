"""Readiness: what is waited for after the startup was answered, in a run and in the runs inside it."""

import time
from collections.abc import Callable, Sequence
from typing import final

from .._log import logger
from .._units.failure import Failure
from .._units.unit import Unit
from .inner import Run


@final
class Readiness:
    """What of one run starts in the background, and whether all of it has started.

    Attributes:
        background: The units of the hooks that start in the background.
        starts_app_later: Whether the app and its mounts start in the background.
        pending: What starts in the background and has not started; None stands for the app and its mounts.
        late_failure: The first failure of what starts in the background; None if nothing failed there.
        has_background: Whether something starts in the background, in the run or in a run inside it.
        when_ready: Called when everything that was to start has started.
    """

    def __init__(self, run: Run, *, starts_app_later: bool) -> None:
        """Begin with nothing that starts in the background, but for the app and its mounts, if so."""
        self.background: list[Unit] = []
        self.starts_app_later = starts_app_later
        self.pending: set[Unit | None] = set()
        self.late_failure: Failure | None = None
        self.has_background = False
        self.when_ready: Callable[[], object] = lambda: None
        self._run = run
        self._times: dict[str, float] = run.times

    def of_hooks(self, hooks: Sequence[Unit]) -> None:
        """Wait for those of the hooks that start in the background, and for no other hook."""
        self.background = [unit for unit in hooks if unit.is_background]
        self.has_background = bool(self.background)
        self.pending = {*self.background}

    @property
    def is_ready(self) -> bool:
        """Whether everything that was to start has started, and nothing has begun to stop."""
        return "ready" in self._times and "stop" not in self._times

    @property
    def is_starting(self) -> bool:
        """Whether something is still starting in the background, or failed there."""
        return "ready" not in self._times

    @property
    def is_serving(self) -> bool:
        """Whether the startup was answered, and nothing has begun to stop."""
        return "started" in self._times and "stop" not in self._times

    async def wait(self) -> None:
        """Wait until everything that was to start has started, in the runs inside too.

        Raises:
            RuntimeError: If the run stops before.
            BaseException: What failed in the background.
        """
        while self.is_starting:
            for run in (self._run, *self._run.inner.living()):
                if run.readiness.late_failure is not None:
                    raise run.readiness.late_failure.error
            if "stop" in self._times:
                raise RuntimeError(f"{self._run.label} was stopped before it was ready")
            await self._run.supervisor.shared.next_change()

    def started(self, unit: Unit) -> None:
        """Note that a unit has started, or is waited for no longer."""
        if unit in self.pending:
            self.pending.discard(unit)
            self.look()

    def look(self) -> None:
        """Note that everything has started, if so, and let the runs around this one look too."""
        run: Run | None = self._run
        # A run around this one that has not answered looks when it does.
        while run is not None and run.readiness.is_serving:
            run.readiness.note()
            run.supervisor.shared.wake()
            run = run.enclosing.run if run.enclosing is not None else None

    def note(self) -> None:
        """Note that everything has started, if so."""
        if "ready" in self._times or self.pending or self.late_failure is not None or self._run.inner.are_starting():
            return
        self._times["ready"] = time.perf_counter()
        count = len(self.background)
        if count or self.starts_app_later:
            of_app = f"{self._run.label} and its mounts, " if self.starts_app_later else ""
            took = self._run.seconds("start", "ready")
            logger.info("background start complete in %.3f s: %shooks %d", took, of_app, count)
        self.when_ready()
