// Sessions of examples/browser/fluxar.js that outlive their connections, with a gateway that this test plays by hand over
// WebSockets of its own. No gateway and no browser: node --test tests/browser/resume.test.mjs
import assert from "node:assert/strict";
import { test } from "node:test";

import "../../examples/browser/fluxar.js";

const { Client, encode, readBody } = globalThis.fluxar;
const [HELLO, CALL, STREAM, SUBSCRIBE, EVENT, CANCEL, PING] = [1, 2, 3, 4, 5, 6, 7];
const session = new Uint8Array(16).fill(9);
const token = (number) => new Uint8Array(16).fill(number);

/** The other end of a client's connections, one after the other. */
class Gateway {
  #connections = []; // that were not looked at
  #waiting = null;
  #serial = 0;

  constructor(options) {
    const gateway = this;
    globalThis.WebSocket = class {
      static OPEN = 1;
      readyState = 0;
      sent = [];
      constructor() {
        gateway.#connections.push(this);
        gateway.#waiting?.();
      }
      send(bytes) {
        this.sent.push(...readBody(bytes));
      }
      close() {
        this.readyState = 3;
      }
    };
    this.client = new Client("ws://test", { retryLeastMs: 2, retryMostMs: 5, ...options });
  }

  /** Takes the next connection, and returns its hello. */
  async accept() {
    while (!this.#connections.length) await new Promise((resolve) => (this.#waiting = resolve));
    this.socket = this.#connections.shift();
    this.socket.readyState = 1;
    this.socket.onopen();
    return this.take(HELLO);
  }

  /** The same, and welcomes it: with `recv`, the session goes on. */
  async welcome(number, recv) {
    const hello = await this.accept();
    const payload = { v: 0, session, token: token(number), caps: { resume: true }, credit: 65536, resumed: recv !== undefined, recv };
    this.say(HELLO, hello.id, { payload });
    return hello.payload;
  }

  /** The next message of the client, which must be of this type. */
  take(type) {
    const message = this.socket.sent.shift();
    assert.equal(message?.type, type, `type of what was sent: ${JSON.stringify(message)}`);
    return message;
  }

  nothing() {
    assert.deepEqual(this.socket.sent, []);
  }

  say(type, ref, { target = null, meta = null, payload = null, error = null } = {}) {
    const id = new Uint8Array(16).fill(0xee);
    new DataView(id.buffer).setUint32(0, (this.#serial += 1));
    this.socket.onmessage({ data: encode([type, id, ref, target, meta, payload, error]).buffer });
    return id;
  }

  /** Loses the connection, without a word. */
  lose() {
    this.socket.readyState = 3;
    this.socket.onclose({ code: 1006, reason: "" });
  }
}

const using = (name, body, options) => test(name, { timeout: 20_000 }, async () => {
  const gateway = new Gateway(options);
  try {
    await body(gateway, gateway.client);
  } finally {
    gateway.client.close();
  }
});
const resumed = (number, recv) => ({ session, token: token(number), recv });

using("what was under way goes on, and only what the gateway has not is sent again", async (gateway, client) => {
  const hello = await gateway.welcome(1);
  assert.deepEqual([hello.caps, hello.resume], [{ resume: true }, undefined]);
  const seen = [];
  client.subscribe("a.*", (payload) => seen.push(payload));
  gateway.say(SUBSCRIBE, gateway.take(SUBSCRIBE).id, { payload: { epoch: 0, at: [] } });
  const answer = client.call("sum", 1);
  const call = gateway.take(CALL);
  const stream = client.duplex("double");
  const open = gateway.take(STREAM);
  gateway.say(STREAM, open.id, { payload: 1 });
  assert.equal((await stream.next()).value, 1);
  await stream.send(2);
  gateway.take(STREAM);
  gateway.lose();
  await stream.send(3); // waits for the next connection
  const late = client.call("late", 2);

  assert.deepEqual((await gateway.welcome(2, 3)).resume, resumed(1, 2));
  assert.deepEqual([gateway.take(STREAM), gateway.take(STREAM)].map(({ payload }) => payload), [2, 3]);
  assert.deepEqual(gateway.take(PING).meta, { recv: 2 });
  gateway.say(CALL, gateway.take(CALL).id, { payload: 20 });
  gateway.nothing(); // it is not subscribed again
  gateway.say(CALL, call.id, { payload: 10 });
  assert.deepEqual(await Promise.all([answer, late]), [10, 20]);
  gateway.say(STREAM, open.id, { payload: 4 });
  assert.equal((await stream.next()).value, 4);
  gateway.say(EVENT, null, { target: "a.b", payload: 5 });
  assert.deepEqual(seen, [5]);

  gateway.lose();
  assert.deepEqual((await gateway.welcome(3, 6)).resume, resumed(2, 5));
  gateway.take(PING);
  gateway.nothing();
});

using("an answer that is lost leaves the token as it was", async (gateway) => {
  await gateway.welcome(1);
  gateway.lose();
  assert.deepEqual((await gateway.accept()).payload.resume, resumed(1, 0));
  gateway.lose();
  assert.deepEqual((await gateway.welcome(2, 0)).resume, resumed(1, 0));
});

using("a session that is not known any more ends what was under way", async (gateway, client) => {
  await gateway.welcome(1);
  client.subscribe("a.b", () => {});
  gateway.say(SUBSCRIBE, gateway.take(SUBSCRIBE).id, { payload: { epoch: 0, at: [] } });
  const answer = client.call("sum", 1);
  gateway.take(CALL);
  gateway.lose();
  assert.deepEqual((await gateway.welcome(7)).resume, resumed(1, 1));
  await assert.rejects(answer, { code: "unavailable" });
  gateway.take(SUBSCRIBE);
  gateway.nothing();
  gateway.lose();
  assert.deepEqual((await gateway.welcome(8, 1)).resume, resumed(7, 0));
});

using("a goodbye ends the session", async (gateway, client) => {
  await gateway.welcome(1);
  const answer = client.call("sum", 1);
  gateway.take(CALL);
  gateway.say(CANCEL, null, { error: { code: 14, message: "stopping", retry_after_ms: 1 } });
  await assert.rejects(answer, { code: "unavailable", message: "stopping" });
  assert.equal((await gateway.welcome(2)).resume, undefined);
});

using("counts are told, and those of what was never sent are a breach", async (gateway, client) => {
  await gateway.welcome(1);
  gateway.say(PING, null);
  assert.deepEqual(gateway.take(PING).meta, { recv: 0 });
  const answer = client.call("large");
  gateway.say(CALL, gateway.take(CALL).id, { payload: "x".repeat(70_000) });
  await answer;
  assert.deepEqual(gateway.take(PING).meta, { recv: 1 }); // due
  gateway.say(PING, null, { meta: { recv: 1 } });
  gateway.take(PING);
  gateway.lose();
  await gateway.welcome(2, 1);
  gateway.take(PING);
  gateway.nothing(); // what was told is let go
  gateway.say(PING, null, { meta: { recv: 2 } });
  assert.equal(gateway.take(CANCEL).error.code, 9);
  assert.equal((await gateway.welcome(3)).resume, undefined);
});

using("stored events are sent again behind the answer to a ping", async (gateway, client) => {
  await gateway.welcome(1);
  const stored = [1, 2].map((payload) => client.store("a.b", payload));
  const published = [gateway.take(EVENT), gateway.take(EVENT)];
  gateway.lose();
  stored.push(client.store("a.b", 3));
  await gateway.welcome(2, 0);
  const ping = gateway.take(PING);
  gateway.nothing();
  gateway.say(EVENT, published[0].id, { meta: { at: [0, 1] } }); // it was lost on its way
  gateway.say(PING, ping.id);
  for (const [number, payload] of [[2, 2], [3, 3]]) {
    const event = gateway.take(EVENT);
    assert.equal(event.payload, payload);
    gateway.say(EVENT, event.id, { meta: { at: [0, number] } });
  }
  assert.deepEqual(await Promise.all(stored), [[0, 1], [0, 2], [0, 3]]);
});

using("a refusal for the moment leaves the session as it was", async (gateway, client) => {
  await gateway.welcome(1);
  const answer = client.call("sum", 1);
  const call = gateway.take(CALL);
  gateway.lose();
  await gateway.accept();
  gateway.say(CANCEL, null, { error: { code: 8, message: "too many connections", retry_after_ms: 1 } });
  assert.deepEqual((await gateway.welcome(2, 1)).resume, resumed(1, 0));
  gateway.say(CALL, call.id, { payload: 10 });
  assert.equal(await answer, 10);
});

using("what cannot be read is answered by a goodbye", async (gateway) => {
  await gateway.welcome(1);
  const { socket } = gateway;
  socket.onmessage({ data: new Uint8Array([0xff]).buffer });
  assert.deepEqual([gateway.take(CANCEL).error.code, socket.readyState], [3, 3]);
  assert.equal((await gateway.welcome(2)).resume, undefined);
});

using("what was handled is told again to a gateway that does not know it any more", async (gateway, client) => {
  await gateway.welcome(1);
  let handled = 0;
  client.consume("a.b", () => (handled += 1), { durable: "d" });
  const run = (first, count, dup) => {
    const subscription = gateway.socket.subscription;
    const envelopes = [[SUBSCRIBE, subscription, null, { run: [0, first, ...Array(count - 1).fill(1)], dup }, null]];
    for (let nth = 0; nth < count; nth += 1) envelopes.push([EVENT, null, "a.b", null, nth]);
    const id = new Uint8Array(16);
    const parts = envelopes.map(([type, ref, target, meta, payload]) => encode([type, id, ref, target, meta, payload, null], -1));
    const body = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
    parts.reduce((at, part) => (body.set(part, at), at + part.length), 0);
    gateway.socket.onmessage({ data: body.buffer });
  };
  const accept = (at) => {
    const { id, meta } = gateway.take(SUBSCRIBE);
    assert.equal(meta.durable, "d");
    gateway.socket.subscription = id;
    gateway.say(SUBSCRIBE, id, { payload: { epoch: 1 << 20, at: [[0, at]] } });
  };
  const acknowledged = async () => {
    while (!gateway.socket.sent.length) await new Promise((resolve) => setTimeout(resolve, 1));
    const { ref, meta } = gateway.take(EVENT);
    assert.deepEqual(ref, gateway.socket.subscription);
    return meta.ack;
  };
  accept(5);
  run(6, 10);
  assert.deepEqual([await acknowledged(), handled], [[0, 15], 10]);

  gateway.lose();
  await gateway.welcome(2);
  accept(3); // it was killed before it had written that down
  assert.deepEqual(await acknowledged(), [0, 15]);
  run(4, 12, 12); // and may have sent these before it heard
  assert.deepEqual([await acknowledged(), handled], [[0, 15], 10]);
  run(16, 1);
  assert.deepEqual([await acknowledged(), handled], [[0, 16], 11]);
});

using("where a subscription is to begin may be said in a word", async (gateway, client) => {
  await gateway.welcome(1);
  for (const from of ["all", "new"]) {
    const subscribed = client.consume("a.b", () => {}, { from });
    assert.equal(gateway.take(SUBSCRIBE).meta.from, from);
    subscribed.cancel();
    gateway.take(CANCEL);
  }
});

using("what is cancelled while it waits to be asked for again is not asked for", async (gateway, client) => {
  await gateway.welcome(1);
  const subscribed = client.consume("a.b", () => {}, { group: "g" });
  const wanted = client.consume("a.c", () => {});
  const [asked, other] = [gateway.take(SUBSCRIBE), gateway.take(SUBSCRIBE)];
  for (const { id } of [asked, other]) {
    gateway.say(SUBSCRIBE, id, { error: { code: 14, message: "it is being recovered", retry_after_ms: 20 } });
  }
  subscribed.cancel();
  assert.deepEqual(gateway.take(CANCEL).ref, asked.id);
  // The other one's turn comes later than this one's would have.
  while (!gateway.socket.sent.length) await new Promise((resolve) => setTimeout(resolve, 1));
  assert.equal(gateway.take(SUBSCRIBE).target, "a.c");
  gateway.nothing();
  wanted.cancel();
});

using("each row of a table is acknowledged, and where a place is named no table comes", async (gateway, client) => {
  await gateway.welcome(1);
  client.consume("t.a", () => {}, { retain: true, from: { epoch: 1 << 20, at: [[1, 60]] } });
  const { id } = gateway.take(SUBSCRIBE);
  gateway.say(SUBSCRIBE, id, { payload: { epoch: 1 << 20, at: [[0, 50], [1, 60]] } });
  const row = [[SUBSCRIBE, id, null, { run: [0, 7] }, null], [EVENT, null, "t.a", null, 1]];
  const parts = row.map(([type, ref, target, meta, payload]) => encode([type, new Uint8Array(16), ref, target, meta, payload, null], -1));
  const body = new Uint8Array(parts[0].length + parts[1].length);
  body.set(parts[0]);
  body.set(parts[1], parts[0].length);
  gateway.socket.onmessage({ data: body.buffer });
  while (!gateway.socket.sent.length) await new Promise((resolve) => setTimeout(resolve, 1));
  assert.deepEqual(gateway.take(EVENT).meta, { ack: [0, 7] });
  gateway.lose();
  await gateway.welcome(2);
  assert.deepEqual(gateway.take(SUBSCRIBE).meta.from, { epoch: 1 << 20, at: [[1, 60]] });
});

using("who wants no resume gets none", async (gateway, client) => {
  const hello = await gateway.welcome(1);
  assert.deepEqual([hello.caps, hello.resume], [undefined, undefined]);
  const answer = client.call("sum", 1);
  gateway.take(CALL);
  gateway.lose();
  await assert.rejects(answer, { code: "unavailable" });
  assert.equal((await gateway.welcome(2)).resume, undefined);
}, { resume: false });

test("a page that goes away says goodbye, and one that is shown again begins anew", { timeout: 20_000 }, async () => {
  const listeners = new Map();
  globalThis.addEventListener = (name, listener) => listeners.set(name, listener);
  globalThis.removeEventListener = (name, listener) => listeners.get(name) === listener && listeners.delete(name);
  try {
    const gateway = new Gateway();
    await gateway.welcome(1);
    const { socket } = gateway;
    listeners.get("pagehide")();
    assert.deepEqual([gateway.take(CANCEL).ref, socket.readyState], [null, 3]);
    assert.equal((await gateway.welcome(2)).resume, undefined);
    gateway.client.close();
    assert.equal(listeners.size, 0);
  } finally {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  }
});
