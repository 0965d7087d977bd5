// The live page: keeps what the server rendered up to date over server-sent events.
"use strict";

const SHOWN = 60; // sightings in the list
const PRESENT_S = 45; // this long after its last shot somebody still counts as "now"
const TOGETHER_MS = 12000; // shown side by side when seen this close to one another
const MOST_TOGETHER = 4;
const MANY = 8; // more cameras than this are shown small, and those with somebody before them first
const ASK_MS = 15000; // how often it is asked which cameras there are

const main = document.getElementById("main");
const clockSkewMs = Date.parse(main.dataset.now) - Date.now(); // trust the server's clock
const events = new Map(); // by id
let cameras = JSON.parse(document.getElementById("presence").textContent).items; // all that were ever heard of
const now = () => Date.now() + clockSkewMs;

function nameOf(event) {
  if (event.person) return event.person.name;
  if (event.person_erased) return "Erased person";
  return event.decision === "ambiguous" ? "Ambiguous" : "Unknown";
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

const formOf = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

// Put the wanted cards into a container, in order, reusing those that are already there.
function arrange(container, wanted) {
  const known = new Map([...container.children].map((card) => [card.dataset.id, card]));
  const cards = wanted.map((event) => fill(known.get(event.id) ?? formOf("sighting-form"), event));
  for (const card of [...container.children]) if (!cards.includes(card)) card.remove();
  cards.forEach((card, place) => {
    if (container.children[place] !== card) container.insertBefore(card, container.children[place] ?? null);
  });
}

const lastSeen = (event) => Date.parse(event.last_captured_at);

function render() {
  const newestFirst = [...events.values()].sort((a, b) => lastSeen(b) - lastSeen(a));
  for (const old of newestFirst.slice(SHOWN)) events.delete(old.id);
  const shown = newestFirst.slice(0, SHOWN);
  arrange(document.getElementById("recent"), shown);

  renderCameras(shown);
  tick();
}

const placeOf = (one) => JSON.stringify([one.device, one.camera]); // boxes may name cameras alike

function renderCameras(shown) {
  const places = new Map(cameras.map((one) => [placeOf(one), { ...one, seen: [] }]));
  for (const event of shown) {
    const place = placeOf(event);
    if (!places.has(place)) places.set(place, { device: event.device, camera: event.camera, online: true, seen: [] });
    places.get(place).seen.push(event);
  }
  const names = [...places.values()].map((one) => one.camera);
  const isNow = (one) => one.seen.length > 0 && now() - lastSeen(one.seen[0]) < PRESENT_S * 1000;
  const many = places.size > MANY;
  const ordered = [...places].sort(([, a], [, b]) => (many && isNow(b) - isNow(a))
    || a.camera.localeCompare(b.camera, undefined, { numeric: true }) || a.device.localeCompare(b.device));
  const container = document.getElementById("cameras");
  container.dataset.many = many;
  const known = new Map([...container.children].map((card) => [card.dataset.place, card]));
  for (const [place, card] of known) if (!places.has(place)) card.remove();
  ordered.forEach(([place, one], position) => {
    const card = known.get(place) ?? formOf("camera-form");
    card.dataset.place = place;
    card.dataset.online = one.online;
    const twin = names.filter((name) => name === one.camera).length > 1;
    card.querySelector(".camera-name").textContent = twin ? `${one.camera} (${one.device})` : one.camera;
    const together = one.seen.filter((event) => lastSeen(one.seen[0]) - lastSeen(event) < TOGETHER_MS);
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
    const { latest } = card.dataset;
    const isNow = latest !== "" && now() - Number(latest) < PRESENT_S * 1000;
    card.dataset.now = isNow;
    const seen = latest === "" ? "nobody lately" : `last seen ${ago(now() - Number(latest))}`;
    card.querySelector(".presence").textContent = isNow ? "now" : card.dataset.online === "false" ? `offline, ${seen}` : seen;
  }
}

function say(state, text) {
  document.getElementById("state").dataset.state = state;
  document.getElementById("state-text").textContent = text;
}

// What was missed before the stream stood, or while it was down.
async function refresh() {
  const answer = await fetch(`/v1/events?size=${SHOWN}`);
  if (answer.status === 401) return location.assign("/login");
  if (!answer.ok) return;
  for (const event of (await answer.json()).items) keep(event);
  render();
}

async function askStanding() {
  const answer = await fetch("/standing.json");
  if (!answer.ok) return;
  const standing = await answer.json();
  cameras = standing.items;
  document.getElementById("persons").textContent = standing.persons;
  render();
}

function keep(event) {
  if (event.merged_into) return events.delete(event.id); // it turned out to be part of another
  const known = events.get(event.id);
  if (!known || known.revision <= event.revision) events.set(event.id, event);
}

let waiting = false;
function received(message) {
  keep(JSON.parse(message.data));
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; render(); });
}

function follow() {
  const stream = new EventSource("/v1/events/stream");
  stream.addEventListener("open", () => { say("live", "Live"); refresh().catch(() => {}); askStanding().catch(() => {}); });
  stream.addEventListener("created", received);
  stream.addEventListener("updated", received);
  stream.addEventListener("merged", received);
  stream.addEventListener("error", () => {
    say("down", "No connection: what is shown may be old");
    if (stream.readyState === EventSource.CLOSED) { // the server said no: ask again, with patience
      refresh().catch(() => {});
      setTimeout(follow, 5000);
    }
  });
  addEventListener("pagehide", () => stream.close(), { once: true });
}

JSON.parse(document.getElementById("initial").textContent).forEach(keep);
render();
follow();
setInterval(tick, 1000);
setInterval(() => { if (!document.hidden) askStanding().catch(() => {}); }, ASK_MS);
