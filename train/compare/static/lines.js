"use strict";
// From the records to the lines of a panel: choice of the x axis, smoothing, mean and band over seeds.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = name => document.getElementById(name);
const AXES = { step: "step", tokens: "tokens", seconds: "time", flops: "FLOPs" };
const UNITS = [[172800, 86400, "days"], [7200, 3600, "hours"], [120, 60, "minutes"], [0, 1, "seconds"]];
const SI = [[1e24, "Y"], [1e21, "Z"], [1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
const state = { x: "tokens", smooth: 0, logx: false, logy: false, group: true, search: "", hidden: new Set(), zoom: null };

function formatSi(value, digits = 4) {
  const size = Math.abs(value);
  for (const [least, sign] of SI) if (size >= least * (1 - 0.5 * 10 ** -digits)) return +(value / least).toPrecision(digits) + sign;
  if (size > 0 && size < 9.99e-4) return String(+value.toPrecision(3)).includes("e") || size < 1e-4 ? value.toExponential(2).replace(/\.?0*e-/, "e\u2212") : String(+value.toPrecision(3));
  return String(+value.toPrecision(digits));
}
function formatTime(seconds) {
  const [, size, unit] = UNITS.find(row => seconds >= row[0]);
  return `${formatSi(seconds / size, 3)} ${unit}`;
}
function formatX(value) { return state.x === "seconds" ? formatTime(value) : `${AXES[state.x]} ${formatSi(value, 5)}`; }
function formatY(value, metric) { return metric.percent ? `${formatSi(value, 4)}%` : formatSi(value, 5); }

// The colour of a run, lighter on a dark page.
function shade(colour) {
  if (!matchMedia("(prefers-color-scheme: dark)").matches) return colour;
  return "#" + [1, 3, 5].map(at => Math.round(parseInt(colour.slice(at, at + 2), 16) * 0.68 + 255 * 0.32).toString(16).padStart(2, "0")).join("");
}

// Exponential moving average without the bias towards zero, as TensorBoard's; it begins again with every stage.
function smoothed(values, stages, weight) {
  if (!weight) return values;
  const found = new Array(values.length);
  let mean = 0, total = 0;
  for (let i = 0; i < values.length; i++) {
    if (i === 0 || stages[i] !== stages[i - 1]) mean = total = 0;
    mean = weight * mean + (1 - weight) * values[i];
    total = weight * total + (1 - weight);
    found[i] = mean / total;
  }
  return found;
}

// One run's line, or null where it did not record the metric or the axis.
function lineOf(index, metric) {
  const curve = data.curves[index], track = curve.tracks.find(track => track.values[metric.key]);
  const line = { id: `r${index}`, runs: [index], label: curve.label, colour: shade(curve.colour), stages: curve.stages, x: [], raw: [], stage: [], step: [] };
  if (!track) return null;
  const values = track.values[metric.key], at = track[state.x === "step" ? "total" : state.x];
  for (let i = 0; i < values.length; i++) {
    if (values[i] === null || at[i] === null || (state.logx && at[i] <= 0) || (state.logy && values[i] <= 0)) continue;
    line.x.push(at[i]);
    line.raw.push(values[i] * metric.scale);
    line.stage.push(track.stage[i]);
    line.step.push(track.step[i]);
  }
  if (!line.x.length) return null;
  line.y = smoothed(line.raw, line.stage, metric.noisy ? state.smooth : 0);
  return line;
}

// The mean over seeds at each recorded step of each stage, with one standard deviation to both sides.
function meanLine(group, members) {
  const at = new Map();
  for (const line of members) line.x.forEach((x, i) => {
    const key = line.stage[i] * 1e9 + line.step[i], sum = at.get(key) || at.set(key, { n: 0, x: 0, y: [], stage: line.stage[i], step: line.step[i] }).get(key);
    sum.n++, sum.x += x, sum.y.push(line.y[i]);
  });
  const sums = [...at.entries()].sort((one, other) => one[0] - other[0]).map(entry => entry[1]);
  const mean = sums.map(sum => sum.y.reduce((a, b) => a + b) / sum.n);
  const spread = sums.map((sum, i) => sum.n > 1 ? Math.sqrt(sum.y.reduce((a, y) => a + (y - mean[i]) ** 2, 0) / (sum.n - 1)) : 0);
  return { id: `g${group}`, runs: members.flatMap(line => line.runs), label: `${data.groups[group].label} (mean of ${members.length})`,
    colour: shade(data.groups[group].colour), stages: members[0].stages, x: sums.map(sum => sum.x / sum.n), y: mean, raw: mean,
    low: mean.map((y, i) => y - spread[i]), high: mean.map((y, i) => y + spread[i]), spread, stage: sums.map(sum => sum.stage), step: sums.map(sum => sum.step) };
}

function linesOf(metric) {
  const lines = [], grouped = new Map();
  let absent = 0;
  for (const index of shownRuns()) {
    const line = lineOf(index, metric), group = data.curves[index].group;
    if (!line) absent++;
    else if (state.group && group !== null) grouped.set(group, [...grouped.get(group) || [], line]);
    else lines.push(line);
  }
  for (const [group, members] of grouped) lines.push(members.length > 1 ? meanLine(group, members) : members[0]);
  return { lines, absent };
}

function matches(index) {
  const text = data.curves[index].search;
  return state.search.toLowerCase().split(/\s+/).filter(Boolean).every(word => text.includes(word));
}
function shownRuns() {
  return data.curves.map((_, index) => index).filter(index => !state.hidden.has(data.curves[index].label) && matches(index));
}

// The last index whose x is at most `x`, or the one after it where that is nearer.
function nearest(line, x) {
  let low = 0, high = line.x.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (line.x[middle] <= x) low = middle; else high = middle - 1;
  }
  return low + 1 < line.x.length && line.x[low + 1] - x < x - line.x[low] ? low + 1 : low;
}
