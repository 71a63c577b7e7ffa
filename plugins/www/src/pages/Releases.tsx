import { useState } from "react";

import type { LedgerEntry, Releases, RolloutStep, Version } from "../api";
import { Badge, Bullets, Code, Empty, Facts, Loaded, Notice, Section, Table, type Tone } from "../components/basics";
import { ReleaseForm, VERBS } from "../components/ReleaseForm";
import { useApi, casePath } from "../data";
import { count, day, instant, interval, metric, NOTHING, percent, words } from "../format";
import { actionFor, againstMetrics, type Compared } from "../releases";
import { useQuery } from "../route";
import { usePlace } from "../session";

const TONES: Record<Version["state"], Tone> = { champion: "good", challenger: "info", refused: "bad", former: "plain" };
const MODES: Record<Releases["mode"], string> = {
  auto: "What passes the gate is promoted by itself.",
  approve: "What passes the gate waits for approval in Airflow.",
  shadow: "What passes the gate scores in the shadow until somebody promotes it.",
};

function Story({ entries }: { entries: LedgerEntry[] }) {
  const { zone } = usePlace();
  if (entries.length === 0) return <Empty>Nothing has been promoted yet.</Empty>;
  return (
    <ol className="story">
      {entries.map((entry) => (
        <li key={entry.sequence}>
          <p>
            <strong>{entry.actor}</strong>{" "}
            {entry.action === "promote" ? "put" : <Badge tone="warn">rolled back to</Badge>}{" "}
            <a href={`${window.location.pathname}${window.location.search}#version-${entry.version}`}>version {entry.version}</a>
            {entry.action === "promote" && " in charge"}
            {entry.previous_version !== null && `, after version ${entry.previous_version}`}: {entry.reason}
          </p>
          <p className="quiet">
            {instant(entry.recorded_at, zone)} {entry.until ? `until ${instant(entry.until, zone)}` : "until now"}, entry{" "}
            {entry.sequence} <Code>{entry.hash}</Code>
          </p>
        </li>
      ))}
    </ol>
  );
}

function Rollouts({ steps }: { steps: RolloutStep[] }) {
  const { zone } = usePlace();
  return (
    <ol className="story">
      {steps.map(({ sequence, champion, challenger, share, actor, reason, recorded_at }) => (
        <li key={sequence}>
          <p>
            <strong>{actor}</strong> {share === null ? <Badge tone="warn">stopped</Badge> : share === 0 ? "let" : "gave"}{" "}
            <a href={`${window.location.pathname}${window.location.search}#version-${challenger}`}>version {challenger}</a>
            {share === 0 && ` score in the shadow of version ${champion}`}
            {share !== null && share > 0 && ` ${percent(share)} of the scores, beside version ${champion}`}: {reason}
          </p>
          <p className="quiet">
            {instant(recorded_at, zone)}, entry {sequence}
          </p>
        </li>
      ))}
    </ol>
  );
}

function Evidence({ of }: { of: Version }) {
  const baselines: Compared[] = Object.entries(of.baselines).map(([name, measured]) => ({ name, measured }));
  return (
    <>
      {of.reasons.length > 0 && <Bullets items={of.reasons} />}
      <Table
        caption="Rules of the gate"
        rows={of.checks}
        rowKey={(row) => row.name}
        columns={[
          { head: "Rule", cell: (row) => words(row.name) },
          { head: "Passed", cell: (row) => (row.passed ? <Badge tone="good">yes</Badge> : <Badge tone="bad">no</Badge>) },
          { head: "Found", number: true, cell: (row) => metric(row.found) },
          { head: "Required", number: true, cell: (row) => metric(row.required) },
          { head: "Reason", cell: (row) => row.reason },
        ]}
      />
      <Table
        caption="Metrics on its holdout, with 95 % intervals"
        rows={againstMetrics(of.metrics, baselines)}
        rowKey={(row) => row.metric}
        columns={[
          { head: "Metric", cell: (row) => words(row.metric) },
          { head: "This version", number: true, cell: (row) => (row.own ? interval(row.own) : NOTHING) },
          ...baselines.map(({ name }, index) => ({
            head: `Baseline ${name}`,
            number: true,
            cell: (row: ReturnType<typeof againstMetrics>[number]) => {
              const found = row.others[index];
              return found ? interval(found) : NOTHING;
            },
          })),
        ]}
      />
      {of.against.length > 0 && (
        <Table
          caption="Difference on the same rows: this version minus the other"
          rows={of.against}
          rowKey={(row) => `${row.other} ${row.metric}`}
          columns={[
            { head: "Against", cell: (row) => row.other },
            { head: "Metric", cell: (row) => words(row.metric) },
            { head: "Difference", number: true, cell: (row) => interval({ value: row.estimate, ...row }) },
          ]}
        />
      )}
      <Facts items={Object.entries(of.rows).map(([name, rows]) => [words(name), count(rows)])} />
    </>
  );
}

interface VersionProps {
  of: Version;
  releases: Releases;
  reload: () => void;
}

