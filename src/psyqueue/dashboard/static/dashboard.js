// Parts of a page with data-live="MILLISECONDS" are looked at again by themselves. Nothing is made from text but by the
// browser's own parser, and nothing of it runs: the page's policy allows no scripts but this file.
"use strict";

const SLOWEST_MS = 60_000;
let isPressing = false;

function isInUse(part) {
  // Whoever types, has ticked, marked or opened something, or is about to press it, keeps what is there.
  const marked = getSelection();
  return isPressing
    || part.contains(document.activeElement)
    || part.querySelector("input[type=checkbox]:checked, .twice[open]") !== null
    || (marked.rangeCount > 0 && !marked.isCollapsed && part.contains(marked.anchorNode));
}

function putInPlace(part, successor) {
  const isOpen = new Map([...part.querySelectorAll("details[id]")].map((each) => [each.id, each.open]));
  part.replaceChildren(...successor.childNodes);
  for (const each of part.querySelectorAll("details[id]")) each.open = isOpen.get(each.id) ?? each.open;
  if (!successor.hasAttribute("data-live")) part.removeAttribute("data-live");
}

async function lookAgain(parts) {
  const answer = await fetch(location.href, { headers: { "X-Again": "1" }, credentials: "same-origin" });
  if (!answer.ok) throw new Error(answer.statusText);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts) {
    const successor = fresh.getElementById(part.id);
    if (successor === null) throw new Error("this is another page");
    if (!isInUse(part)) putInPlace(part, successor);
  }
}

function tell(isStale) {
  document.body.classList.toggle("stale", isStale);
  document.getElementById("stale").hidden = !isStale;
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
      tell(false);
    } catch {
      wait = Math.min(wait * 2, SLOWEST_MS);
      tell(true);
    }
    setTimeout(turn, wait);
  }
  if (living().length > 0) setTimeout(turn, wait);
}

addEventListener("pointerdown", () => { isPressing = true; });
for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => { isPressing = false; });

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-all]")) {
    document.querySelectorAll(`input[name="${event.target.dataset.all}"]`).forEach((each) => { each.checked = event.target.checked; });
  }
});

keepLooking();
