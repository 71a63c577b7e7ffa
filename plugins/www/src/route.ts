import { useSyncExternalStore } from "react";

export const PAGES = [
  "overview",
  "calendar",
  "drift",
  "performance",
  "releases",
  "quality",
  "entity",
  "lineage",
] as const;
export type PageName = (typeof PAGES)[number];

export type Route =
  | { kind: "all" }
  | { kind: "use-case"; useCase: string; page: PageName }
  | { kind: "run"; dag: string; run: string }
  | { kind: "unknown" };

/** What a path such as /prefix/evergreen/use-cases/coffee/drift asks for. */
export function parse(pathname: string): Route {
  const [, rest = ""] = /\/evergreen\/(.*)$/.exec(pathname) ?? [];
  const [kind, first, second] = rest.split("/").map(decodeURIComponent);
  if (!kind) return { kind: "all" };
  if (kind === "runs" && first && second) return { kind: "run", dag: first, run: second };
  const page = PAGES.find((name) => name === (second || "overview"));
  if (kind === "use-cases" && first && page) return { kind: "use-case", useCase: first, page };
  return { kind: "unknown" };
}

export type Query = Record<string, string | number | null | undefined>;

export function withQuery(path: string, query: Query = {}): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") search.set(name, String(value));
  }
  return search.size > 0 ? `${path}?${search}` : path;
}

/** Relative to the document's base, as every address here is. */
export function pageOf(useCase: string, page: PageName, query: Query = {}): string {
  return withQuery(`use-cases/${encodeURIComponent(useCase)}/${page}`, query);
}

const listeners = new Set<() => void>();

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  window.addEventListener("popstate", listener);
  return () => {
    listeners.delete(listener);
    window.removeEventListener("popstate", listener);
  };
}

/** What is chosen on a page, kept in the address so that it can be sent to somebody. */
export function useQuery(): [URLSearchParams, (changes: Query) => void] {
  const search = useSyncExternalStore(subscribe, () => window.location.search);
  return [new URLSearchParams(search), change];
}

function change(changes: Query): void {
  const query: Query = { ...Object.fromEntries(new URLSearchParams(window.location.search)), ...changes };
  window.history.replaceState(null, "", withQuery(window.location.pathname, query));
  listeners.forEach((listener) => listener());
}
