package api_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Guarantee: TypeScript types generated from openapi.yaml compile strictly, and requests
// written as a relay would write them fit.
func TestTypeScriptClient(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	client, err := os.ReadFile("testdata/client.ts")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "client.ts"), client, 0o600); err != nil {
		t.Fatal(err)
	}
	spec, err := filepath.Abs("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"openapi-typescript", spec, "--output", "openapi.d.ts"},
		{"tsc", "--strict", "--noEmit", "--target", "es2022", "--moduleResolution", "node10", "--module", "commonjs", "--lib", "es2022,dom", "client.ts"},
	} {
		cmd := exec.Command("npx", append([]string{"--yes", "--package", "openapi-typescript@7.13.0", "--package", "typescript@5.9.3", "--"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
}
