#!/usr/bin/env python3
"""Writes the conformance vectors beside this file, or with --check says whether they are what it would write.

Every byte is put together here by hand, from docs/protocol.md alone: this script shares no code with an
implementation, and uses nothing but the standard library. README.md explains the format.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent

# --- CBOR, as bytes -------------------------------------------------------------------------------------------------

NULL = b"\xf6"


def head(major, argument):
    """The shortest head."""
    if argument < 24:
        return bytes([major << 5 | argument])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes([major << 5 | info]) + argument.to_bytes(size, "big")
    raise ValueError(argument)


def uint(n):
    return head(0, n)


def bstr(b):
    return head(2, len(b)) + b


def text(s):
    b = s if isinstance(s, bytes) else s.encode()
    return head(3, len(b)) + b


def arr(*items):
    return head(4, len(items)) + b"".join(items)


def cmap(*pairs):
    """A map from (text or encoded key, encoded value) pairs, in this order."""
    return head(5, len(pairs)) + b"".join((k if isinstance(k, bytes) else text(k)) + v for k, v in pairs)


TRUE, FALSE = b"\xf5", b"\xf4"

# --- envelopes ------------------------------------------------------------------------------------------------------

NAMES = ("type", "id", "ref", "target", "meta", "payload", "error")
VERBS = {
    (1, False): "hello", (1, True): "welcome",
    (2, False): "call", (2, True): "answer",
    (3, False): "stream_open", (3, True): "stream_part",
    (4, False): "subscribe", (4, True): "subscription_note",
    (5, False): "publish", (5, True): "ack",
    (6, False): "close", (6, True): "cancel",
    (7, False): "ping", (7, True): "pong",
}


def mid(n):
    """The n-th message id of these vectors."""
    return bytes.fromhex(f"0198000000007000a000{n:012x}")


class Env:
    """An envelope that is right: its bytes and its meaning."""

    def __init__(self, kind, ident=1, ref=None, target=None, meta=None, payload=NULL, error=None, named=False, credit=None):
        if credit is not None:
            meta = meta or cmap(("credit", uint(credit)))
        self.credit = credit
        self.kind, self.id, self.ref, self.target = kind, mid(ident), None if ref is None else mid(ref), target
        self.meta, self.payload, self.error, self.named = meta, payload, error, named

    def fields(self):
        return [
            uint(self.kind),
            bstr(self.id),
            NULL if self.ref is None else bstr(self.ref),
            NULL if self.target is None else text(self.target),
            self.meta or NULL,
            self.payload,
            self.error or NULL,
        ]

    def encode(self):
        fields = self.fields()
        return cmap(*zip(NAMES, fields)) if self.named else arr(*fields)

    def meaning(self):
        verb = VERBS[self.kind, self.ref is not None]
        if verb == "subscribe" and self.meta and text("serve") + TRUE in self.meta:
            verb = "serve"
        meaning = {
            "type": self.kind,
            "id": self.id.hex(),
            "ref": self.ref and self.ref.hex(),
            "target": self.target,
            "meta": self.meta and self.meta.hex(),
            "payload": self.payload.hex(),
            "error": self.error and self.error.hex(),
            "form": "named" if self.named else "compact",
            "verb": verb,
        }
        if verb == "stream_part":
            meaning["part"] = self.part()
        return meaning

    def part(self):
        """What a message of an open stream is: an error before a grant, a grant before an end, an end before a chunk."""
        if self.error:
            return {"is": "error"}
        if self.credit is not None:
            return {"is": "grant", "bytes": self.credit}
        end = self.meta is not None and text("end") + TRUE in self.meta
        if end and self.payload == NULL:
            return {"is": "end"}
        return {"is": "chunk", "bytes": len(self.payload), "end": end}


FILES = {}
CODES = {"compressed": 9, "unknown_type": 12, "meta_too_large": 8, "too_large": 8, "frame_too_large": 8}


def add(file, vector):
    FILES.setdefault(file, []).append(vector)


def good(file, name, clause, *envelopes, body=None):
    """A body that is right as a whole."""
    body = b"".join(e.encode() for e in envelopes) if body is None else body
    add(file, {"name": name, "clause": clause, "kind": "frame-body", "hex": body.hex(),
               "envelopes": [e.meaning() for e in envelopes]})


def bad(file, name, clause, raw, fault, answered=False, closes=False, before=(), after=()):
    """A body in which the envelope `raw` is at fault, between others that are right."""
    assert not (answered and closes) and not (closes and after)
    body = b"".join(e.encode() for e in before) + raw + b"".join(e.encode() for e in after)
    vector = {"name": name, "clause": clause, "kind": "frame-body", "hex": body.hex(),
              "error": {"fault": fault, "code": CODES.get(fault, 3), "answered": answered, "closes": closes}}
    if before:
        vector["before"] = len(before)
    if after:
        vector["after"] = len(after)
    add(file, vector)


def with_fields(base=None, named=False, arity=7, extra=b"", **changed):
    """A right envelope's bytes with some fields replaced by raw bytes."""
    fields = (base or Env(2, target="a.b", payload=uint(7))).fields()
    for key, raw in changed.items():
        fields[NAMES.index({"kind": "type"}.get(key, key))] = raw
    if named:
        return head(5, arity) + b"".join(text(n) + f for n, f in zip(NAMES, fields)) + extra
    return head(4, arity) + b"".join(fields) + extra


CALL = Env(2, 1, target="a.b", payload=uint(7))
PING = Env(7, 2)
EVENT = Env(5, 3, target="t.x", payload=text("seen"))

# --- what is right ---------------------------------------------------------------------------------------------------

F = "envelopes"
good(F, "hello that opens", "P-3.7", Env(1, payload=cmap(("v", arr(uint(0))))))
good(F, "hello that accepts", "P-3.7",
     Env(1, 2, ref=1, payload=cmap(("v", uint(0)), ("session", bstr(mid(9))))))
good(F, "hello that refuses", "P-3.7",
     Env(1, 2, ref=1, error=cmap(("code", uint(16)), ("message", text("no")))))
good(F, "call", "P-5.6", Env(2, target="user.getProfile", payload=cmap(("id", uint(42)))))
good(F, "call with trace and timeout", "P-4",
     Env(2, target="user.getProfile",
         meta=cmap(("timeout_ms", uint(1500)), ("trace", text("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")))))
good(F, "call that may be repeated", "P-5.6",
     Env(2, target="user.get", meta=cmap(("idempotent", TRUE), ("hedge_ms", uint(20)), ("timeout_ms", uint(250)), ("prio", uint(0)),
                                         ("key", bstr(b"u-7")))))
good(F, "call that may not be repeated", "P-5.6", Env(2, target="user.get", meta=cmap(("idempotent", FALSE), ("timeout_ms", uint(0)))))
good(F, "call of a method of the gateway's own", "P-5.1", Env(2, target="$keys.get"))
good(F, "answer with a payload", "P-5.6", Env(2, 2, ref=1, payload=arr(uint(1), text("b"))))
good(F, "answer with null as its payload", "P-5.6", Env(2, 2, ref=1))
good(F, "answer with an error", "P-3.6", Env(2, 2, ref=1, error=cmap(("code", uint(14)), ("message", text("nobody")))))
good(F, "answer with an error that has details and a wait", "P-3.6",
     Env(2, 2, ref=1, error=cmap(("code", uint(8)), ("message", text("später")), ("details", arr(uint(1), NULL)),
                                 ("retry_after_ms", uint(250)))))
good(F, "answer with an error that has an unknown code and key", "P-3.6",
     Env(2, 2, ref=1, error=cmap(("code", uint(4711)), ("message", text("")), ("x-hint", TRUE))))
good(F, "answer with an error that has 32 keys", "P-3.6",
     Env(2, 2, ref=1, error=cmap(("code", uint(3)), ("message", text("x")), *((f"x-{n}", uint(n)) for n in range(30)))))
good(F, "answer with an error that has an unknown key in chunks", "P-3.4",
     Env(2, 2, ref=1, error=cmap(("code", uint(3)), ("message", text("x")), (b"\x7f\x61x\xff", NULL))))
good(F, "answer with an unneeded target", "P-3.7", Env(2, 2, ref=1, target="ignored"))
good(F, "stream that opens", "P-3.11", Env(3, target="llm.complete", meta=cmap(("end", TRUE), ("credit", uint(65536)))))
good(F, "stream chunk", "P-3.11", Env(3, 2, ref=1, payload=text("token")))
good(F, "stream grant", "P-3.11", Env(3, 2, ref=1, credit=4096))
good(F, "stream last chunk", "P-3.11", Env(3, 2, ref=1, meta=cmap(("end", TRUE)), payload=bstr(b"\0")))
good(F, "stream that opens in both directions", "P-3.11", Env(3, target="chat.room", payload=text("hi")))
good(F, "stream that opens with end false and no credit", "P-3.11",
     Env(3, target="chat.room", meta=cmap(("end", FALSE), ("credit", uint(0)))))
