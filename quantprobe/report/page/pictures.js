"use strict";

// The pictures: scales, points with their intervals, names. Every number comes formatted in `data`; names are other
// people's text and reach the page as text content alone. `page.js` follows in the same script.
const data = JSON.parse(document.getElementById("data").textContent);
const quants = data.quants;
const state = { task: 0, text: 0, hovered: null, picked: null };
const [unit, unitBytes] = Math.max(...quants.map((q) => q.size ?? 0)) < 1e9 ? ["MB", 1e6] : ["GB", 1e9];

const byId = (id) => document.getElementById(id);
const size = (q) => (q.size === null ? null : q.size / unitBytes);
const answers = (q) => q.tasks[state.task] ?? null;
const distance = (q) => q.texts[state.text] ?? null;
const markOf = (q) => (data.tasks.length ? (answers(q)?.mark ?? "no-verdict") : "plain");
const marked = () => document.querySelectorAll("[data-quant]");
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "rect", "text", "circle", "polygon", "clipPath"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// What is said of a quant on hover, on focus and to screen readers.
function facts(q) {
  const [a, d] = [answers(q), distance(q)];
  const told = [q.size_text];
  if (a) told.push(a.verdict, `change ${a.net_text} points`);
  if (d) told.push(`mean KLD ${d.kld_text} nats${d.at_floor ? ", at the instrument's floor" : ""}`, `same top ${d.top_text} %`);
  return told;
}

// ---- scales ----

function scaleOf([low, high], from, to, log, spacing) {
  if (log) [low, high] = [Math.log10(low), Math.log10(high)];
  const room = (high - low || 1) * 0.07;
  [low, high] = [low - room, high + room];
  const at = (value) => from + (((log ? Math.log10(value) : value) - low) / (high - low)) * (to - from);
  return { at, high, ticks: ticksOf(low, high, log, Math.abs(to - from) / spacing) };
}

function ticksOf(low, high, log, most) {
  const count = (first, last, each) => Array.from({ length: last - first + 1 }, (_, i) => each(first + i)).flat();
  if (log) {
    const factors = high - low > 3 ? [1] : high - low > 1.5 ? [1, 3] : [1, 2, 5];
    const ticks = count(Math.floor(low), Math.ceil(high), (power) =>
      factors.map((factor) => Number((factor * 10 ** power).toPrecision(3))));
    return ticks.filter((tick) => Math.log10(tick) >= low && Math.log10(tick) <= high);
  }
  const rough = (high - low) / Math.max(most, 2);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  return count(Math.ceil(low / step), Math.floor(high / step), (i) => Number((i * step).toPrecision(12)));
}

// ---- pictures ----

const shapes = {
  worse: "M-6.5-5H6.5L0 6.5Z",
  better: "M-6.5 5H6.5L0-6.5Z",
  equivalent: "M-5-5H5V5H-5Z",
  "not-inferior": "M0-7L7 0 0 7-7 0Z",
  "not-separable": "M0-5A5 5 0 1 1 0 5 5 5 0 1 1 0-5Z",
  "no-verdict": "M-4.5-4.5L4.5 4.5M-4.5 4.5L4.5-4.5",
  plain: "M0-5A5 5 0 1 1 0 5 5 5 0 1 1 0-5Z",
};
const bySize = { x: size, xLabel: `file size, ${unit}` };
const change = { y: (q) => answers(q)?.net ?? null, yLabel: "change of accuracy, points", margin: true, bars: true };
const charts = {
  change: { ...bySize, ...change },
  distance: { ...bySize, y: (q) => distance(q)?.kld ?? null, yLabel: "mean KLD, nats", logY: true, bars: true },
  direction: { ...change, x: (q) => answers(q)?.volume ?? null, xLabel: "answers that changed, %", region: true, bars: false },
  law: { ...change, x: (q) => distance(q)?.kld?.[0] ?? null, xLabel: "mean KLD, nats", logX: true },
};

function rangeOf(chart, points) {
  const ends = points.flatMap(({ y }) => (chart.bars || chart.region ? y : [y[0]])).filter((end) => end !== null);
  if (chart.logY) return [Math.min(...ends.filter((end) => end > 0)), Math.max(...ends)];
  // far quants do not squeeze the near ones, which are what a choice is about: they stand at the edge, with an arrow
  const values = points.map(({ y }) => y[0]).sort((a, b) => b - a);
  const edge = Math.min(-8 * data.margin, values[Math.floor(values.length * 0.7)]);
  return [Math.max(Math.min(-data.margin, ...ends), edge), Math.max(data.margin, ...ends)];
}

