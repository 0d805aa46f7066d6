// The same question as the page's, for a program: lines to copy.

import { hasToken } from "./service.js";
import { byId } from "./view.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

export function showSnippets(name, model, top) {
  const file = /^[\w.-]+$/.test(name) ? name : "picture.jpg";
  const address = new URL(`v1/classify?${new URLSearchParams({ top, model })}`, document.baseURI).href;
  const curlToken = hasToken() ? ' -H "Authorization: Bearer $TOKEN"' : "";
  const pythonToken = hasToken() ? ', headers={"Authorization": f"Bearer {TOKEN}"}' : "";
  byId("curl").textContent = `curl${curlToken} --data-binary @${file} ${quoted(address)}`;
  byId("python").textContent = "import httpx\n\n"
    + `answer = httpx.post(${JSON.stringify(address)}, content=open(${JSON.stringify(file)}, "rb").read()${pythonToken})\n`
    + 'print(answer.json()["label"])';
}

// Copies the text of the element that a button names.
export async function copy(button) {
  const text = byId(button.dataset.copies).textContent;
  try {
    await navigator.clipboard.writeText(text);
    byId("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(byId(button.dataset.copies));
    byId("copied").textContent = "This browser copies only where a page was opened by https, or on the service's own machine: the text is selected.";
  }
}
