"""Sessions that outlive their connections [P-7.6, P-7.7]: what is kept, what is counted, and who may take a session up."""

import asyncio

import websockets

from fluxar_client import CALL, CANCEL, EVENT, HELLO, PING, SUBSCRIBE, Closed, Peer, connect, envelope, new_id, open_transport
from judge import PRECONDITION, UNAVAILABLE, URLS, equal, everywhere, session, test, topic

RESUME = {"caps": {"resume": True}}


async def answered(waiting):
    """The payloads of the answers, in the order of the questions."""
    messages = await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert not any(message.error for message in messages), messages
    return [message.payload for message in messages]


async def calls_under_way(asker, server, method, count):
    """So many calls that the server has and has not answered: the futures of their answers, and the requests."""
    waiting = []
    for n in range(count):
        ident = new_id()
        waiting.append(asker.expect(ident))
        await asker.send(CALL, None, method, payload=n, ident=ident)
    return waiting, [await server.request() for _ in range(count)]


async def answers_are_kept(url, form="compact"):
    async with session(url, form=form, **RESUME) as asker, session(url) as server:
        method = topic()
        await server.serve(method)
        waiting, requests = await calls_under_way(asker, server, method, 100)
        for request in requests[:30]:
            await server.answer(request, request.payload)
        equal(await answered(waiting[:30]), list(range(30)))
        before = asker.welcome
        await asker.cut()
        for request in requests[30:60]:
            await server.answer(request, request.payload)
        late = asker.expect(ident := new_id())
        await asker.send(CALL, None, method, payload="late", ident=ident)  # it is sent when there is a connection
        equal(await asker.resume(url), True, "resumed")
        assert asker.welcome["token"] != before["token"], "the token was not replaced"
        # The acceptance is no business of the asker's; of what counts it has sent a hundred calls, and the late one.
        equal(asker.welcome["recv"], 100, "recv")
        request = await server.request()
        await server.answer(request, request.payload)
        for request in requests[60:]:
            await server.answer(request, request.payload)
        equal(await answered(waiting + [late]), [*range(100), "late"])
        await asker.ping()
        await server.ping()
        equal((asker.inbox, server.inbox), ([], []), "what nobody asked for, or what came twice")


@everywhere
async def calls_outlive_a_connection(url):
    await answers_are_kept(url)


@test
async def calls_outlive_a_connection_of_the_named_form(url):
    await answers_are_kept(url, "named")


@everywhere
async def a_session_goes_on_over_another_transport(url):
    async with session(url, **RESUME) as asker, session(url) as server:
        method = topic()
        await server.serve(method)
        for other in (*URLS.values(), url):
            waiting, requests = await calls_under_way(asker, server, method, 3)
            await asker.cut()
            equal(await asker.resume(other), True, "resumed")
            for request in requests:
                await server.answer(request, request.payload)
            equal(await answered(waiting), [0, 1, 2])


@everywhere
async def what_was_received_and_not_counted_comes_again(url):
    async with session(url, **RESUME) as asker, session(url) as server:
        method = topic()
        await server.serve(method)
        waiting, requests = await calls_under_way(asker, server, method, 20)
        for request in requests:
            await server.answer(request, request.payload)
        equal(await answered(waiting), list(range(20)))
        equal(asker.resumable.received, 20)
        await asker.cut()
        equal(await asker.resume(url, recv=12), True, "resumed")  # as if it had lost the others
        again = [(await asker.next(lambda m: m.type == CALL)).payload for _ in range(8)]
        equal(again, list(range(12, 20)))
        await asker.ping()
        equal((asker.inbox, asker.resumable.received), ([], 20))


@test
async def what_was_counted_is_forgotten(url):
    async with session(url, **RESUME) as asker, session(url) as server:
        method = topic()
        await server.serve(method)
        for recv in (12, 21):  # less than what was told; more than what was sent
            waiting, requests = await calls_under_way(asker, server, method, 20)
            for request in requests:
                await server.answer(request, request.payload)
            await answered(waiting)
            await asker.ping()  # tells that twenty came
            waiting, requests = await calls_under_way(asker, server, method, 1)
            await asker.cut()
            equal(await asker.resume(url, recv=recv), False, f"resumed with recv {recv}")
            try:
                await waiting[0]
            except Closed:
                pass
            else:
                raise AssertionError("a call of a session that is over was answered")
            await server.next(lambda m: m.type == CANCEL and m.ref == requests[0].id)


