// What the page asks the service, and the service's refusals in plain words.

const TOKEN_KEY = "fracbnn-token";
let token = sessionStorage.getItem(TOKEN_KEY) || "";

export function hasToken() {
  return token !== "";
}

// The token to send from now on; this tab keeps it.
export function setToken(given) {
  token = given;
  sessionStorage.setItem(TOKEN_KEY, given);
}

const PLAIN = {
  0: "The service cannot be reached. Check that it still runs and that this device is connected.",
  400: "The service could not use what it was sent.",
  401: "The service asks for a token.",
  404: "The service no longer has this model. Load the page again.",
  408: "The picture took too long to arrive. Try a smaller one or a better connection.",
  413: "This picture is too large for the service. Try a smaller one.",
  415: "This file is not a picture that the service can read. Try a JPEG or PNG.",
  422: "This file is not a picture that the service can read. Try a JPEG or PNG.",
  500: "The service failed. Its log says why.",
  503: "The service is busy or recovering. Try again in a moment.",
};

export class Refusal extends Error {
  constructor(status, detail = "", after = 1) {
    super(PLAIN[status] || `The service answered with status ${status}.`);
    this.status = status;
    this.detail = detail;
    this.after = after;
  }
}

async function ask(address, options = {}, read = (answer) => answer.text()) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let answer;
  let body;
  try {
    answer = await fetch(address, { ...options, headers });
    body = await (answer.ok ? read(answer) : answer.text());
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0);
  }
  if (answer.ok && typeof body !== "string") return body;
  let content = {};
  try {
    content = JSON.parse(body);
  } catch {
    if (answer.ok) throw new Refusal(500, "its answer is not JSON");
  }
  if (!answer.ok) throw new Refusal(answer.status, content.error, Number(answer.headers.get("Retry-After")) || 1);
  return content;
}

// `blob`: an encoded picture. The answer, with `roundTrip`: milliseconds from here and back.
export async function classify(blob, model, signal, top = 5) {
  const start = performance.now();
  const answer = await send("v1/classify", { top, model }, blob, signal);
  return { ...answer, roundTrip: performance.now() - start };
}

// The gated layers of the network, with the fraction of each that `blob` opens.
export async function trace(blob, model, signal) {
  return (await send("v1/trace", { model }, blob, signal)).layers;
}

// A PNG of one of these layers.
export function traceLayer(blob, model, layer, signal) {
  return send("v1/trace/layer", { model, layer }, blob, signal, (answer) => answer.blob());
}

function send(address, query, blob, signal, read) {
  const type = blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
  const options = { method: "POST", body: blob, headers: { "Content-Type": type }, signal };
  return ask(`${address}?${new URLSearchParams(query)}`, options, read);
}

// The models by name, in the service's order, with their labels and cards; and the pixels that a picture may have.
export async function loadModels() {
  const { models, max_pixels: maxPixels } = await ask("v1/models");
  return { models: new Map(models.map((model) => [model.name, model])), maxPixels };
}

// The service's own camera: `configured`, and if so its source, state, and viewers.
export function loadCamera() {
  return ask("v1/camera");
}

// A WebSocket with the camera's frames. A browser can send the token in the name of a protocol only: an address would
// be logged.
export function openStream() {
  const address = new URL("v1/stream", document.baseURI);
  address.protocol = address.protocol.replace("http", "ws");
  const encoded = btoa(token).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  return new WebSocket(address, ["fracbnn.stream.v1", ...(token ? [`fracbnn.token.${encoded}`] : [])]);
}