good(F, "stream that opens with a deadline, a priority and a key", "P-3.11",
     Env(3, target="llm.complete", meta=cmap(("end", TRUE), ("timeout_ms", uint(60000)), ("prio", uint(7)), ("key", text("u-7")))))
good(F, "stream chunk that is null", "P-3.11", Env(3, 2, ref=1))
good(F, "stream chunk with end false", "P-3.11", Env(3, 2, ref=1, meta=cmap(("end", FALSE)), payload=uint(1)))
good(F, "stream chunk with a key of its own in meta", "P-3.11", Env(3, 2, ref=1, meta=cmap(("x-n", uint(9))), payload=text("ab")))
good(F, "stream chunk counts as it is encoded", "P-3.11", Env(3, 2, ref=1, payload=b"\x1b" + bytes(7) + b"\x01"))
good(F, "stream end", "P-3.11", Env(3, 2, ref=1, meta=cmap(("end", TRUE))))
good(F, "stream end, named", "P-3.11", Env(3, 2, ref=1, meta=cmap(("end", TRUE)), named=True))
good(F, "stream chunk, named", "P-3.11", Env(3, 2, ref=1, payload=text("token"), named=True))
good(F, "stream last chunk that is undefined, not null", "P-3.11", Env(3, 2, ref=1, meta=cmap(("end", TRUE)), payload=b"\xf7"))
good(F, "stream grant of nothing", "P-3.11", Env(3, 2, ref=1, credit=0))
good(F, "stream grant of all that 64 bits hold", "P-3.11", Env(3, 2, ref=1, credit=2**64 - 1))
good(F, "stream grant with end and a payload is a grant", "P-3.11",
     Env(3, 2, ref=1, meta=cmap(("end", TRUE), ("credit", uint(5))), credit=5, payload=text("not a chunk")))
good(F, "stream error", "P-3.11", Env(3, 2, ref=1, error=cmap(("code", uint(9)), ("message", text("beyond the credit")))))
good(F, "stream error with end, credit and a payload is an error", "P-3.11",
     Env(3, 2, ref=1, meta=cmap(("end", TRUE), ("credit", uint(5))), credit=5, payload=text("x"),
         error=cmap(("code", uint(1)), ("message", text("cancelled")))))
good(F, "subscription to one topic", "P-5.2", Env(4, target="orders.created"))
good(F, "subscription with *", "P-5.1", Env(4, target="orders.*.paid"))
good(F, "subscription with >", "P-5.1", Env(4, target="orders.>"))
good(F, "subscription to everything", "P-5.1", Env(4, target=">"))
good(F, "subscription to the gateway's own topics", "P-5.1", Env(4, target="$sys.>"))
good(F, "subscription in a group", "P-5.4", Env(4, target="orders.>", meta=cmap(("group", text("billing")))))
good(F, "subscription at qos 2 from a position", "P-5.11",
     Env(4, target="orders.>", meta=cmap(("qos", uint(2)), ("durable", text("d")),
         ("from", cmap(("epoch", uint(3)), ("at", arr(arr(uint(7), uint(1000)))))))))
good(F, "offer to serve", "P-5.7", Env(4, target="users.*", meta=cmap(("serve", TRUE), ("weight", uint(3)))))
good(F, "offer to serve in a fleet, in a zone, so many at a time", "P-5.7",
     Env(4, target="users.*", meta=cmap(("serve", TRUE), ("group", text("canary")), ("zone", text("eu-1")), ("in_flight", uint(1)),
                                        ("weight", uint(65536)))))
good(F, "subscription with serve false", "P-5.7", Env(4, target="users.*", meta=cmap(("serve", FALSE))))
good(F, "subscription accepted", "P-5.2", Env(4, 2, ref=1, payload=cmap(("epoch", uint(1)), ("at", arr()))))
good(F, "subscription refused", "P-5.2", Env(4, 2, ref=1, error=cmap(("code", uint(12)), ("message", text("no")))))
good(F, "subscription over", "P-3.10", Env(4, 2, ref=1, meta=cmap(("end", TRUE))))
good(F, "drops told", "P-5.5", Env(4, 2, ref=1, meta=cmap(("dropped", uint(70000)))))
good(F, "publish", "P-5.3", Env(5, target="orders.created", payload=cmap(("id", uint(1)))))
good(F, "publish at qos 1", "P-5.9", Env(5, target="orders.created", meta=cmap(("qos", uint(1)), ("key", bstr(b"k")))))
good(F, "publish to a topic with wildcards inside tokens", "P-5.1", Env(5, target="a*.b>.c$d"))
good(F, "publish to a topic in UTF-8", "P-3.4", Env(5, target="größe.Δ.東京"))
good(F, "publish acknowledged", "P-5.9", Env(5, 2, ref=1, meta=cmap(("at", arr(uint(5), uint(99))))))
good(F, "publish refused", "P-3.8",
     Env(5, 2, ref=1, error=cmap(("code", uint(3)), ("message", text("no")), ("details", cmap(("refused", uint(9)))))))
good(F, "subscriber acknowledges", "P-5.9", Env(5, 2, ref=1, meta=cmap(("ack", arr(uint(5), uint(99))))))
good(F, "session closed", "P-7.8", Env(6))
good(F, "session closed with a reason", "P-7.8",
     Env(6, error=cmap(("code", uint(14)), ("message", text("shutting down")), ("retry_after_ms", uint(900)))))
good(F, "cancel", "P-3.10", Env(6, 2, ref=1))
good(F, "ping", "P-7.5", Env(7))
good(F, "ping with recv", "P-7.7", Env(7, meta=cmap(("recv", uint(2**32)))))
good(F, "pong", "P-7.5", Env(7, 2, ref=1))
good(F, "target of 255 bytes", "P-6", Env(5, target="t" * 255))
good(F, "target of 16 tokens", "P-5.1", Env(5, target=".".join("abcdefghijklmnop")))
good(F, "target of 23 bytes, the longest with a one-byte head", "P-3.4", Env(5, target="t" * 23))
good(F, "target of 24 bytes, the shortest with a two-byte head", "P-3.4", Env(5, target="t" * 24))
good(F, "id and ref of zeros", "P-3.3", Env(7), body=None)
FILES[F][-1].update(hex=arr(uint(7), bstr(bytes(16)), bstr(bytes(16)), NULL, NULL, NULL, NULL).hex())
FILES[F][-1]["envelopes"][0].update(id="00" * 16, ref="00" * 16, verb="pong")
good(F, "empty meta", "P-3.5", Env(2, target="a", meta=cmap()))
good(F, "meta with an unknown key", "P-4", Env(2, target="a", meta=cmap(("x-mine", arr(TRUE, cmap())))))
good(F, "meta with 32 keys", "P-6", Env(2, target="a", meta=cmap(*((f"x-{n}", uint(n)) for n in range(32)))))
FILL = cmap(("x", bstr(bytes(2048 - 6))))
assert len(FILL) == 2048
good(F, "meta of 2,048 bytes", "P-6", Env(2, target="a", meta=FILL))
good(F, "meta with an empty key", "P-3.5", Env(2, target="a", meta=cmap(("", NULL))))
good(F, "meta value of indefinite length", "P-3.4", Env(2, target="a", meta=cmap(("x", b"\x9f\x01\xff"))))
good(F, "meta value that is not shortest", "P-3.4", Env(2, target="a", meta=cmap(("x", b"\x18\x01"))))

