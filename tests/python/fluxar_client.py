"""A FLUXAR client in Python, written from docs/protocol.md alone: the second opinion on what the gateway sends.

It shares no code with the Rust crates. cbor2 decodes applications' data; where a field begins and ends is found by the few
lines of `item_end` here, so that bytes can be compared as they came. It is strict about what it receives: whatever breaks
the specification raises `Broken`, and a test that causes it fails.

    peer = await connect("tcp://127.0.0.1:9000")
    await peer.subscribe("orders.*")
    await peer.publish("orders.created", {"id": 1})
    event = await peer.event()
    print(await peer.call("users.get", 42))

A session outlives its connection if both hellos named `caps.resume` [P-7.6]:

    peer = await connect("tcp://127.0.0.1:9000", caps={"resume": True})
    await peer.cut()
    assert await peer.resume("tcp://127.0.0.1:9000")
"""

import asyncio
import itertools
import os
import urllib.parse
from dataclasses import dataclass

import cbor2
import websockets

HELLO, CALL, STREAM, SUBSCRIBE, EVENT, CANCEL, PING = range(1, 8)
NAMES = ("type", "id", "ref", "target", "meta", "payload", "error")
NULL = b"\xf6"
REPLY_S = 30.0


def read_positions(item):
    """(partition, offsets) of `[partition, first, delta, …]` [P-5.8]."""
    if not isinstance(item, list) or len(item) < 2 or not all(type(n) is int and n >= 0 for n in item) or item[0] > 0xFFFF:
        raise Broken(f"{item!r} where positions belong")
    if any(delta < 1 for delta in item[2:]):
        raise Broken(f"positions that do not ascend: {item!r}")
    return item[0], list(itertools.accumulate(item[1:]))


class Broken(Exception):
    """The gateway sent what the specification does not allow."""


class Closed(Exception):
    """The connection ended. `reason` is the error of the closing cancel, or None; `code` WebSocket's close code."""

    def __init__(self, reason, code=None):
        super().__init__(f"closed: {reason} (close code {code})")
        self.reason, self.code = reason, code


def is_counted(kind, ref, meta):
    """Whether an envelope counts in a session that can be resumed: nothing but the envelope itself decides [P-7.7]."""
    if kind in (HELLO, PING):
        return False
    if kind in (EVENT, CANCEL):
        return ref is not None
    return not (kind == SUBSCRIBE and ref is not None and "run" in (meta or {}))


class Failed(Exception):
    """The answer was an error."""

    def __init__(self, error):
        super().__init__(f"{error['code']}: {error['message']}")
        self.error, self.code = error, error["code"]


# --- bytes ----------------------------------------------------------------------------------------------------------


def read_head(data, at):
    """(major, argument or None for indefinite, offset behind the head, whether it is the shortest)"""
    first = data[at]
    major, info = first >> 5, first & 31
    if info < 24:
        return major, info, at + 1, True
    if info == 31:
        return major, None, at + 1, False
    size = 1 << (info - 24)
    if info > 27 or at + 1 + size > len(data):
        raise Broken(f"a head at byte {at} that cannot be read")
    argument = int.from_bytes(data[at + 1 : at + 1 + size], "big")
    return major, argument, at + 1 + size, argument >= (24 if size == 1 else 1 << 4 * size)


def item_end(data, at):
    """Where the well-formed item at `at` ends. Walks without recursion; does not look into texts."""
    open_items = []  # how many items are still to come, None in an indefinite one
    while True:
        if at >= len(data):
            raise Broken("an item that does not end")
        if data[at] == 0xFF and open_items and open_items[-1] is None:
            at += 1
            open_items.pop()
        else:
            major, argument, at, _ = read_head(data, at)
            if major in (2, 3) and argument is not None:
                at += argument
                if at > len(data):
                    raise Broken("a string that does not end")
            elif major in (2, 3, 4, 5) and argument is None:
                open_items.append(None)
                continue
            elif major in (4, 5, 6):
                inside = {4: argument, 5: 2 * argument, 6: 1}[major]
                if inside:
                    open_items.append(inside)
                    continue
            elif argument is None:
                raise Broken("a break that ends nothing")
        while open_items and open_items[-1] is not None:
            open_items[-1] -= 1
            if open_items[-1]:
                break
            open_items.pop()
        if not open_items:
            return at


