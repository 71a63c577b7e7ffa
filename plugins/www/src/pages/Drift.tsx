import { useMemo } from "react";

import type { Distribution, Drift, DriftTest, FeatureNight } from "../api";
import { Badge, Empty, Loaded, Notice, Section, Table } from "../components/basics";
import { Plot } from "../components/Charts";
import { Grid } from "../components/Grid";
import { Range } from "../components/Range";
import { nightReport } from "../components/Standing";
import { useApi, casePath } from "../data";
import { driftRows, STEPS } from "../drift";
import { count, day, metric, percent, pValue } from "../format";
import { useQuery } from "../route";
import { usePlace } from "../session";

function Legend() {
  return (
    <ul className="legend">
      {STEPS.map((from, index) => (
        <li key={from}>
          <span className={`cell step-${index}`} aria-hidden="true" />
          {index + 1 < STEPS.length ? `${from} to ${STEPS[index + 1]}` : `${from} and more`}
        </li>
      ))}
      <li>
        <span className="cell step-3 drifted" aria-hidden="true">
          ●
        </span>
        drifted
      </li>
      <li>
        <span className="cell is-missing" aria-hidden="true">
          R
        </span>
        retrain
      </li>
      <li>
        <span className="cell is-refused" aria-hidden="true">
          A
        </span>
        drift called for retraining
      </li>
    </ul>
  );
}

function Shares({ of, feature }: { of: Distribution; feature: string }) {
  const series = [
    { label: "tonight", colour: "cat-0", values: of.tonight },
    ...(of.expected ? [{ label: "expected for this night", colour: "cat-1", values: of.expected }] : []),
    { label: "training", colour: "cat-7", values: of.training },
  ];
  return (
    <>
      <Plot kind="bar" label={`Distribution of ${feature}, as in the table below`} labels={of.bins} series={series} y="Share of rows" />
      <details>
        <summary>As a table ({count(of.rows)} rows tonight)</summary>
        <Table
          caption={`Shares of ${feature}`}
          rows={of.bins.map((bin, index) => ({ bin, index }))}
          rowKey={(row) => row.bin}
          columns={[
            { head: of.ordered ? "From to" : "Value", cell: (row) => row.bin },
            ...series.map(({ label, values }) => ({
              head: label,
              number: true,
              cell: (row: { index: number }) => percent(values[row.index] ?? null),
            })),
          ]}
        />
      </details>
    </>
  );
}

function Tests({ of }: { of: DriftTest[] }) {
  const rows = of.toSorted((one, other) => Number(other.drifted) - Number(one.drifted));
  return (
    <Table
      caption="Tests, drifted ones first"
      rows={rows}
      rowKey={(row, index) => `${row.slice} ${row.reference} ${row.test} ${index}`}
      columns={[
        { head: "Slice", cell: (row) => row.slice },
        { head: "Against", cell: (row) => row.reference },
        { head: "Verdict", cell: (row) => (row.drifted ? <Badge tone="bad">{row.extreme ? "extreme" : "drifted"}</Badge> : <Badge tone="good">usual</Badge>) },
        { head: "Test", cell: (row) => row.test },
        { head: "Effect", number: true, cell: (row) => metric(row.statistic) },
        { head: "Usual", number: true, cell: (row) => metric(row.usual) },
        { head: "p, adjusted", number: true, cell: (row) => pValue(row.p_adjusted) },
        { head: "p", number: true, cell: (row) => pValue(row.p_value) },
        { head: "PSI", number: true, cell: (row) => (row.psi_band ? `${metric(row.psi)} (${row.psi_band})` : metric(row.psi)) },
        { head: "Wasserstein", number: true, cell: (row) => metric(row.wasserstein) },
        { head: "Rows, then", number: true, cell: (row) => count(row.reference_rows) },
        { head: "Rows, now", number: true, cell: (row) => count(row.current_rows) },
        { head: "Why", cell: (row) => row.reason },
      ]}
    />
  );
}

function Panel({ night, feature }: { night: string; feature: string }) {
  const { useCase } = usePlace();
  const found = useApi<FeatureNight>(casePath(useCase, "drift", night, feature));
  return (
    <Section title={`${feature}, night of ${day(night)}`} aside={<a href={nightReport(useCase, night)}>Report of that night</a>}>
      <Loaded of={found}>
        {({ distribution, tests, unit, version, problem }) => (
          <>
            <p className="quiet">
              {unit !== "" && `In ${unit}. `}
              {version !== null && `Model version ${version}.`}
            </p>
            {distribution ? <Shares of={distribution} feature={feature} /> : <Notice tone="warn">{problem || "There is no distribution of this night."}</Notice>}
            {tests.length > 0 ? <Tests of={tests} /> : <Empty>Nothing was tested here that night.</Empty>}
          </>
        )}
      </Loaded>
    </Section>
  );
}

function Board({ drift }: { drift: Drift }) {
  const [query, change] = useQuery();
  const rows = useMemo(() => driftRows(drift), [drift]);
  const night = query.get("night");
  const feature = query.get("feature");
  const column = drift.nights.indexOf(night ?? "");
  return (
    <>
      <Grid
        caption="Features by night"
        days={drift.nights}
        rows={rows}
        selection={column === -1 ? null : { from: column, to: column }}
        onOpen={(row, at) => {
          const chosen = drift.features[row - 1] ?? drift.features[0];
          change({ night: drift.nights[at], feature: chosen?.feature });
        }}
      />
      <Legend />
      <p className="quiet">Colour is the size of the effect, from 0 to 1. Choose a cell to see its distribution and tests.</p>
      {night && feature && <Panel night={night} feature={feature} />}
    </>
  );
}

export function DriftPage() {
  const { useCase } = usePlace();
  const [query] = useQuery();
  const drift = useApi<Drift>(casePath(useCase, "drift"), { from: query.get("from"), to: query.get("to") });
  const nights = drift.data?.nights;
  return (
    <>
      <Range newest={nights?.at(-1)} shown={[nights?.[0], nights?.at(-1)]} />
      <Loaded of={drift}>
        {(data) =>
          data.nights.length > 0 ? (
            <Board drift={data} />
          ) : (
            <Empty>No night has been judged in this range. Choose another range, or run the monitor DAG.</Empty>
          )
        }
      </Loaded>
    </>
  );
}
