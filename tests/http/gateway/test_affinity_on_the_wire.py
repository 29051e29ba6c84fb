"""Affinity as callers meet it: alike requests reach one engine, until that one is busy or gone."""

import asyncio

from gateway_process import ENDPOINT, until
from weighbridge.routing.options import Affinity

PREFIX = "You are a scale in a gravel pit. " * 40


def asked(site) -> list[int]:
    return [len(engine.bodies) for engine in site.engines]


async def test_one_cache_key_means_one_engine_and_many_keys_all_of_them(site):
    await site.route(0, 1, 2, affinity=Affinity.SESSION)
    for _ in range(9):
        await site.chat(prompt_cache_key="session 1")
    assert sorted(asked(site)) == [0, 0, 9]
    for number in range(40):
        await site.chat(prompt_cache_key=f"session {number}")
    assert min(asked(site)) > 3
    # It is the gateway's: an engine is not told of it.
    assert all("prompt_cache_key" not in body for engine in site.engines for body in engine.bodies)


async def test_what_begins_alike_goes_to_one_engine_in_prefix_mode_alone(site):
    async def ask() -> None:
        for number in range(12):
            messages = [
                {"role": "system", "content": PREFIX},
                {"role": "user", "content": f"Question {number}"},
            ]
            await site.post({"model": ENDPOINT, "messages": messages})

    await site.route(0, 1, 2, affinity=Affinity.PREFIX)
    await ask()
    assert sorted(asked(site)) == [0, 0, 12]
    await site.route(0, 1, 2, affinity=Affinity.SESSION)
    for engine in site.engines:
        engine.bodies.clear()
    await ask()
    assert sorted(asked(site)) != [0, 0, 12]


async def test_a_busy_engine_is_relieved_of_its_keys(site):
    await site.route(0, 1, affinity=Affinity.SESSION)
    for engine in site.engines:
        engine.mode = "silent"
    waiting = [asyncio.create_task(site.chat(prompt_cache_key="hot")) for _ in range(8)]
    await until(lambda: sum(engine.open_now for engine in site.engines) == 8, site.gateway)
    loads = sorted(engine.open_now for engine in site.engines[:2])
    assert loads == [3, 5]
    for engine in site.engines:
        engine.released.set()
    assert {(await task)[0].status for task in waiting} == {200}


async def test_when_its_engine_is_gone_a_key_goes_elsewhere_and_comes_back(site):
    await site.route(0, 1, affinity=Affinity.SESSION)
    await site.chat(user="u")
    own = asked(site).index(1)
    await site.route(1 - own, affinity=Affinity.SESSION)
    assert (await site.chat(user="u"))[0].status == 200
    await site.route(0, 1, affinity=Affinity.SESSION)
    await site.chat(user="u")
    assert asked(site)[own] == 2
