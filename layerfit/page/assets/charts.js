// Charts of a run as inline SVG. Colours are in the style sheet, so that they follow the theme.
"use strict";

/** Make an element; `svg:path` is in SVG's namespace. Text is inserted as text, never as markup. */
function make(name, attributes = {}, ...children) {
  const svg = name.startsWith("svg:");
  const element = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Replace the content of an element. */
function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
}

/** About `count` round numbers that cover low to high. */
function ticks(low, high, count = 5) {
  const rough = (high - low || Math.abs(high) || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}

/** Round numbers that enclose low and high. */
function covering(low, high) {
  const inside = ticks(low, high, 4);
  const step = inside.length > 1 ? inside[1] - inside[0] : high - low || 1;
  const first = inside[0] > low ? [inside[0] - step] : [], last = inside.at(-1) < high ? [inside.at(-1) + step] : [];
  return [...first, ...inside, ...last].map((value) => Number(value.toPrecision(12)));
}

/** Running mean over a fortieth of the curve. Points without a number are left out. */
function smooth(points) {
  const reach = Math.floor(points.length / 80);
  return points.map((_, i) => {
    const near = points.slice(Math.max(0, i - reach), i + reach + 1).filter((v) => v !== null);
    return near.length ? near.reduce((a, b) => a + b) / near.length : null;
  });
}

/** A path through points; null breaks the line. */
function path(points, x, y) {
  let pen = "M";
  return points
    .map(([a, b]) => {
      if (b === null) { pen = "M"; return ""; }
      const out = `${pen}${x(a).toFixed(1)} ${y(b).toFixed(1)}`;
      pen = "L";
      return out;
    })
    .join("");
}

/** The points of a curve, each in the middle of the steps that it averages. */
function atSteps(curve) {
  return curve.points.map((value, i) => [i * curve.every + (curve.every - 1) / 2, value]);
}

/** Loss by step: every step thin, the running mean, validation, and other seeds of the same row in grey. */
function lossChart(run, siblings) {
  const width = 720, height = 290, left = 76, right = 12, top = 12, bottom = 38;
  const drawn = atSteps(run.loss);
  const values = [...run.loss.points, ...run.validation.map((v) => v[1]), ...siblings.flatMap((s) => smooth(s.loss.points))];
  const known = values.filter((v) => v !== null);
  if (!known.length) return null;
  const scale = covering(Math.min(0, ...known), Math.max(...known));
  const low = scale[0], high = scale.at(-1);
  const last = Math.max(1, run.steps - 1, ...siblings.map((s) => s.steps - 1), ...run.validation.map((v) => v[0]));
  const x = (step) => left + ((width - left - right) * step) / last;
  const y = (loss) => top + ((height - top - bottom) * (high - loss)) / (high - low || 1);
  const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, width, role: "img", class: "loss", "aria-label": "Training loss by step" });
  for (const value of scale) {
    svg.append(make("svg:line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(make("svg:text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  stepAxis(svg, x, last, left, width - right, height - bottom);
  for (const other of siblings) svg.append(make("svg:path", { class: "sibling", d: path(atSteps({ ...other.loss, points: smooth(other.loss.points) }), x, y) }));
  svg.append(make("svg:path", { class: "raw", d: path(drawn, x, y) }));
  svg.append(make("svg:path", { class: "curve", d: path(atSteps({ ...run.loss, points: smooth(run.loss.points) }), x, y) }));
  svg.append(make("svg:path", { class: "validation", d: path(run.validation, x, y) }));
  for (const [step, value] of run.validation) {
    if (value !== null) svg.append(make("svg:circle", { class: "validation", cx: x(step), cy: y(value), r: 3 }));
  }
  followPointer(svg, drawn, x, { left, right: width - right, top, bottom: height - bottom });
  return svg;
}

function stepAxis(svg, x, last, from, to, y) {
  svg.append(make("svg:line", { class: "axis", x1: from, x2: to, y1: y, y2: y }));
  for (const step of ticks(0, last, 8).filter(Number.isInteger)) {
    svg.append(make("svg:text", { x: x(step), y: y + 15, "text-anchor": "middle" }, String(step)));
  }
  svg.append(make("svg:text", { x: (from + to) / 2, y: y + 31, "text-anchor": "middle" }, "optimizer step"));
}

/** Show the loss under the pointer. */
function followPointer(svg, drawn, x, box) {
  const line = make("svg:line", { class: "cursor", y1: box.top, y2: box.bottom, visibility: "hidden" });
  const text = make("svg:text", { class: "readout", x: box.right, y: box.top + 8, "text-anchor": "end" });
  svg.append(line, text);
  svg.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).x;
    const near = drawn.reduce((a, b) => (Math.abs(x(b[0]) - at) < Math.abs(x(a[0]) - at) ? b : a));
    line.setAttribute("x1", x(near[0]));
    line.setAttribute("x2", x(near[0]));
    line.setAttribute("visibility", "visible");
    text.textContent = `step ${near[0]}: ${near[1] === null ? "no number" : near[1]}`;
  });
  svg.addEventListener("pointerleave", () => {
    line.setAttribute("visibility", "hidden");
    text.textContent = "";
  });
}

