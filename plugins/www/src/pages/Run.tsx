import { framed, runAddress } from "../airflow";
import type { RunReceipt, RunReceipts, Session } from "../api";
import { Code, Command, Empty, Facts, Loaded, OutsideLink } from "../components/basics";
import { useApi } from "../data";
import { count, day, duration, instant, words } from "../format";
import { pageOf } from "../route";

function Receipt({ of, zone }: { of: RunReceipt; zone: string | undefined }) {
  return (
    <article>
      <h2>
        {of.sequence}. {words(of.step)}, {day(of.day)}
      </h2>
      <Facts
        items={[
          ["Made", of.output_table],
          ["Snapshot", of.output_snapshot],
          ...Object.entries(of.counts).map(([name, value]) => [words(name), count(value)] as [string, string]),
          ["Took", duration(of.seconds)],
          ["Recorded", instant(of.recorded_at, zone)],
          ["Content", <Code>{of.content}</Code>],
          ["Code", <Code>{of.code_digest}</Code>],
          ["Packages", <Code>{of.lock_digest}</Code>],
        ]}
      />
      {Object.keys(of.inputs).length > 0 && (
        <details>
          <summary>Made from</summary>
          <Facts items={Object.entries(of.inputs).map(([name, value]) => [name, <Code>{value}</Code>])} />
        </details>
      )}
      {of.replay !== "" && <Command>{of.replay}</Command>}
    </article>
  );
}

export function RunPage({ dag, run, session }: { dag: string; run: string; session: Session | undefined }) {
  const receipts = useApi<RunReceipts>(["dag-runs", dag, run].map(encodeURIComponent).join("/"));
  const airflow = session?.airflow ?? "";
  const zoneOf = (useCase: string | null) => session?.use_cases.find(({ name }) => name === useCase)?.zone;
  return (
    <Loaded of={receipts}>
      {(data) => (
        <>
          <p className="quiet">
            <OutsideLink to={`${airflow}/${runAddress(dag, run)}`}>{dag}</OutsideLink>, {data.what}
            {data.use_case && (
              <>
                , of <OutsideLink to={framed(airflow, pageOf(data.use_case, "overview"))}>{data.use_case}</OutsideLink>
              </>
            )}
          </p>
          {data.receipts.length > 0 ? (
            data.receipts.map((receipt) => <Receipt key={receipt.sequence} of={receipt} zone={zoneOf(data.use_case)} />)
          ) : (
            <Empty>{data.note || "This run has left no receipt."}</Empty>
          )}
        </>
      )}
    </Loaded>
  );
}
