// Asks the daemon, shows what it says, and acts for whoever has a token.

import { age, byId, now, setClock, setText, show, tick } from "/text.js";
import { showDocument } from "/show.js";

const API = "/api/v1/data-sync";
const EVERY = 5000;
const EVERY_HIDDEN = 60000;
const SOON = 700;
const SOON_LASTS = 60000;
const PATIENCE = 10000;
const SLOW_MAX = 30000;
const KEY = "syncdata-token";

const state = { heard: null, heardAt: null, silent: null, timer: 0, asking: false, followed: new Map(), soonUntil: 0 };

let token = read();
function read() {
  try { return sessionStorage.getItem(KEY); } catch { return null; }
}
function keep(value) {
  token = value;
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch { /* Then it lasts as long as the page. */ }
  for (const id of ["token-label", "token-use"]) show(byId(id), !value);
  for (const id of ["token-there", "token-forget"]) show(byId(id), value);
}

// The answer as `{status, document, date}`; an error when there is none in time.
async function ask(path, options = {}) {
  const headers = { Accept: "application/json", ...options.headers };
  if (token && path.startsWith(API)) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, {
    ...options, headers, cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(PATIENCE),
  });
  const text = await answer.text();
  let document = null;
  try { document = JSON.parse(text); } catch { /* Somebody in between speaks. */ }
  return { status: answer.status, document, date: Date.parse(answer.headers.get("date")) };
}

async function look() {
  const asked = token;
  if (asked) {
    const answer = await ask(`${API}/monitoring/dashboard`);
    if (answer.status === 200 && answer.document?.status) {
      setClock(Date.parse(answer.document.now));
      return { ...answer.document, hasToken: true };
    }
    if (answer.status !== 401) throw new Error(words(answer));
    if (token === asked) keep(null);
    say(`The token is not accepted: it was mistyped, or revoked in api_token_file. What stands here is for everybody. ${detail(answer)}`, true);
  }
  const answer = await ask("/status");
  if (answer.status !== 200 || !answer.document?.status) throw new Error(words(answer));
  setClock(answer.date);
  return { status: answer.document, hasToken: false };
}

const detail = ({ document }) => [document?.detail ?? document?.title ?? document?.error, document?.hint].filter(Boolean).join("; ");
const words = (answer) => `It answers ${answer.status} ${detail(answer)}`.trim();

async function round() {
  if (state.asking) return;
  state.asking = true;
  clearTimeout(state.timer);
  const began = performance.now();
  try {
    const document = await look();
    [state.heard, state.heardAt, state.silent] = [performance.now(), now(), null];
    showDocument(document, act);
    follow(document.executions ?? []);
    window.document.body.classList.remove("silent");
  } catch (error) {
    state.silent = error;
    showSilence(error);
  }
  hear();
  tick();
  state.asking = false;
  // A daemon, or a line, that takes long is asked less often.
  const isSoon = state.followed.size > 0 && performance.now() < state.soonUntil;
  const every = document.hidden ? EVERY_HIDDEN : isSoon ? SOON : EVERY;
  const pause = state.silent ? 0 : Math.min(SLOW_MAX, 5 * (performance.now() - began));
  state.timer = setTimeout(round, Math.max(every, pause));
}

function showSilence(error) {
  console.info("no answer", error.name);
  document.body.classList.add("silent");
  byId("overall").className = "broken";
  const since = state.heardAt === null ? "" : ` since ${new Date(state.heardAt).toISOString().slice(0, 19)}Z`;
  const why = error.name === "TimeoutError" ? "It hangs, or is very busy" : error instanceof TypeError ? "It does not run, or the way to it is cut" : error.message;
  setText(byId("verdict"), `✕ No answer${since}`);
  setText(byId("why"), `${why}. What stands below is old. On its host: systemctl status ${byId("program").textContent}`);
  document.title = `✕ no answer – ${byId("program").textContent}`;
}

// How long ago; it is not read out at every second.
function hear() {
  const seconds = state.heard === null ? null : (performance.now() - state.heard) / 1000;
  setText(byId("heard"), seconds === null ? "" : `Answered ${age(seconds)} ago.`);
  show(byId("why"), state.silent !== null);
}