F = "payloads"
for name, raw in {
    "uint in nine bytes though one would do": b"\x1b" + bytes(7) + b"\x01",
    "largest negative integer": b"\x3b" + b"\xff" * 8,
    "false": FALSE,
    "undefined": b"\xf7",
    "simple value 255": b"\xf8\xff",
    "simple value 32, the least in two bytes": b"\xf8\x20",
    "half-precision NaN": b"\xf9\x7e\x00",
    "double": b"\xfb\x40\x09\x21\xfb\x54\x44\x2d\x18",
    "empty byte string": b"\x40",
    "byte string that looks like an envelope": bstr(EVENT.encode()),
    "byte string that looks like a frame": bstr(len(EVENT.encode()).to_bytes(4, "big") + EVENT.encode()),
    "byte string with an eight-byte length": b"\x5b" + bytes(7) + b"\x02ab",
    "byte string in chunks": b"\x5f\x41a\x40\x42bc\xff",
    "byte string in no chunks": b"\x5f\xff",
    "text in chunks": b"\x7f\x61a\x62\xc3\xbc\xff",
    "text of every length of UTF-8": text("a\u00fc\u20ac\U0001f600"),
    "array of indefinite length": b"\x9f\x01\x82\x02\x03\x9f\xff\xff",
    "map of indefinite length": b"\xbf\x61a\x01\x02\x9f\xff\xff",
    "map with keys that are not texts, and twice the same": b"\xa3\x01\x02\x01\x03\x80\xf6",
    "map with a head of nine bytes": b"\xbb" + bytes(7) + b"\x01\x61a\x01",
    "tagged time": b"\xc1\x1a\x65\x00\x00\x00",
    "tag of nine bytes": b"\xdb" + b"\xff" * 8 + b"\x00",
    "arrays 64 deep": b"\x81" * 63 + b"\x80",
    "a number inside arrays 64 deep": b"\x81" * 64 + b"\x00",
    "maps of indefinite length 64 deep": b"\xbf\x01" * 63 + b"\xbf\xff" + b"\xff" * 63,
    "tags 64 deep": b"\xc6" * 64 + b"\x00",
    "array of 300 numbers": head(4, 300) + b"".join(uint(n) for n in range(300)),
    "text of 1,000 bytes": text("é" * 500),
    "map as applications send it": cmap(("user", text("ada")), ("tags", arr(text("x"), text("y"))), ("at_ms", uint(1700000000123)),
                                        ("ratio", b"\xfb\x3f\xe8" + bytes(6)), ("ok", TRUE)),
}.items():
    good(F, name, "P-3.5", Env(5, target="t", payload=raw))
good(F, "payload that ends where a second envelope begins", "P-3.5", Env(5, 1, target="t", payload=bstr(b"\x87")), EVENT)

F = "named"
for name, env in {
    "hello": Env(1, payload=cmap(("v", arr(uint(0)))), named=True),
    "call": Env(2, target="user.getProfile", payload=cmap(("id", uint(42))), named=True),
    "answer with an error": Env(2, 2, ref=1, error=cmap(("code", uint(5)), ("message", text("gone"))), named=True),
    "offer to serve": Env(4, target="users.>", meta=cmap(("serve", TRUE)), named=True),
    "publish": Env(5, target="orders.created", payload=b"\x9f\x01\xff", named=True),
    "drops told": Env(4, 2, ref=1, meta=cmap(("dropped", uint(3))), named=True),
    "cancel": Env(6, 2, ref=1, named=True),
    "ping": Env(7, named=True),
    "payload that is an envelope": Env(5, target="t", payload=EVENT.encode(), named=True),
}.items():
    good(F, name, "P-3.2", env)

F = "batches"
good(F, "empty body", "P-1.6")
good(F, "two calls", "P-2.2", Env(2, 1, target="a"), Env(2, 2, target="b"))
good(F, "compact and named mixed", "P-2.2", Env(7, 1), Env(7, 2, named=True), Env(7, 3))
good(F, "a run for a group", "P-5.4", Env(4, 9, ref=8, meta=cmap(("run", uint(2)))), Env(5, 1, target="o.a", payload=uint(1)),
     Env(5, 2, target="o.b", payload=uint(2)))
good(F, "a run of logged events", "P-5.8", Env(4, 9, ref=8, meta=cmap(("run", arr(uint(3), uint(100), uint(1))))),
     Env(5, 1, target="o.a"), Env(5, 2, target="o.b"))
good(F, "fifty events", "P-2.2", *(Env(5, n, target=f"t.{n}", payload=uint(n)) for n in range(50)))
bad(F, "a fault between two good ones", "P-2.2", with_fields(target=b"\x60"), "target", answered=True, before=[PING], after=[EVENT])
bad(F, "an unknown type between two good ones", "P-2.2", with_fields(kind=b"\x08"), "unknown_type", answered=True,
    before=[PING], after=[EVENT])
bad(F, "a number behind an envelope", "P-2.2", b"\x07", "shape", before=[PING])
bad(F, "null between two envelopes", "P-2.2", NULL, "shape", before=[PING], after=[EVENT])
bad(F, "the byte of zstd behind an envelope is a number", "P-2.1", b"\x28", "shape", before=[PING], after=[EVENT])
bad(F, "the byte of gzip behind an envelope is no item", "P-2.1", b"\x1f", "shape", closes=True, before=[PING])
bad(F, "a break behind an envelope", "P-2.2", b"\xff", "shape", closes=True, before=[PING])
bad(F, "an envelope cut off behind a good one", "P-2.2", CALL.encode()[:-1], "truncated", closes=True, before=[PING, EVENT])
bad(F, "a second envelope of which one byte is there", "P-2.2", b"\x87", "truncated", closes=True, before=[PING])
bad(F, "an array of bytes in the middle", "P-2.2", arr(*[uint(1)] * 3), "shape", before=[PING], after=[PING, EVENT])
bad(F, "an envelope inside an array", "P-2.2", arr(CALL.encode()), "shape", after=[EVENT])
bad(F, "an envelope inside a byte string", "P-2.2", bstr(CALL.encode()), "shape", after=[EVENT])
bad(F, "a tagged envelope", "P-2.2", b"\xd9\xd9\xf7" + CALL.encode(), "shape", after=[EVENT])
bad(F, "a zstd frame that was not negotiated", "P-2.3", bytes.fromhex("28b52ffd04000100008769b1f5"), "compressed", closes=True)
bad(F, "a gzip member that was not negotiated", "P-2.3", bytes.fromhex("1f8b080000000000000303000000000000000000"),
    "compressed", closes=True)

# --- what is wrong ---------------------------------------------------------------------------------------------------

F = "malformed-heads"
whole = Env(2, target="a.b", meta=cmap(("timeout_ms", uint(9))), payload=cmap(("k", text("v"))),
            error=None).encode()
for cut, where in ((1, "the array's head"), (2, "the type"), (3, "the id's head"), (11, "half of the id"), (19, "the id"), (20, "the ref"),
                   (21, "the target's head"), (23, "half of the target"), (24, "the target"), (25, "the meta's head"),
                   (30, "half of a meta key"), (37, "meta"), (38, "the payload's head"), (41, "half of the payload"),
                   (len(whole) - 1, "the payload")):
    bad(F, f"ends behind {where}", "P-3.8", whole[:cut], "truncated", closes=True)
