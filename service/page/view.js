// What the pages have in common: parts of the document, and what a person is told.

import { hasToken, setToken } from "./service.js";

const RATE_OVER_MS = 2000;
const SETTLED_MS = 1000;

export const byId = (id) => document.getElementById(id);
export const show = (id, shown) => { byId(id).hidden = !shown; };
export const percent = (share) => `${(100 * share).toFixed(1)} %`;
export const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(2) : ms.toFixed(1)} ms`;
export const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

let retry = null;

// Says what went wrong. Where a token is missing it is asked for, and `again` called once there is one.
export function complain(error, again) {
  if (error.status === 401) {
    retry = again;
    const wrong = hasToken();
    setToken("");
    show("token-form", true);
    byId("token").focus();
    if (!wrong) return;
    error.message = "The service did not accept this token.";
  }
  byId("error").textContent = error.message;
  if (error.detail) {
    const detail = document.createElement("small");
    detail.textContent = `The service says: ${error.detail}`;
    byId("error").append(detail);
  }
  show("error", true);
}

export function clearError() {
  show("error", false);
  byId("error").textContent = "";
}

// Lets the token form work; `start` is called where nothing waits for the token.
export function heedToken(start) {
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(byId("token").value.trim());
    byId("token").value = "";
    show("token-form", false);
    clearError();
    (retry || start)();
  });
}

// Shows one of the things that lie on the stage.
export function stage(id) {
  for (const part of byId("stage").children) part.hidden = part.id !== id;
  byId("stage").classList.toggle("filled", id !== "hint");
}

export function fill(list, entries) {
  byId(list).replaceChildren(...entries.map(([name, value]) => {
    const tile = document.createElement("div");
    const term = document.createElement("dt");
    const text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    tile.append(term, text);
    return tile;
  }));
}

export function bar({ label, probability }) {
  const item = document.createElement("li");
  for (const [kind, text] of [["name", label], ["share", percent(probability)], ["track", ""]]) {
    const part = document.createElement(kind === "track" ? "div" : "span");
    part.className = kind;
    part.textContent = text;
    item.append(part);
  }
  const filled = document.createElement("div");
  filled.className = "fill";
  filled.style.width = `${100 * probability}%`;
  item.lastChild.append(filled);
  return item;
}

export function presentLabels({ label, top }) {
  byId("label").textContent = label;
  byId("bars").replaceChildren(...top.map(bar));
  byId("result").classList.remove("waiting");
  show("nothing", false);
  show("result", true);
}

// Frames as they come: how many a second, and their labels for a screen reader.
export class Stream {
  #times = [];
  #label = null;
  #since = 0;
  #said = null;

  // A screen reader hears a label once it has stayed, not every frame.
  count(label) {
    const now = performance.now();
    this.#times.push(now);
    while (now - this.#times[0] > RATE_OVER_MS) this.#times.shift();
    const span = now - this.#times[0];
    if (span > 0) byId("rate").textContent = (1000 * (this.#times.length - 1) / span).toFixed(1);
    if (label !== this.#label) [this.#label, this.#since] = [label, now];
    if (label !== this.#said && now - this.#since > SETTLED_MS) {
      this.#said = label;
      byId("status").textContent = label;
    }
  }
}
