// The annotation page. What models wrote reaches the page as text nodes and values alone.
"use strict";

const form = $("item");
const project = JSON.parse(form.dataset.project);
const KEYS = JSON.parse(form.dataset.keys); // {action: key}
const SLOTS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"];
const ROLES = { human: "Human", assistant: "Assistant", system: "System" };
let item = null; // as /api/next gives it
let state = null; // what the rater has said of it so far: the draft
let key = ""; // of the submission; another after every change
let active = 0; // the answer that edits and spans are of
let began = 0, saving = 0, busy = false, tieNext = false, spent = 0, judged = 0;

function button(words, run, fields = {}) {
  return make("button", { type: "button", onclick: run, ...fields }, words);
}

// One request at a time; an error stays on the page until the next one.
async function act(run) {
  if (busy) return;
  busy = true;
  try {
    await run();
    $("message").textContent = "";
  } catch (error) {
    const silence = "The server does not answer. What you entered stays here: try again.";
    $("message").textContent = error.status ? error.message : silence;
    if (error.status === 409) await call("next", {}).then(show, () => {});
    if (error.status === 409) $("message").textContent = error.message;
  } finally {
    busy = false;
  }
}

const asks = (kind) => item.ask.includes(kind);
const allows = (kind) => asks(kind) || item.also.includes(kind);

function fresh() {
  return {
    choice: null, strength: null, ranks: item.answers.map(() => null), scores: {}, edit: null, spans: [],
    flags: [], reason: "", seconds: 0,
  };
}

function show(answer) {
  item = answer;
  progress(item.progress);
  form.hidden = item.assignment === null;
  $("finished").hidden = item.assignment !== null;
  clearTimeout(saving);
  if (item.assignment === null) {
    $("status").textContent = "Nothing is left to judge.";
    $("again").focus();
    return;
  }
  state = { ...fresh(), ...(item.draft ?? {}) };
  key = "";
  active = 0;
  tieNext = false;
  began = Date.now() - state.seconds * 1000;
  build();
  paint();
  window.scrollTo(0, 0);
  (asks("score") && !asks("choice") && !asks("ranking") ? form.querySelector(".scale input") : form).focus();
  $("status").textContent = `An item with ${item.answers.length} answers.`;
}

function progress({ done, skipped, left }) {
  const speed = judged ? `, ${Math.round(spent / judged)} s each` : "";
  const more = left >= 1000 ? "1000 or more" : left;
  $("progress").textContent = `${done} judged, ${more} left${skipped ? `, ${skipped} skipped` : ""}${speed}`;
}

function said(text) {
  return make("div", { class: "text", dir: "auto", lang: item.language || null }, text);
}

function build() {
  $("turns").replaceChildren(...item.turns.map(({ role, text }) =>
    make("div", { class: "turn" }, make("b", {}, ROLES[role] ?? role), said(text))));
  $("answers").replaceChildren(...item.answers.map(buildAnswer));
  $("choice").hidden = !asks("choice");
  $("ranking").hidden = !asks("ranking");
  const all = item.answers.length > 2 ? "All" : "Both";
  const other = { tie: `Tie (${KEYS.tie})`, both_bad: `${all} bad (${KEYS.both_bad})` };
  const choices = [...item.answers.map((_, i) => [SLOTS[i], `Answer ${i + 1} (${i + 1})`]), ...Object.entries(other)];
  $("choices").replaceChildren(...choices.map(([name, words]) =>
    button(words, () => choose(name), { "data-choice": name })));
  $("flags").hidden = !allows("flags");
  $("flags").open = state.flags.length > 0;
  $("flag-names").replaceChildren(...project.flags.map((name) =>
    make("label", {}, make("input", { type: "checkbox", "data-flag": name, onchange: readFlags }), ` ${name} `)));
  $("reason").value = state.reason;
}

