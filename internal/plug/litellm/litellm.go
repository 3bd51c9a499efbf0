// Package litellm reads what LiteLLM's generic API callback sends: the payloads of its standard
// logging, which tell of a request after it has ended.
//
// Source: https://docs.litellm.ai/docs/proxy/logging_spec
package litellm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/usage"
)

// MaxPayloads is the most payloads that one request may have; LiteLLM sends 512.
const MaxPayloads = 1000

// Item is what one payload comes to.
type Item struct {
	ID     string       // the payload's own
	Report usage.Report // its usage, to be checked
	Skip   string       // why it is no usage; empty: it is
	Failed bool         // it failed and used nothing; it may be tried again under the same admission
	Wrong  string       // why it cannot be read; empty: it can
}

// Names under which the metadata of a LiteLLM key, as keyledger_auth.py makes it, has our ids.
const (
	keyName       = "keyledger_key_id"
	admissionName = "keyledger_admission_id"
)

// payload is what is read of a StandardLoggingPayload. Everything else is passed over, the
// messages and answers among it.
type payload struct {
	ID               string  `json:"id"`
	Status           string  `json:"status"`
	CacheHit         *bool   `json:"cache_hit"`
	Model            string  `json:"model"`
	ModelID          string  `json:"model_id"`
	PromptTokens     int64   `json:"prompt_tokens"`
	CompletionTokens int64   `json:"completion_tokens"`
	EndTime          float64 `json:"endTime"` // seconds since 1970
	Metadata         struct {
		KeyHash string                    `json:"user_api_key_hash"`
		Auth    map[string]jsontext.Value `json:"user_api_key_auth_metadata"`
		Usage   *counted                  `json:"usage_object"`
	} `json:"metadata"`
	Response jsontext.Value `json:"response"`
}

// counted is LiteLLM's usage object. Its prompt tokens hold what was read from and written to
// cache.
type counted struct {
	Prompt      int64 `json:"prompt_tokens"`
	Completion  int64 `json:"completion_tokens"`
	CacheCreate int64 `json:"cache_creation_input_tokens"`
	CacheRead   int64 `json:"cache_read_input_tokens"`
	Details     *struct {
		Cached  int64 `json:"cached_tokens"`
		Created int64 `json:"cache_creation_tokens"`
		Split   *struct {
			OneHour int64 `json:"ephemeral_1h_input_tokens"`
		} `json:"cache_creation_token_details"`
	} `json:"prompt_tokens_details"`
}

// Read reads a body: an array of payloads, one payload, or one on each line. A payload that
// cannot be read does not hinder the others. Fault: Malformed for what is no JSON, or has more
// than MaxPayloads.
func Read(body []byte) (items []Item, err error) {
	d := jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	array := d.PeekKind() == jsontext.KindBeginArray
	if array {
		if _, err := d.ReadToken(); err != nil {
			return nil, malformed(err)
		}
	}
	for {
		if array && d.PeekKind() == jsontext.KindEndArray {
			return items, nil
		}
		raw, err := d.ReadValue()
		switch {
		case !array && errors.Is(err, io.EOF):
			return items, nil
		case err != nil:
			return nil, malformed(err)
		case len(items) == MaxPayloads:
			return nil, fault.New(fault.Malformed, fmt.Sprintf("The body has more than %d payloads.", MaxPayloads))
		}
		items = append(items, read(raw))
	}
}

func malformed(err error) error {
	return fault.Wrap(err, fault.Malformed, "The body must be a list of payloads, one payload, or one on each line, in JSON.")
}

// read reads one payload.
func read(raw jsontext.Value) Item {
	var p payload
	if err := jsonv2.Unmarshal(raw, &p, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
		return Item{Wrong: "is not a payload of LiteLLM's standard logging"}
	}
	item := Item{ID: p.ID}
	switch {
	case p.ID == "":
		item.Wrong = "id is required: without it a repeat would count twice"
	case p.CacheHit != nil && *p.CacheHit:
		item.Skip = "it was answered from LiteLLM's own cache"
	}
	counts := p.counts()
	if item.Skip == "" && p.Status == "failure" && counts == (usage.Counts{}) {
		item.Skip, item.Failed = "it failed and used nothing", true
	}
	key, admission := p.whose()
	if key == nil && admission == nil && item.Skip == "" && item.Wrong == "" {
		item.Wrong = "names no key of ours: metadata.user_api_key_hash is not a key's id, nor has metadata.user_api_key_auth_metadata a " + keyName
	}
	item.Report = usage.Report{RequestID: optional(p.ID), KeyID: key, AdmissionID: admission, AccountID: optional(p.ModelID), Model: optional(p.Model), Usage: counts.JSON()}
	if at := p.EndTime; at > 0 && at < math.MaxInt32 {
		instant := time.UnixMicro(int64(at * 1e6)).UTC()
		item.Report.OccurredAt = &instant
	}
	return item
}

// whose tells the key and the admission that a payload is of. What a client may write itself,
// as its request's metadata, is not asked: it could name another's key.
func (p payload) whose() (key, admission *uuid.UUID) {
	if id, err := uuid.Parse(p.Metadata.KeyHash); err == nil {
		key = &id
	}
	for name, into := range map[string]**uuid.UUID{keyName: &key, admissionName: &admission} {
		var text string
		if jsonv2.Unmarshal(p.Metadata.Auth[name], &text) != nil {
			continue
		}
		if id, err := uuid.Parse(text); err == nil {
			*into = &id
		}
	}
	return key, admission
}

// counts are the tokens of a payload, each in one count only.
func (p payload) counts() usage.Counts {
	u := p.Metadata.Usage
	if u == nil {
		var answer struct {
			Usage *counted `json:"usage"`
		}
		if p.Response.Kind() == jsontext.KindBeginObject && jsonv2.Unmarshal(p.Response, &answer, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) == nil {
			u = answer.Usage
		}
	}
	if u == nil || u.Prompt == 0 && u.Completion == 0 {
		u = &counted{Prompt: p.PromptTokens, Completion: p.CompletionTokens}
	}
	c := usage.Counts{Input: u.Prompt, Output: u.Completion, CacheCreate: u.CacheCreate, CacheRead: u.CacheRead}
	if d := u.Details; d != nil {
		c.CacheRead, c.CacheCreate = max(c.CacheRead, d.Cached), max(c.CacheCreate, d.Created)
		if d.Split != nil {
			c.Ephemeral1h = min(d.Split.OneHour, c.CacheCreate)
		}
	}
	return c.Apart()
}

// optional is a text as a report may have it; nil: none.
func optional(text string) *string {
	if text = field.Fit(text); text == "" {
		return nil
	}
	return &text
}
