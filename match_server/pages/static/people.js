// Adding, correcting and erasing people: calls of the API, with the editing cookie.
"use strict";

const TERMS = JSON.parse(document.currentScript.dataset.photoTerms); // quality factors in plain words
const inPlainTerms = (factor) => TERMS[factor.startsWith("occlusion") ? "occlusion" : factor] ?? factor;

class Refused extends Error {
  constructor(status, body) {
    super(body.message ?? `the server returned ${status}`);
    this.status = status;
    this.code = body.code;
    this.details = body.details ?? {};
  }
}

async function call(method, path, body) {
  const headers = { "X-Muster-Page": "1" };
  if (body !== undefined && !(body instanceof FormData)) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, { method, headers, body });
  } catch {
    throw new Refused(0, { message: "the server cannot be reached; try again" });
  }
  const read = await response.json().catch(() => ({}));
  if (response.status === 401) throw new Refused(401, { message: "the hour of editing is over: press Stop editing, then Edit" });
  if (!response.ok) throw new Refused(response.status, read);
  return read;
}

const personsOf = (collection) => `/v1/collections/${encodeURIComponent(collection)}/persons`;
const personPath = (collection, id) => `${personsOf(collection)}/${encodeURIComponent(id)}`;
const pageOf = (collection, id) => `/people/${encodeURIComponent(collection)}/${encodeURIComponent(id)}`;

function element(name, text, more = {}) {
  const made = Object.assign(document.createElement(name), more);
  made.textContent = text;
  return made;
}

function sentence(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return btoa(text);
}

// Returns the verdict on each line of a batch, which also compares pictures of one person.
async function batch(collection, lines, store, force) {
  const query = new URLSearchParams({ store: store ? "1" : "0", force: force ? "1" : "0" });
  let response;
  try {
    response = await fetch(`/v1/collections/${encodeURIComponent(collection)}/enroll?${query}`, {
      method: "POST", body: lines.map((line) => `${JSON.stringify(line)}\n`).join(""),
      headers: { "X-Muster-Page": "1", "Content-Type": "application/x-ndjson" },
    });
  } catch {
    throw new Refused(0, { message: "the server cannot be reached; try again" });
  }
  if (response.status === 401) throw new Refused(401, { message: "the hour of editing is over: press Stop editing, then Edit" });
  if (!response.ok) throw new Refused(response.status, await response.json().catch(() => ({})));
  return (await response.text()).split("\n").filter(Boolean).map((line) => JSON.parse(line));
}

// Enrolls photos of a person, who is created with the first good one, and shows each verdict.
// Calls `conclude` at the end, also when a photo is tried again.
async function enrollPhotos(photos, who, collection, store, verdicts, conclude, more = {}, force = false) {
  const lines = photos.map(([, name]) => element("li", `${name}: being checked …`));
  verdicts.append(...lines);
  const items = await Promise.all(photos.map(async ([photo, file]) => ({ ...who, ...more, file, image: await base64(photo) })));
  const results = await batch(collection, items, store, force);
  results.forEach((verdict, at) => {
    const [photo, name] = photos[at];
    const again = (choice, forced) => async () => {
      lines[at].remove();
      await enrollPhotos([[photo, name]], who, collection, store, verdicts, conclude, choice, forced);
    };
    if (verdict.status === "refused") showRefused(lines[at], photo, name, verdict, collection, more, again);
    else {
      lines[at].dataset.state = "good";
      lines[at].textContent = verdict.status === "duplicate"
        ? `${name}: was enrolled before; nothing was added.`
        : `${name}: enrolled, quality ${verdict.quality.toFixed(2)}.${verdict.faces > 1 ? ` Face ${verdict.face + 1} of ${verdict.faces} by size was taken.` : ""}`;
    }
  });
  conclude();
}

function showRefused(line, photo, name, verdict, collection, more, again) {
  const details = verdict.details ?? {};
  const factors = details.reasons ?? [];
  const reasons = factors.map(inPlainTerms);
  line.dataset.state = "bad";
  if (verdict.code === "several_faces") {
    line.textContent = `${name}: shows several faces. Which one is meant? `;
    line.append(facesOf(photo, details.faces, again));
    return;
  }
  if (verdict.code === "unlike_person") {
    line.textContent = `${name}: unlike the other pictures of this person (similarity ${details.similarity.toFixed(2)}, at least ${details.limit.toFixed(2)} is asked). It may show ${details.lookalike?.name ?? "somebody else"}. `;
  } else if (details.lookalike) {
    line.textContent = `${name}: this face already belongs to `;
    line.append(element("a", details.lookalike.name, { href: pageOf(collection, details.lookalike.id) }), ` (similarity ${details.similarity.toFixed(2)}). `);
  } else {
    line.textContent = `${name}: ${reasons.length ? `refused: ${[...new Set(reasons)].join(", ")}` : sentence(verdict.message)} `;
  }
  const forcible = details.lookalike || verdict.code === "unlike_person" || (factors.length && !factors.includes("no_face"));
  if (!forcible) return;
  const anyway = element("button", "Enroll all the same", { type: "button", className: "quiet" });
  anyway.addEventListener("click", again(more, true));
  line.append(anyway);
}