bad(F, "array of 6", "P-3.1", arr(*CALL.fields()[:6]), "shape", after=[EVENT])
bad(F, "array of 8", "P-3.1", arr(*CALL.fields(), NULL), "shape", after=[EVENT])
bad(F, "empty array", "P-3.1", b"\x80", "shape", after=[EVENT])
bad(F, "an integer", "P-2.1", b"\x00", "shape")
bad(F, "a text", "P-2.1", text("hello"), "shape")
bad(F, "array of 7 with a two-byte head", "P-3.4", b"\x98\x07" + b"".join(CALL.fields()), "not_shortest", after=[EVENT])
bad(F, "array of 7 with a nine-byte head", "P-3.4", b"\x9b" + bytes(7) + b"\x07" + b"".join(CALL.fields()), "not_shortest")
bad(F, "array of indefinite length", "P-3.4", b"\x9f" + b"".join(CALL.fields()) + b"\xff", "not_shortest", after=[EVENT])
bad(F, "array of indefinite length without its end", "P-3.4", b"\x9f" + b"".join(CALL.fields()), "not_shortest", closes=True)
bad(F, "reserved head", "P-2.1", b"\x9c", "shape", closes=True)
bad(F, "type 0", "P-3.7", with_fields(kind=b"\x00"), "unknown_type", answered=True, after=[EVENT])
bad(F, "type 8", "P-3.7", with_fields(kind=b"\x08"), "unknown_type", answered=True)
bad(F, "type 8 with a ref", "P-3.7", with_fields(Env(2, 2, ref=1), kind=b"\x08"), "unknown_type", after=[EVENT])
bad(F, "type 23", "P-3.7", with_fields(kind=b"\x17"), "unknown_type", answered=True)
bad(F, "type 200 in two bytes", "P-3.7", with_fields(kind=b"\x18\xc8"), "unknown_type", answered=True, after=[EVENT])
bad(F, "type 2 in two bytes", "P-3.4", with_fields(kind=b"\x18\x02"), "not_shortest", after=[EVENT])
bad(F, "type -1", "P-3.8", with_fields(kind=b"\x20"), "shape", after=[EVENT])
bad(F, "type as text", "P-3.8", with_fields(kind=text("call")), "shape", after=[EVENT])
bad(F, "type null", "P-3.8", with_fields(kind=NULL), "shape", after=[EVENT])
bad(F, "id of 15 bytes", "P-3.3", with_fields(id=bstr(bytes(15))), "id", after=[EVENT])
bad(F, "id of 17 bytes", "P-3.3", with_fields(id=bstr(bytes(17))), "id", after=[EVENT])
bad(F, "empty id", "P-3.3", with_fields(id=b"\x40"), "id")
bad(F, "id null", "P-3.3", with_fields(id=NULL), "id", after=[EVENT])
bad(F, "id as a text of 16 bytes", "P-3.3", with_fields(id=text("0123456789abcdef")), "id", after=[EVENT])
bad(F, "id as a tagged UUID", "P-3.3", with_fields(id=b"\xd8\x25" + bstr(mid(1))), "id", after=[EVENT])
bad(F, "id with a two-byte head", "P-3.4", with_fields(id=b"\x58\x10" + mid(1)), "not_shortest", after=[EVENT])
bad(F, "id in chunks", "P-3.4", with_fields(id=b"\x5f" + bstr(mid(1)) + b"\xff"), "not_shortest", after=[EVENT])
bad(F, "ref of 15 bytes", "P-3.3", with_fields(ref=bstr(bytes(15))), "ref", after=[EVENT])
bad(F, "ref of 32 bytes", "P-3.3", with_fields(ref=bstr(bytes(32))), "ref", after=[EVENT])
bad(F, "ref false", "P-3.3", with_fields(ref=FALSE), "ref", after=[EVENT])
bad(F, "ref undefined", "P-3.3", with_fields(ref=b"\xf7"), "ref", after=[EVENT])
bad(F, "ref with a two-byte head", "P-3.4", with_fields(ref=b"\x58\x10" + mid(1)), "not_shortest", after=[EVENT])
bad(F, "target empty", "P-3.4", with_fields(target=b"\x60"), "target", answered=True, after=[EVENT])
bad(F, "target of 256 bytes", "P-6", with_fields(target=text("t" * 256)), "target", answered=True, after=[EVENT])
bad(F, "target of 256 bytes, with a ref", "P-6", with_fields(Env(2, 2, ref=1), target=text("t" * 256)), "target", after=[EVENT])
bad(F, "target as bytes", "P-3.8", with_fields(target=bstr(b"a.b")), "target", answered=True, after=[EVENT])
bad(F, "target as a number", "P-3.8", with_fields(target=uint(5)), "target", answered=True)
bad(F, "target that is not UTF-8", "P-3.8", with_fields(target=text(b"a.\xff")), "target", answered=True, after=[EVENT])
bad(F, "target with half a surrogate", "P-3.8", with_fields(target=text(b"\xed\xa0\x80")), "target", answered=True)
bad(F, "target with a head that is not shortest", "P-3.4", with_fields(target=b"\x78\x03a.b"), "not_shortest", answered=True, after=[EVENT])
bad(F, "target in chunks", "P-3.4", with_fields(target=b"\x7f\x61a\xff"), "not_shortest", answered=True, after=[EVENT])
bad(F, "target that claims four gigabytes", "P-3.8", with_fields(target=b"\x7a\xff\xff\xff\xffa"), "target", closes=True)
bad(F, "a fault and then no end", "P-3.8", with_fields(kind=b"\x08")[:-1], "unknown_type", closes=True)
bad(F, "an id at fault and then a reserved head", "P-3.8", with_fields(id=NULL, payload=b"\x1c"), "id", closes=True)
bad(F, "error is false", "P-3.6", with_fields(error=FALSE), "error", answered=True, after=[EVENT])
bad(F, "error is a text", "P-3.6", with_fields(error=text("no")), "error", answered=True, after=[EVENT])
bad(F, "error is an empty map", "P-3.6", with_fields(error=cmap()), "error", answered=True, after=[EVENT])
bad(F, "error without a message", "P-3.6", with_fields(error=cmap(("code", uint(3)))), "error", answered=True)
bad(F, "error without a code", "P-3.6", with_fields(error=cmap(("message", text("x")))), "error", answered=True)
bad(F, "error with a text as its code", "P-3.6", with_fields(error=cmap(("code", text("3")), ("message", text("x")))), "error", answered=True)
bad(F, "error with a number as its message", "P-3.6", with_fields(error=cmap(("code", uint(3)), ("message", uint(3)))), "error", answered=True)
bad(F, "error with a code twice", "P-3.6",
    with_fields(error=cmap(("code", uint(3)), ("code", uint(3)), ("message", text("x")))), "error", answered=True)
bad(F, "error with a wait that is negative", "P-3.6",
    with_fields(error=cmap(("code", uint(3)), ("message", text("x")), ("retry_after_ms", b"\x20"))), "error", answered=True)
bad(F, "error with its message in chunks", "P-3.4",
    with_fields(error=cmap(("code", uint(3)), ("message", b"\x7f\x61x\xff"))), "error", answered=True, after=[EVENT])
bad(F, "error with its code's key in chunks", "P-3.4",
    with_fields(error=cmap((b"\x7f\x64code\xff", uint(3)), ("message", text("x")))), "error", answered=True, after=[EVENT])
bad(F, "error with 33 keys", "P-3.6",
    with_fields(error=cmap(("code", uint(3)), ("message", text("x")), *((f"x-{n}", uint(n)) for n in range(31)))),
    "error", answered=True, after=[EVENT])
bad(F, "error with 1,000 keys", "P-3.6",
    with_fields(error=cmap(("code", uint(3)), ("message", text("x")), *((b"\x60", b"\x00") for n in range(998)))),
    "error", answered=True, after=[EVENT])
bad(F, "error of indefinite length", "P-3.4",
    with_fields(error=b"\xbf" + text("code") + uint(3) + text("message") + text("x") + b"\xff"), "not_shortest", answered=True, after=[EVENT])
bad(F, "answer with a bad error is not answered", "P-3.8", with_fields(Env(2, 2, ref=1), error=cmap()), "error", after=[EVENT])

F = "malformed-named"
bad(F, "map of 6", "P-3.2", cmap(*list(zip(NAMES, CALL.fields()))[:6]), "shape", after=[EVENT])
bad(F, "map of 8", "P-3.2", cmap(*zip(NAMES, CALL.fields()), ("x", NULL)), "shape", after=[EVENT])
bad(F, "empty map", "P-3.2", b"\xa0", "shape", after=[EVENT])
bad(F, "map of 7 with a two-byte head", "P-3.4", b"\xb8\x07" + with_fields(named=True)[1:], "not_shortest", after=[EVENT])
bad(F, "map of indefinite length", "P-3.4", b"\xbf" + with_fields(named=True)[1:] + b"\xff", "not_shortest", after=[EVENT])
PAIRS = list(zip(NAMES, CALL.fields()))
bad(F, "id before type", "P-3.2", cmap(PAIRS[1], PAIRS[0], *PAIRS[2:]), "names", after=[EVENT])
bad(F, "target before ref", "P-3.2", cmap(*PAIRS[:2], PAIRS[3], PAIRS[2], *PAIRS[4:]), "names", after=[EVENT])
bad(F, "payload before meta", "P-3.2", cmap(*PAIRS[:4], PAIRS[5], PAIRS[4], PAIRS[6]), "names", answered=True, after=[EVENT])
bad(F, "Type for type", "P-3.2", cmap(("Type", PAIRS[0][1]), *PAIRS[1:]), "names", after=[EVENT])
bad(F, "a key that begins like error", "P-3.2", cmap(*PAIRS[:6], ("err", NULL)), "names", answered=True, after=[EVENT])
bad(F, "type twice, error missing", "P-3.2", cmap(*PAIRS[:6], PAIRS[0]), "names", answered=True, after=[EVENT])
bad(F, "keys as numbers", "P-3.2", cmap(*((uint(n), v) for n, (_, v) in enumerate(PAIRS))), "names", after=[EVENT])
bad(F, "a key as bytes", "P-3.2", cmap((bstr(b"type"), PAIRS[0][1]), *PAIRS[1:]), "names", after=[EVENT])
bad(F, "a key with a head that is not shortest", "P-3.4",
    b"\xa7" + b"\x78\x04type" + PAIRS[0][1] + b"".join(text(k) + v for k, v in PAIRS[1:]), "not_shortest", after=[EVENT])
bad(F, "ends behind a key", "P-3.8", with_fields(named=True)[:6], "truncated", closes=True)
bad(F, "ends inside a key", "P-3.8", with_fields(named=True)[:4], "truncated", closes=True)
bad(F, "ends before the last value", "P-3.8", with_fields(named=True)[:-1], "truncated", closes=True)
bad(F, "unknown type", "P-3.7", with_fields(named=True, kind=b"\x09"), "unknown_type", answered=True, after=[EVENT])
bad(F, "id of 4 bytes", "P-3.3", with_fields(named=True, id=bstr(b"1234")), "id", after=[EVENT])
bad(F, "bad target", "P-3.4", with_fields(named=True, target=uint(1)), "target", answered=True, after=[EVENT])
bad(F, "bad payload", "P-3.5", with_fields(named=True, payload=text(b"\xc0\xaf")), "payload", answered=True, after=[EVENT])

