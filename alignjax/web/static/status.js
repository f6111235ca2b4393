// The status page: numbers of /api/review/status, anew every ten seconds.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const share = (number) => (number === null ? "not known" : `${(100 * number).toFixed(2)}%`);

function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((text) => make("td", {}, String(text)))));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
}

// Bars whose heights are the counts; each says its hour and count to a reader.
function bars(load) {
  const most = Math.max(1, ...load.map(({ count }) => count));
  const picture = document.createElementNS(SVG, "svg");
  const total = load.reduce((sum, { count }) => sum + count, 0);
  for (const [name, value] of Object.entries({
    viewBox: `0 0 ${load.length * 4} 60`, role: "img", class: "bars", preserveAspectRatio: "none",
    "aria-label": `${total} exchanges in ${load.length} hours, at most ${most} an hour`,
  })) picture.setAttribute(name, value);
  load.forEach(({ hour, count }, i) => {
    const bar = document.createElementNS(SVG, "rect");
    const height = 60 * count / most;
    for (const [name, value] of Object.entries({ x: i * 4, y: 60 - height, width: 3, height })) bar.setAttribute(name, value);
    const title = document.createElementNS(SVG, "title");
    title.textContent = `${new Date(hour * 1000).toISOString().slice(0, 13)}h: ${count}`;
    bar.append(title);
    picture.append(bar);
  });
  return [picture, make("p", {}, `${total} in ${load.length} hours; at most ${most} an hour`)];
}

function paint(own) {
  $("load").replaceChildren(...bars(own.load));
  const { baseline, evidence, limit, found } = own.drift;
  $("drift").textContent = baseline === null ? "No baseline was named (--baseline)."
    : `${found ? "Found: more" : "Not shown to be more"} than ${share(baseline)} of traffic is unsafe`
      + ` (log evidence ${evidence.toFixed(1)}, limit ${limit.toFixed(1)}).`;
  $("drift").toggleAttribute("data-found", found);
  const { waiting, judged, oldest_hours: oldest } = own.queue;
  $("queue").textContent = `${waiting} wait, the oldest for ${oldest.toFixed(1)} hours; ${judged} judged.`;
  const names = { false_positive: "safe exchanges blocked", false_negative: "unsafe exchanges allowed", unsafe: "unsafe exchanges" };
  $("rates").replaceChildren(table(["rate", "estimate", "95% interval", "judged"], Object.entries(names).map(
    ([name, words]) => [words, share(own.rates[name].value), `${share(own.rates[name].low)} to ${share(own.rates[name].high)}`, own.rates[name].n])));
  $("blocks").replaceChildren(table(["category", "language", "blocked"], own.blocks.map(
    ({ category, language, count }) => [category, language || "not known", count])));
  $("strata").replaceChildren(
    table(["kind", "exchanges"], Object.entries(own.strata)),
    table(["language", "exchanges"], Object.entries(own.languages).map(([name, count]) => [name || "not known", count])));
  $("progress").textContent = `at ${new Date().toISOString().slice(11, 19)} UTC`;
  $("item").hidden = false;
}

async function refresh() {
  try {
    paint(await call("review/status", null, { method: "GET", body: undefined }));
    $("message").textContent = "";
  } catch (error) {
    $("message").textContent = error.status ? error.message : "The server does not answer.";
  }
}

refresh();
setInterval(refresh, 10_000);
