"use strict";
// Everything is made from the JSON below by the DOM, so nothing of the model is read as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
const number = (value, digits) => (value === null || value === undefined ? "-" : value.toFixed(digits));
const bytes = (n) => {
  for (const unit of ["bytes", "KiB", "MiB"]) {
    if (n < 1024) return `${unit === "bytes" ? n : n.toFixed(1)} ${unit}`;
    n /= 1024;
  }
  return `${n.toFixed(1)} GiB`;
};

// Themes: the system's unless a button was pressed.
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme || (dark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
});

$("summary").textContent = data.summary;
for (const [figure, what] of data.facts) {
  $("facts").append(make("li", null, make("b", null, figure), make("span", null, what)));
}

// The table of layers.
const columns = [
  { key: "name", title: "layer", text: (l) => l.name },
  { key: "op", title: "op", text: (l) => l.op, optional: true },
  { key: "pattern", title: "pattern", text: (l) => l.pattern },
  { key: "density", title: "density", number: true, text: (l) => `${(100 * l.density).toFixed(1)} %` },
  { key: "format", title: "runs as", text: (l) => (l.native ? l.format : "torch") },
  { key: "kernel", title: "kernel", text: (l) => l.kernel, optional: true },
  { key: "gain", title: "gain", number: true, text: (l) => (l.gain ? `${l.gain.toFixed(1)}x` : "-") },
  { key: "share", title: "time", number: true, text: (l) => (l.share ? `${(100 * l.share).toFixed(1)} %` : "-"), only: data.profile },
  { key: "fused", title: "fused", text: (l) => l.fused.join(" ") || "-", optional: true },
].filter((column) => column.only !== null);
const state = { key: null, down: false, open: new Set() };

function sorted(layers) {
  if (state.key === null) return layers;
  const value = (l) => (l[state.key] === null || l[state.key] === undefined ? -1 : l[state.key]);
  const order = (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0);
  return [...layers].sort((a, b) => (state.down ? -order(a, b) : order(a, b)));
}

function matching(layers) {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = $("kind").value;
  return layers.filter((layer) => {
    const text = [layer.name, layer.op, layer.pattern, layer.format, layer.kernel, layer.reason].join(" ").toLowerCase();
    const runs = !layer.native ? "torch" : layer.format === "dense" ? "dense" : "sparse";
    return words.every((word) => text.includes(word)) && (kind === "all" || kind === runs);
  });
}

function candidates(layer) {
  const body = make("tbody");
  for (const c of layer.candidates) {
    body.append(make("tr", null,
      make("td", null, c.format),
      make("td", { class: "number" }, number(c.predicted_ms, 4)),
      make("td", { class: "number" }, number(c.measured_ms, 4)),
      make("td", null, c.reason || "taken")));
  }
  const head = make("tr", null, make("th", null, "candidate"), make("th", { class: "number" }, "predicted ms"),
    make("th", { class: "number" }, "measured ms"), make("th", null, "why not"));
  return make("table", null, make("thead", null, head), body);
}

function picture(layer) {
  const spy = data.pictures[layer.name];
  if (!spy) return "";
  const canvas = make("canvas", { class: "spy", width: spy.columns, height: spy.rows, role: "img",
    "aria-label": `where the weight of ${layer.name} is not zero` });
  const context = canvas.getContext("2d");
  const image = context.createImageData(spy.columns, spy.rows);
  const shades = atob(spy.shades);
  const live = getComputedStyle(document.documentElement).getPropertyValue("--live").trim();
  const [red, green, blue] = [1, 3, 5].map((i) => parseInt(live.slice(i, i + 2), 16));
  for (let i = 0; i < shades.length; i++) image.data.set([red, green, blue, shades.charCodeAt(i)], 4 * i);
  context.putImageData(image, 0, 0);
  return make("figure", null, canvas, make("figcaption", null,
    `${spy.shape}: rows down, columns across; the darker, the more non-zeros`));
}

function more(layer) {
  const words = make("div", null);
  if (layer.reason) words.append(make("p", null, layer.reason));
  const size = (n) => (n === null || n === undefined ? null : bytes(n));
  const facts = [["activations lie as", layer.layout], ["stored", size(layer.stored_bytes)],
    ["least possible", size(layer.ideal_bits && layer.ideal_bits / 8)], ["values", layer.values], ["break-even", layer.crossover]];
  for (const [what, value] of facts) {
    if (value !== null && value !== undefined && value !== "") words.append(make("div", null, `${what}: ${value}`));
  }
  if (layer.candidates.length) words.append(candidates(layer));
  return make("div", { class: "details" }, picture(layer), words);
}

function rows() {
  const body = $("layers");
  body.replaceChildren();
  const shown = sorted(matching(data.layers));
  for (const layer of shown) {
    const open = state.open.has(layer.name);
    const button = make("button", { type: "button", "aria-expanded": String(open) }, layer.name);
    button.addEventListener("click", () => {
      state.open[open ? "delete" : "add"](layer.name);
      rows();
      [...body.querySelectorAll("td.name button")].find((b) => b.textContent === layer.name).focus();
    });
    const cells = columns.slice(1).map((column) =>
      make("td", { class: [column.number ? "number" : "", column.optional ? "optional" : ""].join(" ") }, column.text(layer)));
    body.append(make("tr", null, make("td", { class: "name" }, button), ...cells));
    if (open) body.append(make("tr", { class: "more" }, make("td", { colspan: columns.length }, more(layer))));
  }
  $("count").textContent = `${shown.length} of ${data.layers.length} layers`;
}

