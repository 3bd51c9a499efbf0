package api

import (
	"context"
	"fmt"
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

// slow is how long a request may wait for its transaction before /readyz says so.
const slow = 2 * time.Second

// GetReady answers GET /readyz. Ready: all is well. Degraded: it works, and checks
// tell what is slow or missing. Unready: it cannot work.
func (s *Server) GetReady(ctx context.Context, _ GetReadyRequestObject) (GetReadyResponseObject, error) {
	state := s.readiness(ctx)
	if state.Status == Unready {
		return GetReady503JSONResponse(state), nil
	}
	return GetReady200JSONResponse(state), nil
}

// readiness checks what the service needs.
func (s *Server) readiness(ctx context.Context) Readiness {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	checks := map[string]string{"database": ok, "schema": ok, "connections": ok, "changes": ok,
		"admissions": waited(s.Decider.State()), "usage": waited(s.Usage.State())}
	if _, err := s.Hot.Now(ctx); err != nil {
		checks["database"], checks["schema"] = "does not answer", "unknown"
		return Readiness{Status: Unready, Checks: checks}
	}
	if full := s.fullPool(); full != "" {
		checks["connections"] = full
	} else if current, needed, err := s.Schema(ctx); err != nil {
		checks["connections"] = "the database takes no more connections: lists and reports may fail"
		checks["schema"] = "could not be read"
	} else if current < needed {
		checks["schema"] = "is behind: run keyledger migrate up"
		return Readiness{Status: Unready, Checks: checks}
	}
	behind, fit := s.Standby.Behind()
	if fit {
		checks["reports"] = ok
	} else if s.Standby != nil {
		checks["reports"] = "are read from the primary: the standby is too far behind, or does not answer"
	}
	var lag *float64
	if behind > 0 {
		lag = new(behind.Round(time.Millisecond).Seconds())
	}
	if !s.Listening() {
		checks["changes"] = "are not heard: every request asks the database"
	}
	for _, state := range checks {
		if state != ok {
			return Readiness{Status: Degraded, Checks: checks, StandbyLagSeconds: lag}
		}
	}
	return Readiness{Status: Ready, Checks: checks, StandbyLagSeconds: lag}
}

// fullPool tells of a pool whose connections are all in use; empty: there is none.
func (s *Server) fullPool() string {
	for _, pool := range s.pools() {
		if _, inUse, most := pool.stat(); inUse == most {
			return fmt.Sprintf("all %d for %s are in use: they wait", most, pool.of)
		}
	}
	return ""
}

// pool is one of the pools of connections that requests other than a relay's use.
type pool struct {
	name, of string // in answers, and in a sentence
	stat     func() (open, inUse, most int32)
}

func (s *Server) pools() []pool {
	return []pool{{"changes", "changes of keys", s.Keys.PoolStat}, {"reads", "lists", s.DB.PoolStat}, {"reports", "reports", s.Reports.PoolStat}}
}

const ok = "ok"

// waited tells of a queue in words.
func waited(waiting int, oldest time.Duration) string {
	if oldest < slow {
		return ok
	}
	return fmt.Sprintf("slow: the oldest has waited %.1f s for PostgreSQL, %d wait behind it", oldest.Seconds(), waiting)
}
