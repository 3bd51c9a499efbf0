package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"

	"github.com/keyledger/keyledger/client/wire"
	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/usage"
	"github.com/keyledger/keyledger/internal/verify"
)

// Answers of the hot path are written by hand: reflection over them took as long as
// all else that is done for a request in this process. The tests hold them against
// openapi.yaml as they do all others.

var jsonType = []string{"application/json"}

func writeJSON(w http.ResponseWriter, body []byte) error {
	w.Header()["Content-Type"] = jsonType
	_, err := w.Write(append(body, '\n'))
	return err
}

// validKey is the answer to a valid key, from what is remembered of it.
type validKey verify.Shown

// VisitVerifyKeyResponse writes the answer.
func (k validKey) VisitVerifyKeyResponse(w http.ResponseWriter) error {
	shown := verify.Shown(k)
	body := make([]byte, 0, shown.Len()+100)
	body = append(body, `{"code":"VALID","key":`...)
	body = shown.Append(body)
	return writeJSON(w, append(body, `,"message":"API key is valid","valid":true}`...))
}

// decided is the answer to a request for admission.
type decided struct {
	admit.Decision

	key    *verify.Key   // nil: not shown
	checks []admit.Check // nil: no explanation was asked for
}

// VisitAdmitResponse writes the answer.
func (d decided) VisitAdmitResponse(w http.ResponseWriter) error {
	size := 300 + 200*len(d.Limits)
	if d.key != nil {
		size += d.key.Shown.Len()
	}
	b := make([]byte, 0, size)
	b = append(b, `{"allowed":`...)
	b = strconv.AppendBool(b, d.Allowed)
	b = appendText(b, `,"code":`, string(d.Code))
	b = appendText(b, `,"message":`, d.Message)
	if d.Observed != "" {
		b = appendText(b, `,"observed":`, string(d.Observed))
	}
	if d.RetryAfterSeconds != nil {
		b = strconv.AppendInt(append(b, `,"retryAfterSeconds":`...), *d.RetryAfterSeconds, 10)
	}
	if d.AdmissionID != uuid.Nil {
		b = appendID(b, `,"admissionId":`, d.AdmissionID)
	}
	if d.Cost.IsPositive() {
		b = append(append(b, `,"estimateUsd":`...), d.Cost.String()...)
	}
	if d.LeaseExpiresAt != nil {
		b = appendTime(b, `,"leaseExpiresAt":`, d.LeaseExpiresAt)
	}
	if d.Repeated {
		b = append(b, `,"repeated":true`...)
	}
	if d.key != nil {
		b = d.key.Shown.Append(append(b, `,"key":`...))
	}
	b = append(b, `,"limits":[`...)
	for i, l := range d.Limits {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, `{"name":`, l.Name)
		b = append(append(b, `,"limit":`...), l.Limit.String()...)
		b = append(append(b, `,"used":`...), l.Used.String()...)
		b = append(append(b, `,"reserved":`...), l.Reserved.String()...)
		b = append(append(b, `,"remaining":`...), l.Remaining.String()...)
		b = appendTime(b, `,"resetsAt":`, l.ResetsAt)
		b = append(b, '}')
	}
	b = append(b, ']')
	for i, c := range d.checks {
		b = append(b, []string{`,"explanation":[`, `,`}[min(i, 1)]...)
		b = appendText(b, `{"check":`, c.Check)
		b = strconv.AppendBool(append(b, `,"passed":`...), c.Passed)
		b = appendText(b, `,"detail":`, c.Detail)
		b = append(b, '}')
	}
	if d.checks != nil {
		b = append(b, ']')
	}
	return writeJSON(w, append(b, '}'))
}

// recorded is the answer to usage.
type recorded []usage.Result

// VisitRecordUsageResponse writes the answer.
func (r recorded) VisitRecordUsageResponse(w http.ResponseWriter) error {
	b := make([]byte, 0, 50+300*len(r))
	b = append(b, `{"results":[`...)
	for i, one := range r {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendID(b, `{"eventId":`, one.EventID)
		b = appendText(b, `,"requestId":`, one.RequestID)
		status := Recorded
		if one.Duplicate {
			status = Duplicate
		}
		b = appendText(b, `,"status":`, string(status))
		b = appendID(b, `,"keyId":`, one.KeyID)
		b = appendText(b, `,"model":`, one.Model)
		b = append(append(b, `,"costUsd":`...), one.Cost.String()...)
		b = strconv.AppendBool(append(b, `,"priced":`...), one.Priced)
		if one.Conflict {
			b = append(b, `,"conflict":true`...)
		}
		b = append(b, '}')
	}
	return writeJSON(w, append(b, "]}"...))
}

func appendText(b []byte, before, text string) []byte {
	b, _ = jsontext.AppendQuote(append(b, before...), text) // what is no UTF-8 is replaced
	return b
}

func appendID(b []byte, before string, id uuid.UUID) []byte {
	return append(append(append(append(b, before...), '"'), id.String()...), '"')
}

func appendTime(b []byte, before string, t *time.Time) []byte {
	b = append(b, before...)
	if t == nil {
		return append(b, "null"...)
	}
	return append(t.UTC().AppendFormat(append(b, '"'), wire.Layout), '"')
}
