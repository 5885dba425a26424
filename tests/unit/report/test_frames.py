"""Tracebacks without the frames of the package."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from pytest_resilience.errors import SetupError
from pytest_resilience.faults.fault import at_least
from pytest_resilience.report.frames import shorten


def raised(act: Callable[[], object]) -> BaseException:
    try:
        act()
    except BaseException as error:  # noqa: BLE001  # what is raised is what is looked at
        return error
    raise AssertionError("it raises")


def files(error: BaseException) -> list[str]:
    return [frame.filename.rpartition("/")[2] for frame in traceback.extract_tb(error.__traceback__)]


def test_frames_of_the_package_go_and_those_of_the_user_stay() -> None:
    error = raised(lambda: at_least("seconds", 0, 1, "s"))
    assert files(error)[-1] == "fault.py"
    assert shorten(error, __file__, 7, "test_it")
    assert set(files(error)) == {"test_frames.py"}


def test_an_error_that_no_message_of_ours_explains_keeps_all_its_frames() -> None:
    error = raised(lambda: at_least("seconds", 0, "one", "s"))  # type: ignore[arg-type]
    assert isinstance(error, TypeError)
    assert not shorten(error, __file__, 7, "test_it")
    assert files(error)[-1] == "fault.py"


def test_an_error_without_a_frame_of_the_users_points_at_the_test() -> None:
    error = raised(lambda: at_least("seconds", 0, 1, "s"))
    while error.__traceback__ is not None and "fault.py" not in error.__traceback__.tb_frame.f_code.co_filename:
        error.__traceback__ = error.__traceback__.tb_next
    assert shorten(error, "/tests/test_it.py", 12, "test_it")
    (frame,) = traceback.extract_tb(error.__traceback__)
    assert (frame.filename, frame.lineno, frame.name) == ("/tests/test_it.py", 12, "test_it")


def test_every_error_of_a_group_is_shortened() -> None:
    first, second = (raised(lambda: at_least("seconds", 0, 1, "s")) for _ in range(2))
    group = BaseExceptionGroup("two", [first, BaseExceptionGroup("one", [second]), ValueError("another's")])
    assert shorten(group, __file__, 7, "test_it")
    assert "fault.py" not in files(first) + files(second)


def test_a_cause_stays_only_if_a_line_of_the_users_is_in_it() -> None:
    def wrong() -> None:
        raise LookupError("the user's own")

    def outer(inner: Callable[[], object]) -> None:
        try:
            inner()
        except Exception as error:  # whichever
            failure = raised(lambda: at_least("seconds", 0, 1, "s"))
            raise failure from error

    with_line, without = raised(lambda: outer(wrong)), raised(lambda: outer(wrong))
    assert isinstance(without.__cause__, LookupError)
    without.__cause__.__traceback__ = None
    assert shorten(with_line, __file__, 7, "test_it")
    assert shorten(without, __file__, 7, "test_it")
    assert isinstance(with_line, SetupError)
    assert isinstance(with_line.__cause__, LookupError)
    assert without.__cause__ is None
