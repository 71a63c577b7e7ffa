import type { Drift } from "./api";
import type { GridRow } from "./components/Grid";
import { day, metric } from "./format";

/** Where the steps of the palette begin. */
export const STEPS = [0, 0.05, 0.1, 0.2, 0.3, 0.5];

export function step(effect: number | null): string {
  return effect === null ? "is-none" : `step-${STEPS.findLastIndex((from) => effect >= from)}`;
}

function decisionRow({ nights, decisions, alarmed, versions }: Drift): GridRow {
  return {
    key: "decision",
    label: "Governor",
    title: "What was decided about retraining",
    cells: nights.map((night, index) => {
      const decision = decisions[index] || "no decision";
      const alarm = alarmed[index] ?? false;
      return {
        tone: alarm ? "is-refused" : decision === "retrain" ? "is-missing" : "is-none",
        mark: alarm ? "A" : decision === "retrain" ? "R" : "",
        label: `${day(night)}: ${decision}${alarm ? ", drift called for retraining" : ""}, version ${versions[index]}`,
      };
    }),
  };
}

export function driftRows(drift: Drift): GridRow[] {
  const features = drift.features.map(({ feature, importance, unit, description, effects, drifted, worst }) => ({
    key: feature,
    label: feature,
    title: [feature, description, unit && `in ${unit}`, importance !== null && `importance ${metric(importance)}`]
      .filter(Boolean)
      .join(", "),
    cells: drift.nights.map((night, index) => {
      const effect = effects[index] ?? null;
      const moved = drifted[index] ?? false;
      return {
        tone: `${step(effect)}${moved ? " drifted" : ""}`,
        mark: moved ? "●" : "",
        label: `${feature}, ${day(night)}: effect ${metric(effect)}${moved ? `, drifted: ${worst[index] ?? ""}` : ""}`,
      };
    }),
  }));
  return [decisionRow(drift), ...features];
}
