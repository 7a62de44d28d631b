// The page of a single run, from the data embedded in the file.
"use strict";

/** Settings of a run: the common ones, with the run's differences applied. */
function settings(common, own) {
  const out = { ...common, ...own.set };
  for (const key of own.unset) delete out[key];
  return out;
}

/** A value for display: lists joined, a dash for an empty value. */
function plain(value) {
  if (value === null || value === undefined || value === "") return "-";
  if (Array.isArray(value)) return value.map(plain).join(", ") || "none";
  if (typeof value !== "object") return String(value);
  const known = Object.entries(value).filter(([, one]) => one !== null);
  return known.map(([name, one]) => `${name} ${plain(one)}`).join(" ") || "none";
}

/** Names and values in two columns. changed: names that differ from most runs. */
function facts(pairs, changed = new Set()) {
  return make("dl", { class: "facts" }, pairs.map(([name, value]) => [
    make("dt", {}, name),
    make("dd", {}, changed.has(name) ? make("b", {}, value) : value),
  ]));
}

/** Uses of a run: {name, title, row, seeds of that row}; `via` is the run that requires it. */
function uses(data, id, via = null) {
  const found = [];
  for (const [name, table] of Object.entries(data.tables)) {
    for (const [row, seeds] of table.rows) {
      if (seeds.some((seed) => seed[1] === id)) found.push({ name, title: table.title, row, seeds, via });
    }
  }
  return found;
}

function usedBy(data, id) {
  const direct = uses(data, id);
  const later = Object.entries(data.needs).filter(([, needed]) => needed.includes(id)).flatMap(([other]) => uses(data, other, other));
  const lines = [...direct, ...later].map((use) => make("li", {},
    make("a", { href: `#table/${use.name}` }, use.title), `, row ${use.row}`,
    use.via ? [", needed by ", make("a", { href: `#run/${use.via}` }, use.via)] : seedLinks(use.seeds, id),
  ));
  return lines.length ? make("ul", {}, lines) : make("p", { class: "note" }, "No table of this report uses this run.");
}

function seedLinks(seeds, id) {
  if (seeds.length < 2) return [];
  return [": ", seeds.flatMap(([seed, run], i) => [i ? ", " : "", run === id ? make("b", {}, `seed ${seed}`) : make("a", { href: `#run/${run}` }, `seed ${seed}`)])];
}

function scoresTable(run) {
  const heads = ["Task", "Metric", "Score", "Std. error", "Items", "Shots", "Version"];
  const lines = run.scores.map(([task, metric, value, error, items, available, shots, version, higher]) => make("tr", {},
    make("th", { scope: "row" }, task),
    make("td", {}, metric + (higher ? "" : " (lower is better)")),
    make("td", { class: "number" }, String(value)),
    make("td", { class: "number" }, plain(error)),
    make("td", { class: "number" }, items === available ? String(items) : `${items} of ${available}`),
    make("td", { class: "number" }, String(shots)),
    make("td", {}, version),
  ));
  if (!lines.length) return make("p", { class: "note" }, "No scores: this run was not evaluated.");
  const head = make("thead", {}, make("tr", {}, heads.map((text) => make("th", { scope: "col" }, text))));
  return make("div", { class: "scroll" }, make("table", {}, head, make("tbody", {}, lines)));
}

function lossPart(data, id, run) {
  const others = uses(data, id).flatMap((use) => use.seeds.map((seed) => seed[1])).filter((other) => other !== id);
  const siblings = [...new Set(others)].map((other) => data.runs[other]);
  const chart = lossChart(run, siblings);
  if (!chart) return make("p", { class: "note" }, "No loss: nothing was trained.");
  const every = run.loss.every > 1 ? `Each point is the mean of ${run.loss.every} steps. ` : "";
  const grey = siblings.length ? " Grey: other seeds of the same row." : "";
  const validation = run.validation.length ? " Orange: validation loss." : "";
  return [wide(chart), make("p", { class: "key-line" }, `${every}Thin: training loss in nats per target token. Thick: its running mean.${validation}${grey}`)];
}

function planPart(run) {
  if (!run.steps || run.plan.runs.every((row) => !row.length)) return make("p", { class: "note" }, "No plan: nothing was trained.");
  const changes = run.plan.changes === 1 ? "1 change" : `${run.plan.changes} changes`;
  return [wide(planRaster(run)), make("p", { class: "key-line" }, `Coloured: in the plan at that step (${changes} of plan). Paler: only some of a layer's modules. Layer 0 is nearest the embedding.`)];
}

