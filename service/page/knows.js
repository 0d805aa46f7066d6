// What a model can recognise, and what its file says of it.

import { byId, fill, show } from "./view.js";

const WORTH_SEARCHING = 20;

// `model`: as the service describes it.
export function showKnowledge(model) {
  const count = model.labels.length.toLocaleString("en");
  byId("knows-title").textContent = `What it recognises: ${count} things, and nothing else`;
  show("find-row", model.labels.length > WORTH_SEARCHING);
  byId("find").value = "";
  const name = (text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  };
  byId("names").replaceChildren(...model.labels.map(name));
  filter();
  const facts = Object.entries(model.card).map(([key, value]) => [key.replaceAll("_", " "), value]);
  fill("card", [["network", model.network], ["reads", `${model.image_size} x ${model.image_size} pixels`], ...facts]);
}

// Shows the names that have the words that are searched for.
export function filter() {
  const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const item of byId("names").children) {
    const text = item.textContent.toLowerCase();
    item.hidden = !words.every((word) => text.includes(word));
    found += item.hidden ? 0 : 1;
  }
  byId("found").textContent = words.length === 0 ? "" : `${found.toLocaleString("en")} of them`;
}
