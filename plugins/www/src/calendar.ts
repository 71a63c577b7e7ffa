import type { Calendar, CalendarTable, DayRun } from "./api";
import type { GridCell, GridRow } from "./components/Grid";
import { count, type Day, day, percent } from "./format";
import { category } from "./theme";

type State = CalendarTable["states"][number];

export const STATES: Record<State, [mark: string, words: string]> = {
  present: ["", "present"],
  empty: ["○", "present without a row"],
  stale: ["~", "stale: its source has changed since"],
  missing: ["✗", "missing"],
  refused: ["⊘", "refused by a rule"],
  owed: ["…", "owed, still within its SLA"],
  none: ["", "not expected"],
};

export const RUNS: Record<DayRun["state"], [mark: string, words: string]> = {
  failed: ["!", "run failed"],
  running: ["▸", "run in progress"],
  queued: ["»", "run queued"],
};

export type RunsByCell = Map<string, DayRun>;

export const runKey = (dag: string, value: Day): string => `${dag} ${value}`;

/** Of several runs for one cell the failed one counts, since it waits for somebody. */
export function runsByCell(runs: DayRun[]): RunsByCell {
  const found: RunsByCell = new Map();
  for (const run of runs) {
    const key = runKey(run.dag_id, run.day);
    if (found.get(key)?.state !== "failed") found.set(key, run);
  }
  return found;
}

export function versionsOf(calendar: Calendar): number[] {
  const versions = calendar.tables.flatMap((table) => table.versions.filter((version) => version !== null));
  return [...new Set(versions)].sort((one, other) => one - other);
}

/** The facts of one cell, in the order in which they are read. */
export function facts(table: CalendarTable, days: Day[], column: number, run?: DayRun): [string, string][] {
  const state = table.states[column] ?? "none";
  const [version, rows, share] = [table.versions[column], table.rows[column], table.quarantined[column]];
  const reason = table.reasons[days[column] ?? ""];
  return [
    ["State", STATES[state][1]],
    ...(rows != null ? [["Rows", count(rows)] as [string, string]] : []),
    ...(share != null ? [["Quarantined", percent(share, 2)] as [string, string]] : []),
    ...(version != null ? [["Model version", String(version)] as [string, string]] : []),
    ...(reason ? [["Why", reason] as [string, string]] : []),
    ...(run ? [["Airflow", RUNS[run.state][1]] as [string, string]] : []),
  ];
}

function cell(table: CalendarTable, days: Day[], column: number, runs: RunsByCell, palette: Map<number, string>): GridCell {
  const value = days[column] ?? "";
  const state = table.states[column] ?? "none";
  const version = table.versions[column] ?? null;
  const run = runs.get(runKey(table.made_by, value));
  const known = state === "present" && version !== null;
  const said = facts(table, days, column, run).map(([label, text]) => `${label.toLowerCase()} ${text}`);
  return {
    tone: `${known ? (palette.get(version) ?? "") : `is-${state}`}${run ? ` run-${run.state}` : ""}`,
    mark: run ? RUNS[run.state][0] : known ? String(version) : STATES[state][0],
    label: `${table.table}, ${day(value)}: ${said.join(", ")}`,
  };
}

export function calendarRows({ tables, days }: Calendar, runs: RunsByCell, versions: number[]): GridRow[] {
  const palette = new Map(versions.map((version, index) => [version, category(index)]));
  return tables.map((table) => ({
    key: table.table,
    label: table.table,
    title: `${table.table}, made by ${table.made_by}`,
    cells: days.map((_, column) => cell(table, days, column, runs, palette)),
  }));
}
