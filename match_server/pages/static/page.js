// The live page: keeps the rendered page up to date over server-sent events.
"use strict";

const SHOWN = 60; // sightings in the list
const PRESENT_S = 45; // a person counts as present for this time, where the camera does not report who is in view
const FRESH_S = 5; // a sighting newer than the last report of a camera counts as present for this time
const TOGETHER_MS = 12000; // sightings within this time are shown side by side
const MOST_TOGETHER = 4;
const MANY = 8; // more cameras than this are shown small, those with people first
const ASK_MS = 5000; // interval of requests for who is in view, and for sightings without a stream
const ASK_SOON_MS = 300; // after a sighting
const DOWN_MS = 3000; // a shorter interruption is a renewal of the stream
const STREAMS = 3; // of all pages of this browser, which opens at most six connections to a server
const ANSWERS_MS = 200; // for other pages to report their streams
const TRY_AGAIN_MS = 30000; // after the server refused a stream

const main = document.getElementById("main");
const clockSkewMs = Date.parse(main.dataset.now) - Date.now(); // trust the server's clock
const events = new Map(); // by id
let cameras = JSON.parse(document.getElementById("presence").textContent).items; // all that ever reported
const formOf = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);
const unnamed = JSON.parse(formOf("sighting-form").dataset.unnamed); // words for who has no name
const now = () => Date.now() + clockSkewMs;

function nameOf(event) {
  if (event.person) return event.person.name;
  return event.person_erased ? unnamed.erased : unnamed[event.decision] ?? unnamed.unknown;
}

function ago(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 5) return "just now";
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  return new Date(now() - ms).toLocaleString([], { hour: "2-digit", minute: "2-digit", day: "numeric", month: "short" });
}

function fill(card, event) {
  const set = (selector, text) => { card.querySelector(selector).textContent = text; };
  card.dataset.id = event.id;
  card.dataset.decision = event.decision;
  set(".name a", nameOf(event));
  card.querySelector(".name a").href = `/events/${encodeURIComponent(event.id)}`;
  set(".camera", event.camera);
  set(".similarity", event.similarity === null ? "–" : event.similarity.toFixed(2));
  set(".quality", event.quality.score.toFixed(2));
  card.querySelector(".similarity-bar").value = Math.max(0, event.similarity ?? 0);
  card.querySelector(".quality-bar").value = event.quality.score;
  card.querySelector(".late").hidden = event.live;
  const when = card.querySelector(".when");
  when.dateTime = event.last_captured_at;
  when.title = new Date(event.last_captured_at).toLocaleString();
  const image = card.querySelector("img");
  image.hidden = event.snapshot === null;
  if (event.snapshot !== null && image.getAttribute("src") !== event.snapshot) image.src = event.snapshot;
  if (event.snapshot === null) image.removeAttribute("src");
  return card;
}

// Puts a card for each event into a container, in order; reuses existing cards.
function arrange(container, shown) {
  const known = new Map([...container.children].map((card) => [card.dataset.id, card]));
  const cards = shown.map((event) => fill(known.get(event.id) ?? formOf("sighting-form"), event));
  for (const card of [...container.children]) if (!cards.includes(card)) card.remove();
  cards.forEach((card, place) => {
    if (container.children[place] !== card) container.insertBefore(card, container.children[place] ?? null);
  });
}

const lastSeen = (event) => Date.parse(event.last_captured_at);

function render() {
  const newestFirst = [...events.values()].sort((a, b) => lastSeen(b) - lastSeen(a));
  const inView = new Set(cameras.flatMap((one) => one.sightings));
  for (const old of newestFirst.slice(SHOWN)) if (!inView.has(old.id)) events.delete(old.id);
  const shown = newestFirst.slice(0, SHOWN);
  arrange(document.getElementById("recent"), shown);

  renderCameras(shown);
  tick();
}

const placeOf = (one) => JSON.stringify([one.device, one.camera]); // two boxes may have cameras of the same name

function renderCameras(shown) {
  const places = new Map(cameras.map((one) => [placeOf(one), { ...one, seen: [] }]));
  for (const event of shown) {
    const place = placeOf(event);
    if (!places.has(place)) places.set(place, { device: event.device, camera: event.camera, in_view: 0, sightings: [], seen: [] });
    places.get(place).seen.push(event);
  }
  const names = [...places.values()].map((one) => one.camera);
  const present = (one) => isPresent(one.in_view, one.online === true, one.seen.length ? lastSeen(one.seen[0]) : null);
  const many = places.size > MANY;
  const ordered = [...places].sort(([, a], [, b]) => (many && present(b) - present(a))
    || a.camera.localeCompare(b.camera, undefined, { numeric: true }) || a.device.localeCompare(b.device));
  const container = document.getElementById("cameras");
  container.dataset.many = many;
  const known = new Map([...container.children].map((card) => [card.dataset.place, card]));
  for (const [place, card] of known) if (!places.has(place)) card.remove();
  ordered.forEach(([place, one], position) => {
    const card = known.get(place) ?? formOf("camera-form");
    card.dataset.place = place;
    card.dataset.online = one.online ?? true;
    card.dataset.inView = one.in_view;
    card.dataset.tells = one.online === true; // who is in view
    const twin = names.filter((name) => name === one.camera).length > 1;
    card.querySelector(".camera-name").textContent = twin ? `${one.camera} (${one.device})` : one.camera;
    const inView = one.sightings.filter((id) => events.has(id)).map((id) => events.get(id));
    const together = inView.length ? inView : one.seen.filter((event) => lastSeen(one.seen[0]) - lastSeen(event) < TOGETHER_MS);
    arrange(card.querySelector(".present"), together.slice(0, MOST_TOGETHER));
    card.querySelector(".present").dataset.count = Math.min(together.length, MOST_TOGETHER);
    card.dataset.latest = one.seen.length ? lastSeen(one.seen[0]) : "";
    if (container.children[position] !== card) container.insertBefore(card, container.children[position] ?? null);
  });
  document.getElementById("no-cameras").hidden = places.size > 0;
  document.getElementById("cameras-count").textContent = places.size;
}

