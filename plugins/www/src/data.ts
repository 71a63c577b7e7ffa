import { useCallback, useEffect, useState } from "react";

import { type Query, withQuery } from "./route";

/** An answer that is none, with what to do about it in words. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

const OFFLINE = "The server cannot be reached. Check the connection, then try again.";

function detailOf(body: unknown): string {
  if (typeof body !== "object" || body === null || !("detail" in body)) return "";
  const { detail } = body;
  if (typeof detail === "string") return detail;
  if (!Array.isArray(detail)) return JSON.stringify(detail);
  // FastAPI's own validation errors.
  return detail
    .map((entry: unknown) => (typeof entry === "object" && entry !== null && "msg" in entry ? String(entry.msg) : String(entry)))
    .join("; ");
}

export function explain(status: number, detail: string): string {
  if (status === 401) return "Log in to Airflow, then load this page again.";
  if (status === 403) return `Your role in Airflow does not allow this. ${detail}`.trim();
  if (detail !== "") return detail;
  return status >= 500 ? `The server failed (${status}). Its log says why.` : `The server answered ${status}.`;
}

export async function fetchJson<T>(address: string, init?: RequestInit): Promise<T> {
  let response: Response;
  try {
    response = await fetch(address, { credentials: "same-origin", headers: { Accept: "application/json" }, ...init });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem(0, OFFLINE);
  }
  const body: unknown = await response.json().catch(() => null);
  if (!response.ok) throw new Problem(response.status, explain(response.status, detailOf(body)));
  if (body === null) throw new Problem(response.status, "The server's answer is not JSON. Load this page again.");
  return body as T;
}

export function toProblem(error: unknown): Problem {
  return error instanceof Problem ? error : new Problem(0, error instanceof Error ? error.message : String(error));
}

export interface Result<T> {
  data: T | undefined;
  problem: Problem | undefined;
  loading: boolean;
  reload: () => void;
}

/** What the API says at an address below api/; with null nothing is asked. What was there stays until the new is. */
export function useApi<T>(path: string | null, query: Query = {}): Result<T> {
  const address = path === null ? null : withQuery(`api/${path}`, query);
  const [turn, setTurn] = useState(0);
  const [state, setState] = useState<{ key: string; data?: T; problem?: Problem }>({ key: "" });
  const key = `${turn} ${address ?? ""}`;
  useEffect(() => {
    if (address === null) return;
    const abort = new AbortController();
    fetchJson<T>(address, { signal: abort.signal }).then(
      (data) => setState({ key, data }),
      (error: unknown) => {
        if (!abort.signal.aborted) setState({ key, problem: toProblem(error) });
      },
    );
    return () => abort.abort();
  }, [address, key]);
  const reload = useCallback(() => setTurn((current) => current + 1), []);
  return { data: state.data, problem: state.problem, loading: address !== null && state.key !== key, reload };
}

export function casePath(useCase: string, ...rest: string[]): string {
  return ["use-cases", useCase, ...rest].map(encodeURIComponent).join("/");
}
