import { createContext, useContext } from "react";

import type { Session, UseCaseEntry } from "./api";

export interface Place {
  session: Session;
  entry: UseCaseEntry;
}

export const PlaceContext = createContext<Place | null>(null);

/** Where a page is: its use case, and what the user may do there. */
export function usePlace() {
  const place = useContext(PlaceContext);
  if (place === null) throw new Error("This page belongs to no use case.");
  const { session, entry } = place;
  return { entry, useCase: entry.name, zone: entry.zone, airflow: session.airflow, mayTrigger: (dag: string) => entry.may_trigger.includes(dag) };
}
