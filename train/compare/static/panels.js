// A panel per metric. uPlot draws axes, cursor and selection; the lines are drawn here, each with its own x values.
const panels = [];
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let near = null; // id of the line nearest to the cursor, drawn thicker in every panel
let dragged = null; // the panel in which a selection is drawn
let fullRange = [0, 1];
const FRAME = [[1, 10], [1, 10]]; // uPlot's own data: none of it is drawn, the scales' ranges are ours

function makePanel(metric, parent) {
  const root = document.createElement("div"), panel = { metric, root, lines: [], dirty: true, visible: false, plot: null };
  root.className = "panel";
  root.innerHTML = '<h3><span></span><small></small><button type="button" title="Larger or smaller" aria-label="larger or smaller">⤢</button></h3><div class="plot"></div><div class="empty" hidden></div>';
  root.dataset.metric = metric.key;
  root.querySelector("span").textContent = metric.title;
  root.querySelector("button").onclick = () => { root.classList.toggle("big"); rebuild(panel); };
  parent.append(root);
  panels.push(panel);
  new IntersectionObserver(seen => { panel.visible = seen[seen.length - 1].isIntersecting; show(panel); }, { rootMargin: "200px" }).observe(root);
  new ResizeObserver(() => panel.plot && panel.plot.setSize(sizeOf(panel))).observe(root.querySelector(".plot"));
}
function sizeOf(panel) {
  const box = panel.root.querySelector(".plot");
  return { width: Math.max(box.clientWidth, 120), height: box.clientHeight };
}
function rebuild(panel) {
  if (panel.plot) panel.plot.destroy();
  panel.plot = null;
  panel.dirty = true;
  show(panel);
}

// Every change of a control comes here; panels out of sight wait until they are scrolled to. fresh: other scales.
function update(fresh) {
  near = null;
  fullRange = rangeOfX();
  for (const panel of panels) fresh ? rebuild(panel) : (panel.dirty = true, show(panel));
}
function rangeOfX() {
  let low = Infinity, high = -Infinity;
  for (const index of shownRuns()) for (const track of data.curves[index].tracks)
    for (const x of track[state.x === "step" ? "total" : state.x]) if (x !== null && !(state.logx && x <= 0)) { if (x < low) low = x; if (x > high) high = x; }
  if (low > high) return state.logx ? [1, 10] : [0, 1];
  return state.logx ? [low, high > low ? high : low * 10] : [0, high || 1];
}
function show(panel) {
  if (!panel.visible || !panel.dirty) return;
  panel.dirty = false;
  const found = linesOf(panel.metric), note = panel.root.querySelector(".empty");
  panel.lines = found.lines;
  panel.root.querySelector("small").textContent = found.absent && found.lines.length ? `${found.absent} of ${shownRuns().length} runs did not record it` : "";
  note.hidden = found.lines.length > 0;
  note.textContent = shownRuns().length ? "none of the runs shown recorded this" : "no run is shown";
  if (!panel.plot) panel.plot = makePlot(panel);
  panel.plot.setData(FRAME, true);
}
function xRange() { return state.zoom || fullRange; }

// The range of y over what the x range shows.
function yRange(panel) {
  const [left, right] = xRange();
  let low = Infinity, high = -Infinity;
  for (const line of panel.lines) for (let i = 0; i < line.x.length; i++) if (line.x[i] >= left && line.x[i] <= right) {
    const bottom = line.low ? line.low[i] : line.y[i], top = line.high ? line.high[i] : line.y[i];
    if (bottom < low && !(state.logy && bottom <= 0)) low = bottom;
    if (top > high) high = top;
  }
  if (low > high) return state.logy ? [1, 10] : [0, 1];
  if (state.logy) return low === high ? [low / 2, high * 2] : [low / (high / low) ** 0.05, high * (high / low) ** 0.05];
  if (low === high) return low === 0 ? [0, 1] : [low - Math.abs(low) * 0.1, high + Math.abs(high) * 0.1];
  const room = (high - low) * 0.06;
  return [low >= 0 && low < room * 2 ? 0 : low - room, high + room];
}