function buildAnswer(text, slot) {
  const name = `answer ${slot + 1}`;
  const children = [
    make("header", {}, make("h2", { id: `title-${slot}` }, `Answer ${slot + 1}`), make("span", { class: "place" })),
    said(text),
  ];
  if (asks("ranking")) {
    const ranks = [["", "no rank"], ...item.answers.map((_, i) => [i + 1, `rank ${i + 1}`])];
    children.push(make("label", {}, `Rank of ${name} `, make("select", {
      "data-rank": slot, onchange: (event) => change(() => { state.ranks[slot] = Number(event.target.value) || null; }),
    }, ...ranks.map(([value, words]) => make("option", { value }, words)))));
  }
  if (allows("score")) children.push(...project.scales.map((scale) => buildScale(scale, slot)));
  const tools = make("div", { class: "buttons" });
  if (allows("rewrite")) tools.append(button(`Rewrite ${name} (${KEYS.edit})`, () => edit(slot)));
  if (allows("spans")) tools.append(button(`Mark in ${name} (${KEYS.span})`, () => mark(slot)));
  children.push(tools, make("div", { id: `edit-${slot}` }), make("div", { id: `mark-${slot}` }),
    make("ul", { id: `spans-${slot}`, "aria-label": `Marked in ${name}` }));
  return make("article", {
    class: "answer", tabindex: "0", "aria-labelledby": `title-${slot}`, onfocusin: () => { active = slot; },
  }, ...children);
}

function buildScale(scale, slot) {
  const numbers = Array.from({ length: project.top }, (_, i) => i + 1);
  return make("fieldset", { class: "scale" }, make("legend", {}, `${scale} of answer ${slot + 1}`),
    make("div", {}, ...numbers.map((n) => make("label", {}, make("input", {
      type: "radio", name: `score-${scale}-${slot}`, value: n, "data-scale": scale, "data-slot": slot,
      onchange: () => change(() => setScore(scale, slot, n)),
    }), ` ${n}`))));
}

function setScore(scale, slot, number) {
  state.scores[scale] ??= item.answers.map(() => null);
  state.scores[scale][slot] = number;
}

// After any change: the page, and the draft on the server a moment later.
function change(run) {
  run();
  key = "";
  paint();
  clearTimeout(saving);
  saving = setTimeout(save, 300);
}

function draft() {
  return { ...state, seconds: (Date.now() - began) / 1000 };
}

async function save(options = {}) {
  if (!item || item.assignment === null || busy) return;
  clearTimeout(saving);
  saving = 0;
  const { assignment } = item;
  try {
    await call("heartbeat", { assignment, draft: draft() }, options);
  } catch (error) {
    if (error.status === 409 && item.assignment === assignment) act(() => Promise.reject(error));
  }
}

function paint() {
  for (const button of $("choices").children) {
    button.setAttribute("aria-pressed", String(button.dataset.choice === state.choice));
  }
  const slot = SLOTS.indexOf(state.choice);
  for (const radio of form.elements.strength) {
    radio.disabled = slot < 0;
    radio.checked = Number(radio.value) === state.strength;
  }
  [...$("answers").children].forEach((article, i) => {
    const rank = asks("ranking") ? state.ranks[i] : null;
    article.classList.toggle("chosen", i === slot);
    article.querySelector(".place").textContent = i === slot ? "chosen" : rank ? `rank ${rank}` : "";
    if (asks("ranking")) article.querySelector("[data-rank]").value = rank ?? "";
    paintEdit(i);
    paintSpans(i);
  });
  for (const radio of form.querySelectorAll("[data-scale]")) {
    radio.checked = state.scores[radio.dataset.scale]?.[radio.dataset.slot] === Number(radio.value);
  }
  for (const box of form.querySelectorAll("[data-flag]")) box.checked = state.flags.includes(box.dataset.flag);
}

function paintEdit(slot) {
  const place = $(`edit-${slot}`);
  const wanted = state.edit?.slot === slot;
  if (wanted === place.childElementCount > 0) return;
  place.replaceChildren();
  if (!wanted) return;
  const keep = () => change(() => { state.edit.text = area.value; });
  const discard = () => { change(() => { state.edit = null; }); form.focus(); };
  const area = make("textarea", { rows: 6, dir: "auto", oninput: keep });
  area.value = state.edit.text;
  place.append(make("label", { class: "wide" }, `Rewrite of answer ${slot + 1}`, area),
    button("Discard the rewrite", discard));
}