function OneVersion({ of, releases, reload }: VersionProps) {
  const { useCase, mayTrigger } = usePlace();
  const [asking, ask] = useState(false);
  const action = actionFor(of, releases.entries);
  return (
    <article id={`version-${of.version}`}>
      <h3>
        Version {of.version} <Badge tone={TONES[of.state]}>{of.state}</Badge>
      </h3>
      <p>
        Trained on {day(of.trained_on)}, because {of.asked_by}. {of.effect && `What came of it: ${of.effect}`}
      </p>
      <p className="links">
        <a href={`cards/${encodeURIComponent(useCase)}/${of.version}`}>Model card</a>
        {mayTrigger(releases.release_dag) && action && !asking && <button onClick={() => ask(true)}>{VERBS[action]} version {of.version}</button>}
      </p>
      {asking && action && (
        <ReleaseForm dag={releases.release_dag} action={action} version={of.version} onDone={reload} onCancel={() => ask(false)} />
      )}
      <details>
        <summary>Evidence: {of.checks.filter(({ passed }) => passed).length} of {of.checks.length} rules passed</summary>
        <Evidence of={of} />
      </details>
    </article>
  );
}

function Compare({ versions }: { versions: Version[] }) {
  const [query, change] = useQuery();
  const find = (name: "a" | "b") => versions.find(({ version }) => String(version) === query.get(name));
  const [a, b] = [find("a"), find("b")];
  const choice = (name: "a" | "b", label: string) => (
    <label>
      {label}{" "}
      <select value={query.get(name) ?? ""} onChange={({ target }) => change({ [name]: target.value })}>
        <option value="">–</option>
        {versions.map(({ version, state }) => (
          <option key={version} value={version}>
            {version}, {state}
          </option>
        ))}
      </select>
    </label>
  );
  return (
    <Section title="Compare two versions">
      <div className="controls">
        {choice("a", "Version")}
        {choice("b", "with version")}
      </div>
      {a && b && <SideBySide {...{ a, b }} />}
    </Section>
  );
}

function SideBySide({ a, b }: { a: Version; b: Version }) {
  const heads = [`Version ${a.version}`, `Version ${b.version}`] as const;
  const rules = [...new Set([...a.checks, ...b.checks].map(({ name }) => name))];
  const verdict = (version: Version, rule: string) => {
    const check = version.checks.find(({ name }) => name === rule);
    return check ? <Badge tone={check.passed ? "good" : "bad"}>{metric(check.found)}</Badge> : NOTHING;
  };
  const facts: [string, (version: Version) => string][] = [
    ["State", ({ state }) => state],
    ["Trained on", ({ trained_on }) => day(trained_on)],
    ["Because", ({ asked_by }) => asked_by],
    ["Decision", ({ decision }) => decision ?? NOTHING],
    ["What came of it", ({ effect }) => effect || NOTHING],
  ];
  return (
    <>
      <Table
        caption="What they are"
        rows={facts}
        rowKey={([label]) => label}
        columns={[
          { head: "", cell: ([label]) => label },
          { head: heads[0], cell: ([, of]) => of(a) },
          { head: `${heads[1]}${a === b ? " again" : ""}`, cell: ([, of]) => of(b) },
        ]}
      />
      <Table
        caption="Metrics, each on its own holdout, with 95 % intervals"
        rows={againstMetrics(a.metrics, [{ name: heads[1], measured: b.metrics }])}
        rowKey={(row) => row.metric}
        columns={[
          { head: "Metric", cell: (row) => words(row.metric) },
          { head: heads[0], number: true, cell: (row) => (row.own ? interval(row.own) : NOTHING) },
          { head: `${heads[1]}${a === b ? " again" : ""}`, number: true, cell: (row) => (row.others[0] ? interval(row.others[0]) : NOTHING) },
        ]}
      />
      <Table
        caption="Rules of the gate, with what was found"
        rows={rules}
        rowKey={(rule) => rule}
        columns={[
          { head: "Rule", cell: words },
          { head: heads[0], cell: (rule) => verdict(a, rule) },
          { head: `${heads[1]}${a === b ? " again" : ""}`, cell: (rule) => verdict(b, rule) },
        ]}
      />
    </>
  );
}

export function ReleasesPage() {
  const { useCase, mayTrigger } = usePlace();
  const releases = useApi<Releases>(casePath(useCase, "releases"));
  return (
    <Loaded of={releases}>
      {(data) => (
        <>
          <p>
            {MODES[data.mode]}
            {data.rolls_out && " Beside a champion it is rolled out: in shadow, then by shares."}
          </p>
          {!mayTrigger(data.release_dag) && <p className="quiet">Your role in Airflow does not allow you to promote or roll back.</p>}
          {data.damage.map((damage) => (
            <Notice key={damage} tone="bad">
              {damage}
            </Notice>
          ))}
          <Section title="Who was in charge">
            <Story entries={data.entries} />
          </Section>
          {data.steps.length > 0 && (
            <Section title="Rollouts">
              <Rollouts steps={data.steps} />
            </Section>
          )}
          {data.versions.length > 1 && <Compare versions={data.versions} />}
          <Section title="Versions">
            {data.versions.length === 0 && <Empty>No version has been trained yet. Start the train DAG.</Empty>}
            {data.versions.map((version) => (
              <OneVersion key={version.version} of={version} releases={data} reload={releases.reload} />
            ))}
          </Section>
        </>
      )}
    </Loaded>
  );
}