// Marks of a logarithmic axis: 1, 2 and 5 times powers of ten, fewer or more of them as the range is wide or narrow.
function logSplits(low, high) {
  const digits = high / low > 1e3 ? [1] : high / low > 8 ? [1, 2, 5] : high / low > 2 ? [1, 1.5, 2, 3, 4, 5, 6, 8] : null, found = [];
  if (digits === null) return evenSplits(low, high, (high - low) / 5);
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const digit of digits) if (digit * 10 ** power >= low && digit * 10 ** power <= high) found.push(+(digit * 10 ** power).toPrecision(3));
  const every = Math.ceil(found.length / 8);
  return found.filter((_, i) => i % every === 0);
}
function evenSplits(low, high, step) {
  const power = 10 ** Math.floor(Math.log10(step)), round = [1, 2, 5, 10].map(k => k * power).find(k => k >= step * 0.999);
  return Array.from({ length: Math.max(0, Math.floor(high / round) - Math.ceil(low / round) + 1) }, (_, i) => (Math.ceil(low / round) + i) * round);
}

function makePlot(panel) {
  const box = panel.root.querySelector(".plot"), ink = () => css("--soft"), grid = { stroke: () => css("--grid"), width: 1 };
  const [, size, unit] = state.x === "seconds" ? UNITS.find(row => xRange()[1] >= row[0]) : [0, 1, ""];
  const font = "11px system-ui, sans-serif";
  const onLog = { splits: (u, axis, low, high) => logSplits(low, high), filter: (u, marks) => marks };
  const onTime = { splits: (u, axis, low, high, step) => evenSplits(low / size, high / size, step / size).map(mark => mark * size) };
  const xAxis = { stroke: ink, grid, ticks: { show: false }, font, size: 22, gap: 2, space: 60, label: AXES[state.x] + (unit && ` (${unit})`), labelSize: 15, labelFont: font, labelGap: -2,
    values: (u, marks) => marks.map(mark => mark === null ? "" : formatSi(mark / size)), ...(state.logx ? onLog : size > 1 ? onTime : {}) };
  const yAxis = { stroke: ink, grid, ticks: { show: false }, font, size: 52, gap: 4, space: 34, values: (u, marks) => marks.map(mark => mark === null ? "" : formatSi(mark) + (panel.metric.percent ? "%" : "")), ...(state.logy ? onLog : {}) };
  const plot = new uPlot({
    ...sizeOf(panel), legend: { show: false }, padding: [8, 8, 0, 0],
    scales: { x: { time: false, distr: state.logx ? 3 : 1, range: xRange }, y: { distr: state.logy ? 3 : 1, range: () => yRange(panel) } },
    series: [{}, { paths: () => null, points: { show: false } }], axes: [xAxis, yAxis],
    cursor: { sync: { key: "all", scales: ["x", null], setSeries: false }, points: { show: false }, drag: { x: true, y: false, setScale: false }, y: false,
      bind: { dblclick: () => () => { zoomTo(null); } } },
    hooks: { draw: [u => drawLines(panel, u)], setCursor: [u => point(panel, u)], setSelect: [u => select(panel, u)] },
  }, FRAME, box);
  panel.over = document.createElement("canvas");
  panel.over.className = "near";
  plot.over.append(panel.over);
  plot.over.addEventListener("wheel", event => wheel(panel, plot, event), { passive: false });
  plot.over.addEventListener("mousedown", () => { dragged = panel; });
  plot.over.addEventListener("mouseenter", () => { panel.pointed = true; });
  plot.over.addEventListener("mouseleave", () => { panel.pointed = false; near = null; byId("tip").hidden = true; markNear(); });
  return plot;
}