def shortest(data, at, major):
    found, argument, behind, is_shortest = read_head(data, at)
    if found != major or not is_shortest:
        raise Broken(f"the head {data[at:at + 9].hex()}, where one of major type {major} in its shortest form belongs")
    return argument, behind


@dataclass
class Message:
    """An envelope that was received. `raw` holds each field's bytes, `body` the whole envelope's."""

    form: str
    type: int
    id: bytes
    ref: bytes | None
    target: str | None
    meta: dict
    payload: object
    error: dict | None
    raw: dict
    run: bytes | None = None  # the subscription whose run this event came in
    position: tuple | None = None  # (partition, offset) of a logged event in a run
    dup: int = 0  # how often it may have been given to somebody before


def decode_payload(raw):
    try:
        return cbor2.loads(raw)
    except Exception as error:  # cannot be made sense of in Python: unhashable map keys, for instance
        return error


def read_envelope(data, at):
    """The envelope at `at`, checked as P-3 says a receiver may rely on, and where it ends."""
    form = {0x87: "compact", 0xA7: "named"}.get(data[at])
    if form is None:
        raise Broken(f"{data[at]:#04x} where an envelope should begin")
    raw, cursor = {}, at + 1
    for name in NAMES:
        if form == "named":
            length, behind = shortest(data, cursor, 3)
            if data[behind : behind + length] != name.encode():
                raise Broken(f"the key {data[behind:behind + length]!r} where {name} belongs")
            cursor = behind + length
        end = item_end(data, cursor)
        raw[name] = bytes(data[cursor:end])
        cursor = end
    for name, major in (("type", 0), ("id", 2), ("ref", 2), ("target", 3), ("meta", 5), ("error", 5)):
        if raw[name] != NULL:
            shortest(raw[name], 0, major)
        elif name in ("type", "id"):
            raise Broken(f"{name} is null")
    kind, ident = cbor2.loads(raw["type"]), cbor2.loads(raw["id"])
    ref, target, meta, error = (cbor2.loads(raw[name]) for name in ("ref", "target", "meta", "error"))
    if not 1 <= kind <= 7 or len(ident) != 16 or (ref is not None and len(ref) != 16):
        raise Broken(f"type {kind}, id {ident!r}, ref {ref!r}")
    if target is not None and not 1 <= len(target.encode()) <= 255:
        raise Broken("a target of the wrong length")
    if meta is not None and (len(meta) > 32 or len(raw["meta"]) > 2048 or not all(isinstance(key, str) for key in meta)):
        raise Broken("a meta over its limits")
    if error is not None and not (isinstance(error.get("code"), int) and isinstance(error.get("message"), str)):
        raise Broken(f"an error without code or message: {error!r}")
    return Message(form, kind, ident, ref, target, meta or {}, decode_payload(raw["payload"]), error, raw), cursor


def envelope(kind, ident, ref=None, target=None, meta=None, payload=None, error=None, *, form="compact", raw_payload=None):
    """The bytes of an envelope; `raw_payload` is encoded already."""
    fields = [cbor2.dumps(field) for field in (kind, ident, ref, target, meta, payload, error)]
    if raw_payload is not None:
        fields[5] = raw_payload
    if form == "compact":
        return b"\x87" + b"".join(fields)
    return b"\xa7" + b"".join(cbor2.dumps(name) + field for name, field in zip(NAMES, fields))


_serial = itertools.count(1)


def new_id():
    return os.urandom(8) + next(_serial).to_bytes(8, "big")


# --- transports -----------------------------------------------------------------------------------------------------


