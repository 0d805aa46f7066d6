// The interface, as openapi.json describes it (OpenAPI 3.1): its operations by tag, and curl lines to copy.

const byId = (id) => document.getElementById(id);

function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// A schema in one line, as a person writes it: {label: string, top: [{...}]}; what is not required has a "?".
function written(schema, components, depth = 0) {
  if (!schema) return "anything";
  if (schema.$ref) return written(components[schema.$ref.split("/").pop()], components, depth);
  const choices = schema.anyOf || schema.oneOf;
  if (choices) return [...new Set(choices.map((each) => written(each, components, depth)))].join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `[${written(schema.items, components, depth)}, ...]`;
  if (schema.properties) {
    if (depth > 2) return "{...}";
    const required = new Set(schema.required || []);
    const parts = Object.entries(schema.properties).map(
      ([name, value]) => `${name}${required.has(name) ? "" : "?"}: ${written(value, components, depth + 1)}`);
    return `{${parts.join(", ")}}`;
  }
  if (schema.contentMediaType || schema.format === "binary") return "bytes";
  return [schema.type || "anything"].flat().join(" or ");
}

function range(schema = {}) {
  const found = [["minimum", "from"], ["maximum", "to"]].filter(([key]) => schema[key] !== undefined);
  const facts = found.map(([key, word]) => `${word} ${schema[key]}`);
  if (schema.default !== undefined && schema.default !== null) facts.push(`${JSON.stringify(schema.default)} if left out`);
  return facts.join(", ");
}

function table(heads, rows) {
  const made = element("table");
  const head = made.createTHead().insertRow();
  for (const text of heads) head.append(element("th", text, { scope: "col" }));
  const body = made.createTBody();
  for (const cells of rows) {
    const row = body.insertRow();
    cells.forEach((text, index) => row.insertCell().append(index === 0 ? element("code", text) : text));
  }
  return made;
}

function curlLine(method, path, operation) {
  const types = Object.keys(operation.requestBody?.content || {});
  const address = new URL(path.replace(/^\//, ""), document.baseURI).href;
  const parts = ["curl"];
  if (method !== "get") parts.push("-X", method.toUpperCase());
  if (types.includes("multipart/form-data")) parts.push("-F", "file=@picture.jpg");
  else if (types.includes("application/json")) parts.push("-H", "'Content-Type: application/json'", "--data", "@request.json");
  else if (types.length) parts.push("--data-binary", "@picture.jpg");
  return [...parts, `'${address}'`].join(" ");
}

function operationOf(method, path, operation, components) {
  const made = element("details", "", { class: "card operation", id: operation.operationId });
  const summary = element("summary");
  summary.append(element("code", `${method.toUpperCase()} ${path}`), ` ${operation.summary || ""}`);
  made.append(summary);
  if (operation.description) made.append(element("p", operation.description));
  if (operation.parameters?.length) {
    made.append(element("h3", "Parameters"), table(["Name", "In", "What", "Meaning"], operation.parameters.map((each) =>
      [each.name + (each.required ? "" : "?"), each.in, [written(each.schema, components), range(each.schema)]
        .filter(Boolean).join(", "), each.description || ""])));
  }
  const body = Object.entries(operation.requestBody?.content || {});
  if (body.length) {
    made.append(element("h3", "Body"), table(["Type", "What"], body.map(([type, { schema }]) =>
      [type, written(schema, components)])));
  }
  made.append(element("h3", "Answers"), table(["Status", "Meaning", "What"], Object.entries(operation.responses).map(
    ([status, answer]) => [status, answer.description, Object.entries(answer.content || {}).map(([type, { schema }]) =>
      `${type}: ${written(schema, components)}`).join("; ")])));
  made.append(element("h3", "With curl"), element("pre", curlLine(method, path, operation), { tabindex: "0" }));
  return made;
}

function show(description) {
  byId("about").textContent = `${description.info.description} Version ${description.info.version}.`;
  const components = description.components?.schemas || {};
  const byTag = new Map();
  for (const [path, methods] of Object.entries(description.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags?.[0] || "other";
      if (!byTag.has(tag)) byTag.set(tag, []);
      byTag.get(tag).push(operationOf(method, path, operation, components));
    }
  }
  for (const [tag, operations] of byTag) {
    const section = element("section", "", { "aria-label": tag });
    section.append(element("h2", tag), ...operations);
    byId("operations").append(section);
  }
  openNamed();
  addEventListener("hashchange", openNamed);
}

// The operation that the address names, as in docs#classify_v1_classify_post.
function openNamed() {
  const named = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
  if (named) {
    named.open = true;
    named.scrollIntoView();
  }
}

try {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`the service answered with status ${answer.status}`);
  show(await answer.json());
} catch (error) {
  byId("error").textContent = `The description cannot be read: ${error.message}. Load the page again.`;
  byId("error").hidden = false;
}
