"use strict";
// Everything works without this file but keys, zoom, endless scrolling and live changes.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const wide = matchMedia("(min-width: 62rem)");

function say(text) {
  $("#said").textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { $("#said").textContent = ""; }, 5000);
}

function kept(name, value) {
  try {
    if (value === undefined) return sessionStorage.getItem(name);
    sessionStorage.setItem(name, value);
  } catch { /* a browser that keeps nothing: the page works all the same */ }
  return value;
}

// --- filters ---------------------------------------------------------------------------------------------------

function filters() {
  const panel = $("#filters");
  if (!panel) return;
  const settle = () => { panel.open = wide.matches; };
  settle();
  wide.addEventListener("change", settle);
  const form = $("form", panel);
  let going = false;  // Enter in a field is a change and a submit
  addEventListener("pageshow", () => { going = false; });
  const go = () => {
    if (going) return;
    going = true;
    const given = new URLSearchParams();
    for (const [name, value] of new FormData(form)) {
      if (value !== "" && !(name === "order" && value === "key") && !(name === "show" && value === "both")) {
        given.append(name, value);
      }
    }
    const query = given.toString();
    kept("focus", document.activeElement && document.activeElement.closest("form") === form
      ? `${document.activeElement.name}=${document.activeElement.value}` : "");
    location.assign(form.action.split("?")[0] + (query ? `?${query}` : ""));
  };
  form.addEventListener("submit", (event) => { event.preventDefault(); go(); });
  form.addEventListener("change", () => { if (wide.matches) go(); });  // on a small screen by the button, all at once
  const last = kept("focus");
  if (last) {
    kept("focus", "");
    const [name, value] = last.split(/=(.*)/s);
    const fields = $$("input, select", form).filter((field) => field.name === name);
    (fields.find((field) => field.value === value) || fields[0])?.focus({ preventScroll: true });
  }
}

// --- thumbnails ------------------------------------------------------------------------------------------------

function endless() {
  const grid = $("[data-endless]");
  if (!grid) return;
  let busy = false;
  const more = async () => {
    const last = $(".more", grid);
    if (busy || !last) return;
    busy = true;
    try {
      const answer = await fetch($("a", last).href, { headers: { "x-part": "1" } });
      if (!answer.ok) throw new Error((await answer.json()).error);
      const part = new DOMParser().parseFromString(await answer.text(), "text/html");
      last.replaceWith(...part.body.children);
      watch();
    } catch (error) {
      say(`No more images: ${error.message}`);
    } finally { busy = false; }
  };
  const seen = new IntersectionObserver((entries) => entries.some((e) => e.isIntersecting) && more(),
    { rootMargin: "900px" });
  const watch = () => { seen.disconnect(); const last = $(".more", grid); if (last) seen.observe(last); };
  watch();
  grid.addEventListener("keydown", (event) => {
    const cards = $$(".card", grid);
    const at = cards.indexOf(document.activeElement);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const across = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key];
    const next = step && cards[at + step];
    if (next) { event.preventDefault(); next.focus(); }
  });
}

// --- one image -------------------------------------------------------------------------------------------------