function paintSpans(slot) {
  const remove = (span) => change(() => { state.spans = state.spans.filter((other) => other !== span); });
  const entry = (span) => make("li", {}, make("q", { dir: "auto" }, span.text), ` ${span.type} `,
    span.correction ? make("ins", { dir: "auto" }, span.correction) : "", button("Remove", () => remove(span)));
  $(`spans-${slot}`).replaceChildren(...state.spans.filter((span) => span.slot === slot).map(entry));
}

function choose(name) {
  if (!asks("choice")) return;
  change(() => {
    if (state.choice === name && SLOTS.includes(name)) state.strength = ((state.strength ?? 0) % 3) + 1;
    else [state.choice, state.strength] = [name, null];
  });
  if (SLOTS.includes(name)) active = SLOTS.indexOf(name);
}

// The next rank is after all that are given: 1, 1, 3 where the first two are tied.
function rank(slot) {
  change(() => {
    const placed = state.ranks.filter((other, i) => other !== null && i !== slot);
    const last = Math.max(0, ...placed);
    state.ranks[slot] = tieNext && last ? last : placed.length + 1;
    tieNext = false;
  });
  active = slot;
}

function unrank() {
  const last = Math.max(0, ...state.ranks.map((n) => n ?? 0));
  const slot = state.ranks.lastIndexOf(last || undefined);
  if (slot >= 0) change(() => { state.ranks[slot] = null; });
}

function edit(slot) {
  if (!allows("rewrite")) return;
  if (state.edit?.slot !== slot) change(() => { state.edit = { slot, text: item.answers[slot] }; });
  $(`edit-${slot}`).querySelector("textarea").focus();
}

function mark(slot) {
  if (!allows("spans")) return;
  const place = $(`mark-${slot}`);
  if (!place.childElementCount) {
    // Not `readonly`: such a field has no caret, and no selection by keys.
    const refuse = (event) => event.preventDefault();
    const area = make("textarea", { rows: 6, "aria-readonly": "true", dir: "auto", onbeforeinput: refuse });
    area.value = item.answers[slot];
    const type = make("select", {}, ...project.span_types.map((name) => make("option", {}, name)));
    const note = make("input", { type: "text", maxlength: 500, dir: "auto" });
    const correction = make("input", { type: "text", maxlength: 500, dir: "auto" });
    const add = () => addSpan(slot, area, type, note, correction);
    area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.ctrlKey) return;
      event.preventDefault();
      add();
    });
    place.append(make("label", { class: "wide" }, `Text of answer ${slot + 1}: select a part`, area),
      make("label", {}, "What it is ", type), make("label", { class: "wide" }, "Note", note),
      make("label", { class: "wide" }, "Correction", correction), button("Mark the selected part", add));
  }
  const area = place.querySelector("textarea");
  area.focus();
  area.setSelectionRange(0, 0);
}

// Code points of `text` before a place in a text field, which counts UTF-16 units and shows a line
// end of two characters as one.
function pointsBefore(text, place) {
  const points = Array.from(text);
  let units = 0, count = 0;
  while (count < points.length && units < place) {
    if (!(points[count] === "\r" && points[count + 1] === "\n")) units += points[count].length;
    count += 1;
  }
  return count;
}

function addSpan(slot, area, type, note, correction) {
  const text = item.answers[slot];
  const [start, end] = [area.selectionStart, area.selectionEnd].map((place) => pointsBefore(text, place));
  if (start === end) {
    $("message").textContent = "Select a part of the answer first: Shift and the arrows.";
    return;
  }
  change(() => state.spans.push({
    slot, start, end, text: Array.from(text).slice(start, end).join(""), type: type.value,
    note: note.value, correction: correction.value,
  }));
  note.value = correction.value = "";
  $("message").textContent = "";
  $("status").textContent = "Marked.";
}

function readFlags() {
  change(() => { state.flags = [...form.querySelectorAll("[data-flag]:checked")].map((box) => box.dataset.flag); });
}

