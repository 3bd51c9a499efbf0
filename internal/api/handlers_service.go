package api

import (
	"context"
	"time"
)

// ExpireKeys answers POST /v1/maintenance/expire.
func (s *Server) ExpireKeys(ctx context.Context, _ ExpireKeysRequestObject) (ExpireKeysResponseObject, error) {
	n, err := s.Passes.Keys(ctx, actor(ctx), nil)
	if err != nil {
		return nil, err
	}
	return ExpireKeys200JSONResponse{Disabled: n}, nil
}

// GetHealth answers GET /healthz: the process is up, whatever the database does.
func (s *Server) GetHealth(context.Context, GetHealthRequestObject) (GetHealthResponseObject, error) {
	return GetHealth200JSONResponse{Status: Ok}, nil
}

// readyTimeout bounds the checks of /readyz.
const readyTimeout = 2 * time.Second

// GetReady answers GET /readyz: the database answers and its schema is not behind.
func (s *Server) GetReady(ctx context.Context, _ GetReadyRequestObject) (GetReadyResponseObject, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	checks := map[string]string{"database": "ok", "schema": "ok"}
	if _, err := s.DB.Now(ctx); err != nil {
		checks["database"], checks["schema"] = "does not answer", "unknown"
		return GetReady503JSONResponse{Status: Unready, Checks: checks}, nil
	}
	behind, err := s.SchemaBehind(ctx)
	switch {
	case err != nil:
		checks["schema"] = "could not be read"
	case behind:
		checks["schema"] = "is behind: run keyledger migrate up"
	default:
		return GetReady200JSONResponse{Status: Ready, Checks: checks}, nil
	}
	return GetReady503JSONResponse{Status: Unready, Checks: checks}, nil
}
