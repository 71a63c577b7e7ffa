import { fetchJson } from "./data";
import type { Day } from "./format";
import { withQuery } from "./route";
import { airflowWindow } from "./theme";

/** What we use of Airflow's own API, called as the user who looks at the page. */
export interface AirflowBackfill {
  id: number;
  dag_id: string;
  created_at: string;
  completed_at: string | null;
}

export interface DryRun {
  backfills: { logical_date: string | null; partition_key: string | null; partition_date: string | null }[];
  total_entries: number;
}

export interface AirflowRun {
  dag_id: string;
  dag_run_id: string;
  state: string;
}

export type Reprocess = "none" | "failed" | "completed";
export type RunCounts = Record<"success" | "failed" | "running" | "queued", number>;

const RUN_STATES = ["success", "failed", "running", "queued"] as const;

function api(base: string, path: string): string {
  return `${base}/api/v2/${path}`;
}

function post<T>(address: string, body: unknown): Promise<T> {
  return fetchJson<T>(address, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify(body),
  });
}

export function dryRun(base: string, request: Record<string, unknown>): Promise<DryRun> {
  return post(api(base, "backfills/dry_run"), request);
}

export function startBackfill(base: string, request: Record<string, unknown>): Promise<AirflowBackfill> {
  return post(api(base, "backfills"), request);
}

export function getBackfill(base: string, id: number): Promise<AirflowBackfill> {
  return fetchJson(api(base, `backfills/${id}`));
}

export async function isPaused(base: string, dag: string): Promise<boolean> {
  return (await fetchJson<{ is_paused: boolean }>(api(base, `dags/${encodeURIComponent(dag)}`))).is_paused;
}

/** Airflow does not list the runs of a backfill; those it has touched since the backfill began are them. */
export async function countRuns(base: string, { dag_id, created_at }: AirflowBackfill): Promise<RunCounts> {
  const address = api(base, `dags/${encodeURIComponent(dag_id)}/dagRuns`);
  const counts = await Promise.all(
    RUN_STATES.map(async (state) => {
      const query = { run_type: "backfill", updated_at_gte: created_at, state, limit: 1 };
      const found = await fetchJson<{ total_entries: number }>(withQuery(address, query));
      return [state, found.total_entries] as const;
    }),
  );
  return Object.fromEntries(counts) as RunCounts;
}

export interface ReleaseOrder {
  action: "promote" | "roll_back";
  version: number;
  reason: string;
  day: Day | "";
}

export function orderRelease(base: string, dag: string, { day, ...order }: ReleaseOrder): Promise<AirflowRun> {
  const conf = day === "" ? order : { ...order, day };
  return post(api(base, `dags/${encodeURIComponent(dag)}/dagRuns`), { logical_date: null, conf });
}

export function getRun(base: string, { dag_id, dag_run_id }: AirflowRun): Promise<AirflowRun> {
  return fetchJson(api(base, `dags/${encodeURIComponent(dag_id)}/dagRuns/${encodeURIComponent(dag_run_id)}`));
}

export const isOver = (state: string): boolean => state === "success" || state === "failed";

export const dagAddress = (dag: string): string => `dags/${encodeURIComponent(dag)}`;
export const runAddress = (dag: string, run: string): string => `${dagAddress(dag)}/runs/${encodeURIComponent(run)}`;

/** A page of ours as Airflow shows it, in its own frame and with its own navigation around. */
export function framed(base: string, page: string): string {
  return `${base}/plugin/evergreen${new URL(page, document.baseURI).pathname}`;
}

/**
 * Goes to a page that is not ours. The frame we are in may not leave itself, so Airflow's document
 * does it: in the same tab to a page of Airflow, in a new one to somewhere else.
 */
export function openOutside(address: string): void {
  const outer = (airflowWindow() ?? window).document;
  const anchor = outer.createElement("a");
  anchor.href = new URL(address, window.location.origin).href;
  if (anchor.origin !== window.location.origin) {
    anchor.target = "_blank";
    anchor.rel = "noopener";
  }
  outer.body.append(anchor);
  anchor.click();
  anchor.remove();
}
