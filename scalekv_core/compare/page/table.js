"use strict";
/* A table of any number of rows: all are sorted and filtered, and only those that are looked at are in the document. */
const STEP = 100;

function makeTable(table, columns, rows, {more, count, onClick, selected, sortBy = 0, descending = false}) {
  let shown = STEP, order = {column: sortBy, descending}, keep = () => true, found = rows;
  const head = table.createTHead().insertRow(), body = table.createTBody();

  function header(column, i) {
    const th = document.createElement("th"), button = document.createElement("button");
    th.scope = "col";
    th.className = `${column.kind === "text" ? "text" : ""} ${column.pinned ? "pinned" : ""}`;
    button.type = "button";
    button.textContent = column.title;
    button.addEventListener("click", () => {
      order = {column: i, descending: order.column === i ? !order.descending : Boolean(column.bigFirst)};
      sort();
    });
    th.append(button);
    head.append(th);
  }

  const missing = key => key === null || key === undefined || Number.isNaN(key);

  function compare(a, b) {
    if (missing(a) || missing(b)) return missing(a) - missing(b); // what is no number comes last, whichever way
    const apart = typeof a === "string" ? a.localeCompare(b, undefined, {numeric: true}) : a === b ? 0 : a < b ? -1 : 1;
    return order.descending ? -apart : apart;
  }

  function sort() {
    const key = columns[order.column].key;
    [...head.cells].forEach((th, i) => {
      if (i === order.column) th.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    });
    const keyed = rows.map((row, i) => [key(row), i, row]);
    keyed.sort((a, b) => compare(a[0], b[0]) || a[1] - b[1]);
    rows = keyed.map(([, , row]) => row);
    filter();
  }

  function filter() {
    found = rows.filter(keep);
    shown = STEP;
    draw();
  }

  function draw() {
    body.replaceChildren(...found.slice(0, shown).map(tableRow));
    if (count) count.textContent = found.length === rows.length ? `${rows.length}` : `${found.length} of ${rows.length}`;
    more.replaceChildren();
    if (found.length > shown) {
      const button = document.createElement("button");
      button.type = "button";
      const rest = found.length - shown;
      button.textContent = rest > STEP ? `show ${STEP} of ${rest} more` : `show ${rest} more`;
      button.addEventListener("click", () => { shown += STEP; draw(); });
      more.append(button);
    }
  }

  function tableRow(row) {
    const tr = document.createElement("tr");
    for (const column of columns) {
      const td = tr.insertCell();
      if (column.kind === "text") td.classList.add("text");
      if (column.pinned) td.classList.add("pinned");
      column.fill(row, td);
    }
    if (onClick) {
      tr.tabIndex = 0;
      tr.setAttribute("aria-selected", Boolean(selected(row)));
      tr.addEventListener("click", () => onClick(row));
      tr.addEventListener("keydown", event => { if (event.key === "Enter") onClick(row); });
    }
    return tr;
  }

  columns.forEach(header);
  sort();
  return {
    narrow(wanted) { keep = wanted; filter(); },
    draw,
    found: () => found,
    replaceColumns(other) { columns = other; head.replaceChildren(); columns.forEach(header); order = {column: sortBy, descending}; sort(); },
  };
}

function small(text, name = "") {
  const tag = document.createElement("small");
  tag.textContent = text;
  tag.className = name;
  return tag;
}
