// Text and elements. All that comes from data goes in as text, never as HTML.

export const byId = (id) => document.getElementById(id);

export function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// A name from the data: it stands for itself, whatever directions it contains.
export const name = (text) => element("bdi", { class: "name" }, text);

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, isShown) {
  node.hidden = !isShown;
}

// Keeps the nodes of models that are as before, so that focus and selection stay where they are.
const known = new WeakMap();
export function fill(parent, models, build) {
  const before = new Map();
  for (const node of [...parent.children]) {
    const key = known.get(node)?.key;
    if (before.has(key)) node.remove();
    else before.set(key, node);
  }
  const nodes = models.map((model) => {
    const said = JSON.stringify(model);
    const node = before.get(model.key);
    before.delete(model.key);
    if (node && known.get(node).said === said) return node;
    const made = build(model);
    known.set(made, { key: model.key, said });
    if (node) replace(node, made);
    return made;
  });
  for (const node of before.values()) node.remove();
  nodes.forEach((node, place) => {
    if (parent.children[place] !== node) parent.insertBefore(node, parent.children[place] ?? null);
  });
}

function replace(node, made) {
  const focused = node.contains(document.activeElement) ? document.activeElement.dataset.act : undefined;
  node.replaceWith(made);
  if (focused) [...made.querySelectorAll("[data-act]")].find((button) => button.dataset.act === focused)?.focus();
}

// Seconds in words that do not flicker.
export function age(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return "not known";
  const s = Math.max(0, Math.round(seconds));
  if (s < 100) return `${s} s`;
  if (s < 100 * 60) return `${Math.round(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

export function number(value) {
  if (value === null || value === undefined) return "–";
  return String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let [rest, unit] = [value, 0];
  while (rest >= 1024 && unit < units.length - 1) [rest, unit] = [rest / 1024, unit + 1];
  return `${rest < 10 && unit > 0 ? rest.toFixed(1) : Math.round(rest)} ${units[unit]}`;
}

// The daemon's clock, as it goes on since its last answer: that of the browser may be wrong.
const clock = { daemon: Date.now(), heard: performance.now() };
export const now = () => clock.daemon + performance.now() - clock.heard;
export function setClock(milliseconds) {
  if (Number.isFinite(milliseconds)) [clock.daemon, clock.heard] = [milliseconds, performance.now()];
}

// 16:20:03 of today, or with the day.
export function clockTime(milliseconds) {
  const whole = new Date(milliseconds);
  if (Number.isNaN(whole.getTime())) return "–";
  const text = whole.toISOString();
  const day = text.slice(0, 10);
  return day === new Date(now()).toISOString().slice(0, 10) ? text.slice(11, 19) : `${day} ${text.slice(11, 19)}`;
}

// A time with its age, which `tick` keeps true.
export function time(at) {
  if (!at) return element("span", { class: "quiet" }, "–");
  const made = element("time", { datetime: at }, clockTime(Date.parse(at)), element("span", { class: "age" }));
  tell(made);
  return made;
}

function tell(node) {
  const seconds = (now() - Date.parse(node.dateTime)) / 1000;
  const words = seconds < -60 ? `${age(-seconds)} ahead of this clock` : `${age(seconds)} ago`;
  setText(node.lastElementChild, ` ${words}`);
}

export function tick() {
  for (const node of document.querySelectorAll("time")) tell(node);
}
