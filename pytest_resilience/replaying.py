"""The run of a replay file under --resilience-replay: it selects the test of the file, and counts how often it fails."""

from __future__ import annotations

from typing import Any

import pytest

from .generated_items import REPLAYED, is_generated
from .report.run_reports import REPRODUCED


class Replaying:
    """A plugin for the run of one replay file.

    Args:
        config: the configuration.
        value: the value of the option, FILE or FILE:N.

    Raises:
        pytest.UsageError: the file is missing or malformed.
    """

    def __init__(self, config: pytest.Config, value: str) -> None:
        from .errors import ScheduleError
        from .replay import Replay, parse_replay_option

        try:
            path, self._plays = parse_replay_option(value)
            self._replay = Replay.load(config.invocation_params.dir / path)
        except ScheduleError as error:
            raise pytest.UsageError(f"--resilience-replay: {error}") from None
        self._test = str(self._replay.found.get("test", ""))
        self._config = config
        self._reproduced = 0
        self._was_played = False
        self._select_file(config)

    def _select_file(self, config: pytest.Config) -> None:
        """Collect the file of the test only, unless the command line names others."""
        file = config.rootpath / self._test.partition("::")[0]
        if config.args_source is not pytest.Config.ArgsSource.ARGS and self._test and file.is_file():
            config.args = [str(file)]

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep the test of the file, or else the only generated test.

        Raises:
            pytest.UsageError: there is no such test, or it draws other arguments.
        """
        from .errors import ScheduleError
        from .generated.arguments import drawn_parameters

        item = self._find(items)
        try:
            item.stash[REPLAYED] = self._replay.arguments_for(drawn_parameters(item.obj))  # type: ignore[attr-defined]
        except ScheduleError as error:
            raise pytest.UsageError(f"--resilience-replay: {item.nodeid}: {error}") from None
        config.hook.pytest_deselected(items=[each for each in items if each is not item])
        items[:] = [item]

    def _find(self, items: list[pytest.Item]) -> pytest.Item:
        generated = [item for item in items if is_generated(item)]
        for item in generated:
            if item.nodeid == self._test:
                return item
        if len(generated) == 1:
            return generated[0]
        wanted = f"{self._test} is not among them" if self._test else "the file names none of them"
        names = ", ".join(item.nodeid for item in generated[:5]) or "none"
        raise pytest.UsageError(
            f"--resilience-replay: {wanted}; select one generated test on the command line. Collected were: {names}"
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Read how often the replay has failed. Workers of xdist send it."""
        if report.when == "call":
            found = [str(value) for name, value in report.user_properties if name == REPRODUCED]
            self._was_played = bool(found) or report.passed  # else an error of the set-up has ended it
            self._reproduced = int(found[0].split()[0]) if found else 0

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Write the count as the last line of the run."""
        if self._was_played and not hasattr(self._config, "workerinput"):
            reporter: Any = self._config.pluginmanager.getplugin("terminalreporter")
            if reporter is not None:
                reporter.write_line(f"reproduced {self._reproduced} of {self._plays}")
