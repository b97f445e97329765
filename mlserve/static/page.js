"use strict";

// Everything a person or a contract named goes through text nodes and attributes, never through markup.
const model = JSON.parse(document.getElementById("model").textContent);
const find = (id) => document.getElementById(id);
const form = find("form");
const address = new URL("predict", document.baseURI).href;
const PATIENCE = 30_000; // milliseconds

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const named = (tag, text, attributes = {}) => element(tag, { dir: "auto", ...attributes }, text);

// ---------------------------------------------------------------------------------------------------- the form
// A control shows one field. Its `json` gives the value as JSON text, "null", or undefined when nothing was given.
// Numbers stay the text that was typed: a detour through a double could change them without a word.

const JSON_NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?$/i;

function numberControl(field, shared) {
  const bounds = field.outside === "refuse" ? { min: field.low ?? undefined, max: field.high ?? undefined } : {};
  const whole = field.kind === "integer";
  const input = element("input", {
    ...shared, ...bounds, type: "number", step: whole ? 1 : "any", inputmode: whole ? "numeric" : "decimal",
    value: field.example ?? undefined,
  });
  const json = () => {
    if (input.validity.badInput) return '""'; // not a number: the service says so, and at which field
    if (input.value === "") return undefined;
    return JSON_NUMBER.test(input.value) ? input.value : String(Number(input.value));
  };
  return { nodes: [input], json };
}

function textControl(field, shared) {
  const input = element("input", { ...shared, type: "text", value: field.example ?? undefined });
  return { nodes: [input], json: () => (input.value === "" ? undefined : JSON.stringify(input.value)) };
}

// A day is midnight where times are asked for; both are the same to the service
const asInput = (type, value) => (type === "datetime-local" && value.length === 10 ? `${value}T00:00` : value);

function holds(type, value) {
  const input = element("input", { type, step: "any" });
  input.value = asInput(type, value); // what the browser cannot show as this type, it drops
  return input.value !== "";
}

function dateControl(field, shared) {
  const known = [field.example, field.low, field.high].filter((value) => value !== null);
  const type = ["date", "datetime-local"].find((each) => known.every((value) => holds(each, value)));
  if (!type) return textControl(field, shared);
  const value = field.example === null ? undefined : asInput(type, field.example);
  const input = element("input", { ...shared, type, step: "any", value });
  const json = () => {
    if (input.validity.badInput) return '""'; // half a date
    return input.value === "" ? undefined : JSON.stringify(input.value);
  };
  return { nodes: [input], json };
}

function choiceControl(field, shared, choices, open) {
  // Options carry the number of their level: a level may be empty, or look like another once its spaces are folded
  const levels = choices.map((choice) => choice.value);
  const chosen = levels.indexOf(field.example);
  const other = open && chosen < 0 && field.example !== null;
  const option = (value, text, selected) => named("option", text, { value, selected });
  const select = element("select", shared);
  if (field.nullable || field.example === null) {
    select.append(option("", field.nullable ? "not known" : "choose", field.example === null));
  }
  select.append(...choices.map((choice, i) => option(i, choice.text, i === chosen)));
  if (!open) return { nodes: [select], json: () => (select.value === "" ? undefined : JSON.stringify(levels[select.value])) };

  select.append(option("other", "another value …", other));
  const input = element("input", {
    type: "text", "aria-label": `${field.name}: another value`, "aria-describedby": shared["aria-describedby"],
    value: other ? field.example : "",
  });
  const show = () => { input.hidden = select.value !== "other"; };
  select.addEventListener("change", () => { show(); if (!input.hidden) input.focus(); });
  const json = () => {
    const value = select.value === "other" ? input.value : levels[select.value];
    return value === undefined || (select.value === "other" && value === "") ? undefined : JSON.stringify(value);
  };
  show();
  return { nodes: [select, input], json, show };
}

