"use strict";
/* The plots of a page. Each function takes plain data and draws into a div; what is not a number is never drawn as one. */
const COLOURS = ["#3b6fd4", "#e2711d", "#219a6b", "#c8386e", "#8c5fd0", "#a07b00", "#1f9fb8", "#7a7f8c", "#b0502a", "#5e9e2e", "#d64ba0", "#3f4f8f", "#c9a227", "#5a8f8a", "#e58a8a"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star"];
const DARK = window.matchMedia("(prefers-color-scheme: dark)");
const HOVERS = window.matchMedia("(hover: hover)").matches;
const OPTIONS = {responsive: true, displaylogo: false, displayModeBar: HOVERS ? "hover" : false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"]};
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const number = value => value === "inf" ? Infinity : value === "-inf" ? -Infinity : value;
const safe = text => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"], unit = Math.max(0, Math.min(4, Math.floor(Math.log2(Math.max(1, count)) / 10)));
  return `${+(count / 1024 ** unit).toPrecision(3)} ${units[unit]}`;
}

function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "no number";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
  return value === 0 ? "0" : `${+value.toPrecision(Math.abs(value) < 0.1 ? 3 : 4)}`;
}

function layout(extra) {
  const axis = {gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), automargin: true, ticks: "outside", tickcolor: css("--line")};
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: {color: css("--ink"), family: "system-ui, sans-serif", size: 13},
    hoverlabel: {bgcolor: css("--card"), bordercolor: css("--line"), font: {color: css("--ink")}, align: "left"},
    modebar: {bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--accent")},
    margin: {l: 55, r: 12, t: 12, b: 45}, hovermode: "closest", showlegend: false, ...extra,
    xaxis: {...axis, ...extra.xaxis}, yaxis: {...axis, ...extra.yaxis},
  };
}

function byteTicks(values, log) {
  if (!values.length) return {};
  const low = Math.min(...values), high = Math.max(...values);
  if (!log) return {tickvals: [0, 1, 2, 3, 4, 5].map(i => high * i / 5), ticktext: [0, 1, 2, 3, 4, 5].map(i => bytes(high * i / 5))};
  const first = Math.floor(Math.log2(low)), last = Math.ceil(Math.log2(high)), step = Math.ceil((last - first + 1) / 8), ticks = [];
  for (let power = first; power <= last; power += step) ticks.push(2 ** power);
  return {tickvals: ticks, ticktext: ticks.map(bytes)};
}

/* Where a figure stands on an axis that has no infinity, and where it is logarithmic no 0 either: at its edge, with a mark. */
function placed(points, log) {
  const known = points.map(p => p.y).filter(y => Number.isFinite(y) && !(log && y <= 0));
  const low = Math.min(...known), high = Math.max(...known), span = high - low || Math.abs(high) || 1;
  const top = known.length ? (log ? high * (high / low || 2) ** .12 : high + span * .12) : 1;
  const bottom = known.length ? (log ? low / (high / low || 2) ** .12 : low - span * .12) : log ? .1 : 0;
  return points.map(p => {
    if (Number.isFinite(p.y) && !(log && p.y <= 0)) return {...p, at: p.y, edge: false};
    return {...p, at: p.y > 0 ? top : bottom, edge: true};
  });
}

function frontierOf(points, higher) {
  const sorted = [...points].sort((a, b) => a.x - b.x || (higher ? b.y - a.y : a.y - b.y)), line = [];
  for (const p of sorted) {
    const last = line[line.length - 1];
    if (!last || (higher ? p.y > last.y : p.y < last.y)) line.push(p);
  }
  return line;
}

