// Package browser drives a headless Chromium, as a person would, for the tests of pages.
package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience is how long something may take to show.
const patience = 20 * time.Second

// Page is a tab of a browser of its own: no cookie or other state is shared with another Page.
// Everything it does fails the test when it cannot be done.
type Page struct {
	t             testing.TB
	ctx           context.Context //nolint:containedctx // a test's own
	base          *url.URL
	dir           string
	width, height int64

	mu       sync.Mutex
	foreign  []string
	requests []string
	faults   []string
}

// Open starts a browser for the pages below an address. It ends with the test, which fails if a
// page asked another host for anything, threw an exception, or broke its content security
// policy.
func Open(tb testing.TB, base string) *Page {
	tb.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-gpu", true),
		chromedp.Flag("lang", "en-US"), chromedp.Flag("hide-scrollbars", true))
	for _, name := range []string{"chromium", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			options = append(options, chromedp.ExecPath(path))
			break
		}
	}
	ctx, cancelAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	tb.Cleanup(cancelAllocator)
	ctx, cancel := chromedp.NewContext(ctx)
	tb.Cleanup(cancel)
	p := &Page{t: tb, ctx: ctx, dir: tb.TempDir()}
	var err error
	if p.base, err = url.Parse(base); err != nil {
		tb.Fatal(err)
	}
	if err := chromedp.Listen(ctx, p.hear); err != nil {
		tb.Fatal(err)
	}
	p.do(command(network.Enable, network.EnableParams{}), command(log.Enable, cdp.Empty{}), command(runtime.Enable, cdp.Empty{}),
		command(browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{Behavior: browser.SetDownloadBehaviorBehaviorAllow, DownloadPath: p.dir}))
	p.Size(1440, 900)
	tb.Cleanup(p.clean)
	return p
}

// command is a command of the protocol as an action.
func command[P, R any](c cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, t, c, params)
		return chromedp.Void{}, err
	}
}

func (p *Page) hear(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(e.Request.URL)
		if err != nil || u.Scheme == "data" || u.Scheme == "blob" || u.Scheme == "about" {
			return
		}
		p.requests = append(p.requests, e.Request.Method+" "+u.RequestURI())
		if u.Host != p.base.Host {
			p.foreign = append(p.foreign, e.Request.URL)
		}
	case *runtime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if x := e.ExceptionDetails.Exception; x != nil {
			text += " " + x.Description
		}
		p.faults = append(p.faults, text)
	case *log.EventEntryAdded:
		if strings.Contains(e.Entry.Text, "Content Security Policy") || strings.Contains(e.Entry.Text, "Trusted") || e.Entry.Source == "security" {
			p.faults = append(p.faults, e.Entry.Text)
		}
	}
}

func (p *Page) clean() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.foreign) > 0 {
		p.t.Errorf("the page asked other hosts: %v", p.foreign)
	}
	for _, fault := range p.faults {
		p.t.Errorf("the page threw or broke its policy: %s", fault)
	}
}

// Requests are the requests that the page has made so far, as "GET /v1/keys", and forgets them.
func (p *Page) Requests() (all []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all, p.requests = p.requests, nil
	return all
}

func (p *Page) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.fail(err)
	}
}

