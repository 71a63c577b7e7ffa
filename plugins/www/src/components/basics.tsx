import { type ReactNode, useState } from "react";

import { openOutside } from "../airflow";
import type { Result } from "../data";

export type Tone = "good" | "bad" | "warn" | "plain" | "info";
const MARKS: Record<Tone, string> = { good: "✓", bad: "✗", warn: "!", info: "→", plain: "" };

export function Badge({ tone = "plain", children }: { tone?: Tone; children: ReactNode }) {
  return (
    <span className={`badge ${tone}`}>
      {MARKS[tone] !== "" && <span aria-hidden="true">{MARKS[tone]} </span>}
      {children}
    </span>
  );
}

export function Notice({ tone = "info", children }: { tone?: Tone; children: ReactNode }) {
  return (
    <div className={`notice ${tone}`} role={tone === "bad" ? "alert" : undefined}>
      {children}
    </div>
  );
}

export function Empty({ children }: { children: ReactNode }) {
  return <p className="empty">{children}</p>;
}

/** One of the three: a skeleton, what went wrong and what to do, or the data. */
export function Loaded<T>({ of, children }: { of: Result<T>; children: (data: T) => ReactNode }) {
  if (of.problem !== undefined) {
    return (
      <Notice tone="bad">
        <p>{of.problem.message}</p>
        <button onClick={of.reload}>Try again</button>
      </Notice>
    );
  }
  if (of.data === undefined) {
    return (
      <div className="skeleton" role="status">
        <span className="hidden">Loading</span>
        <i />
        <i />
        <i />
      </div>
    );
  }
  return <div aria-busy={of.loading}>{children(of.data)}</div>;
}

export function Section({ title, aside, children }: { title: string; aside?: ReactNode; children: ReactNode }) {
  return (
    <section>
      <div className="section-head">
        <h2>{title}</h2>
        {aside}
      </div>
      {children}
    </section>
  );
}

export interface Column<T> {
  head: string;
  cell: (row: T) => ReactNode;
  number?: boolean;
}

interface TableProps<T> {
  caption: string;
  columns: Column<T>[];
  rows: T[];
  rowKey: (row: T, index: number) => string | number;
}

/** The first column heads the rows. Wide tables scroll in themselves, never the page. */
export function Table<T>({ caption, columns, rows, rowKey }: TableProps<T>) {
  return (
    // A region that scrolls has to be reachable by keyboard.
    // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex
    <div className="scroll" role="region" aria-label={caption} tabIndex={0}>
      <table>
        <caption>{caption}</caption>
        <thead>
          <tr>
            {columns.map((column) => (
              <th key={column.head} scope="col" className={column.number ? "number" : undefined}>
                {column.head}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, index) => (
            <tr key={rowKey(row, index)}>
              {columns.map((column, place) => {
                const Cell = place === 0 ? "th" : "td";
                return (
                  <Cell
                    key={column.head}
                    scope={place === 0 ? "row" : undefined}
                    className={column.number ? "number" : undefined}
                  >
                    {column.cell(row)}
                  </Cell>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function Facts({ items }: { items: [string, ReactNode][] }) {
  return (
    <dl className="facts">
      {items.map(([label, value]) => (
        <div key={label}>
          <dt>{label}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export function Bullets({ items }: { items: string[] }) {
  return (
    <ul>
      {items.map((item) => (
        <li key={item}>{item}</li>
      ))}
    </ul>
  );
}

/** A digest or an identifier: shortened to the eye, whole in its title and when copied. */
export function Code({ children }: { children: string }) {
  return (
    <code className="digest" title={children}>
      {children}
    </code>
  );
}

export function Command({ children }: { children: string }) {
  const [said, say] = useState("Copy");
  const copy = () => {
    // Without a secure context there is no clipboard; the text can still be selected.
    const done = navigator.clipboard?.writeText(children) ?? Promise.reject(new Error("no clipboard"));
    done.then(
      () => say("Copied"),
      () => say("Select and copy it yourself"),
    );
  };
  return (
    <div className="command">
      <code>{children}</code>
      <button onClick={copy} aria-live="polite">
        {said}
      </button>
    </div>
  );
}

export function OutsideLink({ to, children }: { to: string; children: ReactNode }) {
  return (
    <a
      href={to}
      onClick={(event) => {
        event.preventDefault();
        openOutside(to);
      }}
    >
      {children}
    </a>
  );
}