@everywhere
async def tokens_are_replaced(url):
    async with session(url, **RESUME) as asker, session(url) as server:
        method = topic()
        await server.serve(method)
        waiting, requests = await calls_under_way(asker, server, method, 1)
        first = asker.resumable.token
        await asker.cut()
        equal(await asker.resume(url), True)
        second = asker.resumable.token
        await asker.cut()  # and nothing was sent on it: the answer may have been lost
        equal(await asker.resume(url, token=first), True, "resumed with the token of before, whose answer may have been lost")
        equal(asker.resumable.token, second, "the token that was told in the answer that may have been lost")
        await asker.ping()  # it was not
        mine = asker.resumable
        stranger = await connect(url, **RESUME)
        for token in (first, bytes(16), b"", second + b"x"):
            stranger.resumable.ident, stranger.resumable.received = mine.ident, mine.received
            equal(await stranger.resume(url, token=token), False, f"resumed with {token!r}")
        assert not asker.is_closed, "a session whose token was not presented was touched"
        await asker.ping()
        await server.answer(requests[0], "answer")
        equal(await answered(waiting), ["answer"])
        await stranger.close()


@everywhere
async def a_half_open_connection_is_taken_over(url):
    async with session(url, **RESUME) as asker, session(url, count=2) as (server, listener):
        method = topic()
        await server.serve(method)
        await listener.subscribe(f"{method}.heard")
        waiting, requests = await calls_under_way(asker, server, method, 10)
        old = asker.transport
        for request in requests[:5]:
            await server.answer(request, request.payload)
        await server.ping()
        # The gateway believes in the old connection. What came on it may have been received or not: all the same.
        equal(await asker.resume(url), True, "resumed")
        try:
            await old.send(envelope(EVENT, new_id(), target=f"{method}.heard", payload="from the old one"))
        except (ConnectionError, websockets.ConnectionClosed):
            pass
        for request in requests[5:]:
            await server.answer(request, request.payload)
        equal(await answered(waiting), list(range(10)))
        await asker.publish(f"{method}.heard", "from the new one")
        equal((await listener.event()).payload, "from the new one")
        while await asyncio.wait_for(old.receive(), 10) is not None:  # its end
            pass
        await asker.ping()
        equal(asker.inbox, [])


@everywhere
async def a_goodbye_ends_a_session(url):
    peer = await connect(url, **RESUME)
    await peer.send(CANCEL)
    await peer.closed()
    equal(await peer.resume(url), False, "resumed behind a goodbye")
    await peer.ping()
    await peer.close()


@test
async def nothing_may_follow_a_hello_that_resumes(url):
    peer = await connect(url, **RESUME)
    mine = peer.resumable
    await peer.cut()
    other = Peer(await open_transport(url))
    wish = {"session": mine.ident, "token": mine.token, "recv": 0}
    hello = envelope(HELLO, new_id(), payload={"v": [0], **RESUME, "resume": wish})
    await other.send_body(hello + envelope(PING, new_id()))
    equal((await other.closed())["code"], PRECONDITION)
    await peer.transport.close()


@everywhere
async def streams_outlive_a_connection(url):
    async with session(url, **RESUME) as opener, session(url, **RESUME) as server:
        method = topic()
        await server.serve(method)
        stream = await opener.open(method)
        answers, _ = await server.opened()
        for n in range(60):
            await stream.send(n)
            await answers.send(100 + n)
            if n % 20 == 10:
                await opener.cut()  # the opener's: a stream that is given to a server ends with its connection
                await answers.send("meanwhile")
                equal(await opener.resume(url), True, "resumed")
        await stream.end()
        await answers.end()
        equal(await answers.collect(), list(range(60)))
        expected = [100 + n for n in range(60)]
        for n in (50, 30, 10):
            expected.insert(n + 1, "meanwhile")
        equal(await stream.collect(), expected)


@test
async def what_a_server_had_is_cancelled_and_its_offers_stand(url):
    async with session(url) as asker, session(url, **RESUME) as server:
        method = topic()
        await server.serve(method)
        waiting, requests = await calls_under_way(asker, server, method, 1)
        await server.cut()
        failed = await asyncio.wait_for(waiting[0], 10)
        equal(failed.error["code"], UNAVAILABLE)
        equal(await server.resume(url), True, "resumed")
        cancel = await server.next(lambda m: m.type == CANCEL)
        equal(cancel.ref, requests[0].id)
        await server.answer(requests[0], "too late")
        asking = asyncio.create_task(asker.call(method, "again", meta={"timeout_ms": 10000}))
        request = await server.request()
        await server.answer(request, request.payload)
        equal(await asking, "again")
        equal(asker.inbox, [])


