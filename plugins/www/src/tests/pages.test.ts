import { describe, expect, it } from "vitest";

import type { Calendar, CalendarTable, DayRun, Drift, LedgerEntry, Performance, Version } from "../api";
import { calendarRows, runsByCell, versionsOf } from "../calendar";
import { explain } from "../data";
import { driftRows, step } from "../drift";
import { axis, eventMarks, performanceSeries } from "../performance";
import { actionFor, againstMetrics } from "../releases";
import { pageOf, parse } from "../route";
import { monthsOf, spanOf, spanOfDays } from "../selection";

const DAYS = ["2025-02-27", "2025-02-28", "2025-03-01"];

describe("addresses", () => {
  it("are read below any prefix", () => {
    expect(parse("/evergreen/")).toEqual({ kind: "all" });
    expect(parse("/a/evergreen/use-cases/coffee/drift")).toEqual({ kind: "use-case", useCase: "coffee", page: "drift" });
    expect(parse("/evergreen/use-cases/coffee")).toMatchObject({ page: "overview" });
    expect(parse("/evergreen/runs/coffee_score/scheduled__2025-03-01T00:00:00%2B00:00")).toEqual({
      kind: "run",
      dag: "coffee_score",
      run: "scheduled__2025-03-01T00:00:00+00:00",
    });
    expect(parse("/evergreen/use-cases/coffee/nonsense")).toEqual({ kind: "unknown" });
  });

  it("carry what is chosen, without what is not", () => {
    expect(pageOf("coffee", "lineage", { day: "2025-03-01", key: "a b", to: null })).toBe(
      "use-cases/coffee/lineage?day=2025-03-01&key=a+b",
    );
  });
});

describe("selection", () => {
  it("runs from the earlier to the later column", () => {
    expect(spanOf(5, 2)).toEqual({ from: 2, to: 5 });
    expect(spanOfDays(DAYS, "2025-02-28", "2025-12-31")).toEqual({ from: 1, to: 2 });
    expect(spanOfDays(DAYS, "2026-01-01", "2026-01-02")).toBeNull();
    expect(spanOfDays(DAYS, null, "2026-01-02")).toBeNull();
  });

  it("groups columns by month", () => {
    expect(monthsOf(DAYS)).toEqual([
      { label: "Feb 2025", length: 2 },
      { label: "Mar 2025", length: 1 },
    ]);
  });
});

describe("calendar", () => {
  const table: CalendarTable = {
    table: "predictions",
    made_by: "coffee_score",
    states: ["present", "stale", "present"],
    rows: [10, 10, 12000],
    quarantined: [null, null, null],
    versions: [3, 3, 4],
    reasons: { "2025-02-28": "orders were delivered again" },
  };
  const calendar: Calendar = { use_case: "coffee", days: DAYS, first_day: "2025-02-27", newest_day: "2025-03-01", tables: [table] };
  const run = (state: DayRun["state"]): DayRun => ({ dag_id: "coffee_score", day: "2025-03-01", run_id: state, state });

  it("lets a failed run win", () => {
    for (const runs of [[run("failed"), run("running")], [run("running"), run("failed")]]) {
      expect([...runsByCell(runs).values()].map(({ state }) => state)).toEqual(["failed"]);
    }
  });

  it("shows the version where all is well, and what is the matter elsewhere", () => {
    const cells = calendarRows(calendar, new Map(), versionsOf(calendar))[0]?.cells ?? [];
    expect(cells.map(({ tone, mark }) => [tone, mark])).toEqual([
      ["cat-0", "3"],
      ["is-stale", "~"],
      ["cat-1", "4"],
    ]);
    expect(cells[1]?.label).toContain("orders were delivered again");
    expect(cells[2]?.label).toContain("rows 12,000");
    const marked = calendarRows(calendar, runsByCell([run("failed")]), versionsOf(calendar))[0]?.cells ?? [];
    expect(marked[2]).toMatchObject({ tone: "cat-1 run-failed", mark: "!" });
  });
});

