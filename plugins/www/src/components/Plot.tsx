import {
  BarController,
  BarElement,
  CategoryScale,
  Chart,
  type ChartDataset,
  type ChartOptions,
  Filler,
  Legend,
  LinearScale,
  LineController,
  LineElement,
  PointElement,
  Tooltip,
} from "chart.js";
import annotationPlugin, { type AnnotationOptions } from "chartjs-plugin-annotation";
import { Chart as ReactChart } from "react-chartjs-2";

import { metric } from "../format";
import { colour, useTheme } from "../theme";
import type { Mark, PlotProps, Series, Value } from "./Charts";

Chart.register(
  BarController,
  BarElement,
  CategoryScale,
  Filler,
  Legend,
  LinearScale,
  LineController,
  LineElement,
  PointElement,
  Tooltip,
  annotationPlugin,
);

type Dataset = ChartDataset<"line" | "bar", Value[]>;

function bars(series: Series[]): Dataset[] {
  return series.map(({ label, colour: name, values }) => ({
    type: "bar",
    label,
    data: values,
    backgroundColor: colour(name),
  }));
}

function lines(series: Series[]): Dataset[] {
  return series.flatMap(({ label, colour: name, values, band, dash, points, showLine = true, pointStyle = "circle" }): Dataset[] => {
    const stroke = colour(name);
    const line = {
      type: "line" as const,
      label,
      data: values,
      borderColor: stroke,
      backgroundColor: stroke,
      borderDash: dash ?? [],
      borderWidth: 2,
      pointStyle,
      pointRadius: points === undefined ? 1.5 : points ? 4 : 0,
      pointHitRadius: 8,
      showLine,
    };
    const edge = { ...line, borderWidth: 0, pointRadius: 0, pointHitRadius: 0, backgroundColor: `${stroke}${dash ? "1f" : "33"}` };
    return band
      ? [
          line,
          { ...edge, label: `${label} lower`, data: band.lower, fill: false },
          { ...edge, label: `${label} upper`, data: band.upper, fill: "-1" },
        ]
      : [line];
  });
}

function annotations(marks: Mark[]): AnnotationOptions[] {
  return marks.map(({ at, text, colour: name }, index) => ({
    type: "line",
    borderColor: colour(name),
    borderWidth: 1.5,
    borderDash: [4, 3],
    ...(typeof at === "string" ? { xMin: at, xMax: at } : { yMin: at, yMax: at }),
    label: {
      display: true,
      content: text,
      // Neighbours must not cover each other.
      position: typeof at === "number" ? "end" : index % 2 === 0 ? "start" : "end",
      yAdjust: typeof at === "string" ? (Math.floor(index / 2) % 3) * 16 * (index % 2 === 0 ? -1 : 1) : 0,
      backgroundColor: colour("surface"),
      color: colour("text"),
      font: { size: 10 },
      padding: 2,
    },
  }));
}

const isEdge = (label: string | undefined): boolean => / (lower|upper)$/.test(label ?? "");

function options(props: PlotProps): ChartOptions<"line" | "bar"> {
  const axis = (title: string | undefined) => ({
    title: { display: title !== undefined, text: title, color: colour("text-quiet") },
    ticks: { color: colour("text-quiet"), maxRotation: 0, autoSkipPadding: 12 },
    grid: { color: colour("line") },
  });
  return {
    animation: false,
    maintainAspectRatio: false,
    interaction: { mode: props.kind === "scatter" ? "nearest" : "index", intersect: false },
    spanGaps: false,
    scales: { x: { ...axis(props.x), type: props.kind === "scatter" ? "linear" : "category" }, y: axis(props.y) },
    plugins: {
      legend: {
        position: "bottom",
        labels: {
          color: colour("text"),
          usePointStyle: true,
          boxHeight: 8,
          filter: ({ text }) => !isEdge(text),
        },
      },
      tooltip: {
        filter: ({ dataset }) => !isEdge(dataset.label),
        callbacks: { label: ({ dataset, parsed }) => `${dataset.label}: ${metric(parsed.y)}` },
      },
      annotation: { annotations: annotations(props.marks ?? []) },
    },
  };
}

export default function Plot(props: PlotProps) {
  const theme = useTheme();
  const type = props.kind === "bar" ? "bar" : "line";
  const data = { labels: props.labels, datasets: type === "bar" ? bars(props.series) : lines(props.series) };
  return (
    // Drawn anew in another theme, since a canvas does not know of CSS variables.
    <ReactChart key={theme} type={type} data={data} options={options(props)} role="img" aria-label={props.label} />
  );
}
