"""Episodes without file descriptors or memory."""

import errno
import logging
import os

import psutil
import pytest

from service import shortages
from service.shortages import CALM, Shortages, lacking

NO_DESCRIPTOR = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


@pytest.mark.parametrize(
    ("error", "resource"),
    [
        (NO_DESCRIPTOR, "file descriptors"),
        (OSError(errno.ENFILE, "Too many open files in system"), "file descriptors"),
        (ImportError(f"x.so: cannot open shared object file: {os.strerror(errno.EMFILE)}"), "file descriptors"),
        (ExceptionGroup("", [NO_DESCRIPTOR, NO_DESCRIPTOR]), "file descriptors"),
        (MemoryError(), "memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "memory"),
        (ExceptionGroup("", [NO_DESCRIPTOR, ValueError()]), None),
        (FileNotFoundError(errno.ENOENT, "No such file"), None),
        (OSError("no number"), None),
        (ImportError("No module named 'x'"), None),
        (ValueError(), None),
    ],
    ids=repr,
)
def test_the_lack_of_a_resource_is_distinguished_from_other_errors(error, resource):
    assert lacking(error) == resource


class Scene:
    """Episodes with a clock that the test sets."""

    def __init__(self, monkeypatch, caplog):
        self.now = 0.0
        self.free = True
        self.shortages = Shortages(clock=lambda: self.now)
        self._log = caplog
        monkeypatch.setattr(shortages, "_has_descriptor", lambda: self.free)
        caplog.set_level(logging.INFO, "service.shortages")

    @property
    def lines(self):
        return self._log.messages

    def sweep_after(self, seconds):
        self.now += seconds
        self.shortages.sweep()


@pytest.fixture
def scene(monkeypatch, caplog):
    return Scene(monkeypatch, caplog)


def test_an_episode_is_one_line_at_its_begin_and_one_at_its_end(scene):
    assert scene.shortages.report(NO_DESCRIPTOR, "to answer a request") == "file descriptors"
    scene.sweep_after(CALM)
    scene.shortages.report(NO_DESCRIPTOR, "to open a websocket")
    scene.sweep_after(CALM)
    assert scene.lines == ["no file descriptor is left to answer a request"]
    scene.sweep_after(0.1)
    assert scene.lines[1:] == ["resolved: there are file descriptors again"]
    scene.shortages.report(NO_DESCRIPTOR, "to answer a request")
    assert len(scene.lines) == 3, "the next episode has a line of its own"


def test_an_episode_lasts_until_a_descriptor_is_free(scene):
    scene.shortages.report(NO_DESCRIPTOR, "to answer a request")
    scene.free = False
    scene.sweep_after(CALM + 1)
    assert len(scene.lines) == 1
    scene.free = True
    scene.sweep_after(0.1)
    assert len(scene.lines) == 2


def test_each_resource_has_episodes_of_its_own(scene):
    scene.free = False
    scene.shortages.report(NO_DESCRIPTOR, "to answer a request")
    scene.shortages.report(MemoryError(), "to answer a request")
    scene.sweep_after(CALM + 1)
    assert scene.lines[1:] == ["no memory is left to answer a request", "resolved: there is memory again"]
    assert scene.shortages.is_calm("memory")


def test_another_error_is_no_episode(scene):
    assert scene.shortages.report(ValueError(), "to answer a request") is None
    scene.sweep_after(CALM + 1)
    assert scene.lines == []


def test_a_descriptor_is_free_if_a_file_can_be_opened(monkeypatch):
    before = psutil.Process().num_fds()
    assert shortages._has_descriptor()
    assert psutil.Process().num_fds() == before

    def fail(*_):
        raise NO_DESCRIPTOR

    monkeypatch.setattr(os, "open", fail)
    assert not shortages._has_descriptor()
