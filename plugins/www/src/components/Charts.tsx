import { lazy, Suspense } from "react";

export type Value = number | null | { x: number; y: number };

/** One line or group of bars. Colours are names of CSS variables; a band is drawn around a line. */
export interface Series {
  label: string;
  colour: string;
  values: Value[];
  band?: { lower: Value[]; upper: Value[] };
  dash?: number[];
  /** Large ones, or none; small ones if not said. */
  points?: boolean;
  showLine?: boolean;
  pointStyle?: "circle" | "triangle" | "rect" | "rectRot" | "star" | "line";
}

export interface Mark {
  /** Vertical at a label of the axis, or horizontal at a value. */
  at: string | number;
  text: string;
  colour: string;
}

export interface PlotProps {
  kind: "line" | "bar" | "scatter";
  label: string;
  labels?: string[];
  series: Series[];
  marks?: Mark[];
  x?: string;
  y?: string;
  height?: number;
}

const Drawn = lazy(() => import("./Plot"));

/** A chart; its library is fetched by the pages that have one. */
export function Plot(props: PlotProps) {
  const height = props.height ?? 260;
  return (
    <div className="plot" style={{ height }}>
      <Suspense fallback={null}>
        <Drawn {...props} />
      </Suspense>
    </div>
  );
}
