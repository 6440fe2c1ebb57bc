from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from gdd.training.stop import SIGNALS, STOP_FILE_VARIABLE, StopRequest


@pytest.fixture(autouse=True)
def _no_stop_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STOP_FILE_VARIABLE, raising=False)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_asks_for_a_stop(number: signal.Signals) -> None:
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        for other in (signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR2):  # which may come again
            os.kill(os.getpid(), other)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_restored_however_it_ends() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ZeroDivisionError), StopRequest():
        assert all(signal.getsignal(number) not in before for number in SIGNALS)
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_file_that_appears_asks_for_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "stop"
    monkeypatch.setenv(STOP_FILE_VARIABLE, str(file))
    with StopRequest() as stop:
        assert not stop.requested
        file.touch()
        assert stop.requested
