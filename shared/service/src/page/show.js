// From the daemon's document to the page.

import { age, byId, bytes, element, fill, name, now, number, setText, show, time } from "/text.js";
import { plot, roof, roofOfTime } from "/plot.js";

const TROUBLES_SHOWN = 10;
const TABLES_SHOWN = 100;
const GLYPHS = { ok: "●", slow: "▲", broken: "✕", unknown: "○" };
const WORDS = { ok: "well", slow: "late", broken: "broken", unknown: "not known" };
const LABELS = { run: "Run a pass", retry: "Retry", resync: "Resync", check: "Check" };

const view = { allTroubles: false, allTables: false, find: "", document: null, act: null };

export function showDocument(document, act) {
  [view.document, view.act] = [document, act];
  const { status } = document;
  const isArchiver = "records_archived" in status;
  setText(byId("program"), document.program ?? (isArchiver ? "syncdata-archiver" : "syncdata-applier"));
  setText(byId("about"), isArchiver ? status.archive.location : status.archive);
  const troubles = troublesOf(status);
  showVerdict(status, troubles);
  showTroubles(troubles, status.hops ?? []);
  showWay(status.hops ?? []);
  showTables(status, isArchiver);
  showAlerts(document.alerts ?? status.alerts ?? []);
  showHost(status, isArchiver);
  for (const id of ["curves", "done", "logged"]) show(byId(id), document.hasToken);
  show(byId("dead"), document.hasToken && !isArchiver);
  show(byId("more"), !document.hasToken);
  for (const id of ["run", "check-all"]) show(byId(id), document.hasToken && !isArchiver);
  if (!document.hasToken) return;
  showCurves(document.points);
  showLetters(document.dead_letters, document.not_known);
  showExecutions(document.executions, document.not_known);
  showLog(document.log);
}

const again = () => view.document && showDocument(view.document, view.act);
byId("troubles-all").addEventListener("click", () => { view.allTroubles = true; again(); });
byId("tables-all").addEventListener("click", () => { view.allTables = true; again(); });
byId("find").addEventListener("input", (event) => { view.find = event.target.value.toLowerCase(); again(); });
addEventListener("resize", () => view.document?.hasToken && showCurves(view.document.points));

// What is wrong, and hops that are not well without anybody having said so.
function troublesOf(status) {
  const said = status.troubles ?? status.problems.map((words) => ({ words }));
  const hops = (status.hops ?? []).filter((hop) => hop.state === "broken" || hop.state === "slow");
  const unsaid = hops.filter((hop) => !said.some((trouble) => trouble.hop === hop.name));
  const ofHops = unsaid.map((hop) => ({ hop: hop.name, since: hop.since, words: hop.words, remedy: hop.remedy }));
  return [...ofHops, ...said];
}

function showVerdict(status, troubles) {
  const bad = (status.hops ?? []).find((hop) => hop.state === "broken") ?? (status.hops ?? []).find((hop) => hop.state === "slow");
  const state = troubles.length > 0 ? (status.healthy ? "slow" : "broken") : "ok";
  const count = troubles.length === 1 ? "1 problem" : `${troubles.length} problems`;
  const tables = [...new Set(troubles.map((trouble) => trouble.table).filter(Boolean))];
  const named = tables.length > 0 ? `: ${tables.slice(0, 3).join(", ")}${tables.length > 3 ? ` and ${tables.length - 3} more` : ""}` : "";
  const where = bad ? `, between ${bad.from} and ${bad.to}${named}` : named;
  byId("overall").className = state;
  setText(byId("verdict"), state === "ok" ? "● All is well" : `${GLYPHS[state]} ${count}${where}`);
  document.title = `${GLYPHS[state]} ${state === "ok" ? "well" : count} – ${byId("program").textContent}`;
}

