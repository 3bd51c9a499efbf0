package api

import (
	"context"
	"net/http"
	"time"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/db"
	"github.com/keyledger/keyledger/internal/access"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
)

// The console's session: an access token, sealed, in a cookie that no script can read and that
// another site's page cannot use.
const (
	sessionCookie = "keyledger_session"
	sessionTime   = 12 * time.Hour
	consoleHeader = "X-Keyledger-Console"
)

// sessionToken is the access token of a request's session; empty: it has none, or one that is
// over.
func (s *Server) sessionToken(r *http.Request) string {
	if len(r.Header["Cookie"]) == 0 {
		return ""
	}
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return ""
	}
	token, _ := s.Sessions.Open(cookie.Value, time.Now())
	return token
}

// sameSite reports whether a request by session may do what it asks for: what changes nothing
// may, and what has a header that another site's page cannot send.
func sameSite(r *http.Request) bool {
	return r.Method == http.MethodGet || r.Method == http.MethodHead || r.Header.Get(consoleHeader) != ""
}

// setSession is the Set-Cookie header of a session; an empty one ends it.
func setSession(ctx context.Context, sealed string) *string {
	cookie := http.Cookie{ //nolint:gosec // Secure where there is TLS
		Name: sessionCookie, Value: sealed, Path: "/v1/",
		MaxAge: int(sessionTime.Seconds()), HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: callOf(ctx).secure,
	}
	if sealed == "" {
		cookie.MaxAge = -1
	}
	text := cookie.String()
	return &text
}

// CreateSession answers POST /v1/session.
func (s *Server) CreateSession(ctx context.Context, r CreateSessionRequestObject) (CreateSessionResponseObject, error) {
	if message := field.Range(int64(len(r.Body.Token)), 1, maxToken); message != "" {
		return nil, fault.Fields(field.Error{Field: "token", Message: "must have 1 to 500 characters"})
	}
	identity, err := s.identify(ctx, r.Body.Token, callOf(ctx).ip)
	if err != nil {
		return nil, err
	}
	return CreateSession201JSONResponse{SessionStartedJSONResponse{Body: s.session(identity),
		Headers: SessionStartedResponseHeaders{SetCookie: setSession(ctx, s.Sessions.Seal(r.Body.Token, time.Now().Add(sessionTime)))}}}, nil
}

// maxToken is the longest access token, in bytes.
const maxToken = 500

// EndSession answers DELETE /v1/session.
func (s *Server) EndSession(ctx context.Context, _ EndSessionRequestObject) (EndSessionResponseObject, error) {
	return EndSession204Response{EndSession204ResponseHeaders{SetCookie: setSession(ctx, "")}}, nil
}

// GetSession answers GET /v1/session.
func (s *Server) GetSession(ctx context.Context, _ GetSessionRequestObject) (GetSessionResponseObject, error) {
	return GetSession200JSONResponse{SessionAnswerJSONResponse(s.session(callOf(ctx).identity))}, nil
}

func (s *Server) session(who access.Identity) Session {
	return Session{ID: who.ID, Name: who.Name, Role: Role(who.Role), ExpiresAt: wire.AtOrNil(who.ExpiresAt), Timezone: s.Reports.Timezone(),
		Services: s.rules().Services, DefaultTokenLimit: s.rules().DefaultTokenLimit, Version: s.Build.Version}
}

// ListTokens answers GET /v1/tokens.
func (s *Server) ListTokens(ctx context.Context, _ ListTokensRequestObject) (ListTokensResponseObject, error) {
	rows, err := s.Tokens.List(ctx)
	if err != nil {
		return nil, err
	}
	now, err := s.DB.Now(ctx)
	if err != nil {
		return nil, err
	}
	answer := ListTokens200JSONResponse{Data: make([]tokenView, len(rows))}
	for i, row := range rows {
		answer.Data[i] = token(row, now)
	}
	return answer, nil
}

// CreateToken answers POST /v1/tokens.
func (s *Server) CreateToken(ctx context.Context, r CreateTokenRequestObject) (CreateTokenResponseObject, error) {
	var end *time.Time
	if r.Body.ExpiresAt != nil && !r.Body.ExpiresAt.IsZero() {
		end = &r.Body.ExpiresAt.Time
	}
	text, row, err := s.Tokens.Create(ctx, actor(ctx), r.Body.Name, access.Role(r.Body.Role), end)
	if err != nil {
		return nil, err
	}
	return CreateToken201JSONResponse{token(row, row.CreatedAt), text}, nil
}

// RevokeToken answers DELETE /v1/tokens/{id}.
func (s *Server) RevokeToken(ctx context.Context, r RevokeTokenRequestObject) (RevokeTokenResponseObject, error) {
	return RevokeToken204Response{}, s.Tokens.End(ctx, actor(ctx), r.ID)
}

func token(row db.AccessToken, now time.Time) tokenView {
	status := "active"
	switch {
	case row.RevokedAt != nil:
		status = "revoked"
	case row.ExpiresAt != nil && now.After(*row.ExpiresAt):
		status = "expired"
	}
	return tokenView{ID: row.ID, Name: row.Name, Role: row.Role, Hint: row.Hint, Status: status,
		CreatedAt: wire.At(row.CreatedAt), ExpiresAt: wire.AtOrNil(row.ExpiresAt), RevokedAt: wire.AtOrNil(row.RevokedAt)}
}