@test
async def events_that_pass_while_a_session_is_away_are_told(url):
    async with session(url, **RESUME) as subscriber, session(url) as other:
        t = topic()
        ident = await subscriber.subscribe(t)
        await subscriber.serve(f"{t}.method")
        waiting, _ = await calls_under_way(other, subscriber, f"{t}.method", 1)
        await subscriber.cut()
        failed = await asyncio.wait_for(waiting[0], 10)  # the gateway knows that it is away
        equal(failed.error["code"], UNAVAILABLE)
        for n in range(40):
            await other.publish(t, n)
        await other.ping()
        equal(await subscriber.resume(url), True, "resumed")
        note = await subscriber.next(lambda m: m.type == SUBSCRIBE and m.ref == ident)
        equal(note.meta["dropped"], 40)
        await other.publish(t, "after")
        equal((await subscriber.event()).payload, "after")


@everywhere
async def stored_events_are_stored_once_over_many_connections(url):
    async with session(url, **RESUME) as publisher, session(url) as reader:
        t = topic()
        idents = [new_id() for _ in range(200)]
        waiting = {ident: publisher.expect(ident) for ident in idents}

        async def send(ident):
            await publisher.send(EVENT, None, t, {"qos": 2}, idents.index(ident), ident=ident)

        for n, ident in enumerate(idents):
            await send(ident)
            if n % 40 == 20:
                await publisher.cut()
                equal(await publisher.resume(url), True, "resumed")
                await publisher.ping()  # acknowledgements that were lost come before its answer
                for earlier in idents[: n + 1]:
                    if not waiting[earlier].done():
                        await send(earlier)
        messages = await asyncio.wait_for(asyncio.gather(*waiting.values()), 10)
        assert not any(message.error for message in messages), messages
        places = [message.meta["at"][1] for message in messages]
        equal(len(set(places)), 200, "places")
        await reader.subscribe(t, {"qos": 1, "from": "all"})
        events = [await reader.event() for _ in range(200)]
        equal([(event.position[1], event.payload) for event in events], sorted(zip(places, range(200))))
        await reader.ping()
        equal(reader.inbox, [])


@everywhere
async def a_logged_subscription_goes_on_behind_what_was_acknowledged(url):
    async with session(url, **RESUME) as subscriber, session(url) as publisher:
        t = topic()
        places = [await publisher.store(t, n) for n in range(30)]
        ident = await subscriber.subscribe(t, {"qos": 1, "from": "all"})
        equal([(await subscriber.event()).payload for _ in range(30)], list(range(30)))
        await subscriber.ack(ident, places[9])
        await subscriber.ping()
        await subscriber.cut()
        places += [await publisher.store(t, n) for n in range(30, 40)]
        equal(await subscriber.resume(url), True, "resumed")
        events = [await subscriber.event() for _ in range(30)]
        equal([event.payload for event in events], list(range(10, 40)))
        equal([event.position for event in events], places[10:])
        assert all(event.dup for event in events[:20]), "what came again says so"
        await subscriber.ack(ident, places[-1])
        await subscriber.ping()
        equal(subscriber.inbox, [])


@everywhere
async def counts_are_told_when_they_are_due(url):
    async with session(url, **RESUME) as asker, session(url) as server:
        method = topic()
        await server.serve(method)
        asking = [asyncio.create_task(asker.call(method, bytes(8000))) for _ in range(10)]
        for _ in range(10):
            await server.answer(await server.request(), bytes(8000))
        await asyncio.gather(*asking)
        await asker.next(lambda m: m.type == PING)  # the client has answered it; without a count it would have complained
        assert len(asker.resumable.kept) < 10, "the gateway told nothing new"
        await asker.ping()
        equal(asker.resumable.kept, [], "what a ping's answer covers")
        # And it is as strict: a count of what was never sent is a breach.
        await asker.transport.send(envelope(PING, new_id(), meta={"recv": 1000}))
        equal((await asker.closed())["code"], PRECONDITION)
