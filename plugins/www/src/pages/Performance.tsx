import type { Event, Performance, Reliability } from "../api";
import { Badge, Empty, Loaded, Section, Table } from "../components/basics";
import { Plot } from "../components/Charts";
import { Range } from "../components/Range";
import { useApi, casePath } from "../data";
import { count, day, interval, metric, words } from "../format";
import { axis, eventMarks, performanceSeries, reliabilitySeries } from "../performance";
import { useQuery } from "../route";
import { usePlace } from "../session";

function Values({ of, slices }: { of: Performance; slices: string[] }) {
  const rows = of.series
    .filter(({ slice }) => slices.includes(slice))
    .flatMap(({ slice, points }) => points.map((point) => ({ slice, ...point })))
    .toSorted((one, other) => other.day.localeCompare(one.day));
  return (
    <details>
      <summary>As a table</summary>
      <Table
        caption={`Realised ${words(of.metric)} by day`}
        rows={rows}
        rowKey={(row) => `${row.day} ${row.slice}`}
        columns={[
          { head: "Day", cell: (row) => day(row.day) },
          { head: "Slice", cell: (row) => row.slice },
          { head: "Realised", number: true, cell: interval },
          { head: "Holdout", number: true, cell: (row) => metric(row.holdout) },
          { head: "Version", number: true, cell: (row) => row.version },
          { head: "Rows", number: true, cell: (row) => count(row.rows) },
          { head: "", cell: (row) => row.degraded && <Badge tone="bad">degraded</Badge> },
        ]}
      />
      {of.estimates.length > 0 && (
        <Table
          caption="Estimates before labels are known"
          rows={of.estimates.toReversed()}
          rowKey={(row) => `${row.day} ${row.method}`}
          columns={[
            { head: "Day", cell: (row) => day(row.day) },
            { head: "Method", cell: (row) => row.method.toUpperCase() },
            { head: "Estimate", number: true, cell: interval },
            { head: "Version", number: true, cell: (row) => row.version },
          ]}
        />
      )}
    </details>
  );
}

function Events({ of }: { of: Event[] }) {
  if (of.length === 0) return null;
  return (
    <Section title="Events">
      <ol className="story">
        {of.toSorted((one, other) => other.day.localeCompare(one.day)).map((event, index) => (
          <li key={index}>
            <strong>{day(event.day)}</strong> <Badge tone={event.kind === "alarm" || event.kind === "degradation" ? "bad" : "plain"}>{words(event.kind)}</Badge>{" "}
            {event.text}
          </li>
        ))}
      </ol>
    </Section>
  );
}

function Tenths({ of, probability }: { of: Reliability; probability: boolean }) {
  const lift = [{ label: "cumulative lift", colour: "cat-0", values: of.bins.map((bin) => bin.lift), points: true }];
  return (
    <Section title={`Scores and outcomes of ${day(of.day)}`}>
      <p className="quiet">
        Version {of.version}, {count(of.rows)} rows in tenths by score, mean outcome {metric(of.mean_label)}.
      </p>
      <div className="tiles">
        {probability && (
          <figure>
            <figcaption>Reliability: on the diagonal, scores are as likely as they say</figcaption>
            <Plot kind="scatter" label="Mean outcome by mean score of each tenth, as in the table below" series={reliabilitySeries(of)} x="Mean score" y="Mean outcome" />
          </figure>
        )}
        <figure>
          <figcaption>Lift: how much more often it happens among those with the highest scores</figcaption>
          <Plot
            kind="line"
            label="Cumulative lift by tenth, as in the table below"
            labels={of.bins.map((_, index) => `${((index + 1) * 100) / of.bins.length} %`)}
            series={lift}
            marks={[{ at: 1, text: "at random", colour: "text-quiet" }]}
            x="Share of rows, highest scores first"
            y="Lift"
          />
        </figure>
      </div>
      <details>
        <summary>As a table</summary>
        <Table
          caption="Tenths by score, highest first"
          rows={of.bins.map((bin, index) => ({ ...bin, index }))}
          rowKey={(row) => row.index}
          columns={[
            { head: "Tenth", cell: (row) => row.index + 1 },
            { head: "Rows", number: true, cell: (row) => count(row.rows) },
            { head: "Mean score", number: true, cell: (row) => metric(row.mean_score) },
            { head: "Mean outcome", number: true, cell: (row) => interval({ value: row.mean_label, ...row }) },
            { head: "Cumulative lift", number: true, cell: (row) => metric(row.lift) },
          ]}
        />
      </details>
    </Section>
  );
}

function Board({ performance }: { performance: Performance }) {
  const [query, change] = useQuery();
  const known = performance.series.map(({ slice }) => slice);
  const slices = (query.get("slices") ?? "all").split("|").filter((slice) => known.includes(slice));
  const days = axis(performance);
  const toggle = (slice: string) =>
    change({ slices: known.filter((other) => (other === slice) !== slices.includes(other)).join("|") });
  return (
    <>
      <div className="controls">
        <label>
          Metric{" "}
          <select value={performance.metric} onChange={({ target }) => change({ metric: target.value })}>
            {performance.metrics.map((name) => (
              <option key={name} value={name}>
                {words(name)}
              </option>
            ))}
          </select>
        </label>
      </div>
      {known.length > 1 && (
        <fieldset className="choices">
          <legend>Slices</legend>
          {known.map((slice) => (
            <label key={slice}>
              <input type="checkbox" checked={slices.includes(slice)} onChange={() => toggle(slice)} /> {slice}
            </label>
          ))}
        </fieldset>
      )}
      {days.length > 0 ? (
        <>
          <Plot
            kind="line"
            height={380}
            label={`${words(performance.metric)} by day, as in the table below`}
            labels={days}
            series={performanceSeries(performance, days, slices)}
            marks={eventMarks(performance.events, days)}
            y={words(performance.metric)}
          />
          <Values of={performance} slices={slices} />
        </>
      ) : (
        <Empty>No scored day of this range has labels yet, nor an estimate. Choose another range, or wait for labels.</Empty>
      )}
      {performance.reliability && <Tenths of={performance.reliability} probability={performance.is_probability} />}
      <Events of={performance.events} />
    </>
  );
}

export function PerformancePage() {
  const { useCase } = usePlace();
  const [query] = useQuery();
  const asked = { metric: query.get("metric"), from: query.get("from"), to: query.get("to") };
  const performance = useApi<Performance>(casePath(useCase, "performance"), asked);
  const days = performance.data && axis(performance.data);
  return (
    <>
      <Range newest={days?.at(-1)} shown={[days?.[0], days?.at(-1)]} />
      <Loaded of={performance}>{(data) => <Board performance={data} />}</Loaded>
    </>
  );
}
