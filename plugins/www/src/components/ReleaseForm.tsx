import { useEffect, useState } from "react";

import { type AirflowRun, getRun, isOver, orderRelease, type ReleaseOrder, runAddress } from "../airflow";
import { toProblem } from "../data";
import { day as formatDay } from "../format";
import { usePlace } from "../session";
import { Notice, OutsideLink } from "./basics";

const POLL = 3_000;
const REASON = 5;

interface ReleaseFormProps {
  dag: string;
  action: ReleaseOrder["action"];
  version: number;
  onDone: () => void;
  onCancel: () => void;
}

export const VERBS: Record<ReleaseOrder["action"], string> = { promote: "Promote", roll_back: "Roll back to" };

/** The release DAG's own form, asked twice since it changes what is served. */
export function ReleaseForm({ dag, action, version, onDone, onCancel }: ReleaseFormProps) {
  const { airflow } = usePlace();
  const [reason, setReason] = useState("");
  const [day, setDay] = useState("");
  const [sure, setSure] = useState(false);
  const [sending, setSending] = useState(false);
  const [problem, setProblem] = useState("");
  const [run, setRun] = useState<AirflowRun | null>(null);
  if (run) return <Progress run={run} onDone={onDone} />;

  const send = async () => {
    setSending(true);
    setProblem("");
    try {
      setRun(await orderRelease(airflow, dag, { action, version, reason: reason.trim(), day }));
    } catch (error) {
      setProblem(toProblem(error).message);
      setSure(false);
    }
    setSending(false);
  };
  return (
    <form
      className="release"
      onSubmit={(event) => {
        event.preventDefault();
        if (sure) void send();
        else setSure(true);
      }}
    >
      <h4>
        {VERBS[action]} version {version}
      </h4>
      {sure ? (
        <p role="alert">
          Version {version} will be in charge from the next scoring on
          {day !== "" && `, and ${formatDay(day)} is scored again`}. The ledger keeps your name and this reason: “{reason.trim()}”.
        </p>
      ) : (
        <>
          <label>
            Why (at least {REASON} characters)
            <textarea required minLength={REASON} rows={2} value={reason} onChange={({ target }) => setReason(target.value)} />
          </label>
          <label>
            Score this day again (optional)
            <input type="date" value={day} onChange={({ target }) => setDay(target.value)} />
          </label>
        </>
      )}
      {problem !== "" && <Notice tone="bad">Nothing was changed: {problem}</Notice>}
      <div className="controls">
        <button className="primary" disabled={sending || reason.trim().length < REASON}>
          {sure ? `Yes, ${VERBS[action].toLowerCase()} version ${version}` : "Continue"}
        </button>
        <button type="button" onClick={() => (sure ? setSure(false) : onCancel())}>
          {sure ? "Back" : "Cancel"}
        </button>
      </div>
    </form>
  );
}

function Progress({ run, onDone }: { run: AirflowRun; onDone: () => void }) {
  const { airflow } = usePlace();
  const [now, setNow] = useState({ state: run.state, problem: "" });
  useEffect(() => {
    if (isOver(now.state)) {
      if (now.state === "success") onDone();
      return;
    }
    const timer = setTimeout(() => {
      getRun(airflow, run).then(
        ({ state }) => setNow({ state, problem: "" }),
        (error: unknown) => setNow({ state: "unknown", problem: toProblem(error).message }),
      );
    }, POLL);
    return () => clearTimeout(timer);
    // Each answer starts the wait for the next one.
    // eslint-disable-next-line react-hooks/exhaustive-deps
  }, [now]);
  return (
    <Notice tone={now.state === "success" ? "good" : now.state === "failed" ? "bad" : "info"}>
      <p role="status">
        <OutsideLink to={`${airflow}/${runAddress(run.dag_id, run.dag_run_id)}`}>Run of {run.dag_id}</OutsideLink>: {now.state}
        {now.problem && `, its state cannot be read: ${now.problem}`}
        {now.state === "failed" && ". The log of its failed task says why."}
      </p>
    </Notice>
  );
}