F = "malformed-meta"
for name, raw, fault in (
    ("false", FALSE, "meta"),
    ("an array", arr(), "meta"),
    ("a text", text("{}"), "meta"),
    ("key that is a number", cmap((uint(1), uint(1))), "meta"),
    ("key that is bytes", cmap((bstr(b"qos"), uint(1))), "meta"),
    ("key that is null", cmap((NULL, uint(1))), "meta"),
    ("key that is not UTF-8", cmap((text(b"\x80"), uint(1))), "meta"),
    ("value that is not UTF-8", cmap(("x", text(b"\xff"))), "meta"),
    ("key twice, side by side", cmap(("x", uint(1)), ("x", uint(1))), "meta_duplicate"),
    ("key twice, apart", cmap(("qos", uint(0)), ("a", NULL), ("b", NULL), ("qos", uint(1))), "meta_duplicate"),
    ("empty key twice", cmap(("", NULL), ("", NULL)), "meta_duplicate"),
    ("33 keys", cmap(*((f"x-{n}", uint(n)) for n in range(33))), "meta_too_large"),
    ("1,000 keys", cmap(*((f"{n}", uint(0)) for n in range(1000))), "meta_too_large"),
    ("2,049 bytes", cmap(("x", bstr(bytes(2048 - 5)))), "meta_too_large"),
    ("head that is not shortest", b"\xb8\x01" + text("x") + NULL, "not_shortest"),
    ("indefinite length", b"\xbf" + text("x") + NULL + b"\xff", "not_shortest"),
    ("key with a head that is not shortest", b"\xa1\x78\x01x\xf6", "not_shortest"),
    ("key in chunks", b"\xa1\x7f\x61x\xff\xf6", "not_shortest"),
):
    bad(F, name, "P-3.5", with_fields(meta=raw), fault, answered=True, after=[EVENT])
for name, raw in (
    ("33 keys claimed, 1 there", b"\xb8\x21" + text("x") + NULL),
    ("2^63 keys claimed", b"\xbb\x80" + bytes(7) + text("x") + NULL),
):
    bad(F, name, "P-3.5", with_fields(meta=raw)[:40], "meta_too_large", closes=True)
bad(F, "value with a reserved head", "P-3.5", with_fields(meta=cmap(("x", b"\x1d"))), "meta", closes=True)
bad(F, "value that is a break", "P-3.5", with_fields(meta=cmap(("x", b"\xff"))), "meta", closes=True)
bad(F, "value nested 65 deep", "P-3.5", with_fields(meta=cmap(("x", b"\x81" * 65 + b"\x00"))), "meta", closes=True)
bad(F, "of a message with a ref: not answered", "P-3.8", with_fields(Env(4, 2, ref=1), meta=arr()), "meta", after=[EVENT])

F = "malformed-payload"
for name, raw in (
    ("integer with reserved information 28", b"\x1c"),
    ("integer with reserved information 30", b"\x1e"),
    ("integer of indefinite length", b"\x1f"),
    ("negative integer of indefinite length", b"\x3f"),
    ("tag of indefinite length", b"\xdf\x00"),
    ("tag with reserved information", b"\xdc\x00"),
    ("simple with reserved information", b"\xfd"),
    ("two-byte simple value 31", b"\xf8\x1f"),
    ("two-byte simple value 0", b"\xf8\x00"),
    ("break alone", b"\xff"),
    ("break in an array of known length", b"\x82\x01\xff"),
    ("break for the value of a map", b"\xbf\x01\xff"),
    ("break in a map of known length", b"\xa1\xff"),
    ("break behind a tag", b"\x9f\xc1\xff"),
    ("text chunk in a byte string", b"\x5f\x61a\xff"),
    ("byte chunk in a text", b"\x7f\x41a\xff"),
    ("number as a chunk", b"\x5f\x01\xff"),
    ("chunks inside chunks", b"\x5f\x5f\x41a\xff\xff"),
    ("reserved head deep inside", arr(cmap(("a", arr(uint(1), b"\x5d"))))),
    ("arrays 65 deep", b"\x81" * 64 + b"\x80"),
    ("tags 65 deep", b"\xc1" * 65 + b"\x00"),
    ("maps and arrays 65 deep", b"\x81\xa1\x00" * 32 + b"\x81\x00"),
    ("arrays of indefinite length 1,000 deep", b"\x9f" * 1000 + b"\xff" * 1000),
):
    bad(F, name, "P-3.5", with_fields(payload=raw), "payload", closes=True, before=[PING])
for name, raw in (
    ("byte string that claims 2^63 bytes", b"\x5b\x80" + bytes(7) + b"a"),
    ("array that claims 2^64-1 items", b"\x9b" + b"\xff" * 8 + b"\x00"),
    ("map that claims 2^63 pairs", b"\xbb\x80" + bytes(7) + b"\x00"),
    ("text whose length runs over the end by one", b"\x62a"),
    ("array of indefinite length without its break", b"\x9f\x01"),
    ("byte string in chunks without its break", b"\x5f\x41a"),
    ("tag of nothing", b"\xc1"),
    ("nothing at all", b""),
):
    raw = arr(*CALL.fields()[:5])[1:] + raw
    bad(F, name, "P-3.8", b"\x87" + raw, "truncated", closes=True, before=[PING])
for name, raw in (
    ("text that is not UTF-8", text(b"\xff")),
    ("text with a stray continuation byte", text(b"a\x80")),
    ("text with an overlong slash", text(b"\xc0\xaf")),
    ("text with half a surrogate", text(b"\xed\xa0\x80")),
    ("text beyond U+10FFFF", text(b"\xf4\x90\x80\x80")),
    ("text that ends inside a character", text(b"ab\xe2\x82")),
    ("text with a character cut in two by chunks", b"\x7f\x61\xc3\x61\xbc\xff"),
    ("map key that is not UTF-8", cmap((text(b"\xfe"), uint(1)))),
    ("long text with its last byte wrong", text(b"x" * 199 + b"\xc3")),
    ("wrong text deep inside", arr(cmap(("a", arr(uint(1), text(b"\xf8")))))),
):
    bad(F, name, "P-3.5", with_fields(payload=raw), "payload", answered=True, before=[PING], after=[EVENT])
bad(F, "not UTF-8 in an answer: not answered", "P-3.8", with_fields(Env(2, 2, ref=1), payload=text(b"\xff")), "payload", after=[EVENT])
bad(F, "a second item where the error should be", "P-3.5", with_fields(payload=uint(1), error=uint(2)), "error", answered=True, after=[EVENT])

F = "exchanges"


def refused(name, clause, env, fault, named=False):
    env.named = named
    bad(F, name, clause, env.encode(), fault, answered=True, after=[EVENT])


refused("call without a target", "P-3.7", Env(2), "target")
refused("stream without a target", "P-3.7", Env(3), "target")
refused("subscription without a target", "P-3.7", Env(4), "target")
refused("publish without a target", "P-3.7", Env(5), "target")
refused("publish without a target, named", "P-3.7", Env(5), "target", named=True)
refused("publish to *", "P-5.1", Env(5, target="orders.*"), "topic")
refused("publish to >", "P-5.1", Env(5, target=">"), "topic")
refused("publish to a topic of the gateway's own", "P-5.1", Env(5, target="$sys.load"), "topic")
refused("publish with an empty token", "P-5.1", Env(5, target="a..b"), "topic")
refused("publish with a dot at the beginning", "P-5.1", Env(5, target=".a"), "topic")
refused("publish with a dot at the end", "P-5.1", Env(5, target="a."), "topic")
refused("publish to a dot", "P-5.1", Env(5, target="."), "topic")
refused("publish with 17 tokens", "P-5.1", Env(5, target=".".join("abcdefghijklmnopq")), "topic")
refused("call of a pattern", "P-5.1", Env(2, target="users.*"), "topic")
refused("call with an empty token", "P-5.1", Env(2, target="users..get"), "topic")
refused("stream to a pattern", "P-5.1", Env(3, target="llm.>"), "topic")
refused("subscription with > in the middle", "P-5.1", Env(4, target="a.>.b"), "topic")
refused("subscription with > at the beginning", "P-5.1", Env(4, target=">.a"), "topic")
refused("subscription with an empty token", "P-5.1", Env(4, target="a..>"), "topic")
refused("subscription with 17 tokens", "P-5.1", Env(4, target=".".join("*" * 17)), "topic")
refused("offer to serve methods of the gateway's own", "P-5.1", Env(4, target="$sys.>", meta=cmap(("serve", TRUE))), "topic")
refused("offer to serve with an empty token", "P-5.1", Env(4, target="a.", meta=cmap(("serve", TRUE))), "topic")
refused("publish with qos 3", "P-4", Env(5, target="a", meta=cmap(("qos", uint(3)))), "meta_value")
refused("publish with qos as text", "P-4", Env(5, target="a", meta=cmap(("qos", text("1")))), "meta_value")
refused("subscription with qos -1", "P-4", Env(4, target="a", meta=cmap(("qos", b"\x20"))), "meta_value")
refused("subscription with serve as a number", "P-4", Env(4, target="a", meta=cmap(("serve", uint(1)))), "meta_value")
refused("subscription with group as a number", "P-4", Env(4, target="a", meta=cmap(("group", uint(1)))), "meta_value")
refused("subscription with an empty group", "P-4", Env(4, target="a", meta=cmap(("group", text("")))), "meta_value")
refused("subscription with its group in chunks", "P-4", Env(4, target="a", meta=cmap(("group", b"\x7f\x61g\xff"))), "meta_value")
refused("publish with its key in chunks", "P-4", Env(5, target="a", meta=cmap(("key", b"\x5f\x41k\xff"))), "meta_value")
refused("call with its trace in chunks", "P-4", Env(2, target="a", meta=cmap(("trace", b"\x7f\xff"))), "meta_value")
refused("call with timeout_ms as text", "P-4", Env(2, target="a", meta=cmap(("timeout_ms", text("soon")))), "meta_value")
refused("call with timeout_ms negative", "P-4", Env(2, target="a", meta=cmap(("timeout_ms", b"\x20"))), "meta_value")