class ByteStream:
    """TCP and Unix sockets [P-1.1]."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.close_code = reader, writer, None

    async def send(self, body):
        await self.send_bytes(len(body).to_bytes(4, "big") + body)

    async def send_bytes(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self):
        """The next body, or None at the end."""
        try:
            length = int.from_bytes(await self.reader.readexactly(4), "big")
            return await self.reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise Broken("the connection ended inside a frame") from None
            return None
        except ConnectionError:
            return None

    async def close(self):
        self.writer.close()

    def abort(self):
        self.writer.transport.abort()


class WebSocket:
    """WebSocket: a message is a body [P-1.2]."""

    def __init__(self, socket):
        self.socket = socket

    @property
    def close_code(self):
        return self.socket.close_code

    async def send(self, body):
        await self.socket.send(body)

    async def receive(self):
        try:
            body = await self.socket.recv()
        except websockets.ConnectionClosed:
            return None
        if isinstance(body, str):
            raise Broken("a text message")
        return body

    async def close(self):
        await self.socket.close()

    def abort(self):
        self.socket.transport.abort()


async def open_transport(url, receive_buffer_bytes=None):
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "tcp":
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 9000, limit=receive_buffer_bytes or 1 << 16)
        return ByteStream(reader, writer)
    if parts.scheme == "unix":
        return ByteStream(*await asyncio.open_unix_connection(parts.path, limit=receive_buffer_bytes or 1 << 16))
    if parts.scheme == "ws":
        socket = await websockets.connect(url, subprotocols=["fluxar.v0"], compression=None, max_size=None, ping_interval=None)
        if socket.subprotocol != "fluxar.v0":
            raise Broken(f"subprotocol {socket.subprotocol!r}")
        return WebSocket(socket)
    raise ValueError(url)


# --- a session that outlives its connections [P-7.6, P-7.7] -----------------------------------------------------------


class Resumable:
    """What a session that can be resumed needs to go on: its name, its secret, and the counts of both sides."""

    DUE_BYTES = 64 * 1024

    def __init__(self, welcome):
        self.ident, self.token = welcome["session"], welcome["token"]
        self.received = 0  # counted envelopes of the gateway
        self.untold_bytes = 0
        self.kept = []  # counted envelopes of ours that the gateway is not known to have
        self.sent = 0  # all that ever were

    def took(self, message):
        if is_counted(message.type, message.ref, message.meta):
            self.received += 1
            self.untold_bytes += sum(len(raw) for raw in message.raw.values())

    def tell(self):
        self.untold_bytes = 0
        return {"recv": self.received}

    def keep(self, body):
        self.sent += 1
        self.kept.append(body)

    def covered(self, recv):
        """The gateway has so many."""
        if type(recv) is not int or not 0 <= recv <= self.sent:
            raise Broken(f"recv {recv!r}, where {self.sent} were sent")
        covered = recv - (self.sent - len(self.kept))
        if covered > 0:  # a lower one than was told before says nothing new
            del self.kept[:covered]


# --- the peer -------------------------------------------------------------------------------------------------------


class Stream:
    """One end of a stream [P-3.11]. Counts credit in both directions, and takes nothing that the other side may not send."""

    def __init__(self, peer, ident, sent_end, heard_end, may_send, granted):
        self.peer, self.id = peer, ident
        self.sent_end, self.heard_end = sent_end, heard_end
        self.may_send, self.granted = may_send, granted  # bytes of chunks
        self.is_cancelled = False  # by the other side
        self.error = None
        self.chunks = []
        self.changed = asyncio.Event()

    @property
    def is_closed(self):
        return self.sent_end and self.heard_end

    def heard(self, message):
        """A message about it arrived."""
        if self.is_closed:
            return  # it was under way [P-3.10]
        if message.type == CANCEL:
            self.heard_end = self.is_cancelled = True
        elif message.type != STREAM:
            raise Broken(f"type {message.type} about a stream")
        elif message.error:
            self.error = message.error
            self.sent_end = self.heard_end = True
        elif "credit" in message.meta:
            self.may_send += message.meta["credit"]
        else:
            if self.heard_end:
                raise Broken("a chunk or an end behind the end of its direction")
            is_end = message.meta.get("end") is True
            if not is_end or message.raw["payload"] != NULL:
                size = len(message.raw["payload"])
                if size > self.granted:
                    raise Broken(f"a chunk of {size} bytes where {self.granted} were granted")
                self.granted -= size
                self.chunks.append(message.payload)
            self.heard_end = is_end
        self.changed.set()

    async def until(self, holds, timeout_s=REPLY_S):
        """Waits until it is so."""

        async def wait():
            while not holds(self):
                if self.peer.is_over:
                    raise self.peer.broken or Closed(self.peer.reason)
                self.changed.clear()
                await self.changed.wait()

        await asyncio.wait_for(wait(), timeout_s)

    async def chunk(self, timeout_s=REPLY_S):
        """The next chunk; fails with the stream's error, and is None at its end."""
        await self.until(lambda self: self.chunks or self.heard_end, timeout_s)
        if self.chunks:
            return self.chunks.pop(0)
        if self.error:
            raise Failed(self.error)
        return None

    async def collect(self):
        chunks = []
        while (chunk := await self.chunk()) is not None:
            chunks.append(chunk)
        return chunks

    async def send(self, payload, end=False, wait=True):
        """Sends a chunk when there is credit for it; without `wait`, whether or not there is."""
        size = len(cbor2.dumps(payload))
        if wait:
            await self.until(lambda self: self.may_send >= size or self.is_closed or self.is_cancelled)
            if self.error:
                raise Failed(self.error)
        self.may_send -= size
        self.sent_end = self.sent_end or end
        await self.peer.send(STREAM, self.id, meta={"end": True} if end else None, payload=payload)

    async def end(self):
        self.sent_end = True
        await self.peer.send(STREAM, self.id, meta={"end": True})

    async def grant(self, size):
        self.granted += size
        await self.peer.send(STREAM, self.id, meta={"credit": size})

    async def fail(self, code, message):
        self.sent_end = self.heard_end = True
        await self.peer.send(STREAM, self.id, error={"code": code, "message": message})

    async def cancel(self):
        self.sent_end = True
        await self.peer.send(CANCEL, self.id)