// What the draft says, as judgements; kinds about which nothing was said are left out.
function judgements() {
  const found = [], { choice, strength, ranks, scores, edit: own, spans, flags } = state;
  if (asks("choice") && choice) found.push({ kind: "choice", payload: { choice, strength } });
  if (asks("ranking") && ranks.some((n) => n !== null)) found.push({ kind: "ranking", payload: { ranks } });
  const scales = Object.fromEntries(project.scales.map((name) => [name, scores[name] ?? item.answers.map(() => null)]));
  const isScored = Object.values(scales).flat().some((n) => n !== null);
  if (allows("score") && isScored) found.push({ kind: "score", payload: { scores: scales } });
  const lines = (text) => text.replace(/\r\n?/g, "\n");
  const isRewritten = own && own.text.trim() && lines(own.text) !== lines(item.answers[own.slot]);
  if (isRewritten) found.push({ kind: "rewrite", payload: own });
  if (spans.length) found.push({ kind: "spans", payload: { spans } });
  if (flags.length) found.push({ kind: "flags", payload: { flags } });
  if (found.length && state.reason.trim()) found[0].reason = state.reason;
  return found;
}

function submit() {
  return act(async () => {
    clearTimeout(saving);
    const seconds = Math.min((Date.now() - began) / 1000, 86400);
    key ||= Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");
    const { assignment } = item;
    const sent = { assignment, key, judgements: judgements(), seconds, draft: draft() };
    const { stored } = await call("submit", sent);
    spent += seconds;
    judged += 1;
    show(await call("next", {}));
    $("status").textContent = `Stored as judgement ${stored[0].id}. ${$("status").textContent}`;
  });
}

const undo = () => act(async () => show(await call("undo", {})));
const skip = () => act(async () => {
  await call("skip", { assignment: item.assignment, reason: state.reason });
  show(await call("next", {}));
});

function press(event) {
  if (event.ctrlKey && event.key === "Enter") { event.preventDefault(); submit(); return; }
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  const { target } = event;
  if (event.key === "Escape") { form.focus(); return; }
  if (target.matches("textarea, select, input[type=text]")) return;
  if (event.key === "Enter" && target.matches("button, summary")) return;
  const digit = /^[1-9]$/.test(event.key) ? Number(event.key) : 0;
  const name = Object.keys(KEYS).find((action) => KEYS[action] === event.key.toLowerCase());
  const scale = target.closest(".scale");
  const steps = {
    tie: () => (asks("ranking") ? (tieNext = true) : choose("tie")), both_bad: () => choose("both_bad"), skip, undo,
    edit: () => edit(active), span: () => mark(active), help: () => $("help").showModal(),
    flag: () => { $("flags").open = true; $("flag-names").querySelector("input").focus(); },
  };
  if (digit && scale && digit <= project.top) {
    const radio = scale.querySelector(`input[value="${digit}"]`);
    change(() => setScore(radio.dataset.scale, Number(radio.dataset.slot), digit));
    const all = [...form.querySelectorAll(".scale")];
    (all[all.indexOf(scale) + 1]?.querySelector("input") ?? form).focus();
  } else if (digit && digit <= item.answers.length && asks("choice")) choose(SLOTS[digit - 1]);
  else if (digit && digit <= item.answers.length && asks("ranking")) rank(digit - 1);
  else if (event.key === "Backspace" && asks("ranking")) unrank();
  else if (event.key === "Enter") submit();
  else if (name) steps[name]();
  else return;
  event.preventDefault();
}

form.addEventListener("keydown", press);
form.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
for (const radio of form.elements.strength) {
  radio.addEventListener("change", () => change(() => { state.strength = Number(radio.value); }));
}
$("reason").addEventListener("input", () => change(() => { state.reason = $("reason").value; }));
$("undo").addEventListener("click", undo);
$("back").addEventListener("click", undo);
$("skip").addEventListener("click", skip);
$("again").addEventListener("click", () => act(async () => show(await call("next", {}))));
$("open-help").addEventListener("click", () => $("help").showModal());
$("help").addEventListener("close", () => form.focus());
// Keys work wherever nothing else has the focus.
const CONTROLS = "button, a, input, select, textarea, label, summary, dialog, article";
document.addEventListener("click", (event) => {
  if (!event.target.closest(CONTROLS)) form.focus({ preventScroll: true });
});
addEventListener("pagehide", () => { if (saving) save({ keepalive: true }); });
setInterval(save, 60_000);
act(async () => show(await call("next", {})));
