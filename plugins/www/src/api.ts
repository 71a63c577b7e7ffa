// The JSON of the server below /evergreen/api, as its dataclasses have it.

/** YYYY-MM-DD */
export type Day = string;
/** ISO 8601, UTC */
export type Instant = string;

// GET /use-cases -> Session  (what this user may see and start; for navigation and buttons)
export interface UseCaseEntry {
  name: string;
  title: string;
  zone?: string; // of its days and instants; UTC is shown without it
  problem: string; // why the use case cannot be loaded; else ""
  may_trigger: boolean; // user may start runs of its DAGs: buttons only then
  dags: Record<string, string>; // stage -> dag_id that exist: ingest, features, labels, history, train, score, monitor, release. ingest belongs to the base of one that builds on another
}
export interface Session {
  user: string;
  airflow: string; // base path of Airflow's UI and API, "" or "/prefix"
  use_cases: UseCaseEntry[];
}

// GET /use-cases/{use_case}/overview -> Overview
export interface Measurement {
  metric: string;
  value: number | null;
  lower: number | null;
  upper: number | null;
}
/** newest day with labels */
export interface Realised {
  day: Day;
  rows: number;
  degraded: boolean;
  metrics: Measurement[];
}
export interface Champion {
  version: number;
  since: Instant;
  action: "promote" | "roll_back";
  actor: string;
  reason: string;
  holdout: Measurement[]; // main metric first
  realised: Realised | null;
}
/** passed the gate, waits for a person */
export interface Pending {
  version: number;
  day: Day;
  mode: "approve" | "shadow";
  reasons: string[];
}
/** one table now */
export interface Standing {
  table: string;
  days: number;
  rows: number;
  first_day: Day | null;
  newest_day: Day | null;
  lag_days: number | null; // as of the newest night
  allowed_days: number | null;
  owed_days: number;
  stale: boolean; // breaks its SLA
  reason: string;
}
export interface LastNight {
  day: Day;
  decision: "retrain" | "wait";
  triggers: string[];
  reasons: string[];
  incidents: string[];
  drifted: string[];
  learnable_from: Day | null;
  has_report: boolean; // then /evergreen/nights/{use_case}/{day}
}
export interface Budget {
  asked: number; // trainings asked for in the 7 days up to the newest night
  allowed: number;
  next_day: Day | null; // first day on which one may be asked for again, None: tonight
}
/** stale days */
export interface Stretch {
  table: string;
  first_day: Day;
  last_day: Day;
  reason: string;
}
export interface Overview {
  use_case: string;
  title: string;
  description: string;
  owner: string;
  zone: string;
  base: string | null;
  main_metric: string;
  champion: Champion | null;
  pending: Pending | null;
  night: LastNight | null;
  budget: Budget | null;
  tables: Standing[];
  stale: Stretch[];
  mend: string[]; // commands
  problems?: string[]; // parts that could not be read, as sentences
  data_docs: boolean; // then /evergreen/data-docs/{use_case}/index.html
}

// GET /use-cases/{use_case}/calendar?from=&to= -> Calendar   (default: 92 days up to newest)
export type State = "present" | "empty" | "stale" | "missing" | "refused" | "owed" | "none";
// none: nobody expects it there (before its beginning); owed: lacking, and within its SLA; missing: lacking
export interface CalendarTable {
  table: string;
  made_by: string; // dag_id
  states: State[]; // by day, as in Calendar.days
  rows: (number | null)[];
  quarantined: (number | null)[]; // share in [0, 1], of delivered tables
  versions: (number | null)[]; // of predictions
  reasons: Record<Day, string>; // day -> why it is stale, missing or refused
}
export interface Calendar {
  use_case: string;
  days: Day[];
  first_day: Day; // of all there is
  newest_day: Day | null;
  tables: CalendarTable[];
}

// GET /use-cases/{use_case}/runs?from=&to= -> list[DayRun]: newest run by DAG and day that is not a success
export interface DayRun {
  dag_id: string;
  day: Day;
  run_id: string;
  state: "failed" | "running" | "queued";
}

