// The controls, the list of runs, the table, and the page's address, which keeps the state over a reload.
function listRuns() {
  data.curves.forEach((curve, index) => {
    const item = document.createElement("li"), toggle = document.createElement("button"), only = document.createElement("button");
    toggle.innerHTML = '<span class="dot"></span><span class="name"></span>';
    toggle.className = "toggle";
    item.dataset.ids = `r${index}` + (curve.group === null ? "" : ` g${curve.group}`);
    toggle.querySelector(".name").textContent = curve.label;
    toggle.querySelector(".name").append(Object.assign(document.createElement("small"), { textContent: [curve.state, curve.settings].filter(Boolean).join(" · ") }));
    toggle.title = `${curve.stages.join(" > ")}\n${curve.state}\n${curve.settings}\nclick to show or hide`;
    toggle.onclick = () => { state.hidden.has(curve.label) ? state.hidden.delete(curve.label) : state.hidden.add(curve.label); changed(); };
    only.className = "only";
    only.textContent = "only";
    only.title = "Show this run alone";
    only.onclick = () => { hideAllBut(each => each === curve); };
    toggle.type = only.type = "button";
    item.append(toggle, only);
    item.onmouseenter = () => { near = state.group && curve.group !== null ? `g${curve.group}` : `r${index}`; markNear(); };
    item.onmouseleave = () => { near = null; markNear(); };
    byId("runs").append(item);
  });
}
function hideAllBut(keep) {
  state.hidden = new Set(data.curves.filter(curve => !keep(curve)).map(curve => curve.label));
  changed();
}
function paintList() {
  let found = 0;
  [...byId("runs").children].forEach((item, index) => {
    const curve = data.curves[index], toggle = item.querySelector(".toggle");
    item.hidden = !matches(index);
    found += !item.hidden;
    toggle.setAttribute("aria-pressed", !state.hidden.has(curve.label));
    item.style.setProperty("--colour", shade(state.group && curve.group !== null ? data.groups[curve.group].colour : curve.colour));
  });
  const all = data.curves.length, shown = shownRuns().length;
  byId("count").textContent = `${shown} of ${all} shown` + (found < all ? `, ${found} found` : "");
  for (const line of document.querySelectorAll("tbody tr")) line.hidden = !line.dataset.runs.split(" ").some(index => matches(Number(index)));
}
let waiting = null;
function changed(fresh) {
  clearTimeout(waiting); // a slider that is dragged asks more often than hundreds of curves can be drawn
  paintList();
  byId("weight").textContent = state.smooth.toFixed(2);
  save();
  waiting = setTimeout(() => update(fresh), data.curves.length > 50 ? 60 : 0);
}

function load() {
  let asked;
  try { asked = new URLSearchParams(location.hash.slice(1)); } catch { asked = new URLSearchParams(); }
  const x = asked.get("x"), smooth = parseFloat(asked.get("smooth") ?? data.smooth), zoom = (asked.get("zoom") || "").split(",").map(Number);
  state.x = x in AXES ? x : "tokens";
  state.hidden = new Set();
  state.smooth = Math.min(0.99, Math.max(0, smooth || 0));
  for (const name of ["logx", "logy"]) state[name] = asked.get(name) === "1";
  state.group = asked.get("group") !== "0" && data.groups.length > 0;
  state.search = asked.get("search") || "";
  state.zoom = zoom.length === 2 && zoom[0] < zoom[1] ? zoom : null;
  const read = name => asked.get(name).split(",").map(each => { try { return decodeURIComponent(each); } catch { return each; } });
  if (asked.has("only")) { const kept = read("only"); state.hidden = new Set(data.curves.map(curve => curve.label).filter(label => !kept.includes(label))); }
  else if (asked.has("hide")) state.hidden = new Set(read("hide"));
  byId("x").value = state.x;
  byId("smooth").value = state.smooth;
  byId("search").value = state.search;
  for (const name of ["logx", "logy", "group"]) byId(name).checked = state[name];
  byId("seeds").hidden = !data.groups.length;
}
function save() {
  const now = new URLSearchParams({ x: state.x, smooth: state.smooth });
  for (const name of ["logx", "logy"]) if (state[name]) now.set(name, "1");
  if (!state.group && data.groups.length) now.set("group", "0");
  if (state.search) now.set("search", state.search);
  if (state.zoom) now.set("zoom", state.zoom.map(value => value.toPrecision(6)).join(","));
  const labels = data.curves.map(curve => curve.label), hidden = labels.filter(label => state.hidden.has(label)), shown = labels.filter(label => !state.hidden.has(label));
  const [name, list] = hidden.length > shown.length ? ["only", shown] : ["hide", hidden];
  if (hidden.length) now.set(name, list.map(encodeURIComponent).join(","));
  try { history.replaceState(null, "", `#${now}`); } catch { /* a browser may refuse it for files */ }
}

// A click on a heading sorts the table by it; a second click turns the order. A mean stays below its runs' place.
function sortable() {
  const body = document.querySelector("tbody");
  for (const [column, head] of [...document.querySelectorAll("thead tr:last-child th")].entries()) {
    head.dataset.sort = "";
    head.onclick = () => {
      const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const key = row => row.children[column].dataset.value ?? row.children[column].textContent;
      const empty = value => value === "" || value === "–";
      const order = (one, other) => {
        const [a, b] = [key(one), key(other)];
        if (empty(a) || empty(b)) return empty(a) - empty(b);
        return (isNaN(a) || isNaN(b) ? a.localeCompare(b, "en", { numeric: true }) : a - b) * down;
      };
      document.querySelectorAll("thead th").forEach(each => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
      body.append(...[...body.children].sort(order));
    };
  }
}

function start() {
  load();
  listRuns();
  sortable();
  document.body.append(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));
  const controls = { x: "value", logx: "checked", logy: "checked", group: "checked", search: "value" };
  for (const name in controls) byId(name).addEventListener("input", event => {
    state[name] = event.target[controls[name]];
    if (name === "x" || name === "logx") state.zoom = null;
    changed(name !== "search" && name !== "group");
  });
  byId("smooth").addEventListener("input", event => { state.smooth = Number(event.target.value); changed(); });
  byId("reset").onclick = () => zoomTo(null);
  byId("all").onclick = () => hideAllBut(() => true);
  byId("none").onclick = () => hideAllBut(() => false);
  byId("controls").hidden = false;
  byId("sidebar").open = innerWidth > 800;
  for (const section of data.sections) {
    const box = document.createElement("details"), title = document.createElement("summary"), grid = document.createElement("div");
    box.open = section.open;
    title.textContent = section.title;
    grid.className = "grid";
    box.append(title, grid);
    byId("panels").append(box);
    for (const metric of section.metrics) makePanel(metric, grid);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => changed(true));
  if (data.refresh) setInterval(() => { if (!document.hidden && byId("tip").hidden && document.activeElement !== byId("search")) location.reload(); }, data.refresh * 1000);
  changed();
  requestAnimationFrame(() => requestAnimationFrame(() => { document.documentElement.dataset.readyMs = Math.round(performance.now()); }));
}
start();
