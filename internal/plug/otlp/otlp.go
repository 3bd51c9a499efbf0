// Package otlp reads OpenTelemetry traces: spans of calls of models, by the conventions for
// generative AI, tell what was used.
//
// Sources: https://opentelemetry.io/docs/specs/otlp/#otlphttp,
// https://github.com/open-telemetry/semantic-conventions-genai
package otlp

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/usage"
)

// The types that a body may have.
const (
	Protobuf = "application/x-protobuf"
	JSON     = "application/json"
)

// Item is what one span with usage comes to.
type Item struct {
	ID     string       // trace and span id
	Report usage.Report // its usage, to be checked
	Wrong  string       // why it cannot be read; empty: it can
}

// operations are those of spans that call a model. Others, such as that of an agent, may repeat
// the usage of spans below them.
var operations = map[string]bool{"": true, "chat": true, "generate_content": true, "text_completion": true, "embeddings": true}

// Names of attributes, those of today first.
var (
	inputNames      = []string{"gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"}
	outputNames     = []string{"gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"}
	cacheReadNames  = []string{"gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens"}
	cacheWriteNames = []string{"gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_creation_input_tokens"}
	modelNames      = []string{"gen_ai.response.model", "gen_ai.request.model"}
	keyNames        = []string{"keyledger.key_id", "keyledger.key.id"}
	admissionNames  = []string{"keyledger.admission_id", "keyledger.admission.id"}
	accountNames    = []string{"keyledger.account_id", "keyledger.account.id"}
)

// serviceName is the attribute of a resource that keys are mapped by.
const serviceName = "service.name"

// Read reads an export of traces, in JSON or protobuf, and returns the spans that tell of usage;
// spans that do not are passed over. A span names its key by the attribute keyledger.key_id, of
// its own or of its resource; else byService has the key of its resource's service.name. Fault:
// Malformed for what is no export.
func Read(body []byte, kind string, byService map[string]uuid.UUID) ([]Item, error) {
	var export collector.ExportTraceServiceRequest
	var err error
	if kind == JSON {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(body, &export)
	} else {
		err = proto.Unmarshal(body, &export)
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.Malformed, "The body is not an export of traces.")
	}
	var items []Item
	for _, resource := range export.GetResourceSpans() {
		outer := attributes(resource.GetResource().GetAttributes())
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				if item, has := read(span, outer, byService); has {
					items = append(items, item)
				}
			}
		}
	}
	return items, nil
}

// Answer is the answer to an export, of its own type: how many spans were rejected, and why.
func Answer(kind string, rejected int, why string) ([]byte, error) {
	var answer collector.ExportTraceServiceResponse
	if rejected > 0 {
		answer.PartialSuccess = &collector.ExportTracePartialSuccess{RejectedSpans: int64(rejected), ErrorMessage: why}
	}
	if kind == JSON {
		return protojson.Marshal(&answer)
	}
	return proto.Marshal(&answer)
}

// read reads one span. has: it tells of usage.
func read(span *trace.Span, outer values, byService map[string]uuid.UUID) (item Item, has bool) {
	own := attributes(span.GetAttributes())
	if !operations[own.text("gen_ai.operation.name")] {
		return item, false
	}
	counts := usage.Counts{}
	for _, of := range []struct {
		names []string
		into  *int64
	}{{inputNames, &counts.Input}, {outputNames, &counts.Output}, {cacheReadNames, &counts.CacheRead}, {cacheWriteNames, &counts.CacheCreate}} {
		if n, given := own.number(of.names...); given {
			*of.into, has = n, true
		}
	}
	if !has {
		return item, false
	}
	traceID, spanID := idText(span.GetTraceId(), 16), idText(span.GetSpanId(), 8)
	item.ID = traceID + "-" + spanID
	if traceID == "" || spanID == "" {
		item.Wrong = "has no trace id or no span id: without them a repeat would count twice"
	}
	item.Report = usage.Report{RequestID: &item.ID, Usage: counts.Apart().JSON(), AccountID: own.optional(outer, accountNames...), Model: own.optional(values{}, modelNames...)}
	for _, id := range []struct {
		names []string
		into  **uuid.UUID
	}{{keyNames, &item.Report.KeyID}, {admissionNames, &item.Report.AdmissionID}} {
		text := own.optional(outer, id.names...)
		if text == nil {
			continue
		}
		parsed, err := uuid.Parse(*text)
		if err != nil {
			item.Wrong = fmt.Sprintf("attribute %s is not an id", id.names[0])
			continue
		}
		*id.into = &parsed
	}
	if id, mapped := byService[outer.text(serviceName)]; mapped && item.Report.KeyID == nil && item.Report.AdmissionID == nil {
		item.Report.KeyID = &id
	}
	if item.Wrong == "" && item.Report.KeyID == nil && item.Report.AdmissionID == nil {
		item.Wrong = "names no key: neither it nor its resource has the attribute " + keyNames[0]
	}
	if end := span.GetEndTimeUnixNano(); end > 0 && end < 1<<62 {
		instant := time.Unix(0, int64(end)).UTC()
		item.Report.OccurredAt = &instant
	}
	return item, true
}

// idText is an id in hexadecimal; empty: none. In JSON ids are written so, and what the reader
// of protobuf's JSON takes for base64 is their very text.
func idText(id []byte, size int) string {
	text := hex.EncodeToString(id)
	if len(id) == size*3/2 {
		text = base64.StdEncoding.EncodeToString(id)
	}
	if len(text) != 2*size || strings.Trim(text, "0") == "" {
		return ""
	}
	return strings.ToLower(text)
}

// values are attributes by name.
type values map[string]*common.AnyValue

func attributes(list []*common.KeyValue) values {
	v := make(values, len(list))
	for _, a := range list {
		v[a.GetKey()] = a.GetValue()
	}
	return v
}

func (v values) text(name string) string { return strings.TrimSpace(v[name].GetStringValue()) }

// optional is the first text that is there under one of these names, here or in the values around.
func (v values) optional(around values, names ...string) *string {
	for _, from := range []values{v, around} {
		for _, name := range names {
			if text := from.text(name); text != "" {
				return &text
			}
		}
	}
	return nil
}

// number is the first count that is there under one of these names.
func (v values) number(names ...string) (n int64, given bool) {
	for _, name := range names {
		switch value := v[name].GetValue().(type) {
		case *common.AnyValue_IntValue:
			return value.IntValue, true
		case *common.AnyValue_DoubleValue:
			if whole := int64(value.DoubleValue); float64(whole) == value.DoubleValue {
				return whole, true
			}
		}
	}
	return 0, false
}
