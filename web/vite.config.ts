import { defineConfig } from "vite";

// The output is committed and embedded in the binary, so that building keyledger needs no
// Node. It depends on the sources and on package-lock.json alone: CI builds it again and
// compares.
export default defineConfig({
  build: { target: "es2022", cssTarget: ["chrome123", "firefox120", "safari17.5"], assetsInlineLimit: 0, modulePreload: { polyfill: false } },
  server: { proxy: { "/v1": "http://127.0.0.1:8080", "/docs": "http://127.0.0.1:8080" } },
});
