package api

import (
	"io/fs"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
)

// consolePolicy is what a page of the console may load and do: its own files and this API.
const consolePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// consolePages are where the console is; what follows a slash behind one is a part of it.
var consolePages = []string{"/keys", "/accounts", "/prices", "/reports", "/webhooks", "/tokens", "/relay", "/audit", "/health", "/me"}

// registerConsole serves the console. Its pages are all index.html, which shows the one that
// the address names.
func registerConsole(e *echo.Echo, files fs.FS) {
	if files == nil {
		return
	}
	file := func(c echo.Context, name, kept string) error {
		if _, err := fs.Stat(files, name); err != nil {
			return echo.ErrNotFound
		}
		header := c.Response().Header()
		header.Set("Content-Security-Policy", consolePolicy)
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=()")
		header.Set("Cache-Control", kept)
		http.ServeFileFS(c.Response(), c.Request(), files, name)
		return nil
	}
	page := func(c echo.Context) error { return file(c, "index.html", "no-cache") }
	// The name of an asset has a hash of what is in it.
	asset := func(c echo.Context) error {
		return file(c, strings.TrimPrefix(c.Request().URL.Path, "/"), "public, max-age=31536000, immutable")
	}
	compressed := middleware.Gzip()
	get := []string{http.MethodGet, http.MethodHead}
	e.Match(get, "/", page, compressed)
	for _, path := range consolePages {
		e.Match(get, path, page, compressed)
		e.Match(get, path+"/*", page, compressed)
	}
	e.Match(get, "/icon.svg", func(c echo.Context) error { return file(c, "icon.svg", "max-age=86400") })
	e.Match(get, "/assets/*", asset, compressed)
}
