package api_test

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/keyledger/keyledger/internal/api"
)

// Guarantee: the document is valid OpenAPI, examples included, and every
// operation has an example of what it takes and of what it answers, and a row in the table
// of routes, which has no others.
func TestSpec(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background(), openapi3.EnableExamplesValidation()); err != nil {
		t.Error(err)
	}
	exampled := func(content openapi3.Content) bool {
		for _, kind := range []string{"application/json", "text/csv"} {
			if m := content.Get(kind); m != nil && (m.Example != nil || len(m.Examples) > 0) {
				return true
			}
		}
		return false
	}
	operations := 0
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if operations++; !api.HasRoute(method, regexp.MustCompile(`\{(\w+)\}`).ReplaceAllString(path, ":$1")) {
				t.Errorf("%s %s has no row in the table of routes", method, path)
			}
			if op.Summary == "" || op.OperationID == "" || len(op.Tags) == 0 {
				t.Errorf("%s %s has no summary, id or tag", method, path)
			}
			if op.RequestBody != nil && !exampled(op.RequestBody.Value.Content) {
				t.Errorf("%s %s: no example of the body", method, path)
			}
			for status, response := range op.Responses.Map() {
				if strings.HasPrefix(status, "2") && status != "204" && !exampled(response.Value.Content) {
					t.Errorf("%s %s: no example of answer %s", method, path, status)
				}
			}
			if strings.HasPrefix(path, "/v1/") && method != http.MethodHead && op.Responses.Default() == nil {
				t.Errorf("%s %s does not tell how it fails", method, path)
			}
		}
	}
	if n := api.Routes(); n != operations {
		t.Errorf("the table of routes has %d rows for %d operations", n, operations)
	}
}