function tick() {
  document.getElementById("clock").textContent = new Date(now()).toLocaleTimeString();
  for (const time of document.querySelectorAll("time.when[datetime]")) time.textContent = ago(now() - Date.parse(time.dateTime));
  for (const card of document.querySelectorAll(".camera-card")) {
    const { latest, inView, tells } = card.dataset;
    const isNow = isPresent(Number(inView), tells === "true", latest === "" ? null : Number(latest));
    card.dataset.now = isNow;
    const seen = latest === "" ? "nobody lately" : `last seen ${ago(now() - Number(latest))}`;
    card.querySelector(".presence").textContent = isNow ? "now" : card.dataset.online === "false" ? `offline, ${seen}` : seen;
  }
}

// Whether a person is in front of a camera: by the report of its box, else by the last sighting.
function isPresent(inView, tells, latest) {
  if (inView > 0) return true;
  return latest !== null && now() - latest < (tells ? FRESH_S : PRESENT_S) * 1000;
}

function showState(state, text) {
  document.getElementById("state").dataset.state = state;
  document.getElementById("state-text").textContent = text;
}

async function read(address) {
  const response = await fetch(address);
  if (response.status === 401) location.assign("/login");
  if (!response.ok) throw new Error(response.status);
  return response.json();
}

// Fetches sightings that the stream missed while it was down.
async function refresh() {
  for (const event of (await read(`/v1/events?size=${SHOWN}`)).items) keep(event);
  render();
}

async function askStanding() {
  const standing = await read("/standing.json");
  cameras = standing.items;
  document.getElementById("persons").textContent = standing.persons;
  const missing = cameras.flatMap((one) => one.sightings.slice(0, MOST_TOGETHER)).filter((id) => !events.has(id));
  for (const event of await Promise.all(missing.map((id) => read(`/v1/events/${id}`)))) keep(event);
  render();
}

function keep(event) {
  if (event.merged_into) return events.delete(event.id); // it is part of another event
  const known = events.get(event.id);
  if (!known || known.revision <= event.revision) events.set(event.id, event);
}

let waiting = false;
let asking = null;
function received(message) {
  keep(JSON.parse(message.data));
  asking ??= setTimeout(() => { asking = null; askStanding().catch(() => {}); }, ASK_SOON_MS);
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; render(); });
}

let stream = null;
let polling = null;
let streamsOfOthers = 0;
const otherPages = new BroadcastChannel("muster-live");
otherPages.onmessage = ({ data }) => {
  if (data === "who has a stream?" && stream !== null) otherPages.postMessage("I have");
  if (data === "I have") streamsOfOthers += 1;
};

// Starts to follow events. Hidden pages leave their connection to visible ones.
async function begin() {
  if (document.hidden) return;
  streamsOfOthers = 0;
  otherPages.postMessage("who has a stream?");
  await new Promise((done) => setTimeout(done, ANSWERS_MS));
  if (document.hidden || stream !== null || polling !== null) return;
  if (streamsOfOthers < STREAMS) follow();
  else poll();
}

function end() {
  stream?.close();
  clearInterval(polling);
  stream = polling = null;
}

function follow() {
  stream = new EventSource("/v1/events/stream");
  let down = null;
  stream.addEventListener("open", () => {
    clearTimeout(down);
    showState("live", "Live");
    refresh().catch(() => {});
    askStanding().catch(() => {});
  });
  for (const kind of ["created", "updated", "merged"]) stream.addEventListener(kind, received);
  stream.addEventListener("error", () => {
    clearTimeout(down);
    if (stream?.readyState === EventSource.CLOSED) { // the server gave none: as many are open as it allows
      end();
      poll();
      setTimeout(() => { end(); begin(); }, TRY_AGAIN_MS);
    } else if (stream !== null) {
      down = setTimeout(() => showState("down", "No connection: this page may be out of date"), DOWN_MS);
    }
  });
}

function poll() {
  const ask = () => refresh().then(askStanding).then(
    () => showState("live", "Live, updated every 5 s"),
    () => showState("down", "No connection: this page may be out of date"),
  );
  ask();
  polling = setInterval(ask, ASK_MS);
}

JSON.parse(document.getElementById("initial").textContent).forEach(keep);
render();
begin();
setInterval(tick, 1000);
setInterval(() => { if (stream !== null) askStanding().catch(() => {}); }, ASK_MS);
document.addEventListener("visibilitychange", () => { end(); begin(); });
addEventListener("pagehide", end);
addEventListener("pageshow", (shown) => { if (shown.persisted) begin(); });
