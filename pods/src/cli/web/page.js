"use strict";
// Everything from an object goes in by textContent.
const $ = (id) => document.getElementById(id);
const PERIOD = 3000;
const LOG_MOST = 200000;
const curves = new Map();
let shown = null;
let following = null;

async function items(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(path + ": " + (await answer.text()));
  return (await answer.json()).items || [];
}

function cell(content) {
  const td = document.createElement("td");
  if (content instanceof Node) td.append(content);
  else td.textContent = content === undefined || content === null ? "" : String(content);
  return td;
}

function fill(table, heads, rows) {
  const head = document.createElement("tr");
  for (const name of heads) {
    const th = document.createElement("th");
    th.textContent = name;
    head.append(th);
  }
  const all = rows.map(({ cells, bad }) => {
    const tr = document.createElement("tr");
    if (bad) tr.className = "bad";
    tr.append(...cells.map(cell));
    return tr;
  });
  table.replaceChildren(head, ...all);
}

function button(text, act) {
  const b = document.createElement("button");
  b.textContent = text;
  b.addEventListener("click", act);
  return b;
}

const where = (o) => o.metadata.namespace + "/" + o.metadata.name;

function age(time) {
  const s = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  if (!isFinite(s)) return "";
  if (s < 120) return Math.floor(s) + "s";
  if (s < 7200) return Math.floor(s / 60) + "m";
  if (s < 172800) return Math.floor(s / 3600) + "h";
  return Math.floor(s / 86400) + "d";
}

function workload(kind, o) {
  const s = o.status || {}, spec = o.spec || {};
  let is, want;
  if (kind === "DaemonSet") [is, want] = [s.numberReady || 0, s.desiredNumberScheduled || 0];
  else if (kind === "Job") [is, want] = [s.succeeded || 0, spec.completions || 1];
  else if (kind === "CronJob") return { cells: [kind, where(o), spec.schedule, age(o.metadata.creationTimestamp)] };
  else [is, want] = [s.readyReplicas || 0, spec.replicas === undefined ? 1 : spec.replicas];
  return { cells: [kind, where(o), is + "/" + want, age(o.metadata.creationTimestamp)], bad: kind !== "Job" && is < want };
}

function phase(pod) {
  const all = (pod.status && pod.status.containerStatuses) || [];
  for (const c of all) {
    const waiting = c.state && c.state.waiting;
    if (waiting && waiting.reason) return waiting.reason;
  }
  return (pod.status && (pod.status.reason || pod.status.phase)) || "";
}

function podRow(pod) {
  const all = (pod.status && pod.status.containerStatuses) || [];
  const ready = all.filter((c) => c.ready).length;
  const restarts = all.reduce((n, c) => n + (c.restartCount || 0), 0);
  const state = phase(pod);
  const bad = !["Running", "Succeeded", "Pending", "ContainerCreating", "PodInitializing"].includes(state);
  const open = button(where(pod), () => show(pod));
  return { cells: [open, ready + "/" + all.length, state, restarts, pod.status && pod.status.podIP, age(pod.metadata.creationTimestamp)], bad };
}

function amount(text, units) {
  const m = /^([0-9.]+)([a-zA-Z]*)$/.exec(text || "");
  return m ? parseFloat(m[1]) * (units[m[2]] || 1) : 0;
}
const CPU = { n: 1e-6, u: 1e-3, m: 1, "": 1000 };
const MEMORY = { Ki: 1024, Mi: 1 << 20, Gi: 1 << 30 };

function measure(list) {
  for (const m of list) {
    const curve = curves.get(where(m)) || [];
    const sum = (f) => (m.containers || []).reduce((n, c) => n + f(c.usage || {}), 0);
    curve.push({ cpu: sum((u) => amount(u.cpu, CPU)), memory: sum((u) => amount(u.memory, MEMORY)) });
    if (curve.length > 100) curve.shift();
    curves.set(where(m), curve);
  }
  draw();
}

