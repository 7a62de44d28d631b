// Filters over all tables, pages by hash, and printing. The page is readable without this file.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const runPage = document.getElementById("run");
const filters = document.getElementById("filters");

/** Values chosen for a filter; an empty set means all. */
function chosen(name) {
  const pressed = filters.querySelectorAll(`button[data-filter="${name}"][aria-pressed="true"]`);
  return new Set([...pressed].map((button) => button.dataset.value));
}

/** Whether a row has one of the chosen values. Not called for a row without a value, which every filter keeps. */
function passes(text, values) {
  return !values.size || text.split(" ").some((word) => values.has(word));
}

function applyFilters() {
  const models = chosen("model"), methods = chosen("method");
  let shown = 0, all = 0;
  for (const row of document.querySelectorAll("tr[data-method]")) {
    const { model, method } = row.dataset;
    row.hidden = !((!model || passes(model, models)) && (!method || passes(method, methods)));
    all += 1;
    shown += row.hidden ? 0 : 1;
  }
  for (const head of document.querySelectorAll("tr.group")) head.hidden = !rowsOfGroup(head).some((row) => !row.hidden);
  const active = models.size + methods.size > 0;
  filters.classList.toggle("idle", !active);
  const sticks = getComputedStyle(filters).position === "sticky";
  document.documentElement.style.scrollPaddingTop = sticks ? `${filters.offsetHeight + 12}px` : "";
  document.getElementById("shown").textContent = active ? `${shown} of ${all} rows; figures show every row` : "";
}

/** The rows from a group's head to the next one. */
function rowsOfGroup(head) {
  const rows = [];
  for (let row = head.nextElementSibling; row && !row.classList.contains("group"); row = row.nextElementSibling) rows.push(row);
  return rows;
}

/** Show the run of `#run/<id>`, else the tables, scrolled to the anchor in the hash. */
function route() {
  const hash = decodeURIComponent(location.hash.slice(1));
  const isRun = hash.startsWith("run/");
  for (const card of document.querySelectorAll(".card:popover-open")) card.hidePopover();
  if (isRun) showRun(runPage, data, hash.slice(4));
  runPage.hidden = !isRun;
  main.hidden = filters.hidden = isRun;
  document.title = isRun ? `${hash.slice(4)} \u00b7 layerfit` : "layerfit: results";
  if (isRun) window.scrollTo(0, 0);
  else reveal(document.getElementById(hash));
}

/** Scroll to a part of the page, and open the folds around it. */
function reveal(part) {
  for (let outer = part?.parentElement; outer; outer = outer.parentElement) if (outer.tagName === "DETAILS") outer.open = true;
  part?.scrollIntoView();
}

/** Place an opened card beside its number, inside the window. */
function placeCard(event) {
  if (event.newState !== "open") return;
  const card = event.target, button = document.querySelector(`[popovertarget="${card.id}"]`);
  const at = button.getBoundingClientRect(), size = card.getBoundingClientRect();
  const below = at.bottom + 6 + size.height < innerHeight ? at.bottom + 6 : Math.max(8, at.top - size.height - 6);
  card.style.cssText = `margin: 0; top: ${below}px; left: ${Math.max(8, Math.min(at.left - 20, innerWidth - size.width - 8))}px`;
}

filters.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.id === "clear") for (const one of filters.querySelectorAll("[aria-pressed]")) one.setAttribute("aria-pressed", "false");
  else button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  applyFilters();
});
for (const card of document.querySelectorAll(".card")) card.addEventListener("toggle", placeCard);
addEventListener("hashchange", route);
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("section.rendered details, section.draft details")) part.open = true;
});
addEventListener("resize", applyFilters);
filters.hidden = false;
applyFilters();
route();
