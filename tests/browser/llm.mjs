// examples/browser/llm.html in headless Chromium, against a gateway that runs and examples/llm behind it.
//
//   node llm.mjs PAGE WS_URL [SCREENSHOT]
//
// PAGE as for page.mjs. Prints what it checked, then `N passed, M failed`; exits 1 if anything failed. With SCREENSHOT it
// leaves that picture, and one of the dark page beside it.
import { WebSocket } from "ws";

import "../../examples/browser/fluxar.js";
import { check, done, launch, pageUrl, TIMEOUT_MS } from "./chromium.mjs";

const [pageArgument, gateway, screenshot] = process.argv.slice(2);
if (!pageArgument || !gateway) {
  console.error("usage: node llm.mjs PAGE WS_URL [SCREENSHOT]");
  process.exit(2);
}
globalThis.WebSocket ??= WebSocket; // Node has one of its own since 22
const url = await pageUrl(pageArgument, gateway);
const browser = await launch();
// Another client, that asks the service how it goes.
const client = new globalThis.fluxar.Client(gateway);
const status = () => client.call("llm.status", null, { timeoutMs: TIMEOUT_MS });
const expect = (holds, what) => {
  if (!holds) throw new Error(what);
};

/** Until the service has no stream open: then it cannot make a token any more. */
async function atRest() {
  const since = performance.now();
  for (;;) {
    const now = await status();
    if (now.open === 0) return now;
    expect(performance.now() - since < TIMEOUT_MS, `${now.open} streams are still open`);
  }
}

try {
  const page = await browser.newPage({ viewport: { width: 900, height: 780 } });
  page.setDefaultTimeout(TIMEOUT_MS);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  const text = (id) => page.locator(`#${id}`).innerText();
  const tokens = async () => Number(await text("tokens"));
  const until = (test, argument) => page.waitForFunction(test, argument, { timeout: TIMEOUT_MS, polling: 20 });
  // The screen follows once a frame.
  const shows = (least, most = least) => until(([least, most]) => {
    const tokens = Number(document.querySelector("#tokens").textContent);
    return tokens >= least && tokens <= most;
  }, [least, most]);
  const outcome = (pattern) => until((pattern) => new RegExp(pattern).test(document.querySelector("#outcome").textContent), pattern);
  const generate = async (most, rate) => {
    await page.fill("#max-tokens", String(most));
    await page.fill("#rate-wanted", String(rate));
    await page.click("#start");
  };

  await page.goto(url.href);
  await check("connects", () => until(() => document.querySelector("#state").dataset.state === "open").then(() => undefined));
  await check("a short text comes to its end", async () => {
    await generate(12, 200);
    await outcome("^Done");
    await shows(9, 12); // it stops where a sentence ends behind three quarters, or at the twelfth
    const words = (await text("text")).split(" ").length;
    expect(words === (await tokens()), `${words} words, ${await tokens()} tokens`);
    return text("text");
  });

  let before;
  await check("tokens arrive one after the other", async () => {
    before = await atRest();
    // Every state of the text that was shown, as the browser saw it.
    await page.evaluate(() => {
      globalThis.seen = [];
      new MutationObserver(() => seen.push(document.querySelector("#tokens").textContent))
        .observe(document.querySelector("#tokens"), { childList: true, characterData: true, subtree: true });
    });
    await generate(100_000, 30);
    // However seldom a busy machine draws: text that came in one piece would never have so many.
    await until(() => Number(document.querySelector("#tokens").textContent) >= 30 && new Set(seen).size > 20);
    const seen = (await page.evaluate(() => seen)).map(Number).filter(Number.isFinite);
    // A token that waited for the next frame may be shown together with its neighbour.
    const steps = seen.filter((count, n) => n > 0 && count > seen[n - 1]).length;
    expect(steps >= 15, `only ${steps} steps: ${seen.join(" ")}`);
    return `${seen.at(-1)} tokens in ${steps} steps`;
  });
  await check("their rate is shown", async () => {
    const [rate, first] = [Number(await text("rate")), Number(await text("first"))];
    expect(rate > 0 && rate < 100 && first >= 0, `${rate} a second, the first after ${first} ms`);
    return `${rate} a second, the first after ${first} ms`;
  });
  if (screenshot) await page.screenshot({ path: screenshot });
  await check("Stop cancels: the service says so and makes no more", async () => {
    await page.click("#stop");
    await outcome("^Stopped\\. The service says that it has made \\d+ tokens");
    const shown = await tokens();
    const made = Number((await text("outcome")).match(/made (\d+)/)[1]);
    const after = await atRest();
    expect(after.cancelled === before.cancelled + 1, `${after.cancelled - before.cancelled} were cancelled`);
    expect(after.tokens === before.tokens + made, `${after.tokens - before.tokens} tokens were made; it said ${made}`);
    expect(made >= shown && made < 100_000, `${shown} were shown of ${made}`);
    expect((await tokens()) === shown && (await status()).tokens === after.tokens, "it went on");
    return `${shown} shown, ${made} made`;
  });

  await check("the service asks the page whether to go on", async () => {
    await page.check("#ask");
    await generate(80, 1000);
    await page.locator("#yes").waitFor();
    await shows(40);
    await page.click("#yes");
    await outcome("^Done");
    await shows(60, 80);
    expect(await page.locator("#asked").isHidden(), "the question is still there");
    return `${await tokens()} tokens`;
  });
  await check("and ends when the page says no", async () => {
    await generate(80, 1000);
    await page.click("#no");
    await outcome("^Ended, as you said");
    await shows(40);
    await page.uncheck("#ask");
  });
  await check("a prompt that cannot be answered says why", async () => {
    await page.evaluate(() => (document.querySelector("#form").noValidate = true));
    await generate(0, 30);
    await outcome("^invalid_argument: max_tokens");
    return text("outcome");
  });
  await check("the page does not scroll sideways on a phone", async () => {
    await page.setViewportSize({ width: 360, height: 740 });
    const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    expect(wide <= room, `${wide} px wide on ${room} px`);
    await page.setViewportSize({ width: 900, height: 780 });
  });
  if (screenshot) await check("the page has a dark face", async () => {
    await page.emulateMedia({ colorScheme: "dark" });
    await page.check("#ask");
    await generate(80, 1000);
    await page.locator("#yes").waitFor();
    await page.screenshot({ path: screenshot.replace(/(\.\w+)$/, "-dark$1") });
    await page.click("#no");
    await outcome("^Ended");
  });
  await check("a page that goes away stops the service", async () => {
    const before = await atRest();
    await generate(100_000, 30);
    await until(() => Number(document.querySelector("#tokens").textContent) >= 3);
    expect((await status()).open === 1, "no stream is open");
    await page.close();
    const after = await atRest();
    expect(after.cancelled === before.cancelled + 1, "it was not cancelled");
  });
  await check("nothing complained", () => expect(complaints.length === 0, complaints.join("; ")));
} finally {
  await browser.close();
  client.close();
}
done();