describe("drift", () => {
  it("has a step for every size of effect", () => {
    expect([null, 0, 0.05, 0.31, 1].map(step)).toEqual(["is-none", "step-0", "step-1", "step-4", "step-5"]);
  });

  it("puts the governor on top and marks what drifted", () => {
    const drift: Drift = {
      use_case: "coffee",
      nights: DAYS,
      versions: [3, 3, 4],
      decisions: ["wait", "retrain", "retrain"],
      alarmed: [false, false, true],
      features: [
        { feature: "score", importance: null, unit: "", description: "", effects: [0, null, 0.4], drifted: [false, false, true], worst: ["", "", "KS D 0.4"] },
      ],
    };
    const [governor, score] = driftRows(drift);
    expect(governor?.cells.map(({ mark }) => mark)).toEqual(["", "R", "A"]);
    expect(score?.cells.map(({ mark }) => mark)).toEqual(["", "", "●"]);
    expect(score?.cells[2]?.label).toContain("KS D 0.4");
  });
});

describe("performance", () => {
  const point = (day: string, value: number) => ({ day, version: 1, value, lower: null, upper: null, rows: 1, holdout: 0.8, degraded: false });
  const performance: Performance = {
    use_case: "coffee",
    metric: "roc_auc",
    metrics: ["roc_auc"],
    is_probability: true,
    series: [
      { slice: "all", points: [point("2025-02-27", 0.8), point("2025-03-01", 0.7)] },
      { slice: "new", points: [point("2025-02-28", 0.6)] },
    ],
    estimates: [{ day: "2025-03-02", version: 1, method: "cbpe", value: 0.75, lower: 0.7, upper: 0.8 }],
    events: [
      { day: "2025-02-28", kind: "alarm", version: null, text: "" },
      { day: "2025-02-28", kind: "promotion", version: 2, text: "" },
      { day: "2026-02-28", kind: "learnable_from", version: null, text: "" },
    ],
    reliability: null,
  };
  const days = axis(performance);

  it("leaves gaps where nothing was measured", () => {
    expect(days).toEqual([...DAYS, "2025-03-02"]);
    expect(performanceSeries(performance, days, ["all"])[0]?.values).toEqual([0.8, null, 0.7, null]);
  });

  it("shows estimates and the holdout beside all rows only", () => {
    const labels = (slices: string[]) => performanceSeries(performance, days, slices).map(({ label }) => label);
    expect(labels(["all", "new"])).toEqual(["realised", "new", "holdout of the version in charge", "estimate by CBPE"]);
    expect(labels(["new"])).toEqual(["new"]);
  });

  it("has one mark by day, within the axis", () => {
    expect(eventMarks(performance.events, days).map(({ at, text }) => [at, text])).toEqual([["2025-02-28", "alarm, promotion 2"]]);
  });
});

describe("releases", () => {
  const entries = [{ version: 2 }] as LedgerEntry[];
  const version = (number: number, state: Version["state"]) => ({ version: number, state }) as Version;

  it("offer what the ledger allows", () => {
    expect(actionFor(version(3, "challenger"), entries)).toBe("promote");
    expect(actionFor(version(2, "former"), entries)).toBe("roll_back");
    expect(actionFor(version(4, "champion"), entries)).toBeNull();
    expect(actionFor(version(5, "refused"), entries)).toBeNull();
  });

  it("line up metrics that only one has", () => {
    const measured = (metric: string) => ({ metric, value: 1, lower: null, upper: null });
    const rows = againstMetrics([measured("a")], [{ name: "other", measured: [measured("b"), measured("a")] }]);
    expect(rows.map(({ metric, own, others }) => [metric, own !== undefined, others[0] !== undefined])).toEqual([
      ["a", true, true],
      ["b", false, true],
    ]);
  });
});

describe("problems", () => {
  it("say what to do", () => {
    expect(explain(401, "")).toBe("Log in to Airflow, then load this page again.");
    expect(explain(403, "Needs coffee_score.")).toContain("Needs coffee_score.");
    expect(explain(409, "There is already a running backfill")).toBe("There is already a running backfill");
    expect(explain(500, "")).toContain("log");
  });
});
