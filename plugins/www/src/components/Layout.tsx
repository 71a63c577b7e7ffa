import type { ReactNode } from "react";

import type { Session } from "../api";
import { words } from "../format";
import { PAGES, type PageName, pageOf } from "../route";

interface LayoutProps {
  title: string;
  session?: Session;
  useCase?: string;
  page?: PageName;
  children: ReactNode;
}

export function Layout({ title, session, useCase, page, children }: LayoutProps) {
  return (
    <>
      <a
        className="skip"
        href={`${window.location.pathname}${window.location.search}#main`}
        onClick={(event) => {
          event.preventDefault();
          document.getElementById("main")?.focus();
        }}
      >
        Skip to content
      </a>
      {session && (
        <header>
          <nav aria-label="Use cases">
            <a className="brand" href="./" aria-current={useCase === undefined ? "page" : undefined}>
              Evergreen
            </a>
            {session.use_cases.map(({ name, title: label }) => (
              <a
                key={name}
                href={pageOf(name, page ?? "overview")}
                title={label}
                aria-current={name === useCase ? "true" : undefined}
              >
                {name}
              </a>
            ))}
          </nav>
          {useCase !== undefined && (
            <nav aria-label="Pages" className="pages">
              {PAGES.map((name) => (
                <a key={name} href={pageOf(useCase, name)} aria-current={name === page ? "page" : undefined}>
                  {words(name[0]?.toUpperCase() + name.slice(1))}
                </a>
              ))}
            </nav>
          )}
        </header>
      )}
      <main id="main" tabIndex={-1}>
        <h1>{title}</h1>
        {children}
      </main>
    </>
  );
}
