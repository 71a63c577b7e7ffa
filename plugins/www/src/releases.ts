import type { LedgerEntry, Measurement, Version } from "./api";

/** Which way a version can be put in charge; null if it is already, or was refused. */
export function actionFor({ version, state }: Version, entries: LedgerEntry[]): "promote" | "roll_back" | null {
  if (state === "champion" || state === "refused") return null;
  return entries.some((entry) => entry.version === version) ? "roll_back" : "promote";
}

export interface Compared {
  name: string;
  measured: Measurement[];
}

export interface ComparedMetric {
  metric: string;
  own: Measurement | undefined;
  others: (Measurement | undefined)[];
}

/** One row by metric: first those of its own, in their order. */
export function againstMetrics(own: Measurement[], others: Compared[]): ComparedMetric[] {
  const all = [own, ...others.map(({ measured }) => measured)].flat();
  const find = (measured: Measurement[], name: string) => measured.find(({ metric }) => metric === name);
  return [...new Set(all.map(({ metric }) => metric))].map((name) => ({
    metric: name,
    own: find(own, name),
    others: others.map(({ measured }) => find(measured, name)),
  }));
}