function viewer() {
  const picture = $("#picture");
  if (!picture) return;
  const full = picture.viewBox.baseVal;
  const all = { x: full.x, y: full.y, width: full.width, height: full.height };
  let view = { ...all };
  const show = (next) => {
    const width = Math.min(all.width, Math.max(all.width / 40, next.width));
    const height = all.height * width / all.width;
    view = { width, height, x: Math.min(all.width - width, Math.max(0, next.x)),
             y: Math.min(all.height - height, Math.max(0, next.y)) };
    picture.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
    picture.classList.toggle("zoomed", view.width < all.width);
    kept("view", JSON.stringify([all, view]));
  };
  const zoom = (factor, at = { x: view.x + view.width / 2, y: view.y + view.height / 2 }) => {
    const width = Math.min(all.width, Math.max(all.width / 40, view.width / factor));
    const by = width / view.width;
    show({ width, x: at.x - (at.x - view.x) * by, y: at.y - (at.y - view.y) * by });
  };
  const spot = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
  const before = JSON.parse(kept("view") || "null");
  if (before && before[0].width === all.width && before[0].height === all.height) show(before[1]);
  for (const button of $$("[data-zoom]")) {
    button.addEventListener("click", () => button.dataset.zoom === "fit" ? show(all)
      : zoom(button.dataset.zoom === "in" ? 1.5 : 1 / 1.5));
  }
  picture.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !picture.classList.contains("zoomed")) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, spot(event));
  }, { passive: false });
  let held = null;
  picture.addEventListener("pointerdown", (event) => {
    if (event.button || !picture.classList.contains("zoomed")) return;
    held = spot(event);
    picture.setPointerCapture(event.pointerId);
  });
  picture.addEventListener("pointermove", (event) => {
    if (!held) return;
    const now = spot(event);
    show({ ...view, x: view.x + held.x - now.x, y: view.y + held.y - now.y });
  });
  for (const end of ["pointerup", "pointercancel"]) picture.addEventListener(end, () => { held = null; });
  picture.addEventListener("keydown", (event) => {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] || [];
    if (!event.shiftKey || x === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    show({ ...view, x: view.x + x * view.width / 8, y: view.y + y * view.height / 8 });
  });
  const point = $(".point");
  if (point) {
    $("[data-only-script]", point).hidden = false;
    picture.addEventListener("dblclick", (event) => {
      const at = spot(event);
      point.elements.row.value = Math.floor(at.y / picture.dataset.sy);
      point.elements.column.value = Math.floor(at.x / picture.dataset.sx);
      point.requestSubmit();
    });
  }
  toggles(picture);
  regions(picture);
  raw();
}

function toggles(picture) {
  for (const button of $$("[data-toggle]")) {
    const name = button.dataset.toggle;
    const set = (on) => {
      button.setAttribute("aria-pressed", on);
      picture.classList.toggle(`no-${name}`, !on);
      kept(`draw-${name}`, on ? "1" : "0");
    };
    if (kept(`draw-${name}`) === "0") set(false);
    button.addEventListener("click", () => set(button.getAttribute("aria-pressed") !== "true"));
  }
}

function regions(picture) {
  const drawn = (id) => $(`.region[data-region="${Number(id)}"]`, picture);
  for (const box of $$("[data-show]")) {
    box.addEventListener("change", () => drawn(box.dataset.show).classList.toggle("off", !box.checked));
  }
  for (const row of $$(".regions li")) {
    for (const [name, on] of [["pointerenter", true], ["pointerleave", false], ["focusin", true], ["focusout", false]]) {
      row.addEventListener(name, () => drawn(row.dataset.region).classList.toggle("near", on));
    }
  }
  const told = $("#located");
  for (const link of $$("[data-locate]")) {
    link.addEventListener("click", async (event) => {
      event.preventDefault();
      told.textContent = "reading the source file …";
      try {
        const place = await (await fetch(link.href)).json();
        told.replaceChildren(place.error ? document.createTextNode(place.error) : listed(place));
      } catch (error) { told.textContent = error.message; }
    });
  }
}

function listed(place) {
  const list = document.createElement("dl");
  list.className = "facts";
  for (const [name, value] of Object.entries(place)) {
    if (value === null || name === "files") continue;
    const row = document.createElement("div");
    for (const [tag, text] of [["dt", name.replaceAll("_", " ")],
      ["dd", typeof value === "string" ? value : JSON.stringify(value)]]) {
      const cell = document.createElement(tag);
      cell.textContent = text;
      row.append(cell);
    }
    list.append(row);
  }
  return list;
}

// A raw slice shown without its regions unless it is the slice that they are of.
function raw() {
  const form = $("[data-window]");
  if (!form) return;
  const slider = $("[data-slice]", form);
  const pixels = $("#pixels");
  let wait;
  form.addEventListener("input", () => {
    $("output", form).textContent = slider.value;
    clearTimeout(wait);
    wait = setTimeout(() => {
      const asked = new URLSearchParams({ index: slider.value, center: form.elements.center.value,
                                          width: form.elements.width.value });
      pixels.setAttribute("href", `${form.dataset.window}?${asked}`);
      $("#picture").classList.toggle("elsewhere", slider.value !== slider.dataset.slice);
    }, 60);
  });
}

// --- review ----------------------------------------------------------------------------------------------------

