import { Box, Heading, Text } from "@chakra-ui/react";
import { Component, type ReactNode, useEffect, useState } from "react";
import { Link } from "react-router-dom";

import type { Overview, Session } from "./api";
import { type Line, lineOf } from "./cardline";

const QUIET = "Evergreen has nothing to show now.";

const page = (path: string): string => new URL(`evergreen/${path}`, document.baseURI).pathname;

async function ask<T>(path: string): Promise<T> {
  const response = await fetch(page(`api/${path}`), { credentials: "same-origin" });
  if (!response.ok) throw new Error(String(response.status));
  return (await response.json()) as T;
}

async function askAll(): Promise<Line[]> {
  const { use_cases } = await ask<Session>("use-cases");
  return Promise.all(
    use_cases.map(async ({ name, title, problem }): Promise<Line> => {
      const unknown = { name, title: title || name, text: "cannot be read now", incidents: [] };
      if (problem !== "") return { ...unknown, text: problem };
      const overview = await ask<Overview>(`use-cases/${encodeURIComponent(name)}/overview`).catch(() => null);
      return overview === null ? unknown : lineOf(overview);
    }),
  );
}

function Lines() {
  const [lines, setLines] = useState<Line[] | null>(null);
  const [failed, setFailed] = useState(false);
  useEffect(() => {
    askAll().then(setLines, () => setFailed(true));
  }, []);
  if (failed) return <Text color="fg.muted">{QUIET}</Text>;
  if (lines === null) return <Text color="fg.muted">Loading…</Text>;
  if (lines.length === 0) return <Text color="fg.muted">There is no use case that you may see.</Text>;
  return lines.map(({ name, title, text, incidents }) => (
    <Box key={name} py={1}>
      <Text>
        <Link to={`/plugin/evergreen${page(`use-cases/${encodeURIComponent(name)}/overview`)}`}>
          <Text as="span" color="fg.info">
            {title}
          </Text>
        </Link>
        : {text}
      </Text>
      {incidents.map((incident) => (
        <Text key={incident} color="fg.error">
          Incident: {incident}
        </Text>
      ))}
    </Box>
  ));
}

/** Whatever happens in here, Airflow's dashboard stays. */
class Fence extends Component<{ children: ReactNode }, { broken: boolean }> {
  override state = { broken: false };

  static getDerivedStateFromError() {
    return { broken: true };
  }

  override render() {
    return this.state.broken ? <Text color="fg.muted">{QUIET}</Text> : this.props.children;
  }
}

function Evergreen() {
  return (
    <Box borderWidth={1} borderRadius="md" p={4} my={2}>
      <Heading size="md" mb={1}>
        <Link to="/plugin/evergreen">Evergreen</Link>
      </Heading>
      <Fence>
        <Lines />
      </Fence>
    </Box>
  );
}

// Airflow imports this file and then looks for a global: one with the plugin's name, or this general one.
Object.assign(globalThis, { Evergreen, AirflowPlugin: Evergreen });
