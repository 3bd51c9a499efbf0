package api

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/keyledger/keyledger/internal/access"
)

// route is what the middleware must know of an operation. The table below is the only place
// that says so; an operation without a row is what otherRoute says.
type route struct {
	may     access.Role   // the role that suffices beside admin; empty: none does
	anyone  bool          // any role suffices
	open    bool          // asked without an access token
	holder  bool          // asked by a key itself and not with an access token
	body    int64         // bytes that its body may have
	timeout time.Duration // that the work on it may take
	report  bool          // may read the whole ledger: as many at once as the pool for reports has connections
}

// The kinds of operations.
var (
	read   = &route{may: access.Reader, body: maxBody, timeout: requestTimeout}
	change = &route{body: maxBody, timeout: requestTimeout}
	batch  = &route{body: maxBatchBody, timeout: requestTimeout}
	relay  = &route{may: access.Relay, body: maxBody, timeout: requestTimeout}
	events = &route{may: access.Relay, body: maxBatchBody, timeout: requestTimeout}
	ingest = &route{may: access.Relay, body: maxIngestBody, timeout: requestTimeout}
	sums   = &route{may: access.Reader, body: maxBody, timeout: reportTimeout, report: true}
	redo   = &route{body: maxBody, timeout: reportTimeout, report: true}
	holder = &route{holder: true, body: freeBody, timeout: requestTimeout} // so small that it is not charged
	leaked = &route{open: true, body: maxBody, timeout: requestTimeout}    // authorised by the secrets themselves
	state  = &route{open: true, body: maxBody, timeout: requestTimeout}    // how the service is
	signIn = &route{open: true, body: freeBody, timeout: requestTimeout}   // and out; so small that it is not charged
	whoAmI = &route{anyone: true, body: maxBody, timeout: requestTimeout}
)

// routes are all operations of openapi.yaml, by method and path.
var routes = map[string]*route{
	"GET /healthz":                                    state,
	"GET /readyz":                                     state,
	"GET /v1/accounts/:accountId/usage":               read,
	"GET /v1/accounts/usage":                          read,
	"GET /v1/audit":                                   read,
	"GET /v1/clients":                                 read,
	"GET /v1/events":                                  read,
	"GET /v1/events/:id":                              read,
	"GET /v1/keys":                                    read,
	"GET /v1/keys/:id":                                read,
	"GET /v1/keys/:id/admissions":                     read,
	"GET /v1/keys/:id/audit":                          read,
	"GET /v1/keys/:id/refusals":                       read,
	"GET /v1/keys/:id/secrets":                        read,
	"GET /v1/keys/:id/usage":                          read,
	"GET /v1/overview":                                read,
	"GET /v1/prices":                                  read,
	"GET /v1/prices/unpriced":                         read,
	"GET /v1/relay":                                   read,
	"GET /v1/service":                                 read,
	"GET /v1/tags":                                    read,
	"GET /v1/tokens":                                  read,
	"GET /v1/session":                                 whoAmI,
	"POST /v1/session":                                signIn,
	"DELETE /v1/session":                              signIn,
	"GET /v1/reports/reconcile":                       sums,
	"GET /v1/reports/usage":                           sums,
	"GET /v1/reports/focus":                           sums,
	"GET /v1/usage":                                   holder,
	"POST /v1/keys/revoke-leaked":                     leaked,
	"GET /v1/self":                                    holder,
	"POST /v1/admissions":                             relay,
	"DELETE /v1/admissions/:id":                       relay,
	"POST /v1/admissions/:id/renew":                   relay,
	"POST /v1/keys/verify":                            relay,
	"POST /v1/usage":                                  events,
	"POST /v1/ingest/litellm":                         ingest,
	"POST /otlp/v1/traces":                            ingest,
	"POST /v1/keys":                                   change,
	"PATCH /v1/keys/:id":                              change,
	"DELETE /v1/keys/:id":                             change,
	"POST /v1/keys/:id/restore":                       change,
	"POST /v1/keys/:id/rotate":                        change,
	"POST /v1/keys/batch":                             batch,
	"PATCH /v1/keys/batch":                            batch,
	"POST /v1/keys/batch-delete":                      batch,
	"POST /v1/events/:id/void":                        change,
	"POST /v1/maintenance/expire":                     change,
	"POST /v1/tokens":                                 change,
	"DELETE /v1/tokens/:id":                           change,
	"POST /v1/prices":                                 change,
	"POST /v1/prices/import":                          batch,
	"POST /v1/prices/reprice":                         redo,
	"POST /v1/reports/rebuild":                        redo,
	"GET /v1/webhooks":                                read,
	"GET /v1/webhooks/:id/deliveries":                 read,
	"POST /v1/webhooks":                               change,
	"PATCH /v1/webhooks/:id":                          change,
	"DELETE /v1/webhooks/:id":                         change,
	"POST /v1/webhooks/:id/test":                      change,
	"POST /v1/webhooks/:id/deliveries/:eventId/retry": change,
}

// otherRoute is what holds where there is no operation: readers may learn so from a GET.
func otherRoute(method string) *route {
	if method == http.MethodGet {
		return read
	}
	return change
}

// routeOf is the route of a request.
func routeOf(c echo.Context) *route {
	r, known := routes[c.Request().Method+" "+c.Path()]
	if !known {
		return otherRoute(c.Request().Method)
	}
	return r
}

// allows reports whether a role may do what a route does.
func (r *route) allows(role access.Role) bool {
	return role == access.Admin || r.anyone || r.may != "" && role == r.may
}
