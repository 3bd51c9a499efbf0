package api_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/keyledger/keyledger/internal/pgtest"
)

// The main operations over HTTP, on a PostgreSQL that does not wait for the disk.

func BenchmarkVerify(b *testing.B) {
	h := newHarness(b, options{})
	_, secret := pgtest.Key(b, h.db, pgtest.KeyRow{})
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			h.as(h.relay, "POST", "/v1/keys/verify", map[string]any{"apiKey": secret})
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	for _, size := range []int{1, 500} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			h := newHarness(b, options{})
			id, _ := pgtest.Key(b, h.db, pgtest.KeyRow{})
			var serial atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					events := make([]any, size)
					for i := range events {
						events[i] = map[string]any{"keyId": id, "requestId": fmt.Sprint(serial.Add(1)), "model": "gpt-4o", "usage": map[string]any{"prompt_tokens": 100}}
					}
					h.want(h.record(map[string]any{"events": events}), 200)
				}
			})
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func BenchmarkList(b *testing.B) {
	h := newHarness(b, options{})
	fill(b, h.db, 10_000)
	for b.Loop() {
		h.want(h.do("GET", "/v1/keys?sort=-cost&limit=50", nil), 200)
	}
}