function trace(ctx, line, values, place, back) {
  const n = line.x.length;
  for (let k = 0; k < n; k++) {
    const i = back ? n - 1 - k : k, [x, y] = place(line.x[i], values[i]);
    k || back ? ctx.lineTo(x, y) : ctx.moveTo(x, y);
  }
}
function placer(u, ratio) { // of a point, in pixels from the plot's corner; computed here, for many points are asked
  const { x, y } = u.scales, w = u.over.clientWidth * ratio, h = u.over.clientHeight * ratio;
  const fx = state.logx ? Math.log : v => v, fy = state.logy ? v => Math.log(Math.max(v, 1e-300)) : v => v;
  const x0 = fx(x.min), xs = w / (fx(x.max) - x0), y0 = fy(y.min), ys = h / (fy(y.max) - y0);
  return (vx, vy) => [(fx(vx) - x0) * xs, h - (fy(vy) - y0) * ys];
}
function drawLines(panel, u) {
  const { ctx, bbox } = u, ratio = devicePixelRatio, place = placer(u, ratio), many = panel.lines.length > 30;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.translate(bbox.left, bbox.top);
  ctx.lineJoin = "round";
  for (const line of panel.lines) {
    ctx.strokeStyle = ctx.fillStyle = line.colour;
    if (line.low) {
      ctx.globalAlpha = 0.2;
      ctx.beginPath();
      trace(ctx, line, line.high, place, false);
      trace(ctx, line, line.low, place, true);
      ctx.fill();
    } else if (state.smooth && panel.metric.noisy && panel.lines.length <= 12) stroke(ctx, line, line.raw, place, ratio, 0.25);
    stroke(ctx, line, line.y, place, (many ? 1 : 1.6) * ratio, many ? 0.75 : 1);
  }
  if (panel.lines.length <= 12) drawStages(ctx, panel.lines, place, ratio, bbox.width, bbox.height);
  for (const line of panel.lines) if (line.x.length === 1) { // within the diamond of a run that went on from there
    ctx.fillStyle = line.colour;
    dot(ctx, ...place(line.x[0], line.y[0]), 3 * ratio);
  }
  ctx.restore();
  markNear(panel);
}
function stroke(ctx, line, values, place, width, alpha) {
  ctx.globalAlpha = alpha;
  ctx.lineWidth = width;
  ctx.beginPath();
  trace(ctx, line, values, place, false);
  ctx.stroke();
  ctx.globalAlpha = 1;
}
function dot(ctx, x, y, radius) {
  ctx.beginPath();
  ctx.arc(x, y, radius, 0, 7);
  ctx.fill();
}
// Where a line's next stage begins: a diamond on the line; above, the stage's name, in the run's colour where not all share it.
function drawStages(ctx, lines, place, ratio, width, height) {
  const starts = new Map(), r = 4 * ratio;
  for (const line of lines) for (let i = 0; i + 1 < line.x.length; i++) if (line.stage[i] !== line.stage[i + 1]) {
    const [x, y] = place(line.x[i], line.y[i]), name = line.stages[line.stage[i + 1]].split("/").pop(), key = `${Math.round(x / ratio / 3)} ${name}`;
    if (x < 0 || x > width) continue;
    starts.set(key, { x, name, colour: starts.has(key) ? css("--soft") : line.colour });
    ctx.beginPath();
    for (const [dx, dy] of [[0, -r], [r, 0], [0, r], [-r, 0]]) ctx.lineTo(x + dx, y + dy);
    ctx.closePath();
    ctx.fillStyle = css("--card");
    ctx.fill();
    ctx.strokeStyle = line.colour;
    ctx.lineWidth = 1.5 * ratio;
    ctx.stroke();
  }
  const taken = [];
  ctx.font = `${11 * ratio}px system-ui, sans-serif`;
  ctx.textAlign = "left";
  ctx.textBaseline = "alphabetic";
  for (const { x, name, colour } of starts.values()) {
    const long = ctx.measureText(name).width, left = x + 4 * ratio + long > width ? x - long - 4 * ratio : x + 4 * ratio;
    let top = 10 * ratio;
    while (taken.some(([l, t, w]) => t === top && left < l + w + 4 * ratio && l < left + long + 4 * ratio)) top += 13 * ratio;
    ctx.strokeStyle = ctx.fillStyle = colour;
    ctx.lineWidth = ratio;
    ctx.setLineDash([2 * ratio, 3 * ratio]);
    ctx.beginPath();
    ctx.moveTo(x, 0);
    ctx.lineTo(x, height);
    ctx.stroke();
    ctx.setLineDash([]);
    if (top > height / 2) continue; // too many for names
    taken.push([left, top, long]);
    ctx.fillText(name, left, top);
  }
}

// The line nearest to the cursor, thicker and with a dot at the cursor, in each panel: on a canvas of its own.
function markNear(only) {
  for (const panel of only ? [only] : panels) {
    if (!panel.plot || !panel.over) continue;
    const u = panel.plot, ratio = devicePixelRatio, canvas = panel.over, ctx = canvas.getContext("2d");
    canvas.width = u.over.clientWidth * ratio;
    canvas.height = u.over.clientHeight * ratio;
    const line = near && panel.lines.find(line => line.id === near);
    if (!line) continue;
    const place = placer(u, ratio);
    ctx.lineJoin = "round";
    ctx.strokeStyle = css("--card");
    stroke(ctx, line, line.y, place, 5 * ratio, 0.8);
    ctx.strokeStyle = ctx.fillStyle = line.colour;
    stroke(ctx, line, line.y, place, 2.6 * ratio, 1);
    if (u.cursor.left >= 0) { const i = nearest(line, u.posToVal(u.cursor.left, "x")); dot(ctx, ...place(line.x[i], line.y[i]), 4 * ratio); }
  }
  document.querySelectorAll("#runs li").forEach(item => item.classList.toggle("near", near !== null && item.dataset.ids.split(" ").includes(near)));
}

