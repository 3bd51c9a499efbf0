package envoy

import (
	"bytes"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/uuid"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/keyledger/keyledger/internal/admit"
	"github.com/keyledger/keyledger/internal/fault"
	"github.com/keyledger/keyledger/internal/field"
	"github.com/keyledger/keyledger/internal/keyheader"
	"github.com/keyledger/keyledger/internal/plug/proxied"
	"github.com/keyledger/keyledger/internal/price"
	"github.com/keyledger/keyledger/internal/verify"
)

// authorization is Envoy's external authorization.
type authorization struct {
	authv3.UnimplementedAuthorizationServer
	Options
}

const (
	// bytesPerToken is how much of a text a token has at the least, on the whole.
	bytesPerToken = 3
	// A longer text than longText without a space is no text: it is an image, a sound or a file in
	// base64, which counts mediaTokens at the most.
	longText    = 2000
	mediaTokens = 5000
)

// Check admits a request, or refuses it with what its client is to get. That it could not decide
// is an error of the call, which Envoy treats as its failure_mode_allow says.
func (a *authorization) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	asked := r.GetAttributes().GetRequest().GetHttp()
	headers, query := headersOf(asked), queryOf(asked.GetPath())
	found, err := a.Verifier.Verify(ctx, keyheader.Find(headers, query), nil)
	if err != nil {
		return nil, err
	}
	if found.Key == nil {
		a.Decider.Unknown(string(found.Code))
		return denied(admit.Decision{Code: admit.Code(found.Code), Message: found.Code.Message()}, 0)
	}
	request, err := requestOf(r.GetAttributes().GetContextExtensions(), headers, asked)
	if err != nil {
		return nil, err
	}
	request.KeyID = found.Key.ID
	decision, err := a.Decider.Decide(ctx, request, nil)
	if err != nil {
		return nil, err
	}
	if !decision.Allowed {
		return denied(decision, found.Key.RateLimitWindow)
	}
	return allowed(decision, found.Key, headers, query)
}

// requestOf is what a request asks for. The proxy's own word comes first; then what the upstream
// goes by, the path and the body. Headers could say anything, and are asked only where the proxy
// says that they are its own.
func requestOf(configured map[string]string, headers http.Header, asked *authv3.AttributeContext_HttpRequest) (admit.Request, error) {
	body := told{}
	if headers.Get("X-Envoy-Auth-Partial-Body") != "true" { // what lies behind its end could say otherwise
		body = bodyOf(asked)
	}
	first := func(texts ...string) string {
		for _, text := range texts {
			if text != "" {
				return field.Clip(text, admit.MaxText)
			}
		}
		return ""
	}
	service, model := "", ""
	if configured["headers"] == "trusted" {
		service, model = headers.Get("X-Keyledger-Service"), headers.Get("X-Keyledger-Model")
	}
	q := admit.Request{
		Service:   first(configured["service"], service),
		Model:     first(configured["model"], model, modelInPath(asked.GetPath()), body.model),
		UserAgent: field.Clip(headers.Get("User-Agent"), admit.MaxUserAgent),
	}
	if body.bound > 0 {
		q.Tokens, q.Use = body.text+body.bound, &admit.Use{Tokens: price.Tokens{Input: body.text, Output: body.bound}}
	}
	if text := configured["lease"]; text != "" {
		seconds, err := strconv.ParseInt(text, 10, 32)
		if err != nil || seconds < admit.MinLease || seconds > admit.MaxLease {
			return q, fault.Fields(field.Error{Field: "context_extensions.lease", Message: "must be a number of seconds from " + strconv.Itoa(admit.MinLease) + " to " + strconv.Itoa(admit.MaxLease)})
		}
		q.LeaseSeconds = int32(seconds)
	}
	return q, nil
}

// headersOf are a request's headers, in whichever form Envoy was told to send them.
func headersOf(asked *authv3.AttributeContext_HttpRequest) http.Header {
	h := http.Header{}
	for name, value := range asked.GetHeaders() {
		h.Set(name, value)
	}
	for _, one := range asked.GetHeaderMap().GetHeaders() {
		value := one.GetValue()
		if value == "" {
			value = string(one.GetRawValue())
		}
		h.Add(one.GetKey(), value)
	}
	return h
}

func queryOf(path string) url.Values {
	_, text, _ := strings.Cut(path, "?")
	query, err := url.ParseQuery(text)
	if err != nil {
		return url.Values{}
	}
	return query
}

// modelInPath is the model that Gemini's and Bedrock's paths name.
func modelInPath(path string) string {
	path, _, _ = strings.Cut(path, "?")
	for _, before := range []string{"/models/", "/model/"} {
		if _, rest, has := strings.Cut(path, before); has {
			name, _, _ := strings.Cut(rest, "/")
			if i := strings.LastIndexByte(name, ':'); i >= 0 && before == "/models/" { // its method
				name = name[:i]
			}
			if plain, err := url.PathUnescape(name); err == nil {
				return plain
			}
		}
	}
	return ""
}

