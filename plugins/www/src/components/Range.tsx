import { addDays, type Day } from "../format";
import { useQuery } from "../route";

interface RangeProps {
  newest: Day | null | undefined;
  first?: Day;
  /** The days shown when the address names none. */
  shown?: [Day | undefined, Day | undefined];
}

/** From and to of a page, kept in its address. */
export function Range({ newest, first, shown = [undefined, undefined] }: RangeProps) {
  const [query, change] = useQuery();
  const presets: [string, Day][] = newest
    ? [
        ["1 month", addDays(newest, -30)],
        ["3 months", addDays(newest, -91)],
        ["1 year", addDays(newest, -364)],
        ...(first ? [["All", first] as [string, Day]] : []),
      ]
    : [];
  const input = (name: "from" | "to", label: string, fallback: Day | undefined) => (
    <label>
      {label}{" "}
      <input
        type="date"
        value={query.get(name) ?? fallback ?? ""}
        onChange={(event) => event.target.value !== "" && change({ [name]: event.target.value })}
      />
    </label>
  );
  return (
    <div className="controls">
      {input("from", "From", shown[0])}
      {input("to", "To", shown[1])}
      <span className="presets">
        {presets.map(([label, from]) => (
          <button
            key={label}
            aria-pressed={query.get("from") === from && query.get("to") === newest}
            onClick={() => change({ from, to: newest })}
          >
            {label}
          </button>
        ))}
      </span>
    </div>
  );
}
