package relay

import (
	"net/http"
	"regexp"
	"strings"
)

// The services, as keys' permissions name them.
const (
	serviceClaude = "claude"
	serviceOpenAI = "openai"
	serviceGemini = "gemini"
)

// defaultAddress is where each service is, unless the upstreams file says otherwise.
var defaultAddress = map[string]string{
	serviceClaude: "https://api.anthropic.com",
	serviceOpenAI: "https://api.openai.com",
	serviceGemini: "https://generativelanguage.googleapis.com",
}

// operation is one thing that a provider's API does, and how it is metered.
type operation struct {
	name    string
	service string
	method  string
	path    *regexp.Regexp // of the path without a prefix; a group named model is the model
	// format is how its request and its answer are read; nil: it costs nothing.
	format *format
	stream bool   // it always streams
	query  string // parameters that go upstream, by comma; others may change what is answered, or tell a secret
}

// operations are all that is relayed: what is not here cannot be metered.
var operations = []operation{
	{name: "messages", service: serviceClaude, method: http.MethodPost, path: regexp.MustCompile(`^/v1/messages$`), format: &anthropicMessages, query: "beta"},
	{name: "count_tokens", service: serviceClaude, method: http.MethodPost, path: regexp.MustCompile(`^/v1/messages/count_tokens$`), query: "beta"},
	{name: "chat", service: serviceOpenAI, method: http.MethodPost, path: regexp.MustCompile(`^/v1/chat/completions$`), format: &openAIChat},
	{name: "responses", service: serviceOpenAI, method: http.MethodPost, path: regexp.MustCompile(`^/v1/responses(/compact)?$`), format: &openAIResponses},
	{name: "input_tokens", service: serviceOpenAI, method: http.MethodPost, path: regexp.MustCompile(`^/v1/responses/input_tokens$`)},
	{name: "embeddings", service: serviceOpenAI, method: http.MethodPost, path: regexp.MustCompile(`^/v1/embeddings$`), format: &openAIEmbeddings},
	{name: "generate", service: serviceGemini, method: http.MethodPost, path: regexp.MustCompile(`^/v1(beta|alpha)?/models/(?P<model>[A-Za-z0-9][A-Za-z0-9._@-]*):generateContent$`), format: &geminiContent, query: "alt"},
	{name: "stream_generate", service: serviceGemini, method: http.MethodPost, path: regexp.MustCompile(`^/v1(beta|alpha)?/models/(?P<model>[A-Za-z0-9][A-Za-z0-9._@-]*):streamGenerateContent$`), format: &geminiContent, stream: true, query: "alt"},
	{name: "count_tokens", service: serviceGemini, method: http.MethodPost, path: regexp.MustCompile(`^/v1(beta|alpha)?/models/(?P<model>[A-Za-z0-9][A-Za-z0-9._@-]*):countTokens$`), query: "alt"},
	{name: "models", service: serviceGemini, method: http.MethodGet, path: regexp.MustCompile(`^/v1(beta|alpha)/models(/[A-Za-z0-9][A-Za-z0-9._:@-]*)?$`), query: "pageSize,pageToken"},
	{name: "models", service: serviceClaude, method: http.MethodGet, path: regexp.MustCompile(`^/v1/models(/[A-Za-z0-9][A-Za-z0-9._:@-]*)?$`), query: "limit,before_id,after_id,beta"},
	{name: "models", service: serviceOpenAI, method: http.MethodGet, path: regexp.MustCompile(`^/v1/models(/[A-Za-z0-9][A-Za-z0-9._:@-]*)?$`), query: "limit,after,order"},
}

// match finds the operation that a request means, its path at the provider, and the model
// that the path names. Without an operation, service says whose client it seems to be.
func match(r *http.Request) (op *operation, service, path, model string) {
	service, path = whose(r)
	for i := range operations {
		op := &operations[i]
		if op.service != service || op.method != r.Method {
			continue
		}
		if found := op.path.FindStringSubmatch(path); found != nil {
			if nth := op.path.SubexpIndex("model"); nth >= 0 {
				model = found[nth]
			}
			return op, service, path, model
		}
	}
	return nil, service, path, ""
}

// whose is the service that a request is for, by its prefix, its path and, where two
// providers share a path, by the header that only Anthropic's clients send; and the path
// without the prefix.
func whose(r *http.Request) (service, path string) {
	path = r.URL.Path
	for service := range defaultAddress {
		if rest, ok := strings.CutPrefix(path, "/"+service); ok && strings.HasPrefix(rest, "/") {
			return service, rest
		}
	}
	switch {
	case strings.HasPrefix(path, "/v1beta/"), strings.HasPrefix(path, "/v1alpha/"), strings.HasPrefix(path, "/v1/models/") && strings.Contains(path, ":"):
		return serviceGemini, path
	case strings.HasPrefix(path, "/v1/messages"), r.Header.Get("Anthropic-Version") != "":
		return serviceClaude, path
	}
	return serviceOpenAI, path
}
