// The pictures of this visit with their labels, to look at again and to save. Only this tab has them.

import { byId, percent, show } from "./view.js";

const MOST = 1000;
const THUMBNAIL = 48;

const entries = [];

function thumbnail(image) {
  const canvas = document.createElement("canvas");
  const edge = Math.min(image.naturalWidth, image.naturalHeight);
  const [left, above] = [(image.naturalWidth - edge) / 2, (image.naturalHeight - edge) / 2];
  canvas.width = THUMBNAIL;
  canvas.height = THUMBNAIL;
  canvas.getContext("2d").drawImage(image, left, above, edge, edge, 0, 0, THUMBNAIL, THUMBNAIL);
  canvas.setAttribute("aria-hidden", "true");
  return canvas;
}

// `result`: the service's answer, or `{ error }`; `image`: an element that shows the picture, or null.
export function remember(name, model, result, image) {
  const { label = "", score = null, top = [], arithmetic = "", error = "" } = result;
  entries.push({ name, model, arithmetic, label, score, top, error });
  const row = document.createElement("tr");
  const cells = [image === null ? "" : thumbnail(image), name, label || error, score === null ? "" : percent(score), model];
  for (const content of cells) {
    const cell = document.createElement("td");
    cell.append(content);
    row.append(cell);
  }
  byId("rows").prepend(row);
  if (entries.length > MOST) {
    entries.shift();
    byId("rows").lastElementChild.remove();
  }
  byId("history-title").textContent = entries.length === 1 ? "One picture so far" : `${entries.length} pictures so far`;
  show("history", true);
}

export function forget() {
  entries.length = 0;
  byId("rows").replaceChildren();
  show("history", false);
}

// A cell as RFC 4180 has it; one that a spreadsheet would take for a formula begins with an apostrophe.
function cell(value) {
  const text = String(value ?? "");
  const safe = typeof value !== "number" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function csv() {
  const heads = ["name", "model", "arithmetic", "label", "score", "error"];
  return [heads, ...entries.map((entry) => heads.map((head) => entry[head]))].map((row) => row.map(cell).join(",")).join("\r\n");
}

export function save(kind) {
  const text = kind === "csv" ? `${csv()}\r\n` : JSON.stringify(entries, null, 1);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind === "csv" ? "text/csv" : "application/json" }));
  link.download = `fracbnn.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
