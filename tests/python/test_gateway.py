#!/usr/bin/env python3
"""Runs the independent client of fluxar_client.py against a gateway that is up, and prints `N passed, M failed`.

    python3 test_gateway.py --tcp tcp://127.0.0.1:9000 --unix unix:///run/fluxar.sock --ws ws://127.0.0.1:9001

The addresses may also stand in FLUXAR_TCP, FLUXAR_UNIX and FLUXAR_WS; what is not given is not tested. `--only WORD` runs the
tests whose name holds the word, `--verbose` says what passed as well. Each test uses topics and methods of its own, so several
runs may share a gateway.
"""

import argparse
import asyncio
import itertools
import json
import os
import pathlib
import random
import re
import string
import sys
import time
import traceback
import urllib.parse

import cbor2
import websockets

from fluxar_client import (
    CALL, CANCEL, EVENT, HELLO, PING, STREAM, SUBSCRIBE, Closed, Peer, connect, envelope, item_end, new_id,
    open_transport, read_envelope,
)
from judge import (
    ABORTED, ALREADY, CANCELLED, DATA_LOSS, DEADLINE, EXHAUSTED, INVALID_ARGUMENT, OUT_OF_RANGE, PRECONDITION, TESTS, TEST_S,
    UNAVAILABLE, UNIMPLEMENTED, URLS, equal, everywhere, fails, ids_of, session, test, topic,
)

import resume

SPECIFICATION = pathlib.Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
VECTORS = pathlib.Path(__file__).resolve().parents[2] / "protocol" / "vectors"


# --- the specification itself -----------------------------------------------------------------------------------------


@test
async def examples_of_the_specification(_):
    """The frames in hex of docs/protocol.md are frames, and say what the diagnostic notation beside them says."""
    page = SPECIFICATION.read_text()
    blocks = re.findall(r"```text\n(.*?)```", page[page.index("\n## Examples") :], re.DOTALL)
    frames = [re.sub(r"#.*|\s", "", part) for block in blocks for part in re.split(r"\n\s*\n", block)]
    messages = []
    for frame in map(bytes.fromhex, frames):
        equal(int.from_bytes(frame[:4], "big"), len(frame) - 4, "length")
        at = 4
        while at < len(frame):
            message, at = read_envelope(frame, at)
            messages.append(message)
    equal([m.type for m in messages], [1, 1, 2, 2, 2, 2, 4, 4, 5, 4, 5, 5, 3, 3, 3, 3, 6, 3])
    for message in messages:
        assert f"h'{message.id.hex()}'" in page, f"{message.id.hex()} is not in the diagnostic notation"


# --- the session [P-7] ----------------------------------------------------------------------------------------------


@everywhere
async def hello_compact(url):
    async with session(url) as peer:
        welcome = peer.welcome
        equal(welcome["v"], 0)
        equal(len(welcome["session"]), 16)
        equal(welcome.get("token"), None)
        equal(welcome.get("resumed", False), False)
        assert 65536 <= welcome.get("max_frame", 1048576) <= 16777216, welcome
        assert 100 <= welcome.get("heartbeat_ms", 15000) <= 3600000, welcome
        assert isinstance(welcome.get("agent", ""), str)


@everywhere
async def hello_named(url):
    async with session(url, form="named") as peer:  # the client fails on a compact answer
        await peer.ping()


@everywhere
async def named_session_takes_compact_messages(url):
    async with session(url, form="named") as peer:
        ident = new_id()
        reply = peer.expect(ident)
        await peer.send_body(envelope(PING, ident))
        equal((await reply).form, "named")


@test
async def capabilities_are_the_intersection(url):
    async with session(url, caps={"compress": ["zstd", "gzip", "lz9"], "resume": True, "teleport": True}) as peer:
        caps = peer.welcome.get("caps") or {}
        assert set(caps) <= {"compress", "multi", "datagram", "resume", "seal"}, caps
        assert "lz9" not in (caps.get("compress") or []), caps


@test
async def sessions_have_different_ids(url):
    async with session(url, count=2) as (a, b):
        assert a.welcome["session"] != b.welcome["session"]


@test
async def version_that_is_not_spoken(url):
    peer = Peer(await open_transport(url))
    await fails(UNIMPLEMENTED, peer.hello(v=[1, 2]))
    await peer.closed()


@everywhere
async def anything_before_the_hello_closes(url):
    for kind, target in ((CALL, "a.b"), (EVENT, "a.b"), (PING, None), (SUBSCRIBE, ">")):
        peer = Peer(await open_transport(url))
        await peer.send(kind, None, target)
        equal((await peer.closed())["code"], PRECONDITION)
        equal([m.type for m in peer.inbox], [CANCEL])


@everywhere
async def second_hello_closes(url):
    peer = await connect(url)
    await peer.send(HELLO, payload={"v": [0]})
    equal((await peer.closed())["code"], PRECONDITION)


@everywhere
async def silence_before_the_hello_is_closed(url):
    since = time.monotonic()
    peer = Peer(await open_transport(url))
    equal((await peer.closed(20))["code"], DEADLINE)
    assert time.monotonic() - since > 3


@test
async def hello_in_pieces_of_one_byte(url):
    if not url.startswith("ws"):
        transport = await open_transport(url)
        peer = Peer(transport)
        ident = new_id()
        reply = peer.expect(ident)
        body = envelope(HELLO, ident, payload={"v": [0]})
        for byte in len(body).to_bytes(4, "big") + body:
            await transport.send_bytes(bytes([byte]))
            await asyncio.sleep(0)
        assert (await asyncio.wait_for(reply, 10)).error is None
        await peer.close()


@everywhere
async def messages_may_follow_the_hello_at_once(url):
    peer = Peer(await open_transport(url))
    hello, ping = new_id(), new_id()
    replies = peer.expect(hello), peer.expect(ping)
    await peer.send_body(envelope(HELLO, hello, payload={"v": [0]}) + envelope(PING, ping))
    welcome, pong = await asyncio.wait_for(asyncio.gather(*replies), 10)
    equal((welcome.type, pong.type), (HELLO, PING))
    await peer.close()


@everywhere
async def goodbye(url):
    peer = await connect(url)
    await peer.send(CANCEL)
    await peer.closed()
    if url.startswith("ws"):
        equal(peer.transport.close_code, 1000, "close code")


@test
async def frame_over_16_kib_before_the_hello(url):
    peer = Peer(await open_transport(url))
    await peer.send_body(envelope(HELLO, new_id(), payload={"v": [0], "agent": "x" * 17000}))
    reason = await peer.closed()
    if url.startswith("ws"):
        equal(peer.transport.close_code, 1009, "close code")
    else:
        equal(reason["code"], EXHAUSTED)


