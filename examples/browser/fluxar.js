// A FLUXAR client for the browser, by hand: no dependency, no build step. Over WebSocket it calls, serves, streams,
// publishes and subscribes at qos 0, stores and consumes at qos 1 and 2, and resumes its session.
// docs/protocol.md is all that it knows; [P-…] names the clause.
//
// A classic script, because pages opened from file:// cannot load modules. It leaves one name: `fluxar`.
//
//   const client = new fluxar.Client("ws://localhost:9001", { agent: "my-page/1" });
//   client.subscribe("host.>", (payload, { target }) => console.log(target, payload));
//   console.log(await client.call("host.info", null, { timeoutMs: 2000 }));
//   for await (const token of client.stream("llm.complete", { prompt: "Hello" })) console.log(token.text);
"use strict";
(() => {
  // --- CBOR (RFC 8949) ------------------------------------------------------------------------------------------

  const DEPTH_MAX = 64; // [P-3.5]; each field of an envelope is decoded on its own
  const utf8 = new TextEncoder();
  const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

  /** A tagged item, whose meaning is left to the application; a simple value without one has the tag "simple". */
  class Tagged {
    constructor(tag, value) {
      Object.assign(this, { tag, value });
    }
  }

  /** An item that is encoded already. */
  class Encoded {
    constructor(bytes) {
      Object.assign(this, { bytes });
    }
  }

  function concat(parts) {
    const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
    return whole;
  }

  /**
   * Encodes null, booleans, numbers, BigInts, strings, Uint8Arrays, arrays, Maps, plain objects and Tagged. `depth` levels
   * are around it: what is nested deeper than DEPTH_MAX would cost the connection.
   */
  function encode(value, depth = 0) {
    const parts = [];
    const head = (major, n) => {
      if (n < 24) return parts.push([(major << 5) | Number(n)]);
      const width = [0xff, 0xffff, 0xffffffff].findIndex((most) => n <= most);
      const wide = new Uint8Array(8);
      new DataView(wide.buffer).setBigUint64(0, BigInt(n));
      parts.push([(major << 5) | (24 + (width < 0 ? 3 : width))]); // the shortest that can say it [P-3.4]
      return parts.push(wide.subarray(8 - (width < 0 ? 8 : 1 << width)));
    };
    const nested = (items) => {
      if ((depth += 1) > DEPTH_MAX) throw new FluxarError("invalid_argument", `nested deeper than ${DEPTH_MAX}`);
      items.forEach(put);
      depth -= 1;
    };
    const pairs = (entries) => [head(5, entries.length), nested(entries.flat(1))];
    const put = (item) => {
      if (item === null || item === undefined) parts.push([0xf6]);
      else if (item === false) parts.push([0xf4]);
      else if (item === true) parts.push([0xf5]);
      else if (typeof item === "number") {
        if (Number.isSafeInteger(item) && !Object.is(item, -0)) return item < 0 ? head(1, -1 - item) : head(0, item);
        const double = new Uint8Array(8);
        new DataView(double.buffer).setFloat64(0, item);
        parts.push([0xfb], double);
      } else if (typeof item === "bigint") {
        if (item >= 1n << 64n || item < -(1n << 64n)) throw new RangeError("a CBOR integer has 64 bits");
        return item < 0n ? head(1, -1n - item) : head(0, item);
      } else if (typeof item === "string" || item instanceof Uint8Array) {
        const bytes = typeof item === "string" ? utf8.encode(item) : item;
        head(typeof item === "string" ? 3 : 2, bytes.length);
        parts.push(bytes);
      } else if (Array.isArray(item)) {
        head(4, item.length);
        nested(item);
      } else if (item instanceof Tagged) {
        head(6, item.tag);
        nested([item.value]);
      } else if (item instanceof Encoded) parts.push(item.bytes);
      else if (item instanceof Map) pairs([...item]);
      else if (typeof item === "object") pairs(Object.entries(item).filter(([, v]) => v !== undefined));
      else throw new TypeError(`no CBOR for a ${typeof item}`);
    };
    put(value);
    return concat(parts);
  }

  /**
   * Decodes the item at `start` and says where it ended: `{ value, end }`. Maps whose keys are all texts become
   * objects, others Maps; integers beyond 2^53 become BigInts. Throws for what is not well-formed [P-3.5].
   */
  function decode(bytes, start = 0) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let at = start;
    const fail = (what) => {
      throw new SyntaxError(`CBOR: ${what} (at byte ${at})`);
    };
    const take = (count) => {
      if (count > bytes.length - at) fail("the input ends inside an item");
      at += Number(count);
      return at - Number(count);
    };
    const endsHere = () => bytes[at] === 0xff && take(1) >= 0; // a break
    const argument = (info) => {
      if (info < 24) return info;
      if (info === 24) return view.getUint8(take(1));
      if (info === 25) return view.getUint16(take(2));
      if (info === 26) return view.getUint32(take(4));
      if (info > 27) return fail("a reserved head, or a break that ends nothing");
      const wide = view.getBigUint64(take(8));
      return wide <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(wide) : wide;
    };
    const string = (major, length) => {
      const from = take(length);
      return major === 2 ? bytes.slice(from, at) : strictUtf8.decode(bytes.subarray(from, at));
    };
    const chunks = (major) => {
      const parts = [];
      while (!endsHere()) {
        const first = bytes[take(1)];
        if (first >> 5 !== major) fail("a chunk of another kind");
        parts.push(string(major, argument(first & 31)));
      }
      return major === 3 ? parts.join("") : concat(parts);
    };
    const half = (bits) => {
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      const size = exponent === 31 ? (fraction ? NaN : Infinity)
        : exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
      return bits & 0x8000 ? -size : size;
    };
    const simple = (info) => {
      if (info === 25) return half(view.getUint16(take(2)));
      if (info === 26) return view.getFloat32(take(4));
      if (info === 27) return view.getFloat64(take(8));
      const number = argument(info);
      if (info === 24 && number < 32) fail("a two-byte simple value below 32");
      return number < 20 || number > 23 ? new Tagged("simple", number) : [false, true, null, undefined][number - 20];
    };
    const item = (depth) => {
      const first = bytes[take(1)];
      const major = first >> 5;
      const info = first & 31;
      if (major === 7) return simple(info);
      if (major >= 4 && depth === DEPTH_MAX) fail(`nested deeper than ${DEPTH_MAX}`);
      const isEndless = info === 31 && major >= 2 && major <= 5;
      if (isEndless && major < 4) return chunks(major);
      const count = isEndless ? Infinity : argument(info);
      if (major === 0) return count;
      if (major === 1) return count < Number.MAX_SAFE_INTEGER ? -1 - count : -1n - BigInt(count);
      if (major < 4) return string(major, count);
      if (major === 6) return new Tagged(count, item(depth + 1));
      const items = [];
      for (let n = 0; n < count && !(isEndless && endsHere()); n += 1) {
        const first = item(depth + 1);
        items.push(major === 4 ? first : [first, item(depth + 1)]);
      }
      if (major === 4) return items;
      return items.every(([key]) => typeof key === "string") ? Object.fromEntries(items) : new Map(items);
    };
    return { value: item(0), end: at };
  }

  // --- envelopes ------------------------------------------------------------------------------------------------

  const HELLO = 1, CALL = 2, STREAM = 3, SUBSCRIBE = 4, EVENT = 5, CANCEL = 6, PING = 7; // [P-3.7]
  const NAMES = ["type", "id", "ref", "target", "meta", "payload", "error"]; // [P-3.2]
  const CODES = ["ok", "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists",
    "permission_denied", "resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented",
    "internal", "unavailable", "data_loss", "unauthenticated"]; // [P-3.6]

  /** An error of the protocol; `code` is one of the names of P-3.6. */
  class FluxarError extends Error {
    constructor(code, message, details = null, retryAfterMs = null) {
      super(message);
      Object.assign(this, { name: "FluxarError", code, details, retryAfterMs });
    }
    static from = (map) => new FluxarError(CODES[map.code] ?? "unknown", map.message, map.details, map.retry_after_ms);
    toMap = () => ({ code: Math.max(1, CODES.indexOf(this.code)), message: this.message, details: this.details ?? undefined });
  }

  /** What is left of an error's map that cannot be sent as it is: every peer takes that. */
  const cut = ({ code, message }) => ({ code, message: message.length > 300 ? `${message.slice(0, 300)}…` : message });
  const asFluxar = (error) => (error instanceof FluxarError ? error : new FluxarError("internal", String(error?.message ?? error)));
  const isId = (value) => value instanceof Uint8Array && value.length === 16;
  const isMap = (value) => value !== null && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype;
  const hex = (id) => Array.from(id, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const newId = () => crypto.getRandomValues(new Uint8Array(16));

  /**
   * Reads the envelopes of a frame body [P-2.2], in either form. Throws at the first that is none. `payloadBytes` is what
   * its payload costs of a stream's credit, `bytes` what it takes itself.
   */
  function* readBody(body) {
    for (let at = 0; at < body.length; ) {
      const start = at;
      const isNamed = body[at] === 0xa7;
      if (!isNamed && body[at] !== 0x87) throw new SyntaxError(`not an envelope (at byte ${start})`);
      at += 1;
      const next = () => {
        const { value, end } = decode(body, at);
        at = end;
        return value;
      };
      const message = {};
      for (const name of NAMES) {
        if (isNamed && next() !== name) throw new SyntaxError(`no ${name} where it belongs in the envelope at byte ${start}`);
        const from = at;
        message[name] = next();
        if (name === "payload") message.payloadBytes = at - from;
      }
      const { type, id, ref, target, meta, error } = message;
      const isRight = type >= HELLO && type <= PING && isId(id) && (ref === null || isId(ref)) && (meta === null || isMap(meta))
        && (target === null || (typeof target === "string" && target !== "" && utf8.encode(target).length <= 255))
        && (error === null || (isMap(error) && Number.isInteger(error.code) && typeof error.message === "string"));
      if (!isRight) throw new SyntaxError(`a field of the envelope at byte ${start} is not as it must be`);
      message.meta ??= {};
      message.bytes = at - start;
      yield message;
    }
  }

  /** Whether a pattern matches a name [P-5.1]. */
  function matches(pattern, name) {
    if (name.startsWith("$") && !pattern.startsWith("$")) return false;
    const tokens = name.split(".");
    const parts = pattern.split(".");
    const fits = parts.every((part, n) => n < tokens.length && (part === tokens[n] || part === "*" || part === ">"));
    return fits && (parts.length === tokens.length || parts.at(-1) === ">");
  }

  // --- sessions that outlive their connections ------------------------------------------------------------------

  const KEPT_BYTES_MAX = 4 * 1024 * 1024; // of what the gateway is not known to have; beyond it the oldest is forgotten
  const RECV_DUE_BYTES = 64 * 1024; // the gateway is told so often how much came
  const AWAY_MS = 60000; // how long it keeps a session, if it does not say

  /** Whether a message counts: it is neither lost nor repeated when its session goes on [P-7.7]. */
  function isCounted({ type, ref, meta }) {
    if (type === HELLO || type === PING) return false;
    return ref ? !(type === SUBSCRIBE && meta?.run !== undefined) : type !== EVENT && type !== CANCEL;
  }

  /** What a session needs to go on over another connection [P-7.6, P-7.7]. */
  class Session {
    #id; #token; #received = 0; #untoldBytes = 0;
    #kept = []; #keptBytes = 0; #sent = 0; // what is kept are the last ones of all that were sent

    /** The one that a welcome opens; null if it ends with its connection. */
    static of({ session, token, caps, limits }) {
      const awayMs = Number(limits?.resume_ms ?? AWAY_MS);
      return token && caps?.resume && awayMs > 0 ? Object.assign(new Session(), { awayMs }).#named(session, token) : null;
    }

    #named(id, token) {
      [this.#id, this.#token] = [id, token];
      return this;
    }

    /** What a hello says to go on. */
    wish() {
      return { session: this.#id, token: this.#token, recv: this.#received };
    }

    /** A counted message of so many bytes is carried out. */
    take(bytes) {
      this.#received += 1;
      this.#untoldBytes += bytes;
    }

    get isDue() {
      return this.#untoldBytes >= RECV_DUE_BYTES;
    }

    /** The meta of a ping that goes out now. */
    tell() {
      this.#untoldBytes = 0;
      return { recv: this.#received };
    }

    keep(bytes) {
      this.#sent += 1;
      this.#kept.push(bytes);
      this.#keptBytes += bytes.length;
      while (this.#keptBytes > KEPT_BYTES_MAX) this.#keptBytes -= this.#kept.shift().length;
    }

    /** The gateway has so many. False if so many were never sent. */
    covered(recv) {
      const more = Number(recv) - (this.#sent - this.#kept.length);
      if (more > this.#kept.length) return false;
      if (more > 0) for (const bytes of this.#kept.splice(0, more)) this.#keptBytes -= bytes.length;
      return true;
    }

    /** It goes on: what the gateway, which has so many, is to be sent again; null if that was forgotten. */
    resume({ token, recv = 0 }) {
      if (Number(recv) < this.#sent - this.#kept.length || !this.covered(recv)) return null;
      this.#token = token;
      this.#untoldBytes = 0;
      return this.#kept;
    }
  }

  // --- streams --------------------------------------------------------------------------------------------------

  const GRANT_MS = 100; // how long a reader waits for more before all that it took is granted again

  /**
   * One end of a stream [P-3.11]. `for await (const item of stream)` brings the other side's items, each as soon as it is
   * there; leaving the loop early cancels. An error of the other side is thrown behind the last item.
   */
  class Stream {
    #say; #ondone; #windowBytes; #grantedBytes;
    #creditBytes = null; #mostCreditBytes = 0; // null: not opened yet; the most that there ever was
    #arrived = []; #readers = []; #takenBytes = 0; #grantTimer = null;
    #unsent = []; #sentEnd; #receivedEnd; #error = null; #unsendable = null; #abort = new AbortController();

    constructor({ say, ondone, sentEnd = false, receivedEnd = false, windowBytes }) {
      this.#say = say; // (type, meta, payload, error): a message about this stream
      this.#ondone = ondone;
      [this.#sentEnd, this.#receivedEnd] = [sentEnd, receivedEnd];
      this.#windowBytes = this.#grantedBytes = windowBytes;
    }

    /** Aborted when the other side cancels, or the stream fails. */
    get signal() {
      return this.#abort.signal;
    }

    /** Sends an item; resolves when it has gone, which is not before the other side has room for it. */
    send(item) {
      return this.#queue(encode(item));
    }

    /** Ends this direction, behind what waits to be sent; the other side may go on. */
    finish() {
      return this.#sentEnd && !this.#error ? Promise.resolve() : this.#queue(null);
    }

    /** Ends both directions by an error. */
    fail(error) {
      if (this.#isDone) return;
      this.#say(STREAM, null, null, asFluxar(error).toMap());
      this.#close(asFluxar(error));
    }

    /** Nothing more is wanted. The loop over the items ends; with an `error`, by throwing it. */
    cancel(error = null) {
      if (this.#isDone) return;
      this.#say(CANCEL);
      this.#arrived = [];
      this.#close(error ?? new FluxarError("cancelled", "this stream was cancelled"), error);
    }

    next() {
      return new Promise((resolve, reject) => {
        this.#readers.push({ resolve, reject });
        this.#deliver();
      });
    }

    return() {
      this.cancel();
      return Promise.resolve({ value: undefined, done: true });
    }

    [Symbol.asyncIterator]() {
      return this;
    }

    get #isDone() {
      return this.#sentEnd && this.#receivedEnd;
    }

    // -- what the client calls

    /** The open has gone, or has come: so much may be sent. */
    opened(creditBytes) {
      this.#creditBytes = 0;
      this.#granted(creditBytes);
    }

    /** A part of it arrived. An error counts before a grant, a grant before a chunk. */
    receive({ meta, payload, payloadBytes, error }) {
      if (error) return this.#close(FluxarError.from(error));
      if (meta.credit !== undefined) return this.#granted(Number(meta.credit));
      const isChunk = !(meta.end && payload === null);
      if (this.#receivedEnd) return this.fail(new FluxarError("failed_precondition", "a chunk behind the end of its direction"));
      if (isChunk && payloadBytes > this.#grantedBytes) {
        return this.fail(new FluxarError("failed_precondition", `a chunk of ${payloadBytes} bytes; ${this.#grantedBytes} were granted`));
      }
      if (isChunk) {
        this.#grantedBytes -= payloadBytes;
        this.#arrived.push({ value: payload, bytes: payloadBytes });
      }
      if (meta.end) this.#receivedEnd = true;
      this.#deliver();
      if (this.#isDone) this.#over();
    }

    /** The other side cancelled. That was its end, if it had not ended before; ours follows at once. */
    cancelled() {
      if (!this.#sentEnd) this.#say(STREAM, { end: true });
      const error = new FluxarError("cancelled", "the other side cancelled this stream");
      this.#close(error, this.#receivedEnd ? null : error);
    }

    /** The connection is lost. */
    lost(error) {
      this.#close(error);
    }

    // -- within

    #granted(bytes) {
      this.#creditBytes += bytes;
      this.#mostCreditBytes = Math.max(this.#mostCreditBytes, this.#creditBytes);
      this.#flush();
    }

    #queue(bytes) {
      return new Promise((resolve, reject) => {
        this.#unsent.push({ bytes, resolve, reject });
        this.#flush();
      });
    }

    /** Sends what there is credit for, in order. */
    #flush() {
      for (; this.#unsent.length; this.#unsent.shift()) {
        const { bytes, resolve, reject } = this.#unsent[0];
        if (this.#sentEnd) {
          reject(this.#unsendable ?? new FluxarError("failed_precondition", "this direction of the stream has ended"));
          continue;
        }
        if (this.#creditBytes === null || (bytes && !this.#mostCreditBytes)) return;
        if (bytes?.length > this.#mostCreditBytes) {
          const what = `an item of ${bytes.length} bytes; the other side takes ${this.#mostCreditBytes} at a time`;
          reject(new FluxarError("resource_exhausted", what));
          continue;
        }
        if (bytes?.length > this.#creditBytes) return;
        try {
          this.#say(STREAM, bytes ? null : { end: true }, bytes && new Encoded(bytes));
        } catch (error) {
          reject(error); // too large for the connection: costs this item, not the stream
          continue;
        }
        if (bytes) this.#creditBytes -= bytes.length;
        else this.#sentEnd = true;
        resolve();
      }
      if (this.#isDone) this.#over();
    }

    /** Gives items, or the end, to who waits for them, and credit for what was taken to the other side. */
    #deliver() {
      for (; this.#readers.length; this.#readers.shift()) {
        const { resolve, reject } = this.#readers[0];
        if (this.#arrived.length) {
          const { value, bytes } = this.#arrived.shift();
          this.#takenBytes += bytes;
          resolve({ value, done: false });
        } else if (this.#error) reject(this.#error);
        else if (this.#receivedEnd) resolve({ value: undefined, done: true });
        else break;
      }
      if (this.#takenBytes >= this.#windowBytes / 2) this.#grant();
      // Each item at once would cost a grant for every item of a slow stream.
      else if (this.#takenBytes && this.#readers.length) this.#grantTimer ??= setTimeout(() => this.#grant(), GRANT_MS);
    }

    #grant() {
      clearTimeout(this.#grantTimer);
      this.#grantTimer = null;
      if (this.#receivedEnd) return;
      this.#say(STREAM, { credit: this.#takenBytes });
      this.#grantedBytes += this.#takenBytes;
      this.#takenBytes = 0;
    }

    /** Both directions are over: readers are told `thrown`, senders `error`. */
    #close(error, thrown = error) {
      if (this.#isDone) return;
      this.#error = thrown;
      this.#unsendable = error;
      this.#sentEnd = this.#receivedEnd = true;
      for (const { reject } of this.#unsent.splice(0)) reject(error);
      this.#deliver();
      this.#abort.abort(error);
      this.#over();
    }

    #over() {
      clearTimeout(this.#grantTimer);
      this.#ondone();
    }
  }

  // --- stored events --------------------------------------------------------------------------------------------

  /** How far a subscription to stored events has come [P-5.9]. Offsets are BigInt here. */
  class Logged {
    isExact; generation = 0; isEnded = false;
    #isTable; #keepsPlace; #named = new Set(); #epoch = null; #partitions = new Map(); #last = Promise.resolve();

    constructor({ isExact, isTable, keepsPlace }) {
      this.isExact = isExact;
      this.#isTable = isTable;
      this.#keepsPlace = keepsPlace;
    }

    /** Does it when all before it is done. */
    then(work) {
      this.#last = this.#last.then(work);
    }

    end() {
      this.isEnded = true;
    }

    /** The session goes on over another connection: what a member of a group had went to others. */
    resumed() {
      this.generation += 1;
      for (const each of this.#partitions.values()) each.dealt.clear();
    }

    /** What to ask for in a new session. */
    ask(meta) {
      this.resumed();
      const at = this.#epoch === null && typeof meta.from === "object" ? meta.from?.at : null;
      this.#named = new Set((at ?? []).map(([partition]) => Number(partition)));
      if (this.#epoch === null) return meta;
      if (!this.#keepsPlace) return { ...meta, from: undefined }; // the gateway knows
      // Of a table, what has not come whole is read again.
      const whole = [...this.#partitions].filter(([, { received, tableUntil }]) => received >= tableUntil);
      this.#named = new Set(whole.map(([partition]) => partition));
      return { ...meta, from: { epoch: this.#epoch, at: whole.map(([partition, { received }]) => [partition, received]) } };
    }

    /** False if these are not the logs that it began in: two epochs of the same differ in their low 20 bits [P-5.11]. */
    accepted({ epoch, at }) {
      const isFirst = this.#epoch === null;
      if (!isFirst && BigInt(this.#epoch) >> 20n !== BigInt(epoch) >> 20n) return false;
      this.#epoch = epoch;
      for (const [partition, offset] of at) {
        const hasTable = this.#isTable && !this.#named.has(partition); // none comes where a place was named [P-5.12]
        const isKnown = !isFirst && this.#partitions.has(partition);
        const known = this.#of(partition);
        if (hasTable) known.tableUntil = BigInt(offset);
        if (isKnown) this.#tellAgain(partition, BigInt(offset) + 1n);
        else if (!hasTable) known.received = known.handled = BigInt(offset);
      }
      return true;
    }

    /** What comes next there was handled before, and the gateway does not know it: it is told again. */
    #tellAgain(partition, next) {
      const { handled, done } = this.#of(partition);
      if (next <= handled && !done.length) done.push(handled);
    }

    /** Something is to be acknowledged. */
    get hasDone() {
      return [...this.#partitions.values()].some(({ done }) => done.length);
    }

    /** False if the event was received before. */
    receive(partition, offset) {
      const known = this.#of(partition);
      if (this.isExact) return !known.dealt.has(offset) && !known.done.includes(offset) && Boolean(known.dealt.add(offset));
      if (offset <= known.received) {
        this.#tellAgain(partition, offset);
        return false;
      }
      known.received = offset;
      return true;
    }

    moved(partition, offset) {
      const known = this.#of(partition);
      if (offset <= known.received) return;
      if (known.handled === known.received) known.handled = offset; // nothing is under way
      known.received = offset;
    }

    release(partition, offset) {
      this.#of(partition).dealt.delete(offset);
    }

    /** It was handled. Events are handled in order, so all before it were; in a group exactly this one counts. */
    done(partition, offset) {
      const known = this.#of(partition);
      known.dealt.delete(offset);
      if (!this.isExact) {
        known.done.length = 0;
        known.handled = offset;
      }
      if (!known.done.includes(offset)) known.done.push(offset); // twice the same would not be taken for an acknowledgement
    }

    /** The acknowledgements that are due: `[partition, offset]`, in a group `[partition, first, delta, …]`. */
    *acks() {
      for (const [partition, { done }] of this.#partitions) {
        done.sort((a, b) => (a < b ? -1 : 1));
        while (done.length) {
          const some = done.splice(0, 200); // they fit into meta [P-3.5]
          yield [partition, some[0], ...some.slice(1).map((offset, at) => offset - some[at])];
        }
      }
    }

    #of(partition) {
      if (!this.#partitions.has(partition)) {
        this.#partitions.set(partition, { received: 0n, handled: 0n, tableUntil: 0n, dealt: new Set(), done: [] });
      }
      return this.#partitions.get(partition);
    }
  }

  // --- the client -----------------------------------------------------------------------------------------------

  const DEFAULTS = {
    agent: "fluxar.js/0.1", auth: null, maxFrameBytes: 1024 * 1024, // auth: { scheme: "bearer", token }
    heartbeatMs: 15000, handshakeMs: 5000, callTimeoutMs: 10000, retryLeastMs: 250, retryMostMs: 10000,
    creditBytes: 64 * 1024, // of a stream's items that wait to be taken
    resume: true, // the session goes on when its connection is lost, if the gateway keeps it
  };
  const RETRY_AFTER_MS_MAX = 60000; // the longest that a gateway keeps a client away
  const ACK_MS = 10; // an acknowledgement waits so long for others to go with it
  const HELLO_LIMIT_BYTES = 16 * 1024; // until the gateway has said how much it takes [P-1.3]
  const FINAL = ["unauthenticated", "permission_denied", "unimplemented", "invalid_argument"];

  /** Tells the page something. What it throws costs it that, and not what came in the same message. */
  function tell(listener, ...news) {
    try {
      listener?.(...news);
    } catch (error) {
      console.error("a listener failed", error);
    }
  }

  /**
   * A connection that comes back by itself. `onstate(state, info)` hears "connecting", "open" (info: the gateway's
   * hello), "waiting" (info: { error, delayMs }) and "closed" (info: the error, or null).
   *
   * A gateway keeps the session for a while. When it goes on (`resumed` in the gateway's hello) calls and streams have seen
   * a pause, and no more; otherwise those that were under way fail with "unavailable".
   */
  class Client {
    #url; #options; #state; #socket = null; #isOpen = false; #attempts = 0; #openedAt = 0; #heardAt = 0;
    #timer = null; #heartbeat = null; #hello = null; #isClosed = false; #reason = null;
    #session = null; #isOver = false; #window = null; // a session that can go on; it must not; how long it may be away
    #resumePing = null; // stored events wait for its answer: acknowledgements that were lost come before it
    #limitBytes = HELLO_LIMIT_BYTES; // of one envelope
    #calls = new Map(); // id → an open call of ours
    #subscriptions = new Set(); // wanted, whether or not connected
    #byId = new Map(); // id → subscription, in this connection
    #serving = new Map(); // id → AbortController of a call that we serve
    #streams = new Map(); // id → { stream, open: the bytes that are still to be sent, or null }
    #creditBytes = 0; // what the gateway takes of a stream before it grants more
    #pings = new Map();
    #storing = new Map(); // id → an event of ours that is not known to be stored, in the order of publication

    constructor(url, options = {}) {
      this.#url = url;
      this.#options = { ...DEFAULTS, ...options };
      this.#state = (state, info = null) => tell(this.#options.onstate, state, info);
      globalThis.addEventListener?.("pagehide", this.#onpagehide);
      this.#connect();
    }

    // A page that goes away does not take its session up again: what it has open ends at once, not when the gateway gives up.
    // One that is shown again, from the browser's cache, connects anew.
    #onpagehide = () => {
      if (!this.#isOpen) return;
      for (const each of this.#subscriptions) if (each.logged) this.#acknowledge(each);
      this.#leave(new FluxarError("cancelled", "the page went away"));
    };

    /**
     * Calls a method; resolves with the answer's payload, rejects with a FluxarError. Waits for a connection. `meta` goes
     * along: { prio: 6, idempotent: true, … } [P-4].
     */
    call(target, payload = null, { timeoutMs = this.#options.callTimeoutMs, signal, meta } = {}) {
      return new Promise((resolve, reject) => {
        signal?.throwIfAborted();
        if (this.#isClosed) throw new FluxarError("failed_precondition", "this client is closed");
        const id = newId();
        const bytes = encode([CALL, id, null, target, { ...meta, timeout_ms: timeoutMs }, payload, null], -1);
        const call = { id, bytes, resolve, reject, isSent: false };
        const give = (error) => {
          if (!this.#calls.has(hex(id))) return;
          if (call.isSent) this.#send(CANCEL, newId(), id); // nobody waits for it any more [P-3.10]
          this.#finish(call, error);
        };
        call.timer = setTimeout(() => give(new FluxarError("deadline_exceeded", call.isSent
          ? `${target} did not answer within ${timeoutMs} ms` : `no connection to ${this.#url} within ${timeoutMs} ms`)), timeoutMs);
        signal?.addEventListener("abort", () => give(new FluxarError("cancelled", `${target} was cancelled`)));
        this.#calls.set(hex(id), call);
        if (this.#isOpen) this.#sendCall(call);
      });
    }

    /** Opens a stream of answers to one request. Waits for a connection; `timeoutMs` is for the whole stream. */
    stream(target, payload = null, options = {}) {
      return this.#openStream(target, payload, true, options);
    }

    /** Opens a stream in both directions: `send()` and `finish()` beside the loop over what comes. */
    duplex(target, payload = null, options = {}) {
      return this.#openStream(target, payload, false, options);
    }

    /**
     * Subscribes; `handler(payload, { target, meta })` for each event. Survives reconnects. `onerror(error)` hears
     * that it was refused or ended, `ondropped(count)` how many events the gateway dropped in all.
     */
    subscribe(pattern, handler, { group, onerror = console.error, ondropped } = {}) {
      const meta = group ? { group } : null;
      return this.#want({ pattern, handler, meta, isPlain: !group, onerror, ondropped, droppedBefore: 0, dropped: 0 });
    }

    /**
     * Subscribes to stored events, at least once. `handler(payload, { target, meta, position, dup })` is called for one
     * after the other, each when the one before it has resolved, and what it resolved for is acknowledged; one that fails is
     * tried again (in a group: left to another member). `position` is [partition, offset].
     *
     * `durable` names a cursor that the gateway keeps; `from` is where to begin ("new", "all", { time_ms }, { epoch, at });
     * `retain` brings the last event for each key first, with `skipDamaged` without those that are damaged on the gateway's disk
     * (which otherwise end it, by `onerror`); `inFlight` bounds what a member of a group has at a time. Goes on where it was
     * after a reconnect; what the gateway does not hold any more ends it, by `onerror`.
     */
    consume(pattern, handler, { group, durable, from, retain, skipDamaged, inFlight, onerror = console.error } = {}) {
      const meta = {
        qos: 1, group, durable, from, retain: retain || undefined, skip_damaged: skipDamaged || undefined, in_flight: inFlight,
      };
      const logged = new Logged({ isExact: Boolean(group), isTable: Boolean(retain), keepsPlace: !durable && !group });
      return this.#want({ pattern, handler, meta, logged, onerror, droppedBefore: 0, dropped: 0 });
    }

    /**
     * Publishes an event that the gateway stores; resolves with its position, [partition, offset]. It is sent again, with
     * the same id, after a reconnect and when the gateway cannot take it for a moment, for `timeoutMs`. `once`: stored
     * exactly once however often it was sent. `meta` goes along: { key, retain, ttl_ms }.
     */
    store(target, payload, { once = false, timeoutMs = 30000, meta } = {}) {
      return new Promise((resolve, reject) => {
        if (this.#isClosed) throw new FluxarError("failed_precondition", "this client is closed");
        const id = newId();
        const bytes = encode([EVENT, id, null, target, { ...meta, qos: once ? 2 : 1 }, payload, null], -1);
        const late = () => this.#settle(hex(id), new FluxarError("deadline_exceeded",
          `${target} was not acknowledged within ${timeoutMs} ms, and may be stored all the same`));
        this.#storing.set(hex(id), { bytes, resolve, reject, timer: setTimeout(late, timeoutMs), again: null });
        if (this.#isOpen && !this.#resumePing) this.#sendStored(hex(id));
      });
    }

    /**
     * Serves methods: what `handler(payload, { target, meta, signal, items })` returns, or resolves to, is the answer. An
     * async generator serves streams: each `yield` is an item, `items` are those of the caller, and `signal` is aborted
     * when nobody wants more. `meta`: { weight, in_flight, zone, group }, the last being the fleet.
     */
    serve(pattern, handler, { meta, onerror = console.error } = {}) {
      return this.#want({ pattern, handler, meta: { ...meta, serve: true }, isServing: true, onerror, droppedBefore: 0, dropped: 0 });
    }

    /** Publishes at most once; says whether there was a connection to send it on. */
    publish(target, payload, meta = null) {
      return this.#isOpen && this.#send(EVENT, newId(), null, target, meta, payload);
    }

    /** Round trip to the gateway, in milliseconds. */
    ping() {
      return new Promise((resolve, reject) => {
        const id = newId();
        if (!this.#sendPing(id)) throw new FluxarError("unavailable", "not connected");
        this.#pings.set(hex(id), { at: performance.now(), resolve, reject });
      });
    }

    /** Says goodbye [P-7.8]; the client cannot be used again. */
    close() {
      for (const each of this.#subscriptions) if (each.logged) this.#acknowledge(each);
      this.#send(CANCEL, newId());
      this.#end(null);
    }

    #connect() {
      this.#state("connecting");
      this.#reason = null;
      const socket = new WebSocket(this.#url, "fluxar.v0"); // [P-8.4]
      socket.binaryType = "arraybuffer";
      this.#socket = socket;
      const late = new FluxarError("deadline_exceeded", `${this.#url} did not answer the hello in time`);
      this.#timer = setTimeout(() => this.#drop(late), this.#options.handshakeMs);
      const { agent, auth, maxFrameBytes: max_frame, heartbeatMs: heartbeat_ms, creditBytes: credit } = this.#options;
      socket.onopen = () => {
        this.#hello = newId();
        const caps = this.#options.resume ? { resume: true } : undefined;
        const payload = { v: [0], caps, agent, max_frame, heartbeat_ms, credit, auth: auth ?? undefined, resume: this.#session?.wish() };
        socket.send(encode([HELLO, this.#hello, null, null, null, payload, null], -1));
      };
      socket.onmessage = ({ data }) => this.#receive(data);
      socket.onclose = ({ code, reason }) => this.#lost(new FluxarError("unavailable", this.#openedAt
        ? `the connection ended (${reason || `close code ${code}`})` : `cannot connect to ${this.#url}`));
    }

    #receive(data) {
      this.#heardAt = performance.now();
      let messages;
      try {
        if (typeof data === "string") throw new SyntaxError("a text message");
        messages = [...readBody(new Uint8Array(data))];
      } catch (error) {
        const why = new FluxarError("invalid_argument", `the gateway sent what cannot be read: ${error.message}`);
        return this.#isOpen ? this.#leave(why) : this.#drop(why);
      }
      let run = null; // a header of a run and how many of its events are still to come [P-5.4]
      for (const message of messages) {
        if (!this.#socket) return; // what stands behind an end
        if (isCounted(message)) this.#session?.take(message.bytes);
        if (run?.left > 0 && message.type === EVENT && message.ref === null) {
          run.left -= 1;
          if (!run.subscription) continue; // it is gone: nobody else's either
          if (run.places) this.#take(run.subscription, message, run.places.shift(), run.dup);
          else this.#deliver(run.subscription, message);
        } else run = this.#dispatch(message);
      }
      if (this.#isOpen && this.#session?.isDue) this.#sendPing(newId());
    }

    #dispatch(message) {
      const { type, id, ref, target, meta, payload, error } = message;
      const key = ref && hex(ref);
      if (type === HELLO && ref && !this.#isOpen && this.#hello && key === hex(this.#hello)) {
        if (!error) this.#opened(payload ?? {});
        else if (FINAL.includes(CODES[error.code])) this.#end(FluxarError.from(error));
        else this.#drop(FluxarError.from(error));
      } else if (type === CALL && ref) {
        const call = this.#calls.get(key);
        if (call) this.#finish(call, error && FluxarError.from(error), payload);
      } else if (type === CALL) this.#answer(id, target, meta, payload);
      else if (type === SUBSCRIBE && ref) return this.#note(this.#byId.get(key), key, meta, payload, error);
      else if (type === SUBSCRIBE) this.#refuse(type, id, "unimplemented", "not at this level");
      else if (type === STREAM && ref) this.#streams.get(key)?.stream.receive(message);
      else if (type === STREAM) this.#serveStream(id, target, meta, payload);
      else if (type === EVENT && ref) this.#stored(key, meta, error);
      else if (type === EVENT) {
        for (const each of this.#byId.values()) {
          if (each.isPlain && matches(each.pattern, target)) this.#deliver(each, { target, meta, payload });
        }
      } else if (type === CANCEL && ref) {
        this.#serving.get(key)?.abort();
        this.#streams.get(key)?.stream.cancelled();
      } else if (type === CANCEL) {
        // Before its answer to a hello it is a refusal for the moment, and an earlier session is as it was [P-7.6].
        this.#drop(FluxarError.from(error ?? { code: 14, message: "the gateway said goodbye" }), this.#isOpen);
      } else if (type === PING && meta.recv !== undefined && this.#session?.covered(meta.recv) === false) {
        this.#leave(new FluxarError("failed_precondition", `the gateway has ${meta.recv} messages, and so many were never sent`));
      } else if (type === PING && ref) {
        const ping = this.#pings.get(key);
        this.#pings.delete(key);
        ping?.resolve(performance.now() - ping.at);
        if (key === this.#resumePing) this.#sendAllStored();
      } else if (type === PING) this.#sendPing(newId(), id);
      return null;
    }

    #opened(welcome) {
      clearTimeout(this.#timer);
      const again = welcome.resumed ? this.#session?.resume(welcome) : null;
      if (welcome.resumed && !again) return this.#leave(new FluxarError("failed_precondition", "the session needs what was forgotten"));
      if (!again) {
        this.#release(this.#reason ?? new FluxarError("unavailable", "the session could not go on"));
        this.#session = this.#options.resume ? Session.of(welcome) : null;
      }
      clearTimeout(this.#window);
      this.#window = null;
      this.#isOpen = true;
      this.#limitBytes = (welcome.max_frame ?? DEFAULTS.maxFrameBytes) - 1024; // [P-3.8]
      this.#creditBytes = welcome.credit ?? DEFAULTS.creditBytes;
      this.#openedAt = performance.now();
      this.#heartbeat = setInterval(() => {
        const silentMs = performance.now() - this.#heardAt; // [P-7.5]
        const { heartbeatMs } = this.#options;
        if (silentMs > 2 * heartbeatMs) this.#drop(new FluxarError("deadline_exceeded", "the gateway went silent"));
        else if (silentMs > heartbeatMs) this.#sendPing(newId());
      }, this.#options.heartbeatMs / 4);
      again?.forEach((bytes) => this.#socket.send(bytes));
      if (again) {
        const ping = newId();
        this.#resumePing = hex(ping);
        this.#sendPing(ping);
        for (const { logged } of this.#byId.values()) logged?.resumed();
        for (const each of this.#byId.values()) if (each.logged) this.#acknowledge(each);
      } else this.#sendAllStored();
      for (const each of this.#subscriptions) if (!each.id) this.#ask(each);
      for (const call of this.#calls.values()) if (!call.isSent) this.#sendCall(call);
      for (const entry of this.#streams.values()) this.#sendOpen(entry);
      this.#state("open", welcome);
    }

    #send(type, id, ref = null, target = null, meta = null, payload = null, error = null) {
      const message = [type, id, ref, target, meta, payload, error];
      const counts = isCounted({ type, ref, meta });
      try {
        return this.#transmit(encode(message, -1), counts); // each field is on its own [P-3.5]
      } catch (unsendable) {
        if (!error) throw unsendable;
        return this.#transmit(encode([type, id, ref, target, meta, payload, cut(error)]), counts); // somebody waits for it
      }
    }

    #sendPing(id, ref = null) {
      return this.#send(PING, id, ref, null, this.#session?.tell());
    }

    /** Says whether it was sent, or, if it `counts`, will be when the session goes on. */
    #transmit(bytes, counts) {
      const isUp = this.#isOpen && this.#socket?.readyState === WebSocket.OPEN;
      const isKept = counts && this.#session;
      if (!isUp && !isKept) return false;
      const over = bytes.length > this.#limitBytes; // the gateway would close the connection [P-1.4]
      if (over) throw new FluxarError("resource_exhausted", `${bytes.length} bytes; the gateway takes ${this.#limitBytes}`);
      if (isKept) this.#session.keep(bytes);
      if (isUp) this.#socket.send(bytes);
      return true;
    }

    /** Gives this connection up for a reason that is better known than its close code, and the session if that `isOver`. */
    #drop(error, isOver = false) {
      this.#reason ??= error;
      this.#isOver ||= isOver;
      this.#socket.close();
      this.#lost(error);
    }

    /** Says goodbye for a reason; a new session follows. */
    #leave(error) {
      this.#socket.send(encode([CANCEL, newId(), null, null, null, null, error.toMap()], -1));
      this.#drop(error, true);
    }

    #lost(error) {
      if (this.#isClosed || !this.#socket) return;
      const reason = this.#reason ?? error;
      const isSudden = this.#openedAt && !this.#isOver;
      this.#disconnect();
      if (this.#isOver || !this.#session) this.#release(reason);
      else this.#window ??= setTimeout(() => this.#release(reason), this.#session.awayMs);
      if (performance.now() - this.#openedAt > 5000 && this.#openedAt) this.#attempts = 0;
      const { retryLeastMs, retryMostMs } = this.#options;
      // At once, for mostly it is this connection alone; then spread, for others may come back as well.
      const ceilingMs = isSudden && !this.#attempts ? retryLeastMs / 4 : Math.min(retryMostMs, retryLeastMs * 2 ** this.#attempts);
      const delayMs = Math.round(Math.min(reason.retryAfterMs ?? 0, RETRY_AFTER_MS_MAX) + ceilingMs * Math.random());
      this.#attempts += 1;
      this.#openedAt = 0;
      this.#timer = setTimeout(() => this.#connect(), delayMs);
      this.#state("waiting", { error: reason, delayMs });
    }

    #end(error) {
      if (this.#isClosed) return;
      this.#isClosed = true;
      globalThis.removeEventListener?.("pagehide", this.#onpagehide);
      this.#socket?.close(1000);
      this.#disconnect();
      const why = error ?? new FluxarError("cancelled", "the client was closed");
      this.#release(why);
      [...this.#calls.values()].forEach((call) => this.#finish(call, why));
      [...this.#streams.values()].forEach(({ stream }) => stream.lost(why));
      [...this.#storing.keys()].forEach((key) => this.#settle(key, why));
      this.#state("closed", error);
    }

    /** The connection is no more. */
    #disconnect() {
      clearTimeout(this.#timer);
      clearInterval(this.#heartbeat);
      if (this.#socket) Object.assign(this.#socket, { onopen: null, onmessage: null, onclose: null });
      this.#socket = this.#hello = this.#resumePing = null;
      this.#isOpen = false;
      for (const ping of this.#pings.values()) ping.reject(new FluxarError("unavailable", "the connection ended"));
      this.#pings.clear();
    }

    /** Nor is the session: what was under way in it fails, and subscriptions are to be asked for again. */
    #release(reason) {
      clearTimeout(this.#window);
      this.#session = this.#window = null;
      this.#isOver = false;
      this.#limitBytes = HELLO_LIMIT_BYTES;
      for (const each of this.#byId.values()) {
        each.droppedBefore += each.dropped;
        each.dropped = 0;
      }
      for (const each of this.#subscriptions) each.id = null;
      for (const abort of this.#serving.values()) abort.abort();
      [this.#byId, this.#serving].forEach((map) => map.clear());
      const why = new FluxarError(this.#isClosed ? reason.code : "unavailable", reason.message);
      [...this.#calls.values()].filter((call) => call.isSent).forEach((call) => this.#finish(call, why));
      [...this.#streams.values()].filter(({ open }) => !open).forEach(({ stream }) => stream.lost(why));
    }

    #sendCall(call) {
      try {
        call.isSent = this.#transmit(call.bytes, true);
      } catch (error) {
        this.#finish(call, error);
      }
    }

    #finish(call, error, payload) {
      clearTimeout(call.timer);
      this.#calls.delete(hex(call.id));
      return error ? call.reject(error) : call.resolve(payload);
    }

    #openStream(target, payload, ends, { timeoutMs, signal, meta, creditBytes = this.#options.creditBytes }) {
      signal?.throwIfAborted();
      if (this.#isClosed) throw new FluxarError("failed_precondition", "this client is closed");
      const id = newId();
      const asked = { ...meta, timeout_ms: timeoutMs, end: ends || undefined, credit: creditBytes };
      const open = encode([STREAM, id, null, target, asked, payload, null], -1);
      const give = (code, why) => stream.cancel(new FluxarError(code, why));
      const onabort = () => give("cancelled", `${target} was cancelled`);
      const timer = timeoutMs && setTimeout(() => give("deadline_exceeded", `${target} did not end within ${timeoutMs} ms`), timeoutMs);
      const stream = this.#addStream(id, open, { sentEnd: ends, windowBytes: creditBytes }, () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", onabort);
      });
      signal?.addEventListener("abort", onabort);
      if (this.#isOpen) this.#sendOpen(this.#streams.get(hex(id)));
      return stream;
    }

    #addStream(id, open, ends, ondone) {
      const key = hex(id);
      const stream = new Stream({
        ...ends,
        say: (type, meta, payload, error) => this.#streams.get(key)?.open ? false // nobody knows of it yet
          : this.#send(type, newId(), id, null, meta, payload, error),
        ondone: () => {
          this.#streams.delete(key); // what still comes for it is ignored
          ondone?.();
        },
      });
      this.#streams.set(key, { stream, open });
      return stream;
    }

    #sendOpen(entry) {
      try {
        if (!entry.open || !this.#transmit(entry.open, true)) return;
        entry.open = null;
        entry.stream.opened(this.#creditBytes);
      } catch (error) {
        entry.stream.lost(error);
      }
    }

    #want(subscription) {
      this.#subscriptions.add(subscription);
      if (this.#isOpen) this.#ask(subscription);
      return {
        cancel: () => {
          this.#subscriptions.delete(subscription);
          if (subscription.logged) this.#acknowledge(subscription);
          if (subscription.id) this.#send(CANCEL, newId(), subscription.id);
          if (subscription.isServing) return; // calls that were under way are answered until the confirmation comes
          subscription.isPlain = false; // nothing is delivered any more, though the confirmation is still to come
          subscription.handler = () => {};
          subscription.logged?.end();
        },
      };
    }

    #ask(subscription) {
      subscription.id = newId();
      this.#byId.set(hex(subscription.id), subscription);
      const { meta, logged } = subscription;
      this.#send(SUBSCRIBE, subscription.id, null, subscription.pattern, logged ? logged.ask(meta) : meta);
    }

    /** A message about a subscription of ours: its verdict, a run, drops or its end. Returns the run that begins. */
    #note(subscription, key, meta, payload, error) {
      if (!subscription) return meta?.run ? { subscription, left: Number.isInteger(meta.run) ? meta.run : meta.run.length - 1 } : null;
      const { logged } = subscription;
      if (error && logged && [8, 14].includes(error.code) && error.retry_after_ms !== undefined) {
        // For the moment only: what is asked for is being recovered, for example.
        setTimeout(() => {
          const isWanted = this.#subscriptions.has(subscription) && subscription.id && key === hex(subscription.id);
          if (isWanted) this.#ask(subscription);
        }, error.retry_after_ms);
        this.#byId.delete(key);
      } else if (error || meta.end) {
        this.#byId.delete(key);
        this.#subscriptions.delete(subscription);
        if (error) tell(subscription.onerror, FluxarError.from(error));
      } else if (Number.isInteger(meta.run)) return { subscription, left: meta.run };
      else if (meta.run && logged) {
        const [partition, ...deltas] = meta.run.map(BigInt);
        let offset = 0n;
        const places = deltas.map((delta) => [Number(partition), (offset += delta)]);
        return { subscription, left: places.length, places, dup: meta.dup ?? 0 };
      } else if (meta.at && logged) logged.moved(Number(meta.at[0]), BigInt(meta.at[1]));
      else if (logged && payload?.at) {
        if (logged.accepted(payload)) this.#acknowledge(subscription); // what was handled without a connection
        else {
          this.#byId.delete(key);
          this.#subscriptions.delete(subscription);
          this.#send(CANCEL, newId(), subscription.id);
          tell(subscription.onerror, new FluxarError("out_of_range", "the gateway's logs are not those in which this began"));
        }
      } else if (meta.dropped !== undefined) {
        subscription.dropped = meta.dropped;
        tell(subscription.ondropped, subscription.droppedBefore + meta.dropped);
      }
      return null;
    }

    #deliver(subscription, { target, meta, payload }) {
      try {
        subscription.handler(payload, { target, meta });
      } catch (error) {
        console.error(`a handler of ${subscription.pattern} failed`, error); // costs this event, not the connection
      }
    }

    /** A logged event: handled when those before it are, then acknowledged. */
    #take(subscription, { target, meta, payload }, [partition, offset], dup) {
      const { logged } = subscription;
      if (!logged.receive(partition, offset)) {
        if (logged.hasDone) this.#acknowledgeSoon(subscription);
        return;
      }
      const position = [partition, offset <= Number.MAX_SAFE_INTEGER ? Number(offset) : offset];
      const generation = logged.generation;
      const handle = () => subscription.handler(payload, { target, meta, position, dup });
      logged.then(async () => {
        // In a group, what waited when the connection was lost is another's.
        if (logged.isExact && generation !== logged.generation) return;
        for (let pauseMs = 100; !logged.isEnded; pauseMs = Math.min(2 * pauseMs, 10000)) {
          try {
            await handle();
            break;
          } catch (error) {
            console.error(`a handler of ${subscription.pattern} failed`, error);
            if (logged.isExact) return logged.release(partition, offset);
            await new Promise((resolve) => setTimeout(resolve, pauseMs));
          }
        }
        if (logged.isEnded) return;
        logged.done(partition, offset);
        this.#acknowledgeSoon(subscription); // others go with it
      });
    }

    #acknowledgeSoon(subscription) {
      subscription.ackTimer ??= setTimeout(() => this.#acknowledge(subscription), ACK_MS);
    }

    #acknowledge(subscription) {
      clearTimeout(subscription.ackTimer);
      subscription.ackTimer = null;
      if (!subscription.id || !this.#isOpen) return; // what is not known there comes again
      for (const ack of subscription.logged.acks()) this.#send(EVENT, newId(), subscription.id, null, { ack });
    }

    /** Everything that is not known to be stored, in the order of publication. */
    #sendAllStored() {
      this.#resumePing = null;
      for (const key of [...this.#storing.keys()]) this.#sendStored(key);
    }

    #sendStored(key) {
      const event = this.#storing.get(key);
      if (!event) return;
      clearTimeout(event.again);
      try {
        this.#transmit(event.bytes, false);
      } catch (error) {
        this.#settle(key, error); // too large
      }
    }

    /** The gateway says what became of an event. */
    #stored(key, meta, error) {
      const event = this.#storing.get(key);
      if (event && error && (error.code === 14 || (error.code === 8 && error.retry_after_ms !== undefined))) {
        event.again = setTimeout(() => this.#isOpen && !this.#resumePing && this.#sendStored(key), error.retry_after_ms ?? 500);
      } else if (event && error) this.#settle(key, FluxarError.from(error));
      else if (event && meta.at) this.#settle(key, null, meta.at);
    }

    #settle(key, error, position) {
      const event = this.#storing.get(key);
      if (!event) return;
      this.#storing.delete(key);
      clearTimeout(event.timer);
      clearTimeout(event.again);
      if (error) event.reject(error);
      else event.resolve(position);
    }

    #servingOf = (target) => [...this.#byId.values()].find((each) => each.isServing && matches(each.pattern, target));

    async #answer(id, target, meta, payload) {
      const serving = this.#servingOf(target);
      if (!serving) return this.#refuse(CALL, id, "unavailable", `${target} is not served here`);
      const abort = new AbortController();
      this.#serving.set(hex(id), abort); // aborted by a cancel, and when this connection ends
      const reply = (payload, error = null) => abort.signal.aborted || this.#send(CALL, newId(), id, null, null, payload, error);
      try {
        const answer = await serving.handler(payload, { target, meta, signal: abort.signal });
        if (answer?.[Symbol.asyncIterator]) throw new FluxarError("unimplemented", `${target} is a stream: open it as one`);
        reply(answer);
      } catch (error) {
        reply(null, asFluxar(error).toMap());
      }
      this.#serving.delete(hex(id));
    }

    async #serveStream(id, target, meta, payload) {
      const serving = this.#servingOf(target);
      if (!serving) return this.#refuse(STREAM, id, "unavailable", `${target} is not served here`);
      if (this.#streams.has(hex(id))) return this.#refuse(STREAM, id, "already_exists", "a stream with this id is open");
      const stream = this.#addStream(id, null, { receivedEnd: meta.end === true, windowBytes: this.#options.creditBytes });
      stream.opened(meta.credit ?? this.#creditBytes);
      // A handler that reads no further has not cancelled its own answers.
      const items = { [Symbol.asyncIterator]: () => ({ next: () => stream.next() }) };
      try {
        const answer = serving.handler(payload, { target, meta, signal: stream.signal, items });
        // A plain answer is a stream of one item.
        for await (const item of answer?.[Symbol.asyncIterator] ? answer : [answer]) await stream.send(item);
        await stream.finish();
        stream.cancel(); // what the caller still sends, nobody takes
      } catch (error) {
        stream.fail(error); // nothing, if the caller has cancelled
      }
    }

    #refuse(type, id, code, why) {
      this.#send(type, newId(), id, null, null, null, new FluxarError(code, why).toMap());
    }
  }

  globalThis.fluxar = { Client, FluxarError, Stream, Tagged, encode, decode, readBody, matches };
})();
