import type { EstimatePoint, Event, Performance, Point, Reliability } from "./api";
import type { Mark, Series } from "./components/Charts";
import { type Day, everyDay, words } from "./format";
import { category } from "./theme";

type Bounded = Pick<Point, "day" | "value" | "lower" | "upper">;

/** Values by day of the axis; null where there is none, which breaks the line. */
function along<T extends { day: Day }>(days: Day[], points: T[], of: (point: T) => number | null): (number | null)[] {
  const found = new Map(points.map((point) => [point.day, of(point)]));
  return days.map((day) => found.get(day) ?? null);
}

function line(days: Day[], points: Bounded[]): Pick<Series, "values" | "band"> {
  return {
    values: along(days, points, ({ value }) => value),
    band: { lower: along(days, points, ({ lower }) => lower), upper: along(days, points, ({ upper }) => upper) },
  };
}

export function axis({ series, estimates, events }: Performance): Day[] {
  const measured = everyDay([...series.flatMap(({ points }) => points), ...estimates].map(({ day }) => day));
  const [first = "", last = ""] = [measured[0], measured.at(-1)];
  // An event just outside may be worth a few days of empty axis, but not a year of it.
  const near = events.map(({ day }) => day).filter((day) => day >= first && day <= last);
  return everyDay([...measured, ...near]);
}

const METHODS: Record<EstimatePoint["method"], Omit<Series, "values">> = {
  cbpe: { label: "estimate by CBPE", colour: "cat-1", dash: [7, 4], pointStyle: "triangle" },
  pape: { label: "estimate by PAPE", colour: "cat-2", dash: [2, 3], pointStyle: "rect" },
};

const STYLES = ["circle", "rectRot", "star", "rect", "triangle"] as const;

/** Lines of the chosen slices; bands, holdout and estimates only where they can be told apart. */
export function performanceSeries(performance: Performance, days: Day[], slices: string[]): Series[] {
  const chosen = performance.series.filter(({ slice }) => slices.includes(slice));
  const realised = chosen.map(({ slice, points }, index): Series => {
    const { values, band } = line(days, points);
    // After the colours of the estimates.
    const name = index === 0 ? category(0) : category(index + 2);
    const pointStyle = STYLES[index % STYLES.length];
    return { label: slice === "all" ? "realised" : slice, colour: name, values, pointStyle, band: index < 2 ? band : undefined };
  });
  if (!slices.includes("all")) return realised;
  const all = performance.series.find(({ slice }) => slice === "all")?.points ?? [];
  const holdout = along(days, all, (point) => point.holdout);
  const estimates = Object.entries(METHODS).flatMap(([method, look]): Series[] => {
    const points = performance.estimates.filter((point) => point.method === method);
    return points.length > 0 ? [{ ...look, ...line(days, points) }] : [];
  });
  const reference: Series = {
    label: "holdout of the version in charge",
    colour: "text-quiet",
    dash: [1, 3],
    points: false,
    pointStyle: "line",
    values: holdout,
  };
  return [...realised, ...(holdout.some((value) => value !== null) ? [reference] : []), ...estimates];
}

const EVENTS: Record<Event["kind"], string> = {
  promotion: "good",
  roll_back: "warn",
  alarm: "bad",
  retraining: "cat-4",
  learnable_from: "cat-5",
  degradation: "bad",
  effect: "good",
};

/** One mark by day, or their texts would cover each other. */
export function eventMarks(events: Event[], days: Day[]): Mark[] {
  const marks = new Map<Day, Mark>();
  for (const { day, kind, version } of events) {
    if (!days.includes(day)) continue;
    const text = version === null ? words(kind) : `${words(kind)} ${version}`;
    const earlier = marks.get(day);
    if (earlier === undefined) marks.set(day, { at: day, text, colour: EVENTS[kind] });
    else if (!earlier.text.includes(text)) earlier.text += `, ${text}`;
  }
  return [...marks.values()];
}

export function reliabilitySeries({ bins }: Reliability): Series[] {
  const rising = bins.toSorted((one, other) => one.mean_score - other.mean_score);
  const at = (of: (bin: Reliability["bins"][number]) => number) => rising.map((bin) => ({ x: bin.mean_score, y: of(bin) }));
  return [
    {
      label: "what happened, with interval",
      colour: "cat-0",
      values: at((bin) => bin.mean_label),
      band: { lower: at((bin) => bin.lower), upper: at((bin) => bin.upper) },
      points: true,
    },
    { label: "as scored", colour: "text-quiet", values: [{ x: 0, y: 0 }, { x: 1, y: 1 }], dash: [4, 4], points: false, pointStyle: "line" },
  ];
}
