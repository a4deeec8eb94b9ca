// The page: sends a melody and options to this server, shows, plays and offers what comes back.
"use strict";

const $ = (id) => document.getElementById(id);
const form = $("form"), message = $("message"), result = $("result"), audio = $("audio"), roll = $("roll");
const MUSICXML = "application/vnd.recordare.musicxml+xml";
const VOICES = ["soprano", "alto", "tenor", "bass"];

let file = null;       // The melody that was dropped or chosen.
let working = null;    // The AbortController of the request at work.
let urls = [];         // Object URLs of what is shown.
let shown = null;      // The piece that is shown.

// ---- Asking the server

async function ask(path, init) {
  let response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached. Is it still running?");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const told = body && body.error;
  throw new Error(told ? sentence(told.message) + " " + sentence(told.hint) : "The server answered " + response.status + ".");
}

function sentence(text) {
  if (!text) return "";
  // A file's name stays as it is.
  const whole = /^[a-z]+ /.test(text) ? text[0].toUpperCase() + text.slice(1) : text;
  return /[.?!]$/.test(whole) ? whole : whole + ".";
}

function options(composing) {
  const body = new FormData();
  const search = form.elements.search.value;
  const add = (name) => {
    const value = form.elements[name].value.trim();
    if (value) body.append(name, value);
  };
  if (composing || search === "sample") ["temperature", "seed", "variations"].forEach(add);
  if (composing) return body;
  body.append("search", search);
  if (search === "beam") add("beam_width");
  ["key", "part", "given", "phrases"].forEach(add);
  if (file) body.append("melody", file, file.name);
  else body.append("melody", form.elements.built_in ? form.elements.built_in.value : "");
  return body;
}

async function make(composing) {
  if (working) working.abort();
  const mine = new AbortController();
  working = mine;
  say("");
  busy(composing ? "compose" : "harmonize");
  try {
    const path = composing ? "v1/compose" : "v1/harmonize";
    const answer = await ask(path, {
      method: "POST", body: options(composing), headers: { Accept: "application/json" }, signal: mine.signal,
    });
    const made = await answer.json();
    show(made);
  } catch (error) {
    if (error.name !== "AbortError") say(error.message);
  } finally {
    if (working === mine) {
      working = null;
      busy(null);
    }
  }
}

function say(text) {
  message.textContent = text;
  message.hidden = !text;
}

function busy(which) {
  const names = { harmonize: ["Harmonise", "Harmonising…"], compose: ["Compose something new", "Composing…"] };
  for (const [id, [idle, active]] of Object.entries(names)) {
    $(id).textContent = which === id ? active : idle;
    $(id).setAttribute("aria-disabled", String(which !== null));
  }
  form.setAttribute("aria-busy", String(which !== null));
}

// ---- The result

function show(made) {
  const pieces = made.variations || [made];
  const best = pieces.findIndex((piece) => piece.seed === made.seed);
  const tabs = $("tabs");
  tabs.hidden = pieces.length < 2;
  tabs.replaceChildren(...pieces.map((piece, at) => {
    const input = el("input", { type: "radio", name: "variation", value: at, checked: at === best });
    input.addEventListener("change", () => showPiece(piece));
    const text = `${at + 1} · ${piece.nats_per_token.toFixed(3)}${at === best ? " · likeliest" : ""}`;
    return el("label", {}, input, el("span", { textContent: text }));
  }));
  result.hidden = false;
  showPiece(made);
  result.focus({ preventScroll: true });
  result.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function showPiece(piece) {
  shown = piece;
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [];
  $("result-title").textContent = piece.title || "Without a name";
  audio.removeAttribute("src");
  audio.load();
  draw(piece);
  const facts = [["", piece.nats_per_token.toFixed(3), " nats per token"], ["log-likelihood ", piece.log_likelihood.toFixed(1), ""],
    ["", String(piece.frames), " sixteenths"]];
  if (piece.seed !== null) facts.push(["seed ", String(piece.seed), ""]);
  $("facts").replaceChildren(...facts.flatMap(([before, value, after], at) =>
    [at ? " · " : "", before, el("b", { textContent: value }), after]));
  $("remarks").replaceChildren(...(piece.remarks || []).map((text) => el("li", { textContent: sentence(text) })));
  renderings(piece);
}

// The piece in its other forms: to hear, and to take away.
async function renderings(piece) {
  const stem = (piece.title || "piece").toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 40) || "piece";
  const downloads = $("downloads");
  downloads.replaceChildren();
  const forms = [
    ["MusicXML", "musicxml", async () => new Blob([piece.musicxml], { type: MUSICXML })],
    ["MIDI", "mid", () => rendered(piece, "audio/midi")],
    ["WAV", "wav", () => rendered(piece, "audio/wav")],
    ["SVG", "svg", () => rendered(piece, "image/svg+xml")],
  ];
  for (const [name, ending, render] of forms) {
    try {
      const blob = await render();
      if (shown !== piece) return;
      const url = URL.createObjectURL(blob);
      urls.push(url);
      downloads.append(el("a", { href: url, download: `${stem}-satb.${ending}`, textContent: name }));
      if (ending === "wav") audio.src = url;
    } catch (error) {
      if (shown === piece) say(`${name}: ${error.message}`);
    }
  }
}

async function rendered(piece, type) {
  const headers = { "Content-Type": MUSICXML, Accept: type };
  const answer = await ask("v1/render", { method: "POST", body: piece.musicxml, headers });
  return new Blob([await answer.blob()], { type });
}

// ---- The piano roll