class Peer:
    """One session. Everything that arrives and answers nothing that is awaited here waits in `inbox`, in order."""

    def __init__(self, transport, form="compact"):
        self.transport, self.form = transport, form
        self.waiting = {}  # id of ours → future of the message with that ref
        self.inbox = []
        self.last_places = {}  # plain logged subscription → partition → last offset
        self.acceptances = {}  # subscription → what its acceptance said
        self.streams = {}  # id of the open, ours or theirs → Stream
        self.credit = 65536  # what our hello announces
        self.arrived = asyncio.Event()
        self.reason = self.broken = self.welcome = None
        self.is_closed = False  # the connection; the session may go on without it
        self.resumable = None
        self.said = {}  # by our hello
        self.replies = set()  # tasks that answer by themselves
        self.frames = 0
        self.is_reading = asyncio.Event()
        self.is_reading.set()
        self.task = asyncio.create_task(self._read())

    async def _read(self):
        try:
            while (body := await self.transport.receive()) is not None:
                self.frames += 1
                self._handle(body)
                await self.is_reading.wait()
        except Broken as error:
            self.broken = error
        finally:
            self.is_closed = True
            self.arrived.set()
            for stream in self.streams.values():
                stream.changed.set()
            if self.is_over:
                self._fail_what_waits(self.broken or Closed(self.reason, self.transport.close_code))

    @property
    def is_over(self):
        """The connection has ended, and no other one can go on."""
        return self.is_closed and (self.resumable is None or self.reason is not None or self.broken is not None)

    def _fail_what_waits(self, why):
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(why)
                future.exception()  # it may be that nobody asks

    def _handle(self, body):
        at, run, left, places, dup = 0, None, 0, None, 0
        while at < len(body):
            message, at = read_envelope(body, at)
            if self.reason is not None:
                raise Broken("a message behind the closing cancel")
            if message.form != self.form:
                raise Broken(f"a {message.form} message in a {self.form} session")
            if self.resumable:
                self.resumable.took(message)
            if left:
                if message.type != EVENT or message.ref is not None:
                    raise Broken("a run that is shorter than its header says")
                message.run, left = run, left - 1
                message.position, message.dup = places and places.pop(0), dup
            elif "run" in message.meta and message.type == SUBSCRIBE and message.error is None:
                run, left, dup = message.ref, message.meta["run"], message.meta.get("dup", 0)
                if isinstance(left, list):
                    partition, offsets = read_positions(left)
                    places = [(partition, offset) for offset in offsets]
                    left = len(places)
                    self._check_places(run, places, dup)
                else:
                    places = None
                    if not isinstance(left, int) or left < 1:
                        raise Broken(f"a run of {left!r}")
                continue
            self._dispatch(message)
        if left:
            raise Broken("a run that goes beyond its frame")

    def _check_places(self, subscription, places, dup):
        """A plain subscription gets each partition in order, nothing twice unless it says so."""
        last = self.last_places.get(subscription)
        if last is None:
            return
        partition, first = places[0]
        if first <= last.get(partition, 0) and not dup:
            raise Broken(f"{places[0]} behind offset {last[partition]}")
        last[partition] = max(last.get(partition, 0), places[-1][1])

    def _dispatch(self, message):
        if message.type == CANCEL and message.ref is None:
            self.reason = message.error or {}
        if self.resumable:
            self._tell(message)
        if message.ref in self.streams:
            self.streams[message.ref].heard(message)
            return
        future = self.waiting.pop(message.ref, None) if message.ref else None
        if future is not None and not future.done():
            future.set_result(message)
        else:
            self.inbox.append(message)
            self.arrived.set()

    def _tell(self, message):
        """Counts of a session that can be resumed: reads the gateway's, and says its own where that is due."""
        is_asked = message.type == PING and message.ref is None
        if message.type == PING:
            if "recv" not in message.meta:
                raise Broken("a ping without `recv` in a session that can be resumed")
            self.resumable.covered(message.meta["recv"])
        if is_asked or self.resumable.untold_bytes >= Resumable.DUE_BYTES:
            body = envelope(PING, new_id(), message.id if is_asked else None, meta=self.resumable.tell(), form=self.form)
            task = asyncio.create_task(self._send_if_up(body))
            self.replies.add(task)
            task.add_done_callback(self.replies.discard)

    async def _send_if_up(self, body):
        try:
            if not self.is_closed:
                await self.transport.send(body)
        except (ConnectionError, websockets.ConnectionClosed):
            pass  # the reader will notice

    async def send_body(self, body):
        """Sends it as it is. Nothing of it is counted: in a session that can be resumed that is for what need not be."""
        await self.transport.send(body)

    async def send(self, kind, ref=None, target=None, meta=None, payload=None, error=None, ident=None, raw_payload=None):
        """Sends one envelope and returns its id."""
        ident = ident or new_id()
        if self.resumable and kind == PING:
            meta = {**(meta or {}), **self.resumable.tell()}
        body = envelope(kind, ident, ref, target, meta, payload, error, form=self.form, raw_payload=raw_payload)
        if self.resumable:
            if is_counted(kind, ref, meta):
                self.resumable.keep(body)
            await self._send_if_up(body)
        else:
            await self.send_body(body)
        return ident

    def expect(self, ident):
        """A future of the next message that has `ident` as its ref."""
        future = asyncio.get_running_loop().create_future()
        if self.is_over:
            future.set_exception(self.broken or Closed(self.reason, self.transport.close_code))
        else:
            self.waiting[ident] = future
        return future

    async def ask(self, kind, target=None, meta=None, payload=None, ident=None, raw_payload=None, timeout_s=REPLY_S):
        """Sends a message that is answered, and returns the answer."""
        ident = ident or new_id()
        reply = self.expect(ident)
        await self.send(kind, None, target, meta, payload, ident=ident, raw_payload=raw_payload)
        message = await asyncio.wait_for(reply, timeout_s)
        if message.type != kind:
            raise Broken(f"type {message.type} in answer to type {kind}")
        return message

    async def next(self, wanted=lambda message: True, timeout_s=REPLY_S):
        """The first message of the inbox that is wanted; waits for it."""

        async def search():
            while True:
                for at, message in enumerate(self.inbox):
                    if wanted(message):
                        return self.inbox.pop(at)
                if self.broken:
                    raise self.broken
                if self.is_over:
                    raise Closed(self.reason, self.transport.close_code)
                self.arrived.clear()
                await self.arrived.wait()

        return await asyncio.wait_for(search(), timeout_s)

    # -- patterns

    async def hello(self, timeout_s=REPLY_S, **payload):
        message = await self.ask(HELLO, payload={"v": [0], "agent": "fluxar-python-test/1", **payload}, timeout_s=timeout_s)
        if message.error:
            raise Failed(message.error)
        self.welcome = message.payload
        self.credit = payload.get("credit", self.credit)
        self.said = payload
        self._begin()
        return message

    # -- sessions that outlive their connections

    def _begin(self):
        """A session begins, as the welcome says."""
        self.resumable = Resumable(self.welcome) if self.welcome.get("token") else None
        if self.resumable and not (self.welcome.get("caps") or {}).get("resume"):
            raise Broken("a token of a session that cannot be resumed")

    async def cut(self):
        """Loses the connection without a word, as a network does."""
        self.transport.abort()
        await asyncio.wait([self.task])

    async def resume(self, url, token=None, recv=None):
        """
        Comes back over another connection, with the token and the count that it has unless others are given, and returns
        whether the session goes on. If not, it is a new one, and what was open has failed. The connection of before, if it
        still stands, is left as it is, and read no more.
        """
        self.task.cancel()  # nothing may be counted from here on
        await asyncio.wait([self.task])
        session = self.resumable
        wish = {"session": session.ident, "token": session.token if token is None else token, "recv": session.received if recv is None else recv}
        transport, ident = await open_transport(url), new_id()
        said = {"v": [0], "agent": "fluxar-python-test/1", **self.said, "resume": wish}
        await transport.send(envelope(HELLO, ident, payload=said, form=self.form))
        body = await asyncio.wait_for(transport.receive(), REPLY_S)
        if body is None:
            raise Closed(None, transport.close_code)
        answer, behind = read_envelope(body, 0)
        if (answer.type, answer.ref, answer.form) != (HELLO, ident, self.form):
            raise Broken(f"{answer} in answer to a hello that resumes")
        if answer.error:
            await transport.close()
            raise Failed(answer.error)
        self.welcome = answer.payload
        is_resumed = answer.payload.get("resumed", False)
        if is_resumed:
            if answer.payload["session"] != session.ident or not answer.payload.get("token"):
                raise Broken(f"a session that goes on under another name, or without a secret: {answer.payload!r}")
            session.token = answer.payload["token"]
            session.received = wish["recv"]
            session.untold_bytes = 0
            session.covered(answer.payload.get("recv", 0))
            for kept in session.kept:  # what is sent meanwhile is kept, and goes with them
                await transport.send(kept)
        else:
            if answer.payload["session"] == session.ident or answer.payload.get("recv", 0) != 0:
                raise Broken(f"a new session that has the name or the count of one before: {answer.payload!r}")
            self._fail_what_waits(Closed("the session could not go on"))
            self.waiting, self.streams, self.last_places = {}, {}, {}
            self._begin()
        self.transport, self.is_closed, self.reason = transport, False, None
        self._handle(body[behind:])
        self.task = asyncio.create_task(self._read())
        return is_resumed

    async def call(self, target, payload=None, meta=None, **more):
        message = await self.ask(CALL, target, meta, payload, **more)
        if message.error:
            raise Failed(message.error)
        return message.payload

    async def subscribe(self, pattern, meta=None, **more):
        """Returns the subscription's id once it is accepted."""
        ident = more.pop("ident", None) or new_id()
        message = await self.ask(SUBSCRIBE, pattern, meta, ident=ident, **more)
        if message.error:
            raise Failed(message.error)
        said = message.payload
        if not isinstance(said, dict) or not isinstance(said.get("epoch"), int) or not isinstance(said.get("at"), list):
            raise Broken(f"an acceptance that says {said!r}")
        is_logged = bool({"qos", "durable", "from", "retain"} & set(meta or {}))
        if said["at"] and not is_logged:
            raise Broken(f"places for a subscription without a log: {said!r}")
        self.acceptances[ident] = {"epoch": said["epoch"], "at": {p: o for p, o in said["at"]}}
        if is_logged and "group" not in (meta or {}) and not (meta or {}).get("retain"):
            self.last_places[ident] = dict(self.acceptances[ident]["at"])
        return ident

    async def serve(self, pattern, meta=None):
        return await self.subscribe(pattern, {"serve": True, **(meta or {})})

    async def publish(self, topic, payload=None, **more):
        return await self.send(EVENT, None, topic, payload=payload, **more)

    async def store(self, topic, payload=None, meta=None, qos=1, **more):
        """Publishes an event that is logged, and returns (partition, offset)."""
        message = await self.ask(EVENT, topic, {"qos": qos, **(meta or {})}, payload, **more)
        if message.error:
            raise Failed(message.error)
        partition, (offset,) = read_positions(message.meta.get("at"))
        return partition, offset

    async def ack(self, subscription, *places):
        """Acknowledges positions of one partition; of a plain subscription everything up to the last."""
        partition, offsets = places[0][0], sorted(offset for _, offset in places)
        deltas = [after - before for before, after in itertools.pairwise(offsets)]
        await self.send(EVENT, subscription, meta={"ack": [partition, offsets[0], *deltas]})

    async def event(self, timeout_s=REPLY_S):
        return await self.next(lambda message: message.type == EVENT and message.ref is None, timeout_s)

    async def request(self, timeout_s=REPLY_S):
        """The next call that this peer is to serve."""
        return await self.next(lambda message: message.type == CALL and message.ref is None, timeout_s)

    async def answer(self, request, payload=None, error=None, **more):
        await self.send(CALL, request.id, payload=payload, error=error, **more)

    async def open(self, target, payload=None, end=False, credit=None, ident=None, **meta):
        """Opens a stream. The gateway announces no credit: what may be sent is what it grants."""
        ident = ident or new_id()
        said = {**meta, **({"end": True} if end else {}), **({} if credit is None else {"credit": credit})}
        granted = self.credit if credit is None else credit
        stream = Stream(self, ident, end, False, self.welcome.get("credit", 65536), granted)
        self.streams[ident] = stream
        await self.send(STREAM, None, target, said or None, payload, ident=ident)
        return stream

    async def opened(self, timeout_s=REPLY_S):
        """The next stream that this peer is to serve, and its open."""
        message = await self.next(lambda message: message.type == STREAM and message.ref is None, timeout_s)
        may_send = message.meta.get("credit", self.welcome.get("credit", 65536))
        stream = Stream(self, message.id, False, message.meta.get("end") is True, may_send, self.credit)
        self.streams[message.id] = stream
        for early in [m for m in self.inbox if m.ref == message.id]:
            self.inbox.remove(early)
            stream.heard(early)
        return stream, message

    async def cancel(self, ident):
        await self.send(CANCEL, ident)

    async def ping(self):
        """Everything that the gateway sent before it read this has arrived when it returns."""
        await self.ask(PING)

    async def closed(self, timeout_s=REPLY_S):
        """Waits for the end and returns the closing cancel's error ({} if it has none, None if there was no cancel)."""
        await asyncio.wait_for(asyncio.shield(self.task), timeout_s)
        if self.broken:
            raise self.broken
        return self.reason

    async def close(self):
        if not self.is_closed:
            try:
                await self.send(CANCEL)
            except (ConnectionError, websockets.ConnectionClosed):
                pass
        self.task.cancel()
        await self.transport.close()


async def connect(url, form="compact", **hello):
    """Opens a session."""
    peer = Peer(await open_transport(url), form)
    await peer.hello(**hello)
    return peer