@everywhere
async def frame_over_the_limit(url):
    peer = await connect(url)
    limit = peer.welcome.get("max_frame", 1048576)
    if url.startswith("ws"):
        await peer.send_body(bytes(limit + 1))
        await peer.closed()
        equal(peer.transport.close_code, 1009, "close code")
    else:
        await peer.transport.send_bytes((limit + 1).to_bytes(4, "big"))
        equal((await peer.closed())["code"], EXHAUSTED)


@test
async def envelope_over_the_limit_less_1_kib(url):
    async with session(url) as peer:
        limit = peer.welcome.get("max_frame", 1048576)
        topic_ = topic()
        await peer.subscribe(topic_)
        ident = await peer.publish(topic_, bytes(limit - 1000))
        note = await peer.next(lambda m: m.ref == ident)
        equal(note.error["code"], EXHAUSTED)
        await peer.publish(topic_, bytes(limit - 1024 - 100))
        equal(len((await peer.event()).payload), limit - 1124)


# --- events [P-5.1 to P-5.5] ----------------------------------------------------------------------------------------


@everywhere
async def publish_and_subscribe(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.subscribe(f"{t}.x")
        ident = await a.publish(f"{t}.x", {"n": 1}, meta=None)
        await a.publish(f"{t}.y", {"n": 2})
        event = await b.event()
        equal((event.target, event.payload, event.id), (f"{t}.x", {"n": 1}, ident))
        await a.ping()
        await b.ping()
        equal([m for m in b.inbox if m.type == EVENT], [])


@everywhere
async def wildcards(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        cases = {f"{t}.*": ["p", "q"], f"{t}.>": ["p", "q", "p.q", "p.q.r"], f"{t}.*.q": ["p.q"], f"*.{t}": [], f"{t}.p.>": ["p.q", "p.q.r"]}
        for pattern, matching in cases.items():
            ident = await b.subscribe(pattern)
            for rest in ("p", "q", "p.q", "p.q.r"):
                await a.publish(f"{t}.{rest}", rest)
            await a.publish(f"{t}", "alone")
            await a.ping()
            got = [(await b.event()).payload for _ in matching]
            await b.ping()
            equal((got, [m.payload for m in b.inbox if m.type == EVENT]), (matching, []), pattern)
            await b.cancel(ident)
            await b.next(lambda m: m.ref == ident and m.meta.get("end") is True)


@test
async def no_wildcard_reaches_system_topics(url):
    async with session(url) as peer:
        await peer.subscribe(">")
        await peer.subscribe("*.*")
        await asyncio.sleep(0.2)
        assert not [m for m in peer.inbox if m.type == EVENT and m.target.startswith("$")]


@test
async def overlapping_subscriptions_get_an_event_once(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        for pattern in (f"{t}.x", f"{t}.*", f"{t}.>", f"{t}.x"):
            await b.subscribe(pattern)
        for n in range(20):
            await a.publish(f"{t}.x", n)
        equal([(await b.event()).payload for _ in range(20)], list(range(20)))
        await b.ping()
        equal([m for m in b.inbox if m.type == EVENT], [])


@test
async def own_events_come_back(url):
    async with session(url) as peer:
        t = topic()
        await peer.subscribe(t)
        await peer.publish(t, "mine")
        equal((await peer.event()).payload, "mine")


@test
async def nobody_listens(url):
    async with session(url) as peer:
        for _ in range(1000):
            await peer.publish(topic(), 1)
        await peer.ping()
        equal(peer.inbox, [])


@everywhere
async def order_and_batches(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.subscribe(f"{t}.>")
        total = 5000
        for start in range(0, total, 50):
            await a.send_body(b"".join(envelope(EVENT, new_id(), target=f"{t}.{n % 7}", payload=n) for n in range(start, start + 50)))
        equal([(await b.event()).payload for _ in range(total)], list(range(total)))


PAYLOADS = ["f6", "1b0000000000000001", "5f4161426263ff", "7f6161ff", "9f01ff", "bf6161019fff02ff", "c11a65000000", "f97e00", "fb3ff8000000000000",
            "a2016161016162", "5b000000000000000161", "f8ff", "d9d9f7a0"]


@everywhere
async def bytes_of_events_are_not_touched(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.subscribe(t)
        meta = {"x-first": [1, None], "type": "application/cbor", "key": b"k"}
        for raw in PAYLOADS:
            ident = new_id()
            sent = envelope(EVENT, ident, None, t, meta, raw_payload=bytes.fromhex(raw))
            await a.send_body(sent)
            event = await b.event()
            equal((event.raw["payload"].hex(), event.raw["meta"], event.id), (raw, cbor2.dumps(meta), ident))


@test
async def forms_are_transcoded(url):
    async with session(url) as compact, session(url, form="named") as named:
        t = topic()
        await compact.subscribe(t)
        await named.subscribe(t)
        for sender in (compact, named):
            for raw in PAYLOADS:
                ident = await sender.publish(t, meta={"x": 1}, raw_payload=bytes.fromhex(raw))
                for receiver in (compact, named):  # each fails on a message of the other form
                    event = await receiver.event()
                    equal((event.id, event.target, event.meta, event.raw["payload"].hex()), (ident, t, {"x": 1}, raw))
        await named.serve(f"{t}.echo")
        asking = asyncio.create_task(compact.call(f"{t}.echo", [1, 2]))
        request = await named.request()
        await named.answer(request, request.payload)
        equal(await asking, [1, 2])


@test
async def every_transport_reaches_every_other(_):
    urls = list(URLS.values())
    async with session(*urls, count=2) as peers:
        t = topic()
        for peer in peers:
            await peer.subscribe(t)
        for n, peer in enumerate(peers):
            await peer.publish(t, n)
            equal([(await each.event()).payload for each in peers], [n] * len(peers))


@test
async def many_subscribers(url):
    async with session(*URLS.values(), count=40) as peers:
        t = topic()
        for peer in peers:
            await peer.subscribe(f"{t}.*")
        for n in range(25):
            await peers[0].publish(f"{t}.x", n)
        for peer in peers:
            equal([(await peer.event()).payload for _ in range(25)], list(range(25)))


@test
async def a_payload_smuggles_nothing(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.subscribe(f"{t}.>")
        hidden = envelope(EVENT, new_id(), target=f"{t}.hidden", payload="gotcha")
        for payload in (hidden, [hidden], {"k": hidden + hidden}):
            await a.publish(f"{t}.open", payload)
            equal((await b.event()).payload, payload)
        # The payload is said to end early, and an envelope stands where the rest of this one should be.
        crooked = envelope(EVENT, new_id(), target=f"{t}.open", payload=0)[:-1] + hidden
        await a.send_body(crooked)
        await a.ping()
        await b.ping()
        equal([m.target for m in b.inbox if m.type == EVENT], [])


@everywhere
async def cancelled_subscription_ends(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        first = await b.subscribe(f"{t}.a")
        await b.subscribe(f"{t}.b")
        await b.cancel(first)
        note = await b.next(lambda m: m.ref == first)
        equal((note.type, note.meta.get("end"), note.error), (SUBSCRIBE, True, None))
        await a.publish(f"{t}.a", 1)
        await a.publish(f"{t}.b", 2)
        equal((await b.event()).payload, 2)
        equal(b.inbox, [])


@test
async def cancel_of_nothing_is_ignored(url):
    async with session(url) as peer:
        await peer.cancel(new_id())
        for kind in (CALL, STREAM, SUBSCRIBE, EVENT, PING):
            await peer.send(kind, new_id())
        await peer.ping()
        equal(peer.inbox, [])


@test
async def subscription_ids_are_used_once(url):
    async with session(url) as peer:
        t = topic()
        ident = await peer.subscribe(f"{t}.a")
        await fails(ALREADY, peer.subscribe(f"{t}.b", ident=ident))
        await peer.publish(f"{t}.b", 1)
        await peer.publish(f"{t}.a", 2)
        equal((await peer.event()).payload, 2)
        await peer.cancel(ident)
        await peer.next(lambda m: m.ref == ident and m.meta.get("end"))
        await peer.subscribe(f"{t}.b", ident=ident)


@everywhere
async def group_members_share(url):
    async with session(url, count=4) as (a, b, c, d):
        t = topic()
        members = {}
        for peer in (b, c):
            members[peer] = await peer.subscribe(f"{t}.>", {"group": "workers"})
        other = await d.subscribe(f"{t}.>", {"group": "auditors"})
        plain = await d.subscribe(f"{t}.x")
        total = 400
        for n in range(total):
            await a.publish(f"{t}.x", n)
            if n % 20 == 0:
                await a.ping()
        got = {peer: [] for peer in members}
        while sum(map(len, got.values())) < total:
            for peer in members:
                await peer.ping()
                for message in [m for m in peer.inbox if m.type == EVENT]:
                    peer.inbox.remove(message)
                    equal(message.run, members[peer], "the run's subscription")
                    got[peer].append(message.payload)
        equal(sorted(n for each in got.values() for n in each), list(range(total)))
        for peer, each in got.items():
            equal(each, sorted(each), "order within a member")
            assert each, "a member that got nothing"
        events = [await d.event() for _ in range(2 * total)]
        equal([m.payload for m in events if m.run == other], list(range(total)), "the other group")
        equal([m.payload for m in events if m.run is None], list(range(total)), "the plain subscription beside it")
        assert plain


@test
async def group_goes_on_without_a_member(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        lost = await connect(url)
        await lost.subscribe(t, {"group": "g"})
        stays = await b.subscribe(t, {"group": "g"})
        await lost.close()
        await asyncio.wait_for(lost.transport.reader.read() if hasattr(lost.transport, "reader") else lost.transport.socket.wait_closed(), 10)
        for n in range(200):  # the loss is known when all of a burst arrive here
            await a.publish(t, ("probe", n))
            await a.ping()
            await b.ping()
            events = [m for m in b.inbox if m.type == EVENT]
            if len(events) >= 3 and [m.payload[1] for m in events[-3:]] == [n - 2, n - 1, n]:
                break
        else:
            raise AssertionError("the member that stayed never got everything")
        equal({m.run for m in events}, {stays})


# --- calls [P-5.6, P-5.7] -------------------------------------------------------------------------------------------


@everywhere
async def call_and_answer(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.serve(f"{t}.*")
        ident = new_id()
        asking = asyncio.create_task(a.call(f"{t}.double", 21, {"trace": "00-aa", "x-mine": [1]}, ident=ident))
        request = await b.request()
        equal((request.target, request.payload, request.meta.get("trace"), request.meta.get("x-mine")), (f"{t}.double", 21, "00-aa", [1]))
        await b.answer(request, 42)
        equal(await asking, 42)
        asking = asyncio.create_task(a.call(f"{t}.fail"))
        request = await b.request()
        await b.answer(request, error={"code": 5, "message": "no such thing", "details": {"a": [1]}, "retry_after_ms": 7})
        equal(await fails(5, asking), {"code": 5, "message": "no such thing", "details": {"a": [1]}, "retry_after_ms": 7})


@everywhere
async def answers_in_any_order(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.serve(t)
        asking = [asyncio.create_task(a.call(t, n)) for n in range(100)]
        requests = [await b.request() for _ in range(100)]
        equal(len({r.id for r in requests}), 100, "different ids")
        for request in reversed(requests):
            await b.answer(request, request.payload * 2)
        equal(await asyncio.gather(*asking), [2 * n for n in range(100)])


@test
async def payloads_of_calls_are_not_touched(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.serve(t)
        for raw in PAYLOADS:
            ident = new_id()
            reply = a.expect(ident)
            await a.send(CALL, None, t, ident=ident, raw_payload=bytes.fromhex(raw))
            request = await b.request()
            equal(request.raw["payload"].hex(), raw)
            await b.send(CALL, request.id, raw_payload=request.raw["payload"])
            equal((await reply).raw["payload"].hex(), raw)


@test
async def both_sides_call(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await a.serve(f"{t}.a")
        await b.serve(f"{t}.b")
        to_b, to_a = asyncio.create_task(a.call(f"{t}.b", "x")), asyncio.create_task(b.call(f"{t}.a", "y"))
        for peer in (a, b):
            request = await peer.request()
            await peer.answer(request, request.payload * 2)
        equal((await to_b, await to_a), ("xx", "yy"))


@test
async def equal_ids_of_different_callers(url):
    async with session(url, count=3) as (a, b, c):
        t = topic()
        await c.serve(t)
        ident = new_id()
        asking = [asyncio.create_task(peer.call(t, n, ident=ident)) for n, peer in enumerate((a, b))]
        for request in [await c.request(), await c.request()]:
            await c.answer(request, request.payload)
        equal(await asyncio.gather(*asking), [0, 1])


@everywhere
async def nobody_serves(url):
    async with session(url) as peer:
        await fails(UNAVAILABLE, peer.call(f"{topic()}.x"))


@test
async def call_ids_are_used_once(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.serve(t)
        ident = await a.send(CALL, None, t, payload=1)
        request = await b.request()
        await fails(ALREADY, a.call(t, 2, ident=ident))
        reply = a.expect(ident)
        await b.answer(request, "first")
        equal((await reply).payload, "first")


@everywhere
async def cancelled_call(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.serve(t)
        ident = new_id()
        asking = asyncio.create_task(a.call(t, ident=ident))
        request = await b.request()
        await a.cancel(ident)
        await fails(CANCELLED, asking)
        note = await b.next(lambda m: m.type == CANCEL)
        equal(note.ref, request.id)
        await b.answer(request, "too late")
        await b.ping()
        await a.ping()
        equal(a.inbox, [])


@test
async def timeout_travels_with_the_call(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.serve(t)
        asking = asyncio.create_task(a.call(t, None, {"timeout_ms": 30000}))
        request = await b.request()
        equal(request.meta.get("timeout_ms"), 30000)
        await b.answer(request, "in time")
        equal(await asking, "in time")


@everywhere
async def lost_server(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.serve(t)
        asking = [asyncio.create_task(a.call(t, n)) for n in range(3)]
        for _ in range(3):
            await b.request()
        await b.close()
        for each in asking:
            await fails(UNAVAILABLE, each)
        await fails(UNAVAILABLE, a.call(t))


@test
async def lost_caller(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.serve(t)
        asking = asyncio.create_task(a.call(t))
        request = await b.request()
        await a.close()
        equal((await b.next(lambda m: m.type == CANCEL)).ref, request.id)
        asking.cancel()
        await b.answer(request, "nobody is there")
        await b.ping()


@test
async def offer_that_ends(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        ident = await b.serve(t)
        await b.cancel(ident)
        note = await b.next(lambda m: m.ref == ident)
        equal((note.type, note.meta.get("end")), (SUBSCRIBE, True))
        await fails(UNAVAILABLE, a.call(t))


@test
async def calls_are_spread(url):
    async with session(url, count=3) as (a, b, c):
        t = topic()
        await b.serve(f"{t}.*")
        await c.serve(f"{t}.*")
        asking = [asyncio.create_task(a.call(f"{t}.x", n)) for n in range(40)]
        for _ in range(40):
            await a.ping()
        await b.ping()
        await c.ping()
        shares = {peer: [m for m in peer.inbox if m.type == CALL] for peer in (b, c)}
        counts = [len(each) for each in shares.values()]
        assert sum(counts) == 40 and min(counts) >= 12, f"open calls of each: {counts}"
        for peer, requests in shares.items():
            for request in requests:
                await peer.answer(request, request.payload)
        equal(await asyncio.gather(*asking), list(range(40)))


@test
async def the_most_specific_offer_is_asked(url):
    async with session(url, count=4) as (a, b, c, d):
        t = topic()
        offers = {b: f"{t}.>", c: f"{t}.*", d: f"{t}.x"}
        idents = {peer: await peer.serve(pattern) for peer, pattern in offers.items()}
        for method, server in ((f"{t}.x", d), (f"{t}.y", c), (f"{t}.y.z", b)):
            asking = asyncio.create_task(a.call(method))
            await server.answer(await server.request(), method)
            equal(await asking, method)
        await d.cancel(idents[d])
        await d.next(lambda m: m.ref == idents[d])
        asking = asyncio.create_task(a.call(f"{t}.x"))
        await c.answer(await c.request(), "next in line")
        equal(await asking, "next in line")


# --- streams [P-3.11] -----------------------------------------------------------------------------------------------


async def opened_or_refused(server, stream):
    """The server's end of a stream, or None if the gateway does not know yet that it serves."""
    opening, refused = asyncio.create_task(server.opened()), asyncio.create_task(stream.until(lambda stream: stream.error))
    await asyncio.wait({opening, refused}, return_when=asyncio.FIRST_COMPLETED)
    if opening.done():
        refused.cancel()
        return opening.result()[0]
    opening.cancel()
    await refused
    equal(stream.error["code"], UNAVAILABLE)
    return None


class streaming:
    """`async with streaming(url) as (opener, server, method)`: two sessions, the second serves the method."""

    def __init__(self, url, **hello):
        self.session = session(url, count=2, **hello)

    async def __aenter__(self):
        opener, server = await self.session.__aenter__()
        method = f"{topic()}.stream"
        await server.serve(method)
        # Until the opener's core knows of it, an open is refused.
        while True:
            probe = await opener.open(method, end=True)
            if serving := await opened_or_refused(server, probe):
                await serving.end()
                await probe.until(lambda probe: probe.is_closed)
                return opener, server, method

    async def __aexit__(self, *error):
        await self.session.__aexit__(*error)


@everywhere
async def stream_of_answers(url):
    async with streaming(url) as (opener, server, method):
        stream = await opener.open(method, {"n": 3}, end=True, credit=1000, **{"x-tag": 7, "prio": 6})
        serving, message = await server.opened()
        equal((message.target, message.payload, message.meta), (method, {"n": 3}, {"x-tag": 7, "prio": 6, "end": True, "credit": 1000}))
        assert message.id != stream.id, "a forwarded open has an id of the gateway's own"
        for n in range(3):
            await serving.send({"n": n})
        await serving.send(None)  # a chunk like any other
        await serving.send("last", end=True)
        found = [await stream.chunk() for _ in range(5)]
        equal(found, [{"n": 0}, {"n": 1}, {"n": 2}, None, "last"])
        await stream.until(lambda stream: stream.is_closed)
        await server.ping()
        assert serving.is_closed and serving.error is None


@everywhere
async def stream_in_both_directions(url):
    async with streaming(url) as (opener, server, method):
        equal(opener.welcome.get("credit"), 0, "credit of a gateway, which holds no chunk")
        stream = await opener.open(method)
        serving, _ = await server.opened()
        for n in range(100):  # far more than one grant of the server's
            await stream.send("x" * 3000)
            equal(await serving.chunk(), "x" * 3000)
            await serving.grant(3003)
            await serving.send(n)
        await stream.end()
        equal(await serving.chunk(), None)
        # The other direction is still open.
        await serving.send("sum", end=True)
        equal(await stream.collect(), [*range(100), "sum"])
        assert stream.is_closed and serving.is_closed


@everywhere
async def stream_that_its_server_ends_first(url):
    async with streaming(url) as (opener, server, method):
        stream = await opener.open(method)
        serving, _ = await server.opened()
        await serving.end()
        equal(await stream.chunk(), None)
        await stream.send("more")
        equal(await serving.chunk(), "more")
        await stream.end()
        equal(await serving.chunk(), None)


@everywhere
async def stream_that_is_cancelled_by_its_opener(url):
    async with streaming(url) as (opener, server, method):
        stream = await opener.open(method, end=True)
        serving, _ = await server.opened()
        await serving.send(1)
        equal(await stream.chunk(), 1)
        await stream.cancel()
        await serving.until(lambda serving: serving.is_cancelled)
        await serving.end()
        await stream.until(lambda stream: stream.is_closed)
        equal((stream.error, stream.chunks), (None, []))
        equal(await asyncio.gather(*(peer.ping() for peer in (opener, server))), [None, None])


@everywhere
async def stream_that_is_cancelled_by_its_server(url):
    async with streaming(url) as (opener, server, method):
        stream = await opener.open(method)
        serving, _ = await server.opened()
        await serving.cancel()
        await stream.until(lambda stream: stream.is_cancelled)
        await stream.end()
        await serving.until(lambda serving: serving.is_closed)
        equal(serving.error, None)


@test
async def cancel_that_the_other_side_does_not_answer(url):
    async with streaming(url) as (opener, server, method):
        stream = await opener.open(method, end=True)
        serving, _ = await server.opened()
        await stream.cancel()
        since = time.monotonic()
        await serving.until(lambda serving: serving.error, 20)
        await stream.until(lambda stream: stream.error, 20)
        equal((serving.error["code"], stream.error["code"]), (CANCELLED, CANCELLED))
        assert time.monotonic() - since > 4, "the other side has 5 s"


@everywhere
async def error_in_the_middle_of_a_stream(url):
    async with streaming(url) as (opener, server, method):
        stream = await opener.open(method)
        serving, _ = await server.opened()
        await serving.send(1)
        await serving.fail(DATA_LOSS, "the rest is gone")
        equal(await stream.chunk(), 1)
        error = await fails(DATA_LOSS, stream.chunk())
        equal(error["message"], "the rest is gone")
        stream = await opener.open(method)
        serving, _ = await server.opened()
        await stream.fail(ABORTED, "enough")
        await fails(ABORTED, serving.chunk())


@everywhere
async def chunk_beyond_the_credit_fails_its_stream_alone(url):
    async with streaming(url) as (opener, server, method):
        neighbour = await opener.open(method)
        neighbour_serving, _ = await server.opened()
        # By the server:
        stream = await opener.open(method, credit=100)
        serving, message = await server.opened()
        equal(message.meta["credit"], 100)
        await serving.send("x" * 50)
        await serving.send("y" * 60, wait=False)
        await serving.until(lambda serving: serving.error)
        equal(serving.error["code"], PRECONDITION)
        equal(await stream.chunk(), "x" * 50)
        await fails(ABORTED, stream.chunk())
        # By the opener, before anything was granted:
        stream = await opener.open(method)
        await stream.send("x" * 100_000, wait=False)
        await fails(PRECONDITION, stream.chunk())
        # Behind its own end:
        stream = await opener.open(method)
        await stream.end()
        stream.heard_end = False
        await stream.send(1, wait=False)
        await fails(PRECONDITION, stream.chunk())
        await neighbour.send("still there")
        equal(await neighbour_serving.chunk(), "still there")


@everywhere
async def writer_waits_for_its_reader(url):
    async with streaming(url) as (opener, server, method):
        stream = await opener.open(method, end=True, credit=10_000)
        serving, _ = await server.opened()
        sent = 0

        async def write():
            nonlocal sent
            for n in range(100):
                await serving.send(n.to_bytes(1, "big") * 997)  # 1,000 bytes encoded
                sent += 1
            await serving.end()

        writing = asyncio.create_task(write())
        await stream.until(lambda stream: len(stream.chunks) == 10)
        for _ in range(5):  # whatever was to be sent without credit has been sent
            await server.ping()
            await opener.ping()
        equal((sent, len(stream.chunks)), (10, 10))
        while (chunk := await stream.chunk()) is not None:
            equal(len(chunk), 997)
            await stream.grant(1000)
        await writing
        equal(sent, 100)


@everywhere
async def streams_are_interleaved(url):
    async with streaming(url) as (opener, server, method):
        streams = [await opener.open(method, n, end=True) for n in range(50)]
        serving = {}
        for _ in streams:
            stream, message = await server.opened()
            serving[message.payload] = stream
        for k in range(20):
            for n, stream in serving.items():
                await stream.send(n * 1000 + k, end=k == 19)
        for n, stream in enumerate(streams):
            equal(await stream.collect(), [n * 1000 + k for k in range(20)])


@everywhere
async def stream_that_nobody_serves(url):
    async with session(url) as peer:
        stream = await peer.open(topic(), end=True)
        await fails(UNAVAILABLE, stream.chunk())


@test
async def stream_with_an_id_in_use(url):
    async with streaming(url) as (opener, server, method):
        stream = await opener.open(method)
        serving, _ = await server.opened()
        await opener.send(STREAM, None, method, ident=stream.id)
        await opener.ping()
        # The refusal has the same ref as the parts of the stream that is open, which it ends for its opener.
        equal(stream.error["code"], ALREADY)
        equal(serving.error, None)


@test
async def stream_with_a_time(url):
    async with streaming(url) as (opener, server, method):
        stream = await opener.open(method, timeout_ms=1000)
        serving, message = await server.opened()
        assert 0 < message.meta["timeout_ms"] <= 1000
        await fails(DEADLINE, stream.chunk())
        await serving.until(lambda serving: serving.error or serving.is_cancelled)


@everywhere
async def peers_of_streams_that_are_lost(url):
    async with streaming(url) as (opener, server, method):
        lost = await connect(url)
        other = f"{method}.lost"
        await lost.serve(other)
        stream = await opener.open(method)
        serving, _ = await server.opened()
        gone = await opener.open(other)
        while not await opened_or_refused(lost, gone):
            gone = await opener.open(other)
        await lost.close()
        await fails(UNAVAILABLE, gone.chunk())
        await opener.close()
        await serving.until(lambda serving: serving.is_cancelled or serving.error)


# --- logged events [P-5.8 – P-5.12] ---------------------------------------------------------------------------------


def places(events):
    return [event.position for event in events]


async def events_of(peer, count):
    return [await peer.event() for _ in range(count)]


@everywhere
async def stored_events_have_places(url):
    """One topic is one partition; offsets grow by one; a subscriber is told them, verbatim events behind the header."""
    async with session(url, count=2) as (a, b):
        t = topic()
        sub = await b.subscribe(f"{t}.x", {"qos": 1})
        stored = [await a.store(f"{t}.x", n) for n in range(20)]
        partition = stored[0][0]
        equal(stored, [(partition, stored[0][1] + n) for n in range(20)])
        events = await events_of(b, 20)
        equal([(e.payload, e.position, e.run, e.dup) for e in events], [(n, stored[n], sub, 0) for n in range(20)])
        equal(b.acceptances[sub]["at"], {partition: stored[0][1] - 1})
        await b.ack(sub, *places(events))
        await b.ping()


@test
async def many_stored_at_once(url):
    """A thousand publishes before the first acknowledgement is awaited: each is answered once, the order is that of sending."""
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.subscribe(f"{t}.>", {"qos": 1})
        idents = [new_id() for _ in range(1000)]
        replies = [a.expect(ident) for ident in idents]
        await a.send_body(b"".join(envelope(EVENT, ident, None, f"{t}.x", {"qos": 1}, n) for n, ident in enumerate(idents)))
        answers = [await asyncio.wait_for(reply, 10) for reply in replies]
        offsets = [answer.meta["at"][1] for answer in answers]
        equal(offsets, list(range(offsets[0], offsets[0] + 1000)))
        events = await events_of(b, 1000)
        equal([e.payload for e in events], list(range(1000)))
        equal([e.position[1] for e in events], offsets)


@test
async def plain_subscribers_hear_stored_events(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.subscribe(f"{t}.>")
        await a.store(f"{t}.x", {"n": 1}, {"key": "k"})
        event = await b.event()
        equal((event.payload, event.run, event.position, event.meta), ({"n": 1}, None, None, {"qos": 1, "key": "k"}))


@test
async def what_was_stored_can_be_read_from_anywhere(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        before_ms = time.time_ns() // 1_000_000 - 1
        stored = [await a.store(f"{t}.x", n) for n in range(5)]
        await asyncio.sleep(0.05)  # on both sides of this time the clock has moved on
        between_ms = time.time_ns() // 1_000_000
        await asyncio.sleep(0.05)
        stored += [await a.store(f"{t}.x", n) for n in range(5, 10)]
        partition = stored[0][0]

        async def read(begin, expected):
            sub = await b.subscribe(f"{t}.x", {"qos": 1, "from": begin})
            events = await events_of(b, len(expected))
            equal([(e.payload, e.position) for e in events], [(n, stored[n]) for n in expected], f"from {begin}")
            await b.cancel(sub)
            return b.acceptances[sub]["epoch"]

        epoch = await read("all", range(10))
        await read({"time_ms": before_ms}, range(10))
        await read({"time_ms": between_ms}, range(5, 10))
        await read({"epoch": epoch, "at": [[partition, stored[6][1]]]}, range(7, 10))
        sub = await b.subscribe(f"{t}.x", {"qos": 1, "from": "new"})
        stored.append(await a.store(f"{t}.x", 10))
        equal([(e.payload, e.run) for e in await events_of(b, 1)], [(10, sub)])
        other = {"epoch": epoch ^ 1 << 40, "at": [[partition, 1]]}
        await fails(OUT_OF_RANGE, b.subscribe(f"{t}.x", {"qos": 1, "from": other}))


@test
async def a_durable_name_goes_on_behind_what_was_acknowledged(url):
    t, name = topic(), {"qos": 1, "durable": "billing"}
    async with session(url) as a:
        async with session(url) as b:
            sub = await b.subscribe(f"{t}.x", name)
            stored = [await a.store(f"{t}.x", n) for n in range(6)]
            await events_of(b, 6)
            await b.ack(sub, stored[2])
            await b.ping()
        async with session(url) as b:
            sub = await b.subscribe(f"{t}.x", name)
            equal([e.payload for e in await events_of(b, 3)], [3, 4, 5])
            await b.ack(sub, stored[5])
            await b.ping()
            # The newest holder of a name wins.
            async with session(url) as c:
                await c.subscribe(f"{t}.x", name)
                end = await b.next(lambda m: m.type == SUBSCRIBE and m.ref == sub and m.meta.get("end"))
                equal(end.error["code"], ABORTED)
                await a.store(f"{t}.x", 6)
                equal((await c.event()).payload, 6)


@test
async def what_is_stored_exactly_once_is_stored_once(url):
    """The same id again, on another connection: the same place, and no second delivery."""
    async with session(url, count=3) as (a, b, c):
        t, ident = topic(), new_id()
        await fails(INVALID_ARGUMENT, c.subscribe(f"{t}.x", {"qos": 2}))
        await c.subscribe(f"{t}.x", {"qos": 2, "durable": "once"})
        first = await a.store(f"{t}.x", 1, qos=2, ident=ident)
        equal(await a.store(f"{t}.x", 1, qos=2, ident=ident), first)
        equal(await b.store(f"{t}.x", 1, qos=2, ident=ident), first)
        other = await b.store(f"{t}.x", 2, qos=2)
        equal([(e.payload, e.position) for e in await events_of(c, 2)], [(1, first), (2, other)])


@test
async def a_group_is_a_work_queue(url):
    """Each event goes to one member; what a lost member has not acknowledged goes to another, and says so."""
    async with session(url, count=2) as (a, b):
        t, wish = topic(), {"qos": 1, "group": "workers", "in_flight": 4}
        sub = await b.subscribe(f"{t}.x", wish)
        c = await connect(url)
        await c.subscribe(f"{t}.x", wish)
        stored = {n: await a.store(f"{t}.x", n) for n in range(8)}
        mine, theirs = await events_of(b, 4), await events_of(c, 4)
        equal(sorted(e.payload for e in mine + theirs), list(range(8)))
        await b.ping()
        assert not [m for m in b.inbox if m.type == EVENT], "more than in_flight"
        await b.ack(sub, *[e.position for e in mine])
        await c.close()
        again = await events_of(b, 4)
        equal(sorted((e.payload, e.position) for e in again), sorted((e.payload, stored[e.payload]) for e in theirs))
        assert all(e.dup == 1 for e in again), [e.dup for e in again]
        await b.ack(sub, *[e.position for e in again])
        await a.store(f"{t}.x", 8)
        equal([(e.payload, e.dup) for e in await events_of(b, 1)], [(8, 0)])


@test
async def the_last_of_each_key_is_a_table(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        for key, value in (("gold", 1), ("tin", 2), ("gold", 3), ("zinc", 4)):
            await a.store(f"{t}.x", value, {"key": key, "retain": True})
        await a.store(f"{t}.x", None, {"key": "tin", "retain": True})
        await a.store(f"{t}.x", "passing")
        sub = await b.subscribe(f"{t}.x", {"qos": 1, "retain": True})
        rows = await events_of(b, 2)
        equal([(e.payload, e.meta["key"], e.run) for e in rows], [(3, "gold", sub), (4, "zinc", sub)])
        last = await a.store(f"{t}.x", 5, {"key": "gold", "retain": True})
        equal([(e.payload, e.position) for e in await events_of(b, 1)], [(5, last)])


@test
async def what_is_worthless_is_not_delivered(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        await a.store(f"{t}.x", "short", {"ttl_ms": 1})
        await a.store(f"{t}.x", "long", {"ttl_ms": 60_000})
        await asyncio.sleep(0.05)
        await b.subscribe(f"{t}.x", {"qos": 1, "from": "all"})
        equal((await b.event()).payload, "long")


@test
async def what_is_not_acknowledged_is_bounded(url):
    """The gateway stops where too much is under way, and goes on when it is acknowledged; nothing is lost."""
    async with session(url, count=2) as (a, b):
        t, text = topic(), "x" * 16_000
        sub = await b.subscribe(f"{t}.x", {"qos": 1})
        for n in range(64):
            await a.store(f"{t}.x", [n, text])
        await b.ping()
        got = [m for m in b.inbox if m.type == EVENT]
        assert len(got) < 64, "a megabyte was sent to who acknowledged nothing"
        seen = []
        for _ in range(64):
            event = await b.event()
            seen.append(event.payload[0])
            await b.ack(sub, event.position)
        equal(seen, list(range(64)))


# --- what is refused [P-3.8, "What this release implements"] --------------------------------------------------------


@test
async def refused_publishes_are_counted(url):
    async with session(url) as peer:
        sent, told = 0, 0
        until = time.monotonic() + 3.5
        answers = []
        while time.monotonic() < until:
            for _ in range(25):
                await peer.publish("not.a.*.topic")
                sent += 1
            await asyncio.sleep(0.1)
        while told < sent:  # the rest comes by itself, within a second
            answer = await peer.next(lambda m: m.type == EVENT, 5)
            answers.append(answer)
            equal(answer.error["code"], INVALID_ARGUMENT)
            told += answer.error["details"]["refused"]
        equal(told, sent, "refused publishes told")
        assert 3 <= len(answers) <= 7, f"{len(answers)} errors in about five seconds"


@test
async def websocket_rules(_):
    url = URLS.get("ws")
    if not url:
        return
    socket = await websockets.connect(url, subprotocols=["fluxar.v0"], compression=None)
    await socket.send("text")
    await asyncio.wait_for(socket.wait_closed(), 10)
    equal(socket.close_code, 1003, "close code after a text message")
    peer = await connect(url)
    await peer.send_body(b"\xff")
    equal((await peer.closed())["code"], INVALID_ARGUMENT)
    equal(peer.transport.close_code, 1008, "close code after a fault without end")
    try:
        await websockets.connect(url, subprotocols=["mqtt"], compression=None)
    except websockets.InvalidStatus as error:
        assert 400 <= error.response.status_code < 500, error
    else:
        raise AssertionError("accepted with another subprotocol")
    socket = await websockets.connect(url, compression=None)
    equal(socket.subprotocol, None, "subprotocol that nobody offered")
    await socket.close()
    # Fragments make one message; a ping between them is answered.
    peer = Peer(await open_transport(url))
    hello = envelope(HELLO, new_id(), payload={"v": [0]})
    await peer.transport.socket.send([hello[:5], hello[5:20], hello[20:]])
    await peer.next(lambda m: m.type == HELLO)
    await asyncio.wait_for(await peer.transport.socket.ping(b"x"), 10)
    await peer.close()


@test
async def not_websocket(_):
    url = URLS.get("ws")
    if not url:
        return
    parts = urllib.parse.urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    assert answer.startswith(b"HTTP/1.1 4"), answer[:100]
    writer.close()


@test
async def http_on_the_fluxar_port(_):
    url = URLS.get("tcp")
    if not url:
        return
    transport = await open_transport(url)
    await transport.send_bytes(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    peer = Peer(transport)
    equal((await peer.closed())["code"], EXHAUSTED)


# --- a reader that is too slow [P-5.5] ------------------------------------------------------------------------------


@everywhere
async def drops_are_told(url):
    async with session(url, count=2) as (a, b):
        t = topic()
        ident = await b.subscribe(t)
        b.is_reading.clear()  # after the next frame this peer takes nothing more from its socket
        total, chunk = 6000, 50
        padding = bytes(16 * 1024)
        for start in range(0, total, chunk):
            body = b"".join(envelope(EVENT, new_id(), target=t, payload=[n, padding]) for n in range(start, start + chunk))
            await a.send_body(body)
            await a.ping()  # a neighbour is not held up by the reader that sleeps
        b.is_reading.set()
        dropped, got = 0, []
        until = time.monotonic() + 30
        while len(got) + dropped < total and time.monotonic() < until:
            await b.ping()
            for message in b.inbox:
                if message.type == EVENT:
                    got.append(message.payload[0])
                elif message.type == SUBSCRIBE and message.ref == ident:
                    assert message.meta["dropped"] >= dropped, "the count went back"
                    dropped = message.meta["dropped"]
            b.inbox.clear()
            await asyncio.sleep(0.05)
        equal(len(got) + dropped, total, f"{len(got)} received and {dropped} told as dropped")
        assert dropped > 0, "nothing was dropped: the test does not fill the outbox"
        equal(got, sorted(got), "order")
        await a.publish(t, ["after", b""])
        equal((await b.event()).payload[0], "after")


# --- the conformance vectors, at a live gateway ---------------------------------------------------------------------


def vectors(kind):
    for path in sorted(VECTORS.glob("*.json")):
        for vector in json.loads(path.read_text()):
            if vector["kind"] == kind:
                yield f"{path.stem}: {vector['name']}", vector


def readable(body, count):
    """The first `count` envelopes of a body, and where they end."""
    at, found = 0, []
    for _ in range(count):
        message, at = read_envelope(body, at)
        found.append(message)
    return found, at


# No two alike: trials go on beside one another.
NAMES = map("".join, itertools.product(string.ascii_lowercase, repeat=3))


async def try_vector(url, name, vector):
    """Sends a body of the vectors to the gateway; complains if it is not answered, closed or ignored as the vector says."""
    # The good events of the malformed bodies publish to t.x: here, to a topic of this trial's own.
    own = next(NAMES)
    body = bytes.fromhex(vector["hex"]).replace(b"\x63t.x", b"\x63" + own.encode())
    error = vector.get("error")
    async with session(url) as peer:
        await peer.subscribe(own)
        good, at = readable(body, vector.get("before", 0) if error else len(vector["envelopes"]))
        if error and not error["closes"]:
            end = item_end(body, at)
            rest, behind = readable(body[end:], vector.get("after", 0))
            equal(end + behind, len(body), f"{name}: end of the body")
            good += rest
            faulty = body[at:end]
        await peer.send_body(body)
        if error and error["closes"]:
            equal((await peer.closed())["code"], error["code"], name)
            pings = [m.id for m in good if m.type == PING]
            equal(ids_of(PING, peer.inbox), pings, f"{name}: pings answered before the end")
            return
        closing = [m for m in good if m.type == HELLO or m.type == CANCEL and m.ref is None]
        if closing:
            await peer.closed()
            return
        await peer.ping()
        await peer.ping()
        pings = [m.id for m in good if m.type == PING and m.ref is None]
        equal(ids_of(PING, peer.inbox), pings, f"{name}: pings answered")
        if error:
            events = [m for m in good if m.type == EVENT]
            while len([m for m in peer.inbox if m.type == EVENT and m.ref is None]) < len(events):
                peer.inbox.append(await peer.event())
            equal(len([m for m in peer.inbox if m.type == EVENT and m.ref is None]), len(events), f"{name}: events around the fault")
            answers = [m for m in peer.inbox if m.error]
            if error["answered"]:
                equal([m.error["code"] for m in answers], [error["code"]], name)
                equal(answers[0].ref, identity(faulty), f"{name}: ref of the answer")
            else:
                equal(answers, [], f"{name}: answers")


def identity(faulty):
    """The id of an envelope at fault whose id is readable."""
    at = 1
    if faulty[0] == 0xA7:
        at = item_end(faulty, at)
    at = item_end(faulty, at)
    if faulty[0] == 0xA7:
        at = item_end(faulty, at)
    return bytes(faulty[at + 1 : at + 17])


async def all_of(trials):
    """Runs them, a few at a time, and reports every one that failed."""
    gate = asyncio.Semaphore(8)
    complaints = []

    async def one(name, trial):
        async with gate:
            try:
                await asyncio.wait_for(trial, TEST_S)
            except Exception as error:
                complaints.append(f"    {name}: {type(error).__name__}: {error}")

    await asyncio.gather(*(one(name, trial) for name, trial in trials))
    assert not complaints, f"{len(complaints)} of {len(trials)} vectors:\n" + "\n".join(sorted(complaints))


@everywhere
async def vectors_that_are_wrong(url):
    await all_of([(name, try_vector(url, name, v)) for name, v in vectors("frame-body") if "error" in v])


@everywhere
async def vectors_that_are_right(url):
    await all_of([(name, try_vector(url, name, v)) for name, v in vectors("frame-body") if "envelopes" in v])


@test
async def vectors_of_the_hello(url):
    async def trial(name, vector):
        peer = Peer(await open_transport(url))
        ident = new_id()
        reply = peer.expect(ident)
        await peer.send(HELLO, ident=ident, raw_payload=bytes.fromhex(vector["hex"]))
        answer = await asyncio.wait_for(reply, 10)
        if "error" in vector:
            equal((answer.error or {}).get("code"), vector["error"]["code"], name)
            await peer.closed()
        elif not vector["hello"]["v0"]:
            equal((answer.error or {}).get("code"), UNIMPLEMENTED, name)
            await peer.closed()
        else:
            equal((answer.error, answer.payload["v"]), (None, 0), name)
            equal(answer.payload.get("resumed", False), False, f"{name}: resumed")
            await peer.close()

    await all_of([(name, trial(name, v)) for name, v in vectors("hello-payload")])


@test
async def random_bytes(url):
    """Whatever is sent, the gateway closes or answers, and its neighbours do not notice."""
    rng = random.Random(20)
    good = [bytes.fromhex(v["hex"]) for _, v in vectors("frame-body") if "envelopes" in v and v["hex"]]

    async def trial(body):
        peer = await connect(url)
        try:
            await peer.send_body(body)
            await peer.send(CANCEL)
            await asyncio.wait_for(asyncio.shield(peer.task), 10)
            assert not peer.broken, peer.broken
        except (Closed, ConnectionError, websockets.ConnectionClosed):
            pass
        finally:
            await peer.close()

    bodies = []
    for _ in range(150):
        body = bytearray(rng.choice(good))
        for _ in range(rng.randint(1, 4)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        bodies.append(bytes(body))
    bodies += [rng.randbytes(rng.randint(1, 2000)) for _ in range(50)]
    bodies += [b"\x87" + rng.randbytes(rng.randint(1, 200)) for _ in range(50)]
    async with session(url, count=2) as (a, b):
        t = topic()
        await b.subscribe(f"{t}.neighbour")
        await all_of([(body.hex()[:80], trial(body)) for body in bodies])
        for n in range(10):
            await a.publish(f"{t}.neighbour", n)
        equal([(await b.event()).payload for _ in range(10)], list(range(10)))


# --- the run --------------------------------------------------------------------------------------------------------


async def run(arguments):
    passed, failed, skipped = 0, [], 0
    for name, function in TESTS:
        places = URLS.items() if getattr(function, "is_everywhere", False) else [(None, None)]
        for transport, url in places:
            title = f"{name} [{transport}]" if transport else name
            if arguments.only and arguments.only not in title:
                skipped += 1
                continue
            since = time.monotonic()
            try:
                await asyncio.wait_for(function(url) if transport else function(), TEST_S * 2)
                passed += 1
                if arguments.verbose:
                    print(f"ok      {title} ({(time.monotonic() - since) * 1000:.0f} ms)", flush=True)
            except Exception as error:
                failed.append(title)
                where = next((f"{f.name}:{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__))
                              if f.filename in (__file__, resume.__file__) and f.name != "run"), "")
                print(f"FAILED  {title} at {where}: {type(error).__name__}: {error}", flush=True)
    print(f"{passed} passed, {len(failed)} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for transport in ("tcp", "unix", "ws"):
        parser.add_argument(f"--{transport}", default=os.environ.get(f"FLUXAR_{transport.upper()}"), metavar="URL")
    parser.add_argument("--only", metavar="WORD")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    for transport in ("tcp", "unix", "ws"):
        if url := getattr(arguments, transport):
            URLS[transport] = url
    if not URLS:
        parser.error("no gateway to test: give --tcp, --unix or --ws")
    sys.exit(asyncio.run(run(arguments)))


if __name__ == "__main__":
    main()