// GET /use-cases/{use_case}/plan?dag_id=&from=&to= -> BackfillPlan
export interface PlannedRuns {
  dag_id: string;
  runs: number;
  because: string;
  seconds: number | null; // of all these runs, by the median of earlier ones; None: never ran
}
export interface BackfillPlan {
  dag_id: string;
  first_day: Day;
  last_day: Day;
  steps: PlannedRuns[]; // in the order in which they run
  seconds: number | null;
  notes: string[]; // e.g. longer ranges are faster by the history DAG
  request: Record<string, unknown>; // body for POST {airflow}/api/v2/backfills (and .../dry_run)
}

// GET /use-cases/{use_case}/drift?from=&to= -> Drift    (default: 60 nights)
export interface DriftFeature {
  feature: string;
  importance: number | null;
  unit: string;
  description: string;
  effects: (number | null)[]; // by night: KS D or total variation distance, [0, 1]
  drifted: boolean[];
  worst: string[]; // by night: why, "" if not drifted
}
export interface Drift {
  use_case: string;
  nights: Day[];
  versions: number[];
  decisions: string[]; // by night: retrain, wait, or ""
  alarmed: boolean[]; // by night: drift called for retraining
  features: DriftFeature[]; // score first, then by importance; "all columns" and "label" last
}

// GET /use-cases/{use_case}/drift/{night}/{feature} -> FeatureNight
export interface DriftTest {
  slice: string;
  reference: "expected" | "training";
  test: string;
  statistic: number | null;
  usual: number | null;
  p_value: number | null;
  p_adjusted: number | null;
  psi: number | null;
  psi_band: string | null;
  wasserstein: number | null;
  drifted: boolean;
  extreme: boolean;
  reason: string;
  reference_rows: number | null;
  current_rows: number | null;
}
export interface Distribution {
  bins: string[];
  tonight: number[]; // shares of rows
  expected: number[] | null;
  training: number[];
  ordered: boolean;
  rows: number;
}
export interface FeatureNight {
  use_case: string;
  night: Day;
  feature: string;
  unit: string;
  version: number | null;
  tests: DriftTest[];
  distribution: Distribution | null;
  problem: string; // why there is no distribution
}

// GET /use-cases/{use_case}/performance?metric=&from=&to= -> Performance
export interface Point {
  day: Day;
  version: number;
  value: number | null;
  lower: number | null;
  upper: number | null;
  rows: number;
  holdout: number | null;
  degraded: boolean;
}
export interface RealisedSeries {
  slice: string; // "all", "band=high", "<slice name>"
  points: Point[];
}
export interface EstimatePoint {
  day: Day;
  version: number;
  method: "cbpe" | "pape";
  value: number | null;
  lower: number | null;
  upper: number | null;
}
export interface Event {
  day: Day; // local day on the time line
  kind: "promotion" | "roll_back" | "alarm" | "retraining" | "learnable_from" | "degradation" | "effect";
  version: number | null;
  text: string;
}
/** a tenth of the rows of a day, by score, highest first */
export interface Bin {
  rows: number;
  mean_score: number;
  mean_label: number;
  lower: number; // of mean_label, 95 %
  upper: number;
  lift: number; // cumulative: mean label of these and higher bins / mean label of all
}
export interface Reliability {
  day: Day;
  version: number;
  rows: number;
  mean_label: number;
  bins: Bin[];
}
export interface Performance {
  use_case: string;
  metric: string;
  metrics: string[]; // that can be asked for, main one first
  higher_is_better?: boolean;
  is_probability: boolean;
  series: RealisedSeries[]; // "all" first
  estimates: EstimatePoint[];
  events: Event[];
  reliability: Reliability | null; // of the newest labelled day
}

// GET /use-cases/{use_case}/releases -> Releases
export interface LedgerEntry {
  sequence: number;
  action: "promote" | "roll_back";
  version: number;
  previous_version: number | null;
  actor: string;
  reason: string;
  recorded_at: Instant;
  until: Instant | null;
  hash: string;
}
export interface Check {
  name: string;
  passed: boolean;
  found: number | null;
  required: number | null;
  reason: string;
}
/** challenger minus the other, same rows */
export interface Against {
  other: string; // "champion 1", "baseline recency"
  metric: string;
  estimate: number | null;
  lower: number | null;
  upper: number | null;
}
export interface Version {
  version: number;
  state: "challenger" | "refused" | "champion" | "former";
  trained_on: Day;
  asked_by: string; // why training was started
  decision: "promote" | "refuse" | null;
  reasons: string[];
  checks: Check[];
  metrics: Measurement[]; // on its holdout
  baselines: Record<string, Measurement[]>;
  against: Against[];
  effect: string; // what came of it, "" if not known
  rows: Record<string, number>; // counts of the evidence
  has_card?: boolean; // then /evergreen/cards/{use_case}/{version} is HTML
  tracked_at?: string; // address of its MLflow run, "" if no server shows it
  run_id?: string;
}
export interface Releases {
  use_case: string;
  mode: "auto" | "approve" | "shadow";
  main_metric: string;
  entries: LedgerEntry[]; // newest first
  versions: Version[]; // newest first
  damage: string[]; // what does not verify
  release_dag: string;
}