function controlFor(field, shared) {
  if (field.kind === "boolean") {
    return choiceControl(field, shared, [{ value: true, text: "yes" }, { value: false, text: "no" }], false);
  }
  if (field.levels) {
    const choices = field.levels.map((level) => ({ value: level, text: level === "" || level.trim() !== level ? `“${level}”` : level }));
    return choiceControl(field, shared, choices, field.outside !== "refuse");
  }
  const kinds = { integer: numberControl, number: numberControl, date: dateControl };
  return (kinds[field.kind] ?? textControl)(field, shared);
}

const shown = (bound) => String(bound).replace(/(?<=\d)T(?=\d)/, " ");

function help(field) {
  const range = field.levels || field.low === null || field.high === null ? "" : `${shown(field.low)} to ${shown(field.high)}`;
  const parts = [field.description.trim().replace(/\.$/, "")];
  if (range) parts.push(field.outside === "refuse" ? range : `usually ${range}`);
  if (field.nullable) parts.push("can be left empty");
  return parts.filter(Boolean).join(" · ");
}

function show(field, i) {
  const id = `field-${i}`;
  const text = help(field);
  const describedby = `${text ? `${id}-help ` : ""}${id}-note`;
  const control = controlFor(field, { id, required: !field.nullable, "aria-describedby": describedby });
  const note = element("p", { class: "note", id: `${id}-note` });
  const node = element(
    "div", { class: "field" },
    named("label", field.name, { for: id }), ...control.nodes,
    ...(text ? [named("p", text, { class: "help", id: `${id}-help` })] : []), note,
  );
  find("fields").append(node);
  return { field, node, note, control, input: control.nodes[0] };
}

const entries = model.fields.map(show);
find("key-field").hidden = !model.key;

function mark(entry, kind, message) {
  entry.node.dataset.state = kind;
  entry.note.textContent = message;
  for (const node of entry.control.nodes) {
    if (kind === "bad") node.setAttribute("aria-invalid", "true");
    else node.removeAttribute("aria-invalid");
  }
}

function row() {
  const given = entries.map(({ field, control }) => {
    const json = control.json() ?? (field.nullable ? "null" : undefined);
    return json === undefined ? [] : [`  ${JSON.stringify(field.name)}: ${json}`];
  });
  return `{\n${given.flat().join(",\n")}\n}`;
}

// ------------------------------------------------------------------------------------------------- the request
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`; // for a POSIX shell

function showRequest() {
  const key = model.key ? ' \\\n  -H "authorization: Bearer $KEY"' : "";
  find("curl").textContent =
    `curl -sS ${quoted(address)}${key} \\\n  -H 'content-type: application/json' \\\n  -d ${quoted(row())}`;
}

async function copy() {
  const said = find("copied");
  try {
    await navigator.clipboard.writeText(find("curl").textContent);
    said.textContent = "Copied";
  } catch { // no clipboard without HTTPS, or it was not allowed
    getSelection().selectAllChildren(find("curl"));
    said.textContent = "Selected: now press Ctrl+C";
  }
  setTimeout(() => { said.textContent = ""; }, 4000);
}

// -------------------------------------------------------------------------------------------------- the answer
const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });
const scientific = new Intl.NumberFormat("en", { maximumSignificantDigits: 6, notation: "scientific" });

function readable(value) {
  const size = Math.abs(value);
  return (size !== 0 && (size < 1e-6 || size >= 1e15) ? scientific : number).format(value);
}

function percent(p) {
  if (p > 0 && p < 0.001) return "<0.1 %";
  if (p < 1 && p > 0.999) return ">99.9 %";
  return `${(100 * p).toFixed(1)} %`;
}

const className = (label) => (typeof label === "string" ? label : JSON.stringify(label));

function bar(name, p, chosen) {
  const fill = element("span", { class: "fill" });
  fill.style.inlineSize = `${100 * p}%`;
  const meter = element("span", {
    class: "track", role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 1, "aria-valuenow": p,
    "aria-valuetext": percent(p),
  }, fill);
  const text = [named("span", name, { class: "class" }), element("span", { class: "percent" }, percent(p))];
  return element("li", { class: chosen ? "chosen" : undefined }, ...text, meter);
}

function bars(answer) {
  const chosen = className(answer.label);
  const all = model.classes.map((name) => [name, answer.probabilities[name]]).sort((a, b) => b[1] - a[1]);
  return element("ul", { class: "bars", "aria-label": "Probability of each class" },
    ...all.map(([name, p]) => bar(name, p, name === chosen)));
}

function headline(answer) {
  const parts = [named("p", model.target, { class: "target" })];
  if (model.task === "regression") {
    const unit = model.unit ? [" ", named("span", model.unit, { class: "unit" })] : [];
    parts.push(element("p", { class: "label" }, readable(answer.value), ...unit));
  } else {
    parts.push(named("p", className(answer.label), { class: "label" }));
  }
  const odd = answer.warnings.length;
  if (odd) parts.push(element("p", { class: "hidden" }, odd === 1 ? "with a warning" : `with ${odd} warnings`));
  return parts;
}

function warnings(answer) {
  const items = answer.warnings.map(({ field, message }) => {
    const entry = entries.find((e) => e.field.name === field);
    if (!entry) return named("li", message);
    mark(entry, "odd", message);
    return element("li", {}, named("a", message, { href: `#${entry.input.id}` }));
  });
  const title = "Unlike the training data, so take the answer with care:";
  return items.length ? [element("div", { class: "notice odd" }, element("p", {}, title), element("ul", {}, ...items))] : [];
}

