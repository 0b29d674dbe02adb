// The CBOR codec and the envelope reader of examples/browser/fluxar.js against the conformance vectors. No gateway
// and no browser are needed: node --test tests/browser/codec.test.mjs
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import "../../examples/browser/fluxar.js";

const { decode, encode, matches, readBody, Tagged } = globalThis.fluxar;
const folder = new URL("../../protocol/vectors/", import.meta.url);
const vectors = readdirSync(folder).filter((name) => name.endsWith(".json"))
  .flatMap((file) => JSON.parse(readFileSync(new URL(file, folder))).map((vector) => ({ file, ...vector })));
const bytes = (hex) => new Uint8Array(Buffer.from(hex, "hex"));
const hex = (value) => value && Buffer.from(value).toString("hex");

// What a receiver must refuse and this small client does not look for: it only ever reads what a gateway sends.
const NOT_LOOKED_FOR = ["not_shortest", "meta_duplicate", "meta_too_large", "meta_value", "topic"];

test("reads what is right", () => {
  const right = vectors.filter(({ kind, envelopes }) => kind === "frame-body" && envelopes);
  assert.ok(right.length > 80);
  for (const { file, name, hex: body, envelopes } of right) {
    const read = [...readBody(bytes(body))];
    assert.equal(read.length, envelopes.length, `${file}: ${name}`);
    read.forEach((message, n) => {
      const { type, id, ref, target, meta, payload, error } = envelopes[n];
      const expected = { type, id, ref, target, meta: meta ? decode(bytes(meta)).value : {}, payload: decode(bytes(payload)).value,
        error: error && decode(bytes(error)).value, payloadBytes: payload.length / 2 };
      const { bytes: taken, ...fields } = message;
      assert.deepEqual({ ...fields, id: hex(message.id), ref: hex(message.ref) }, expected, `${file}: ${name}`);
      assert.ok(taken > 0, `${file}: ${name}`);
    });
    assert.equal(read.reduce((sum, { bytes: taken }) => sum + taken, 0), body.length / 2, `${file}: ${name}`);
  }
});

test("refuses what is wrong", () => {
  const wrong = vectors.filter(({ kind, error }) => kind === "frame-body" && error && !NOT_LOOKED_FOR.includes(error.fault));
  assert.ok(wrong.length > 100);
  for (const { file, name, hex: body, error, before } of wrong) {
    if (error.fault === "target" && file === "exchanges.json") continue; // the gateway's to find: a call without a target
    if (error.fault === "error" && /twice|negative|chunks|keys/.test(name)) continue;
    const read = [];
    assert.throws(() => { for (const message of readBody(bytes(body))) read.push(message); }, `${file}: ${name}`);
    assert.equal(read.length, before ?? 0, `${file}: ${name}`);
  }
});

test("decodes every well-formed hello", () => {
  for (const { kind, hex: payload, hello, welcome, name } of vectors.filter(({ kind }) => kind.endsWith("-payload"))) {
    if (hello || welcome) assert.equal(decode(bytes(payload)).end, payload.length / 2, `${kind}: ${name}`);
  }
});

test("writes the shortest heads, and reads back what it wrote", () => {
  const cases = [
    [0, "00"], [23, "17"], [24, "1818"], [255, "18ff"], [256, "190100"], [65535, "19ffff"], [65536, "1a00010000"],
    [2 ** 32 - 1, "1affffffff"], [2 ** 32, "1b0000000100000000"], [-1, "20"], [-24, "37"], [-25, "3818"], [-(2 ** 32), "3affffffff"],
    [2n ** 64n - 1n, "1bffffffffffffffff"], [-(2n ** 64n), "3bffffffffffffffff"], [Number.MAX_SAFE_INTEGER, "1b001fffffffffffff"],
    [1.5, "fb3ff8000000000000"], [-0, "fb8000000000000000"], [NaN, "fb7ff8000000000000"],
    [null, "f6"], [false, "f4"], [true, "f5"], ["", "60"], ["ü€😀", "69c3bce282acf09f9880"], [new Uint8Array([1, 2]), "420102"],
    [[], "80"], [[1, [2], [[3]]], "83018102818103"], [{}, "a0"], [{ a: [{ b: 1 }] }, "a1616181a1616201"],
    [new Map([[1, 2]]), "a10102"], [new Tagged(1, 0), "c100"], [JSON.parse('{"__proto__":1}'), "a1695f5f70726f746f5f5f01"],
  ];
  for (const [value, expected] of cases) {
    assert.equal(hex(encode(value)), expected);
    assert.deepEqual(decode(bytes(expected)).value, value);
  }
  assert.equal(hex(encode({ a: undefined, b: null })), "a16162f6");
  assert.equal(decode(encode("x".repeat(70000))).value.length, 70000);
  assert.throws(() => encode(2n ** 64n), RangeError);
  assert.throws(() => encode(() => {}), TypeError);
});

test("reads what other encoders write", () => {
  const cases = { f93c00: 1, f9c400: -4, f97c00: Infinity, f90001: 2 ** -24, fa47c35000: 100000, "7f6161626263ff": "abc",
    "5f41014102ff": new Uint8Array([1, 2]), "9f0102ff": [1, 2], bf616101ff: { a: 1 }, "1800": 0, f7: undefined };
  for (const [input, value] of Object.entries(cases)) assert.deepEqual(decode(bytes(input)).value, value, input);
  for (const input of ["", "18", "1c", "ff", "81ff", "5f6161ff", "61ff", "62", "f818", "9f", "3f", "df00"]) assert.throws(() => decode(bytes(input)), input);
});

test("matches patterns", () => {
  for (const [pattern, name] of [["a.b", "a.b"], ["a.*", "a.b"], ["*", "a"], [">", "a.b"], ["a.>", "a.b.c"], ["$sys.*", "$sys.x"], ["*.>", "a.b"]]) {
    assert.ok(matches(pattern, name), `${pattern} ${name}`);
  }
  for (const [pattern, name] of [["a.b", "a"], ["a", "a.b"], ["a.*", "a"], ["a.>", "a"], [">", "$sys.x"], ["*.x", "$sys.x"], ["a.*", "a.b.c"], ["A", "a"]]) {
    assert.ok(!matches(pattern, name), `${pattern} ${name}`);
  }
});
