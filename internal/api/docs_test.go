package api_test

import (
	"strings"
	"testing"

	"github.com/keyledger/keyledger/internal/api"
	"github.com/keyledger/keyledger/internal/browser"
)

// Guarantee: /docs renders every operation in a real browser and asks no other
// host for anything.
func TestDocsInBrowser(t *testing.T) {
	t.Parallel()
	h := newHarness(t, options{})
	p := browser.Open(t, h.url)
	p.Go("/docs")
	p.Wait(`document.querySelector(".opblock-summary")`)
	operations := browser.Eval[int](p, `document.querySelectorAll(".opblock").length`)
	if title := p.Text(".info .title"); operations != api.Routes() || !strings.HasPrefix(title, "keyledger") {
		t.Errorf("the page %q shows %d operations, want %d", title, operations, api.Routes())
	}
}