function showAnswer(answer) {
  const replaced = answer.model !== model.name || answer.version !== model.version;
  const news = `This answer is from ${answer.model} ${answer.version}; reload the page to see that model.`;
  find("headline").replaceChildren(...headline(answer));
  find("details").replaceChildren(
    ...(answer.probabilities ? [bars(answer)] : []),
    ...warnings(answer),
    ...(replaced ? [named("p", news, { class: "notice odd" })] : []),
    element("details", {}, element("summary", {}, "Response as JSON"),
      element("pre", { tabindex: 0, role: "group", "aria-label": "Response" }, JSON.stringify(answer, null, 2))),
  );
}

function showError(error) {
  const rest = [];
  let first = null;
  for (const { field, message } of error.fields ?? []) {
    const entry = entries.find((e) => e.field.name === field);
    if (!entry) { rest.push(message); continue; }
    mark(entry, "bad", message);
    first ??= entry;
  }
  const count = (error.fields?.length ?? 0) - rest.length;
  if (count) rest.unshift(count === 1 ? "One field needs another value." : `${count} fields need other values.`);
  trouble(rest.length ? rest.join(" ") : error.message);
  first?.input.focus();
}

function trouble(sentence) {
  find("headline").replaceChildren();
  find("details").replaceChildren();
  find("trouble").textContent = sentence;
  find("trouble").hidden = false;
}

function age(old) {
  find("answer").classList.toggle("old", old);
  find("changed").hidden = !old;
}

function clear() {
  age(false);
  find("trouble").hidden = true;
  find("trouble").textContent = "";
  for (const entry of entries) mark(entry, "", "");
}

