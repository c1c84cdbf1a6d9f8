"""The event loop: order, timers, futures, limits, and where errors go."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from graced.runtime import loop as loop_module
from graced.runtime.loop import Cancelled, Expired, Future, Loop


@pytest.fixture
def loop():
    made = Loop()
    made.errors = []
    made.on_error = made.errors.append
    return made


def run(loop, coroutine):
    return loop.run_until(loop.spawn(coroutine), 60.0)


def test_timers_run_in_the_order_of_their_times_and_cancelled_ones_do_not(loop, monkeypatch):
    now_s = [100.0]
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    seen = []
    loop.call_later(0.003, lambda: seen.append("third"))
    loop.call_later(0.002, lambda: seen.append("second"))
    cancelled = loop.call_later(0.0015, lambda: seen.append("cancelled"))
    loop.call_later(0.001, lambda: seen.append("first"))
    cancelled.cancel()
    loop.run_once(0)
    assert seen == []
    now_s[0] += 0.0025
    loop.run_once(0)
    assert seen == ["first", "second"]
    now_s[0] += 0.0025
    loop.run_once(0)
    assert seen == ["first", "second", "third"]


def test_a_callback_that_calls_soon_does_not_keep_the_turn(loop):
    turns = []

    def again():
        turns.append(1)
        loop.call_soon(again)

    again()
    loop.run_once(0)
    loop.run_once(0)
    assert len(turns) == 3


def test_a_callback_sees_whether_anything_else_is_due(loop):
    ours, theirs = os.pipe()
    seen = []
    try:
        loop.add_reader(ours, lambda: seen.append("read"))
        loop.call_soon(lambda: seen.append(loop.idle))
        loop.run_once(0)
        os.write(theirs, b"x")
        loop.call_soon(lambda: seen.append(loop.idle))
        loop.run_once(0)
    finally:
        loop.remove_reader(ours)
        os.close(ours)
        os.close(theirs)
    assert seen == [True, False, "read"]


def test_a_future_keeps_its_first_result_and_calls_back_also_when_it_is_late(loop):
    future = Future()
    early = []
    future.when_done(early.append)
    future.set_result(1)
    future.set_result(2)
    future.set_exception(ValueError("late"))
    late = []
    future.when_done(late.append)
    assert (future.result(), early, late) == (1, [future], [future])


def test_the_error_of_an_awaited_task_goes_to_its_waiter(loop):
    async def fails():
        raise ValueError("no")

    async def waits():
        with pytest.raises(ValueError, match="no"):
            await loop.within(fails(), 60.0)
        return "caught"

    assert run(loop, waits()) == "caught"
    assert loop.errors == []


def test_the_error_of_a_task_nobody_waits_for_goes_to_on_error(loop):
    async def fails():
        await loop.sleep(0)
        raise ValueError("unseen")

    loop.spawn(fails())
    while not loop.errors:
        loop.run_once(1.0)
    assert str(loop.errors[0]) == "unseen"


def test_an_error_in_a_callback_a_timer_or_a_hook_ends_neither_the_turn_nor_the_loop(loop):
    seen = []

    def fails():
        raise ValueError("callback")

    loop.call_soon(fails)
    loop.call_later(0, fails)
    loop.call_soon(lambda: seen.append("after it"))
    loop.after_turn += [fails, lambda: seen.append("after the turn")]
    loop.run_once(0)
    assert seen == ["after it", "after the turn"]
    assert len(loop.errors) == 3


def test_within_gives_the_result_or_expires_and_cancels(loop):
    ended = []

    async def slow():
        try:
            await loop.sleep(3600)
        except Cancelled:
            ended.append("cancelled")
            raise

    async def quick():
        await loop.sleep(0)
        return 7

    assert run(loop, loop.within(quick(), 60.0)) == 7
    with pytest.raises(Expired, match=r"the answer took longer than 0\.001 s"):
        run(loop, loop.within(slow(), 0.001, "the answer"))
    assert ended == ["cancelled"]
    assert loop.errors == []


def test_within_does_not_settle_a_future_that_others_wait_for(loop):
    future = Future()
    with pytest.raises(Expired):
        run(loop, loop.within(future, 0.001))
    assert not future.done()


def test_cancelling_a_task_reaches_what_it_waits_for_and_runs_its_finally(loop):
    ended = []

    async def inner():
        try:
            await loop.sleep(3600)
        finally:
            ended.append("inner")

    async def outer():
        try:
            await loop.within(inner(), 60.0)
        finally:
            ended.append("outer")

    task = loop.spawn(outer())
    loop.run_once(0)
    loop.run_once(0)
    task.cancel()
    assert task.done()
    assert ended == ["inner", "outer"]
    with pytest.raises(Cancelled):
        task.result()
    task.cancel()
    assert loop.errors == []


def test_a_task_cancelled_before_its_first_step_never_runs(loop):
    seen = []

    async def body():
        seen.append(1)

    task = loop.spawn(body())
    task.cancel()
    loop.run_once(0)
    assert (seen, task.done()) == ([], True)


def test_a_wake_up_for_a_cancelled_wait_is_ignored(loop):
    first, second = Future(), Future()

    async def body():
        try:
            await first
        except Cancelled:
            return await second

    task = loop.spawn(body())
    loop.run_once(0)
    task.cancel()
    first.set_result("stale")
    loop.run_once(0)
    assert not task.done()
    second.set_result("right")
    assert loop.run_until(task, 60.0) == "right"


def test_gather_keeps_the_order_and_raises_only_after_all_have_ended(loop):
    ended = []

    async def part(name, delay_s, error=None):
        await loop.sleep(delay_s)
        ended.append(name)
        if error:
            raise error
        return name

    assert run(loop, loop.gather(part("a", 0.003), part("b", 0))) == ["a", "b"]
    ended.clear()
    with pytest.raises(ValueError, match="first"):
        run(loop, loop.gather(part("a", 0, ValueError("first")), part("b", 0.003), part("c", 0, KeyError("second"))))
    assert sorted(ended) == ["a", "b", "c"]
    assert loop.errors == []


def test_readers_and_writers_of_one_descriptor_are_independent(loop):
    read_fd, write_fd = os.pipe()
    seen = []
    try:
        loop.add_writer(write_fd, lambda: seen.append("writable"))
        loop.run_once(1.0)
        loop.remove_writer(write_fd)
        loop.remove_writer(write_fd)
        os.write(write_fd, b"x")
        loop.add_reader(read_fd, lambda: seen.append(os.read(read_fd, 1)))
        loop.run_once(1.0)
        loop.run_once(0)
        loop.remove_reader(read_fd)
    finally:
        os.close(read_fd)
        os.close(write_fd)
    assert seen == ["writable", b"x"]


def test_run_ends_with_stop_and_run_until_expires(loop):
    loop.call_soon(loop.stop)
    loop.run()
    with pytest.raises(Expired):
        loop.run_until(Future(), 0.001)
