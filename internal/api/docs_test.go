package api_test

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/keyledger/keyledger/internal/api"
)

// Guarantee: /docs renders every operation in a real browser and asks no other
// host for anything.
func TestDocsInBrowser(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-gpu", true))
	for _, name := range []string{"chromium", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			options = append(options, chromedp.ExecPath(path))
			break
		}
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	own, err := url.Parse(h.url)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var foreign []string
	err = chromedp.Listen(ctx, func(event any) {
		if e, ok := event.(*network.EventRequestWillBeSent); ok && !strings.HasPrefix(e.Request.URL, "data:") {
			if u, err := url.Parse(e.Request.URL); err == nil && u.Host != own.Host {
				mu.Lock()
				foreign = append(foreign, e.Request.URL)
				mu.Unlock()
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	page, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	watch := func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, t, network.Enable, network.EnableParams{})
		return chromedp.Void{}, err
	}
	if err := chromedp.Do(page, watch, chromedp.Navigate(h.url+"/docs"), chromedp.WaitVisible(chromedp.CSS(".opblock-summary"))); err != nil {
		t.Fatal(err)
	}
	operations, err := chromedp.Run(page, chromedp.Evaluate[int](`document.querySelectorAll('.opblock').length`))
	if err != nil {
		t.Fatal(err)
	}
	title, err := chromedp.Run(page, chromedp.Text(chromedp.CSS(".info .title")))
	if err != nil {
		t.Fatal(err)
	}
	if to := os.Getenv("KEYLEDGER_TEST_SCREENSHOT"); to != "" {
		shot, err := chromedp.Run(page, chromedp.CaptureScreenshot())
		if err == nil {
			err = os.WriteFile(to, shot, 0o600)
		}
		if err != nil {
			t.Error(err)
		}
	}
	if operations != api.Routes() || !strings.HasPrefix(title, "keyledger") {
		t.Errorf("the page %q shows %d operations, want %d", title, operations, api.Routes())
	}
	mu.Lock()
	defer mu.Unlock()
	if len(foreign) > 0 {
		t.Errorf("the page asked other hosts: %v", foreign)
	}
}
