import type { LastNight, Measurement, Overview, Standing } from "../api";
import { count, day, instant, interval, NOTHING, words } from "../format";
import { pageOf } from "../route";
import { Badge, Bullets, Table, type Tone } from "./basics";

export const nightReport = (useCase: string, night: string): string =>
  `nights/${encodeURIComponent(useCase)}/${night}`;

export function Measurements({ caption, of, estimate }: { caption: string; of: Measurement[]; estimate?: Measurement[] }) {
  const realised = (metric: string) => estimate?.find((other) => other.metric === metric);
  return (
    <Table
      caption={caption}
      rows={of}
      rowKey={(row) => row.metric}
      columns={[
        { head: "Metric", cell: (row) => words(row.metric) },
        { head: "Holdout", number: true, cell: interval },
        ...(estimate
          ? [
              {
                head: "Realised",
                number: true,
                cell: (row: Measurement) => {
                  const found = realised(row.metric);
                  return found ? interval(found) : NOTHING;
                },
              },
            ]
          : []),
      ]}
    />
  );
}

export function Verdict({ of, useCase }: { of: LastNight; useCase: string }) {
  return (
    <>
      <p>
        <Badge tone={of.decision === "retrain" ? "warn" : "good"}>{of.decision}</Badge> on the night of {day(of.day)}
        {of.triggers.length > 0 && `, because of ${of.triggers.map(words).join(", ")}`}.
      </p>
      <Bullets items={of.reasons} />
      {of.incidents.map((incident) => (
        <p key={incident} className="incident">
          <Badge tone="bad">incident</Badge> {incident}
        </p>
      ))}
      {of.drifted.length > 0 && (
        <p>
          Drifted:{" "}
          {of.drifted.map((feature, index) => (
            <span key={feature}>
              {index > 0 && ", "}
              <a href={pageOf(useCase, "drift", { night: of.day, feature })}>{feature}</a>
            </span>
          ))}
        </p>
      )}
      {of.learnable_from && <p>What is new can be learnt from {day(of.learnable_from)} on.</p>}
      {of.has_report && (
        <p>
          <a href={nightReport(useCase, of.day)}>Report of that night</a>
        </p>
      )}
    </>
  );
}

function freshness(table: Standing): [Tone, string] {
  if (table.stale) return ["bad", "stale"];
  return table.owed_days > 0 ? ["warn", "owed"] : ["good", "ok"];
}

export function Tables({ of }: { of: Standing[] }) {
  return (
    <Table
      caption="Tables and their freshness"
      rows={of}
      rowKey={(row) => row.table}
      columns={[
        { head: "Table", cell: (row) => row.table },
        {
          head: "Freshness",
          cell: (row) => {
            const [tone, text] = freshness(row);
            return <Badge tone={tone}>{text}</Badge>;
          },
        },
        { head: "Newest day", number: true, cell: (row) => day(row.newest_day) },
        { head: "Days behind", number: true, cell: (row) => count(row.lag_days) },
        { head: "Allowed", number: true, cell: (row) => count(row.allowed_days) },
        { head: "Owed days", number: true, cell: (row) => count(row.owed_days) },
        { head: "First day", number: true, cell: (row) => day(row.first_day) },
        { head: "Days", number: true, cell: (row) => count(row.days) },
        { head: "Rows", number: true, cell: (row) => count(row.rows) },
        { head: "Why", cell: (row) => row.reason },
      ]}
    />
  );
}

/** The one line that says how the champion does. */
export function championLine({ champion, zone }: Overview): string {
  if (champion === null) return "No champion yet.";
  const main = champion.holdout[0];
  return `Version ${champion.version} since ${instant(champion.since, zone)}${main ? `, ${words(main.metric)} ${interval(main)}` : ""}`;
}
