import { useEffect, useState } from "react";

import type { Entity, Scored } from "../api";
import { Badge, Empty, Loaded, Notice, Section, Table } from "../components/basics";
import { Plot } from "../components/Charts";
import { useApi, casePath } from "../data";
import { anything, count, day, everyDay, instant, interval, plain } from "../format";
import { pageOf, useQuery } from "../route";
import { usePlace } from "../session";

const PAUSE = 250;
const WHAT_HAPPENED = { label: "what happened", colour: "cat-1", points: true, showLine: false, pointStyle: "rectRot" } as const;

function Search() {
  const { useCase } = usePlace();
  const [query, change] = useQuery();
  const [text, setText] = useState(query.get("key") ?? "");
  const [like, setLike] = useState(text);
  useEffect(() => {
    const timer = setTimeout(() => setLike(text), PAUSE);
    return () => clearTimeout(timer);
  }, [text]);
  const keys = useApi<string[]>(casePath(useCase, "entities"), { like });
  return (
    <>
      <form
        className="controls"
        role="search"
        onSubmit={(event) => {
          event.preventDefault();
          change({ key: text.trim() });
        }}
      >
        <label>
          Key{" "}
          <input
            list="keys"
            value={text}
            autoComplete="off"
            onChange={({ target }) => {
              setText(target.value);
              // Chosen from the list, rather than typed.
              if (keys.data?.includes(target.value)) change({ key: target.value });
            }}
          />
        </label>
        <datalist id="keys">
          {keys.data?.map((key) => (
            <option key={key} value={key} />
          ))}
        </datalist>
        <button className="primary">Look up</button>
      </form>
      {!query.get("key") && (
        <Loaded of={keys}>
          {(found) =>
            found.length > 0 ? (
              <>
                <p className="quiet">Highest scores of the newest day{like && `, of keys that begin with ${like}`}:</p>
                <ul className="keys">
                  {found.map((key) => (
                    <li key={key}>
                      <a href={pageOf(useCase, "entity", { key })}>{key}</a>
                    </li>
                  ))}
                </ul>
              </>
            ) : (
              <Empty>No key of the newest scored day begins so. Any key that was ever scored can be looked up.</Empty>
            )
          }
        </Loaded>
      )}
    </>
  );
}

function outcome({ label, known_on }: Scored): string {
  if (label === null) return "not known yet";
  return known_on ? `${anything(label)}, known on ${day(known_on)}` : anything(label);
}

function Scores({ of, entityKey }: { of: Scored[]; entityKey: string }) {
  const { useCase } = usePlace();
  const days = everyDay(of.map((scored) => scored.day));
  const byDay = new Map(of.map((scored) => [scored.day, scored]));
  const along = (name: "score" | "lower" | "upper") => days.map((value) => byDay.get(value)?.[name] ?? null);
  const score = { label: "score", colour: "cat-0", values: along("score"), band: { lower: along("lower"), upper: along("upper") } };
  const happened = days.map((value) => {
    const label = byDay.get(value)?.label;
    return label === undefined || label === null ? null : Number(label);
  });
  return (
    <>
      <Plot
        kind="line"
        label="Score by day, as in the table below"
        labels={days}
        series={[
          score,
          ...(happened.some((value) => value !== null)
            ? [{ ...WHAT_HAPPENED, values: happened }]
            : []),
        ]}
        y="Score"
      />
      <Table
        caption="Scores, newest first"
        rows={of}
        rowKey={(row) => row.day}
        columns={[
          { head: "Day", cell: (row) => <a href={pageOf(useCase, "lineage", { day: row.day, key: entityKey })}>{day(row.day)}</a> },
          { head: "Score", number: true, cell: (row) => interval({ value: row.score, ...row }) },
          { head: "Rank", number: true, cell: (row) => `${count(row.rank)} of ${count(row.of)}` },
          { head: "Band", cell: (row) => row.band },
          { head: "Reasons", cell: (row) => row.reasons.join(", ") },
          { head: "Outcome", cell: outcome },
          { head: "Version", number: true, cell: (row) => row.version },
        ]}
      />
    </>
  );
}

function Everything({ of }: { of: Entity }) {
  const { zone } = usePlace();
  const different = of.features.filter(({ same }) => !same).length;
  return (
    <>
      {of.problems.map((problem) => (
        <Notice key={problem} tone="warn">
          {problem}
        </Notice>
      ))}
      <Section title={`Scores of ${of.entity} ${of.key}`}>
        <p className="quiet">
          {day(of.first_day)} to {day(of.last_day)}
        </p>
        {of.scores.length > 0 ? <Scores of={of.scores} entityKey={of.key} /> : <Empty>It was not scored in these days.</Empty>}
      </Section>
      <Section title={`Features of ${day(of.features_day)}`}>
        {of.features.length > 0 ? (
          <>
            <p>
              {of.online_as_of ? `Online values as of ${instant(of.online_as_of, zone)}. ` : "Nothing is online. "}
              {of.online_as_of && (different > 0 ? <Badge tone="warn">{different} differ</Badge> : <Badge tone="good">all the same</Badge>)}
            </p>
            <Table
              caption="Features beside what is served online"
              rows={of.features}
              rowKey={(row) => row.feature}
              columns={[
                { head: "Feature", cell: (row) => <span title={row.description}>{row.feature}</span> },
                { head: "Value", number: true, cell: (row) => anything(row.value) },
                { head: "Online", number: true, cell: (row) => anything(row.online) },
                { head: "Same", cell: (row) => (row.same ? <Badge tone="good">same</Badge> : <Badge tone="warn">differs</Badge>) },
                { head: "Unit", cell: (row) => row.unit },
                { head: "What it is", cell: (row) => row.description },
              ]}
            />
          </>
        ) : (
          <Empty>It has no features.</Empty>
        )}
      </Section>
      <Section title="What happened">
        {of.events.length > 0 ? (
          <Table
            caption="Rows of its source tables, newest first"
            rows={of.events}
            rowKey={(_, index) => index}
            columns={[
              { head: "Day", cell: (row) => day(row.day) },
              { head: "Table", cell: (row) => row.table },
              { head: "Values", cell: (row) => Object.entries(row.values).map(([name, value]) => `${name} ${plain(value)}`).join(", ") },
            ]}
          />
        ) : (
          <Empty>There are no rows of it in these days.</Empty>
        )}
      </Section>
    </>
  );
}

export function EntityPage() {
  const { useCase } = usePlace();
  const [query] = useQuery();
  const key = query.get("key");
  const entity = useApi<Entity>(key ? casePath(useCase, "entities", key) : null, { to: query.get("to") });
  return (
    <>
      <Search />
      {key && <Loaded of={entity}>{(data) => <Everything of={data} />}</Loaded>}
    </>
  );
}
