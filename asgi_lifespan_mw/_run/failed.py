"""What failed in a run: in the log, once, and for the caller."""

from typing import final

from .._reporting.failures import format_failures, log_error, log_failure, merge, summarize_other
from .._units.failure import FailedPhase, Failure
from .._units.unit import Unit
from .inner import Run


@final
class Failures:
    """The failures of one run's units, and the error that is of no unit.

    Attributes:
        of_units: The failures of the units, in the order in which they happened.
        other: What failed besides the units, such as a collision of state; None if nothing did.
        logs_tracebacks: Whether failures are logged with tracebacks; the caller may show them to the user instead.
    """

    def __init__(self, run: Run, *, logs_tracebacks: bool) -> None:
        """Begin without a failure."""
        self.of_units: list[Failure] = []
        self.other: BaseException | None = None
        self.logs_tracebacks = logs_tracebacks
        self._run = run
        self._is_logged = False

    def format(self, *, with_tracebacks: bool | None = None) -> str:
        """Return what failed; with the tracebacks that are not in the log, all of them, or none."""
        return format_failures(self.of_units, self.other, with_tracebacks=with_tracebacks)

    def merged(self, phase: str) -> BaseException:
        """Return what is to be raised: the only error, or a group of all."""
        errors = [] if self.other is None else [self.other]
        return merge(phase, errors + [failure.error for failure in self.of_units])

    def log(self, *, with_tracebacks: bool) -> None:
        """Log the failures, once, but for the crashes, which were logged when they happened."""
        if self._is_logged:
            return
        self._is_logged = True
        if self.other is not None:
            log_error(summarize_other(self.other), self.other, with_traceback=with_tracebacks)
        failed_inside: dict[int, Run] = self._run.inner.errors() if self.of_units else {}
        for failure in self.of_units:
            # A run inside the unit, such as that of a middleware in a mount, may have failed with the same exception.
            inner = failed_inside.get(id(failure.error))
            is_told = inner is not None and inner.failures.logs_tracebacks
            if failure.phase is not FailedPhase.SERVING and (self.logs_tracebacks or not is_told):
                log_failure(failure, with_traceback=with_tracebacks and not is_told)

    def crashed(self, unit: Unit) -> None:
        """Log a unit that failed between its start and its stop, or that is optional, and act on the crash."""
        failure, readiness = unit.failure, self._run.readiness
        assert failure is not None, "it crashed"
        # A run inside the unit, such as that of a middleware in a mount, may have logged the same exception.
        log_failure(failure, with_traceback=id(failure.error) not in self._run.inner.errors())
        if failure.is_optional:
            readiness.started(unit)
        elif unit in readiness.pending:
            readiness.late_failure = readiness.late_failure or failure
        if readiness.is_serving and not failure.is_optional:
            self._run.on_crash(failure)
            readiness.look()