// GET /use-cases/{use_case}/quality?from=&to= -> Quality   (default 30 days)
export interface DayCounts {
  day: Day;
  table: string;
  rows_in: number;
  accepted: number;
  quarantined: number;
  duplicates: number;
  published: number; // rows of the table (after a roll-up fewer than accepted)
  conserved: boolean; // rows_in == accepted + quarantined + duplicates
  without_data: boolean;
}
export interface Refusal {
  day: Day;
  table: string;
  rules: string[];
  found: string;
}
export interface RuleCount {
  table: string;
  rule: string;
  because: string;
  rows: number;
  days: number;
  newest_day: Day;
}
export interface Quality {
  use_case: string;
  days: DayCounts[]; // newest first
  refused: Refusal[];
  rules: RuleCount[]; // most rows first
  data_docs?: boolean;
}

// GET /use-cases/{use_case}/quarantine?table=&rule=&from=&to= -> Samples
export interface Rejected {
  day: Day;
  source: string;
  row: number | null;
  rules: string[];
  raw: Record<string, unknown>; // values of personal columns are "•••"; {"line": text} of a line that could not be split
}
export interface Samples {
  rows: number; // in all
  samples: Rejected[]; // at most 20, newest first
  masked: string[]; // names of masked columns
}

// GET /use-cases/{use_case}/entities?like= -> list[str]   (at most 20 keys of the newest scored day, highest score first; like: prefix)

// GET /use-cases/{use_case}/entities/{key}?to= -> Entity
export interface Scored {
  day: Day;
  score: number;
  lower: number | null;
  upper: number | null;
  rank: number;
  of: number; // entities scored that day
  band: string;
  reasons: string[];
  version: number;
  label: boolean | number | null; // what happened, once known
  known_on: Day | null;
}
export interface FeatureValue {
  feature: string;
  value: unknown;
  online: unknown;
  same: boolean;
  unit: string;
  description: string;
}
export interface Happened {
  table: string;
  day: Day;
  values: Record<string, unknown>; // personal columns masked
}
export interface Entity {
  use_case: string;
  entity: string; // name of the key column
  key: string;
  first_day: Day; // of what was looked at
  last_day: Day;
  scores: Scored[]; // newest first
  features_day: Day | null;
  online_as_of: Instant | null;
  features: FeatureValue[];
  events: Happened[]; // newest first, at most 50
  problems: string[];
}

// GET /use-cases/{use_case}/lineage/{day}/{key} -> Lineage
export interface Fact {
  label: string;
  value: string;
}
/** from the prediction back to what was delivered */
export interface Link {
  kind: "prediction" | "scoring" | "features" | "delivery" | "release" | "training" | "training_data";
  title: string;
  facts: Fact[];
  command: string; // replays or shows it; "" if none
  notes: string[]; // e.g. another code digest than today's
}
export interface Lineage {
  use_case: string;
  key: string;
  day: Day;
  score: number;
  links: Link[];
}

// GET /dag-runs/{dag_id}/{run_id} -> RunReceipts  (for the external view on each DAG run)
export interface RunReceipt {
  sequence: number;
  step: string;
  day: Day;
  output_table: string;
  output_snapshot: string; // 64-bit, so a string
  counts: Record<string, number>;
  inputs: Record<string, string>;
  content: string;
  code_digest: string;
  lock_digest: string;
  seconds: number;
  recorded_at: Instant;
  replay: string; // command, "" if that step is not replayed
}
export interface RunReceipts {
  dag_id: string;
  run_id: string;
  use_case: string | null;
  what: string; // day or period it ran for
  receipts: RunReceipt[];
  note: string; // why there are none
}
