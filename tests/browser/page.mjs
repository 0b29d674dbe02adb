// The page of examples/browser in headless Chromium, against a gateway that runs and a host_telemetry that publishes
// through it.
//
//   node page.mjs PAGE WS_URL [SCREENSHOT]
//
// PAGE is a URL (http: or file:), or the path of a page, whose folder is then served on loopback. CHROMIUM names the browser, /usr/bin/chromium otherwise.
// Prints what it checked, then `N passed, M failed`; exits 1 if anything failed.
import { check, done, launch, pageUrl, TIMEOUT_MS } from "./chromium.mjs";

const [pageArgument, gateway, screenshot] = process.argv.slice(2);
if (!pageArgument || !gateway) {
  console.error("usage: node page.mjs PAGE WS_URL [SCREENSHOT]");
  process.exit(2);
}
const page_url = await pageUrl(pageArgument, gateway);
const browser = await launch();
try {
  const page = await browser.newPage({ viewport: { width: 1160, height: 900 } });
  page.setDefaultTimeout(TIMEOUT_MS);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  const text = (selector) => page.locator(selector).innerText();
  const until = (test, argument) => page.waitForFunction(test, argument, { timeout: TIMEOUT_MS, polling: 50 });

  await page.goto(page_url.href);
  await check("connects", () => until(() => document.querySelector("#state").dataset.state === "open").then(() => undefined));
  for (const id of ["cpu-value", "memory-value", "net-rx", "net-tx", "load-value"]) {
    await check(`${id} shows a number`, async () => {
      await until((id) => Number.isFinite(parseFloat(document.getElementById(id).textContent)), id);
      return text(`#${id}`);
    });
  }
  await check("no tile is stale", () => until(() => !document.querySelector(".tile.stale")).then(() => undefined));
  await check("there is a bar for each core", async () => {
    await until(() => document.querySelectorAll("#cores i").length > 0);
    return page.locator("#cores i").count();
  });
  await check("events keep coming", async () => {
    await until(() => Number(document.querySelector("#rate").textContent) >= 4);
    return `${await text("#rate")} a second`;
  });
  await check("the processor's line is drawn", () => until(() => {
    const canvas = document.querySelector("#cpu canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const colours = new Set();
    for (let at = 0; at < data.length; at += 4) if (data[at + 3]) colours.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
    return colours.size > 1; // more than the grid
  }).then(() => undefined));
  await check("the round trip is measured", async () => {
    await until(() => /^[\d.]+ ms$/.test(document.querySelector("#rtt").textContent));
    return text("#rtt");
  });
  await check("drops are shown", async () => {
    const dropped = await text("#dropped");
    if (!/^\d+$/.test(dropped)) throw new Error(`"${dropped}" is no count`);
    return dropped;
  });
  await check("host.info answers", async () => {
    await page.click("#ask");
    await until(() => document.querySelectorAll("#answer dd").length === 6);
    const answer = (await page.locator("#answer dd").allInnerTexts()).map((value) => value.trim());
    if (answer.some((value) => value === "" || value === "–" || value === "undefined")) throw new Error(`incomplete: ${answer.join(" | ")}`);
    return answer.join(" | ");
  });
  await check("the page does not scroll sideways on a phone", async () => {
    if (screenshot) await page.screenshot({ path: screenshot });
    await page.setViewportSize({ width: 360, height: 740 });
    const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    if (wide > room) throw new Error(`${wide} px wide on ${room} px`);
  });
  await check("nothing complained", () => {
    if (complaints.length) throw new Error(complaints.join("; "));
  });

  // A connection that is cut: the page comes back by itself and its subscription with it.
  const cut = await browser.newPage();
  const sockets = [];
  await cut.routeWebSocket(/.*/, (socket) => {
    socket.connectToServer();
    sockets.push(socket);
  });
  const isLive = () => document.querySelector("#state").dataset.state === "open" && !document.querySelector(".tile.stale");
  await check("comes back after its connection was cut", async () => {
    await cut.goto(page_url.href);
    await cut.waitForFunction(isLive, undefined, { timeout: TIMEOUT_MS });
    await sockets[0].close({ code: 4000, reason: "cut by the test" });
    await cut.waitForFunction(() => document.querySelector("#state").dataset.state !== "open", undefined, { timeout: TIMEOUT_MS, polling: 10 });
    await cut.waitForFunction(isLive, undefined, { timeout: TIMEOUT_MS });
    if (sockets.length < 2) throw new Error("no second connection");
  });
  await cut.close();

  // A gateway that is not there: the page says so and goes on trying.
  const lost = new URL(page_url);
  lost.searchParams.set("url", "ws://127.0.0.1:1");
  await page.goto(lost.href);
  await check("says when there is no gateway", async () => {
    await until(() => document.querySelector("#state").dataset.state === "waiting" && document.querySelector("#notice").textContent);
    return text("#notice");
  });
  await check("a call without a connection times out with a reason", async () => {
    await page.click("#ask");
    await until(() => /deadline_exceeded/.test(document.querySelector("#answer-note").textContent));
    return text("#answer-note");
  });
} finally {
  await browser.close();
}
done();
