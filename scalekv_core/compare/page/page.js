"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colours = ["#4477cc", "#ee7733", "#229966", "#cc3366", "#9966cc", "#997700", "#33aacc", "#777788", "#bb5522", "#55aa33"];
  const unitOf = name => { const m = data.metrics.find(m => m.name === name); return m && m.unit ? `${name} (${m.unit})` : name; };
  const isHigher = name => { const m = data.metrics.find(m => m.name === name); return !m || m.higher; };

  function layout(extra) {
    const ink = dark.matches ? "#e7eaf0" : "#1d2330", line = dark.matches ? "#343b49" : "#d9dee7";
    const axis = {gridcolor: line, zerolinecolor: line, automargin: true};
    return {paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: {color: ink}, margin: {l: 50, r: 10, t: 10, b: 45},
      legend: {orientation: "h", y: -0.22}, hovermode: "closest", ...extra,
      xaxis: {...axis, ...(extra.xaxis || {})}, yaxis: {...axis, ...(extra.yaxis || {})}};
  }
  const options = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"]};

  function bytes(count) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"], unit = Math.min(4, Math.floor(Math.log2(Math.max(1, count)) / 10));
    return `${+(count / 1024 ** unit).toPrecision(3)} ${units[unit]}`;
  }

  function byteTicks(values, log) {
    const low = Math.min(...values), high = Math.max(...values), ticks = [];
    if (!values.length) return {};
    if (log) for (let power = Math.floor(Math.log2(low)); power <= Math.ceil(Math.log2(high)); power++) ticks.push(2 ** power);
    else for (let i = 0; i <= 5; i++) ticks.push(Math.round(high * i / 5));
    return {tickvals: ticks, ticktext: ticks.map(bytes)};
  }

  function frontierOf(points, higher) {
    const sorted = [...points].sort((a, b) => a.x - b.x || (higher ? b.y - a.y : a.y - b.y));
    const line = [];
    for (const p of sorted) {
      const last = line[line.length - 1];
      if (!last || (higher ? p.y > last.y : p.y < last.y)) line.push(p);
    }
    return line;
  }

  function drawFrontier(section, model) {
    const get = role => section.querySelector(`[data-role=${role}]`);
    const metric = get("metric").value, cost = get("cost").value;
    const points = model.settings.map(s => ({s, x: s[cost], y: (s.figures[metric] || [])[0], f: s.figures[metric]}))
      .filter(p => p.x != null && p.y != null);
    const policies = [...new Set(points.map(p => p.s.policy))];
    const traces = policies.map((policy, i) => {
      const own = points.filter(p => p.s.policy === policy).sort((a, b) => a.x - b.x);
      const marker = {color: colours[i % colours.length], size: 9, symbol: i >= colours.length ? "diamond" : "circle"};
      const up = own.map(p => p.f[2] == null ? 0 : p.f[2] - p.y), down = own.map(p => p.f[1] == null ? 0 : p.y - p.f[1]);
      return {type: "scatter", mode: "markers", name: policy, x: own.map(p => p.x), y: own.map(p => p.y), text: own.map(p => p.s.label), customdata: own.map(p => bytes(p.x)),
        error_y: {type: "data", array: up, arrayminus: down, thickness: 1, width: 2}, marker,
        hovertemplate: "<b>%{text}</b><br>" + metric + " %{y:.4g}<br>" + (cost === "bytes" ? "%{customdata}" : "%{x:.2f} x unmodified time") + "<extra></extra>"};
    });
    const line = frontierOf(points, isHigher(metric));
    traces.unshift({type: "scatter", mode: "lines", name: "frontier", x: line.map(p => p.x), y: line.map(p => p.y),
      line: {color: "#8893a5", dash: "dot", width: 1.5}, hoverinfo: "skip"});
    Plotly.react(section.querySelector("[data-plot=frontier]"), traces, layout({
      xaxis: {type: get("logx").checked ? "log" : "linear", title: {text: cost === "bytes" ? "cache held" : "time, x unmodified"},
        ...(cost === "bytes" ? byteTicks(points.map(p => p.x), get("logx").checked) : {})},
      yaxis: {type: get("logy").checked ? "log" : "linear", title: {text: unitOf(metric)}}}), options);
  }

  function drawScales(section, model) {
    const select = section.querySelector("[data-role=scale-metric]");
    const metric = select.value;
    const traces = model.settings.filter(s => (s.scales[metric] || []).length).map((s, i) => ({
      type: "scatter", mode: "lines+markers", name: s.label, x: s.scales[metric].map((_, k) => k), y: s.scales[metric],
      visible: i < 12 ? true : "legendonly", line: {color: colours[i % colours.length], dash: i >= colours.length ? "dash" : "solid"}}));
    Plotly.react(section.querySelector("[data-plot=scales]"), traces,
      layout({xaxis: {title: {text: "scale"}, dtick: 1}, yaxis: {title: {text: unitOf(metric)}, rangemode: "tozero"}}), options);
  }

  function drawVaried(section, model, metric) {
    const names = [...new Set(model.settings.flatMap(s => Object.keys(s.options)))];
    const place = section.querySelector("[data-role=varied]");
    for (const name of names) {
      const title = document.createElement("h3"), plot = document.createElement("div");
      title.textContent = `Sensitivity to ${name}`;
      plot.className = "plot";
      place.append(title, plot);
      const rest = s => [s.policy, s.budget, s.codec, ...Object.entries(s.options).filter(([n]) => n !== name).map(([n, v]) => `${n}=${v}`)].filter(Boolean).join(" ");
      const groups = new Map();
      for (const s of model.settings.filter(s => name in s.options && s.figures[metric])) {
        if (!groups.has(rest(s))) groups.set(rest(s), []);
        groups.get(rest(s)).push(s);
      }
      const traces = [...groups].map(([label, own], i) => ({type: "scatter", mode: "lines+markers", name: label,
        x: own.map(s => s.options[name]), y: own.map(s => s.figures[metric][0]), line: {color: colours[i % colours.length]}}));
      Plotly.react(plot, traces, layout({xaxis: {title: {text: name}, type: "category"}, yaxis: {title: {text: unitOf(metric)}}}), options);
    }
  }

  function sortBy(table, column, header) {
    const descending = header.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th").forEach(th => th.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const numbers = header.dataset.kind === "number", body = table.tBodies[0];
    const key = row => { const v = row.cells[column].dataset.value; return numbers ? (v === "" || v === undefined ? null : Number(v)) : v; };
    const rows = [...body.rows].map(row => [key(row), row]).sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      const order = numbers ? a - b : String(a).localeCompare(String(b), undefined, {numeric: true});
      return descending ? -order : order;
    });
    body.append(...rows.map(([, row]) => row));
  }

  document.querySelectorAll("section[data-model]").forEach(section => {
    const model = data.models[Number(section.dataset.model)];
    const table = section.querySelector("table[data-role=settings]");
    if (!table) return;
    const scaled = [...new Set(model.settings.flatMap(s => Object.keys(s.scales).filter(n => s.scales[n].length)))];
    const select = section.querySelector("[data-role=scale-metric]");
    const wanted = section.querySelector("[data-role=metric]").value;
    scaled.forEach(name => select.append(new Option(name, name, name === wanted, name === wanted)));
    const redraw = () => { drawFrontier(section, model); if (scaled.length) drawScales(section, model); };
    section.querySelectorAll("[data-role=metric], [data-role=cost], [data-role=logx], [data-role=logy]").forEach(control =>
      control.addEventListener("change", () => drawFrontier(section, model)));
    select.addEventListener("change", () => drawScales(section, model));
    dark.addEventListener("change", redraw);
    redraw();
    drawVaried(section, model, wanted);
    [...table.tHead.rows[0].cells].forEach((header, i) => header.querySelector("button").addEventListener("click", () => sortBy(table, i, header)));
    const filter = section.querySelector("[data-role=filter]"), only = section.querySelector("[data-role=only-frontier]");
    const narrow = () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of table.tBodies[0].rows) {
        const text = row.dataset.text.toLowerCase();
        row.hidden = !(words.every(word => text.includes(word)) && (!only.checked || row.dataset.frontier === "1"));
        shown += !row.hidden;
      }
      section.querySelector("[data-role=count]").textContent = `${shown} of ${table.tBodies[0].rows.length}`;
    };
    filter.addEventListener("input", narrow);
    only.addEventListener("change", narrow);
    narrow();
  });

  document.querySelectorAll("[data-copy]").forEach(button => button.addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(button.dataset.copy); button.textContent = "copied"; }
    catch { button.textContent = "select it by hand"; }
  }));
})();
