package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"time"
)

// What the console is held to.
const (
	consoleBytes   = 150_000
	consoleRequest = 100 * time.Millisecond
)

// overviewPath is remembered for some seconds: it is asked for when it has been forgotten.
const (
	overviewPath   = "/v1/overview"
	overviewForget = 5100 * time.Millisecond
	overviewTimes  = 5
)

// consoleAsks is what the overview asks for beside it, and the list of keys.
var consoleAsks = []string{
	"/v1/session", "/v1/reports/usage?granularity=day", "/v1/reports/usage?granularity=day&groupBy=model&limit=1000",
	"/v1/reports/usage?granularity=total&groupBy=model&limit=1000", "/v1/keys?status=active&sort=expiresAt&limit=6",
	"/v1/prices/unpriced", "/v1/tags", "/v1/keys?sort=-createdAt&limit=50",
}

// consoleSearch finds one key among all.
const consoleSearch = "/v1/keys?q=99999&sort=-createdAt&limit=50"

// console is P16.
func (b *bench) console(ctx context.Context) ([]Result, error) {
	st, s, err := b.serving(ctx, b.stand)
	if err != nil {
		return nil, err
	}
	size, err := firstLoad(ctx, s.url)
	if err != nil {
		return nil, err
	}
	worst, of := time.Duration(0), ""
	samples := map[string]sample{}
	for _, path := range consoleAsks {
		got, err := repeat(ctx, s.target, path, 20*b.o.Rounds)
		if err != nil {
			return nil, err
		}
		if samples[path] = got; got.P99 > worst {
			worst, of = got.P99, path
		}
	}
	got, err := forgotten(ctx, s.target)
	if err != nil {
		return nil, err
	}
	if samples[overviewPath] = got; got.P99 > worst {
		worst, of = got.P99, overviewPath
	}
	search, err := repeat(ctx, s.target, consoleSearch, 20*b.o.Rounds)
	if err != nil {
		return nil, err
	}
	return []Result{
		{Name: "P16", What: "the console's first load, its charts included", Against: "–", Reach: "< 150 kB compressed",
			Measured: fmt.Sprintf("%.0f kB", float64(size)/1000), Value: float64(size), Reached: size < consoleBytes},
		{Name: "P16", What: fmt.Sprintf("every request of the overview and the list, %d keys", st.keys), Against: "–", Reach: "p99 < 100 ms", Samples: samples,
			Measured: fmt.Sprintf("p99 %s (%s, the slowest of %d)", short(worst), of, len(samples)), Value: worst.Seconds() * 1000, Reached: worst < consoleRequest},
		{Name: "P16", What: fmt.Sprintf("a search that finds one of %d keys", st.keys), Against: "–", Reach: "p99 < 100 ms", Samples: map[string]sample{consoleSearch: search},
			Measured: fmt.Sprintf("p50 %s, p99 %s", short(search.P50), short(search.P99)), Value: search.P99.Seconds() * 1000, Reached: search.P99 < consoleRequest},
	}, nil
}

// forgotten asks for the overview as often as it takes to see what reading it takes.
func forgotten(ctx context.Context, to target) (sample, error) {
	var latencies []time.Duration
	for range overviewTimes {
		select {
		case <-time.After(overviewForget):
		case <-ctx.Done():
			return sample{}, ctx.Err()
		}
		asked := time.Now()
		if _, err := call(ctx, to, http.MethodGet, overviewPath, ""); err != nil {
			return sample{}, err
		}
		latencies = append(latencies, time.Since(asked))
	}
	return sample{Requests: overviewTimes, P50: quantile(latencies, .5), P95: quantile(latencies, .95), P99: quantile(latencies, .99)}, nil
}

var consoleFile = regexp.MustCompile(`/?assets/[\w.-]+\.(?:js|css)`)

// firstLoad is how many bytes, compressed, a browser loads that opens the console: the page,
// and whatever files it or one of these names.
func firstLoad(ctx context.Context, base string) (size int, err error) {
	seen := map[string]bool{}
	for todo := []string{"/"}; len(todo) > 0; {
		path := todo[0]
		if todo = todo[1:]; seen[path] {
			continue
		}
		seen[path] = true
		plain, _, err := fetch(ctx, base+path, "identity")
		if err != nil {
			return 0, err
		}
		_, compressed, err := fetch(ctx, base+path, "gzip")
		if err != nil {
			return 0, err
		}
		size += compressed
		for _, name := range consoleFile.FindAllString(plain, -1) {
			if name[0] != '/' {
				name = "/" + name
			}
			todo = append(todo, name)
		}
	}
	if len(seen) < 3 { //nolint:mnd // the page, a script and a style
		return 0, fmt.Errorf("the console loads %d files", len(seen))
	}
	return size, nil
}

// fetch is a file as it comes with an encoding.
func fetch(ctx context.Context, url, encoding string) (body string, size int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Accept-Encoding", encoding) // so that the transport leaves it as it is
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(raw), len(raw), err
}
