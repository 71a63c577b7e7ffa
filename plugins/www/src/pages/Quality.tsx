import type { DayCounts, Quality, RuleCount, Samples } from "../api";
import { Badge, Bullets, Empty, Loaded, Section, Table } from "../components/basics";
import { Range } from "../components/Range";
import { useApi, casePath } from "../data";
import { count, day, plain, plural, words } from "../format";
import { type Query, useQuery } from "../route";
import { usePlace } from "../session";

function conservation({ rows_in, accepted, quarantined, duplicates, erased }: DayCounts): string {
  return `${count(rows_in)} = ${[accepted, quarantined, duplicates, erased].map(count).join(" + ")}`;
}

function Conservation({ of }: { of: DayCounts[] }) {
  return (
    <Table
      caption="In = accepted + quarantined + duplicates + erased"
      rows={of}
      rowKey={(row) => `${row.day} ${row.table}`}
      columns={[
        { head: "Day", cell: (row) => day(row.day) },
        { head: "Table", cell: (row) => row.table },
        {
          head: "Conserved",
          cell: (row) =>
            row.without_data ? <Badge>no data</Badge> : row.conserved ? <Badge tone="good">yes</Badge> : <Badge tone="bad">no</Badge>,
        },
        { head: "Sum", number: true, cell: conservation },
        { head: "Published", number: true, cell: (row) => count(row.published) },
      ]}
    />
  );
}

function RejectedRows({ of }: { of: Samples }) {
  return (
    <>
      <p className="quiet">
        {plural(of.samples.length, "row")} of {count(of.rows)}, newest first.
        {of.masked.length > 0 && ` Masked: ${of.masked.join(", ")}.`}
      </p>
      <Table
        caption="Rows as they were delivered"
        rows={of.samples}
        rowKey={(row, index) => `${row.day} ${row.source} ${row.row} ${index}`}
        columns={[
          { head: "Day", cell: (row) => day(row.day) },
          { head: "Source", cell: (row) => row.source },
          { head: "Row", number: true, cell: (row) => count(row.row) },
          { head: "Rules", cell: (row) => row.rules.map(words).join(", ") },
          {
            head: "Values",
            cell: (row) => (
              <span className="raw">
                {Object.entries(row.raw).map(([name, value]) => (
                  <span key={name}>
                    {name}=<b>{plain(value)}</b>
                  </span>
                ))}
              </span>
            ),
          },
        ]}
      />
    </>
  );
}

function Rejections({ of, span }: { of: RuleCount[]; span: Query }) {
  const { useCase } = usePlace();
  const [query, change] = useQuery();
  const [table, rule] = [query.get("table"), query.get("rule")];
  const samples = useApi<Samples>(rule ? casePath(useCase, "quarantine") : null, { table, rule, ...span });
  return (
    <>
      <Table
        caption="Rules that rows broke, most rows first"
        rows={of}
        rowKey={(row) => `${row.table} ${row.rule}`}
        columns={[
          { head: "Rule", cell: (row) => words(row.rule) },
          { head: "Table", cell: (row) => row.table },
          { head: "Rows", number: true, cell: (row) => count(row.rows) },
          { head: "Days", number: true, cell: (row) => count(row.days) },
          { head: "Newest", number: true, cell: (row) => day(row.newest_day) },
          { head: "Because", cell: (row) => row.because },
          {
            head: "Sample",
            cell: (row) => {
              const shown = row.table === table && row.rule === rule;
              const next = shown ? { table: null, rule: null } : { table: row.table, rule: row.rule };
              return (
                <button aria-expanded={shown} onClick={() => change(next)}>
                  {shown ? "Hide rows" : "Show rows"}
                </button>
              );
            },
          },
        ]}
      />
      {table && rule && (
        <>
          <h3>
            Quarantined by {words(rule)}, {table}
          </h3>
          <Loaded of={samples}>{(found) => <RejectedRows of={found} />}</Loaded>
        </>
      )}
    </>
  );
}

export function QualityPage() {
  const { useCase } = usePlace();
  const [query] = useQuery();
  const span = { from: query.get("from"), to: query.get("to") };
  const quality = useApi<Quality>(casePath(useCase, "quality"), span);
  const days = quality.data?.days.map((counts) => counts.day).toSorted() ?? [];
  const shown = { from: span.from ?? days[0], to: span.to ?? days.at(-1) };
  return (
    <>
      <Range newest={days.at(-1)} shown={[shown.from, shown.to]} />
      <Loaded of={quality}>
        {(data) => (
          <>
            {data.data_docs && (
              <p>
                <a href={`data-docs/${encodeURIComponent(useCase)}/index.html`}>Data Docs of every validation</a>
              </p>
            )}
            <Section title="Refused days">
              {data.refused.length === 0 ? (
                <Empty>No day was refused in this range.</Empty>
              ) : (
                data.refused.map(({ day: value, table, rules, found }) => (
                  <article key={`${value} ${table}`}>
                    <h3>
                      {day(value)}, {table} <Badge tone="bad">refused</Badge>
                    </h3>
                    <Bullets items={rules} />
                    <p>{found}</p>
                  </article>
                ))
              )}
            </Section>
            <Section title="Quarantine">
              {data.rules.length > 0 ? <Rejections of={data.rules} span={shown} /> : <Empty>No row was quarantined in this range.</Empty>}
            </Section>
            <Section title="Conservation of rows">
              {data.days.length > 0 ? <Conservation of={data.days} /> : <Empty>Nothing was delivered in this range. Choose another range.</Empty>}
            </Section>
          </>
        )}
      </Loaded>
    </>
  );
}
