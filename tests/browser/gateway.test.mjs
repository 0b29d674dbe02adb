// Streams, calls, stored events and resumed sessions of examples/browser/fluxar.js through a gateway that runs: both ends are such clients.
//
//   FLUXAR_WS=ws://127.0.0.1:9001 node --test tests/browser/gateway.test.mjs
import assert from "node:assert/strict";
import net from "node:net";
import { after, test } from "node:test";

import { WebSocket } from "ws";

import "../../examples/browser/fluxar.js";

globalThis.WebSocket ??= WebSocket; // Node has one of its own since 22
const { Client, FluxarError } = globalThis.fluxar;
const url = process.env.FLUXAR_WS;
assert.ok(url, "FLUXAR_WS names a gateway");

const clients = [];
const connect = (options) => {
  clients.push(new Client(url, options));
  return clients.at(-1);
};
after(() => clients.forEach((client) => client.close()));
const [caller, server] = [connect(), connect()];
const name = `js${process.pid}`;
const collect = async (items) => {
  const all = [];
  for await (const item of items) all.push(item);
  return all;
};
const fails = (promise, code) => assert.rejects(promise, (error) => error.code === code || assert.fail(`${error.code}: ${error.message}`));
const until = async (holds) => {
  const since = performance.now();
  while (!(await holds())) {
    assert.ok(performance.now() - since < 20_000, `not within 20 s: ${holds}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
};
let served = 0;
/** Serves a method of its own, and waits until the gateway's core of who is to call it knows. */
async function serve(handler, { at = server, from = caller } = {}) {
  const method = `${name}.m${(served += 1)}`;
  at.serve(method, handler);
  at.serve(`${method}.ready`, () => true); // cores tell each other of offers in their order
  await until(() => from.call(`${method}.ready`).then((answer) => answer, () => false));
  return method;
}

test("connects", async () => {
  await until(() => caller.ping().then(() => true, () => false));
  await until(() => server.ping().then(() => true, () => false));
});

test("a stream of answers", async () => {
  const method = await serve(async function* (count) {
    for (let n = 0; n < count; n += 1) yield { n };
  });
  assert.deepEqual(await collect(caller.stream(method, 3)), [{ n: 0 }, { n: 1 }, { n: 2 }]);
  assert.equal((await collect(caller.stream(method, 20_000))).length, 20_000);
});

test("a hundred at the same time keep their items apart and in order", async () => {
  const method = await serve(async function* (base) {
    for (let n = 0; n < 100; n += 1) yield base + n;
  });
  const all = await Promise.all(Array.from({ length: 100 }, (_, n) => collect(caller.stream(method, n * 1000))));
  all.forEach((items, base) => assert.deepEqual(items, Array.from({ length: 100 }, (_, n) => base * 1000 + n)));
});

test("both directions, each with its own end", async () => {
  const method = await serve(async function* (_, { items }) {
    let sum = 0;
    for await (const item of items) yield (sum += item);
    yield "sum";
  });
  const stream = caller.duplex(method);
  for (const item of [1, 2, 3]) await stream.send(item);
  assert.deepEqual([await stream.next(), await stream.next(), await stream.next()].map(({ value }) => value), [1, 3, 6]);
  await stream.finish();
  assert.deepEqual(await collect(stream), ["sum"]);
});

test("an error in the middle", async () => {
  const method = await serve(async function* () {
    yield 1;
    throw new FluxarError("data_loss", "that was all there is", { left: 5 });
  });
  const stream = caller.stream(method);
  assert.equal((await stream.next()).value, 1);
  await assert.rejects(stream.next(), { code: "data_loss", message: "that was all there is", details: { left: 5 } });
  await fails(collect(caller.stream(`${name}.nobody`)), "unavailable");
});

test("cancel stops the producer", async () => {
  let made = 0;
  let isEnded = false;
  const method = await serve(async function* (_, { signal }) {
    try {
      for (;;) {
        yield (made += 1);
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
    } finally {
      isEnded = signal.aborted;
    }
  });
  for await (const item of caller.stream(method)) if (item === 10) break;
  await until(() => isEnded);
  const madeThen = made;
  await caller.ping();
  assert.equal(made, madeThen);
});

test("a reader that stops stops its writer, and no neighbour", async () => {
  let sent = 0;
  const item = "x".repeat(1000);
  const method = await serve(async function* () {
    for (; sent < 10_000; sent += 1) yield item;
  });
  const quick = await serve((payload) => payload);
  const stream = caller.stream(method, null, { creditBytes: 20_000 });
  await stream.next();
  await until(async () => {
    const before = sent;
    for (let n = 0; n < 20; n += 1) assert.equal(await caller.call(quick, n), n); // the same connections
    return sent === before;
  });
  assert.ok(sent >= 15 && sent <= 25, `${sent} items of 1,003 bytes with 20,000 of credit`);
  assert.equal((await collect(stream)).length, 9_999);
});

test("the time of a stream counts for both sides", async () => {
  let isAborted = false;
  const method = await serve(async function* (_, { signal }) {
    yield 1;
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    isAborted = true;
  });
  const stream = caller.stream(method, null, { timeoutMs: 1000 });
  assert.equal((await stream.next()).value, 1);
  await fails(stream.next(), "deadline_exceeded");
  await until(() => isAborted);
});

test("whoever is called may call back", async () => {
  const title = await serve(() => "a page", { at: caller, from: server });
  const method = await serve(async function* (payload) {
    yield `${await server.call(payload)}, says it`;
  });
  assert.deepEqual(await collect(caller.stream(method, title)), ["a page, says it"]);
});

test("a server that goes away fails its streams", async () => {
  const short = connect();
  const method = await serve(async function* (_, { signal }) {
    yield 1;
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
  }, { at: short });
  const stream = caller.stream(method);
  assert.equal((await stream.next()).value, 1);
  short.close();
  await fails(stream.next(), "unavailable");
});

test("an opener that goes away ends the handler", async () => {
  const short = connect();
  await until(() => short.ping().then(() => true, () => false));
  let isAborted = false;
  const method = await serve(async function* (_, { signal }) {
    yield 1;
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    isAborted = true;
  }, { from: short });
  assert.equal((await short.stream(method).next()).value, 1);
  short.close();
  await until(() => isAborted);
});

// --- stored events ---

/** Collects what a subscription to stored events brings. */
function consume(pattern, options = {}, { at = server, handle = () => {} } = {}) {
  const seen = [];
  let failed = null;
  const subscription = at.consume(pattern, async (payload, event) => {
    await handle(payload, event, seen);
    seen.push({ payload, ...event });
  }, { onerror: (error) => (failed = error), ...options });
  return { seen, subscription, error: () => failed };
}

test("a stored event has a place, and is delivered with it", async () => {
  const topic = `${name}.stored`;
  const places = [];
  for (let n = 0; n < 20; n += 1) places.push(await caller.store(topic, n));
  assert.deepEqual(places.map(([partition]) => partition), Array(20).fill(places[0][0]));
  const { seen, subscription } = consume(topic, { from: "all" });
  await until(() => seen.length === 20);
  assert.deepEqual(seen.map(({ payload, position, dup }) => ({ payload, position, dup })),
    places.map((position, payload) => ({ payload, position, dup: 0 })));
  subscription.cancel();
});

test("many are stored at once, in order", async () => {
  const topic = `${name}.many`;
  const places = await Promise.all(Array.from({ length: 2000 }, (_, n) => caller.store(topic, n, { once: n % 2 === 0 })));
  assert.ok(places.every(([, offset], n) => n === 0 || offset > places[n - 1][1]));
  const { seen, subscription } = consume(topic, { from: "all" });
  await until(() => seen.length === 2000);
  assert.ok(seen.every(({ payload }, n) => payload === n));
  subscription.cancel();
});

test("a durable name goes on behind what was handled", async () => {
  const topic = `${name}.durable`;
  for (let n = 0; n < 6; n += 1) await caller.store(topic, n);
  const failures = [];
  const first = consume(topic, { durable: "js", from: "all" }, {
    handle: (payload, _, seen) => {
      if (payload === 2 && !failures.length) throw failures.push(payload) && new Error("tried again");
      return payload < 3 ? null : new Promise(() => {}); // 3 is never done
    },
  });
  await until(() => first.seen.length === 3);
  assert.deepEqual(first.seen.map(({ payload }) => payload), [0, 1, 2]);
  first.subscription.cancel();
  const second = consume(topic, { durable: "js" });
  await until(() => second.seen.length === 3);
  assert.deepEqual(second.seen.map(({ payload }) => payload), [3, 4, 5]);
  second.subscription.cancel();
});

test("a group shares the work", async () => {
  const topic = `${name}.work`;
  const members = [server, caller].map((at) => consume(topic, { group: "js", inFlight: 8 }, { at }));
  await caller.ping();
  await server.ping();
  for (let n = 0; n < 100; n += 1) await caller.store(topic, n);
  await until(() => members[0].seen.length + members[1].seen.length >= 100);
  const all = members.flatMap(({ seen }) => seen.map(({ payload }) => payload)).sort((a, b) => a - b);
  assert.deepEqual(all, Array.from({ length: 100 }, (_, n) => n));
  for (const { subscription } of members) subscription.cancel();
});

test("a table comes before its changes", async () => {
  const topic = `${name}.table`;
  for (const [key, value] of [["gold", 1], ["tin", 2], ["gold", 3]]) {
    await caller.store(topic, value, { meta: { key, retain: true } });
  }
  const { seen, subscription } = consume(topic, { retain: true });
  await until(() => seen.length === 2);
  await caller.store(topic, 4, { meta: { key: "tin", retain: true } });
  await until(() => seen.length === 3);
  assert.deepEqual(seen.map(({ payload, meta }) => [meta.key, payload]), [["tin", 2], ["gold", 3], ["tin", 4]]);
  subscription.cancel();
  const partial = consume(topic, { retain: true, skipDamaged: true });
  await until(() => partial.seen.length === 2);
  assert.deepEqual(partial.seen.map(({ payload }) => payload), [3, 4], "nothing of it is damaged");
  partial.subscription.cancel();
  const wrong = consume(topic, { skipDamaged: true });
  await until(wrong.error);
  assert.equal(wrong.error().code, "invalid_argument");
});

test("a place that is not held is told", async () => {
  const { error } = consume(`${name}.gone`, { from: { epoch: 12345, at: [[0, 1]] } });
  await until(error);
  assert.equal(error().code, "out_of_range");
});

// --- sessions that outlive their connections ---

/** A relay in front of the gateway, whose connections can be cut, and clients that come through it. */
class Cutter {
  #relay; #pairs = new Set();

  async listen() {
    const { hostname, port } = new URL(url);
    this.#relay = net.createServer((socket) => {
      const upstream = net.connect(port, hostname);
      const pair = [socket, upstream];
      this.#pairs.add(pair);
      const end = () => {
        this.#pairs.delete(pair);
        pair.forEach((each) => each.destroy());
      };
      for (const each of pair) each.on("error", end).on("close", end).setNoDelay();
      socket.pipe(upstream).pipe(socket);
    });
    await new Promise((resolve) => this.#relay.listen(0, "127.0.0.1", resolve));
    return this;
  }

  /** A client, and in `welcomes` what the gateway said at each of its connections. */
  async connect(options) {
    const welcomes = [];
    const onstate = (state, info) => state === "open" && welcomes.push(info);
    clients.push(new Client(`ws://127.0.0.1:${this.#relay.address().port}/`, { retryLeastMs: 10, onstate, ...options }));
    await until(() => welcomes.length);
    return { client: clients.at(-1), welcomes };
  }

  /** Resets all connections, in the middle of whatever is on its way. */
  cut() {
    for (const pair of this.#pairs) pair.forEach((each) => each.resetAndDestroy());
  }

  close() {
    this.#relay.close();
    this.cut();
  }
}

/** With a client that is cut as often as this, each time when `body` says that there is a moment for it, and resumes each time. */
async function cutting(times, body, options) {
  const cutter = await new Cutter().listen();
  try {
    const { client, welcomes } = await cutter.connect(options);
    await body(client, async () => {
      if (welcomes.length > times) return;
      const before = welcomes.length;
      cutter.cut();
      await until(() => welcomes.length > before);
    });
    assert.deepEqual(welcomes.map(({ resumed }) => Boolean(resumed)), [false, ...Array(times).fill(true)], "resumed");
    client.close();
  } finally {
    cutter.close();
  }
}

test("calls outlive their connection, and each is handled and answered once", async () => {
  const handled = [];
  const waiting = [];
  const method = await serve(async (payload) => {
    handled.push(payload);
    await new Promise((resolve) => waiting.push(resolve));
    return { answer: payload };
  });
  await cutting(5, async (client, cut) => {
    let answers = 0;
    const calls = Array.from({ length: 50 }, (_, n) => client.call(method, n).finally(() => (answers += 1)));
    await until(() => waiting.length === 50);
    for (let round = 0; round < 5; round += 1) {
      // Some are answered in front of the cut, so that their answers are on the way, and some while there is no connection.
      waiting.splice(0, 5).forEach((answer) => answer());
      const back = cut();
      waiting.splice(0, 5).forEach((answer) => answer());
      calls.push(client.call(method, 100 + round).finally(() => (answers += 1)));
      await back;
      await until(() => handled.includes(100 + round));
    }
    assert.ok(answers <= 50, `${answers} answers, and five calls were not answered yet`);
    waiting.forEach((answer) => answer());
    const expected = [...Array.from({ length: 50 }, (_, n) => n), 100, 101, 102, 103, 104];
    assert.deepEqual(await Promise.all(calls), expected.map((answer) => ({ answer })));
    assert.deepEqual(handled.sort((a, b) => a - b), expected);
  });
});

test("streams outlive their connection, in both directions", async () => {
  const method = await serve(async function* (_, { items }) {
    for await (const item of items) yield [item, "x".repeat(500)];
  });
  await cutting(6, async (client, cut) => {
    const count = 3000;
    const stream = client.duplex(method);
    const sending = (async () => {
      for (let n = 0; n < count; n += 1) await stream.send(n);
      await stream.finish();
    })();
    const seen = [];
    for await (const [item] of stream) {
      seen.push(item);
      if (item % 400 === 399) await cut();
    }
    await sending;
    assert.deepEqual(seen, Array.from({ length: count }, (_, n) => n));
  });
});

test("what a page stores and consumes outlives its connection", async () => {
  const topic = `${name}.cut`;
  await cutting(6, async (client, cut) => {
    const { seen, subscription } = consume(topic, { from: "all" }, { at: client });
    const places = [];
    for (let round = 0; round < 6; round += 1) {
      const some = Array.from({ length: 200 }, (_, n) => client.store(topic, round * 200 + n, { once: true }));
      if (round % 2) await until(() => seen.length >= round * 200);
      const back = cut();
      places.push(...(await Promise.all(some)));
      await back;
    }
    await until(() => seen.length >= 1200);
    const all = Array.from({ length: 1200 }, (_, n) => n);
    assert.deepEqual(seen.map(({ payload }) => payload).sort((a, b) => a - b), all, "each is handled once");
    assert.equal(new Set(places.map(String)).size, 1200, "and has a place of its own");
    assert.ok(seen.every(({ position }, n) => n === 0 || position[1] > seen[n - 1].position[1]), "in the order of their places");
    subscription.cancel();
    const others = consume(topic, { from: "all" });
    await until(() => others.seen.length >= 1200);
    assert.deepEqual(others.seen.map(({ position }) => position), seen.map(({ position }) => position), "and nothing else is stored");
    others.subscription.cancel();
  });
});

test("a server that is cut goes on serving", async () => {
  await cutting(3, async (client, cut) => {
    const method = await serve((payload) => payload, { at: client });
    for (let round = 0; round < 3; round += 1) {
      await cut();
      assert.equal(await caller.call(method, round, { meta: { idempotent: true } }), round);
    }
  });
});
