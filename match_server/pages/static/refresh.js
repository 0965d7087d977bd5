// Replaces the main part of the page every 30 s; the scroll position stays.
"use strict";

async function renew() {
  const main = document.getElementById("main");
  const notice = document.getElementById("notice");
  if (document.hidden || main.contains(document.activeElement)) return;
  try {
    const response = await fetch(location.href);
    if (response.redirected && new URL(response.url).pathname === "/login") return location.assign("/login");
    if (!response.ok) throw new Error(response.status);
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    showTimes(fresh);
    main.replaceWith(fresh.getElementById("main"));
    document.querySelector(".top .facts").replaceWith(fresh.querySelector(".top .facts"));
    notice.hidden = true;
  } catch {
    notice.hidden = false;
  }
}

setInterval(renew, 30000);