refused("call with prio 8", "P-4", Env(2, target="a", meta=cmap(("prio", uint(8)))), "meta_value")
refused("call with idempotent as a number", "P-4", Env(2, target="a", meta=cmap(("idempotent", uint(1)))), "meta_value")
refused("call with hedge_ms as a float", "P-4", Env(2, target="a", meta=cmap(("hedge_ms", b"\xf9\x3c\x00"))), "meta_value")
refused("call with a number as its key", "P-4", Env(2, target="a", meta=cmap(("key", uint(7)))), "meta_value")
refused("offer with in_flight 0", "P-4", Env(4, target="a", meta=cmap(("serve", TRUE), ("in_flight", uint(0)))), "meta_value")
refused("offer with in_flight as text", "P-4", Env(4, target="a", meta=cmap(("serve", TRUE), ("in_flight", text("8")))), "meta_value")
refused("offer with an empty zone", "P-4", Env(4, target="a", meta=cmap(("serve", TRUE), ("zone", text("")))), "meta_value")
refused("offer with a zone of 256 bytes", "P-4", Env(4, target="a", meta=cmap(("serve", TRUE), ("zone", text("z" * 256)))), "meta_value")
refused("stream that opens with credit as text", "P-4", Env(3, target="a", meta=cmap(("credit", text("64k")))), "meta_value")
refused("stream that opens with negative credit", "P-4", Env(3, target="a", meta=cmap(("credit", b"\x20"))), "meta_value")
refused("stream that opens with end as a number", "P-4", Env(3, target="a", meta=cmap(("end", uint(1)))), "meta_value")
refused("stream that opens with timeout_ms null", "P-4", Env(3, target="a", meta=cmap(("timeout_ms", NULL))), "meta_value")
bad(F, "stream grant as text is ignored", "P-3.7", Env(3, 2, ref=1, meta=cmap(("credit", text("1")))).encode(), "meta_value", after=[EVENT])
bad(F, "stream chunk with end null is ignored", "P-3.7", Env(3, 2, ref=1, meta=cmap(("end", NULL)), payload=uint(1)).encode(), "meta_value",
    after=[EVENT])

# --- streams ---------------------------------------------------------------------------------------------------------

F = "streams"
GO, FAIL = Env(3, 2, ref=1, meta=cmap(("end", TRUE))), Env(3, 2, ref=1, error=cmap(("code", uint(13)), ("message", text("broken"))))
CANCEL = Env(6, 2, ref=1)


def chunk(size, end=False):
    """A chunk of so many bytes: its payload is a byte string, whose head is one byte up to 24 bytes in all, then two."""
    payload = bstr(bytes(size - (1 if size <= 24 else 2)))
    assert len(payload) == size
    return Env(3, 2, ref=1, meta=cmap(("end", TRUE)) if end else None, payload=payload)


def grant(n):
    return Env(3, 2, ref=1, credit=n)


def life(name, *steps, opened="here", ends=False, granted=64, credit=64, clause="P-3.11"):
    """What one end of a stream hears (an envelope and what it means) and sends (a word), and its state at the end."""
    *steps, state = steps
    told = []
    for step in steps:
        if isinstance(step, tuple) and isinstance(step[0], Env):
            told.append({"hear": step[0].encode().hex(), "means": step[1]})
        else:
            told.append({"send": step[0], "may": step[1]} if len(step) == 2 else {"send": step[0], "bytes": step[1], "may": step[2]})
    everything = b"".join(step[0].encode() for step in steps if isinstance(step[0], Env))
    add(F, {"name": name, "clause": clause, "kind": "stream-life", "hex": everything.hex(), "opened": opened, "ends": ends,
            "granted": granted, "credit": credit, "steps": told, "state": state})


life("a stream of answers", (chunk(20), "chunk"), ("grant", 20, True), (chunk(20), "chunk"), (chunk(3, end=True), "last"), "closed", ends=True)
life("a stream of answers, seen from who serves it", ("chunk", 30, True), (grant(10), "granted"), ("chunk", 44, True), ("chunk", 1, False),
     ("end", True), "closed", opened="there", ends=True)
life("a stream that says nothing", (GO, "ended"), "closed", ends=True)
life("both directions, the other side ends first", (chunk(5), "chunk"), (GO, "ended"), ("chunk", 64, True), ("chunk", 1, False),
     (grant(8), "granted"), ("last", 8, True), "closed")
life("both directions, this side ends first", ("end", True), ("chunk", 1, False), ("end", False), (chunk(5), "chunk"), ("grant", 5, True),
     (grant(5), "ignored"), (GO, "ended"), "closed")
life("half closed", (GO, "ended"), ("grant", 1, False), "active")
life("a chunk of exactly the credit", (chunk(64), "chunk"), ("grant", 64, True), (chunk(64), "chunk"), "active")
life("a chunk one byte over the credit", (chunk(65), "beyond"), (chunk(1), "ignored"), ("end", False), "closed")
life("a last chunk one byte over what is left", (chunk(60), "chunk"), (chunk(5, end=True), "beyond"), "closed")
life("a grant in time", (chunk(60), "chunk"), ("grant", 1, True), (chunk(5, end=True), "last"), "active")
life("no credit at first, as a gateway has it", ("chunk", 1, False), (grant(1), "granted"), ("chunk", 1, True), ("chunk", 1, False),
     "active", credit=0)
life("an end needs no credit", ("end", True), "active", credit=0)
life("an end behind an end", (GO, "ended"), (GO, "behind"), "closed")
life("a chunk behind an end", (GO, "ended"), (chunk(1), "behind"), "closed")
life("a chunk behind the open that ended", (chunk(1), "behind"), "closed", opened="there", ends=True)
life("an error in the middle", (chunk(5), "chunk"), (FAIL, "failed"), (chunk(5), "ignored"), ("chunk", 1, False), "closed")
life("an error behind an end", (GO, "ended"), (FAIL, "failed"), "closed")
life("an open that is refused", (FAIL, "failed"), "closed", ends=True)
life("this side fails it", ("error", True), ("error", False), (GO, "ignored"), "closed")
life("this side cancels a stream of answers", (chunk(5), "chunk"), ("cancel", True), (chunk(5), "ignored"), ("grant", 9, False),
     (GO, "ended"), "closed", ends=True)
life("this side cancels, and the last chunk was under way", ("cancel", True), (chunk(5, end=True), "ended"), "closed")
life("this side cancels, and the other breaks its credit", ("cancel", True), (chunk(65), "beyond"), "closed")
life("this side cancels, twice", ("cancel", True), ("cancel", False), ("chunk", 1, False), ("end", False), "cancelling")
life("this side cancels, and an error was under way", ("cancel", True), (FAIL, "failed"), "closed")
life("both cancel at once", ("cancel", True), (CANCEL, "ended"), "closed")
life("the other side cancels", (CANCEL, "cancelled"), ("chunk", 1, False), ("grant", 1, False), (grant(5), "ignored"), ("end", True), "closed")
life("the other side cancels, and is answered by an error", (CANCEL, "cancelled"), ("error", True), "closed")
life("the other side cancels, and so does this one", (CANCEL, "cancelled"), ("cancel", True), "closed")
life("the other side cancels twice", (CANCEL, "cancelled"), (CANCEL, "ignored"), "cancelling")
life("the other side cancels behind its end", (GO, "ended"), (CANCEL, "cancelled"), ("end", True), "closed", opened="there")
life("the other side cancels what this side has ended", ("end", True), (CANCEL, "ended"), "closed")
life("a chunk behind a cancel", (CANCEL, "cancelled"), (chunk(1), "behind"), "closed")
life("everything late", ("end", True), (GO, "ended"), (grant(1), "ignored"), (chunk(99), "ignored"), (GO, "ignored"), (FAIL, "ignored"),
     (CANCEL, "ignored"), "closed")

