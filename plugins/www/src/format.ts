import type { Measurement } from "./api";

/** YYYY-MM-DD */
export type Day = string;
/** ISO 8601, UTC */
export type Instant = string;

export const NOTHING = "–";

export function count(value: number | null): string {
  return value === null ? NOTHING : value.toLocaleString("en-GB");
}

/** With as many decimals as a metric deserves: 0.8184, 12.35, 1,234.5. */
export function metric(value: number | null): string {
  if (value === null) return NOTHING;
  const size = Math.abs(value);
  const digits = size === 0 || (size >= 0.01 && size < 10) ? 3 : size < 0.01 ? 5 : size < 100 ? 2 : 1;
  return value.toLocaleString("en-GB", { minimumFractionDigits: Math.min(digits, 3), maximumFractionDigits: digits });
}

export function interval(measured: Pick<Measurement, "value" | "lower" | "upper">): string {
  const { value, lower, upper } = measured;
  return lower === null || upper === null
    ? metric(value)
    : `${metric(value)} (${metric(lower)} to ${metric(upper)})`;
}

export function percent(share: number | null, digits = 1): string {
  return share === null
    ? NOTHING
    : share.toLocaleString("en-GB", { style: "percent", maximumFractionDigits: digits });
}

export function pValue(value: number | null): string {
  if (value === null) return NOTHING;
  return value < 0.001 ? "< 0.001" : value.toFixed(3);
}

export function plural(number: number, one: string, many = `${one}s`): string {
  return `${count(number)} ${number === 1 ? one : many}`;
}

export function duration(seconds: number | null): string {
  if (seconds === null) return "unknown, none ran yet";
  if (seconds < 90) return plural(Math.max(1, Math.round(seconds)), "second");
  if (seconds < 90 * 60) return plural(Math.round(seconds / 60), "minute");
  return plural(Math.round(seconds / 360) / 10, "hour");
}

// Made once: a calendar names thousands of days.
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
const MONTH = new Intl.DateTimeFormat("en-GB", { month: "short", year: "numeric", timeZone: "UTC" });

/** 3 Nov 2025, of a day: no zone comes into it. */
export function day(value: Day | null): string {
  return value === null ? NOTHING : DAY.format(new Date(`${value}T00:00:00Z`));
}

export function month(value: Day): string {
  return MONTH.format(new Date(`${value}T00:00:00Z`));
}

export function instant(value: Instant | null, zone = "UTC"): string {
  if (value === null) return NOTHING;
  const text = new Date(value).toLocaleString("en-GB", {
    day: "numeric",
    month: "short",
    year: "numeric",
    hour: "2-digit",
    minute: "2-digit",
    timeZone: zone,
  });
  return `${text} ${zone}`;
}

export function addDays(value: Day, days: number): Day {
  const moment = new Date(`${value}T00:00:00Z`);
  moment.setUTCDate(moment.getUTCDate() + days);
  return moment.toISOString().slice(0, 10);
}

/** Every day from the first to the last, so that a gap in the data is a gap on the axis. */
export function everyDay(days: Day[]): Day[] {
  const sorted = [...new Set(days)].sort();
  const last = sorted.at(-1);
  const all: Day[] = [];
  for (let current = sorted[0]; current !== undefined && last !== undefined && current <= last; ) {
    all.push(current);
    current = addDays(current, 1);
  }
  return all;
}

/** A value as it was delivered: a number may be a key, which has no separators. */
export function plain(value: unknown): string {
  if (value === null || value === undefined) return NOTHING;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** A feature or a label, of whatever kind. */
export function anything(value: unknown): string {
  if (typeof value === "number") {
    return Number.isInteger(value) ? count(value) : value.toLocaleString("en-GB", { maximumSignificantDigits: 6 });
  }
  if (typeof value === "boolean") return value ? "yes" : "no";
  return plain(value);
}

export function words(identifier: string): string {
  return identifier.replaceAll("_", " ");
}
