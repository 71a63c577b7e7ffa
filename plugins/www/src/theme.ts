import { useSyncExternalStore } from "react";

export type Theme = "light" | "dark";

/** Airflow's page around ours; null if this page stands alone. */
export function airflowWindow(): Window | null {
  return window.parent === window ? null : window.parent;
}

const preference = () => window.matchMedia("(prefers-color-scheme: dark)");

function wanted(): Theme {
  const classes = airflowWindow()?.document.documentElement.classList;
  if (classes?.contains("dark")) return "dark";
  if (classes?.contains("light")) return "light";
  return preference().matches ? "dark" : "light";
}

const listeners = new Set<() => void>();

function apply(): void {
  document.documentElement.dataset.theme = wanted();
  listeners.forEach((listener) => listener());
}

export function followTheme(): void {
  apply();
  preference().addEventListener("change", apply);
  const outer = airflowWindow();
  if (outer !== null) {
    new MutationObserver(apply).observe(outer.document.documentElement, { attributeFilter: ["class"] });
  }
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function useTheme(): Theme {
  return useSyncExternalStore(subscribe, wanted);
}

/** The value of one of our CSS variables; charts, which draw on a canvas, need it so. */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Distinct colours for versions, slices and methods: there are eight, then they come again. */
export function category(index: number): string {
  return `cat-${index % 8}`;
}