# --- frames ----------------------------------------------------------------------------------------------------------

F = "frames"


def frame(body, length=None):
    return (len(body) if length is None else length).to_bytes(4, "big") + body


def stream(name, clause, raw, limit, bodies, partial=False, too_large=False):
    vector = {"name": name, "clause": clause, "kind": "stream", "hex": raw.hex(), "limit": limit,
              "bodies": [b.hex() for b in bodies]}
    if too_large:
        vector["error"] = {"fault": "frame_too_large", "code": 8, "answered": False, "closes": True}
    else:
        vector["partial"] = partial
    add(F, vector)


P, E = PING.encode(), EVENT.encode()
stream("one frame", "P-1.1", frame(P), 65536, [P])
stream("three frames", "P-1.1", frame(P) + frame(E) + frame(P), 65536, [P, E, P])
stream("an empty frame between two", "P-1.6", frame(P) + frame(b"") + frame(E), 65536, [P, b"", E])
stream("nothing", "P-1.1", b"", 65536, [])
stream("a frame with two envelopes", "P-2.2", frame(P + E), 65536, [P + E])
stream("half of a length", "P-1.1", b"\0\0", 65536, [], partial=True)
stream("a length and no body yet", "P-1.1", frame(P)[:4], 65536, [], partial=True)
stream("a frame and the beginning of another", "P-1.1", frame(E) + frame(P)[:-1], 65536, [E], partial=True)
stream("a frame as large as the limit", "P-1.3", frame(bytes(300)), 300, [bytes(300)])
stream("a frame one byte over the limit", "P-1.4", frame(bytes(301)), 300, [], too_large=True)
stream("a frame one byte over the limit, only announced", "P-1.4", frame(b"", 301), 300, [], too_large=True)
stream("a good frame, then one over the limit", "P-1.4", frame(P) + frame(b"", 65537) + E, 65536, [P], too_large=True)
stream("a length of 4 GiB - 1", "P-1.4", b"\xff" * 4, 16 * 1024 * 1024, [], too_large=True)
stream("an HTTP request on a FLUXAR port", "P-1.4", b"GET / HTTP/1.1\r\n\r\n", 16384, [], too_large=True)
stream("a TLS hello on a FLUXAR port", "P-1.4", bytes.fromhex("1603010200010001fc0303"), 16384, [], too_large=True)
stream("16 KiB and one byte before the hello", "P-1.3", frame(b"", 16385), 16384, [], too_large=True)

# --- hello -----------------------------------------------------------------------------------------------------------

F = "hello"
NO_CAPS = {"zstd": False, "gzip": False, "multi": False, "datagram": False, "resume": False}


def hello(name, payload, **differs):
    value = {"v0": True, "caps": NO_CAPS, "max_frame": 1048576, "heartbeat_ms": 15000, "credit": 65536, "agent": "",
             "auth": None, "resume": None}
    assert set(differs) <= set(value)
    value.update(differs)
    add(F, {"name": name, "clause": "P-7.2", "kind": "hello-payload", "hex": payload.hex(), "hello": value})


def welcome(name, payload, **differs):
    value = {"v": 0, "session": mid(77).hex(), "token": None, "caps": NO_CAPS, "max_frame": 1048576, "heartbeat_ms": 15000,
             "credit": 65536, "resumed": False, "recv": 0, "limits": None, "agent": ""}
    assert set(differs) <= set(value)
    value.update(differs)
    add(F, {"name": name, "clause": "P-7.2", "kind": "welcome-payload", "hex": payload.hex(), "welcome": value})


def not_a(kind, name, payload):
    add(F, {"name": name, "clause": "P-7.2", "kind": f"{kind}-payload", "hex": payload.hex(),
            "error": {"fault": "hello", "code": 3, "answered": True, "closes": True}})


V = ("v", arr(uint(0)))
hello("the least", cmap(V))
hello("with an agent", cmap(V, ("agent", text("tour/1"))), agent="tour/1")
hello("everything", cmap(
    V, ("caps", cmap(("compress", arr(text("zstd"), text("gzip"))), ("multi", TRUE), ("datagram", TRUE), ("resume", TRUE),
                     ("seal", arr(text("x25519"))))),
    ("max_frame", uint(65536)), ("heartbeat_ms", uint(5000)), ("credit", uint(0)), ("agent", text("a/1")),
    ("auth", cmap(("scheme", text("bearer")), ("token", text("s3cret")))),
    ("resume", cmap(("session", bstr(mid(77))), ("token", bstr(b"0123456789abcdef")), ("recv", uint(12345))))),
    caps=dict.fromkeys(NO_CAPS, True), max_frame=65536, heartbeat_ms=5000, credit=0, agent="a/1",
    auth={"scheme": "bearer", "token": "s3cret"},
    resume={"session": mid(77).hex(), "token": b"0123456789abcdef".hex(), "recv": 12345})
hello("unknown keys", cmap(V, ("x", arr()), ("caps", cmap(("teleport", TRUE)))))
hello("unknown compressions", cmap(V, ("caps", cmap(("compress", arr(text("brotli"), text("gzip")))))), caps={**NO_CAPS, "gzip": True})
hello("several versions", cmap(("v", arr(uint(3), uint(0), uint(1)))))
hello("versions without 0", cmap(("v", arr(uint(1)))), v0=False)
hello("no versions", cmap(("v", arr())), v0=False)
hello("nulls for what is absent", cmap(V, *((k, NULL) for k in ("caps", "max_frame", "heartbeat_ms", "credit", "agent", "auth", "resume"))))
hello("max_frame over the most is taken as the most", cmap(V, ("max_frame", uint(2**31))), max_frame=16777216)
hello("max_frame beyond 32 bits", cmap(V, ("max_frame", uint(2**40))), max_frame=16777216)
hello("credit beyond 32 bits is taken as the most", cmap(V, ("credit", uint(2**40))), credit=2**32 - 1)
hello("heartbeat below the least is taken as the least", cmap(V, ("heartbeat_ms", uint(1))), heartbeat_ms=100)
hello("heartbeat over the most is taken as the most", cmap(V, ("heartbeat_ms", uint(2**40))), heartbeat_ms=3600000)
hello("auth without a token", cmap(V, ("auth", cmap(("scheme", text("mtls"))))), auth={"scheme": "mtls", "token": None})
hello("a map of indefinite length", b"\xbf" + text("v") + b"\x9f\x00\xff" + b"\xff")
for name, payload in (
    ("null", NULL),
    ("an array", arr(arr(uint(0)))),
    ("an empty map", cmap()),
    ("without v", cmap(("agent", text("x")))),
    ("v as a number", cmap(("v", uint(0)))),
    ("v with a text in it", cmap(("v", arr(text("0"))))),
    ("v twice", cmap(V, V)),
    ("v null", cmap(("v", NULL))),
    ("key that is a number", cmap(V, (uint(1), uint(1)))),
    ("caps as an array", cmap(V, ("caps", arr(text("resume"))))),
    ("caps.resume as a number", cmap(V, ("caps", cmap(("resume", uint(1)))))),
    ("caps.compress as a text", cmap(V, ("caps", cmap(("compress", text("zstd")))))),
    ("caps.compress with a number in it", cmap(V, ("caps", cmap(("compress", arr(uint(1))))))),
    ("max_frame below the least", cmap(V, ("max_frame", uint(65535)))),
    ("max_frame 0", cmap(V, ("max_frame", uint(0)))),
    ("max_frame negative", cmap(V, ("max_frame", b"\x20"))),
    ("max_frame as text", cmap(V, ("max_frame", text("1MiB")))),
    ("heartbeat_ms as a float", cmap(V, ("heartbeat_ms", b"\xf9\x3c\x00"))),
    ("credit as bytes", cmap(V, ("credit", bstr(b"\1")))),
    ("agent as a number", cmap(V, ("agent", uint(1)))),
    ("agent in chunks", cmap(V, ("agent", b"\x7f\x61a\xff"))),
    ("unknown key in chunks", cmap(V, (b"\x7f\x61x\xff", uint(1)))),
    ("auth with a scheme in chunks", cmap(V, ("auth", cmap(("scheme", b"\x7f\x66bearer\xff"))))),
    ("auth as a text", cmap(V, ("auth", text("bearer x")))),
    ("auth without a scheme", cmap(V, ("auth", cmap(("token", text("x")))))),
    ("auth with a token that is bytes", cmap(V, ("auth", cmap(("scheme", text("bearer")), ("token", bstr(b"x")))))),
    ("resume without a token", cmap(V, ("resume", cmap(("session", bstr(mid(1))), ("recv", uint(0)))))),
    ("resume without recv", cmap(V, ("resume", cmap(("session", bstr(mid(1))), ("token", bstr(b"t")))))),
    ("resume with a session of 8 bytes", cmap(V, ("resume", cmap(("session", bstr(bytes(8))), ("token", bstr(b"t")), ("recv", uint(0)))))),
):
    not_a("hello", name, payload)

