import type { Overview } from "./api";
import { day, interval, words } from "./format";

export interface Line {
  name: string;
  title: string;
  text: string;
  incidents: string[];
}

/** What the dashboard says of one use case. */
export function lineOf({ use_case, title, champion, night, tables, zone }: Overview): Line {
  const main = champion?.holdout[0];
  const scored = tables.find(({ table }) => table === "predictions")?.newest_day;
  const since = champion && new Date(champion.since).toLocaleDateString("en-GB", { dateStyle: "medium", timeZone: zone });
  const parts = [
    champion ? `champion ${champion.version} since ${since}` : "no champion yet",
    main && `${words(main.metric)} ${interval(main)}`,
    scored ? `scored up to ${day(scored)}` : "nothing scored yet",
    night && `last night: ${night.decision}`,
    night?.learnable_from && `learnable from ${day(night.learnable_from)}`,
  ];
  return { name: use_case, title, text: parts.filter(Boolean).join(", "), incidents: night?.incidents ?? [] };
}
