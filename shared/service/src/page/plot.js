// A small plot of minutes: a line over 24 hours, with holes where nobody was there to look.

const SVG = "http://www.w3.org/2000/svg";
const DAY = 24 * 60;
const HEIGHT = 120;
const LEFT = 52;
const BOTTOM = 18;
const TOP = 8;

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// A round number that is not smaller.
export function roof(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 5, 10].map((step) => step * power).find((step) => step >= value);
}

// For times: a whole number of the unit that people would choose.
export function roofOfTime(seconds) {
  const steps = [10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400];
  return steps.find((step) => step >= seconds) ?? Math.ceil(seconds / 86400) * 86400;
}

// `values` are [minute, number or null]; `words` says a number.
export function plot(svg, values, minuteNow, top, words) {
  const width = Math.max(200, svg.clientWidth || 300);
  const x = (minute) => LEFT + ((minute - minuteNow + DAY) / DAY) * (width - LEFT - 4);
  const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const parts = [];
  for (const value of [0, top / 2, top]) {
    parts.push(shape("line", { class: "grid", x1: LEFT, x2: width - 4, y1: y(value), y2: y(value) }));
    parts.push(shape("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, words(value)));
  }
  for (const [hours, label] of [[24, "−24 h"], [18, "−18 h"], [12, "−12 h"], [6, "−6 h"], [0, "now"]]) {
    const place = x(minuteNow - hours * 60);
    const anchor = hours === 24 ? "start" : hours === 0 ? "end" : "middle";
    parts.push(shape("text", { x: place, y: HEIGHT - 3, "text-anchor": anchor }, label));
  }
  for (const run of runs(values)) {
    const points = run.map(([minute, value]) => `${x(minute).toFixed(1)} ${y(value).toFixed(1)}`);
    // One minute alone is seen too.
    if (points.length === 1) points.push(`${(x(run[0][0]) + 1).toFixed(1)} ${y(run[0][1]).toFixed(1)}`);
    const [first, last] = [points[0].split(" ")[0], points[points.length - 1].split(" ")[0]];
    parts.push(shape("path", { class: "area", d: `M${first} ${y(0)}L${points.join("L")}L${last} ${y(0)}Z` }));
    parts.push(shape("path", { class: "line", d: `M${points.join("L")}` }));
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.replaceChildren(...parts);
}

function runs(values) {
  const found = [];
  let last = null;
  for (const [minute, value] of values) {
    if (value === null) {
      last = null;
      continue;
    }
    if (last === null || minute > last + 2) found.push([]);
    found[found.length - 1].push([minute, value]);
    last = minute;
  }
  return found;
}
