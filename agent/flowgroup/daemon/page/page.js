"use strict";

const EVERY_MS = 3000;
const STAGES = ["waited", "placed", "started", "ran"];
const SVG = "http://www.w3.org/2000/svg";

function made(name, text, attributes = {}) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

function span(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function linked(told, path, text) {
  if (!told.ui) return made("span", text);
  return made("a", text, { href: `${told.ui}/${path}`, rel: "noreferrer", target: "_blank" });
}

function row(headings, cells) {
  const line = made("tr");
  cells.forEach((cell, at) => {
    const made_ = made("td", undefined, { "data-of": headings[at] });
    made_.append(cell);
    line.append(made_);
  });
  return line;
}

function filled(id, headings, rows, empty) {
  const body = document.querySelector(`#${id} tbody`);
  body.replaceChildren(...(rows.length ? rows.map((cells) => row(headings, cells)) : [row([""], [made("span", empty, { class: "faint" })])]));
}

function workers(cluster) {
  return cluster.groups.map((one) => `${one.group} ${one.there ?? "?"}/${one.wanted}`).join(", ") || "none";
}

function seen(told, cluster, text) {
  const path = told.dashboards[cluster.name];
  if (!path) return made("span", text);
  const whole = made("span", `${text}, `);
  whole.append(made("a", "dashboard", { href: path, rel: "noreferrer", target: "_blank" }));
  return whole;
}

function clusters(told) {
  const running = (name) => told.runs.filter((run) => run.cluster === name).length;
  const rows = told.clusters.map((one) => {
    const state = one.trouble ? made("span", one.trouble, { class: "bad" }) : made("span", one.why);
    return [
      linked(told, `flows/flow/${one.flow_id}`, one.flow),
      made("span", `${one.name} (${one.ready ? "ready" : "not ready"})`),
      seen(told, one, workers(one)),
      made("span", String(running(one.name))),
      state,
    ];
  });
  filled("clusters", ["flow", "cluster", "workers", "runs", "why"], rows, "No cluster is there.");
}

function runs(told) {
  const names = new Map(told.timings.map((one) => [one.id, one.name]));
  const rows = told.runs.map((one) => [
    linked(told, `runs/flow-run/${one.id}`, names.get(one.id) ?? one.id),
    made("span", one.cluster ?? "none yet"),
    made("span", one.phase),
  ]);
  filled("runs", ["run", "cluster", "phase"], rows, "No run is under way.");
}

function bar(stages, longest) {
  const chart = document.createElementNS(SVG, "svg");
  chart.setAttribute("viewBox", "0 0 1000 10");
  chart.setAttribute("preserveAspectRatio", "none");
  chart.setAttribute("role", "img");
  let at = 0;
  const said = [];
  for (const stage of STAGES) {
    if (!(stage in stages)) continue;
    const part = document.createElementNS(SVG, "rect");
    const width = (1000 * stages[stage]) / longest;
    for (const [key, value] of Object.entries({ x: at, y: 0, width, height: 10, class: stage })) part.setAttribute(key, value);
    chart.append(part);
    at += width;
    said.push(`${stage} ${span(stages[stage])}`);
  }
  chart.setAttribute("aria-label", said.join(", "));
  const title = document.createElementNS(SVG, "title");
  title.textContent = said.join(", ");
  chart.prepend(title);
  return chart;
}

function times(told) {
  const shown = told.timings.slice(0, 40);
  const whole = (one) => Object.values(one.stages).reduce((sum, seconds) => sum + seconds, 0);
  const longest = Math.max(0.001, ...shown.map(whole));
  const lines = shown.map((one) => {
    const line = made("div", undefined, { class: "run" });
    line.append(linked(told, `runs/flow-run/${one.id}`, one.name), bar(one.stages, longest), made("span", span(whole(one))));
    return line;
  });
  document.getElementById("times").replaceChildren(...(lines.length ? lines : [made("p", "No run since this daemon started.", { class: "faint" })]));
}

function facts(told) {
  document.getElementById("pool").textContent = told.pool;
  const line = document.getElementById("facts");
  line.className = told.stuck.length ? "bad" : "";
  const stuck = told.stuck.length ? `stuck: ${told.stuck.join(", ")}; ` : "";
  line.textContent = `${stuck}${told.worker}, ${told.backend}, ${told.slots.held} of ${told.slots.total} slots, flowgroup ${told.version}, ${new Date(told.at).toLocaleTimeString()}`;
}

async function look() {
  try {
    const answer = await fetch("/status.json", { cache: "no-store" });
    if (answer.status === 401) return location.reload();
    const told = await answer.json();
    [facts, clusters, runs, times].forEach((show) => show(told));
  } catch (error) {
    const line = document.getElementById("facts");
    line.className = "bad";
    line.textContent = "The daemon does not answer. This page looks again.";
  }
  setTimeout(look, EVERY_MS);
}

look();
