"use strict";
for (const table of document.querySelectorAll("table.data")) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sortBy(table, heads, column)));
}
function sortBy(table, heads, column) {
  const head = heads[column];
  const down = head.getAttribute("aria-sort") === "ascending";
  heads.forEach((other) => other.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => ({ row, key: row.cells[column].dataset.sort ?? "" }));
  const numeric = keyed.every((entry) => !Number.isNaN(Number(entry.key)));
  keyed.sort((a, b) => compare(a.key, b.key, numeric, down ? -1 : 1));
  body.append(...keyed.map((entry) => entry.row));
}
function compare(a, b, numeric, sign) {
  if (a === "" || b === "") return (a === "") - (b === ""); // what was not measured comes last either way
  return sign * (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
}
const shown = document.getElementById("shown");
const nameFilter = document.getElementById("filter-name");
const verdictFilter = document.getElementById("filter-verdict");
const mainTable = document.querySelector("table[data-filterable]");
function applyFilters() {
  const wanted = nameFilter.value.trim().toLowerCase();
  const verdict = verdictFilter ? verdictFilter.value : "";
  const rows = [...mainTable.tBodies[0].rows];
  for (const row of rows) {
    const fits = row.cells[0].textContent.toLowerCase().includes(wanted)
      && (!verdict || [...row.cells].some((cell) => cell.dataset.sort === verdict && !cell.hidden));
    row.hidden = !fits;
  }
  shown.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} quants shown`;
}
nameFilter.addEventListener("input", applyFilters);
if (verdictFilter) verdictFilter.addEventListener("change", applyFilters);
nameFilter.form.addEventListener("submit", (event) => event.preventDefault());
for (const box of document.querySelectorAll("[data-toggle]")) {
  box.addEventListener("change", () => {
    for (const cell of mainTable.querySelectorAll("[data-group]"))
      if (cell.dataset.group === box.dataset.toggle) cell.hidden = !box.checked;
    applyFilters();
  });
}
applyFilters();
