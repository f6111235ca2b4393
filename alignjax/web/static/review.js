// The review page. What users and models wrote reaches it as text nodes alone.
"use strict";

const form = $("item");
const ROLES = { human: "User", assistant: "Assistant", system: "System" };
let item = null; // as /api/review/next gives it
let key = ""; // of the submission; another for each exchange
let began = 0, busy = false;

async function act(run) {
  if (busy) return;
  busy = true;
  try {
    await run();
    $("message").textContent = "";
  } catch (error) {
    $("message").textContent = error.status ? error.message : "The server does not answer: try again.";
    if (error.status === 409) await call("review/next", {}).then(show, () => {});
  } finally {
    busy = false;
  }
}

const boxes = () => [...form.querySelectorAll("[name=label]")];

function show(answer) {
  item = answer;
  const { done, left } = item.progress;
  $("progress").textContent = `${done} judged, ${left} left`;
  form.hidden = item.exchange === null;
  $("finished").hidden = item.exchange !== null;
  if (item.exchange === null) {
    $("status").textContent = "Nothing waits for a verdict.";
    $("again").focus();
    return;
  }
  $("turns").replaceChildren(...item.turns.map(({ role, text }) => make("div", { class: "turn" },
    make("b", {}, ROLES[role] ?? role),
    make("div", { class: "text", dir: "auto", lang: item.language || null }, text))));
  for (const box of boxes()) box.checked = false;
  $("note").value = "";
  key = Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");
  began = Date.now();
  window.scrollTo(0, 0);
  form.focus();
  $("status").textContent = `An exchange of ${item.turns.length} turns.`;
}

function submit() {
  return act(async () => {
    const labels = Object.fromEntries(boxes().map((box) => [box.value, box.checked]));
    const seconds = Math.min((Date.now() - began) / 1000, 86400);
    const sent = { exchange: item.exchange, key, labels, note: $("note").value, seconds };
    const { stored } = await call("review/submit", sent);
    show(await call("review/next", {}));
    $("status").textContent = `Stored as verdict ${stored}. ${$("status").textContent}`;
  });
}

const undo = () => act(async () => show(await call("review/undo", {})));

function press(event) {
  if (event.ctrlKey && event.key === "Enter") { event.preventDefault(); submit(); return; }
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  if (event.key === "Escape") { form.focus(); return; }
  if (event.target.matches("textarea")) return;
  if (event.key === "Enter" && event.target.matches("button")) return;
  const box = /^[1-9]$/.test(event.key) ? boxes()[Number(event.key) - 1] : null;
  if (box) box.checked = !box.checked;
  else if (event.key === "Enter") submit();
  else if (event.key.toLowerCase() === "u") undo();
  else return;
  event.preventDefault();
}

form.addEventListener("keydown", press);
form.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
$("undo").addEventListener("click", undo);
$("back").addEventListener("click", undo);
$("again").addEventListener("click", () => act(async () => show(await call("review/next", {}))));
act(async () => show(await call("review/next", {})));
