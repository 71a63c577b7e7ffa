import {
  type KeyboardEvent,
  memo,
  type PointerEvent,
  useCallback,
  useEffect,
  useLayoutEffect,
  useRef,
  useState,
} from "react";

import { type Day, day } from "../format";
import { clamp, monthsOf, type Span, spanOf } from "../selection";

export interface GridCell {
  /** A class of style.css: the state, the step of a palette, or a category. */
  tone: string;
  /** A symbol or number, so that colour is never alone. */
  mark: string;
  /** What a screen reader and the tooltip say. */
  label: string;
}

export interface GridRow {
  key: string;
  label: string;
  title?: string;
  cells: GridCell[];
}

interface GridProps {
  caption: string;
  days: Day[];
  rows: GridRow[];
  selection?: Span | null;
  onSelect?: (span: Span) => void;
  /** Enter, or a click, on a cell. */
  onOpen: (row: number, column: number) => void;
}

const CELL = 20;
const LABELS = 132;

interface RowProps {
  row: GridRow;
  index: number;
  active: number | null;
}

const Row = memo(function Row({ row, index, active }: RowProps) {
  return (
    <div role="row" className="row" aria-rowindex={index + 2}>
      <div role="rowheader" className="label" title={row.title ?? row.label}>
        {row.label}
      </div>
      {row.cells.map((cell, column) => (
        <div
          key={column}
          role="gridcell"
          className={`cell ${cell.tone}`}
          data-row={index}
          data-column={column}
          aria-label={cell.label}
          tabIndex={column === active ? 0 : -1}
        >
          {cell.mark}
        </div>
      ))}
    </div>
  );
});

interface HeadProps {
  days: Day[];
  active: number | null;
  from: number | undefined;
  to: number | undefined;
}

const Head = memo(function Head({ days, active, from = Infinity, to = -Infinity }: HeadProps) {
  return (
    <>
      <div className="months" aria-hidden="true">
        <div className="label" />
        {monthsOf(days).map(({ label, length }, index, months) => (
          <div key={label} style={{ width: length * CELL }}>
            {/* A few days leave no room for a name, unless nothing follows. */}
            <span>{length > 3 || index === months.length - 1 ? label : ""}</span>
          </div>
        ))}
      </div>
      <div role="row" className="row days" aria-rowindex={1}>
        <div role="columnheader" className="label">
          Day
        </div>
        {days.map((value, column) => (
          <div
            key={value}
            role="columnheader"
            className="cell"
            data-row={-1}
            data-column={column}
            aria-label={day(value)}
            aria-selected={column >= from && column <= to}
            tabIndex={active === column ? 0 : -1}
          >
            {Number(value.slice(8))}
          </div>
        ))}
      </div>
    </>
  );
});

function place(target: EventTarget): { row: number; column: number; element: HTMLElement } | null {
  const element = target instanceof Element ? target.closest<HTMLElement>("[data-column]") : null;
  return element && { row: Number(element.dataset.row), column: Number(element.dataset.column), element };
}

/** Rows by days. One tab stop; arrows move, with Shift they extend the selection; Enter opens. Row -1 holds the days. */
export function Grid({ caption, days, rows, selection = null, onSelect, onOpen }: GridProps) {
  const frame = useRef<HTMLDivElement>(null);
  const anchor = useRef<number | null>(null);
  const last = days.length - 1;
  const [chosen, setActive] = useState({ row: 0, column: last });
  const active = { row: clamp(chosen.row, -1, rows.length - 1), column: clamp(chosen.column, 0, last) };
  const newest = days.at(-1);

  useLayoutEffect(() => {
    if (frame.current) frame.current.scrollLeft = frame.current.scrollWidth;
  }, [newest, days.length]);

  useEffect(() => {
    const release = () => (anchor.current = null);
    window.addEventListener("pointerup", release);
    return () => window.removeEventListener("pointerup", release);
  }, []);

  const select = useCallback((from: number, to: number) => onSelect?.(spanOf(from, to)), [onSelect]);

  const onPointerDown = (event: PointerEvent) => {
    const at = place(event.target);
    if (at === null || event.button !== 0) return;
    setActive({ row: at.row, column: at.column });
    if (event.shiftKey && selection) {
      const far = Math.abs(at.column - selection.from) > Math.abs(at.column - selection.to) ? selection.from : selection.to;
      select(far, at.column);
      event.preventDefault();
      return;
    }
    select(at.column, at.column);
    // A finger that drags means to scroll.
    if (event.pointerType === "mouse") anchor.current = at.column;
    if (at.row >= 0) onOpen(at.row, at.column);
  };

  const onPointerOver = (event: PointerEvent) => {
    const at = place(event.target);
    if (at === null) return;
    at.element.title ||= at.element.getAttribute("aria-label") ?? "";
    if (anchor.current !== null && at.column !== anchor.current) select(anchor.current, at.column);
  };

  const onKeyDown = (event: KeyboardEvent) => {
    const at = place(event.target);
    if (at === null) return;
    const moves: Record<string, [number, number]> = {
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      PageUp: [0, -30],
      PageDown: [0, 30],
      Home: [0, -last],
      End: [0, last],
    };
    const move = moves[event.key];
    if (move) {
      const row = clamp(at.row + move[0], -1, rows.length - 1);
      const column = clamp(at.column + move[1], 0, last);
      setActive({ row, column });
      frame.current?.querySelector<HTMLElement>(`[data-row="${row}"][data-column="${column}"]`)?.focus();
      if (event.shiftKey && move[1] !== 0) {
        anchor.current ??= at.column;
        select(anchor.current, column);
      } else anchor.current = null;
    } else if (event.key === "Enter" || event.key === " ") {
      select(at.column, at.column);
      if (at.row >= 0) onOpen(at.row, at.column);
    } else return;
    event.preventDefault();
  };

  if (days.length === 0) return null;
  return (
    <div className="grid-frame" ref={frame}>
      {/* The cells take the focus, one at a time. */}
      <div
        role="grid"
        className="grid"
        aria-label={caption}
        aria-rowcount={rows.length + 1}
        aria-colcount={days.length + 1}
        aria-multiselectable={onSelect !== undefined}
        style={{ width: LABELS + CELL * days.length }}
        {...{ onPointerDown, onPointerOver, onKeyDown }}
      >
        <Head days={days} active={active.row === -1 ? active.column : null} from={selection?.from} to={selection?.to} />
        {rows.map((row, index) => (
          <Row key={row.key} row={row} index={index} active={index === active.row ? active.column : null} />
        ))}
        {selection && (
          <div
            className="selection"
            aria-hidden="true"
            style={{ left: LABELS + selection.from * CELL, width: (selection.to - selection.from + 1) * CELL }}
          />
        )}
      </div>
    </div>
  );
}
