import { type ReactNode, useEffect, useMemo, useState } from "react";

import { runAddress } from "../airflow";
import type { Calendar, DayRun } from "../api";
import { calendarRows, facts, runKey, RUNS, runsByCell, STATES, versionsOf } from "../calendar";
import { Backfill } from "../components/Backfill";
import { Empty, Facts, Loaded, OutsideLink, Section } from "../components/basics";
import { Grid } from "../components/Grid";
import { Range } from "../components/Range";
import { useApi, casePath } from "../data";
import { day } from "../format";
import { useQuery } from "../route";
import { type Span, spanOfDays } from "../selection";
import { usePlace } from "../session";
import { category } from "../theme";

const REFRESH = 15_000;

function Legend({ versions }: { versions: number[] }) {
  const entries: [tone: string, mark: string, text: string][] = [
    ...Object.entries(STATES).map(([state, [mark, text]]) => [`is-${state}`, mark, text] as [string, string, string]),
    ...Object.entries(RUNS).map(([state, [mark, text]]) => [`is-none run-${state}`, mark, text] as [string, string, string]),
    ...versions.map((version, index) => [category(index), String(version), `scored by version ${version}`] as [string, string, string]),
  ];
  return (
    <ul className="legend">
      {entries.map(([tone, mark, text]) => (
        <li key={text}>
          <span className={`cell ${tone}`} aria-hidden="true">
            {mark}
          </span>
          {text}
        </li>
      ))}
    </ul>
  );
}

interface BoardProps {
  calendar: Calendar;
  runs: DayRun[];
  reload: () => void;
}

function Board({ calendar, runs, reload }: BoardProps) {
  const { days, tables } = calendar;
  const { airflow } = usePlace();
  const [query, change] = useQuery();
  const [open, setOpen] = useState<{ row: number; column: number } | null>(null);
  const found = useMemo(() => runsByCell(runs), [runs]);
  const versions = useMemo(() => versionsOf(calendar), [calendar]);
  const rows = useMemo(() => calendarRows(calendar, found, versions), [calendar, found, versions]);
  const selection = spanOfDays(days, query.get("first"), query.get("last"));
  const select = ({ from, to }: Span) => change({ first: days[from], last: days[to] });

  const table = open && tables[open.row];
  const at = open && days[open.column];
  const run = table && at ? found.get(runKey(table.made_by, at)) : undefined;
  const details: [string, ReactNode][] =
    table && at ? [...facts(table, days, open.column, run), ["Made by", table.made_by]] : [];
  if (run) {
    const address = `${airflow}/${runAddress(run.dag_id, run.run_id)}`;
    details.push(["Run", <OutsideLink to={address}>{run.run_id}</OutsideLink>]);
  }
  const [first, last] = selection ? [days[selection.from], days[selection.to]] : [];
  const input = (name: "first" | "last", label: string) => (
    <label>
      {label}{" "}
      <input
        type="date"
        min={days[0]}
        max={days.at(-1)}
        value={query.get(name) ?? ""}
        onChange={({ target: { value } }) =>
          change({ first: query.get("first") ?? value, last: query.get("last") ?? value, [name]: value })
        }
      />
    </label>
  );
  return (
    <>
      <Grid
        caption="Tables by day"
        {...{ days, rows, selection }}
        onSelect={select}
        onOpen={(row, column) => setOpen({ row, column })}
      />
      <Legend versions={versions} />
      <div className="controls">
        {input("first", "Select from")}
        {input("last", "to")}
        {selection && <button onClick={() => change({ first: null, last: null })}>Clear selection</button>}
        <span className="quiet">Or click a day, then Shift-click another, or drag; with keys, Shift and the arrows.</span>
      </div>
      {table && at && (
        <Section title={`${table.table}, ${day(at)}`}>
          <Facts items={details} />
        </Section>
      )}
      {first && last && <Backfill key={`${first} ${last}`} first={first} last={last} onChange={reload} />}
    </>
  );
}

export function CalendarPage() {
  const { useCase } = usePlace();
  const [query] = useQuery();
  const span = { from: query.get("from"), to: query.get("to") };
  const calendar = useApi<Calendar>(casePath(useCase, "calendar"), span);
  const days = calendar.data?.days;
  const shown = { from: days?.[0], to: days?.at(-1) };
  const runs = useApi<DayRun[]>(days?.length ? casePath(useCase, "runs") : null, shown);
  const busy = runs.data?.some(({ state }) => state !== "failed") ?? false;

  const reload = () => {
    calendar.reload();
    runs.reload();
  };
  useEffect(() => {
    if (!busy) return;
    const timer = setTimeout(reload, REFRESH);
    return () => clearTimeout(timer);
  });

  const newest = calendar.data?.newest_day;
  return (
    <>
      <Range newest={newest} first={calendar.data?.first_day} shown={[shown.from, shown.to]} />
      <Loaded of={calendar}>
        {(data) =>
          data.days.length === 0 ? (
            <Empty>No table has a day in this range. Choose another range, or start the ingest DAG.</Empty>
          ) : (
            <Board calendar={data} runs={runs.data ?? []} reload={reload} />
          )
        }
      </Loaded>
      {runs.problem && <p className="quiet">Runs of Airflow are not shown: {runs.problem.message}</p>}
    </>
  );
}
