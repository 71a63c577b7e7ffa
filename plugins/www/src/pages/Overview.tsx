import { dagAddress } from "../airflow";
import type { Champion, Overview, Pending } from "../api";
import { Badge, Bullets, Command, Empty, Facts, Loaded, Notice, OutsideLink, Section, Table } from "../components/basics";
import { Measurements, Tables, Verdict } from "../components/Standing";
import { useApi, casePath } from "../data";
import { count, day, instant, plural, words } from "../format";
import { pageOf } from "../route";
import { usePlace } from "../session";

function InCharge({ of, zone }: { of: Champion; zone: string }) {
  const { realised } = of;
  return (
    <>
      <Facts
        items={[
          ["Version", of.version],
          ["Since", instant(of.since, zone)],
          ["By", of.actor],
          ["How", words(of.action)],
          ["Why", of.reason],
        ]}
      />
      {realised && (
        <p>
          Realised on {day(realised.day)}, {plural(realised.rows, "row")}:{" "}
          {realised.degraded ? <Badge tone="bad">degraded</Badge> : <Badge tone="good">as expected</Badge>}
        </p>
      )}
      <Measurements caption="Metrics with 95 % intervals" of={of.holdout} estimate={realised?.metrics} />
    </>
  );
}

function Waiting({ of }: { of: Pending }) {
  const { entry, airflow, useCase } = usePlace();
  const train = entry.dags.train;
  return (
    <Notice tone="warn">
      <p>
        Version {of.version} of {day(of.day)} passed the gate and waits for a person.
      </p>
      <Bullets items={of.reasons} />
      <p>
        {of.mode === "approve" && train ? (
          <OutsideLink to={`${airflow}/${dagAddress(train)}/required_actions`}>Decide in Airflow</OutsideLink>
        ) : (
          <a href={pageOf(useCase, "releases")}>Promote it on the page of releases</a>
        )}
      </p>
    </Notice>
  );
}

function Everything({ overview }: { overview: Overview }) {
  const { useCase } = usePlace();
  const { champion, night, budget, pending, stale, mend } = overview;
  return (
    <>
      <p>{overview.description}</p>
      <p className="quiet">
        Owner {overview.owner}, days of {overview.zone}
        {overview.base && (
          <>
            , built on <a href={pageOf(overview.base, "overview")}>{overview.base}</a>
          </>
        )}
        {overview.data_docs && (
          <>
            , <a href={`data-docs/${encodeURIComponent(useCase)}/index.html`}>Data Docs</a>
          </>
        )}
      </p>
      {pending && <Waiting of={pending} />}
      <Section title="Last night">
        {night ? <Verdict of={night} useCase={useCase} /> : <Empty>No night has been judged yet. The monitor DAG does it after scoring.</Empty>}
        {budget && (
          <p>
            Retraining: {count(budget.asked)} of {count(budget.allowed)} asked for in seven days; the next may be asked
            for {budget.next_day ? `on ${day(budget.next_day)}` : "tonight"}.
          </p>
        )}
      </Section>
      <Section title="Champion" aside={<a href={pageOf(useCase, "releases")}>All releases</a>}>
        {champion ? (
          <InCharge of={champion} zone={overview.zone} />
        ) : (
          <Empty>No version is in charge yet. The first training that passes the gate becomes champion.</Empty>
        )}
      </Section>
      <Section title="Tables" aside={<a href={pageOf(useCase, "calendar")}>Calendar</a>}>
        <Tables of={overview.tables} />
      </Section>
      {(stale.length > 0 || mend.length > 0) && (
        <Section title="Stale days">
          <Table
            caption="Days made from data that has changed since"
            rows={stale}
            rowKey={(row) => `${row.table} ${row.first_day}`}
            columns={[
              { head: "Table", cell: (row) => row.table },
              {
                head: "Days",
                cell: (row) => (
                  <a href={pageOf(useCase, "calendar", { from: row.first_day, to: row.last_day })}>
                    {day(row.first_day)} to {day(row.last_day)}
                  </a>
                ),
              },
              { head: "Why", cell: (row) => row.reason },
            ]}
          />
          {mend.length > 0 && <p>These commands mend them, in this order:</p>}
          {mend.map((command) => (
            <Command key={command}>{command}</Command>
          ))}
        </Section>
      )}
    </>
  );
}

export function OverviewPage() {
  const { useCase } = usePlace();
  const overview = useApi<Overview>(casePath(useCase, "overview"));
  return <Loaded of={overview}>{(data) => <Everything overview={data} />}</Loaded>;
}