function say(text, isBad = false) {
  const said = byId("said");
  said.className = isBad ? "bad" : "";
  show(said, true);
  setText(said, text);
}

const QUESTIONS = {
  resync: (table) => [`Make ${table} anew from the archive? Its rows stay as they are until the new ones are there; then rows that only this host has are gone.`, "Resync"],
  "check-all": () => ["Check all tables now? Foreign keys are looked at here; rows are told as the newest proof has found them.", "Check all"],
};

function isSure(kind, table) {
  const question = QUESTIONS[kind];
  if (!question) return Promise.resolve(true);
  const [text, yes] = question(table);
  const dialog = byId("sure");
  setText(byId("sure-words"), text);
  setText(byId("sure-yes"), yes);
  return new Promise((answer) => {
    const end = (isYes) => () => { dialog.close(isYes ? "yes" : ""); };
    byId("sure-yes").onclick = end(true);
    byId("sure-no").onclick = end(false);
    dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true });
    dialog.returnValue = "";
    dialog.showModal();
    byId("sure-no").focus();
  });
}

const WAYS = {
  run: () => ["/sync/run", undefined, "A pass"],
  retry: (table) => [`/sync/table/${encodeURIComponent(table)}/retry`, undefined, `The retry of ${table}`],
  resync: (table) => [`/sync/table/${encodeURIComponent(table)}/full`, undefined, `The resync of ${table}`],
  check: (table) => ["/consistency/check", { tables: [table] }, `The check of ${table}`],
  "check-all": () => ["/consistency/check", {}, "The check of all tables"],
};

// One wish for each click: the key tells the daemon a click that was sent twice from two.
function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function act(kind, table, button) {
  if (button.getAttribute("aria-disabled") === "true" || !(await isSure(kind, table))) return;
  const [path, body, what] = WAYS[kind](table);
  button.setAttribute("aria-disabled", "true");
  say(`${what}: asked for …`);
  try {
    const headers = { "Idempotency-Key": newKey() };
    if (body) headers["Content-Type"] = "application/json";
    const answer = await ask(API + path, { method: "POST", headers, body: body && JSON.stringify(body) });
    const execution = answer.document?.execution;
    if (answer.status === 202 && execution) {
      state.followed.set(execution.id, what);
      state.soonUntil = performance.now() + SOON_LASTS;
      say(`${what}: ${execution.state}`);
    } else {
      say(`${what} was not begun. ${words(answer)}`, true);
    }
  } catch (error) {
    say(`${what}: no answer (${error.name}); look below whether it was begun.`, true);
  }
  button.removeAttribute("aria-disabled");
  round();
}

// That a check has succeeded does not say what it found.
function verdicts({ kind, counts, state }) {
  if (kind !== "check" || state !== "succeeded" || !counts) return "";
  return `: ${counts.equal} checks equal, ${counts.differs} differ, ${counts.not_compared} not compared`;
}

// Says how what was begun here goes on, until it is over.
function follow(executions) {
  for (const [id, what] of state.followed) {
    const found = executions.find((execution) => execution.id === id);
    if (!found) continue;
    const isOver = found.ended_at !== null && found.ended_at !== undefined;
    if (isOver) state.followed.delete(id);
    say(`${what}: ${found.state}${found.error ? `: ${found.error}` : verdicts(found)}`, found.state === "failed" || found.state === "abandoned");
  }
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const typed = byId("token").value.trim();
  byId("token").value = "";
  if (!typed) return;
  if (!/^[\x21-\x7e]+$/.test(typed)) return say("A token has no blanks and no letters beyond ASCII.", true);
  show(byId("said"), false);
  keep(typed);
  round();
});
byId("token-forget").addEventListener("click", () => {
  keep(null);
  byId("token").focus();
  round();
});
byId("run").addEventListener("click", (event) => act("run", undefined, event.target));
byId("check-all").addEventListener("click", (event) => act("check-all", undefined, event.target));
document.addEventListener("visibilitychange", () => document.hidden || round());
setInterval(() => { hear(); if (!document.hidden) tick(); }, 1000);
keep(token);
round();