W = (("v", uint(0)), ("session", bstr(mid(77))))
welcome("the least answer", cmap(*W))
welcome("an answer with everything", cmap(
    *W, ("token", bstr(bytes(range(16)))), ("caps", cmap(("compress", arr(text("zstd"))), ("resume", TRUE))),
    ("max_frame", uint(4194304)), ("heartbeat_ms", uint(20000)), ("credit", uint(131072)), ("resumed", TRUE), ("recv", uint(7)),
    ("limits", cmap(("calls", uint(1000)))), ("agent", text("gw/1"))),
    token=bytes(range(16)).hex(), caps={**NO_CAPS, "zstd": True, "resume": True}, max_frame=4194304, heartbeat_ms=20000, credit=131072,
    resumed=True, recv=7, limits=cmap(("calls", uint(1000))).hex(), agent="gw/1")
welcome("an answer with a null token", cmap(*W, ("token", NULL), ("resumed", FALSE)))
for name, payload in (
    ("an answer that is null", NULL),
    ("an answer without v", cmap(W[1])),
    ("an answer with an array as v", cmap(V, W[1])),
    ("an answer without a session", cmap(W[0])),
    ("an answer with a session of 15 bytes", cmap(W[0], ("session", bstr(bytes(15))))),
    ("an answer with a text as token", cmap(*W, ("token", text("t")))),
    ("an answer with a number as resumed", cmap(*W, ("resumed", uint(0)))),
):
    not_a("welcome", name, payload)

# --- sessions: what is counted, and what is sent again -----------------------------------------------------------------

F = "sessions"


def counts(env):
    """P-7.7, for envelopes that are right."""
    if env.kind in (1, 7) or (env.kind in (5, 6) and env.ref is None):
        return False
    return not (env.kind == 4 and env.ref is not None and env.meta and text("run") in env.meta)


def counted(name, *parts):
    """A body, part by part: envelopes, or (bytes of one that is refused, whether it counts)."""
    parts = [(p.encode(), counts(p)) if isinstance(p, Env) else p for p in parts]
    add(F, {"name": name, "clause": "P-7.7", "kind": "counted", "hex": b"".join(raw for raw, _ in parts).hex(),
            "counted": [c for _, c in parts]})


def session(name, *steps):
    """What one side sends, hears of its peer's `recv`, and sends again when the peer comes back with one."""
    sent, told, everything = [], [], b""
    for verb, *what in steps:
        if verb == "send":
            body = b"".join(e.encode() for e in what)
            sent += [e.encode() for e in what if counts(e)]
            everything += body
            told.append({"send": body.hex()})
        elif verb == "covered":
            told.append({"covered": what[0]})
        else:
            assert what[0] <= len(sent)
            told.append({"resume": what[0], "again": None if what[1:] else b"".join(sent[what[0]:]).hex()})
    add(F, {"name": name, "clause": "P-7.7", "kind": "session-life", "hex": everything.hex(), "steps": told})


CALL = Env(2, 1, target="a.b", payload=uint(1))
ANSWER = Env(2, 2, ref=1, payload=text("yes"))
OPEN = Env(3, 3, target="a.b")
CHUNK = Env(3, 4, ref=3, payload=bstr(bytes(9)))
SUBSCRIBE = Env(4, 5, target="a.*")
SERVE = Env(4, 6, target="a.*", meta=cmap(("serve", TRUE)))
ACCEPTED = Env(4, 7, ref=5, payload=cmap(("epoch", uint(1)), ("at", arr())))
EVENT = Env(5, 8, target="a.b", payload=uint(7))
PUBLISH = Env(5, 9, target="a.b", meta=cmap(("qos", uint(1))))
STORED = Env(5, 10, ref=9, meta=cmap(("at", arr(uint(3), uint(41)))))
RUN = Env(4, 11, ref=5, meta=cmap(("run", uint(2))))
LOGGED = Env(4, 12, ref=5, meta=cmap(("run", arr(uint(3), uint(41), uint(1)))))
ACK = Env(5, 13, ref=5, meta=cmap(("ack", arr(uint(3), uint(42)))))
MOVED = Env(4, 14, ref=5, meta=cmap(("at", arr(uint(3), uint(50)))))
DROPPED = Env(4, 15, ref=5, meta=cmap(("dropped", uint(2))))
OVER = Env(4, 16, ref=5, meta=cmap(("end", TRUE)))
CANCEL = Env(6, 17, ref=1)
GOODBYE = Env(6, 18)
PING = Env(7, 19, meta=cmap(("recv", uint(3))))
PONG = Env(7, 20, ref=19, meta=cmap(("recv", uint(4))))

counted("calls, answers and cancels count", CALL, ANSWER, CANCEL)
counted("streams count, part by part", OPEN, CHUNK)
counted("subscriptions, offers and what is said of them count", SUBSCRIBE, SERVE, ACCEPTED, MOVED, DROPPED, OVER)
counted("publishes and events do not count, acknowledgements of both kinds do", EVENT, PUBLISH, STORED, ACK)
counted("runs do not count, neither their headers nor their events", RUN, EVENT, EVENT, LOGGED, EVENT, EVENT, CALL)
counted("pings and a goodbye do not count", PING, PONG, GOODBYE)
counted("a ping and an event in named form do not count, a call does",
        Env(7, 1, named=True), Env(5, 2, target="a", named=True), Env(2, 3, target="a", named=True))
counted("what is refused counts by its type and ref",
        (arr(uint(2), bstr(mid(1)), NULL, text("a"), NULL, b"\x61\xff", NULL), True),
        (arr(uint(5), bstr(mid(2)), NULL, text("a"), NULL, b"\x61\xff", NULL), False),
        (arr(uint(5), bstr(mid(3)), bstr(mid(9)), NULL, NULL, b"\x61\xff", NULL), True),
        (arr(uint(7), bstr(mid(4)), NULL, NULL, NULL, b"\x61\xff", NULL), False),
        (arr(uint(9), bstr(mid(5)), NULL, NULL, NULL, NULL, NULL), True),
        Env(2, 6, target="a..b"))
counted("a late answer counts, though nobody waits for it", Env(2, 1, ref=999), Env(6, 2, ref=998))
session("everything again to a peer that has nothing", ("send", CALL, ANSWER), ("send", CHUNK), ("resume", 0))
session("what is not counted is not sent again", ("send", EVENT, CALL, RUN, EVENT, EVENT, ANSWER, PING), ("resume", 0))
session("only what is behind recv", ("send", CALL, ANSWER, CHUNK), ("send", STORED), ("resume", 2))
session("again and again, for answers get lost", ("send", CALL, ANSWER), ("resume", 1), ("resume", 1), ("send", CHUNK), ("resume", 1))
session("what was covered is gone", ("send", CALL), ("send", ANSWER), ("covered", 1), ("resume", 0, "refused"), ("resume", 1))
session("nothing is left to send again", ("send", CALL, ANSWER), ("covered", 2), ("send", PONG), ("resume", 2))

# --- write -----------------------------------------------------------------------------------------------------------


def render(vectors):
    """One vector a line, so that a change shows as what it is."""
    return "[\n" + ",\n".join(json.dumps(v, ensure_ascii=False) for v in vectors) + "\n]\n"


def main():
    stale = []
    for name, vectors in FILES.items():
        names = [v["name"] for v in vectors]
        assert len(names) == len(set(names)) or name == "hello", name
        path = HERE / f"{name}.json"
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != render(vectors):
                stale.append(path.name)
        else:
            path.write_text(render(vectors))
    everything = [v for vectors in FILES.values() for v in vectors]
    malformed = sum("error" in v for v in everything)
    print(f"{len(everything)} vectors, {malformed} of them malformed")
    if stale:
        sys.exit(f"not what make.py writes: {', '.join(stale)}")


if __name__ == "__main__":
    main()