function draw(id) {
  const [host, chart] = [byId(id), charts[id]];
  if (!host?.clientWidth) return;
  const [width, height] = [host.clientWidth, host.clientWidth < 480 ? 250 : 330];
  const box = { left: 60, right: width - 12, top: 8, bottom: height - 40 };
  const points = quants
    .map((q, place) => ({ q, place, x: chart.x(q), y: chart.y(q) }))
    .filter(({ x, y }) => x !== null && y !== null && (!chart.logX || x > 0) && (!chart.logY || y[0] > 0));
  const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-labelledby": `${id}-title` });
  host.replaceChildren(svg);
  if (!points.length) {
    svg.append(make("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing measured"));
    return;
  }
  const xs = points.map((p) => p.x);
  const x = scaleOf([chart.region ? 0 : Math.min(...xs), Math.max(...xs)], box.left, box.right, chart.logX, 70);
  const y = scaleOf(rangeOf(chart, points), box.bottom, box.top, chart.logY, 45);
  for (const point of points) {
    point.off = y.at(point.y[0]) > box.bottom - 4;
    [point.px, point.py] = [x.at(point.x), point.off ? box.bottom - 16 : y.at(point.y[0])];
  }
  drawGround(svg, chart, box, x, y, id);
  const end = (value) => (chart.logY && value <= 0 ? box.bottom : clamp(y.at(value), box.top, box.bottom));
  for (const { q, px, y: [, low, high] } of chart.bars ? points : [])
    if (low !== null && high !== null)
      svg.append(make("line", { class: `bar ${markOf(q)}`, x1: px, x2: px, y1: end(low), y2: end(high) }));
  drawPoints(svg, points);
  drawNames(svg, points, box);
  chart.drawn = { host, points, box, x, y, over: svg.appendChild(make("g", { "aria-hidden": "true" })) };
  highlight(id);
}

