// What the tests of a page have in common: headless Chromium, a server for the page, checks that are counted.
import { createReadStream, existsSync } from "node:fs";
import { createServer } from "node:http";
import { basename, dirname, extname, join } from "node:path";

import { chromium } from "playwright-core";

export const TIMEOUT_MS = 20_000;

/** Serves the files beside a page on a free port of loopback; returns the page's URL. */
async function serve(path) {
  const types = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8" };
  const server = createServer((request, response) => {
    const file = join(dirname(path), basename(new URL(request.url, "http://localhost").pathname));
    if (!types[extname(file)] || !existsSync(file)) return response.writeHead(404).end();
    response.writeHead(200, { "content-type": types[extname(file)] });
    return createReadStream(file).pipe(response);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  server.unref();
  return `http://127.0.0.1:${server.address().port}/${basename(path)}`;
}

/** The URL of a page, which may be given as a path, with the gateway that it is to use. */
export async function pageUrl(page, gateway) {
  const url = new URL(/^[a-z]+:\/\//.test(page) ? page : await serve(page));
  url.searchParams.set("url", gateway);
  return url;
}

const GIVE_UP_AFTER = 3; // without a gateway or a service every check would wait for its whole time
let passed = 0;
let failed = 0;

/** Runs a check; what it returns is printed beside its name. */
export async function check(what, test) {
  if (failed >= GIVE_UP_AFTER) return;
  try {
    const seen = await test();
    passed += 1;
    console.log(`ok      ${what}${seen === undefined ? "" : `: ${seen}`}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${what}: ${error.message.split("\n")[0]}`);
  }
}

/** Prints the counts and ends the process. */
export function done() {
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}

/** The browser; CHROMIUM names it, /usr/bin/chromium otherwise. */
export const launch = () => chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
