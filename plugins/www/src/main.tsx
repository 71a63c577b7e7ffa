import "./style.css";

import { type ComponentType, StrictMode, useEffect } from "react";
import { createRoot } from "react-dom/client";

import type { Session } from "./api";
import { Loaded, Notice } from "./components/basics";
import { Layout } from "./components/Layout";
import { useApi } from "./data";
import { AllUseCases } from "./pages/AllUseCases";
import { CalendarPage } from "./pages/Calendar";
import { DriftPage } from "./pages/Drift";
import { EntityPage } from "./pages/Entity";
import { LineagePage } from "./pages/Lineage";
import { OverviewPage } from "./pages/Overview";
import { PerformancePage } from "./pages/Performance";
import { QualityPage } from "./pages/Quality";
import { ReleasesPage } from "./pages/Releases";
import { RunPage } from "./pages/Run";
import { type PageName, parse, type Route } from "./route";
import { PlaceContext } from "./session";
import { followTheme } from "./theme";

const VIEWS: Record<PageName, [heading: string, view: ComponentType]> = {
  overview: ["Overview", OverviewPage],
  calendar: ["Calendar", CalendarPage],
  drift: ["Drift", DriftPage],
  performance: ["Performance", PerformancePage],
  releases: ["Releases", ReleasesPage],
  quality: ["Quality", QualityPage],
  entity: ["Entity", EntityPage],
  lineage: ["Lineage", LineagePage],
};

function Inside({ route, session }: { route: Route; session: Session }) {
  if (route.kind === "all") {
    return (
      <Layout title="All use cases" session={session}>
        <AllUseCases session={session} />
      </Layout>
    );
  }
  const entry = route.kind === "use-case" ? session.use_cases.find(({ name }) => name === route.useCase) : undefined;
  if (route.kind !== "use-case" || entry === undefined) {
    return (
      <Layout title="Not found" session={session}>
        <Notice tone="warn">There is no such page, or you may not see its use case. Choose another above.</Notice>
      </Layout>
    );
  }
  const [heading, View] = VIEWS[route.page];
  return (
    <PlaceContext value={{ session, entry }}>
      <Layout title={`${heading} · ${entry.title || entry.name}`} {...{ session }} useCase={entry.name} page={route.page}>
        {entry.problem === "" ? <View /> : <Notice tone="bad">This use case cannot be loaded: {entry.problem}</Notice>}
      </Layout>
    </PlaceContext>
  );
}

function App() {
  const route = parse(window.location.pathname);
  const session = useApi<Session>("use-cases");
  useEffect(() => {
    const names = route.kind === "use-case" ? [VIEWS[route.page][0], route.useCase] : [];
    document.title = [...names, "Evergreen"].join(" · ");
  });
  if (route.kind === "run") {
    return (
      <Layout title="Receipts">
        <RunPage dag={route.dag} run={route.run} session={session.data} />
      </Layout>
    );
  }
  if (session.data === undefined) {
    return (
      <Layout title="Evergreen">
        <Loaded of={session}>{() => null}</Loaded>
      </Layout>
    );
  }
  return <Inside route={route} session={session.data} />;
}

followTheme();
const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <App />
    </StrictMode>,
  );
}
