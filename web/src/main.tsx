import { render } from "preact";
import { QueryClientProvider } from "@tanstack/preact-query";
import { App } from "./app";
import { queryClient } from "./api/queries";
import { LocaleProvider } from "./i18n";
import { NotesProvider } from "./ui/dialog";
import { applyTheme } from "./ui/theme";
import "./styles/base.css";
import "./styles/controls.css";
import "./styles/data.css";
import "./styles/states.css";
import "./styles/pages.css";

applyTheme();

render(
  <LocaleProvider>
    <QueryClientProvider client={queryClient}>
      <NotesProvider>
        <App />
      </NotesProvider>
    </QueryClientProvider>
  </LocaleProvider>,
  document.getElementById("app")!,
);