const PX = 30, ROW = 7, TOP = 16;   // Pixels a quarter, a semitone, and above the highest row.

function draw(piece) {
  const notes = piece.parts.flatMap((part, voice) => part.notes.map(([at, length, midi]) => ({ at, length, midi, voice })));
  const end = Math.max(1, ...notes.map((note) => note.at + note.length));
  const low = Math.min(48, ...notes.map((note) => note.midi)) - 2, high = Math.max(72, ...notes.map((note) => note.midi)) + 2;
  const width = Math.ceil(end * PX) + 8, height = (high - low + 1) * ROW + TOP;
  const y = (midi) => TOP + (high - midi) * ROW;
  const names = piece.parts.map((part) => part.name).join(", ");
  const svg = draws("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": `Piano roll: ${names}; ${notes.length} notes` });
  for (let midi = Math.ceil(low / 12) * 12; midi <= high; midi += 12) {
    svg.append(draws("line", { class: "c", x1: 0, x2: width, y1: y(midi) + ROW, y2: y(midi) + ROW }));
  }
  piece.bars.forEach(([at, name]) => {
    svg.append(draws("line", { class: "bar", x1: at * PX + .5, x2: at * PX + .5, y1: 0, y2: height }));
    const number = draws("text", { x: at * PX + 4, y: 11 });
    number.textContent = name;
    svg.append(number);
  });
  for (const { at, length, midi, voice } of notes) {
    svg.append(draws("rect", { class: `v${voice % 4}`, x: at * PX + 1, y: y(midi) + .5, rx: 2.5,
      width: Math.max(2, length * PX - 2), height: ROW - 1 }));
  }
  const head = draws("line", { class: "head", x1: 0, x2: 0, y1: 0, y2: height });
  svg.append(head);
  roll.replaceChildren(svg);
  roll.scrollLeft = 0;
  $("legend").replaceChildren(...piece.parts.map((part, voice) => {
    const mark = draws("svg", { viewBox: "0 0 16 10", "aria-hidden": "true" });
    mark.append(draws("rect", { class: `v${voice % 4}`, width: 16, height: 10, rx: 4 }));
    return el("li", {}, mark, part.name);
  }));
  follow(head, piece, end);
}

let frame = 0;

// Moves the line with the sound.
function follow(head, piece, end) {
  cancelAnimationFrame(frame);
  const clock = piece.clock;
  const quarters = () => {
    const after = clock.findIndex((seconds) => seconds > audio.currentTime);
    if (after < 1) return after ? end : 0;
    return Math.min(end, after - 1 + (audio.currentTime - clock[after - 1]) / (clock[after] - clock[after - 1]));
  };
  const move = () => {
    const x = quarters() * PX;
    head.setAttribute("x1", x);
    head.setAttribute("x2", x);
    if (!audio.paused && (x < roll.scrollLeft || x > roll.scrollLeft + roll.clientWidth * .8)) {
      roll.scrollLeft = x - roll.clientWidth * .2;
    }
    if (!audio.paused && shown === piece) frame = requestAnimationFrame(move);
  };
  audio.onplay = audio.onseeked = audio.onpause = move;
  roll.onclick = (event) => {
    if (!audio.src) return;
    const x = event.clientX - roll.getBoundingClientRect().left + roll.scrollLeft;
    audio.currentTime = clock[Math.min(Math.floor(x / PX), clock.length - 1)];
  };
  roll.onkeydown = (event) => {
    if (event.key !== " " || !audio.src) return;
    event.preventDefault();
    if (audio.paused) audio.play(); else audio.pause();
  };
  move();
}

function draws(name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function el(name, properties, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// ---- Choosing

function choose(chosen) {
  file = chosen;
  $("drop").classList.toggle("chosen", Boolean(file));
  $("drop-title").textContent = file ? file.name : "Drop a melody here, or choose a file";
  $("drop-hint").textContent = file ? `${Math.max(1, Math.round(file.size / 1024))} KiB` : "MusicXML, .mxl or MIDI";
  if (file) form.querySelectorAll("[name=built_in]").forEach((input) => { input.checked = false; });
  say("");
}

function fit() {
  const search = form.elements.search.value;
  form.querySelectorAll("[data-for]").forEach((field) => { field.hidden = field.dataset.for !== search; });
  $("temperature-out").textContent = Number($("temperature").value).toFixed(2);
}

async function begin() {
  const names = (await (await ask("v1/melodies")).json()).melodies;
  $("melodies").append(...names.map((name, at) => {
    const input = el("input", { type: "radio", name: "built_in", value: name, checked: at === 0 });
    input.addEventListener("change", () => { $("file").value = ""; choose(null); });
    return el("label", {}, input, el("span", { textContent: name.replace(/_/g, " ").replace(/^./, (c) => c.toUpperCase()) }));
  }));
}

async function about() {
  const model = await (await ask("v1/model")).json();
  const loss = model.val_loss === null ? "" : ` · validation loss ${Number(model.val_loss).toFixed(4)} nats per token`;
  $("model").textContent = `Model ${model.name}${model.version ? ":" + model.version : ""}${loss} · ${model.digest.slice(0, 19)}`;
}

$("file").addEventListener("change", (event) => choose(event.target.files[0] || null));
for (const type of ["dragenter", "dragover"]) {
  addEventListener(type, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files.length) choose(event.dataTransfer.files[0]);
});
form.addEventListener("input", fit);
form.addEventListener("submit", (event) => { event.preventDefault(); make(false); });
$("compose").addEventListener("click", () => make(true));
fit();
begin().catch((error) => say(error.message));
about().catch((error) => { $("model").textContent = error.message; });
