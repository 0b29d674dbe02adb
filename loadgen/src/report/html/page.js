"use strict";
// The page is complete without this: it shows one scenario at a time if asked, and what a mark tells at once.
(() => {
  const chooser = document.querySelector(".chooser");
  const select = chooser.querySelector("select");
  const sections = document.querySelectorAll("section.scenario");
  chooser.hidden = sections.length < 2;
  const choose = () => {
    for (const section of sections) section.hidden = select.value !== "" && section.id !== select.value;
  };
  select.addEventListener("change", choose);
  if (location.hash && document.getElementById(location.hash.slice(1))?.matches("section.scenario")) {
    select.value = location.hash.slice(1);
  }
  choose();
  addEventListener("beforeprint", () => { for (const section of sections) section.hidden = false; });
  addEventListener("afterprint", choose);

  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  for (const group of document.querySelectorAll("svg .tip")) {
    // The browser's own tooltip would come second and cover ours.
    const title = group.querySelector("title");
    group.setAttribute("aria-label", title.textContent);
    group.dataset.tip = title.textContent;
    title.remove();
  }
  addEventListener("pointermove", (event) => {
    const group = event.target.closest?.(".tip");
    tip.hidden = !group;
    if (!group) return;
    tip.textContent = group.dataset.tip;
    const width = tip.offsetWidth;
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8)) + "px";
    tip.style.top = Math.max(4, event.clientY - tip.offsetHeight - 10) + "px";
  });
})();