// Returns a button for each face of a photo.
function facesOf(photo, faces, again) {
  const choice = element("span", "", { className: "faces" });
  createImageBitmap(photo).then((picture) => {
    for (const { index, box: [x1, y1, x2, y2] } of faces) {
      const shown = Object.assign(document.createElement("canvas"), { width: 72, height: 72 });
      const side = 1.3 * Math.max(x2 - x1, y2 - y1);
      shown.getContext("2d").drawImage(picture, (x1 + x2 - side) / 2, (y1 + y2 - side) / 2, side, side, 0, 0, 72, 72);
      const button = element("button", "", { type: "button", className: "quiet", title: `Face ${index + 1} by size` });
      button.setAttribute("aria-label", `Enroll face ${index + 1} by size`);
      button.append(shown);
      button.addEventListener("click", again({ face: index }, false));
      choice.append(button);
    }
  }, () => choice.append("This browser cannot show the photo: cut it to one face."));
  return choice;
}

// Returns an id for a new person, who is created with the first good photo.
function newId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Returns the id for a name: asks whether it is a person of that name, or a new one.
async function personNamed(collection, name, form) {
  const found = await call("GET", `${personsOf(collection)}?${new URLSearchParams({ q: name, size: 100 })}`);
  const same = found.items.filter((one) => one.name.toLowerCase() === name.toLowerCase());
  if (same.length === 0) return newId();
  const choice = form.querySelector(".choice");
  choice.hidden = false;
  choice.replaceChildren("There is a person of that name already: ");
  return new Promise((resolve, reject) => {
    const offer = (text, answer) => {
      const button = element("button", text, { type: "button", className: "quiet" });
      button.addEventListener("click", () => {
        choice.hidden = true;
        answer().then(resolve, reject);
      });
      choice.append(button, " ");
    };
    for (const one of same) offer(`Add to ${one.name}${one.external_id ? ` (${one.external_id})` : ""}, ${one.templates} templates`, async () => one.id);
    offer("Another person of the same name", async () => newId());
    choice.querySelector("button").focus();
  });
}

async function photosOf(form) {
  if (!form.dataset.snapshot) return [...form.elements.photos.files].map((file) => [file, file.name]);
  const response = await fetch(form.dataset.snapshot);
  if (!response.ok) throw new Refused(response.status, { message: "the thumbnail is gone" });
  return [[await response.blob(), "thumbnail.jpg"]];
}

// After the verdicts: reloads the page, links to the new person, or says that there is none.
function concluded(form, person, verdicts) {
  const good = verdicts.querySelector('[data-state="good"]');
  if (form.dataset.person) {
    if (good && !verdicts.querySelector('[data-state="bad"]')) location.reload();
    return;
  }
  verdicts.querySelector(".outcome")?.remove();
  const line = element("li", good ? "" : "Nobody was added: no photo was enrolled.", { className: "outcome" });
  if (good) line.append(element("a", "See the person", { href: pageOf(form.dataset.collection, person) }));
  verdicts.append(line);
}

async function enroll(form) {
  const verdicts = form.querySelector(".verdicts");
  const { collection } = form.dataset;
  const store = form.elements.store.checked;
  verdicts.replaceChildren();
  try {
    const photos = await photosOf(form);
    const name = form.elements.name?.value.trim();
    let { person } = form.dataset;
    if (!person) person = "new" in form.dataset ? newId() : await personNamed(collection, name, form);
    const conclude = () => concluded(form, person, verdicts);
    await enrollPhotos(photos, name ? { person, name } : { person }, collection, store, verdicts, conclude);
  } catch (error) {
    verdicts.append(Object.assign(element("li", sentence(error.message)), { className: "bad" }));
  }
}

for (const form of document.querySelectorAll("form.enroll")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector(".actions button");
    button.disabled = true;
    await enroll(form);
    button.disabled = false;
  });
}

const main = document.getElementById("main");
const own = main.dataset.person && personPath(main.dataset.collection, main.dataset.person);

document.querySelector("form.change")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const message = form.querySelector(".said");
  try {
    await call("PATCH", own, { name: form.elements.name.value, external_id: form.elements.external_id.value.trim() || null });
    location.reload();
  } catch (error) {
    message.textContent = sentence(error.message);
  }
});

for (const button of document.querySelectorAll("[data-remove]")) {
  button.addEventListener("click", async () => {
    if (button.dataset.sure === undefined) { // the first press asks
      button.dataset.sure = "";
      button.textContent = "Really remove?";
      return;
    }
    button.disabled = true;
    try {
      await call("DELETE", `/v1/images/${encodeURIComponent(button.dataset.remove)}`);
      location.reload();
    } catch (error) {
      button.replaceWith(element("p", sentence(error.message), { className: "bad" }));
    }
  });
}

const dialog = document.getElementById("erasing");
document.getElementById("erase")?.addEventListener("click", () => dialog.showModal());
dialog?.querySelector('button[value="erase"]').addEventListener("click", async (event) => {
  event.preventDefault();
  const button = event.target;
  button.disabled = true;
  try {
    const gone = await call("DELETE", own);
    const heading = element("h1", "Erased");
    const summary = `${gone.templates} templates, ${gone.images} photos, ${gone.snapshots} thumbnails; ${gone.events} events no longer name the person.`;
    const waits = gone.pending ? ` ${gone.pending} boxes or storages still have to confirm it.` : "";
    const proof = element("p", "Certificate: ");
    proof.append(element("code", gone.erasure));
    const back = element("p", "");
    back.append(element("a", "People", { href: `/people?${new URLSearchParams({ collection: main.dataset.collection })}` }));
    dialog.close();
    main.replaceChildren(heading, element("p", summary + waits), proof, back);
  } catch (error) {
    dialog.querySelector(".said").textContent = sentence(error.message);
    button.disabled = false;
  }
});