function showTroubles(troubles, hops) {
  show(byId("problems"), troubles.length > 0);
  const shown = view.allTroubles ? troubles : troubles.slice(0, TROUBLES_SHOWN);
  const models = shown.map((trouble) => {
    const hop = hops.find((hop) => hop.name === trouble.hop);
    const key = `${trouble.hop ?? ""} ${trouble.table ?? ""} ${trouble.words}`;
    return {
      ...trouble, key, where: hop && `${hop.from} → ${hop.to}`, remedy: trouble.remedy ?? hop?.remedy,
      since: trouble.since ?? (trouble.table ? null : hop?.since), mayAct: view.document.hasToken,
    };
  });
  fill(byId("troubles"), models, (trouble) => element("li", {},
    element("p", { class: "where" },
      trouble.table ? name(trouble.table) : null,
      trouble.where ? element("span", { class: "hop-name" }, trouble.where) : null,
      trouble.since ? element("span", {}, trouble.table ? "as of " : "since ", time(trouble.since)) : null),
    element("p", { class: "words" }, trouble.words),
    trouble.remedy ? element("p", { class: "remedy" }, trouble.remedy) : null,
    trouble.command || trouble.action ? element("p", { class: "buttons" },
      trouble.command ? element("code", {}, trouble.command) : null,
      ...(trouble.mayAct ? actionsOf(trouble).map((action) => button(action, trouble.table)) : [])) : null));
  const more = byId("troubles-all");
  show(more, shown.length < troubles.length);
  setText(more, `Show all ${troubles.length} problems`);
}

function actionsOf(trouble) {
  if (!trouble.action) return [];
  return trouble.action === "retry" ? ["retry", "resync"] : [trouble.action];
}

function button(action, table) {
  const label = table ? element("span", { class: "unseen" }, ` ${table}`) : null;
  const made = element("button", { type: "button", class: "act", "data-act": action }, LABELS[action], label);
  made.addEventListener("click", () => view.act(action, table, made));
  return made;
}

function showWay(hops) {
  const models = hops.map((hop, place) => ({ ...hop, key: hop.name, isLast: place === hops.length - 1 }));
  fill(byId("way"), models, (hop) => element("li", { class: `hop ${hop.state}` },
    element("span", { class: "place" }, hop.from),
    element("span", { class: "edge" },
      element("span", { class: "lag" }, hop.lag_seconds === null ? "–" : age(hop.lag_seconds)),
      element("span", { class: "arrow", "aria-hidden": "true" }),
      element("span", { class: "unseen" }, ` to ${hop.to}: `),
      element("strong", {}, `${GLYPHS[hop.state]} ${WORDS[hop.state]}`),
      hop.since ? element("span", { class: "since" }, " since ", time(hop.since)) : null,
      element("span", { class: "words" }, hop.words ?? "")),
    hop.isLast ? element("span", { class: "place" }, hop.to) : null));
}

function cell(label, ...content) {
  return element("td", { role: "cell", "data-label": label }, ...content);
}

function head(id, labels) {
  fill(byId(id), labels.map((label) => ({ key: label })),
    ({ key }) => element("th", { role: "columnheader", scope: "col" }, key));
}

const isWell = (table) => table.state === "live" && !table.stale && !table.differs && !table.load_failed && !table.incomplete_lsn;

// A new table that waits for its first base is healthy.
const isNew = (table) => (table.state === "pending" || table.state === "loading") && !table.load_failed;

function showTables(status, isArchiver) {
  const all = isArchiver
    ? status.tables.map((table) => ({ table, state: "captured", noIdentity: status.tables_without_identity.includes(table) }))
    : status.tables;
  const found = all.filter((table) => table.table.toLowerCase().includes(view.find));
  const bad = isArchiver ? [] : found.filter((table) => !isWell(table));
  const sorted = isArchiver ? found : [...bad, ...found.filter(isWell)];
  const ill = bad.filter((table) => !isNew(table)).length;
  const shown = view.allTables ? sorted : sorted.slice(0, TABLES_SHOWN);
  const mayAct = view.document.hasToken && !isArchiver;
  const labels = isArchiver ? ["Table", "State"] : ["Table", "State", "As of", "Rows", "Score", "Proved", ...(mayAct ? ["Actions"] : [])];
  head("tables-head", labels);
  const models = shown.map((table) => ({ ...table, key: table.table, mayAct }));
  fill(byId("tables"), models, isArchiver ? capturedRow : tableRow);
  setText(byId("tables-title"), `Tables (${number(all.length)}${ill > 0 ? `, ${number(ill)} not well` : ""})`);
  const more = byId("tables-all");
  show(more, shown.length < sorted.length);
  setText(more, `Show all ${number(sorted.length)} tables`);
  show(byId("tables-none"), sorted.length === 0);
  setText(byId("tables-none"), all.length === 0 ? "None yet." : "None of that name.");
}

