"""Lowering a limit leaves other processes alone, and a failure changes no limit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import psutil
import pytest

from pytest_resilience import CannotInject, SetupError
from pytest_resilience.targets.lowered_rlimit import LoweredRlimit
from pytest_resilience.targets.process_limits import ProcessLimits
from pytest_resilience.targets.process_tree import ForeignProcessTree, ProcessTree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux'")


@pytest.fixture
def child() -> Iterator[psutil.Process]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield psutil.Process(process.pid)
        process.kill()


def files(process: psutil.Process) -> tuple[int, int]:
    return process.rlimit(psutil.RLIMIT_NOFILE)


def test_a_process_with_a_reused_id_is_left_alone(child: psutil.Process) -> None:
    ended = psutil.Process(child.pid)
    ended._ident, ended._create_time = (child.pid, -1.0), -1.0  # psutil compares processes by their start
    tree = ProcessTree(ended, lambda: [child.pid])
    assert tree.members() == [child]
    assert ended not in tree.members()


def test_a_limit_that_the_process_sets_during_the_fault_stays(child: psutil.Process) -> None:
    limit = LoweredRlimit(ForeignProcessTree(child), psutil.RLIMIT_NOFILE, lambda _: 100)
    hard = files(child)[1]
    limit.lower()
    assert limit.on(child) == 100
    child.rlimit(psutil.RLIMIT_NOFILE, (77, hard))
    assert limit.on(child) is None
    limit.restore()
    assert files(child) == (77, hard)


def test_no_process_is_limited_if_one_of_them_cannot_be(child: psutil.Process) -> None:
    before = files(child)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        tree = ProcessTree(child, lambda: [child.pid, other.pid])

        def limit_of(process: psutil.Process) -> int:
            if process.pid == other.pid:
                raise psutil.AccessDenied(process.pid)
            return 100

        with pytest.raises(psutil.AccessDenied):
            LoweredRlimit(tree, psutil.RLIMIT_NOFILE, limit_of).lower()
        assert files(child) == before
        other.kill()


def test_a_process_of_another_user_is_an_error_at_once(child: psutil.Process) -> None:
    limits = ProcessLimits(ForeignProcessTree(child), mock.Mock())
    with (
        mock.patch.object(psutil.Process, "rlimit", side_effect=psutil.AccessDenied(child.pid)),
        pytest.raises(CannotInject, match="another user"),
    ):
        limits.limit_descriptors(0)


def test_all_other_limits_are_restored_if_one_cannot_be(child: psutil.Process) -> None:
    before = files(child)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        limit = LoweredRlimit(ProcessTree(child, lambda: [other.pid, child.pid]), psutil.RLIMIT_NOFILE, lambda _: 100)
        limit.lower()
        real = psutil.Process.rlimit

        def denied(process: psutil.Process, *arguments: Any) -> Any:
            if process.pid == other.pid:
                raise psutil.AccessDenied(process.pid)
            return real(process, *arguments)

        with mock.patch.object(psutil.Process, "rlimit", denied), pytest.raises(psutil.AccessDenied):
            limit.restore()
        assert files(child) == before
        other.kill()


def test_a_process_that_changes_its_user_during_the_fault_makes_the_receipt_unknown(child: psutil.Process) -> None:
    hold = ProcessLimits(ForeignProcessTree(child), mock.Mock()).limit_descriptors(100)
    assert hold is not None
    with mock.patch.object(psutil.Process, "rlimit", side_effect=psutil.AccessDenied(child.pid)):
        hold.receipt()
        assert hold.receipt().touched in (None, 0)
    hold.release()


@pytest.mark.parametrize(
    "strike",
    [
        lambda m: m.lower_data_limit(0),
        lambda m: m.limit_descriptors(0),
        lambda m: m.limit_memory(1),
        lambda m: m.contend_cpu(1),
    ],
)
def test_a_strike_on_an_exited_process_is_an_error(child: psutil.Process, strike: object) -> None:
    tree = ForeignProcessTree(child)
    child.kill()
    child.wait()
    with pytest.raises(SetupError, match=r"cannot strike: process \d+ is not running"):
        strike(ProcessLimits(tree, mock.Mock()))  # type: ignore[operator]
