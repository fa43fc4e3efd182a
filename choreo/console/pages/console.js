// Keys, and what changes by itself. A key is that of a link, a button or a field, which says so: data-key="]", or "g f".
"use strict";

const dialog = document.getElementById("keys");

const MOVES = { j: ["to the next one in the list", 1], k: ["to the one before", -1] };

function keyed() {
  return [...document.querySelectorAll("[data-key]")];
}

function move(by) {
  const rows = [...document.querySelectorAll("[data-row]")];
  const at = rows.indexOf(document.activeElement);
  const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1);
  rows[next]?.focus();
}

function show() {
  const told = keyed().map((one) => [one.dataset.key, one.dataset.says ?? one.textContent.trim()]);
  if (document.querySelector("[data-row]")) told.push(...Object.entries(MOVES).map(([key, [says]]) => [key, says]));
  told.push(["Enter", "follow what is chosen"], ["Esc", "close this, or leave a field"]);
  const lines = told.map(([key, says]) => {
    const line = document.createElement("tr");
    const name = document.createElement("kbd");
    name.textContent = key.replace("ArrowLeft", "←").replace("ArrowRight", "→");
    line.insertCell().append(name);
    line.insertCell().append(says);
    return line;
  });
  dialog.querySelector("tbody").replaceChildren(...lines);
  dialog.showModal();
}

/** Whether the key is meant for something else: a field, what scrolls, or the browser's own. */
function isForOthers(event) {
  if (event.target.closest("input:not([type=range]), select, textarea")) return true;
  if (event.key.startsWith("Arrow") && event.target.closest("input, [tabindex]")) return true;
  // On many keyboards a bracket is typed with AltGr or Option.
  return event.metaKey || ((event.ctrlKey || event.altKey) && !"[]".includes(event.key));
}

let begun = "";

document.addEventListener("keydown", (event) => {
  if (dialog.open || event.key === "Shift" || event.key === "AltGraph") return;
  if (event.key === "Escape") {
    event.target.blur();
    return;
  }
  if (isForOthers(event)) return;
  const key = begun + event.key;
  begun = "";
  const one = keyed().find((one) => one.dataset.key === key);
  if (one?.matches("input")) one.focus();
  else if (one) one.click();
  else if (key in MOVES) move(MOVES[key][1]);
  else if (keyed().some((one) => one.dataset.key.startsWith(`${key} `))) begun = `${key} `;
  else return;
  event.preventDefault();
});

/** Nothing is taken from under anybody's hands: what is in use is not replaced, and the next look comes soon. */
document.addEventListener("htmx:sse:before:message", (event) => {
  const region = event.target, selection = document.getSelection();
  const isInUse = region.contains(document.activeElement) || (!selection.isCollapsed && region.contains(selection.anchorNode));
  region.toggleAttribute("data-behind", isInUse);
  if (isInUse && !event.detail.message.event) event.preventDefault();
});
document.addEventListener("htmx:sse:close", ({ target }) => {
  if (target.hasAttribute("data-behind")) target.addEventListener("focusout", () => location.reload(), { once: true });
});

const help = document.querySelector("[data-key='?']");
help.hidden = false;
help.addEventListener("click", show);

for (const button of document.querySelectorAll("[data-copies]")) {
  button.hidden = !navigator.clipboard;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copies).textContent);
    button.textContent = "Copied";
  });
}

for (const slider of document.querySelectorAll(".slider input[type=range]")) {
  slider.addEventListener("change", () => slider.form.requestSubmit());
}