function tableRow(table) {
  const flags = [
    table.stale && table.state === "live" ? "not fresh" : null, table.differs ? "differs" : null,
    table.incomplete_lsn ? "incomplete" : null, table.load_failed ? "not loaded" : null,
    table.nan_as_null?.length > 0 ? "NaN as NULL" : null,
  ].filter(Boolean);
  const state = isWell(table) ? "ok" : table.state === "loading" || table.state === "pending" ? "unknown" : "broken";
  const reason = table.reason ?? table.load_failed;
  const counted = table.rows_counted_at !== null;
  return element("tr", { role: "row", class: state },
    element("th", { role: "rowheader", scope: "row", "data-label": "Table" }, name(table.table)),
    cell("State", element("strong", {}, `${GLYPHS[state]} ${table.state}`), ...flags.map((flag) => element("em", {}, flag)),
      reason ? element("span", { class: "reason" }, reason) : null),
    cell("As of", time(table.data_as_of)),
    cell("Rows", table.rows === null ? "–" : `${counted ? "" : "≈ "}${number(table.rows)}`),
    cell("Score", table.score === null ? "–" : `${table.score} %`),
    cell("Proved", time(table.proved_at)),
    table.mayAct ? cell("Actions", ...(isWell(table) ? ["check", "resync"] : table.state === "quarantined" ? ["retry", "resync"] : ["resync", "check"])
      .map((action) => button(action, table.table))) : null);
}

function capturedRow(table) {
  return element("tr", { role: "row" },
    element("th", { role: "rowheader", scope: "row", "data-label": "Table" }, name(table.table)),
    cell("State", element("strong", {}, "captured"), table.noIdentity ? element("em", {}, "no replica identity: UPDATE and DELETE are refused or missing") : null));
}

function showCurves(points) {
  const minuteNow = Math.floor(now() / 60000);
  const values = (of) => points.map((point) => [point[0], of(point)]);
  const lags = values((point) => point[1]);
  const most = Math.max(0, ...lags.map(([, lag]) => lag ?? 0));
  const last = points[points.length - 1];
  setText(byId("lag-words"), `Lag: ${last ? age(last[1]) : "no minute yet"}, at most ${age(most)}`);
  plot(byId("lag"), lags, minuteNow, roofOfTime(most), age);
  const records = values((point) => point[2]);
  const all = records.reduce((sum, [, count]) => sum + count, 0);
  setText(byId("records-words"), `Records a minute: ${number(last ? last[2] : 0)}, in all ${number(all)}`);
  plot(byId("records"), records, minuteNow, roof(Math.max(0, ...records.map(([, count]) => count))), (value) => short(value));
}

function short(value) {
  if (value >= 1e6) return `${value / 1e6} M`;
  return value >= 1e4 ? `${value / 1e3} k` : String(value);
}

function table(id, noneId, models, build, words) {
  fill(byId(id), models, build);
  show(byId(id).parentElement, models.length > 0);
  show(byId(noneId), models.length === 0);
  setText(byId(noneId), words);
}

function showLetters(letters, notKnown) {
  const models = letters.map((letter) => ({ ...letter, key: letter.operation_id }));
  table("letters", "dead-none", models, (letter) => element("tr", { role: "row", class: "broken" },
    element("th", { role: "rowheader", scope: "row", "data-label": "Table" }, name(letter.table)),
    cell("First failed", time(letter.at)),
    cell("Attempts", number(letter.attempts)),
    cell("Place", `segment ${letter.seq}${letter.line === null ? "" : `, line ${letter.line}`}`),
    cell("Reason", element("span", { class: "reason" }, letter.reason)),
    cell("Actions", button("retry", letter.table))), notKnown[0] ?? "None is open.");
}

function showAlerts(alerts) {
  const models = alerts.map((alert) => ({ ...alert, key: alert.id }));
  table("alerts", "alerts-none", models, (alert) => element("tr", { role: "row", class: alert.resolved_at ? "" : "broken" },
    element("th", { role: "rowheader", scope: "row", "data-label": "Alert" }, alert.kind.replaceAll("_", " ")),
    cell("Of", alert.subject === "*" ? "all" : name(alert.subject)),
    cell("Value", `${alert.value} (threshold ${alert.threshold})`),
    cell("Since", time(alert.since)),
    cell("Over", alert.resolved_at ? time(alert.resolved_at) : element("strong", {}, "open"))), "None is open.");
}

