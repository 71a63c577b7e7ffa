import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// Airflow's dashboard lends these to a plugin as globals, so the card brings no library of its own.
const LENT = {
  react: "React",
  "react/jsx-runtime": "ReactJSXRuntime",
  "react-router-dom": "ReactRouterDOM",
  "@chakra-ui/react": "ChakraUI",
};

export default defineConfig({
  plugins: [react()],
  define: { "process.env.NODE_ENV": JSON.stringify("production") },
  build: {
    target: "es2022",
    emptyOutDir: false,
    lib: { entry: "src/card.tsx", formats: ["iife"], name: "EvergreenBundle", fileName: () => "assets/card.js" },
    rollupOptions: { external: Object.keys(LENT), output: { globals: LENT } },
  },
});
