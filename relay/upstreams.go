package relay

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Upstreams are the providers' accounts that requests are forwarded with.
type Upstreams struct {
	Services map[string]Service `yaml:"services"` // by name: claude, openai, gemini; may be left out
	Accounts []Account          `yaml:"accounts"`
}

// Service is where a provider is.
type Service struct {
	BaseURL string `yaml:"baseUrl"` // empty: the provider's own address
}

// Account is one account at a provider. Its secret stands in an environment variable or a
// file, never in the configuration itself.
type Account struct {
	ID         string `yaml:"id"` // as keys are bound to it and the ledger names it; 1 to 200 characters
	Service    string `yaml:"service"`
	APIKeyEnv  string `yaml:"apiKeyEnv"`
	APIKeyFile string `yaml:"apiKeyFile"`
	BaseURL    string `yaml:"baseUrl"` // empty: that of its service
	Auth       string `yaml:"auth"`    // x-api-key or bearer; empty: what the provider expects

	secret string
	base   *url.URL
}

// The ways in which an account shows its secret.
const (
	authBearer = "bearer"
	authAPIKey = "x-api-key"
)

// ReadUpstreams reads a file of upstreams, and the secrets that it names with getenv and
// from files. The error names every account that is wrong, and no secret.
func ReadUpstreams(file string, getenv func(string) string) (Upstreams, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return Upstreams{}, err
	}
	var u Upstreams
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&u); err != nil {
		return Upstreams{}, fmt.Errorf("%s: %w", file, err)
	}
	if err := u.prepare(getenv); err != nil {
		return Upstreams{}, fmt.Errorf("%s:\n%w", file, err)
	}
	return u, nil
}

// prepare checks the upstreams and reads their secrets.
func (u *Upstreams) prepare(getenv func(string) string) error {
	var wrong []error
	fail := func(format string, values ...any) { wrong = append(wrong, fmt.Errorf(format, values...)) }
	for name := range u.Services {
		if defaultAddress[name] == "" {
			fail("services: %q must be claude, openai or gemini", name)
		}
	}
	if len(u.Accounts) == 0 {
		fail("accounts must name at least one account")
	}
	seen := map[string]bool{}
	for i := range u.Accounts {
		a := &u.Accounts[i]
		name := cmp.Or(a.ID, fmt.Sprintf("accounts[%d]", i))
		if a.ID == "" || len(a.ID) > 200 || seen[a.ID] {
			fail("%s: id must be given, of 1 to 200 characters, and once", name)
		}
		seen[a.ID] = true
		if defaultAddress[a.Service] == "" {
			fail("%s: service must be claude, openai or gemini, and is %q", name, a.Service)
			continue
		}
		if !slices.Contains([]string{"", authAPIKey, authBearer}, a.Auth) {
			fail("%s: auth must be x-api-key or bearer", name)
		}
		var err error
		if a.secret, err = a.readSecret(getenv); err != nil {
			fail("%s: %w", name, err)
		}
		address := cmp.Or(a.BaseURL, u.Services[a.Service].BaseURL, defaultAddress[a.Service])
		if a.base, err = url.Parse(address); err != nil || a.base.Host == "" || a.base.Scheme != "https" && a.base.Scheme != "http" || a.base.RawQuery != "" || a.base.User != nil {
			fail("%s: baseUrl %q must be http:// or https:// with a host, and no user and no query", name, address)
			continue
		}
		a.base = a.base.JoinPath("/") // so that all that is joined to it is absolute
	}
	return errors.Join(wrong...)
}

func (a *Account) readSecret(getenv func(string) string) (string, error) {
	switch {
	case (a.APIKeyEnv == "") == (a.APIKeyFile == ""):
		return "", errors.New("one of apiKeyEnv and apiKeyFile must be given")
	case a.APIKeyEnv != "":
		if secret := strings.TrimSpace(getenv(a.APIKeyEnv)); secret != "" {
			return secret, nil
		}
		return "", fmt.Errorf("the variable %s, which apiKeyEnv names, is empty", a.APIKeyEnv)
	}
	raw, err := os.ReadFile(a.APIKeyFile)
	if err != nil {
		return "", fmt.Errorf("apiKeyFile: %w", err)
	}
	if secret := strings.TrimSpace(string(raw)); secret != "" {
		return secret, nil
	}
	return "", fmt.Errorf("the file %s, which apiKeyFile names, is empty", a.APIKeyFile)
}

// header is the header that shows the account's secret, with its value.
func (a *Account) header() (name, value string) {
	switch {
	case a.Auth == authBearer, a.Auth == "" && a.Service == serviceOpenAI:
		return "Authorization", "Bearer " + a.secret
	case a.Service == serviceGemini:
		return "X-Goog-Api-Key", a.secret
	}
	return "X-Api-Key", a.secret
}
