// Parts of a page with data-live="MILLISECONDS" are looked at again by themselves. Nothing is made from text but by the
// browser's own parser, and nothing of it runs: the page's policy allows no scripts but this file.
"use strict";

const SLOWEST_MS = 60_000;

function isInUse(part) {
  // Whoever types or has ticked something keeps what is there.
  return part.contains(document.activeElement) && document.activeElement.matches("input")
    || part.querySelector("input[type=checkbox]:checked") !== null
    || (getSelection().rangeCount > 0 && !getSelection().isCollapsed && part.contains(getSelection().anchorNode));
}

async function lookAgain(parts) {
  const answer = await fetch(location.href, { headers: { "X-Again": "1" }, credentials: "same-origin" });
  if (!answer.ok) throw new Error(answer.statusText);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts) {
    const successor = fresh.getElementById(part.id);
    if (successor !== null && !isInUse(part)) {
      const opened = [...part.querySelectorAll("details")].map((each) => each.open);
      part.replaceChildren(...successor.childNodes);
      part.querySelectorAll("details").forEach((each, at) => { if (at < opened.length) each.open = opened[at]; });
      if (!successor.hasAttribute("data-live")) part.removeAttribute("data-live");
    }
  }
}

function keepLooking() {
  const living = () => [...document.querySelectorAll("[data-live]")];
  const pace = () => Math.min(...living().map((each) => Number(each.dataset.live)));
  let wait = pace();
  async function turn() {
    if (living().length === 0) return;
    try {
      if (!document.hidden) await lookAgain(living());
      wait = pace();
      document.body.classList.remove("stale");
    } catch {
      wait = Math.min(wait * 2, SLOWEST_MS);
      document.body.classList.add("stale");
    }
    setTimeout(turn, wait);
  }
  if (living().length > 0) setTimeout(turn, wait);
}

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-all]")) {
    document.querySelectorAll(`input[name="${event.target.dataset.all}"]`).forEach((each) => { each.checked = event.target.checked; });
  }
});

keepLooking();
