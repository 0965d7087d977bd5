// Shows times in the visitor's time zone. The server renders UTC, for browsers without scripts.
"use strict";

const FORMS = {
  time: { hour: "2-digit", minute: "2-digit", second: "2-digit" },
  day: { year: "numeric", month: "short", day: "numeric" },
  full: { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" },
};

function showTimes(part) {
  for (const time of part.querySelectorAll("time[data-local]")) showTime(time);
}

function showTime(time) {
  const moment = new Date(time.dateTime);
  if (Number.isNaN(moment.getTime())) return;
  const { year, ...withoutYear } = FORMS[time.dataset.local];
  time.textContent = moment.toLocaleString([], moment.getFullYear() === new Date().getFullYear() ? withoutYear : { year, ...withoutYear });
  time.title = moment.toLocaleString();
}

showTimes(document);

// Fields for a time: shown in the visitor's time zone, sent as RFC 3339.
const pad = (number) => String(number).padStart(2, "0");
for (const form of document.querySelectorAll("form[data-times]")) {
  const fields = [...form.querySelectorAll('input[type="datetime-local"]')];
  for (const field of fields) {
    const moment = field.dataset.moment ? new Date(field.dataset.moment) : null;
    if (moment && !Number.isNaN(moment.getTime())) {
      field.value = `${moment.getFullYear()}-${pad(moment.getMonth() + 1)}-${pad(moment.getDate())}T${pad(moment.getHours())}:${pad(moment.getMinutes())}`;
    }
    for (const note of field.labels[0].querySelectorAll(".utc")) note.remove();
  }
  form.addEventListener("formdata", (event) => {
    for (const field of fields) if (field.value) event.formData.set(field.name, new Date(field.value).toISOString());
    for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
  });
}
