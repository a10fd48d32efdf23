"""One line of the doctor's report, and how a probe becomes one."""

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

State = Literal["ok", "info", "missing", "warning", "broken"]
"""``broken`` alone is an error: something that every method needs does not work."""

_LONGEST = 160  # Characters of another program's message.


@dataclass(frozen=True)
class Finding:
    """What a probe found.

    Attributes:
        name: Of what was looked at.
        state: How it is.
        text: What was found, one line.
        enables: What the missing thing would enable; empty where nothing is missing.
        get: How to get or mend it; empty where there is nothing to do.
    """

    name: str
    state: State
    text: str
    enables: str = ""
    get: str = ""

    def line(self) -> str:
        """The finding in one line."""
        parts = [self.text, self.enables and f"for {self.enables}", self.get]
        return f"{self.state:<8} {self.name:<20} {'; '.join(filter(None, parts))}"


def probe(
    name: str, check: Callable[[], str | Finding], failure: State = "broken", enables: str = "", get: str = ""
) -> Finding:
    """Runs a check and turns whatever it raises into a finding.

    Args:
        name: Of what is looked at.
        check: Says in words what works, or returns a finding of its own.
        failure: State of a check that raises.
        enables: What the thing is for, told where the check raises.
        get: How to mend it, told where the check raises.
    """
    # Libraries greet, warn and log while they are imported; a report has no place for that.
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            found = check()
        except (Exception, SystemExit) as error:
            return Finding(name, failure, one_line(error), enables, get)
    return found if isinstance(found, Finding) else Finding(name, "ok", found)


def one_line(error: BaseException) -> str:
    """The first line of an error's message, cut where it is long; its class where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
