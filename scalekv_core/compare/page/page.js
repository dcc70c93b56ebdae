"use strict";
/* One part of the page for each model: what is chosen above (figure, policies) holds for its plots and tables. */
const DATA = JSON.parse(document.getElementById("data").textContent);
const LINES = 10;

/* A plot is drawn when it comes into sight, and again when what it shows has changed. */
const seen = new Set(), waiting = new Map();
const observer = new IntersectionObserver(entries => entries.filter(e => e.isIntersecting).forEach(e => see(e.target)), {rootMargin: "400px"});

function see(div) {
  observer.unobserve(div);
  seen.add(div);
  waiting.get(div)?.();
  waiting.delete(div);
}

function paint(div, draw) {
  if (seen.has(div)) return draw();
  waiting.set(div, draw);
  observer.observe(div);
}
window.addEventListener("beforeprint", () => [...waiting.keys()].forEach(see));

function part(section, model) {
  const find = role => section.querySelector(`[data-role="${role}"]`), plot = name => section.querySelector(`[data-plot="${name}"]`);
  const settings = model.settings.map((s, index) => ({...s, index, figures: Object.fromEntries(Object.entries(s.figures).map(([n, f]) => [n, f.map(number)])),
    ranks: Object.fromEntries(Object.entries(s.ranks).map(([n, r]) => [n, r.map(number)])), text: `${s.label} ${s.study}`.toLowerCase()}));
  const colour = new Map([...new Set(settings.map(s => s.policy))].map((name, i) => [name, COLOURS[i % COLOURS.length]]));
  const symbol = new Map([...new Set(settings.map(s => s.codec))].map((name, i) => [name, SYMBOLS[i % SYMBOLS.length]]));
  const off = {policy: new Set(), codec: new Set(), budget: new Set(), study: new Set()}, marked = new Set();
  const wanted = s => Object.entries(off).every(([what, names]) => !names.has(s[what]));
  const metricOf = name => model.metrics.find(m => m.name === name);
  let metric = metricOf(model.metric) || model.metrics[0], onFrontier = new Set(), table, cells;

  function points(cost) {
    return settings.filter(wanted).filter(s => metric && s.figures[metric.name]).map(s => {
      const [y, low, high] = s.figures[metric.name];
      return {index: s.index, label: s.study ? `${s.label} (${s.study})` : s.label, policy: s.policy, x: cost === "bytes" ? s.bytes : s.time, y, low, high, colour: colour.get(s.policy), symbol: symbol.get(s.codec)};
    });
  }

  function frontiers() {
    onFrontier = new Set(frontierOf(points("bytes").filter(p => p.x !== null && p.y !== null), metric.higher).map(p => p.index));
    for (const cost of ["bytes", "time"])
      paint(plot(cost), () => drawFrontier(plot(cost), {points: points(cost), metric, cost, logx: find("logx").checked, logy: find("logy").checked, marked, onClick: mark}));
  }

  const scales = () => paint(plot("scales"), drawScales);

  function drawScales() {
    const name = find("scale-metric").value, has = settings.filter(s => wanted(s) && (s.scales[name] || []).length);
    const best = [...has].sort((a, b) => onFrontier.has(b.index) - onFrontier.has(a.index) || a.index - b.index);
    const chosen = [...has.filter(s => marked.has(s.index)), ...best.filter(s => !marked.has(s.index))].slice(0, LINES);
    find("scales-hint").textContent = has.length > chosen.length ? `${chosen.length} of ${has.length}: marked, frontier, best` : "";
    drawLines(plot("scales"), chosen.map(s => ({name: s.label, bold: marked.has(s.index), x: s.scales[name].map((_, k) => k), y: s.scales[name].map(number)})),
      {x: "scale", y: name, zero: true});
  }

  const valueOf = (s, option) => option === "budget" || option === "codec" ? s[option] : s.options[option];
  const options = ["budget", "codec", ...new Set(settings.flatMap(s => Object.keys(s.options)))].filter(o => new Set(settings.map(s => valueOf(s, o)).filter(v => v)).size > 1);

  function groupsOf(option) {
    const groups = new Map();
    for (const s of settings.filter(s => wanted(s) && valueOf(s, option) && metric && s.figures[metric.name])) {
      const rest = [s.policy, ...["budget", "codec"].filter(o => o !== option).map(o => s[o]), ...Object.entries(s.options).filter(([n]) => n !== option).map(([n, v]) => `${n}=${v}`), s.study].filter(Boolean).join(" ");
      if (!groups.has(rest)) groups.set(rest, []);
      groups.get(rest).push(s);
    }
    return [...groups].filter(([, own]) => own.length > 1);
  }

  const varied = () => paint(plot("varied"), drawVaried);

  function drawVaried() {
    const option = find("option").value, groups = groupsOf(option), middle = values => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
    const span = own => { const known = own.map(s => s.figures[metric.name][0]).filter(Number.isFinite); return known.length > 1 ? Math.max(...known) - Math.min(...known) : NaN; };
    const spans = groups.map(([, own]) => span(own)).filter(Number.isFinite), order = [...new Set(settings.map(s => valueOf(s, option)).filter(Boolean))];
    order.sort((a, b) => (parseFloat(a) - parseFloat(b)) || a.localeCompare(b));
    find("varied-hint").textContent = `${spans.length ? `moves ${metric.name} by ${short(middle(spans))} at the median` : ""}${groups.length > LINES ? `; ${LINES} of ${groups.length} groups` : ""}`;
    const error = f => Number.isFinite(f[1]) && Number.isFinite(f[2]) && Number.isFinite(f[0]) ? [f[0] - f[1], f[2] - f[0]] : [0, 0];
    drawLines(plot("varied"), groups.slice(0, LINES).map(([name, own]) => {
      const sorted = [...own].sort((a, b) => order.indexOf(valueOf(a, option)) - order.indexOf(valueOf(b, option)));
      return {name, x: sorted.map(s => valueOf(s, option)), y: sorted.map(s => s.figures[metric.name][0]), error: sorted.map(s => error(s.figures[metric.name]))};
    }), {x: option, y: metric.unit ? `${metric.name} (${metric.unit})` : metric.name, category: true});
  }

  /* -- tables ------------------------------------------------------------------------------------------------------ */

  function columns() {
    const name = metric.name, rank = s => (s.ranks[name] || [null])[0], held = settings.filter(s => s.figures[name]).flatMap(s => s.figures[name].slice(0, 3)).filter(Number.isFinite);
    const ends = held.length ? [held.reduce((a, b) => Math.min(a, b)), held.reduce((a, b) => Math.max(a, b))] : [0, 1];
    const others = model.metrics.filter(m => m.name !== name);
    const sets = [...new Set(settings.flatMap(s => Object.keys(s.sets)))];
    return [
      {title: "rank", kind: "number", key: rank, fill: (s, td) => { td.textContent = rank(s) ?? "none"; }},
      {title: "setting", kind: "text", pinned: true, key: s => s.label, fill: settingCell},
      {title: name, kind: "number", bigFirst: metric.higher, key: s => (s.figures[name] || [null])[0], fill: (s, td) => figureCell(s.figures[name], td)},
      {title: "interval", kind: "text", key: s => (s.figures[name] || [null, null])[1], fill: (s, td) => { if (s.figures[name]) td.append(intervalBar(s.figures[name], ends, colour.get(s.policy))); }},
      {title: "to best", kind: "number", bigFirst: metric.higher, key: s => (s.ranks[name] || [null, null])[1], fill: (s, td) => toBest(s.ranks[name], td)},
      ...others.map(m => ({title: m.name, kind: "number", bigFirst: m.higher, key: s => (s.figures[m.name] || [null])[0], fill: (s, td) => figureCell(s.figures[m.name], td)})),
      ...sets.map(n => ({title: n, kind: "number", key: s => number(s.sets[n] ?? null), fill: (s, td) => { td.textContent = n in s.sets ? short(number(s.sets[n])) : ""; }})),
      {title: "held", kind: "number", key: s => s.bytes, fill: (s, td) => { td.textContent = s.held; }},
      {title: "smaller", kind: "number", bigFirst: true, key: s => s.smaller, fill: (s, td) => { td.textContent = s.smaller === null ? "" : `${s.smaller.toFixed(1)}x`; }},
      {title: "peak", kind: "number", key: s => s.peak, fill: (s, td) => { td.textContent = s.peakText; }},
      {title: "time", kind: "number", key: s => s.time, fill: (s, td) => { td.textContent = s.time === null ? "" : s.time.toFixed(2); }},
    ];
  }

  function settingCell(s, td) {
    const dot = document.createElement("span");
    dot.className = "dot";
    dot.style.background = colour.get(s.policy);
    td.append(dot, s.label);
    if (onFrontier.has(s.index)) { const on = document.createElement("span"); on.title = "on the frontier"; on.textContent = " ◆"; on.style.color = "var(--accent)"; td.append(on); }
    if (s.study) td.append(small(s.study));
    if (s.failed) td.append(small(`${s.failed} failed`, "warn"));
  }

  function figureCell(figure, td) {
    if (!figure) return;
    const [value, low, high, missing] = figure;
    td.textContent = value === Infinity ? "identical" : short(value);
    if (value === null) td.classList.add("warn");
    if (low !== null && low !== high) td.append(small(`${short(low)} to ${short(high)}`));
    if (missing) td.append(small(`${missing} missing`, "warn"));
  }

  function toBest(rank, td) {
    if (!rank || rank[1] === null) return;
    const [, value, low, high] = rank;
    if (low === null) { td.append(small("one image")); return; }
    if (value === 0 && low === 0 && high === 0) { td.textContent = "0"; return; }
    const means = low > 0 || high < 0, shown = document.createElement(means ? "b" : "span");
    shown.textContent = `${value > 0 ? "+" : ""}${short(value)}`;
    td.append(shown, small(means ? `${short(low)} to ${short(high)}` : "not told apart"));
  }

  function cellTable() {
    if (!model.cells || cells) return;
    const {figures, seconds, reasons} = model.cells, rows = [];
    settings.forEach((s, i) => model.images.forEach(([prompt, seed], j) => {
      const reason = reasons[i][j] || "";
      if (seconds[i][j] === null && !reason) return;
      rows.push({s, prompt, seed, seconds: seconds[i][j], reason, figures: model.metrics.map(m => number((figures[m.name][i] || [])[j] ?? null)), text: `${s.text} ${prompt} ${seed} ${reason}`.toLowerCase()});
    }));
    const of = [
      {title: "setting", kind: "text", pinned: true, key: r => r.s.label, fill: (r, td) => { td.textContent = r.s.label; if (r.s.study) td.append(small(r.s.study)); }},
      {title: "prompt", kind: "text", key: r => r.prompt, fill: (r, td) => { td.textContent = r.prompt.length > 60 ? `${r.prompt.slice(0, 57)}...` : r.prompt; td.title = r.prompt; }},
      {title: "seed", kind: "number", key: r => r.seed, fill: (r, td) => { td.textContent = r.seed; }},
      ...model.metrics.map((m, k) => ({title: m.name, kind: "number", bigFirst: m.higher, key: r => r.figures[k], fill: (r, td) => { td.textContent = r.figures[k] === Infinity ? "identical" : short(r.figures[k]); if (r.figures[k] === null) td.classList.add("warn"); }})),
      {title: "seconds", kind: "number", key: r => r.seconds, fill: (r, td) => { td.textContent = r.seconds === null ? "" : r.seconds.toPrecision(3); }},
      {title: "why not", kind: "text", key: r => r.reason || null, fill: (r, td) => { td.textContent = r.reason; td.classList.add("warn"); td.style.whiteSpace = "normal"; td.style.minWidth = r.reason ? "16rem" : ""; }},
    ];
    cells = makeTable(find("cells"), of, rows, {more: find("cells-more"), count: find("cells-count")});
    const narrow = () => cells.narrow(matching(find("cells-filter").value, r => !find("only-missing").checked || r.reason !== ""));
    find("cells-filter").addEventListener("input", narrow);
    find("only-missing").addEventListener("change", narrow);
  }

  function matching(typed, also) {
    const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
    return row => also(row) && words.every(word => row.text.includes(word));
  }

  /* -- what is chosen ---------------------------------------------------------------------------------------------- */

  function mark(index) {
    if (!marked.delete(index)) marked.add(index);
    frontiers();
    table.draw();
    if (scaled.length) scales();
    const box = find("marked");
    box.replaceChildren(...[...marked].map(i => {
      const line = document.createElement("div"), code = document.createElement("code");
      line.className = "command";
      code.textContent = settings[i].command;
      line.append(code, copyButton(settings[i].command));
      return line;
    }));
  }

  function answers() {
    const name = metric.name, ranked = settings.filter(s => wanted(s) && s.ranks[name] && s.figures[name][0] !== null).sort((a, b) => a.ranks[name][0] - b.ranks[name][0] || a.index - b.index);
    const sign = metric.higher ? -1 : 1, byFigure = [...ranked].sort((a, b) => a.figures[name][0] === b.figures[name][0] ? a.bytes - b.bytes : sign * (a.figures[name][0] - b.figures[name][0]));
    const best = byFigure[0];
    if (!best) return find("answers").replaceChildren();
    const alike = ranked.filter(s => s.ranks[name][0] === best.ranks[name][0] && s.bytes), least = alike.sort((a, b) => a.bytes - b.bytes)[0] || best;
    const smaller = model.images.length > 1 && least !== best;
    const half = byFigure.find(s => s.bytes && s.bytes * 2 <= (smaller ? least : best).bytes);
    const card = (title, s) => {
      const box = document.createElement("div"), what = document.createElement("span"), which = document.createElement("b"), about = document.createElement("span"), [value, low, high] = s.figures[name];
      box.className = "card";
      what.textContent = title;
      which.textContent = s.label;
      about.textContent = `${name} ${value === Infinity ? "identical" : short(value)}${low !== null && low !== high ? ` (${short(low)} to ${short(high)})` : ""}, ${s.held} held${s.smaller ? `, ${s.smaller.toFixed(1)}x smaller` : ""}`;
      box.append(what, which, about);
      return box;
    };
    find("answers").replaceChildren(card(`best ${name}`, best), ...(smaller ? [card("smallest that is not told apart from it", least)] : []), ...(half ? [card("best in half of that memory", half)] : []));
  }

  function chips() {
    const box = find("chips");
    for (const what of ["study", "policy", "budget", "codec"]) {
      const names = [...new Set(settings.map(s => s[what]))].filter(Boolean);
      if (names.length < 2 || names.length > 40) continue;
      const row = document.createElement("div");
      row.className = "chips";
      row.setAttribute("role", "group");
      row.setAttribute("aria-label", what);
      row.dataset.what = what;
      for (const name of names) {
        const button = document.createElement("button");
        button.type = "button";
        button.setAttribute("aria-pressed", "true");
        if (what === "policy") { const dot = document.createElement("i"); dot.style.background = colour.get(name); button.append(dot); }
        button.append(name);
        button.addEventListener("click", () => {
          if (!off[what].delete(name)) off[what].add(name);
          button.setAttribute("aria-pressed", String(!off[what].has(name)));
          redraw();
          narrow();
        });
        row.append(button);
      }
      box.append(row);
      row.style.margin = "0 0 .3rem";
    }
  }

  const narrow = () => table.narrow(matching(find("filter").value, s => wanted(s) && (!find("only-frontier").checked || onFrontier.has(s.index))));
  const scaled = model.metrics.map(m => m.name).filter(n => settings.some(s => (s.scales[n] || []).length));

  function redraw() {
    find("direction").textContent = `${metric.unit ? `${metric.unit}, ` : ""}${metric.higher ? "higher" : "lower"} is better`;
    frontiers();
    answers();
    if (scaled.length) scales();
    if (options.length) varied();
  }

  if (!metric) return;
  model.metrics.forEach(m => find("metric").append(new Option(m.name, m.name, m === metric, m === metric)));
  scaled.forEach(n => find("scale-metric").append(new Option(n, n, n === metric.name, n === metric.name)));
  options.forEach(o => find("option").append(new Option(o, o)));
  find("scales-card").hidden = !scaled.length;
  find("varied-card").hidden = !options.length;
  if (symbol.size > 1) find("symbols").textContent = [...symbol].map(([name, s]) => `${{circle: "●", square: "■", diamond: "◆", "triangle-up": "▲", cross: "✚", star: "★"}[s]} ${name || "own codec"}`).join("  ");
  chips();
  redraw();
  table = makeTable(find("settings"), columns(), settings, {more: find("more"), count: find("count"), onClick: s => mark(s.index), selected: s => marked.has(s.index)});
  find("metric").addEventListener("change", () => { metric = metricOf(find("metric").value); redraw(); table.replaceColumns(columns()); });
  for (const role of ["logx", "logy"]) find(role).addEventListener("change", frontiers);
  find("scale-metric").addEventListener("change", scales);
  find("option").addEventListener("change", varied);
  find("filter").addEventListener("input", narrow);
  find("only-frontier").addEventListener("change", narrow);
  find("cells-card").addEventListener("toggle", cellTable);
  DARK.addEventListener("change", () => { redraw(); table.draw(); });
}

function copyButton(text) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "copy";
  button.dataset.copy = text;
  return button;
}

document.querySelectorAll("section[data-model]").forEach(section => part(section, DATA[Number(section.dataset.model)]));
document.addEventListener("click", async event => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const before = button.textContent;
  try { await navigator.clipboard.writeText(button.dataset.copy); button.textContent = "copied"; }
  catch { button.textContent = "select it by hand"; }
  setTimeout(() => { button.textContent = before; }, 1500);
});
document.documentElement.dataset.ready = "yes";
