package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// The loads of P14 and P15.
const (
	proxied       = 64 // clients of P14
	streams       = 1000
	streamGap     = 50 * time.Millisecond
	streamTime    = 10 * time.Second
	answerWords   = 400 // of five bytes: an answer of about 2 kB
	relaySetUp    = 15 * time.Second
	streamMemory  = 200 << 20
	streamDelay   = 20 * time.Millisecond
	relayRatio    = .35
	relayOverhead = 2 * time.Millisecond
)

// relaying starts the provider's stand-in, and a relay before it: in the service's process,
// or alone beside the service.
func (b *bench) relaying(ctx context.Context, alone bool) (upstream, relay *server, err error) {
	if upstream, err = b.start(ctx, []string{"bench", "upstream", "--addr", "127.0.0.1:0"}, nil); err != nil {
		return nil, nil, err
	}
	st, err := b.realStand(ctx)
	if err != nil {
		return nil, nil, err
	}
	file := filepath.Join(b.dir, "upstreams.yaml")
	text := fmt.Sprintf("accounts: [{id: a, service: claude, apiKeyEnv: SECRET, baseUrl: %q}]\n", upstream.url)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, nil, err
	}
	env := []string{"SECRET=x", "KEYLEDGER_UPSTREAMS_FILE=" + file, "KEYLEDGER_RELAY_ADDR=127.0.0.1:0", "KEYLEDGER_SPOOL_DIR=" + filepath.Join(b.dir, fmt.Sprintf("spool-%d", b.started))}
	if !alone {
		relay, err = b.serve(ctx, st.url, env...)
		return upstream, relay, err
	}
	service, err := b.serve(ctx, st.url)
	if err != nil {
		return nil, nil, err
	}
	relay, err = b.start(ctx, []string{"relay"}, append(env, "KEYLEDGER_URL="+service.url, "KEYLEDGER_TOKEN="+token, "KEYLEDGER_METRICS_ADDR=off"))
	return upstream, relay, err
}

// asking is a request to the relay, or to the provider behind it.
func asking(stream bool) []byte {
	return fmt.Appendf(nil, `{"model":"claude-sonnet-4-20250514","max_tokens":1000,"stream":%v,"messages":[{"role":"user","content":"hello"}]}`, stream)
}

// relayed is P14.
func (b *bench) relayed(ctx context.Context) ([]Result, error) {
	upstream, s, err := b.relaying(ctx, false)
	if err != nil {
		return nil, err
	}
	alone, err := b.start(ctx, []string{"bench", "proxy", upstream.url}, nil)
	if err != nil {
		return nil, err
	}
	body := asking(false)
	p := realShape(realKeys)
	load := traffic{
		path: "/v1/messages", next: func(uint64) []byte { return body },
		header: func() http.Header {
			return http.Header{"Content-Type": {"application/json"}, "X-Api-Key": {secretOf(p.anyKey())}, "X-Mock-Events": {strconv.Itoa(answerWords)}}
		},
		check: func(answer []byte) error {
			if !bytes.Contains(answer, []byte(`"output_tokens":400`)) {
				return fmt.Errorf("an answer was %.200s", answer)
			}
			return nil
		},
	}
	through := func(to target, clients int) func(context.Context, time.Duration) (sample, error) {
		return func(ctx context.Context, d time.Duration) (sample, error) {
			return drive(ctx, to, load, d, loadOptions{clients: clients})
		}
	}
	relay := target{s.relay, ""}
	ratios, samples, err := b.pair(ctx, "P14", side{"relay", through(relay, proxied)}, side{"proxy", through(alone.target, proxied)})
	if err != nil {
		return nil, err
	}
	_, one, err := b.pair(ctx, "P14", side{"relay", through(relay, 1)}, side{"proxy", through(alone.target, 1)})
	if err != nil {
		return nil, err
	}
	added := one["relay"].P50 - one["proxy"].P50
	rate := ratio("P14", "the relay, answers of 2 kB, 64 clients", "httputil.ReverseProxy alone, the same upstream", relayRatio, ratios, samples, "relay", "proxy")
	return []Result{rate, {
		Name: "P14", What: "the relay, one client", Against: rate.Against, Reach: "added p50 < " + short(relayOverhead), Samples: one,
		Value: float64(added.Microseconds()) / 1000, Reached: added < relayOverhead,
		Measured: fmt.Sprintf("p50 %s against %s: %s added", short(one["relay"].P50), short(one["proxy"].P50), short(added)),
	}}, nil
}

