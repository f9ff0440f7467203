import threading
import time

import pytest

from segcore.inference.lanes import Channel, Lanes, Slots, Stopped, Turns


def start(body):  # type: ignore[no-untyped-def]
    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread


def test_channel_keeps_the_order_and_ends_with_none() -> None:
    channel: Channel[int] = Channel(Lanes(), 3)
    for item in range(3):
        channel.put(item)
    channel.close()
    assert [channel.get() for _ in range(5)] == [0, 1, 2, None, None]


def test_channel_holds_no_more_than_its_capacity() -> None:
    channel: Channel[int] = Channel(Lanes(), 2)
    put: list[int] = []

    def produce() -> None:
        for item in range(5):
            channel.put(item)
            put.append(item)

    thread = start(produce)
    time.sleep(0.05)
    assert put == [0, 1]
    assert [channel.get() for _ in range(5)] == [0, 1, 2, 3, 4]
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize("wait", ["get", "put", "take", "turn"])
def test_stop_wakes_whoever_waits(wait: str) -> None:
    lanes = Lanes()
    channel: Channel[int] = Channel(lanes, 1)
    slots, turns = Slots(lanes, 0), Turns(lanes)
    if wait == "put":
        channel.put(0)
    calls = {"get": channel.get, "put": lambda: channel.put(1), "take": slots.take, "turn": lambda: turns.wait(1)}
    ended: list[str] = []

    def body() -> None:
        with pytest.raises(Stopped):
            calls[wait]()
        ended.append(wait)

    thread = start(body)
    time.sleep(0.02)
    lanes.stop()
    thread.join(5)
    assert ended == [wait]
    with pytest.raises(Stopped):
        calls[wait]()


def test_turns_order_threads_by_number() -> None:
    turns = Turns(Lanes())
    order: list[int] = []

    def body(number: int) -> None:
        turns.wait(number)
        order.append(number)
        turns.passed()

    threads = [start(lambda number=number: body(number)) for number in (3, 1, 2, 0)]
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3]
