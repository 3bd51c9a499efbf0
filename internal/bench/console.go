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

// consoleAsks is what the overview and the list of keys ask for.
var consoleAsks = []string{
	"/v1/session", "/v1/overview", "/v1/reports/usage?granularity=day&groupBy=model&limit=1000", "/v1/keys?status=active&sort=expiresAt&limit=6",
	"/v1/prices/unpriced", "/v1/tags", "/v1/keys?sort=-createdAt&limit=50", "/v1/keys?q=99999&sort=-createdAt&limit=50",
}

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
	return []Result{
		{Name: "P16", What: "the console's first load, its charts included", Against: "–", Reach: "< 150 kB compressed",
			Measured: fmt.Sprintf("%.0f kB", float64(size)/1000), Value: float64(size), Reached: size < consoleBytes},
		{Name: "P16", What: fmt.Sprintf("every request of the overview and the list, %d keys", st.keys), Against: "–", Reach: "p99 < 100 ms", Samples: samples,
			Measured: fmt.Sprintf("p99 %s (%s, the slowest of %d)", short(worst), of, len(samples)), Value: worst.Seconds() * 1000, Reached: worst < consoleRequest},
	}, nil
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