function memoryPart(run) {
  const held = ["allocated", "reserved"].map((name) => `${name}: ${run.memory[name] ? bytes(run.memory[name]) : `not known${run.unknown[name] ? ` (${run.unknown[name]})` : ""}`}`);
  const bar = memoryBar(run.memory);
  if (!bar) return make("p", { class: "note" }, "Not recorded: nothing was trained.");
  return [bar, make("p", { class: "key-line" }, `Activations: the largest of ${run.activations_over}; ${held.join("; ")}.`)];
}

function costs(run) {
  const rows = [
    ["trained parameters", plain(run.trained?.toLocaleString("en"))],
    ["all parameters", plain(run.total?.toLocaleString("en"))],
    ["training tokens", plain(run.tokens?.toLocaleString("en"))],
  ];
  for (const [name, value] of Object.entries(run.times)) {
    rows.push([name.replaceAll("_", " "), value === null ? `not recorded${run.unknown[name] ? `: ${run.unknown[name]}` : ""}` : value.toLocaleString("en", { maximumSignificantDigits: 4 })]);
  }
  return facts(rows);
}

function configPart(common, own) {
  const all = Object.entries(settings(common, own)).map(([key, value]) => [key, plain(value)]).sort();
  return facts(all, new Set(Object.keys(own.set)));
}

/** Findings of a method: numbers by layer as a chart, the rest as text. */
function findingsPart(data, run, config) {
  const found = Object.entries(run.findings);
  if (!found.length) return [];
  const scores = /^(.*scores)\.layers\.(\d+)\.(.+)$/;
  const grids = new Map(), charts = [], rest = [];
  for (const [name, value] of found) {
    const part = scores.exec(name);
    if (part && typeof value === "number") grids.set(part[1], [...(grids.get(part[1]) ?? []), [Number(part[2]), part[3], value]]);
    else if (Array.isArray(value) && value.length === config["model.num_layers"] && value.every(Number.isFinite)) charts.push([name, value]);
    else rest.push([name, plain(value)]);
  }
  return [
    make("h2", {}, "Findings"),
    charts.map(([name, values]) => [make("h3", {}, `${name}, by layer`), wide(layerBars(values))]),
    [...grids].map(([name, values]) => [make("h3", {}, `${name}, layer by module`), wide(moduleGrid(values))]),
    facts(rest),
  ];
}

/** A chart that keeps its size and scrolls on a narrow screen. */
function wide(chart) {
  return make("div", { class: "scroll" }, chart);
}

/** Fill the page of a run; false if the file has no such run. */
function showRun(page, data, id) {
  const run = data.runs[id];
  if (!run) {
    fill(page, make("p", {}, make("a", { href: "#overview" }, "Back to the tables")), make("h1", {}, `No run ${id}`), make("p", {}, "This report has no record of that name."));
    return false;
  }
  const config = settings(data.config, run.config);
  const heading = [run.label || run.method, config["model.name"], config["dataset.name"], `seed ${config.seed}`].filter(Boolean).join(" \u00b7 ");
  fill(page,
    make("p", {}, make("a", { href: "#overview" }, "Back to the tables")),
    make("h1", {}, heading),
    make("p", { class: "meta" }, make("code", {}, id), " ", make("span", { class: `badge ${run.status}` }, run.status), ` method ${run.method}; record ${data.folder}/runs/${id}.json`),
    run.message ? make("p", { class: "warning" }, run.message) : null,
    make("h2", {}, "Used in"), usedBy(data, id),
    make("h2", {}, "Scores"), scoresTable(run),
    make("h2", {}, "Loss"), lossPart(data, id, run),
    make("h2", {}, "Trained layers by step"), planPart(run),
    make("h2", {}, "Memory at the peak"), memoryPart(run),
    make("div", { class: "columns" },
      make("div", {}, make("h2", {}, "Costs"), costs(run)),
      make("div", {}, make("h2", {}, "Data"), run.data ? facts(Object.entries(run.data).map(([k, v]) => [k, plain(v)])) : make("p", { class: "note" }, "No training data."))),
    findingsPart(data, run, config),
    make("div", { class: "columns" },
      make("div", {}, make("h2", {}, "Configuration"), make("p", { class: "key-line" }, "Bold: differs from most runs of this report."), configPart(data.config, run.config)),
      make("div", {}, make("h2", {}, "Manifest"), make("p", { class: "key-line" }, "Where and with what it ran."), configPart(data.manifest, run.manifest))),
  );
  return true;
}