// The cursor moved over `panel`: find the nearest line and list the values there. Other panels follow through uPlot.
function point(panel, u) {
  if (!panel.pointed) return; // it follows another panel's cursor
  const tip = byId("tip"), { left, top } = u.cursor, place = placer(u, 1), [low, high] = xRange();
  if (left === undefined || left < 0 || !panel.lines.length) { tip.hidden = true; return; }
  const x = u.posToVal(left, "x"), found = [];
  for (const line of panel.lines) {
    if (line.x[line.x.length - 1] < low || line.x[0] > high) continue;
    const i = nearest(line, x), [px, py] = place(line.x[i], line.y[i]);
    found.push({ line, i, away: Math.hypot((px - left) * 0.5, py - top) });
  }
  found.sort((one, other) => one.away - other.away);
  const best = found[0] && found[0].away < 60 ? found[0] : null, rows = found.slice(0, 10).sort((one, other) => other.line.y[other.i] - one.line.y[one.i]);
  near = best ? best.line.id : null;
  markNear();
  tip.replaceChildren(head(best, x), ...rows.map(({ line, i }) => row(panel.metric, line, i, best && best.line === line)));
  if (found.length > rows.length) tip.append(Object.assign(document.createElement("p"), { textContent: `and ${found.length - rows.length} more` }));
  tip.hidden = !rows.length;
  const box = u.over.getBoundingClientRect(), at = box.left + left, flip = at > innerWidth / 2;
  tip.style.left = `${Math.max(8, Math.min(flip ? at - tip.offsetWidth - 16 : at + 16, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(8, Math.min(box.top + top + 14, innerHeight - tip.offsetHeight - 8))}px`;
}
function head(best, x) {
  const text = document.createElement("p");
  text.textContent = best ? `${best.line.stages[best.line.stage[best.i]]}, step ${best.line.step[best.i].toLocaleString("en")} · ${formatX(best.line.x[best.i])}` : formatX(x);
  return text;
}
function row(metric, line, i, bold) {
  const node = document.createElement("div"), mark = document.createElement("i"), name = document.createElement("span"), value = document.createElement("b");
  mark.style.background = line.colour;
  name.textContent = line.label.length > 48 ? `${line.label.slice(0, 18)}…${line.label.slice(-28)}` : line.label; // names differ at the end
  value.textContent = formatY(line.y[i], metric) + (line.spread ? ` ± ${formatSi(line.spread[i], 2)}` : "");
  node.className = bold ? "near" : "";
  node.append(mark, name, value);
  return node;
}

function zoomTo(range) {
  state.zoom = range;
  save();
  for (const panel of panels) if (panel.plot) panel.plot.setData(panel.plot.data, true);
}
// uPlot shows the selection in all panels; the one in which it was drawn zooms.
function select(panel, u) {
  if (dragged === panel && u.select.width > 5) zoomTo([u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")]);
  u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
}
// The wheel scrolls the page; with Ctrl (a pinch on a touchpad), or in an enlarged panel, it zooms around the cursor.
function wheel(panel, u, event) {
  if (!event.ctrlKey && !event.metaKey && !panel.root.classList.contains("big")) return;
  event.preventDefault();
  const turn = state.logx ? Math.log : v => v, back = state.logx ? Math.exp : v => v, factor = Math.exp(Math.max(-1, Math.min(1, event.deltaY / 200)));
  const at = turn(u.posToVal(event.clientX - u.over.getBoundingClientRect().left, "x")), [low, high] = xRange().map(turn), [first, last] = fullRange.map(turn);
  const range = [Math.max(first, at - (at - low) * factor), Math.min(last, at + (high - at) * factor)];
  if (range[1] - range[0] < (last - first) * 1e-5) return;
  zoomTo(range[0] <= first && range[1] >= last ? null : range.map(back));
}