function header() {
  const row = make("tr");
  for (const column of columns) {
    const button = make("button", { type: "button" }, column.title);
    const cell = make("th", { scope: "col", class: [column.number ? "number" : "", column.optional ? "optional" : ""].join(" ") }, button);
    button.addEventListener("click", () => {
      state.down = state.key === column.key ? !state.down : Boolean(column.number);
      state.key = column.key;
      for (const other of row.children) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      rows();
    });
    row.append(cell);
  }
  $("columns").append(row);
}
header();
rows();
$("filter").addEventListener("input", rows);
$("kind").addEventListener("change", rows);

// What each pass did to the graph: its unified diff, and the whole graph with the same lines marked.
function marked(lines) {
  const box = make("div");
  for (const [sign, line] of lines) {
    const kind = { "+": "add", "-": "drop", "@": "at" }[sign];
    box.append(kind ? make("span", { class: kind }, line) : `${line}\n`);
  }
  return make("pre", { tabindex: "0" }, box);
}
const hunks = (diff) => diff.split("\n").slice(2).map((line) => [line[0], line]);
function patched(lines, diff) {
  // [[sign, line], ...] of the whole graph after a diff of `lines`, which lacks what did not change.
  const found = [];
  let at = 0;
  for (const [sign, line] of hunks(diff)) {
    if (sign === "@") {
      const [start, count] = line.match(/-(\d+)(?:,(\d+))?/).slice(1);
      const first = count === "0" ? Number(start) : start - 1;
      while (at < first) found.push([" ", `  ${lines[at++]}`]);
    } else {
      found.push([sign, `${sign} ${line.slice(1)}`]);
      if (sign !== "+") at++;
    }
  }
  while (at < lines.length) found.push([" ", `  ${lines[at++]}`]);
  return found;
}
const kept = (whole) => whole.filter(([sign]) => sign !== "-").map(([, line]) => line.slice(2));
function whole(number) {
  let lines = data.before.split("\n");
  for (const pass of data.passes.slice(0, number)) if (pass.diff) lines = kept(patched(lines, pass.diff));
  return patched(lines, data.passes[number].diff);
}
function lazily(summary, content) {
  const box = make("details", null, summary);
  box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) box.append(content()); });
  return box;
}
for (const [at, pass] of data.passes.entries()) {
  const title = make("summary", null, `${pass.name} `, make("span", { class: "quiet" },
    pass.diff ? `${pass.ms.toFixed(1)} ms, ${pass.removed} lines out, ${pass.added} in` : `${pass.ms.toFixed(1)} ms, no change`));
  $("stages").append(pass.diff ? lazily(title, () => make("div", null, marked(hunks(pass.diff)),
    lazily(make("summary", { class: "quiet" }, "the whole graph, changes marked"), () => marked(whole(at))))) : make("div", null, ...title.childNodes));
}
const text = (content) => make("pre", { tabindex: "0" }, content);
$("stages").append(lazily(make("summary", null, "the graph before all passes"), () => text(data.before)));
$("stages").append(lazily(make("summary", null, "the graph after all passes"), () => text(data.after)));

// The graph, drawn: positions come with the data.
function draw() {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const shape = (tag, attributes, content) => {
    const node = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (content !== undefined) node.textContent = content;
    return node;
  };
  const { nodes, edges, width, height } = data.drawing;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.setAttribute("class", "graph");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "the graph after all passes");
  for (const [from, to] of edges) {
    const [a, b] = [nodes[from], nodes[to]];
    const middle = (a.y + b.y) / 2;
    svg.append(shape("path", { d: `M${a.x} ${a.y + 14} C${a.x} ${middle} ${b.x} ${middle} ${b.x} ${b.y - 14}` }));
  }
  for (const node of nodes) {
    const half = node.width / 2;
    svg.append(shape("rect", { x: node.x - half, y: node.y - 14, width: node.width, height: 28, rx: 5, class: node.layer ? "layer" : "" }));
    const label = shape("text", { x: node.x, y: node.y + 4, "text-anchor": "middle" }, node.label);
    label.append(shape("title", {}, node.text));
    svg.append(label);
  }
  return make("div", { class: "scroll", tabindex: "0" }, svg);
}
$("drawing").append(lazily(make("summary", null, `${data.drawing.nodes.length} operations, drawn`), draw));

// Time of each kernel call.
if (data.profile) {
  const longest = Math.max(...data.profile.rows.map((row) => row.ms));
  for (const row of data.profile.rows) {
    $("calls").append(make("tr", null,
      make("td", { class: "name" }, row.kernel), make("td", { class: "name optional" }, row.layer),
      make("td", { class: "number" }, row.ms.toFixed(4)),
      make("td", null, make("span", { class: "bar", style: `width:${(90 * row.ms) / longest}px` })),
      make("td", { class: "number optional" }, row.gflops ? row.gflops.toFixed(0) : "-"),
      make("td", { class: "number optional" }, row.gbytes ? row.gbytes.toFixed(1) : "-"),
      make("td", { class: "number" }, row.roofline === null ? "-" : `${(100 * row.roofline).toFixed(0)} %`)));
  }
  $("profile-note").textContent = data.profile.note;
} else {
  $("time").hidden = $("to-time").hidden = true;
}

for (const [name, source] of data.sources) {
  $("sources").append(lazily(make("summary", null, name), () => text(source)));
}
if (!data.sources.length) $("code").hidden = true;
document.documentElement.dataset.ready = "yes";
