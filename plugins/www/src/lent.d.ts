// What the card borrows of the libraries that Airflow lends, as far as it uses them.
declare module "@chakra-ui/react" {
  import type { ComponentType, ReactNode } from "react";

  type Styled = ComponentType<{ children?: ReactNode } & Record<string, string | number | ReactNode>>;
  export const Box: Styled;
  export const Heading: Styled;
  export const Text: Styled;
}

declare module "react-router-dom" {
  import type { ComponentType, ReactNode } from "react";

  export const Link: ComponentType<{ to: string; children?: ReactNode }>;
}
