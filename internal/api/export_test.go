package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

// HasRoute reports whether the table of routes has a row for an operation, with its path as
// echo writes it.
func HasRoute(method, path string) bool {
	_, has := routes[method+" "+path]
	return has
}

// Routes is how many rows the table of routes has.
func Routes() int { return len(routes) }

// BrokenCSV answers GET /v1/reports/usage with a report that fails after so many rows and so long.
func (s *Server) BrokenCSV(rows int, after time.Duration) http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = s.writeError
	e.Use(s.begin, s.bounded)
	e.GET("/v1/reports/usage", func(c echo.Context) error {
		return csvAnswer{ctx: c.Request().Context(), server: s, name: "broken", head: []string{"row"}, rows: func(begin func(time.Time), each func([]string) error) error {
			begin(time.Now())
			for i := range rows {
				if err := each([]string{fmt.Sprintf("%040d", i)}); err != nil {
					return err
				}
			}
			time.Sleep(after)
			return errors.New("the database is gone")
		}}.write(c.Response())
	})
	return e
}
