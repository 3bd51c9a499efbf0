// Package client is the Go client of keyledger's REST API, generated from its
// OpenAPI document, with retries, idempotency keys and typed problems. The
// keyledger command itself speaks through it.
//
//	c, err := client.New("https://keys.example.com", token)
//	made, err := c.CreateKeyWithResponse(ctx, nil, client.KeyCreate{Name: "alice"})
//	secret := made.JSON201.APIKey
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-retryablehttp"
)

// Error is a problem (RFC 9457) that the service answered with. Every method
// returns it, wrapped or not, for a status of 400 and above, and for an answer that
// is not keyledger's.
type Error struct {
	Problem
	// RetryAfter is what the service asks to wait; 0: nothing was asked.
	RetryAfter time.Duration
}

// Error is the problem in words: its detail, and each wrong field.
func (e *Error) Error() string {
	text := e.Detail
	if e.Errors != nil {
		for _, f := range *e.Errors {
			text += fmt.Sprintf("\n  %s %s", f.Field, f.Message)
		}
	}
	return text
}

// AsError finds the service's problem in an error; nil when there is none.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// The retries: a request that may be repeated without harm is tried five times
// in all, over about four seconds, or as Retry-After says.
const (
	retries   = 4
	waitLeast = 200 * time.Millisecond
	waitMost  = 5 * time.Second
)

// New makes a client for the service at a URL with an access token.
//
// Requests that can be repeated without harm are retried with backoff when the
// connection fails or the service is overloaded: reads, deletes, verify, changes
// without If-Match, create and rotate (which get an Idempotency-Key if they have
// none), and usage whose every event has a requestId.
func New(url, token string) (*ClientWithResponses, error) {
	r := retryablehttp.NewClient()
	r.Logger = nil
	r.RetryMax, r.RetryWaitMin, r.RetryWaitMax = retries, waitLeast, waitMost
	r.CheckRetry = checkRetry
	r.ErrorHandler = retryablehttp.PassthroughErrorHandler
	return NewClientWithResponses(strings.TrimRight(url, "/"), WithHTTPClient(doer{r}), WithRequestEditorFn(
		func(_ context.Context, req *http.Request) error {
			req.Header.Set("Authorization", "Bearer "+token)
			return nil
		}))
}

type doer struct{ retry *retryablehttp.Client }

type repeatable struct{}

// Do sends a request, more than once if need be, and turns problems into errors.
func (d doer) Do(req *http.Request) (*http.Response, error) {
	if makesSecret(req) && req.Header.Get("Idempotency-Key") == "" {
		req.Header.Set("Idempotency-Key", uuid.NewString())
	}
	safe, err := harmless(req)
	if err != nil {
		return nil, err
	}
	wrapped, err := retryablehttp.FromRequest(req.WithContext(context.WithValue(req.Context(), repeatable{}, safe)))
	if err != nil {
		return nil, err
	}
	resp, err := d.retry.Do(wrapped)
	if err != nil {
		return nil, err
	}
	kind := resp.Header.Get("Content-Type")
	switch {
	case strings.HasPrefix(kind, "application/problem+json"):
		return nil, problem(resp)
	case resp.StatusCode == http.StatusNoContent, resp.StatusCode < http.StatusBadRequest && (strings.HasPrefix(kind, "application/json") || strings.HasPrefix(kind, "text/csv")):
		return resp, nil
	}
	// Something else stands at this address, or before the service.
	_ = resp.Body.Close()
	text := fmt.Sprintf("%s %s answered %s with %q, which is not keyledger's: is the URL right?", req.Method, req.URL.Redacted(), resp.Status, kind)
	return nil, &Error{Problem: Problem{Status: resp.StatusCode, Title: resp.Status, Detail: text}}
}

// problem reads what the service found wrong.
func problem(resp *http.Response) error {
	defer func() { _ = resp.Body.Close() }()
	e := &Error{}
	if err := json.NewDecoder(resp.Body).Decode(&e.Problem); err != nil {
		return fmt.Errorf("the service answered %s, and its problem cannot be read: %w", resp.Status, err)
	}
	if wait, err := time.ParseDuration(resp.Header.Get("Retry-After") + "s"); err == nil {
		e.RetryAfter = wait
	}
	return e
}

func checkRetry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if safe, _ := ctx.Value(repeatable{}).(bool); !safe {
		return false, nil
	}
	if err != nil {
		return retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true, nil
	}
	return false, nil
}

func makesSecret(req *http.Request) bool {
	return req.Method == http.MethodPost && (strings.HasSuffix(req.URL.Path, "/v1/keys") || strings.HasSuffix(req.URL.Path, "/rotate"))
}

// harmless tells whether a request done twice does no more than one done once.
func harmless(req *http.Request) (bool, error) {
	path := req.URL.Path
	switch req.Method {
	case http.MethodGet, http.MethodDelete:
		return true, nil
	case http.MethodPatch:
		return req.Header.Get("If-Match") == "", nil
	}
	switch {
	case makesSecret(req), strings.HasSuffix(path, "/verify"), strings.HasSuffix(path, "/batch-delete"),
		strings.HasSuffix(path, "/void"), strings.HasSuffix(path, "/expire"), strings.Contains(path, "/v1/prices"):
		return true, nil
	case strings.HasSuffix(path, "/v1/usage"):
		return everyEventNamed(req)
	}
	return false, nil
}

// everyEventNamed tells whether each event of a usage request has a requestId.
func everyEventNamed(req *http.Request) (bool, error) {
	raw, err := io.ReadAll(req.Body)
	if err != nil {
		return false, fmt.Errorf("reading the request's body: %w", err)
	}
	req.Body = io.NopCloser(bytes.NewReader(raw))
	var body struct {
		RequestID *string `json:"requestId"`
		Events    []struct {
			RequestID *string `json:"requestId"`
		} `json:"events"`
	}
	if json.Unmarshal(raw, &body) != nil { // the service will say what is wrong with it
		body.RequestID, body.Events = nil, nil
	}
	for _, e := range body.Events {
		if e.RequestID == nil {
			return false, nil
		}
	}
	return body.RequestID != nil || len(body.Events) > 0, nil
}
