import type { Overview, Session, UseCaseEntry } from "../api";
import { Badge, Empty, Facts, Loaded, Notice, Section } from "../components/basics";
import { championLine } from "../components/Standing";
import { useApi, casePath } from "../data";
import { day } from "../format";
import { pageOf } from "../route";

function newestScored({ tables }: Overview): string {
  return day(tables.find(({ table }) => table === "predictions")?.newest_day ?? null);
}

function freshness({ tables }: Overview) {
  const late = tables.filter(({ stale }) => stale).map(({ table }) => table);
  if (late.length > 0) return <Badge tone="bad">stale: {late.join(", ")}</Badge>;
  return tables.some(({ days }) => days > 0) ? <Badge tone="good">fresh</Badge> : "nothing yet";
}

function Brief({ overview }: { overview: Overview }) {
  const { night, pending } = overview;
  return (
    <>
      <p>{overview.description}</p>
      {night?.incidents.map((incident) => (
        <p key={incident} className="incident">
          <Badge tone="bad">incident</Badge> {incident}
        </p>
      ))}
      <Facts
        items={[
          ["Champion", championLine(overview)],
          ["Newest scored day", newestScored(overview)],
          ["Last night", night ? <Badge tone={night.decision === "retrain" ? "warn" : "good"}>{night.decision}</Badge> : "none yet"],
          ["Tables", freshness(overview)],
          ...(pending ? [["Waits for a person", `Version ${pending.version}`] as [string, string]] : []),
          ...(night?.learnable_from ? [["Learnable from", day(night.learnable_from)] as [string, string]] : []),
        ]}
      />
    </>
  );
}

function UseCase({ entry }: { entry: UseCaseEntry }) {
  const overview = useApi<Overview>(entry.problem === "" ? casePath(entry.name, "overview") : null);
  return (
    <Section title={entry.title || entry.name} aside={<a href={pageOf(entry.name, "overview")}>Open {entry.name}</a>}>
      {entry.problem === "" ? (
        <Loaded of={overview}>{(data) => <Brief overview={data} />}</Loaded>
      ) : (
        <Notice tone="bad">This use case cannot be loaded: {entry.problem}</Notice>
      )}
    </Section>
  );
}

export function AllUseCases({ session }: { session: Session }) {
  if (session.use_cases.length === 0) {
    return <Empty>There is no use case that you may see. Ask for the permission to read its DAGs.</Empty>;
  }
  return (
    <div className="tiles">
      {session.use_cases.map((entry) => (
        <UseCase key={entry.name} entry={entry} />
      ))}
    </div>
  );
}
