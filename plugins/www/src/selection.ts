import { type Day, month } from "./format";

/** Columns of a grid, both included. */
export interface Span {
  from: number;
  to: number;
}

export function clamp(value: number, low: number, high: number): number {
  return Math.max(low, Math.min(high, value));
}

export function spanOf(one: number, other: number): Span {
  return { from: Math.min(one, other), to: Math.max(one, other) };
}

/** The columns that days of the address stand for; null if none of them is shown. */
export function spanOfDays(days: Day[], from: Day | null, to: Day | null): Span | null {
  if (from === null || to === null) return null;
  const first = days.findIndex((value) => value >= from);
  const last = days.findLastIndex((value) => value <= to);
  return first === -1 || last < first ? null : { from: first, to: last };
}

export function monthsOf(days: Day[]): { label: string; length: number }[] {
  const months: { label: string; length: number }[] = [];
  for (const value of days) {
    const label = month(value);
    const current = months.at(-1);
    if (current?.label === label) current.length += 1;
    else months.push({ label, length: 1 });
  }
  return months;
}