// fail ends the test with what the page shows.
func (p *Page) fail(what any) {
	p.t.Helper()
	text, _ := chromedp.Run(p.ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText`))
	if to := os.Getenv("KEYLEDGER_TEST_SCREENSHOT"); to != "" {
		if shot, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot()); err == nil {
			_ = os.WriteFile(to, shot, 0o600)
		}
	}
	p.t.Fatalf("%v; the page shows:\n%s", what, text)
}

// Go opens a path.
func (p *Page) Go(path string) {
	p.t.Helper()
	p.do(chromedp.Navigate(p.base.String() + path))
}

// Reload loads the page again.
func (p *Page) Reload() {
	p.t.Helper()
	p.do(chromedp.Reload())
}

// Size makes the window so large, in CSS pixels; below 600 wide it is a phone.
func (p *Page) Size(width, height int64) {
	p.t.Helper()
	p.width, p.height = width, height
	p.resize(width, height)
}

func (p *Page) resize(width, height int64) {
	p.t.Helper()
	p.do(command(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 600}))
}

// Dark makes the system's colours dark, or light.
func (p *Page) Dark(dark bool) {
	p.t.Helper()
	value := "light"
	if dark {
		value = "dark"
	}
	p.do(command(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}}}))
}

// Offline cuts the connection, or gives it back.
func (p *Page) Offline(cut bool) {
	p.t.Helper()
	p.do(func(ctx context.Context, t *chromedp.Target) (none chromedp.Void, err error) {
		return none, t.Call(ctx, "Network.emulateNetworkConditions", map[string]any{"offline": cut, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}, nil)
	})
}

// Eval is the value of an expression in the page, a promise's included.
func Eval[T any](p *Page, expression string) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		p.fail(fmt.Errorf("%s: %w", expression, err))
	}
	return value
}

// Wait waits until an expression in the page is true.
func (p *Page) Wait(expression string) {
	p.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(30 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(p.ctx, patience)
		yes, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`!!(`+expression+`)`))
		cancel()
		if err == nil && yes {
			return
		}
		if time.Now().After(end) {
			p.fail(fmt.Errorf("%s never became true: %w", expression, err))
		}
	}
}

// See waits until the page shows a text.
func (p *Page) See(text string) {
	p.t.Helper()
	p.Wait(`document.body.innerText.includes(` + quote(text) + `)`)
}

// SeeNot waits until the page shows a text no more.
func (p *Page) SeeNot(text string) {
	p.t.Helper()
	p.Wait(`!document.body.innerText.includes(` + quote(text) + `)`)
}

// Text is what an element shows; a test id stands for it as [data-test=id].
func (p *Page) Text(selector string) string {
	p.t.Helper()
	p.Wait(`document.querySelector(` + quote(selector) + `)`)
	return Eval[string](p, `document.querySelector(`+quote(selector)+`).innerText`)
}

// find is a script that is the visible control with a name, as a screen reader would say it:
// within an open dialog, if there is one.
func find(name string) string {
	return `(() => {
		const want = ` + quote(name) + `;
		const root = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document;
		const shown = (e) => e.checkVisibility({ visibilityProperty: true });
		const nameOf = (e) => (e.getAttribute("aria-label") ?? e.innerText ?? "").trim().replace(/\s+/g, " ");
		const all = [...root.querySelectorAll("button, a, summary, label, input[aria-label], select[aria-label]")].filter(shown);
		const label = (e) => e && (e.matches("label") ? e.control ?? e.querySelector("select, input") : e);
		return label(all.find((e) => nameOf(e) === want) ?? all.find((e) => nameOf(e).startsWith(want)));
	})()`
}

// Click clicks the control with a name, where it is.
func (p *Page) Click(name string) {
	p.t.Helper()
	p.Wait(find(name))
	p.Wait(find(name) + `.disabled !== true`)
	p.clickOn(find(name))
}

// painted waits until what has happened is on the screen, as a person would.
func (p *Page) painted() {
	p.t.Helper()
	Eval[bool](p, `new Promise((done) => requestAnimationFrame(() => setTimeout(() => requestAnimationFrame(() => setTimeout(() => done(true))))))`)
}

// ClickOn clicks the element that a selector finds.
func (p *Page) ClickOn(selector string) {
	p.t.Helper()
	p.Wait(`document.querySelector(` + quote(selector) + `)`)
	p.clickOn(`document.querySelector(` + quote(selector) + `)`)
}

func (p *Page) clickOn(element string) {
	p.t.Helper()
	// A page that is still being laid out moves: it is clicked where it stays, and only if
	// nothing lies over it.
	var before []float64
	for end := time.Now().Add(patience); time.Now().Before(end); {
		p.painted()
		at := Eval[[]float64](p, `(() => { const e = `+element+`; e?.scrollIntoView({ block: "center", behavior: "instant" });
			const box = e?.getBoundingClientRect(); if (!box) return []; const at = [box.x + box.width / 2, box.y + box.height / 2];
			const hit = document.elementFromPoint(...at); return e.contains(hit) || e.closest("label")?.contains(hit) ? at : []; })()`)
		if len(at) > 0 && slices.Equal(at, before) {
			p.do(chromedp.MouseClickXY(at[0], at[1]))
			return
		}
		before = at
	}
	p.fail(element + " cannot be clicked: it moves, or something lies over it")
}

// Fill puts a text into the field with a label, in the place of what is there; of a list it
// chooses the entry with that text.
func (p *Page) Fill(label, text string) {
	p.t.Helper()
	p.Wait(find(label))
	kind := Eval[string](p, find(label)+`.type`)
	switch kind {
	case "select-one":
		p.Wait(`[...` + find(label) + `.options].some((o) => o.text === ` + quote(text) + `)`)
		Eval[bool](p, `(() => { const e = `+find(label)+`; e.selectedIndex = [...e.options].findIndex((o) => o.text === `+quote(text)+`);
			e.dispatchEvent(new Event("change", { bubbles: true })); return true; })()`)
	case "datetime-local", "date": // typed in parts that differ by locale
		Eval[bool](p, `(() => { const e = `+find(label)+`; e.value = `+quote(text)+`; e.dispatchEvent(new Event("input", { bubbles: true })); return true; })()`)
	default:
		Eval[bool](p, `(() => { const e = `+find(label)+`; e.focus(); e.select(); return true; })()`)
		if text == "" {
			p.Key("Delete")
			return
		}
		p.do(command(input.InsertText, input.InsertTextParams{Text: text}))
	}
}

// Type presses the keys of a text in the field with a label, one after another.
func (p *Page) Type(label, text string) {
	p.t.Helper()
	p.Wait(find(label))
	Eval[bool](p, `(`+find(label)+`.focus(), true)`)
	p.do(chromedp.KeyEvent(text))
}

// keys are the keys that Key knows, with their codes.
var keys = map[string]int64{"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "Delete": 46}

// Key presses a key: Tab, Enter, Escape, space or Delete.
func (p *Page) Key(key string) {
	p.t.Helper()
	down := input.DispatchKeyEventParams{Type: input.DispatchKeyEventTypeKeyDown, Key: key, Code: key, WindowsVirtualKeyCode: keys[key]}
	if key == "Enter" {
		down.Text = "\r"
	}
	if key == " " {
		down.Code, down.Text = "Space", " "
	}
	up := down
	up.Type, up.Text = input.DispatchKeyEventTypeKeyUp, ""
	p.do(command(input.DispatchKeyEvent, down), command(input.DispatchKeyEvent, up))
}

// Upload gives a file to the only file field of the page.
func (p *Page) Upload(file string) {
	p.t.Helper()
	p.Wait(`document.querySelector("input[type=file]")`)
	p.do(chromedp.SetUploadFiles(chromedp.CSS("input[type=file]"), []string{file}))
}

// Download is what the browser was given to keep, once it has come: of the only file whose name
// ends so.
func (p *Page) Download(suffix string) (name, text string) {
	p.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		files, _ := filepath.Glob(filepath.Join(p.dir, "*"+suffix))
		if len(files) == 1 {
			raw, err := os.ReadFile(files[0])
			if err == nil && len(raw) > 0 {
				return filepath.Base(files[0]), string(raw)
			}
		}
		if time.Now().After(end) {
			p.fail(fmt.Errorf("no file *%s was kept", suffix))
		}
	}
}

// tallest is how high a picture may be, in pixels.
const tallest = 2600

// Shot is a picture of the page as WebP: all of it, or as much as tallest.
func (p *Page) Shot() []byte {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	p.resize(p.width, min(tallest, max(p.height, Eval[int64](p, `document.documentElement.scrollHeight`))))
	defer p.resize(p.width, p.height)
	p.painted()
	quality := int64(80)
	shot, err := chromedp.Run(ctx, func(ctx context.Context, t *chromedp.Target) (page.CaptureScreenshotResult, error) {
		return cdp.Call(ctx, t, page.CaptureScreenshot, page.CaptureScreenshotParams{Format: page.CaptureScreenshotFormatWebp, Quality: &quality})
	})
	if err != nil {
		p.fail(err)
	}
	return shot.Data
}

func quote(text string) string {
	raw, err := json.Marshal(text)
	if err != nil {
		panic(err) // a text can always be encoded
	}
	return string(raw)
}
