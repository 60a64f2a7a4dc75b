"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const parsed = (id) => ($(id) ? JSON.parse($(id).textContent) : null);
  const data = parsed("data");
  const total = data.name.length;

  /* Texts are data: they get into the page as text only, never as markup. */
  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children.filter((child) => child !== null && child !== ""));
    return element;
  }

  const grouped = (count) => String(count).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const nameOf = (row) => data.name[row] || "(no name)";
  const stateOf = (row) => data.statuses[data.status[row]];
  const shownState = (state) => make("span", { className: `state ${state}` }, state === "partly" ? "in part" : state);

  /* ---- columns ---- */

  const state = { band: 0, sort: "@state", down: false, page: 0, rows: [] };
  const valueOf = (column, row, band = state.band) =>
    (column.per_band ? column.values[band][row] : column.values[row]) ?? null;
  const written = (column, value) => {
    if (value === null) return "\u2013";
    return column.numeric ? value.toFixed(column.decimals).replace("-", "\u2212") : String(value);
  };
  const byKey = new Map();
  for (const column of data.columns) {
    for (const key of [column.label, column.key]) byKey.set(key.toLowerCase().replaceAll(" ", ""), column);
  }
  const ordered = new Intl.Collator(undefined, { numeric: true }).compare;

  /* ---- thumbnails: a block is unpacked when the first of its targets is shown ---- */

  const blocks = new Map();
  function small(band, row) {
    const id = `small-${band}-${Math.floor(row / data.block)}`;
    if (!blocks.has(id)) blocks.set(id, parsed(id));
    const block = blocks.get(id), k = row % data.block;
    return block && { image: block.image[k], mask: block.mask[k], problem: block.problem[k] };
  }

  function thumb(band, row, tag = "button") {
    const found = small(band, row);
    const label = make("span", {}, data.bands[band]);
    if (!found || !found.image) {
      return make("span", { className: "thumb none", title: (found && found.problem) || "no cutout" }, label);
    }
    const layer = (source, className) =>
      source ? make("img", { src: `data:image/webp;base64,${source}`, className, alt: "", decoding: "async" }) : null;
    const box = make(tag, { className: "thumb" }, layer(found.image, "picture"), layer(found.mask, "mask"), label);
    if (tag === "button") {
      box.type = "button";
      box.ariaLabel = `${nameOf(row)} in ${data.bands[band]}`;
      box.onclick = () => openTarget(row);
    }
    return box;
  }

  /* ---- finding ---- */

  const texts = data.name.map((name, row) =>
    [name, data.file[row], data.reason[row], ...data.flagged[row].map((flag) => data.flags[flag])].join("\n").toLowerCase());
  const compare = {
    "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b,
  };

  /** A word such as mag<21 compares a column; any other has to be in the texts of the target. */
  function condition(word) {
    const [, key, sign, number] = word.match(/^(.+?)(<=|>=|<|>|=)([-+.\de]+)$/) || [];
    const column = key && byKey.get(key);
    if (column && column.numeric && Number.isFinite(Number(number))) {
      return (row) => {
        const value = valueOf(column, row);
        return value !== null && compare[sign](value, Number(number));
      };
    }
    return (row) => texts[row].includes(word);
  }

  function select() {
    const wanted = $("query").value.toLowerCase().split(/\s+/).filter(Boolean).map(condition);
    const states = $("status").value.split(" ").filter(Boolean).map((name) => data.statuses.indexOf(name));
    if (states.length) wanted.push((row) => states.includes(data.status[row]));
    if ($("flag").value !== "") wanted.push((row) => data.flagged[row].includes(Number($("flag").value)));
    const rows = [];
    for (let row = 0; row < total; row++) if (wanted.every((test) => test(row))) rows.push(row);
    state.rows = rows;
    sort();
  }

  function keyOf() {
    if (state.sort === "@name") return (row) => data.name[row] || null;
    if (state.sort === "@state") return (row) => data.status[row];
    if (state.sort === "@flags") return (row) => data.flagged[row].length;
    const column = data.columns.find((one) => one.key === state.sort);
    return (row) => valueOf(column, row);
  }

  /** What is not known stands last, whichever way is sorted; equals stay in the order of the run. */
  function sort() {
    const key = keyOf(), sign = state.down ? -1 : 1;
    const keys = new Map(state.rows.map((row) => [row, key(row)]));
    state.rows.sort((a, b) => {
      const x = keys.get(a), y = keys.get(b);
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return sign * (typeof x === "number" && typeof y === "number" ? x - y : ordered(x, y)) || a - b;
    });
    state.page = 0;
    show();
  }

  /* ---- showing ---- */

  function head() {
    const cells = [["@name", "target", "", ""], ["", "cutouts", "", ""], ["@state", "state", "", ""]];
    for (const column of data.columns) {
      const band = column.per_band && data.bands.length > 1 ? data.bands[state.band] : "";
      cells.push([column.key, column.label, [column.unit, band].filter(Boolean).join(", "), column.title, column.numeric]);
    }
    cells.push(["@flags", "flags", "", ""]);
    $("table").tHead.rows[0].replaceChildren(...cells.map(([key, label, unit, title, numeric]) => {
      const below = make("i", {}, unit);
      const cell = make("th", { scope: "col", title, className: [numeric ? "n" : "", key === "@name" ? "name" : ""].join(" ") });
      if (!key) return cell.append(label, below), cell;
      if (key === state.sort) cell.ariaSort = state.down ? "descending" : "ascending";
      const button = make("button", { type: "button" }, label);
      button.dataset.sort = key;
      button.onclick = () => {
        state.down = state.sort === key && !state.down;
        state.sort = key;
        sort();
        document.querySelector(`[data-sort="${CSS.escape(key)}"]`).focus();
      };
      return cell.append(button, below), cell;
    }));
  }

  function nameButton(row) {
    const button = make("button", { type: "button", title: nameOf(row) }, nameOf(row));
    button.onclick = () => openTarget(row);
    return button;
  }

  const flagsOf = (row) => data.flagged[row].map((flag) => make("span", { className: "flag" }, data.flags[flag]));

  function tableRow(row) {
    const line = make("tr", {},
      make("td", { className: "name" }, nameButton(row)),
      make("td", {}, make("div", { className: "thumbs" }, ...data.bands.map((_, band) => thumb(band, row)))),
      make("td", {}, shownState(stateOf(row)), data.reason[row] && make("span", { className: "why" }, data.reason[row])));
    for (const column of data.columns) {
      line.append(make("td", { className: column.numeric ? "n" : "" }, written(column, valueOf(column, row))));
    }
    line.append(make("td", {}, ...flagsOf(row)));
    return line;
  }

  function card(row) {
    return make("div", { className: "tileset" }, thumb(state.band, row), make("div", { className: "name" }, nameButton(row)),
      stateOf(row) === "done" ? null : shownState(stateOf(row)));
  }

  const pageSize = () => Number($("size").value);
  const lastPage = () => Math.max(0, Math.ceil(state.rows.length / pageSize()) - 1);

  function show() {
    state.page = Math.min(Math.max(state.page, 0), lastPage());
    const first = state.page * pageSize();
    const rows = state.rows.slice(first, first + pageSize());
    const gallery = $("view").value === "gallery";
    $("gallery").hidden = !gallery;
    $("list").hidden = gallery;
    head();
    const nothing = make("p", { className: "empty" }, total ? "No target is like that." : "The run has no targets.");
    $("gallery").replaceChildren(...(gallery ? rows.map(card) : []));
    const cell = make("td", { colSpan: 4 + data.columns.length }, nothing);
    $("table").tBodies[0].replaceChildren(...(gallery ? [] : rows.length ? rows.map(tableRow) : [make("tr", {}, cell)]));
    if (gallery && !rows.length) $("gallery").append(nothing);
    const found = state.rows.length;
    $("shown").textContent = !found ? `none of ${grouped(total)}`
      : `${grouped(first + 1)}\u2013${grouped(first + rows.length)} of ${grouped(found)}` +
        (found < total ? ` (${grouped(total)} in all)` : "");
    $("page").value = state.page + 1;
    $("pages").textContent = grouped(lastPage() + 1);
    $("previous").disabled = state.page === 0;
    $("next").disabled = state.page === lastPage();
  }

  function turn(page) {
    state.page = page;
    show();
  }

  /* ---- one target ---- */

  let opened = null;

  function openTarget(row) {
    opened = row;
    $("target-name").textContent = nameOf(row);
    const place = state.rows.indexOf(row);
    $("before").disabled = place <= 0;
    $("after").disabled = place < 0 || place === state.rows.length - 1;
    const bands = data.bands.map((_, band) => band);
    const pictures = bands.map((band) => {
      const found = small(band, row);
      return make("figure", {}, thumb(band, row, "div"),
        make("figcaption", {}, data.bands[band], " ", make("span", { className: "soft" }, (found && found.problem) || "")));
    });
    const numbers = make("table", { className: "plain" }, make("thead", {}, make("tr", {}, make("th", {}),
      ...bands.map((band) => make("th", { className: "n" }, data.bands[band])))));
    const common = make("dl", { className: "lines" });
    const line = (term, ...shown) => make("div", {}, make("dt", {}, term), make("dd", {}, ...shown));
    const per = make("tbody");
    for (const column of data.columns) {
      const label = column.label + (column.unit ? ` / ${column.unit}` : "");
      if (!column.per_band) common.append(line(label, written(column, valueOf(column, row))));
      else per.append(make("tr", { title: column.title }, make("td", {}, label),
        ...bands.map((band) => make("td", { className: "n" }, written(column, valueOf(column, row, band))))));
    }
    numbers.append(per);
    common.prepend(line("state", shownState(stateOf(row))));
    if (data.flagged[row].length) common.append(line("flags", ...flagsOf(row)));
    const products = make("tbody", {}, ...data.products[row].map(([form, status, reason]) => {
      const [kind, band, pattern] = data.forms[form];
      const path = pattern.replaceAll("*", data.file[row]);
      const file = status === "done" && path
        ? make("a", { href: path.split("/").map(encodeURIComponent).join("/"), className: "path" }, path) : "";
      return make("tr", {}, make("td", {}, kind), make("td", {}, band), make("td", {}, shownState(status)),
        make("td", {}, reason || file));
    }));
    $("target-body").replaceChildren(make("div", { className: "large" }, ...pictures), common,
      make("div", { className: "scroll" }, per.rows.length ? numbers : "",
        make("table", { className: "plain" }, make("thead", {}, make("tr", {},
          ...["product", "band", "state", "file, or what was wrong"].map((word) => make("th", {}, word)))), products)));
    if (!$("target").open) $("target").showModal();
  }

  function openNext(step) {
    const row = state.rows[state.rows.indexOf(opened) + step];
    if (row !== undefined) openTarget(row);
  }

  $("before").onclick = () => openNext(-1);
  $("after").onclick = () => openNext(1);
  $("target").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") openNext(-1);
    if (event.key === "ArrowRight") openNext(1);
  });
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }
  for (const figure of document.querySelectorAll("img.figure")) {
    figure.onclick = () => {
      $("zoom").querySelector("img").src = figure.src;
      $("zoom").querySelector("h3").textContent = figure.alt;
      $("zoom").showModal();
    };
  }

  /* ---- bands: one at a time ---- */

  const tabs = [...document.querySelectorAll("[role=tab]")];
  function openBand(chosen) {
    for (const [k, tab] of tabs.entries()) {
      tab.ariaSelected = String(k === chosen);
      tab.tabIndex = k === chosen ? 0 : -1;
      $(tab.getAttribute("aria-controls")).hidden = k !== chosen;
    }
  }
  for (const [k, tab] of tabs.entries()) {
    tab.onclick = () => openBand(k);
    tab.onkeydown = (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      const next = (k + step + tabs.length) % tabs.length;
      openBand(next);
      tabs[next].focus();
    };
  }
  if (tabs.length) {
    document.querySelector(".tabs").hidden = false;
    openBand(0);
  }

  /* ---- tools ---- */

  const choice = (value, label) => make("option", { value }, label);
  const there = data.statuses.filter((_, k) => data.status.includes(k));
  $("status").append(choice("", "all"), ...there.map((name) => choice(name, name === "partly" ? "in part" : name)));
  if (there.includes("failed") || there.includes("partly")) $("status").append(choice("failed partly", "failed or in part"));
  $("flag").append(choice("", "any"), ...data.flags.map((flag, k) => choice(String(k), flag)));
  $("band").append(...data.bands.map((band, k) => choice(String(k), band)));
  document.body.classList.toggle("manybands", data.bands.length > 3);
  $("flag").parentElement.hidden = !data.flags.length;
  $("band").parentElement.hidden = data.bands.length < 2;

  let waiting = 0;
  $("query").oninput = () => {
    clearTimeout(waiting);
    waiting = setTimeout(select, 120);
  };
  $("status").onchange = $("flag").onchange = select;
  $("band").onchange = () => {
    state.band = Number($("band").value);
    select();
  };
  $("view").onchange = show;
  $("size").onchange = () => turn(0);
  $("masks").onchange = () => document.body.classList.toggle("nomasks", !$("masks").checked);
  $("previous").onclick = () => turn(state.page - 1);
  $("next").onclick = () => turn(state.page + 1);
  $("page").onchange = () => turn((Number.parseInt($("page").value, 10) || 1) - 1);

  for (const button of document.querySelectorAll("[data-status], [data-flag]")) {
    button.onclick = () => {
      const { status = "", flag } = button.dataset;
      $("query").value = "";
      $("status").value = status;
      $("flag").value = flag === undefined ? "" : String(data.flags.indexOf(flag));
      select();
      $("targets").scrollIntoView();
    };
  }

  select();
})();
