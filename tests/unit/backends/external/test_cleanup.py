"""The cleanup of an external session repeats a failed step once, and a failed step does not prevent the others."""

from __future__ import annotations

import json

from pytest_resilience.backends.external import cleanup


def run(tmp_path, monkeypatch, failures: int) -> list[str]:
    """Run a plan whose Redis step fails some times, and return the steps that succeeded."""
    done: list[str] = []
    left = [OSError("redis://:secret@127.0.0.1")] * failures

    def flush(_url: str) -> None:
        if left:
            raise left.pop()
        done.append("redis")

    monkeypatch.setattr(cleanup, "flush_redis", flush)
    monkeypatch.setattr(cleanup, "delete_proxies", lambda *_: done.append("proxies"))
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"redis": "redis://127.0.0.1", "api": ["127.0.0.1", 1], "prefix": "p-"}))
    cleanup.main(str(plan))
    return done


def test_a_failed_step_is_repeated_once(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, monkeypatch, failures=1) == ["redis", "proxies"]
    assert "may be left" not in capsys.readouterr().err


def test_a_step_that_fails_twice_is_logged_without_its_text_and_the_others_run(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, monkeypatch, failures=2) == ["proxies"]
    error = capsys.readouterr().err
    assert "keys in Redis may be left" in error
    assert "secret" not in error
