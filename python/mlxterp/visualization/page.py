"""The template of the interactive page; {{NAME}} are its fields.

Everything a user gives reaches the page as data of its script, which writes it
as text only. `data-view` finds this page's elements where several pages stand
in one document.
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{TITLE}}</title>
<style>
.mlxterp-attention {
  --ground: #ffffff; --ink: #1c1e21; --quiet: #5b626b; --line: #c9ced6;
  --accent: #1f5fbf; color-scheme: light dark; background: var(--ground);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; padding: 1rem;
}
body > .mlxterp-attention:only-child {
  min-height: 100vh; box-sizing: border-box;
}
@media (prefers-color-scheme: dark) {
  .mlxterp-attention {
    --ground: #16181c; --ink: #e8eaed; --quiet: #a3abb5; --line: #454b54;
    --accent: #8ab4f8;
  }
}
.mlxterp-attention h1 { font-size: 1.2rem; margin: 0 0 .75rem; }
.mlxterp-attention h2 { font-size: .95rem; margin: 1rem 0 .4rem; }
.mlxterp-attention .bar, .mlxterp-attention .columns {
  display: flex; flex-wrap: wrap; gap: 1rem; align-items: center;
}
.mlxterp-attention .columns { align-items: flex-start; gap: 1.5rem; }
.mlxterp-attention button {
  font: inherit; color: inherit; background: transparent; cursor: pointer;
  border: 1px solid var(--line); border-radius: 4px; padding: .15rem .4rem;
}
.mlxterp-attention button[aria-pressed="true"] {
  border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent);
}
.mlxterp-attention :focus-visible {
  outline: 2px solid var(--accent); outline-offset: 2px;
}
.mlxterp-attention .tokens { display: flex; flex-wrap: wrap; gap: .25rem; }
.mlxterp-attention .tokens button { white-space: pre; font-family: monospace; }
.mlxterp-attention .heads { display: flex; flex-wrap: wrap; gap: .4rem; }
.mlxterp-attention .heads button { display: grid; font-size: .75rem; }
.mlxterp-attention canvas { image-rendering: pixelated; display: block; }
.mlxterp-attention .map { border: 1px solid var(--line); }
.mlxterp-attention .told {
  min-height: 1.5em; color: var(--quiet); margin: .4rem 0;
}
.mlxterp-attention .flow { overflow-x: auto; }
.mlxterp-attention table { border-collapse: collapse; font-size: .75rem; }
.mlxterp-attention td, .mlxterp-attention th {
  padding: 0 .25rem; text-align: left; font-weight: normal; white-space: pre;
}
.mlxterp-attention td { min-width: 1.2rem; height: 1.2rem; }
</style>
</head>
<body style="margin:0">
<main class="mlxterp-attention" data-view="{{VIEW}}">
<h1>{{TITLE}}</h1>
<div class="bar">
  <label>Layer
    <input class="layer" type="range" min="0" value="0" step="1"></label>
  <output class="layer-name"></output>
  <span role="group" aria-label="Direction">
    <button type="button" class="from" aria-pressed="true">
      where a token attends</button>
    <button type="button" class="to" aria-pressed="false">
      what attends to it</button>
  </span>
</div>
<h2>Tokens</h2>
<div class="tokens" role="group"
  aria-label="Tokens; arrow keys move, Enter holds"></div>
<p class="told" aria-live="polite"></p>
<div class="columns">
  <div>
    <h2 class="map-name"></h2>
    <canvas class="map" tabindex="0" role="img"
      style="width:{{SIZE}}px;height:{{SIZE}}px"
      aria-label="Attention of one head; arrow keys read it cell by cell">
    </canvas>
  </div>
  <div style="flex:1;min-width:16rem">
    <h2>Heads</h2>
    <div class="heads" role="group" aria-label="Heads"></div>
  </div>
</div>
<section class="flow" hidden><h2></h2><table></table></section>
<noscript>This page draws its patterns with a script.</noscript>
<script type="application/json">{{DATA}}</script>
<script>
(() => {
"use strict";
const root = document.querySelector(
  '[data-view="{{VIEW}}"]:not([data-ready])');
if (!root) return;
root.dataset.ready = "";
const find = name => root.querySelector(name);
const data = JSON.parse(find('script[type="application/json"]').textContent);
const tokens = data.tokens, width = tokens.length;
for (const layer of data.layers) {
  const bytes = Uint8Array.from(atob(layer.values), c => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  layer.values = new Float32Array(bytes.length / 4);
  for (let i = 0; i < layer.values.length; ++i)
    layer.values[i] = view.getFloat32(4 * i, true);
}
// `at` is what is chosen, `held` the token that stays when the pointer leaves.
const at = {layer: 0, head: 0, token: null, held: null, outgoing: true,
            row: 0, column: 0};
const dark = matchMedia("(prefers-color-scheme: dark)");
const shown = text => text.replace(/\\n/g, "\\u21b5")
  .replace(/\\t/g, "\\u21e5") || "\\u2205";
// With a cache there are fewer destinations than sources: they are the last.
const skipped = layer => width - layer.destinations;
const value = (layer, head, row, column) =>
  layer.values[(head * layer.destinations + row) * width + column];

function colour(number) {
  const part = Math.min(1, Math.max(0, number || 0));
  const ground = dark.matches ? [22, 24, 28] : [255, 255, 255];
  const full = dark.matches
    ? data.colour.map(c => Math.round(c + (255 - c) * 0.55)) : data.colour;
  return ground.map((g, i) => Math.round(g + (full[i] - g) * part));
}

function paint(canvas, layer, head) {
  canvas.width = width;
  canvas.height = layer.destinations;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, layer.destinations);
  for (let row = 0; row < layer.destinations; ++row)
    for (let column = 0; column < width; ++column) {
      const spot = 4 * (row * width + column);
      image.data.set(colour(value(layer, head, row, column)), spot);
      image.data[spot + 3] = 255;
    }
  context.putImageData(image, 0, 0);
}

// The attention of (or to) one token at a layer and head, for every token.
function line(layer, head, token) {
  return tokens.map((_, other) => {
    const row = (at.outgoing ? token : other) - skipped(layer);
    return row < 0 ? 0 : value(layer, head, row, at.outgoing ? other : token);
  });
}

function mean(layer, token) {
  const sum = new Array(width).fill(0);
  for (let head = 0; head < layer.heads; ++head)
    line(layer, head, token).forEach((v, i) => { sum[i] += v / layer.heads; });
  return sum;
}

const layerInput = find(".layer"), tokenBox = find(".tokens"),
      headBox = find(".heads"), map = find(".map"), told = find(".told");

function fill(element, number) {
  const rgb = colour(number);
  element.style.backgroundColor = `rgb(${rgb})`;
  const light = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2] > 140;
  element.style.color = light ? "#111" : "#fff";
}

function drawTokens() {
  const layer = data.layers[at.layer];
  const row = at.token === null ? null : line(layer, at.head, at.token);
  [...tokenBox.children].forEach((button, i) => {
    button.setAttribute("aria-pressed", at.token === i);
    if (row) fill(button, row[i]);
    else button.style.backgroundColor = button.style.color = "";
  });
  if (!row) {
    told.textContent =
      "Point at a token, or move to it with Tab and the arrow keys.";
  } else {
    const best = row.map((v, i) => [v, i])
      .sort((a, b) => b[0] - a[0]).slice(0, 3);
    told.textContent = `${shown(tokens[at.token])} (${at.token}) `
      + (at.outgoing ? "attends to: " : "is attended by: ")
      + best.map(([v, i]) => `${shown(tokens[i])} (${i}) ${v.toFixed(3)}`)
        .join(", ");
  }
}

function drawFlow() {
  const section = find(".flow");
  section.hidden = !data.flow || at.token === null;
  if (section.hidden) return;
  section.querySelector("h2").textContent =
    `${shown(tokens[at.token])} at every layer, mean of the heads`;
  const table = section.querySelector("table");
  table.replaceChildren();
  const header = table.insertRow();
  for (const text of ["", ...tokens.map(shown)]) {
    const cell = document.createElement("th");
    cell.textContent = text;
    header.append(cell);
  }
  for (const layer of data.layers) {
    const row = table.insertRow();
    const name = document.createElement("th");
    name.textContent = `L${layer.layer}`;
    row.append(name);
    mean(layer, at.token).forEach((v, i) => {
      const cell = row.insertCell();
      fill(cell, v);
      cell.title = `${shown(tokens[i])} ${v.toFixed(3)}`;
    });
  }
}

function drawMap() {
  const layer = data.layers[at.layer];
  paint(map, layer, at.head);
  find(".map-name").textContent = `Layer ${layer.layer}, head ${at.head}`;
}

function drawHeads() {
  const layer = data.layers[at.layer];
  headBox.replaceChildren();
  for (let head = 0; head < layer.heads; ++head) {
    const button = document.createElement("button");
    const canvas = document.createElement("canvas");
    button.type = "button";
    canvas.style.width = canvas.style.height = "56px";
    paint(canvas, layer, head);
    button.append(canvas, `H${head}`);
    button.setAttribute("aria-pressed", head === at.head);
    button.setAttribute("aria-pressed", head === at.head);
    button.addEventListener("click", () => {
      at.head = head;
      [...headBox.children].forEach((other, i) =>
        other.setAttribute("aria-pressed", i === head));
      drawMap();
      drawTokens();
    });
    headBox.append(button);
  }
}

function draw() {
  const layer = data.layers[at.layer];
  at.head = Math.min(at.head, layer.heads - 1);
  at.row = Math.min(at.row, layer.destinations - 1);
  find(".layer-name").textContent = layer.layer;
  drawHeads();
  drawMap();
  drawTokens();
  drawFlow();
}

function look(token) {
  at.token = token;
  drawTokens();
  drawFlow();
}

function steps(event) {
  return {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0],
          ArrowDown: [1, 0]}[event.key];
}

tokens.forEach((text, i) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = shown(text);
  button.title = `position ${i}`;
  button.tabIndex = i ? -1 : 0;  // one stop of Tab for the whole row
  button.addEventListener("pointerenter", () => look(i));
  button.addEventListener("pointerleave", () => look(at.held));
  button.addEventListener("focus", () => look(i));
  button.addEventListener("click", () => {
    at.held = at.held === i ? null : i;
    look(i);
  });
  button.addEventListener("keydown", event => {
    const step = steps(event);
    const next = step && tokenBox.children[i + step[0] + step[1]];
    if (!next) return;
    event.preventDefault();
    button.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  tokenBox.append(button);
});

function tellCell() {
  const layer = data.layers[at.layer];
  const token = at.row + skipped(layer);
  const from = shown(tokens[token]), to = shown(tokens[at.column]);
  told.textContent = `${from} (${token}) attends to ${to} `
    + `(${at.column}): ${value(layer, at.head, at.row, at.column).toFixed(4)}`;
}

map.addEventListener("pointermove", event => {
  const layer = data.layers[at.layer], box = map.getBoundingClientRect();
  const part = (size, from, length) =>
    Math.max(0, Math.min(size - 1, Math.floor(from / length * size)));
  at.column = part(width, event.clientX - box.left, box.width);
  at.row = part(layer.destinations, event.clientY - box.top, box.height);
  tellCell();
});
map.addEventListener("focus", tellCell);
map.addEventListener("keydown", event => {
  const step = steps(event);
  if (!step) return;
  event.preventDefault();
  const rows = data.layers[at.layer].destinations;
  at.row = Math.max(0, Math.min(rows - 1, at.row + step[0]));
  at.column = Math.max(0, Math.min(width - 1, at.column + step[1]));
  tellCell();
});

for (const name of ["from", "to"])
  find("." + name).addEventListener("click", () => {
    at.outgoing = name === "from";
    find(".from").setAttribute("aria-pressed", at.outgoing);
    find(".to").setAttribute("aria-pressed", !at.outgoing);
    drawTokens();
    drawFlow();
  });
layerInput.max = data.layers.length - 1;
layerInput.addEventListener("input", () => {
  at.layer = Number(layerInput.value);
  draw();
});
dark.addEventListener("change", draw);
draw();
})();
</script>
</main>
</body>
</html>
"""