// told is what a body tells.
type told struct {
	model string
	bound int64 // on output, in tokens; 0: none
	text  int64 // what the body can come to, in tokens
}

// bounds are the members that bound an answer, at the top or within generationConfig.
var bounds = []string{"max_completion_tokens", "max_output_tokens", "max_tokens", "maxOutputTokens"}

// bodyOf reads a body. One that does not end tells nothing: what lies behind could say otherwise.
// Of several bounds the largest counts, for as many answers as are asked for.
func bodyOf(asked *authv3.AttributeContext_HttpRequest) (t told) {
	raw := asked.GetRawBody()
	if len(raw) == 0 {
		raw = []byte(asked.GetBody())
	}
	d := jsontext.NewDecoder(bytes.NewReader(raw), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if first, err := d.ReadToken(); err != nil || first.Kind() != jsontext.KindBeginObject {
		return t
	}
	answers := int64(1)
	for d.PeekKind() == jsontext.KindString {
		name, err := d.ReadToken()
		if err != nil {
			return told{}
		}
		member := name.String()
		value, err := d.ReadValue()
		if err != nil {
			return told{}
		}
		t.text += textOf(value)
		switch {
		case member == "model":
			_ = jsonv2.Unmarshal(value, &t.model)
		case slices.Contains(bounds, member):
			t.bound = max(t.bound, boundOf(value))
		case member == "n":
			answers = max(1, min(boundOf(value), maxAnswers))
		case member == "generationConfig":
			var config map[string]jsontext.Value
			if jsonv2.Unmarshal(value, &config, jsontext.AllowDuplicateNames(true)) == nil && config["maxOutputTokens"] != nil {
				t.bound = max(t.bound, boundOf(config["maxOutputTokens"]))
			}
		}
	}
	if end, err := d.ReadToken(); err != nil || end.Kind() != jsontext.KindEndObject {
		return told{}
	}
	t.bound *= answers
	return t
}

// maxAnswers is the most answers to one request that any provider gives.
const maxAnswers = 128

// textOf counts the tokens that a value can come to.
func textOf(value jsontext.Value) (tokens int64) {
	d := jsontext.NewDecoder(bytes.NewReader(value), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	for {
		token, err := d.ReadToken()
		if err != nil { // its end
			return tokens
		}
		if token.Kind() != jsontext.KindString {
			tokens++
			continue
		}
		if text := token.String(); len(text) > longText && !strings.Contains(text, " ") {
			tokens += mediaTokens
		} else {
			tokens += int64(len(text))/bytesPerToken + 1
		}
	}
}

// boundOf is a bound on output; 0: none, or none that an answer could have.
func boundOf(value jsontext.Value) int64 {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return 0
	}
	return n
}

// allowed lets a request go on: with the key's id and the admission's, and without the key.
func allowed(d admit.Decision, k *verify.Key, sent http.Header, query url.Values) (*authv3.CheckResponse, error) {
	set := proxied.Admitted(d, k)
	var remove []string
	for _, name := range keyheader.Names {
		remove = append(remove, strings.ToLower(name))
	}
	for name := range sent { // what only we may say, a client does not
		if strings.HasPrefix(name, "X-Keyledger-") && set.Get(name) == "" {
			remove = append(remove, strings.ToLower(name))
		}
	}
	ok := &authv3.OkHttpResponse{Headers: setHeaders(set), HeadersToRemove: remove, ResponseHeadersToAdd: setHeaders(proxied.RateLimit(d, k.RateLimitWindow))}
	if query.Has("key") {
		ok.QueryParametersToRemove = []string{"key"}
	}
	limits := map[string]any{}
	for _, l := range d.Limits {
		limits[l.Name] = map[string]any{"limit": l.Limit.String(), "used": l.Used.String(), "reserved": l.Reserved.String(), "remaining": l.Remaining.String()}
	}
	facts := map[string]any{"key_id": k.ID.String(), "limits": limits}
	if d.AdmissionID != uuid.Nil {
		facts["admission_id"] = d.AdmissionID.String()
	}
	metadata, err := structpb.NewStruct(facts)
	if err != nil {
		return nil, err
	}
	return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.OK)}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: ok}, DynamicMetadata: metadata}, nil
}

// denied refuses a request.
func denied(d admit.Decision, window int32) (*authv3.CheckResponse, error) {
	httpStatus, headers, body, err := refusal(d, window)
	if err != nil {
		return nil, err
	}
	metadata, err := structpb.NewStruct(map[string]any{"code": string(d.Code)})
	if err != nil {
		return nil, err
	}
	return &authv3.CheckResponse{
		Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied), Message: string(d.Code)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode(httpStatus)}, Headers: setHeaders(headers), Body: string(body)}}, //nolint:gosec // a status
		DynamicMetadata: metadata,
	}, nil
}
