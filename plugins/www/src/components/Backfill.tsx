import { useEffect, useState } from "react";

import {
  type AirflowBackfill,
  countRuns,
  dagAddress,
  type DryRun,
  dryRun,
  getBackfill,
  isPaused,
  type Reprocess,
  type RunCounts,
  startBackfill,
} from "../airflow";
import type { BackfillPlan } from "../api";
import { toProblem, useApi, casePath } from "../data";
import { count, type Day, day, duration, plural } from "../format";
import { usePlace } from "../session";
import { Empty, Loaded, Notice, OutsideLink, Section, Table } from "./basics";

const POLL = 5_000;

const CHOICES: Record<Reprocess, string> = {
  none: "Only days that never ran",
  failed: "Also days whose run failed",
  completed: "Every day again, also those that succeeded",
};

interface BackfillProps {
  first: Day;
  last: Day;
  /** Something was started or has ended: what is shown is out of date. */
  onChange: () => void;
}

/** Which runs the chosen days would take, and their start. */
export function Backfill({ first, last, onChange }: BackfillProps) {
  const { entry, useCase, mayTrigger } = usePlace();
  const { ingest, monitor } = entry.dags;
  const [chosen, choose] = useState(ingest ?? monitor ?? "");
  const plan = useApi<BackfillPlan>(chosen === "" ? null : casePath(useCase, "plan"), { dag_id: chosen, from: first, to: last });
  const title = first === last ? `Backfill ${day(first)}` : `Backfill ${day(first)} to ${day(last)}`;
  if (chosen === "") return <Empty>This use case has neither an ingest nor a monitor DAG to backfill.</Empty>;
  const radio = (dag: string | undefined, text: string) =>
    dag && (
      <label>
        <input type="radio" name="dag" checked={chosen === dag} onChange={() => choose(dag)} /> {dag} {text}
      </label>
    );
  return (
    <Section title={title}>
      <fieldset>
        <legend>Start with</legend>
        {radio(ingest, "and all that follows")}
        {radio(monitor, "only")}
      </fieldset>
      <Loaded of={plan}>
        {(found) => (
          <>
            <Table
              caption="Runs, in the order in which they run"
              rows={found.steps}
              rowKey={(row) => row.dag_id}
              columns={[
                { head: "DAG", cell: (row) => row.dag_id },
                { head: "Runs", number: true, cell: (row) => count(row.runs) },
                { head: "Estimated time", number: true, cell: (row) => duration(row.seconds) },
                { head: "Because", cell: (row) => row.because },
              ]}
            />
            <p>In all, about: {duration(found.seconds)}.</p>
            {found.notes.map((note) => (
              <Notice key={note}>{note}</Notice>
            ))}
            {mayTrigger(found.dag_id) ? (
              <Start key={found.dag_id} plan={found} onChange={onChange} />
            ) : (
              <Empty>You may look, but your role in Airflow does not allow you to start runs of {found.dag_id}.</Empty>
            )}
          </>
        )}
      </Loaded>
    </Section>
  );
}

/** Everything that Airflow says of a backfill before it is started. */
function usePreview(base: string, body: Record<string, unknown>, dag: string) {
  const [state, setState] = useState<{ key: string; runs?: DryRun; paused?: boolean; problem?: string }>({ key: "" });
  const key = JSON.stringify(body);
  useEffect(() => {
    let current = true;
    Promise.all([dryRun(base, JSON.parse(key) as Record<string, unknown>), isPaused(base, dag)]).then(
      ([runs, paused]) => current && setState({ key, runs, paused }),
      (error: unknown) => current && setState({ key, problem: toProblem(error).message }),
    );
    return () => {
      current = false;
    };
  }, [base, dag, key]);
  return state.key === key ? state : undefined;
}

function Start({ plan, onChange }: { plan: BackfillPlan; onChange: () => void }) {
  const { airflow } = usePlace();
  const [reprocess, choose] = useState<Reprocess>("none");
  const [started, setStarted] = useState<AirflowBackfill | null>(null);
  const [problem, setProblem] = useState("");
  const [sending, setSending] = useState(false);
  const body = { ...plan.request, reprocess_behavior: reprocess };
  const preview = usePreview(airflow, body, plan.dag_id);
  const dag = <OutsideLink to={`${airflow}/${dagAddress(plan.dag_id)}`}>{plan.dag_id}</OutsideLink>;
  if (started) return <Progress backfill={started} onChange={onChange} />;

  const start = async () => {
    setSending(true);
    setProblem("");
    try {
      setStarted(await startBackfill(airflow, body));
      onChange();
    } catch (error) {
      setProblem(toProblem(error).message);
    }
    setSending(false);
  };
  const runs = preview?.runs?.total_entries ?? 0;
  return (
    <>
      <fieldset>
        <legend>Days that ran before</legend>
        {Object.entries(CHOICES).map(([value, text]) => (
          <label key={value}>
            <input type="radio" name="reprocess" checked={reprocess === value} onChange={() => choose(value as Reprocess)} />{" "}
            {text}
          </label>
        ))}
      </fieldset>
      {preview === undefined && <p role="status">Asking Airflow which runs it would create…</p>}
      {preview?.problem && <Notice tone="bad">Airflow would not start this: {preview.problem}</Notice>}
      {preview?.paused && (
        <Notice tone="warn">{dag} is paused: its runs will wait in the queue until somebody unpauses it.</Notice>
      )}
      {preview?.runs && runs === 0 && <Notice>Airflow would create no run: all of these days ran. Choose to run them again.</Notice>}
      {preview?.runs && runs > 0 && (
        <>
          <details>
            <summary>Airflow would create {plural(runs, "run")} of {plan.dag_id}; later DAGs follow on their own</summary>
            <ol className="columns">
              {preview.runs.backfills.map((run, index) => (
                <li key={index}>{run.partition_key ?? run.partition_date ?? run.logical_date}</li>
              ))}
            </ol>
          </details>
          <button className="primary" disabled={sending} onClick={() => void start()}>
            Start backfill
          </button>
        </>
      )}
      {problem !== "" && <Notice tone="bad">The backfill was not started: {problem}</Notice>}
    </>
  );
}

function Progress({ backfill, onChange }: { backfill: AirflowBackfill; onChange: () => void }) {
  const { airflow } = usePlace();
  const [now, setNow] = useState<{ over: boolean; counts?: RunCounts; problem?: string }>({ over: false });
  useEffect(() => {
    if (now.over) {
      onChange();
      return;
    }
    const timer = setTimeout(() => {
      Promise.all([getBackfill(airflow, backfill.id), countRuns(airflow, backfill)]).then(
        ([{ completed_at }, counts]) => setNow({ over: completed_at !== null, counts }),
        (error: unknown) => setNow({ over: false, problem: toProblem(error).message }),
      );
    }, POLL);
    return () => clearTimeout(timer);
    // Each answer starts the wait for the next one.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [now]);
  const { counts } = now;
  return (
    <Notice tone={now.over ? (counts?.failed ? "bad" : "good") : "info"}>
      <p role="status">
        Backfill {backfill.id} of{" "}
        <OutsideLink to={`${airflow}/${dagAddress(backfill.dag_id)}/backfills`}>{backfill.dag_id}</OutsideLink>{" "}
        {now.over ? "is over" : "runs"}
        {counts && `: ${counts.success} succeeded, ${counts.failed} failed, ${counts.running} running, ${counts.queued} queued`}.
      </p>
      {now.over && <p>Later DAGs follow on their own; the calendar shows them as they run.</p>}
      {now.problem && <p>Its progress cannot be read: {now.problem}</p>}
    </Notice>
  );
}
