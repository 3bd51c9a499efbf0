package api

import (
	"bytes"
	"io"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"
)

// Bare is an echo server with nothing in it: it reads a body and answers ?bytes=N
// bytes of JSON. It is what the bench compares the service with.
func Bare() http.Handler {
	e := echo.New()
	e.POST("/", func(c echo.Context) error {
		if _, err := io.ReadAll(c.Request().Body); err != nil {
			return err
		}
		size, err := strconv.Atoi(c.QueryParam("bytes"))
		if err != nil || size < 2 {
			return echo.ErrBadRequest
		}
		return c.JSONBlob(http.StatusOK, bytes.Repeat([]byte{'1'}, size))
	})
	return e
}