function review() {
  const form = $("[data-review]");
  if (!form) return;
  const by = $("[data-keep]", form);
  if (by) {
    by.value ||= kept("by") || "";
    by.addEventListener("change", () => kept("by", by.value));
  }
  const entries = () => $$("[data-entry]", form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = event.submitter;
    const entry = button?.closest("[data-entry]");
    if (!entry) return;
    const body = new FormData(form, button);
    button.disabled = true;
    try {
      const answer = await fetch(form.action, { method: "POST", body, headers: { "x-part": "1" } });
      if (!answer.ok) {
        const text = await answer.text();
        let told = text;
        try { told = JSON.parse(text).error; } catch { /* plain text */ }
        throw new Error(told);
      }
      const part = new DOMParser().parseFromString(await answer.text(), "text/html").body.firstElementChild;
      const at = entries().indexOf(entry);
      entry.replaceWith(part);
      (entries()[at + 1] || part).focus();
      say(`${part.getAttribute("aria-label")}: ${$(".state", part).textContent}`);
    } catch (error) {
      button.disabled = false;
      say(error.message);
    }
  });
  form.addEventListener("keydown", (event) => {
    const entry = event.target.closest("[data-entry]");
    if (event.target.matches("input")) {
      if (event.key === "Escape" && entry) entry.focus();
      if (event.key === "Enter") {
        event.preventDefault();
        const act = { c: "change", m: "comment" }[event.target.dataset.act];
        if (act) form.requestSubmit($(`[value^="${act}:"]`, entry));
        else if (event.target === by) entries()[0]?.focus();
      }
    }
  });
  document.addEventListener("keydown", (event) => {
    if (typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    const list = entries();
    const at = list.indexOf(document.activeElement?.closest?.("[data-entry]"));
    if (event.key === "j" || event.key === "k") {
      const next = list[at < 0 ? 0 : at + (event.key === "j" ? 1 : -1)];
      if (next) { event.preventDefault(); next.focus(); next.scrollIntoView({ block: "nearest" }); }
    } else if (at >= 0) {
      const target = $(`[data-act="${CSS.escape(event.key)}"]`, list[at]);
      if (!target || target.disabled) return;
      event.preventDefault();
      if (by && !by.value) { by.focus(); say("first your name"); } else if (target.matches("button")) {
        if (event.key === "r" && !$("[data-act=m]", list[at]).value) {
          $("[data-act=m]", list[at]).focus();
          say("write why, then press Escape and r, or the Reject button");
        } else form.requestSubmit(target);
      } else target.focus();
    }
  });
}

// --- keys of every page ----------------------------------------------------------------------------------------

const typing = (event) => event.target.matches("input:not([type=checkbox], [type=radio], [type=range]), textarea, select");

function keys() {
  const help = $("#help");
  const opener = $("[data-open=help]");
  opener.hidden = false;
  opener.addEventListener("click", () => help.showModal());
  const pages = { o: "/", b: "/browse", l: "/labels", q: "/quarantine" };
  let last = "";
  document.addEventListener("keydown", (event) => {
    const before = last;
    last = "";
    if (event.defaultPrevented || help.open || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && event.target.matches("input, select") && !event.target.closest("[data-entry]")) {
      event.preventDefault();  // a search field would empty itself
      event.target.blur();
      return;
    }
    if (typing(event)) return;
    if (before === "g" && pages[event.key]) { location.assign(pages[event.key]); return; }
    if (event.key === "g") { last = "g"; return; }
    if (event.key === "?") { help.showModal(); return; }
    if (event.key === "f" && $("#filters")) {
      $("#filters").open = true;
      $("#filters input:not([type=search])").focus();
      return;
    }
    if (event.target.matches("input[type=radio], input[type=range]") && event.key.startsWith("Arrow")) return;
    if (!document.activeElement?.closest(".card") && event.key.startsWith("Arrow") && $("[data-endless] .card")) {
      if (event.key === "ArrowRight") { event.preventDefault(); $("[data-endless] .card").focus(); }
      return;
    }
    const key = event.key === "=" ? "+" : event.key;
    const target = $(`[data-key="${CSS.escape(key)}"]`);
    if (!target || (event.shiftKey && key.startsWith("Arrow"))) return;
    event.preventDefault();
    if (target.closest("#filters")) $("#filters").open = true;
    if (target.matches("input[type=search]")) target.focus(); else target.click();
  });
  for (const list of $$("[data-go]")) list.addEventListener("change", () => location.assign(list.value));
}

filters();
endless();
viewer();
review();
keys();