function drawGround(svg, chart, box, x, y, id) {
  const across = (level, css) => make("line", { x1: box.left, x2: box.right, y1: y.at(level), y2: y.at(level), class: css });
  const wide = { x: box.left, width: box.right - box.left };
  const band = (top, bottom, css) => make("rect", { ...wide, y: top, height: bottom - top, class: css });
  const [above, below] = [data.margin, -data.margin].map((level) => clamp(y.at(level), box.top, box.bottom));
  if (chart.region) {
    // |net| is at most the volume: everything else cannot be
    const corners = [[0, 0], [x.high, x.high], [x.high, -x.high]].map(([volume, net]) => `${x.at(volume)},${y.at(net)}`).join(" ");
    svg.append(
      make("clipPath", { id: `${id}-frame` }, band(box.top, box.bottom, null)),
      make("clipPath", { id: `${id}-possible` }, make("polygon", { points: corners, "clip-path": `url(#${id}-frame)` })),
      band(box.top, box.bottom, "cannot"),
      make("polygon", { points: corners, class: "can", "clip-path": `url(#${id}-frame)` }),
    );
  } else if (chart.margin) svg.append(band(above, below, "margin"));
  for (const tick of x.ticks)
    svg.append(
      make("line", { x1: x.at(tick), x2: x.at(tick), y1: box.top, y2: box.bottom, class: "grid" }),
      make("text", { x: x.at(tick), y: box.bottom + 16, "text-anchor": "middle" }, tick),
    );
  for (const tick of y.ticks) {
    const sign = chart.margin && tick > 0 ? "+" : "";
    svg.append(across(tick, "grid"), make("text", { x: box.left - 6, y: y.at(tick) + 4, "text-anchor": "end" }, sign + tick));
  }
  if (chart.margin) svg.append(across(0, "zero"));
  const floor = chart.logY ? data.floors[state.text] : null;
  if (floor && y.at(floor) < box.bottom)
    svg.append(
      across(floor, "floor"),
      make("text", { x: box.right, y: y.at(floor) - 4, "text-anchor": "end" }, "floor of the instrument"),
    );
  svg.append(
    make("text", { x: (box.left + box.right) / 2, y: box.bottom + 33, "text-anchor": "middle" }, chart.xLabel),
    make("text", { transform: `translate(12 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, chart.yLabel),
  );
}

function drawPoints(svg, points) {
  const first = points.find(({ place }) => place === (state.picked ?? data.take)) ?? points[0];
  for (const point of points) {
    const { q, place, px, py } = point;
    const group = make("g", {
      class: `point ${markOf(q)}`, transform: `translate(${px} ${py})`, role: "button", "data-quant": place,
      tabindex: point === first ? 0 : -1, "aria-label": [q.label, ...facts(q)].join("; "), "aria-pressed": place === state.picked,
    });
    if (place === data.take) group.append(make("circle", { r: 11, class: "ring" }));
    if (point.off) group.append(make("path", { d: "M0 7V15M-3.5 11.5L0 15L3.5 11.5", class: "arrow" }));
    group.append(make("path", { d: shapes[markOf(q)], class: "shape" }));
    svg.append(group);
  }
}

// A name stands beside its point where it covers no point and no other name; the rest are named on hover.
function drawNames(svg, points, box) {
  const taken = points.map(({ px, py }) => [px - 8, py - 8, px + 8, py + 8]);
  const meet = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
  const ordered = [...points].sort((a, b) => (b.place === data.take) - (a.place === data.take) || a.px - b.px);
  for (const { q, place, px, py } of ordered) {
    const css = `name${place === data.take ? " strong" : ""}`;
    const name = svg.appendChild(make("text", { class: css, "data-name": place, "aria-hidden": "true" }, q.label));
    const wide = name.getComputedTextLength() + 2;
    const [right, left, middle] = [px + 10, px - 10 - wide, px - wide / 2];
    const beside = [[right, py - 7], [left, py - 7], [middle, py - 23], [middle, py + 10]];
    const aslant = [[right, py - 20], [right, py + 6], [left, py - 20], [left, py + 6]];
    const free = [...beside, ...aslant].map(([x, y]) => [x, y, x + wide, y + 14]).find((spot) =>
      spot[0] >= box.left && spot[2] <= box.right + 10 && spot[1] >= box.top - 6 && spot[3] <= box.bottom
      && !taken.some((other) => meet(spot, other)));
    if (!free) {
      name.remove();
      continue;
    }
    taken.push(free);
    name.setAttribute("x", free[0] + 1);
    name.setAttribute("y", free[1] + 11);
  }
}

// ---- the quants that are pointed at or selected ----

function highlight(id) {
  const { drawn, region } = charts[id];
  if (!drawn) return;
  const { host, over, points, box } = drawn;
  const shown = points.filter(({ place }) => place === state.picked || place === state.hovered);
  for (const name of host.querySelectorAll("[data-name]"))
    name.classList.toggle("away", shown.some(({ place }) => place === Number(name.dataset.name)));
  over.replaceChildren();
  for (const { px, py, q } of shown) {
    if (region && answers(q).outline) over.append(outline(id, q));
    const name = make("text", { y: py < box.top + 26 ? py + 24 : py - 15, class: "name strong" }, q.label);
    over.append(make("circle", { cx: px, cy: py, r: 11, class: "hot" }), name);
    const wide = name.getComputedTextLength();
    const left = clamp(px - wide / 2, box.left, Math.max(box.right - wide, box.left));
    name.setAttribute("x", left);
    name.before(make("rect", { x: left - 3, y: name.getAttribute("y") - 12, width: wide + 6, height: 16, class: "plate" }));
  }
}

// The region that holds volume and net together, cut to what can be.
function outline(id, q) {
  const { x, y } = charts[id].drawn;
  const { volume, net, outline: [wide, high, rho, radius] } = answers(q);
  const corners = Array.from({ length: 72 }, (_, step) => {
    const [along, across] = [Math.cos((step * Math.PI) / 36), Math.sin((step * Math.PI) / 36)];
    const up = rho * along + Math.sqrt(1 - rho * rho) * across;
    return `${x.at(volume + radius * wide * along)},${y.at(net[0] + radius * high * up)}`;
  });
  return make("polygon", { points: corners.join(" "), class: `outline ${markOf(q)}`, "clip-path": `url(#${id}-possible)` });
}
