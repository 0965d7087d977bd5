// A page that keeps itself up to date: every 30 s its main part comes anew, where one is stays.
"use strict";

async function renew() {
  const main = document.getElementById("main");
  const notice = document.getElementById("notice");
  if (document.hidden || main.contains(document.activeElement)) return;
  try {
    const answer = await fetch(location.href);
    if (answer.redirected && new URL(answer.url).pathname === "/login") return location.assign("/login");
    if (!answer.ok) throw new Error(answer.status);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    showTimes(fresh);
    main.replaceWith(fresh.getElementById("main"));
    document.querySelector(".top .facts").replaceWith(fresh.querySelector(".top .facts"));
    notice.hidden = true;
  } catch {
    notice.hidden = false;
  }
}

setInterval(renew, 30000);
