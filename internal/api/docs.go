package api

import (
	_ "embed"
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/swaggest/swgui/v5emb"
)

//go:embed openapi.yaml
var openapiYAML []byte

// registerDocs serves the specification and a page that renders it. The page's
// scripts and styles come from the binary: it asks no other host.
func registerDocs(e *echo.Echo) {
	e.GET("/openapi.yaml", func(c echo.Context) error {
		return c.Blob(http.StatusOK, "application/yaml", openapiYAML)
	})
	reference := echo.WrapHandler(v5emb.New("keyledger", "/openapi.yaml", "/docs/"))
	page := func(c echo.Context) error {
		// It tries operations out, and so must not lie in another site's frame.
		c.Response().Header().Set("Content-Security-Policy", "frame-ancestors 'none'; base-uri 'none'; connect-src 'self'; object-src 'none'")
		return reference(c)
	}
	e.GET("/docs", func(c echo.Context) error { return c.Redirect(http.StatusMovedPermanently, "/docs/") })
	e.GET("/docs/*", page)
}
