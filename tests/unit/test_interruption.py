"""A signal whose exception is raised where nobody can catch it comes again."""

import os
import signal
import sys
import time

import pytest

from partita.controller.cli.interruption import unlosable


class Unlucky:
    """Its finaliser is where the signal arrives, so that Python swallows the exception."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        for _ in range(100):
            time.sleep(0.001)


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _lose(number: int) -> None:
    unlucky = Unlucky(number)
    del unlucky
    time.sleep(10)


def test_ctrl_c_in_a_finaliser_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt), unlosable():
        _lose(signal.SIGINT)


def test_being_told_to_end_in_a_finaliser_is_not_lost() -> None:
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        with pytest.raises(SystemExit) as caught, unlosable():
            _lose(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 143


def test_other_lost_exceptions_are_reported_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("broken")

    reported: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: reported.append(str(lost.exc_value)))
    with unlosable():
        del_me = Broken()
        del del_me
    assert reported == ["broken"]
