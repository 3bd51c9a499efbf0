// Package keyheader finds the API key of a request in the places where clients of the
// providers put it, and takes it out of all of them.
package keyheader

import (
	"net/http"
	"net/url"
	"strings"
)

// Names are the headers that a key may stand in, in the order in which they are read.
var Names = []string{"X-Api-Key", "X-Goog-Api-Key", "Authorization", "Api-Key"}

// parameter is the key's name in a query.
const parameter = "key"

// Bearer is the token of an Authorization header; empty: it has none.
func Bearer(h http.Header) string {
	const scheme = "bearer "
	text := h.Get("Authorization")
	if len(text) <= len(scheme) || !strings.EqualFold(text[:len(scheme)], scheme) {
		return ""
	}
	return strings.TrimSpace(text[len(scheme):])
}

// Find is the key that a request came with, from the first place that has one: x-api-key,
// x-goog-api-key, Authorization: Bearer, api-key, a bare Authorization, ?key=. Empty: none.
// It must never be logged.
func Find(h http.Header, query url.Values) string {
	for _, text := range []string{h.Get("X-Api-Key"), h.Get("X-Goog-Api-Key"), Bearer(h), h.Get("Api-Key"), h.Get("Authorization"), query.Get(parameter)} {
		if text = strings.TrimSpace(text); text != "" {
			return text
		}
	}
	return ""
}

// Strip takes a key out of a request wherever it may stand, not only where it was found.
func Strip(r *http.Request) {
	for _, name := range Names {
		r.Header.Del(name)
	}
	query := r.URL.Query()
	if query.Has(parameter) {
		query.Del(parameter)
		r.URL.RawQuery = query.Encode()
	}
}
