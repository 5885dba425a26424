"""The slots of the pool, which requests get before workers."""

import asyncio

from service.postgres.slots import ConnectionSlots


async def waiting(slots, *, worker=False):
    """Return a task that waits for a slot, after its first step."""
    task = asyncio.ensure_future(slots.acquire(worker=worker))
    await asyncio.sleep(0)
    return task


def test_requests_get_slots_in_the_order_in_which_they_came():
    async def scene():
        slots = ConnectionSlots(1, 1)
        await slots.acquire()
        first, second = await waiting(slots), await waiting(slots)
        assert slots.locked()
        slots.release()
        await asyncio.sleep(0)
        assert (first.done(), second.done()) == (True, False)
        slots.release()
        await second

    asyncio.run(scene())


def test_workers_get_no_more_slots_than_their_limit():
    async def scene():
        slots = ConnectionSlots(10, 2)
        await slots.acquire(worker=True)
        await slots.acquire(worker=True)
        third = await waiting(slots, worker=True)
        assert not third.done()
        assert not slots.locked(), "requests still get slots"
        slots.release(worker=True)
        await third

    asyncio.run(scene())


def test_a_worker_leaves_the_last_slot_to_requests():
    async def scene():
        slots = ConnectionSlots(3, 3)
        await slots.acquire()
        await slots.acquire(worker=True)
        worker = await waiting(slots, worker=True)
        assert not worker.done()
        await asyncio.wait_for(slots.acquire(), 0.1)  # the last slot
        slots.release()
        await asyncio.sleep(0)
        assert not worker.done(), "one slot is free, and the worker took it"
        slots.release()
        await worker

    asyncio.run(scene())


def test_in_a_pool_of_one_slot_a_waiting_request_goes_before_a_waiting_worker():
    async def scene():
        slots = ConnectionSlots(1, 2)
        await slots.acquire(worker=True)
        worker, request = await waiting(slots, worker=True), await waiting(slots)
        slots.release(worker=True)
        await asyncio.sleep(0)
        assert (request.done(), worker.done()) == (True, False)
        slots.release()
        await worker

    asyncio.run(scene())


def test_a_cancelled_waiter_costs_no_slot_at_whatever_moment_it_is_cancelled():
    async def scene():
        slots = ConnectionSlots(2, 1)

        async def use(*, worker):
            await slots.acquire(worker=worker)
            try:
                await asyncio.sleep(0)
            finally:
                slots.release(worker=worker)

        for round_ in range(200):
            tasks = [asyncio.ensure_future(use(worker=n % 2 == 0)) for n in range(6)]
            for _ in range(round_ % 7):
                await asyncio.sleep(0)
            for task in tasks[:: 1 + round_ % 2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(slots.acquire(worker=True), 1)
        await asyncio.wait_for(slots.acquire(), 1)
        assert slots.locked(), "two slots are in use, and there is a third"

    asyncio.run(scene())
