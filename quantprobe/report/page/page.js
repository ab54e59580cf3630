// One quant at a time in every picture and in the table, the table itself, and what keys and pointers do.

function hover(place, clientX, clientY) {
  const tip = byId("tip");
  tip.hidden = place === null || clientX === undefined;
  if (!tip.hidden) {
    const lines = facts(quants[place]).map((line) => make("div", {}, line));
    tip.replaceChildren(make("b", { class: markOf(quants[place]) }, quants[place].label), ...lines);
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${clamp(clientX + 16, 4, Math.max(innerWidth - width - 4, 4))}px`;
    tip.style.top = `${clientY + 20 + height > innerHeight ? clientY - height - 16 : clientY + 20}px`;
  }
  if (place === state.hovered) return;
  state.hovered = place;
  for (const element of marked()) element.classList.toggle("hovered", Number(element.dataset.quant) === place && place !== null);
  Object.keys(charts).forEach(highlight);
}

function pick(place) {
  state.picked = place === state.picked ? null : place;
  for (const element of marked()) {
    const on = Number(element.dataset.quant) === state.picked && state.picked !== null;
    element.classList.toggle("picked", on);
    if (element.getAttribute("role") === "button") element.setAttribute("aria-pressed", on);
  }
  Object.keys(charts).forEach(highlight);
  showDetail();
}

function showDetail() {
  const panel = byId("detail");
  panel.hidden = state.picked === null;
  if (!panel.hidden) panel.replaceChildren(byId(`quant-${state.picked}`).content.cloneNode(true));
}

// ---- tables ----

// By column of the main table: what is read, and what it is sorted by.
const cellsOf = {
  size: (q) => [size(q)?.toPrecision(3), size(q)],
  change: (q) => [answers(q)?.net_text, answers(q)?.net?.[0]],
  verdict: (q) => [answers(q)?.verdict, answers(q)?.verdict],
  kld: (q) => [distance(q)?.kld_text, distance(q)?.kld?.[0]],
  tail: (q) => [distance(q)?.tail_text, distance(q)?.tail],
  top: (q) => [distance(q)?.top_text, distance(q)?.top],
  bpw: (q) => [q.bpw, q.bpw === "n/a" ? null : q.bpw],
};

function fillTable() {
  const names = [data.tasks[state.task], data.texts[state.text]].filter((name) => name !== undefined);
  byId("about").textContent = names.join(" · ");
  for (const row of byId("main").tBodies[0].rows)
    for (const cell of [...row.cells].slice(1)) {
      const q = quants[Number(row.dataset.quant)];
      const [text, key] = cellsOf[cell.dataset.key](q);
      cell.textContent = text ?? "n/a";
      cell.dataset.sort = key ?? "";
      if (cell.dataset.key === "verdict") cell.className = markOf(q);
    }
  const sorted = byId("main").querySelector("[aria-sort=ascending], [aria-sort=descending]");
  if (sorted) sortRows(byId("main"), sorted.cellIndex, sorted.getAttribute("aria-sort") === "descending");
  filter();
}

function sortRows(table, column, down) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : down ? "descending" : "ascending"));
  const keyed = [...table.tBodies[0].rows].map((row) => ({ row, key: row.cells[column].dataset.sort ?? "" }));
  const numeric = keyed.every(({ key }) => !Number.isNaN(Number(key)));
  const order = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
  // what was not measured comes last either way
  keyed.sort((a, b) => (a.key === "") - (b.key === "") || (down ? -1 : 1) * order(a.key, b.key));
  table.tBodies[0].append(...keyed.map(({ row }) => row));
}

function filter() {
  const [wanted, verdict] = [byId("filter-name").value.trim().toLowerCase(), byId("filter-verdict")?.value];
  const fits = quants.map((q) => q.name.toLowerCase().includes(wanted) && (!verdict || answers(q)?.verdict === verdict));
  for (const element of marked()) {
    const on = fits[Number(element.dataset.quant)];
    if (element.tagName === "TR") element.hidden = !on;
    else element.classList.toggle("dim", !on);
  }
  byId("shown").textContent = `${fits.filter(Boolean).length} of ${quants.length} quants shown`;
}

function drawLegend() {
  const icon = { width: 16, height: 16, viewBox: "-8 -8 16 16", "aria-hidden": "true" };
  const items = Object.entries(shapes).map(([mark, shape]) => {
    const members = quants.map(answers).filter((a) => a?.mark === mark);
    const drawn = make("svg", icon, make("g", { class: `point ${mark}` }, make("path", { d: shape, class: "shape" })));
    return members.length ? make("li", {}, drawn, ` ${members[0].verdict} ${members.length}`) : "";
  });
  byId("legend").replaceChildren(...items);
}

function drawAll() {
  drawLegend();
  Object.keys(charts).forEach(draw);
  fillTable();
}

// ---- events ----

function nearest(id, event) {
  const { points, host } = charts[id].drawn ?? { points: [] };
  const at = host?.getBoundingClientRect();
  const far = ({ px, py }) => Math.hypot(px - (event.clientX - at.left), py - (event.clientY - at.top));
  return points.filter((point) => far(point) < 26).sort((a, b) => far(a) - far(b))[0]?.place ?? null;
}

function moveFocus(id, from, step) {
  const { points, host } = charts[id].drawn;
  const order = [...points].sort((a, b) => a.px - b.px || a.py - b.py);
  const next = order[(order.findIndex(({ place }) => place === Number(from.dataset.quant)) + step + order.length) % order.length];
  const target = host.querySelector(`[data-quant="${next.place}"]`);
  from.setAttribute("tabindex", -1);
  target.setAttribute("tabindex", 0);
  target.focus();
}

for (const [id, host] of Object.keys(charts).map((id) => [id, byId(id)]).filter(([, host]) => host)) {
  host.addEventListener("pointermove", (event) => hover(nearest(id, event), event.clientX, event.clientY));
  host.addEventListener("click", (event) => nearest(id, event) !== null && pick(nearest(id, event)));
  host.addEventListener("focusin", (event) => {
    const at = event.target.getBoundingClientRect();
    hover(Number(event.target.dataset.quant), at.right, at.bottom);
  });
  for (const leave of ["pointerleave", "focusout"]) host.addEventListener(leave, () => hover(null));
  host.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) moveFocus(id, event.target, step);
    else if (event.key === "Enter" || event.key === " ") pick(Number(event.target.dataset.quant));
    else return;
    event.preventDefault();
  });
  new ResizeObserver(() => draw(id)).observe(host);
}
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  hover(null);
  if (state.picked !== null) pick(state.picked);
});
document.addEventListener("click", (event) => {
  const chosen = event.target.closest("[data-pick], [data-filter]")?.dataset ?? {};
  if (chosen.pick !== undefined) {
    pick(Number(chosen.pick));
    byId("detail").scrollIntoView({ block: "nearest" });
  }
  if (chosen.filter !== undefined) {
    byId("filter-verdict").value = chosen.filter;
    filter();
    byId("quants").scrollIntoView();
  }
});
const rows = byId("main").tBodies[0];
rows.addEventListener("pointerover", (event) => hover(Number(event.target.closest("tr").dataset.quant)));
rows.addEventListener("pointerleave", () => hover(null));
for (const table of document.querySelectorAll("table.data"))
  for (const head of table.tHead.rows[0].cells) {
    const isUp = () => head.getAttribute("aria-sort") === "ascending";
    head.firstChild.addEventListener("click", () => sortRows(table, head.cellIndex, isUp()));
  }
for (const key of ["task", "text"])
  byId(key)?.addEventListener("change", (event) => ((state[key] = Number(event.target.value)), drawAll()));
byId("filter-name").addEventListener("input", filter);
byId("filter-verdict")?.addEventListener("change", filter);
byId("filter-name").form.addEventListener("submit", (event) => event.preventDefault());
drawAll();