// relayedStreams is P15.
func (b *bench) relayedStreams(ctx context.Context) ([]Result, error) {
	upstream, s, err := b.relaying(ctx, true)
	if err != nil {
		return nil, err
	}
	direct, err := b.readStreams(ctx, upstream.url)
	if err != nil {
		return nil, fmt.Errorf("read directly: %w", err)
	}
	delays, err := b.readStreams(ctx, s.url)
	if err != nil {
		return nil, fmt.Errorf("through the relay: %w", err)
	}
	memory, err := s.memory()
	if err != nil {
		return nil, err
	}
	n := len(delays)
	p50, p99, straight := quantile(delays, .5), quantile(delays, .99), quantile(direct, .99)
	return []Result{{
		Name: "P15", What: fmt.Sprintf("the relay, %d streams at once, one event each %s", streams, streamGap), Against: "the same upstream read directly",
		Reach: fmt.Sprintf("p99 of an event's delay < %s, RSS < %d MB", short(streamDelay), streamMemory>>20),
		Value: float64(p99.Microseconds()) / 1000, Reached: p99 < streamDelay && memory < streamMemory,
		Measured: fmt.Sprintf("p50 %s, p99 %s (read directly: %s), of %d events; %d MB", short(p50), short(p99), short(straight), n, memory>>20),
	}}, nil
}

// readStreams reads all streams at once and returns how long each event was on its way, once
// all of them flow.
func (b *bench) readStreams(ctx context.Context, url string) (delays []time.Duration, err error) {
	transport := &http.Transport{MaxIdleConnsPerHost: streams, DisableCompression: true}
	defer transport.CloseIdleConnections()
	events := strconv.Itoa(int((relaySetUp + streamTime) / streamGap))
	ready := time.Now().Add(relaySetUp)
	var mu sync.Mutex
	var all sync.WaitGroup
	p := realShape(realKeys)
	for i := range streams {
		all.Go(func() {
			time.Sleep(time.Duration(i) * relaySetUp / 2 / streams) // they do not begin all at once
			own, failed := readStream(ctx, transport, url, secretOf(p.anyKey()), events, ready)
			mu.Lock()
			defer mu.Unlock()
			delays = append(delays, own...)
			err = errors.Join(err, failed)
		})
	}
	all.Wait()
	if err == nil && len(delays) < streams {
		err = fmt.Errorf("only %d events came", len(delays))
	}
	return delays, err
}

// readStream reads one stream; the text of its events is when they were sent.
func readStream(ctx context.Context, transport http.RoundTripper, url, secret, events string, ready time.Time) (delays []time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/messages", bytes.NewReader(asking(true)))
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{"Content-Type": {"application/json"}, "X-Api-Key": {secret}, "X-Mock-Events": {events}, "X-Mock-Gap": {streamGap.String()}, "X-Mock-Clock": {"1"}}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("a stream was answered with %d %s", resp.StatusCode, text)
	}
	lines := bufio.NewReader(resp.Body)
	stop := ready.Add(streamTime)
	for {
		line, err := lines.ReadSlice('\n')
		now := time.Now()
		if errors.Is(err, io.EOF) {
			return delays, nil
		}
		if err != nil {
			return delays, err
		}
		_, rest, ok := bytes.Cut(line, []byte(`"text":"`))
		sent, _, _ := bytes.Cut(rest, []byte(`"`))
		if n, err := strconv.ParseInt(string(sent), 10, 64); ok && err == nil && now.After(ready) && now.Before(stop) {
			delays = append(delays, now.Sub(time.Unix(0, n)))
		}
	}
}
