import { useState } from "react";

import type { Lineage } from "../api";
import { Badge, Code, Command, Empty, Facts, Loaded, Notice } from "../components/basics";
import { useApi, casePath } from "../data";
import { day, instant, metric, words } from "../format";
import { pageOf, useQuery } from "../route";
import { usePlace } from "../session";

const LONG = 28;

function shown(value: string, zone: string) {
  if (/^\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)$/.test(value)) return instant(value, zone);
  return value.length > LONG && !value.includes(" ") ? <Code>{value}</Code> : value;
}

function Chain({ of }: { of: Lineage }) {
  const { zone } = usePlace();
  return (
    <>
      <p>
        <a href={pageOf(of.use_case, "entity", { key: of.key })}>{of.key}</a> scored <strong>{metric(of.score)}</strong> on{" "}
        {day(of.day)}. Each card is what the one above was made from.
      </p>
      <ol className="chain">
        {of.links.map((link, index) => (
          <li key={`${link.kind} ${index}`}>
            <h2>
              {link.title} <Badge>{words(link.kind)}</Badge>
            </h2>
            <Facts items={link.facts.map(({ label, value }) => [label, shown(value, zone)])} />
            {link.notes.map((note) => (
              <Notice key={note} tone="warn">
                {note}
              </Notice>
            ))}
            {link.command !== "" && <Command>{link.command}</Command>}
          </li>
        ))}
      </ol>
    </>
  );
}

export function LineagePage() {
  const { useCase } = usePlace();
  const [query, change] = useQuery();
  const [date, setDate] = useState(query.get("day") ?? "");
  const [key, setKey] = useState(query.get("key") ?? "");
  const asked = query.get("day") && query.get("key");
  const lineage = useApi<Lineage>(asked ? casePath(useCase, "lineage", query.get("day") ?? "", query.get("key") ?? "") : null);
  return (
    <>
      <form
        className="controls"
        role="search"
        onSubmit={(event) => {
          event.preventDefault();
          change({ day: date, key: key.trim() });
        }}
      >
        <label>
          Day <input type="date" required value={date} onChange={({ target }) => setDate(target.value)} />
        </label>
        <label>
          Key <input required value={key} onChange={({ target }) => setKey(target.value)} />
        </label>
        <button className="primary">Trace back</button>
      </form>
      {asked ? (
        <Loaded of={lineage}>{(data) => <Chain of={data} />}</Loaded>
      ) : (
        <Empty>
          Choose a prediction by its day and key, or from the scores of an <a href={pageOf(useCase, "entity")}>entity</a>.
        </Empty>
      )}
    </>
  );
}
