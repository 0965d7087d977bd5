// Adding, correcting and erasing people: calls of the contract, with the cookie of the last hour.
"use strict";

const PLAIN = { // quality factors in the words of who took the picture
  interocular: "the face is too small", size: "the face is too small",
  brightness: "too dark or too bright", sharpness: "blurred", yaw: "turned away",
  pitch: "looking up or down", roll: "tilted", liveness: "looks like a picture of a picture",
  missing: "partly outside of the picture", distance2center: "partly outside of the picture",
  align_score: "the face is not seen clearly", eyes_open: "eyes closed", mouth_open: "mouth open",
  no_face: "no face was found in it",
};
const inWords = (factor) => (factor.startsWith("occlusion") ? "covered" : PLAIN[factor] ?? factor);

class Refused extends Error {
  constructor(status, body) {
    super(body.message ?? `the server answered ${status}`);
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
  let answer;
  try {
    answer = await fetch(path, { method, headers, body });
  } catch {
    throw new Refused(0, { message: "the server cannot be reached; try again" });
  }
  const read = await answer.json().catch(() => ({}));
  if (answer.status === 401) throw new Refused(401, { message: "the hour of editing is over: press Stop editing, then Edit" });
  if (!answer.ok) throw new Refused(answer.status, read);
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

// One photo: enroll it, and say what became of it. A refused one may be enrolled all the same.
async function enrollPhoto(photo, name, person, collection, store, verdicts, force = false) {
  const line = element("li", `${name}: being looked at …`);
  verdicts.append(line);
  const form = new FormData();
  form.append("image", photo, name);
  form.append("store", store ? "1" : "0");
  if (force) form.append("force", "1");
  try {
    const done = await call("POST", `${personPath(collection, person)}/images`, form);
    line.dataset.state = "good";
    line.textContent = done.duplicate
      ? `${name}: was enrolled before; nothing was added.`
      : `${name}: enrolled, quality ${done.quality.score.toFixed(2)}.${done.detection.faces > 1 ? ` The largest of ${done.detection.faces} faces was taken.` : ""}`;
    return true;
  } catch (error) {
    line.dataset.state = "bad";
    const reasons = (error.details?.reasons ?? []).map(inWords);
    const lookalike = error.details?.lookalike;
    if (lookalike) {
      line.textContent = `${name}: this face already belongs to `;
      line.append(element("a", lookalike.name, { href: pageOf(collection, lookalike.id) }), ` (similarity ${error.details.similarity.toFixed(2)}). `);
    } else {
      line.textContent = `${name}: ${reasons.length ? `refused: ${[...new Set(reasons)].join(", ")}` : sentence(error.message)} `;
    }
    if (lookalike || (reasons.length && !reasons.includes(PLAIN.no_face))) {
      const anyway = element("button", "Enroll all the same", { type: "button", className: "quiet" });
      anyway.addEventListener("click", async () => {
        line.remove();
        await enrollPhoto(photo, name, person, collection, store, verdicts, true);
      });
      line.append(anyway);
    }
    return false;
  }
}

async function createPerson(collection, name, verdicts) {
  const made = await call("POST", personsOf(collection), { name });
  const line = element("li", "", { className: "made" });
  line.append(element("a", made.name, { href: pageOf(collection, made.id), dir: "auto" }), " was added.");
  verdicts.append(line);
  return made.id;
}

// Whom a name means: the one who has it, somebody new, or it has to be asked.
async function personNamed(collection, name, form, verdicts) {
  const found = await call("GET", `${personsOf(collection)}?${new URLSearchParams({ q: name, size: 100 })}`);
  const same = found.items.filter((one) => one.name.toLowerCase() === name.toLowerCase());
  if (same.length === 0) return createPerson(collection, name, verdicts);
  const choice = form.querySelector(".choice");
  choice.hidden = false;
  choice.replaceChildren("There is somebody of that name already: ");
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
    offer("Somebody else of the same name", () => createPerson(collection, name, verdicts));
    choice.querySelector("button").focus();
  });
}

// Who was created for photos that were all refused can be taken back.
function takenBack(collection, person) {
  const line = element("li", "Nobody is recognised by that name until a photo is enrolled. ");
  const back = element("button", "Remove the person again", { type: "button", className: "quiet" });
  back.addEventListener("click", async () => {
    try {
      await call("DELETE", personPath(collection, person));
      line.parentElement.replaceChildren(element("li", "The person was removed again."));
    } catch (error) {
      line.append(sentence(error.message));
    }
  });
  line.append(back);
  return line;
}

async function photosOf(form) {
  if (!form.dataset.snapshot) return [...form.elements.photos.files].map((file) => [file, file.name]);
  const answer = await fetch(form.dataset.snapshot);
  if (!answer.ok) throw new Refused(answer.status, { message: "the thumbnail is gone" });
  return [[await answer.blob(), "thumbnail.jpg"]];
}

async function enroll(form) {
  const verdicts = form.querySelector(".verdicts");
  const { collection } = form.dataset;
  const store = form.elements.store.checked;
  verdicts.replaceChildren();
  try {
    const photos = await photosOf(form);
    let { person } = form.dataset;
    if (!person && "new" in form.dataset) person = await createPerson(collection, form.elements.name.value, verdicts);
    else if (!person) person = await personNamed(collection, form.elements.name.value.trim(), form, verdicts);
    const known = verdicts.querySelector(".made") === null; // nobody was created just now
    let good = 0;
    for (const [photo, name] of photos) good += await enrollPhoto(photo, name, person, collection, store, verdicts);
    if (good && form.dataset.person) {
      if (good === photos.length) return location.reload();
    } else if (good) {
      const line = element("li", "", { className: "made" });
      line.append(element("a", "See the person", { href: pageOf(collection, person) }));
      verdicts.append(line);
    } else if (!form.dataset.person && !known) {
      verdicts.append(takenBack(collection, person));
    }
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
  const said = form.querySelector(".said");
  try {
    await call("PATCH", own, { name: form.elements.name.value, external_id: form.elements.external_id.value.trim() || null });
    location.reload();
  } catch (error) {
    said.textContent = sentence(error.message);
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
    const told = `${gone.templates} templates, ${gone.images} photos, ${gone.snapshots} thumbnails; ${gone.events} events no longer name the person.`;
    const waits = gone.pending ? ` ${gone.pending} boxes or storages still have to confirm it.` : "";
    const proof = element("p", "Certificate: ");
    proof.append(element("code", gone.erasure));
    const back = element("p", "");
    back.append(element("a", "People", { href: `/people?${new URLSearchParams({ collection: main.dataset.collection })}` }));
    dialog.close();
    main.replaceChildren(heading, element("p", told + waits), proof, back);
  } catch (error) {
    dialog.querySelector(".said").textContent = sentence(error.message);
    button.disabled = false;
  }
});
