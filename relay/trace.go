package relay

import (
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// tracer is OpenTelemetry's, which records nothing unless the program has set up where to.
var tracer = otel.Tracer("keyledger/relay")

// providers are services as OpenTelemetry names them.
var providers = map[string]string{"claude": "anthropic", "openai": "openai", "gemini": "gcp.gemini"}

// usageNames are members of usage objects, and what OpenTelemetry calls them. Input counts what was
// read from and written to cache, which some providers count apart.
// Source: https://github.com/open-telemetry/semantic-conventions-genai
var usageNames = map[string][]string{
	"gen_ai.usage.input_tokens": {"input_tokens", "prompt_tokens", "promptTokenCount"}, "gen_ai.usage.output_tokens": {"output_tokens", "completion_tokens", "candidatesTokenCount"},
	"gen_ai.usage.cache_read.input_tokens":  {"cache_read_input_tokens", "cachedContentTokenCount"},
	"gen_ai.usage.cache_write.input_tokens": {"cache_creation_input_tokens"},
}

// traced begins the span of a request, below that of the client, and returns the request as it
// goes on: the provider is told of the span in the place of the client's.
func (x *exchange) traced(req *http.Request) (*http.Request, trace.Span) {
	ctx := propagation.TraceContext{}.Extract(req.Context(), propagation.HeaderCarrier(req.Header))
	ctx, span := tracer.Start(ctx, "relay", trace.WithSpanKind(trace.SpanKindServer))
	if !span.IsRecording() {
		return req, span
	}
	req = req.WithContext(ctx)
	req.Header = req.Header.Clone()
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(req.Header))
	return req, span
}

// describe tells a span what became of the request: its model, its usage, its status. Neither its
// text nor its key is in it.
func (x *exchange) describe(span trace.Span, status int) {
	if !span.IsRecording() {
		return
	}
	about := []attribute.KeyValue{attribute.Int("http.response.status_code", status), attribute.String("gen_ai.provider.name", providers[x.service]),
		attribute.String("gen_ai.request.model", x.model)}
	if x.op != nil {
		span.SetName(x.op.name + " " + x.model)
		about = append(about, attribute.String("gen_ai.operation.name", x.op.name))
	}
	if x.meter != nil {
		read := x.read()
		if read.requestID != "" {
			about = append(about, attribute.String("gen_ai.response.id", read.requestID))
		}
		about = append(about, usageOf(read.usage)...)
	}
	span.SetAttributes(about...)
	if status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, http.StatusText(status))
	}
}

// usageOf is a usage object in OpenTelemetry's names.
func usageOf(usage map[string]jsontext.Value) (about []attribute.KeyValue) {
	counts := map[string]int64{}
	for name, members := range usageNames {
		for _, member := range members {
			if n, err := strconv.ParseInt(string(usage[member]), 10, 64); err == nil {
				counts[name] = n
			}
		}
	}
	if _, apart := usage["cache_read_input_tokens"]; apart { // Anthropic counts cached input beside the input
		counts["gen_ai.usage.input_tokens"] += counts["gen_ai.usage.cache_read.input_tokens"] + counts["gen_ai.usage.cache_write.input_tokens"]
	}
	for name, n := range counts {
		about = append(about, attribute.Int64(name, n))
	}
	return about
}
