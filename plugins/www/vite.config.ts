import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

import { licences } from "./licences.ts";

export default defineConfig({
  // Relative to the <base> that the server writes, for an Airflow below a prefix.
  base: "./",
  plugins: [react(), licences()],
  build: {
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    rollupOptions: {
      output: {
        entryFileNames: "assets/app-[hash].js",
        chunkFileNames: "assets/[name]-[hash].js",
        assetFileNames: "assets/app-[hash][extname]",
      },
    },
  },
});
