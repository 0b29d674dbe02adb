// The streams of examples/browser/fluxar.js, with a gateway that this test plays by hand over a WebSocket of its own: what
// is sent, when, and what is made of what arrives. No gateway and no browser: node --test tests/browser/streams.test.mjs
import assert from "node:assert/strict";
import { test } from "node:test";

import "../../examples/browser/fluxar.js";

const { Client, encode, readBody } = globalThis.fluxar;
const [HELLO, CALL, STREAM, SUBSCRIBE, , CANCEL] = [1, 2, 3, 4, 5, 6];
const settled = () => new Promise((resolve) => setTimeout(resolve, 0));
const text = (bytes) => "x".repeat(bytes - 3); // encodes to so many bytes, from 259 to 65,538

/** The other end of a client's connection. */
class Gateway {
  sent = []; // by the client, not yet looked at
  #serial = 0;

  constructor(options = {}, welcome = { v: 0, credit: 0 }) {
    const gateway = this;
    globalThis.WebSocket = class {
      static OPEN = 1;
      readyState = 1;
      constructor() {
        gateway.socket = this;
        setTimeout(() => this.onopen?.(), 0);
      }
      send(bytes) {
        gateway.sent.push(...readBody(bytes));
      }
      close() {
        this.readyState = 3;
      }
    };
    this.client = new Client("ws://test", options);
    this.welcome = welcome;
  }

  async open() {
    await settled();
    await settled();
    const hello = this.take(HELLO);
    this.say(HELLO, hello.id, { payload: this.welcome });
    return this;
  }

  static open = (options, welcome) => new Gateway(options, welcome).open();

  /** The next message of the client, which must be of this type. */
  take(type) {
    const message = this.sent.shift();
    assert.equal(message?.type, type, `type of what was sent: ${JSON.stringify(message)}`);
    return message;
  }

  nothing() {
    assert.deepEqual(this.sent, []);
  }