/** Trained layers by step: one line per layer, the head on top, the embedding at the bottom. */
function planRaster(run) {
  const { rows, runs } = run.plan;
  const size = rows.length > 40 ? 8 : 13;
  const width = 720, left = 76, right = 12, top = 4, bottom = 38;
  const height = top + size * rows.length + bottom;
  const x = (step) => left + ((width - left - right) * step) / run.steps;
  const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, width, role: "img", class: "raster", "aria-label": "What trained at which step" });
  rows.forEach((row, i) => {
    const y = top + size * (rows.length - 1 - i);
    const block = row.startsWith("layers.");
    svg.append(make("svg:rect", { class: "frozen", x: left, y, width: width - left - right, height: size - 1.5 }));
    if (!block || size > 10 || i % 4 === 1) {
      svg.append(make("svg:text", { x: left - 6, y: y + size - 3.5, "text-anchor": "end" }, block ? `layer ${row.slice(7)}` : row));
    }
    const shapes = new Map();
    for (let j = 0; j < runs[i].length; j += 3) {
      const [start, length, percent] = runs[i].slice(j, j + 3);
      const shape = `M${x(start).toFixed(2)} ${y}H${x(start + length).toFixed(2)}v${size - 1.5}H${x(start).toFixed(2)}z`;
      shapes.set(percent, (shapes.get(percent) ?? "") + shape);
    }
    for (const [percent, d] of shapes) {
      svg.append(make("svg:path", { class: "plan", d, opacity: 0.2 + (0.8 * percent) / 100 }, make("svg:title", {}, `${row}: ${share(runs[i], run.steps)}`)));
    }
  });
  stepAxis(svg, x, run.steps, left, width - right, height - bottom);
  return svg;
}

/** Share of a run during which a row was in the plan. */
function share(runs, steps) {
  let sum = 0;
  for (let j = 0; j < runs.length; j += 3) sum += (runs[j + 1] * runs[j + 2]) / 100;
  return `${((100 * sum) / steps).toFixed(0)}% of the steps`;
}

/** Bytes as MiB or GiB. */
function bytes(value) {
  return value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(2)} GiB` : `${(value / 2 ** 20).toFixed(2)} MiB`;
}

/** One bar of memory by component, and the components with their sizes. Null if none is known. */
function memoryBar(memory) {
  const names = ["weights", "gradients", "optimizer", "activations"];
  const parts = names.map((name, i) => [name, memory[name], `part-${i + 1}`]).filter((part) => part[1]);
  if (!parts.length) return null;
  const total = parts.reduce((sum, part) => sum + part[1], 0);
  const svg = make("svg:svg", { viewBox: "0 0 720 26", width: 720, role: "img", class: "memory", "aria-label": `Memory by component, ${bytes(total)} in all` });
  let at = 0;
  for (const [name, value, part] of parts) {
    const width = (720 * value) / total;
    svg.append(make("svg:rect", { class: part, x: at, y: 0, width: Math.max(0.5, width - 1), height: 26 }, make("svg:title", {}, `${name}: ${bytes(value)}`)));
    at += width;
  }
  const keys = parts.map(([name, value, part]) => make("span", {}, make("span", { class: `swatch ${part}` }), `${name} ${bytes(value)} (${((100 * value) / total).toFixed(0)}%)`));
  return make("div", {}, svg, make("p", { class: "key-line" }, keys, make("span", {}, `sum ${bytes(total)}`)));
}

/** One bar per layer, up or down from zero. */
function layerBars(values) {
  const width = 720, height = 150, left = 76, right = 12, top = 8, bottom = 22;
  const scale = covering(Math.min(0, ...values), Math.max(0, ...values));
  const low = scale[0], high = scale.at(-1);
  const y = (value) => top + ((height - top - bottom) * (high - value)) / (high - low || 1);
  const slot = (width - left - right) / values.length;
  const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, width, role: "img", class: "bars", "aria-label": "A number for every layer" });
  for (const value of scale) {
    svg.append(make("svg:line", { class: value ? "grid" : "axis", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(make("svg:text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  values.forEach((value, i) => {
    const bar = { class: "plan", x: left + slot * (i + 0.15), width: slot * 0.7, y: Math.min(y(0), y(value)), height: Math.abs(y(value) - y(0)) };
    svg.append(make("svg:rect", bar, make("svg:title", {}, `layer ${i}: ${value}`)));
    if (values.length <= 40 || i % 4 === 0) svg.append(make("svg:text", { x: left + slot * (i + 0.5), y: height - 6, "text-anchor": "middle" }, String(i)));
  });
  return svg;
}

/** Scores of single modules, [layer, module, score]: one column per layer, one line per module, darker is larger. */
function moduleGrid(scores) {
  const modules = [...new Set(scores.map((one) => one[1]))].sort(), layers = 1 + Math.max(...scores.map((one) => one[0]));
  const values = scores.map((one) => one[2]), low = Math.min(...values), high = Math.max(...values);
  const width = 720, left = 120, size = 16, slot = (width - left - 12) / layers, height = size * modules.length + 20;
  const svg = make("svg:svg", { viewBox: `0 0 ${width} ${height}`, width, role: "img", class: "modules", "aria-label": "Scores of modules by layer" });
  modules.forEach((name, i) => svg.append(make("svg:text", { x: left - 6, y: size * i + 12, "text-anchor": "end" }, name)));
  for (const [layer, module, value] of scores) {
    const cell = { class: "plan", x: left + slot * layer, y: size * modules.indexOf(module), width: slot - 1, height: size - 1, opacity: 0.06 + (0.94 * (value - low)) / (high - low || 1) };
    svg.append(make("svg:rect", cell, make("svg:title", {}, `layers.${layer}.${module}: ${value}`)));
  }
  for (let i = 0; i < layers; i += layers > 40 ? 4 : 1) svg.append(make("svg:text", { x: left + slot * (i + 0.5), y: height - 6, "text-anchor": "middle" }, String(i)));
  return make("div", {}, svg, make("p", { class: "key-line" }, `${low} (pale) to ${high} (dark)`));
}
