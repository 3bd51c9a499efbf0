// Package tracing sends traces to an OpenTelemetry collector. Without an endpoint nothing is set
// up, and OpenTelemetry's own default, which records nothing, stays.
package tracing

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
)

// Options say where traces go.
type Options struct {
	Endpoint string  // address of a collector that takes OTLP over HTTP, like http://127.0.0.1:4318; empty: none
	Sample   float64 // share of traces that are kept, 0 to 1, of those that a caller has not decided about
	Service  string
	Version  string
}

// Start begins to send traces. Stop sends what is left, until its context ends. An error says
// what is wrong with the endpoint; that nobody is there is none.
func Start(ctx context.Context, o Options) (stop func(context.Context) error, err error) {
	if o.Endpoint == "" {
		return func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(o.Endpoint+"/v1/traces"))
	if err != nil {
		return nil, fmt.Errorf("traces cannot be sent to %s: %w", o.Endpoint, err)
	}
	provider := trace.NewTracerProvider(
		trace.WithBatcher(exporter),
		trace.WithSampler(trace.ParentBased(trace.TraceIDRatioBased(o.Sample))),
		trace.WithResource(resource.NewSchemaless(attribute.String("service.name", o.Service), attribute.String("service.version", o.Version))),
	)
	otel.SetTracerProvider(provider)
	return provider.Shutdown, nil
}