  say(type, ref, { target = null, meta = null, payload = null, error = null } = {}) {
    const id = new Uint8Array(16).fill(0xee);
    new DataView(id.buffer).setUint32(0, (this.#serial += 1));
    this.socket.onmessage({ data: encode([type, id, ref, target, meta, payload, error]).buffer });
    return id;
  }

  /** Accepts an offer, and calls it. */
  serve(pattern, handler) {
    const offer = this.client.serve(pattern, handler);
    this.say(SUBSCRIBE, this.take(SUBSCRIBE).id, { payload: { epoch: 0, at: [] } });
    return offer;
  }

  close() {
    this.client.close();
  }
}

const using = (name, body, options, welcome) => test(name, async () => {
  const gateway = await Gateway.open(options, welcome);
  try {
    await body(gateway, gateway.client);
  } finally {
    gateway.close();
  }
});
const collect = async (items) => {
  const all = [];
  for await (const item of items) all.push(item);
  return all;
};
const fails = (promise, code) => assert.rejects(promise, (error) => error.code === code || assert.fail(`${error.code}: ${error.message}`));

using("a stream of answers: open, items as they come, the end", async (gateway, client) => {
  const stream = client.stream("a.b", { n: 3 }, { timeoutMs: 5000, meta: { prio: 6 } });
  const open = gateway.take(STREAM);
  assert.deepEqual([open.ref, open.target, open.meta, open.payload],
    [null, "a.b", { prio: 6, timeout_ms: 5000, end: true, credit: 65536 }, { n: 3 }]);
  const first = stream.next(); // asked for before it is there
  gateway.say(STREAM, open.id, { payload: 1 });
  assert.deepEqual(await first, { value: 1, done: false });
  gateway.say(STREAM, open.id, { payload: null }); // a chunk like any other
  gateway.say(STREAM, open.id, { payload: 3, meta: { end: true } });
  gateway.say(STREAM, open.id, { payload: 4 }); // too late
  assert.deepEqual(await collect(stream), [null, 3]);
  gateway.nothing();
});

using("an error comes behind the items in front of it", async (gateway, client) => {
  const stream = client.stream("a.b");
  const { id } = gateway.take(STREAM);
  gateway.say(STREAM, id, { payload: 1 });
  gateway.say(STREAM, id, { error: { code: 15, message: "lost the rest" } });
  assert.deepEqual(await stream.next(), { value: 1, done: false });
  await fails(stream.next(), "data_loss");
  gateway.nothing();
});

using("an open that is refused fails", async (gateway, client) => {
  const stream = client.duplex("a.b");
  gateway.say(STREAM, gateway.take(STREAM).id, { error: { code: 14, message: "nobody serves a.b" } });
  await fails(stream.next(), "unavailable");
  await fails(stream.send(1), "unavailable");
});

using("leaving the loop cancels, once", async (gateway, client) => {
  const stream = client.stream("a.b");
  const { id } = gateway.take(STREAM);
  gateway.say(STREAM, id, { payload: 1 });
  for await (const item of stream) {
    assert.equal(item, 1);
    break;
  }
  assert.deepEqual(gateway.take(CANCEL).ref, id);
  stream.cancel();
  gateway.say(STREAM, id, { payload: 2 });
  gateway.say(STREAM, id, { meta: { end: true } });
  assert.deepEqual(await stream.next(), { value: undefined, done: true });
  gateway.nothing();
});

using("cancel ends a loop that waits", async (gateway, client) => {
  const stream = client.stream("a.b");
  const all = collect(stream);
  await settled();
  stream.cancel();
  assert.deepEqual(await all, []);
  gateway.take(STREAM);
  gateway.take(CANCEL);
});

using("a signal and a time cancel with their reason", async (gateway, client) => {
  const stop = new AbortController();
  const stopped = client.stream("a.b", null, { signal: stop.signal });
  const late = client.stream("a.b", null, { timeoutMs: 5 });
  gateway.take(STREAM);
  gateway.take(STREAM);
  const [first, second] = [fails(stopped.next(), "cancelled"), fails(late.next(), "deadline_exceeded")];
  stop.abort();
  await Promise.all([first, second]);
  gateway.take(CANCEL);
  gateway.take(CANCEL);
  assert.throws(() => client.stream("a.b", null, { signal: stop.signal }));
});

using("nothing is sent before it was granted, and then in order", async (gateway, client) => {
  const stream = client.duplex("a.b");
  const { id, meta } = gateway.take(STREAM);
  assert.equal(meta.end, undefined);
  const done = [];
  for (const item of [text(300), text(400), text(500)]) stream.send(item).then(() => done.push(item.length));
  const finished = stream.finish();
  await settled();
  gateway.nothing();
  gateway.say(STREAM, id, { meta: { credit: 1000 } });
  assert.equal(gateway.take(STREAM).payloadBytes, 300);
  assert.equal(gateway.take(STREAM).payloadBytes, 400);
  gateway.nothing(); // 300 are left, 500 wanted
  await settled();
  assert.equal(done.length, 2);
  gateway.say(STREAM, id, { meta: { credit: 200 }, payload: "no chunk" });
  assert.equal(gateway.take(STREAM).payloadBytes, 500);
  assert.deepEqual(gateway.take(STREAM).meta, { end: true });
  await finished;
  await fails(stream.send(1), "failed_precondition");
  gateway.say(STREAM, id, { payload: "still open here" });
  gateway.say(STREAM, id, { meta: { end: true } });
  assert.deepEqual(await collect(stream), ["still open here"]);
});

using("an item for which there will never be room is refused, and the stream goes on", async (gateway, client) => {
  const stream = client.duplex("a.b");
  const { id } = gateway.take(STREAM);
  const large = fails(stream.send(text(1001)), "resource_exhausted");
  const small = stream.send(text(1000));
  gateway.say(STREAM, id, { meta: { credit: 1000 } });
  await Promise.all([large, small]);
  assert.equal(gateway.take(STREAM).payloadBytes, 1000);
  gateway.nothing();
});

using("credit goes back as items are taken", async (gateway, client) => {
  const stream = client.stream("a.b", null, { creditBytes: 1000 });
  const { id, meta } = gateway.take(STREAM);
  assert.equal(meta.credit, 1000);
  for (let n = 0; n < 3; n += 1) gateway.say(STREAM, id, { payload: text(300) });
  await settled();
  gateway.nothing(); // nobody has taken anything
  await stream.next();
  gateway.nothing();
  await stream.next();
  assert.deepEqual(gateway.take(STREAM).meta, { credit: 600 });
  gateway.say(STREAM, id, { payload: text(300) });
  gateway.say(STREAM, id, { payload: text(300), meta: { end: true } });
  assert.equal((await collect(stream)).length, 3);
  gateway.nothing(); // what has ended needs no more
});

using("a reader that waits for more grants the rest", async (gateway, client) => {
  const stream = client.stream("a.b", null, { creditBytes: 1000 });
  const { id } = gateway.take(STREAM);
  gateway.say(STREAM, id, { payload: text(300) });
  await stream.next();
  const waiting = stream.next();
  gateway.nothing();
  while (!gateway.sent.length) await settled(); // or the chunk of 1,000 that is to come would never fit
  assert.deepEqual(gateway.take(STREAM).meta, { credit: 300 });
  gateway.say(STREAM, id, { payload: text(1000) });
  assert.equal((await waiting).value.length, 997);
});

using("a chunk beyond the credit fails the stream, and only that", async (gateway, client) => {
  const stream = client.stream("a.b", null, { creditBytes: 1000 });
  const neighbour = client.stream("a.b");
  const [{ id }, other] = [gateway.take(STREAM), gateway.take(STREAM)];
  gateway.say(STREAM, id, { payload: text(700) });
  gateway.say(STREAM, id, { payload: text(301) });
  const told = gateway.take(STREAM);
  assert.deepEqual([told.ref, told.error.code], [id, 9]);
  await stream.next();
  await fails(stream.next(), "failed_precondition");
  gateway.say(STREAM, other.id, { payload: 7, meta: { end: true } });
  assert.deepEqual(await collect(neighbour), [7]);
});

using("the other side cancels: ours ends too", async (gateway, client) => {
  const stream = client.duplex("a.b");
  const { id } = gateway.take(STREAM);
  const waiting = fails(stream.send("x"), "cancelled");
  gateway.say(CANCEL, id);
  await waiting;
  assert.equal(stream.signal.aborted, true);
  assert.deepEqual(gateway.take(STREAM).meta, { end: true });
  await fails(stream.next(), "cancelled");
  gateway.nothing();
});

using("serves a stream with a generator", async (gateway) => {
  gateway.serve("count.*", async function* (payload, { target, meta }) {
    for (let n = 0; n < payload; n += 1) yield `${target} ${n} ${meta.x}`;
  });
  const id = gateway.say(STREAM, null, { target: "count.up", meta: { end: true, credit: 100, x: 5 }, payload: 2 });
  await settled();
  assert.deepEqual([gateway.take(STREAM), gateway.take(STREAM)].map(({ ref, payload }) => [ref, payload]), [[id, "count.up 0 5"], [id, "count.up 1 5"]]);
  assert.deepEqual(gateway.take(STREAM).meta, { end: true });
  gateway.nothing();
});

using("a generator waits for credit, and is ended by a cancel", async (gateway) => {
  let ended = false;
  let made = 0;
  gateway.serve("endless", async function* (_, { signal }) {
    try {
      for (;;) {
        made += 1;
        yield text(300);
      }
    } finally {
      ended = signal.aborted;
    }
  });
  const id = gateway.say(STREAM, null, { target: "endless", meta: { end: true, credit: 700 } });
  await settled();
  assert.equal(gateway.sent.length, 2);
  assert.equal(made, 3);
  gateway.say(CANCEL, id);
  await settled();
  assert.deepEqual([ended, made], [true, 3]);
  gateway.take(STREAM);
  gateway.take(STREAM);
  assert.deepEqual(gateway.take(STREAM).meta, { end: true });
  gateway.nothing();
});

using("a generator that throws ends the stream by its error", async (gateway) => {
  gateway.serve("fails", async function* () {
    yield 1;
    throw new fluxar.FluxarError("aborted", "enough");
  });
  const id = gateway.say(STREAM, null, { target: "fails", meta: { end: true, credit: 100 } });
  await settled();
  assert.equal(gateway.take(STREAM).payload, 1);
  const { ref, error } = gateway.take(STREAM);
  assert.deepEqual([ref, error], [id, { code: 10, message: "enough" }]);
  gateway.nothing();
});

using("a handler takes what its caller sends, and cancels what it leaves", async (gateway) => {
  gateway.serve("first.two", async function* (_, { items }) {
    let n = 0;
    for await (const item of items) {
      yield item * 10;
      if ((n += 1) === 2) break; // is no cancel
    }
  });
  const id = gateway.say(STREAM, null, { target: "first.two", meta: { credit: 100 } });
  for (const payload of [1, 2, 3]) gateway.say(STREAM, id, { payload });
  await settled();
  assert.deepEqual([gateway.take(STREAM).payload, gateway.take(STREAM).payload], [10, 20]);
  assert.deepEqual(gateway.take(STREAM).meta, { end: true });
  assert.deepEqual(gateway.take(CANCEL).ref, id);
  gateway.say(STREAM, id, { payload: 4 });
  gateway.say(STREAM, id, { meta: { end: true } });
  await settled();
  gateway.nothing();
});

using("a server that is done cancels what is still sent: its items come to a good end", async (gateway, client) => {
  const stream = client.duplex("a.b");
  const { id } = gateway.take(STREAM);
  const waiting = fails(stream.send("x"), "cancelled");
  gateway.say(STREAM, id, { payload: 1 });
  gateway.say(STREAM, id, { meta: { end: true } });
  gateway.say(CANCEL, id);
  await waiting;
  assert.deepEqual(await collect(stream), [1]);
  await stream.finish(); // it wanted no more
  assert.deepEqual(gateway.take(STREAM).meta, { end: true });
  gateway.nothing();
});

using("a plain answer is a stream of one, and a stream is no answer", async (gateway) => {
  gateway.serve("plain", () => 5);
  gateway.serve("streams", async function* () {});
  gateway.say(STREAM, null, { target: "plain", meta: { end: true, credit: 10 } });
  await settled();
  assert.equal(gateway.take(STREAM).payload, 5);
  gateway.take(STREAM);
  gateway.say(CALL, null, { target: "streams" });
  await settled();
  assert.equal(gateway.take(CALL).error.code, 12);
  gateway.say(STREAM, null, { target: "nobody", meta: { end: true } });
  assert.equal(gateway.take(STREAM).error.code, 14);
});

using("an offer that is taken back answers what is under way", async (gateway) => {
  const offer = gateway.serve("m", (payload) => payload + 1);
  offer.cancel();
  const { ref } = gateway.take(CANCEL);
  gateway.say(CALL, null, { target: "m", payload: 1 });
  await settled();
  assert.equal(gateway.take(CALL).payload, 2);
  gateway.say(SUBSCRIBE, ref, { meta: { end: true } });
  gateway.say(CALL, null, { target: "m", payload: 1 });
  await settled();
  assert.equal(gateway.take(CALL).error.code, 14);
});

test("a stream waits for the connection, and fails when it is lost", async () => {
  const gateway = new Gateway();
  const [stream, never] = [gateway.client.stream("a.b"), gateway.client.stream("a.b")];
  never.cancel(); // of that nobody hears
  await gateway.open();
  const { id } = gateway.take(STREAM);
  gateway.nothing();
  gateway.say(STREAM, id, { payload: 1 });
  gateway.socket.onclose({ code: 1006, reason: "" });
  assert.deepEqual(await stream.next(), { value: 1, done: false });
  await fails(stream.next(), "unavailable");
  gateway.close();
});

test("a gateway that announces credit may be sent to at once", async () => {
  const gateway = await Gateway.open({}, { v: 0 }); // 64 KiB, by default
  const stream = gateway.client.duplex("a.b");
  await stream.send("x");
  gateway.take(STREAM);
  assert.equal(gateway.take(STREAM).payload, "x");
  gateway.close();
});

using("what is sent after the server's handler has returned is cancelled", async (gateway, client) => {
  const stream = client.duplex("a.b");
  const { id } = gateway.take(STREAM);
  gateway.say(STREAM, id, { payload: 1, meta: { end: true } });
  gateway.say(CANCEL, id);
  assert.equal(gateway.take(STREAM).meta.end, true);
  await fails(stream.send(1), "cancelled");
  await stream.finish();
  assert.deepEqual(await collect(stream), [1]);
  gateway.nothing();
});

using("an error that cannot be sent whole is cut", async (gateway, client) => {
  const large = new fluxar.FluxarError("aborted", "m".repeat(100_000), text(60_000));
  const stream = client.duplex("a.b");
  gateway.take(STREAM);
  stream.fail(large);
  const { error } = gateway.take(STREAM);
  assert.deepEqual([error.code, error.message.slice(0, 3), error.details], [10, "mmm", undefined]);
  await fails(stream.next(), "aborted");
  // Nor is one of a handler kept from its caller, be it for its size or for what is no CBOR.
  for (const thrown of [large, new fluxar.FluxarError("aborted", "mmm", () => {})]) {
    const offer = gateway.serve("c.d", () => { throw thrown; });
    gateway.say(CALL, null, { target: "c.d" });
    await settled();
    assert.equal(gateway.take(CALL).error.code, 10);
    gateway.say(STREAM, null, { target: "c.d" });
    await settled();
    assert.equal(gateway.take(STREAM).error.code, 10);
    offer.cancel();
    gateway.say(SUBSCRIBE, gateway.take(CANCEL).ref, { meta: { end: true } });
  }
  gateway.nothing();
}, {}, { v: 0, credit: 0, max_frame: 65_536 });

using("what is nested too deep costs that item only", async (gateway, client) => {
  const nested = (depth) => depth === 1 ? [] : [nested(depth - 1)];
  const stream = client.duplex("a.b", nested(64));
  const { id } = gateway.take(STREAM);
  gateway.say(STREAM, id, { meta: { credit: 1000 } });
  await fails((async () => stream.send(nested(65)))(), "invalid_argument");
  await stream.send(nested(64));
  assert.deepEqual(gateway.take(STREAM).payload, nested(64));
  await fails(client.call("a.b", nested(65)), "invalid_argument");
  assert.throws(() => client.publish("a.b", { a: nested(64) }), { code: "invalid_argument" });
  assert.ok(client.publish("a.b", nested(64)));
  assert.throws(() => client.stream("a.b", nested(65)), { code: "invalid_argument" });
});