function drawFrontier(div, {points, metric, cost, logx, logy, marked, onClick}) {
  const on = placed(points.filter(p => p.x !== null && p.x !== undefined && p.y !== null && p.y !== undefined), logy), text = p => (cost === "bytes" ? bytes(p.x) : `${short(p.x)} x unmodified time`);
  const groups = new Map();
  for (const p of on) { if (!groups.has(p.policy)) groups.set(p.policy, []); groups.get(p.policy).push(p); }
  const few = on.length <= 150;
  const traces = [...groups].map(([policy, own]) => ({
    type: on.length > 1500 ? "scattergl" : "scatter", mode: "markers", name: safe(policy), x: own.map(p => p.x), y: own.map(p => p.at),
    customdata: own.map(p => p.index), hovertemplate: "%{hovertext}<extra></extra>",
    hovertext: own.map(p => `<b>${safe(p.label)}</b><br>${safe(metric.name)} ${Number.isFinite(p.y) ? short(p.y) : "identical (infinite)"}${Number.isFinite(p.low) ? ` (${short(p.low)} to ${short(p.high)})` : ""}<br>${text(p)}`),
    error_y: {type: "data", visible: few, symmetric: false, thickness: 1, width: 0,
      array: own.map(p => p.edge || !Number.isFinite(p.high) ? 0 : p.high - p.y), arrayminus: own.map(p => p.edge || !Number.isFinite(p.low) ? 0 : p.y - p.low)},
    marker: {color: own[0].colour, size: own.map(p => marked.has(p.index) ? 15 : few ? 9 : 6), opacity: few ? .95 : .7,
      symbol: own.map(p => p.edge ? (p.y > 0 ? "triangle-up-open" : "triangle-down-open") : p.symbol),
      line: {width: own.map(p => marked.has(p.index) ? 2.5 : .5), color: css("--card") }},
  }));
  const line = frontierOf(on, metric.higher);
  traces.unshift({type: "scatter", mode: "lines", x: line.map(p => p.x), y: line.map(p => p.at), line: {color: css("--soft"), dash: "dot", width: 1.5, shape: "hv"}, hoverinfo: "skip"});
  const edges = on.filter(p => p.edge);
  Plotly.react(div, traces, layout({
    xaxis: {type: logx ? "log" : "linear", title: {text: cost === "bytes" ? "cache held" : "time, x unmodified"}, ...(cost === "bytes" ? byteTicks(on.map(p => p.x), logx) : logx ? {nticks: 6} : {})},
    yaxis: {type: logy ? "log" : "linear", title: {text: safe(metric.unit ? `${metric.name} (${metric.unit})` : metric.name)}},
    annotations: edges.length ? [{xref: "paper", yref: "paper", x: 0.01, y: edges[0].y > 0 ? 1 : 0, showarrow: false, xanchor: "left", font: {size: 11, color: css("--soft")}, text: edges[0].y > 0 ? "△ identical: infinite" : "▽ 0 has no logarithm"}] : [],
  }), OPTIONS);
  div.removeAllListeners?.("plotly_click");
  div.on?.("plotly_click", event => { const point = event.points.find(p => p.customdata !== undefined); if (point) onClick(point.customdata); });
}

function drawLines(div, lines, {x, y, category = false, zero = false, log = false}) {
  const traces = lines.map((line, i) => ({
    type: "scatter", mode: "lines+markers", name: safe(line.name), x: line.x, y: line.y.map(v => Number.isFinite(v) ? v : null),
    line: {color: COLOURS[i % COLOURS.length], width: line.bold ? 3 : 1.75, dash: i >= COLOURS.length ? "dash" : "solid"}, marker: {size: 6},
    error_y: line.error ? {type: "data", symmetric: false, thickness: 1, width: 2, array: line.error.map(e => e[1]), arrayminus: line.error.map(e => e[0])} : undefined,
    hovertemplate: `<b>${safe(line.name)}</b><br>${safe(x)} %{x}: %{y:.4g}<extra></extra>`,
  }));
  Plotly.react(div, traces, layout({
    showlegend: true, legend: {orientation: "h", y: 0, yref: "container", yanchor: "bottom", font: {size: 11}},
    xaxis: {title: {text: safe(x), standoff: 4}, ...(category ? {type: "category"} : {dtick: 1})},
    yaxis: {title: {text: safe(y)}, type: log ? "log" : "linear", ...(zero && !log ? {rangemode: "tozero"} : {})},
  }), OPTIONS);
}

/* An interval as a small picture: a line from end to end and a dot at the figure, all rows on one axis. */
function intervalBar([value, low, high], [least, most], colour) {
  const NS = "http://www.w3.org/2000/svg", svg = document.createElementNS(NS, "svg"), at = v => 4 + 92 * Math.max(0, Math.min(1, (v - least) / (most - least || 1)));
  const add = (name, given) => { const tag = document.createElementNS(NS, name); for (const [k, v] of Object.entries(given)) tag.setAttribute(k, v); svg.append(tag); };
  svg.setAttribute("class", "bar");
  svg.setAttribute("viewBox", "0 0 100 16");
  svg.setAttribute("preserveAspectRatio", "none");
  add("line", {x1: 4, x2: 96, y1: 8, y2: 8, stroke: css("--line"), "stroke-width": 1});
  if (Number.isFinite(low) && Number.isFinite(high)) add("line", {x1: at(low), x2: at(high), y1: 8, y2: 8, stroke: colour, "stroke-width": 4, "stroke-linecap": "butt", opacity: .55});
  if (Number.isFinite(value)) add("rect", {x: at(value) - 1, y: 2, width: 2, height: 12, fill: colour});
  return svg;
}