// --------------------------------------------------------------------------------------------------- predicting
async function ask(body, key) {
  const headers = { "content-type": "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  const response = await fetch(address, { method: "POST", body, headers, signal: AbortSignal.timeout(PATIENCE) });
  return { ok: response.ok, status: response.status, told: await response.json().catch(() => null) };
}

function failed(error) {
  if (error.name === "TimeoutError") return `The service did not answer in ${PATIENCE / 1000} seconds; try again.`;
  return "The service cannot be reached; check the connection and try again.";
}

function bringIntoView() {
  const { top, bottom } = find("answer").getBoundingClientRect();
  if (bottom > 0 && top < 0.6 * innerHeight) return;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  find("answer").scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
}

function askForKey(sentence) {
  find("key-field").hidden = false;
  trouble(sentence);
  find("key").focus();
}

function showResponse({ ok, status, told }) {
  if (ok && told) showAnswer(told);
  else if (status === 401) askForKey("Predictions need a key that is known here; type it into Key.");
  else if (status === 403 && told?.message) askForKey(told.message);
  else if (told?.message) showError(told);
  else trouble(`The service answered with status ${status}; try again in a moment.`);
  if (!form.querySelector("[aria-invalid]")) bringIntoView();
}

let asking = null; // the row that is under way; starting over forgets it

async function predict(event) {
  event.preventDefault();
  if (asking) return;
  const sent = { row: row() };
  const key = find("key").value.trim();
  if (!/^[\x21-\x7e]*$/.test(key)) { // fetch would throw
    clear();
    askForKey("The key holds characters that no key has; type it again.");
    return;
  }
  asking = sent;
  form.setAttribute("aria-busy", "true");
  try {
    const response = await ask(sent.row, key);
    if (asking !== sent) return;
    clear();
    showResponse(response);
  } catch (error) {
    if (asking !== sent) return;
    clear();
    trouble(failed(error));
    bringIntoView();
  }
  age(row() !== sent.row);
  rest();
}

function rest() {
  asking = null;
  form.removeAttribute("aria-busy");
}

// ---------------------------------------------------------------------------------------------------- the model
function fact(term, value) {
  return value === "" || value === null || value === undefined
    ? [] : [element("div", {}, element("dt", {}, term), named("dd", String(value)))];
}

function showModel() {
  const { lineage } = model;
  find("facts").append(
    ...fact("Model", model.name), ...fact("Version", model.version), ...fact("Code", model.code_version),
    ...fact("Engine", model.engine),
    ...fact("Rows", `${lineage.rows.toLocaleString("en")} (${lineage.held_out.toLocaleString("en")} held out)`),
    ...fact("Data", lineage.data),
  );
}

function metricRow({ name, value, low, high, baseline }) {
  const short = (x) => (x === null ? "" : new Intl.NumberFormat("en", { maximumSignificantDigits: 4 }).format(x));
  const between = low === null || high === null ? "" : `${short(low)} to ${short(high)}`;
  return element("tr", {}, element("th", { scope: "row" }, name),
    ...[short(value), between, short(baseline)].map((text) => element("td", {}, text)));
}

function showMetrics() {
  if (!model.metrics.length) return;
  const heads = ["metric", "value", "95 % interval", "baseline"].map((text) => element("th", { scope: "col" }, text));
  const about = "On held-out rows. The baseline looks at no field.";
  find("metrics").append(element("p", { class: "quiet", id: "about" }, about),
    element("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Metrics", "aria-describedby": "about" },
      element("table", {}, element("thead", {}, element("tr", {}, ...heads)),
        element("tbody", {}, ...model.metrics.map(metricRow)))));
}

function showPlots() {
  find("plots").append(...model.plots.map(({ name, url }) =>
    element("figure", {},
      element("a", { href: url }, element("img", { src: url, alt: `Plot: ${name}`, loading: "lazy" })),
      element("figcaption", {}, name))));
}

form.addEventListener("submit", predict);
form.addEventListener("input", (event) => {
  const entry = entries.find(({ node }) => node.contains(event.target));
  if (entry) mark(entry, "", "");
  if (find("headline").querySelector(".label")) age(true);
  showRequest();
});
find("key").addEventListener("keydown", (event) => { // it stands outside the form, so that starting over keeps it
  if (event.key === "Enter") form.requestSubmit();
});
form.addEventListener("reset", rest);
form.addEventListener("reset", () => setTimeout(() => {
  for (const { control } of entries) control.show?.();
  clear();
  find("headline").replaceChildren(element("p", { class: "quiet" }, "It will be shown here."));
  find("details").replaceChildren();
  showRequest();
}));
find("copy").addEventListener("click", copy);
showRequest();
showModel();
showMetrics();
showPlots();
