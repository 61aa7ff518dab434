"""Processes meet although other programs have the ports that they would take."""

import socket
import threading
from collections.abc import Iterator

import pytest

from conf.errors import NodeError
from parallel import ports
from tests.ports import free_port


@pytest.fixture
def wanted() -> Iterator[int]:
    """The first port of a range that another program, which never answers, has the first two of."""
    port = free_port(ports.PORTS)
    with socket.create_server(("", port)), socket.create_server(("", port + 1)):
        yield port


def test_taken_ports_are_passed_over_and_named(wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "ANSWER_SECONDS", 0.2)
    with ports.open_meeting_place(wanted, "mine") as place:
        assert place.taken[:2] == [wanted, wanted + 1]
        assert ports.find_store("127.0.0.1", wanted, "mine", 20) == place.store.getsockname()[1]
        monkeypatch.setattr(ports, "ANSWER_SECONDS", 20.0)  # these answer, however busy the machine is
        others = set(range(wanted + 2, wanted + ports.PORTS)) - {place.store.getsockname()[1]}
        answers = [port for port in others if ports._ask("127.0.0.1", port, "mine")]
        assert [ports._ask("127.0.0.1", port, "another run's") for port in answers] == [None]
        place.store.close()


def test_who_comes_first_waits_for_the_main_process(wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "ANSWER_SECONDS", 0.2)
    found: list[int | None] = []
    asking = threading.Thread(target=lambda: found.append(ports.find_store("127.0.0.1", wanted, "mine", 60)))
    asking.start()
    asking.join(1.0)
    with ports.open_meeting_place(wanted, "mine") as place:
        asking.join(60)
        assert found == [place.store.getsockname()[1]]
        place.store.close()


def test_too_few_free_ports_are_one_line(wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "PORTS", 2)
    said = f"of the ports {wanted} to {wanted + 1} other programs have 2; choose"
    with pytest.raises(NodeError, match=said), ports.open_meeting_place(wanted, "mine"):
        pass