function draw() {
  const curve = (shown && curves.get(where(shown))) || [];
  const last = curve[curve.length - 1];
  $("usage").textContent = last ? last.cpu.toFixed(1) + "m CPU, " + (last.memory / (1 << 20)).toFixed(1) + " Mi" : "not measured yet";
  const top = Math.max(1, ...curve.map((p) => p.cpu));
  const points = curve.map((p, i) => (i * 3).toFixed(0) + "," + (58 - (p.cpu / top) * 56).toFixed(1));
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", points.join(" "));
  $("curve").replaceChildren(line);
}

function close() {
  if (following) following.abort();
  following = null;
  shown = null;
  $("detail").hidden = true;
}

async function show(pod) {
  close();
  shown = pod;
  $("detail").hidden = false;
  $("detail-name").textContent = where(pod);
  $("log").textContent = "";
  draw();
  const abort = (following = new AbortController());
  const name = pod.spec.containers[0].name;
  const path = "/api/v1/namespaces/" + encodeURIComponent(pod.metadata.namespace) + "/pods/" + encodeURIComponent(pod.metadata.name) +
    "/log?follow=true&tailLines=200&container=" + encodeURIComponent(name);
  try {
    const answer = await fetch(path, { signal: abort.signal });
    if (!answer.ok) throw new Error(await answer.text());
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const log = $("log");
      log.textContent = (log.textContent + value).slice(-LOG_MOST);
      log.scrollTop = log.scrollHeight;
    }
  } catch (error) {
    if (!abort.signal.aborted) $("log").textContent += "\n[" + error.message + "]";
  }
}

function capsuleText(c) {
  const lines = [c.metadata.name, "exit code " + c.exitCode + (c.signal ? ", signal " + c.signal : "") + (c.oomKilled ? ", out of memory" : ""), c.message || ""];
  for (const f of c.files || []) lines.push(f.change[0] + " " + f.path + (f.size === undefined ? "" : "  " + f.size + " B"));
  return lines.concat(c.log || []).join("\n");
}

function capsuleRow(c) {
  const open = button(c.metadata.namespace + "/" + c.pod.name, () => {
    $("capsule").hidden = false;
    $("capsule").textContent = capsuleText(c);
  });
  return { cells: [open, c.container, c.restarts, c.exitCode, c.reason, age(c.finishedAt)] };
}

function eventRow(e) {
  const o = e.involvedObject || {};
  return { cells: [age(e.lastTimestamp), e.type, e.reason, (o.kind || "") + "/" + (o.name || ""), e.message, e.count], bad: e.type === "Warning" };
}

async function refresh() {
  const kinds = [["Deployment", "apps/v1/deployments"], ["StatefulSet", "apps/v1/statefulsets"], ["DaemonSet", "apps/v1/daemonsets"],
    ["Job", "batch/v1/jobs"], ["CronJob", "batch/v1/cronjobs"]];
  const work = await Promise.all(kinds.map(async ([kind, path]) => (await items("/apis/" + path)).map((o) => workload(kind, o))));
  fill($("workloads"), ["Kind", "Name", "Ready", "Age"], work.flat());
  const pods = await items("/api/v1/pods");
  fill($("pods"), ["Name", "Ready", "Status", "Restarts", "IP", "Age"], pods.map(podRow));
  fill($("capsules"), ["Pod", "Container", "Restarts", "Exit", "Reason", "Age"], (await items("/apis/rrun.io/v1/capsules")).slice(0, 50).map(capsuleRow));
  const events = await items("/api/v1/events");
  events.sort((a, b) => String(b.lastTimestamp).localeCompare(String(a.lastTimestamp)));
  fill($("events"), ["Age", "Type", "Reason", "Object", "Message", "Count"], events.slice(0, 100).map(eventRow));
  if (shown) measure(await items("/apis/metrics.k8s.io/v1beta1/pods"));
}

async function forever() {
  for (;;) {
    try {
      if (!document.hidden) await refresh();
      $("state").textContent = "as of " + new Date().toLocaleTimeString();
    } catch (error) {
      $("state").textContent = error.message;
    }
    await new Promise((done) => setTimeout(done, PERIOD));
  }
}

$("close").addEventListener("click", close);
forever();