function showExecutions(executions, notKnown) {
  const states = { succeeded: "ok", running: "unknown", queued: "unknown", failed: "broken", abandoned: "slow" };
  const models = executions.map((execution) => ({ ...execution, key: execution.id }));
  table("executions", "done-none", models, (execution) => {
    const state = states[execution.state] ?? "unknown";
    const took = execution.ended_at ? age((Date.parse(execution.ended_at) - Date.parse(execution.started_at)) / 1000) : "–";
    const times = execution.times ?? execution.counts?.times;
    const counts = Object.entries(execution.counts ?? {}).filter(([key]) => key !== "times").map(([key, count]) => `${key.replaceAll("_", " ")} ${typeof count === "number" ? number(count) : JSON.stringify(count)}`);
    return element("tr", { role: "row", class: state },
      element("th", { role: "rowheader", scope: "row", "data-label": "Began" }, time(execution.started_at)),
      cell("What", execution.kind, execution.trigger ? element("span", { class: "quiet" }, ` by ${execution.trigger}`) : null,
        times > 1 ? element("span", { class: "quiet" }, `, ${number(times)} times`) : null,
        ...(execution.tables ?? []).slice(0, 5).map((table) => element("em", {}, name(table))),
        execution.tables?.length > 5 ? element("em", {}, `and ${execution.tables.length - 5} more`) : null),
      cell("State", element("strong", {}, `${GLYPHS[state]} ${execution.state}`)),
      cell("Took", took),
      cell("Came to", counts.join(", "), execution.error ? element("span", { class: "reason" }, execution.error) : null));
  }, notKnown[0] ?? "Nothing yet.");
}

function showHost(status, isArchiver) {
  const facts = [["Version", status.version], ["Running since", time(status.start_time)]];
  if (isArchiver) {
    const { source, spool, archive } = status;
    if (source) {
      facts.push(["Slot", `${source.slot}, ${source.wal_status}`],
        ["WAL that production keeps", `${bytes(source.retained_bytes)} of ${bytes(source.wal_guard_bytes)} (guard)`]);
    }
    if (spool) facts.push(["Spool", `${number(spool.segments)} segments, ${bytes(spool.bytes)} of ${bytes(spool.max_bytes)}`]);
    facts.push(["Shipped", archive.last_shipped ? time(archive.last_shipped) : "nothing yet"],
      ["Newest snapshot", archive.newest_snapshot ? time(archive.newest_snapshot.taken_at) : "none"],
      ["Newest proof", time(archive.newest_proof_at)]);
  } else {
    facts.push(["Data as of", time(status.copy.data_as_of)], ["Last pass", time(status.last_sync)],
      ["Segments that wait", number(status.waiting_segments)], ["Dead letters", number(status.quarantine_records)]);
  }
  for (const [peer, circuit] of Object.entries(status.circuits ?? {})) {
    facts.push([`Answers: ${peer.replaceAll("_", " ")}`, circuit.state === "closed" ? "● yes" : `✕ no, ${number(circuit.failures)} failures`]);
  }
  for (const disk of status.disks ?? []) facts.push([`Room for the ${disk.folder}`, `${bytes(disk.free_bytes)} of ${bytes(disk.size_bytes)}`]);
  facts.push(["Last verify", status.last_verify ? time(status.last_verify.at) : "never from here"],
    ["Errors since the start", number(status.errors)]);
  if (status.last_error) facts.push(["Last error", status.last_error]);
  for (const note of status.notes ?? []) facts.push(["Note", note]);
  byId("host").replaceChildren(...facts.map(([term, words]) => element("div", {}, element("dt", {}, term), element("dd", {}, words))));
}

function showLog(lines) {
  const newestFirst = [...lines].reverse().map((line, place) => ({ ...line, key: `${line.at} ${lines.length - place} ${line.text}` }));
  fill(byId("log"), newestFirst, (line) => element("li", { class: line.level.toLowerCase() },
    element("time", { datetime: line.at, class: "plain" }, line.at.slice(11, 19), element("span", { class: "age" })),
    element("b", {}, ` ${line.level} `), line.text));
}
